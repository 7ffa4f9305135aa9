"""The client for HTTP/1.1 upstreams.

``parser`` turns bytes into events and does no I/O; ``head`` and ``chunks`` are its parts.
``connection`` moves the bytes, ``response`` is what the relay sees, ``pool`` keeps connections,
``dialer`` makes them, ``request`` writes the headers of requests.

Not in it, on purpose: cookies, redirects, decompression, ``~/.netrc``, headers of its own.
"""
