"""A reverse proxy that adds tool lifecycle events to OpenAI-compatible streams.

The way the data takes, and what lies where (who may import what: ``tests/test_layout.py``)::

    client -> server -> middleware -> handlers -> upstream -> backend, or replay -> recording
                                                     |
    client <- relay: decompress, faults, core.pipeline (sse, observers, lifecycle, dialects)
                                                     |
    exchange tells its listeners: telemetry (metrics, access log), recording (the recorder)

    core/        pure: bytes to events to lifecycle events to bytes; no I/O, no clock
    exchange/    one exchange as it happens, the port of its listeners, the words of HTTP around it
    config/      typed settings, where they come from, what is wrong with them
    telemetry/   metrics, access log, log formats
    state/       what outlives a request: calls whose results are still to come
    recording/   the cassette format, redaction, the recorder
    faults/      fault injection: rules, plans, what becomes of the bytes
    upstream/    requests to the upstream: limits, retries, errors, connections
    relay/       from the upstream to the client: bodies, event streams, WebSockets, the watchdog
    middleware/  what every request passes: drain, keys, CORS, errors
    server/      listening: sockets, client connections, worker processes
    handlers/    what becomes of a request: conversations, everything else, the paths under /-/
    replay/      recordings that answer requests, as a server or in the upstream's place
    inspect/     recordings for people: show, page, HAR, imports, scan, drift
    app/         the composition root: builds the parts, starts and stops them
    testing/     the pytest plugin; ``lifecycle_proxy.testing`` is public API
    cli/         the commands
"""

__version__ = "0.1.0"
