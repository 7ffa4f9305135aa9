"""A reverse proxy that adds tool lifecycle events to OpenAI-compatible streams.

The path of the data, and the packages (``tests/test_layout.py``: which may import which)::

    client -> server -> middleware -> handlers -> upstream -> backend, or replay -> recording
                                                     |
    client <- relay: decompress, faults, core.pipeline (sse, observers, lifecycle, dialects)
                                                     |
    listeners of an exchange: telemetry (metrics, access log), recording (the recorder)

    core/        pure: bytes to events to lifecycle events to bytes; no I/O, no clock
    exchange/    a request and its response, the interface of listeners, parts of HTTP
    config/      typed settings: file, environment, flags, checks
    telemetry/   metrics, traces, access log, log formats
    state/       data that outlives a request: waiting calls, events of streams; in memory or Redis
    recording/   the cassette format, redaction, the recorder
    faults/      fault injection: rules, plans, changes of the bytes
    upstream/    requests to one upstream or one of several: choice, failover, errors, connections
    relay/       from the upstream to the client: bodies, event streams, WebSockets, the watchdog
    middleware/  runs for every request: drain, keys, CORS, errors
    server/      listening: sockets, client connections, worker processes
    handlers/    handle requests: conversations, everything else, the paths under /-/
    replay/      recordings that answer requests, as a server or in the upstream's place
    inspect/     show, the page (live, or of a recording), HAR, imports, scan and drift
    app/         the composition root: creates the parts, starts and stops them
    testing/     the pytest plugin; ``lifecycle_proxy.testing`` is public API
    cli/         the commands
"""

__version__ = "0.2.0"
