"""The proxy's own paths, all under ``/-/``."""

import asyncio
import time
from typing import Final

from aiohttp import web

from lifecycle_proxy.config.hidden import redacted
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.exchange import routes
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest, Handler
from lifecycle_proxy.exchange.ports import UpstreamClient
from lifecycle_proxy.handlers.embed import FramedPages
from lifecycle_proxy.handlers.page import LivePage
from lifecycle_proxy.handlers.stream_reading import StreamEndpoints
from lifecycle_proxy.middleware.gateway import GatewayMiddleware
from lifecycle_proxy.telemetry.metrics import Metrics
from lifecycle_proxy.upstream.http1.pool import ConnectionPool
from lifecycle_proxy.upstream.pool import UpstreamPool

# Probes come every few seconds from several sides; the upstream need not hear of each.
_PROBE_FRESH_S: Final = 2.0
_LIVE: Final = (routes.VIEW_PREFIX, routes.PAGE_PREFIX)


class AdminEndpoints:
    """Handlers for health, metrics and settings.

    Args:
        settings: shown, redacted.
        upstream: probed.
        gateway: knows whether the process is draining.
        metrics: rendered.
        streams: answers what is below ``/-/streams/``.
        pages: those within chats: people's answers to agents, the tools of an answer.
        live: the live page; None where there is none.
    """

    def __init__(
        self,
        settings: Settings,
        upstream: UpstreamClient,
        gateway: GatewayMiddleware,
        metrics: Metrics,
        *,
        streams: StreamEndpoints,
        pages: FramedPages,
        live: LivePage | None = None,
    ) -> None:
        self._settings = settings
        self._upstream = upstream
        self._gateway = gateway
        self._metrics = metrics
        self._streams = streams
        self._pages = pages
        self._live = live
        self._probed_at = float("-inf")
        self._problem = ""
        self._probe: asyncio.Task[None] | None = None
        self._handlers: dict[str, Handler] = {
            "/-/healthy": self.healthy,
            "/-/ready": self.ready,
            "/-/metrics": self.metrics,
            "/-/config": self.config,
        }
        if isinstance(upstream, UpstreamPool):
            self._pool = upstream
            self._handlers["/-/upstreams"] = self.upstreams

    async def handle(self, request: ClientRequest) -> web.StreamResponse:
        """Any request to one of the proxy's own paths.

        Raises:
            ProxyError: ``method_not_allowed`` or ``not_found``.
        """
        path = request.exchange.path
        if path.startswith(routes.STREAMS_PREFIX):
            return await self._streams.handle(request)
        if (named := routes.maybe_compat(path)) is not None:
            return await self._streams.compat(request, *named)
        if (framed := self._pages.maybe_handle(path)) is not None:
            return await framed(request, path)
        if self._live is not None and (path == "/-/" or path.startswith(_LIVE)):
            return await self._live.handle(request, path)
        handler = self._handlers.get(path, self.nothing)
        if path in self._handlers and request.method not in ("GET", "HEAD"):
            raise ProxyError("method_not_allowed", f"{path} takes GET and HEAD")
        return await handler(request)

    async def healthy(self, request: ClientRequest) -> web.StreamResponse:
        """The process answers: for a liveness probe."""
        return web.json_response({"status": "ok"})

    async def ready(self, request: ClientRequest) -> web.StreamResponse:
        """Requests are welcome: the upstream takes connections, and no drain is on."""
        if self._gateway.draining:
            return web.json_response({"status": "draining"}, status=503)
        await self._probed()
        if self._problem:
            body = {"status": "upstream_unreachable", "message": self._problem}
            return web.json_response(body, status=503)
        return web.json_response({"status": "ok"})

    async def _probed(self) -> None:
        """Know how the upstream is. All who ask at the same time wait for the same probe."""
        if time.monotonic() - self._probed_at > _PROBE_FRESH_S:
            if self._probe is None or self._probe.done():
                self._probe = asyncio.create_task(self._ask_upstream())
            await asyncio.shield(self._probe)  # one who leaves does not stop it for the others

    async def _ask_upstream(self) -> None:
        self._problem = await self._upstream.probe()
        self._probed_at = time.monotonic()

    async def metrics(self, request: ClientRequest) -> web.StreamResponse:
        """Prometheus text, or OpenMetrics if that is asked for."""
        self._metrics.set_connections(ConnectionPool.open_connections())
        body, kind = self._metrics.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": kind})

    async def config(self, request: ClientRequest) -> web.StreamResponse:
        """The settings in force, without secrets."""
        return web.json_response(redacted(self._settings))

    async def upstreams(self, request: ClientRequest) -> web.StreamResponse:
        """How each upstream is, where there are several."""
        return web.json_response({"upstreams": self._pool.states()})

    async def nothing(self, request: ClientRequest) -> web.StreamResponse:
        """Any other path under ``/-/``.

        Raises:
            ProxyError: ``not_found``.
        """
        raise ProxyError("not_found", f"the proxy has nothing at {request.exchange.path[:200]}")
