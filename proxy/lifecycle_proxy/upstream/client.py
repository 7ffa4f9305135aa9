"""An HTTP server as the upstream: the port ``UpstreamClient`` with the client in ``http1``."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

from multidict import CIMultiDict
from yarl import URL

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.ports import UpstreamRequest
from lifecycle_proxy.upstream.environment import maybe_proxy
from lifecycle_proxy.upstream.errors import map_failure
from lifecycle_proxy.upstream.http1.connection import HttpConnection
from lifecycle_proxy.upstream.http1.dialer import Dialer, DialTarget, proxy_headers
from lifecycle_proxy.upstream.http1.failures import (
    ConnectFailedError,
    DisconnectedError,
    TransportError,
)
from lifecycle_proxy.upstream.http1.pool import ConnectionPool
from lifecycle_proxy.upstream.http1.request import RequestWriter
from lifecycle_proxy.upstream.http1.response import HttpResponse
from lifecycle_proxy.upstream.routes import UpstreamUrls

_BACKOFF_S: Final = 0.1  # before the first retry, then twice that, and so on
_PROBE_S: Final = 5.0


class HttpUpstream:
    """Gets responses from one HTTP server.

    Args:
        settings: ``[upstream]`` is used.
        probe_s: how long ``probe`` waits for an answer, in seconds.
    """

    def __init__(self, settings: Settings, *, probe_s: float = _PROBE_S) -> None:
        self._settings = settings
        self._probe_s = probe_s
        self._urls = UpstreamUrls(settings.upstream_base, settings.upstream_origin)
        self._first_byte_s = settings.upstream.first_byte_timeout_s or None
        self._origin = str(URL(settings.upstream_origin).origin())
        self._writer: RequestWriter | None = None
        self._pool: ConnectionPool | None = None

    async def start(self) -> None:
        """See ``UpstreamClient``."""
        own = self._settings.upstream
        url = URL(self._settings.upstream_origin)
        proxy = None
        if own.use_proxy_env and self._settings.upstream_socket is None:
            proxy = maybe_proxy(self._settings.upstream_origin)
        target = DialTarget(
            url,
            self._settings.upstream_socket or "",
            _tls(self._settings) if url.scheme == "https" else None,
            own.server_name,
            URL(proxy) if proxy else None,
        )
        dialer = Dialer(target, own.connect_timeout_s or None)
        self._pool = ConnectionPool(dialer.dial, own.max_connections, self._first_byte_s)
        self._writer = RequestWriter(url.host_port_subcomponent or "")
        if target.proxy is not None and target.tls is None:
            # It asks the origin itself, and so needs to know which. No tunnel: most refuse one.
            self._writer = RequestWriter(
                url.host_port_subcomponent or "",
                prefix=self._origin,
                more=proxy_headers(target.proxy),
            )

    async def close(self) -> None:
        """See ``UpstreamClient``."""
        if self._pool is not None:
            await self._pool.close()

    def target(self, path: str) -> str:
        """See ``UpstreamClient``."""
        return self._urls.target(path)

    async def open(self, request: UpstreamRequest, on_retry: Callable[[], None]) -> HttpResponse:
        """See ``UpstreamClient``.

        A request on a used connection that was closed before the request came is sent once more, on
        a new one, if the body can be sent again.
        """
        assert self._pool is not None, "started"
        assert self._writer is not None, "started"
        target = self._urls.target(request.path)
        try:
            try:
                outgoing = self._writer.write(request, target)
                connection = self._pool.maybe_idle() or await self._connected(self._pool)
                return await connection.send(outgoing, self._first_byte_s)
            except DisconnectedError as failure:
                is_whole = request.body is None or isinstance(request.body, bytes)
                if not (failure.is_stale and is_whole and self._settings.upstream.retry_stale):
                    raise
            on_retry()
            outgoing = self._writer.write(request, target)
            connection = await self._connected(self._pool, fresh=True)
            return await connection.send(outgoing, self._first_byte_s)
        except TransportError as failure:
            raise map_failure(failure, self._origin) from None

    async def probe(self) -> str:
        """See ``UpstreamClient``. What the upstream answers does not matter: any answer will do."""
        request = UpstreamRequest("GET", "/v1/models", CIMultiDict(), None)
        try:
            async with asyncio.timeout(self._probe_s):
                (await self.open(request, lambda: None)).close()
        except ProxyError as failure:
            return failure.message
        except TimeoutError:
            return ""  # it takes connections; a backend that computes may be slow to answer
        return ""

    async def _connected(self, pool: ConnectionPool, *, fresh: bool = False) -> HttpConnection:
        """A connection, tried again where none could be made: nothing has been sent then."""
        for retry in range(self._settings.upstream.retries):
            try:
                return await pool.acquire(fresh=fresh)
            except ConnectFailedError:
                await asyncio.sleep(_BACKOFF_S * 2**retry)
        return await pool.acquire(fresh=fresh)


def _tls(settings: Settings) -> ssl.SSLContext:
    own = settings.upstream
    context = ssl.create_default_context(cafile=own.ca_file or None)
    context.set_alpn_protocols(["http/1.1"])
    if not own.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
