"""The only place where the parts meet."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Final

import aiohttp
from aiohttp import web

from lifecycle_proxy.app.recording_mode import RecordingMode
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.exchange import responses
from lifecycle_proxy.exchange.model import Handler, Listener
from lifecycle_proxy.handlers.admin import AdminEndpoints
from lifecycle_proxy.handlers.conversations import Conversations
from lifecycle_proxy.handlers.forward import Forwarder, selector
from lifecycle_proxy.handlers.sending import Sender
from lifecycle_proxy.middleware.auth import ApiKeys
from lifecycle_proxy.middleware.gateway import GatewayMiddleware
from lifecycle_proxy.relay.watchdog import StreamWatchdog
from lifecycle_proxy.state.pending_calls import MemoryStore
from lifecycle_proxy.telemetry.logs import AccessLog
from lifecycle_proxy.telemetry.metrics import Metrics
from lifecycle_proxy.upstream.connection import StreamingProtocol

log = logging.getLogger("proxy.app")

_COUNT_S: Final = 5.0

WATCH: web.AppKey[StreamWatchdog] = web.AppKey("watch", StreamWatchdog)
GATEWAY: web.AppKey[GatewayMiddleware] = web.AppKey("gateway", GatewayMiddleware)
RECORDING_MODE: web.AppKey[RecordingMode] = web.AppKey("recording_mode", RecordingMode)


def create_app(settings: Settings, *, store: MemoryStore | None = None) -> web.Application:
    """The proxy as an aiohttp application.

    Serve it with ``lifecycle_proxy.app.serve``: a reverse proxy needs a runner of its own.

    Args:
        settings: everything.
        store: where calls that clients run are kept; None for the memory of this process.
    """
    own = settings.upstream
    keys = ApiKeys(settings.server.api_keys, own.api_key, own.api_key_header)
    metrics = Metrics()
    recording_mode = RecordingMode(settings, metrics.recording_lost, metrics.recording_omitted)
    upstream = recording_mode.upstream()
    watch = StreamWatchdog(settings.upstream.stall_timeout_s, settings.server.heartbeat_s)
    access_log = AccessLog(all_of_them=settings.server.access_log)
    gateway = GatewayMiddleware(settings, keys, [metrics, access_log], _Failures(metrics))
    if store is None:
        store = MemoryStore(settings.lifecycle.registry_ttl_s, metrics.completed)
    adds_forwarded = settings.server.forwarded
    sender = Sender(upstream, recording_mode, keys, watch, adds_forwarded=adds_forwarded)
    conversations = Conversations(settings, sender, selector(settings), store)
    forwarder = Forwarder(settings, sender, conversations)
    admin = AdminEndpoints(settings, upstream, gateway, metrics)

    # Every request comes this way, whatever the router thinks: it would answer some targets with a
    # 404 of its own, and any path but the own ones belongs to the upstream.
    @web.middleware
    async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await gateway.dispatch(request, admin.handle, forwarder.handle)

    async def running(app: web.Application) -> AsyncIterator[None]:
        async with AsyncExitStack() as parts:
            recording_mode.start()
            parts.push_async_callback(recording_mode.close)
            await upstream.start()
            parts.push_async_callback(upstream.close)
            for work in (watch.run(), _count_connections(metrics), store.run()):
                parts.push_async_callback(_cancelled, asyncio.create_task(work))
            yield

    app = web.Application(middlewares=[around])
    app.router.add_route("*", "/{rest:.*}", forwarder.handle, expect_handler=_continue)
    app[WATCH], app[GATEWAY], app[RECORDING_MODE] = watch, gateway, recording_mode
    app.cleanup_ctx.append(running)
    app.on_response_prepare.append(responses.strip_default_headers)
    app.on_response_prepare.append(gateway.on_response_prepare)
    return app


class _Failures:
    """Counts listeners that raised; the first of each kind is said in the log."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._said: set[str] = set()

    def __call__(self, listener: Listener, failure: Exception) -> None:
        name = type(listener).__name__
        self._metrics.listener_failed(name)
        if name not in self._said:
            self._said.add(name)
            log.error("%s failed; the traffic goes on (logged once)", name, exc_info=failure)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _count_connections(metrics: Metrics) -> None:
    """Other processes show this one's number, too, so it cannot wait until somebody asks."""
    while True:
        metrics.set_connections(StreamingProtocol.open_connections())
        await asyncio.sleep(_COUNT_S)


async def _continue(request: web.Request) -> None:
    """Ask for the body of a client that waits to be asked. Other expectations are met by silence.

    aiohttp's own answers those with a 417 of its own, and fails on bytes that are no text.
    """
    asks = request.headers.get("Expect", "").lower() == "100-continue"
    if asks and request.version >= aiohttp.HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun
