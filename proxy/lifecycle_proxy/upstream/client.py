"""HTTP to the upstream: one session, set up for a reverse proxy.

aiohttp's defaults are those of a browser: a total timeout of 300 s, 100 connections, one cookie jar
for all users, decompression, redirects followed, headers of its own. Each is set here on purpose.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import aiohttp
from yarl import URL

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.ports import UpstreamRequest
from lifecycle_proxy.upstream.connection import ATTEMPT, Attempt, TrackedRequest, push
from lifecycle_proxy.upstream.environment import maybe_proxy
from lifecycle_proxy.upstream.errors import TRANSPORT_ERRORS, map_exception
from lifecycle_proxy.upstream.response import HttpResponse
from lifecycle_proxy.upstream.routes import UpstreamUrls

_BACKOFF_S: Final = 0.1  # before the first retry, then twice that, and so on
_PROBE_S: Final = 5.0
_MAX_HEADERS: Final = 1024
_LARGE_BYTES: Final = 1 << 20
_SLICE_BYTES: Final = 1 << 16
_AUTO_HEADERS: Final = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


class HttpUpstream:
    """An HTTP server as the upstream: the port ``UpstreamClient`` with aiohttp's client.

    Args:
        settings: ``[upstream]`` is used, and ``server.max_header_bytes`` for response headers.
        probe_s: how long ``probe`` waits for an answer, in seconds.
    """

    def __init__(self, settings: Settings, *, probe_s: float = _PROBE_S) -> None:
        self._settings = settings
        self._probe_s = probe_s
        self._urls = UpstreamUrls(settings.upstream_base, settings.upstream_origin)
        self._first_byte_s = settings.upstream.first_byte_timeout_s or None
        self._pooled: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Make the sessions, on the running loop."""
        self._pooled = self._session(pooled=True)
        self._fresh = self._session(pooled=False)

    async def close(self) -> None:
        for session in (self._pooled, self._fresh):
            if session is not None:
                await session.close()

    def target(self, path: str) -> str:
        """See ``UpstreamClient``."""
        return self._urls.target(path)

    async def open(self, request: UpstreamRequest, on_retry: Callable[[], None]) -> HttpResponse:
        """See ``UpstreamClient``.

        A request on a pooled connection that turns out to be dead is sent once more, on a new one,
        if not a byte of an answer came and the body can be sent again.
        """
        assert self._pooled is not None, "started"
        assert self._fresh is not None
        url = self._urls.url(request.path)
        attempt = Attempt()
        ATTEMPT.set(attempt)
        try:
            answer = await self._connected(self._pooled, url, request)
            return _checked(answer, request, attempt)
        except TRANSPORT_ERRORS as error:
            failure = map_exception(error, url)
            replayable = request.body is None or isinstance(request.body, bytes)
            if not (replayable and attempt.was_stale and failure.code == "upstream_unreachable"):
                raise failure from None
        on_retry()
        try:
            answer = await self._connected(self._fresh, url, request)
            return _checked(answer, request, attempt)
        except TRANSPORT_ERRORS as error:
            raise map_exception(error, url) from None

    async def probe(self) -> str:
        """See ``UpstreamClient``. What the upstream answers does not matter: any answer will do."""
        assert self._pooled is not None, "started"
        url = self._urls.url("/v1/models")
        try:
            async with asyncio.timeout(self._probe_s):
                answer = await self._pooled.get(
                    url,
                    allow_redirects=False,
                    server_hostname=self._settings.upstream.server_name or None,
                )
        except aiohttp.ConnectionTimeoutError as error:
            return map_exception(error, url).message
        except TimeoutError:
            return ""  # it takes connections; a backend that computes may be slow to answer
        except TRANSPORT_ERRORS as error:
            return map_exception(error, url).message
        answer.close()
        return ""

    async def _connected(
        self, session: aiohttp.ClientSession, url: URL, request: UpstreamRequest
    ) -> aiohttp.ClientResponse:
        """Send, trying again where no connection could be made: nothing has been sent then."""
        for retry in range(self._settings.upstream.retries):
            try:
                return await self._send(session, url, request)
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(_BACKOFF_S * 2**retry)
        return await self._send(session, url, request)

    async def _send(
        self, session: aiohttp.ClientSession, url: URL, request: UpstreamRequest
    ) -> aiohttp.ClientResponse:
        method, _, headers, body = request
        if isinstance(body, bytes) and len(body) > _LARGE_BYTES:
            # In one piece it would stop the event loop, says aiohttp.
            headers["Content-Length"] = str(len(body))
            body = _sliced(body)
        # The wait for the first byte begins at the end of the body.
        whole = body is None or isinstance(body, bytes)
        async with asyncio.timeout(self._first_byte_s if whole else None) as limit:
            return await session.request(
                method,
                url,
                headers=headers,
                data=body if whole else self._timed(body, limit),
                allow_redirects=False,
                server_hostname=self._settings.upstream.server_name or None,
            )

    async def _timed(self, body: Any, limit: asyncio.Timeout) -> AsyncIterator[bytes]:
        async for piece in body:
            yield piece
        if self._first_byte_s is not None:
            limit.reschedule(asyncio.get_running_loop().time() + self._first_byte_s)

    def _session(self, *, pooled: bool) -> aiohttp.ClientSession:
        own = self._settings.upstream
        connect = own.connect_timeout_s or None
        max_header_bytes = self._settings.server.max_header_bytes
        limits: dict[str, Any] = {"limit": own.max_connections, "limit_per_host": 0}
        if not pooled:
            limits["force_close"] = True
        connector: aiohttp.BaseConnector
        if self._settings.upstream_socket is None:
            connector = aiohttp.TCPConnector(ssl=self._tls(), **limits)
        else:
            connector = aiohttp.UnixConnector(self._settings.upstream_socket, **limits)
        push(connector)
        return aiohttp.ClientSession(
            connector=connector,
            request_class=TrackedRequest,
            # Waiting for a slot is no failure to connect. No total: a stream may last for hours. No
            # sock_read: it re-arms a timer on every chunk; the watch finds stalls at no such cost.
            timeout=aiohttp.ClientTimeout(
                total=None, connect=None if own.max_connections else connect, sock_connect=connect
            ),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_AUTO_HEADERS,
            max_line_size=max_header_bytes,
            max_field_size=max_header_bytes,
            max_headers=_MAX_HEADERS,
            proxy=maybe_proxy(self._settings.upstream_origin) if own.use_proxy_env else None,
        )

    def _tls(self) -> ssl.SSLContext | bool:
        own = self._settings.upstream
        if not own.verify_tls:
            return False
        return ssl.create_default_context(cafile=own.ca_file) if own.ca_file else True


def _checked(
    answer: aiohttp.ClientResponse, request: UpstreamRequest, attempt: Attempt
) -> HttpResponse:
    """Raises ProxyError for a 101 that was not asked for: what follows it is in no protocol."""
    if answer.status == 101 and "Upgrade" not in request.headers:
        answer.close()
        message = "the upstream switched protocols without being asked"
        raise ProxyError("upstream_protocol", message)
    return HttpResponse(answer, attempt.protocol)


async def _sliced(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _SLICE_BYTES):
        yield body[start : start + _SLICE_BYTES]
