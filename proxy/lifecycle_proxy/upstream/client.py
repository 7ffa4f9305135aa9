"""The way to the backend: one session, set up for a reverse proxy, and its errors translated.

aiohttp's defaults are those of a browser: a total timeout of 300 s, 100 connections, one cookie jar
for all users, decompression, redirects followed, headers of its own. Each is set here on purpose.
"""

import asyncio
import logging
import re
import ssl
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.exchange.errors import ProxyError, cause_of
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.upstream.connection import ATTEMPT, Attempt, TrackedRequest, push

log = logging.getLogger("proxy")

_BACKOFF_S: Final = 0.1  # before the first retry, then twice that, and so on
_PROBE_S: Final = 5.0
_MAX_HEADERS: Final = 1024
_LARGE_BYTES: Final = 1 << 20
_SLICE_BYTES: Final = 1 << 16
_AUTO_HEADERS: Final = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


class Upstream:
    """The backend, as the relay sees it.

    Args:
        settings: ``[upstream]`` is used, and ``server.max_header_bytes`` for response heads.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._base = settings.upstream_base
        self._origin = settings.upstream_origin
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

    def url(self, path: str) -> URL:
        """Where a request goes: ``/v1/X`` to base + ``/X``, any other path to the base's origin.

        Args:
            path: raw path and query as they came; nothing is decoded, resolved or quoted.
        """
        if path.startswith(("/v1/", "/v1?")) or path == "/v1":
            return URL(self._base + path[3:], encoded=True)
        return URL(self._origin + path, encoded=True)

    async def open(
        self, method: str, url: URL, headers: CIMultiDict[str], body: Any, exchange: Exchange
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for the head of its answer.

        A request on a pooled connection that turns out to be dead is sent once more, on a new one,
        if not a byte of an answer came and the body can be sent again.

        Args:
            body: bytes, or an async iterator of bytes, or None.
            exchange: where a retry is noted.

        Raises:
            ProxyError: ``upstream_unreachable``, ``upstream_timeout`` or ``upstream_protocol``.
        """
        assert self._pooled is not None, "started"
        assert self._fresh is not None
        attempt = Attempt()
        ATTEMPT.set(attempt)
        try:
            return await self._connected(self._pooled, method, url, headers, body)
        except _ERRORS as error:
            failure = translate(error, url)
            replayable = body is None or isinstance(body, bytes)
            if not (replayable and attempt.was_stale and failure.code == "upstream_unreachable"):
                raise failure from None
        exchange.retries += 1
        try:
            return await self._connected(self._fresh, method, url, headers, body)
        except _ERRORS as error:
            raise translate(error, url) from None

    async def probe(self) -> str:
        """Try whether the upstream takes connections.

        Returns:
            What is wrong; "" where nothing is. What it answers does not matter: any answer will do.
        """
        assert self._pooled is not None, "started"
        url = self.url("/v1/models")
        try:
            async with asyncio.timeout(_PROBE_S):
                answer = await self._pooled.get(
                    url,
                    allow_redirects=False,
                    server_hostname=self._settings.upstream.server_name or None,
                )
        except aiohttp.ConnectionTimeoutError as error:
            return translate(error, url).message
        except TimeoutError:
            return ""  # it takes connections; a backend that computes may be slow to answer
        except _ERRORS as error:
            return translate(error, url).message
        answer.close()
        return ""

    async def _connected(
        self, session: aiohttp.ClientSession, *request: Any
    ) -> aiohttp.ClientResponse:
        """Send, trying again where no connection could be made: nothing has been sent then."""
        for retry in range(self._settings.upstream.retries):
            try:
                return await self._send(session, *request)
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(_BACKOFF_S * 2**retry)
        return await self._send(session, *request)

    async def _send(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        headers: CIMultiDict[str],
        body: Any,
    ) -> aiohttp.ClientResponse:
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
            trust_env=own.use_proxy_env,
        )

    def _tls(self) -> ssl.SSLContext | bool:
        own = self._settings.upstream
        if not own.verify_tls:
            return False
        return ssl.create_default_context(cafile=own.ca_file) if own.ca_file else True


async def _sliced(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _SLICE_BYTES):
        yield body[start : start + _SLICE_BYTES]


_ERRORS: Final = (aiohttp.ClientError, aiohttp.http.HttpProcessingError, OSError, TimeoutError)


def translate(error: Exception, url: URL) -> ProxyError:
    """The border between aiohttp's errors and ours: what went wrong before an answer's head."""
    where, cause = f"the upstream {url.origin()}", cause_of(error)
    match error:
        case aiohttp.ConnectionTimeoutError():
            message, limit = f"{where} did not take the connection in time", "connect_timeout_s"
            return ProxyError("upstream_timeout", message, cause=f"upstream.{limit} is over")
        case TimeoutError():
            message, limit = f"{where} did not begin to answer in time", "first_byte_timeout_s"
            return ProxyError("upstream_timeout", message, cause=f"upstream.{limit} is over")
        case aiohttp.ClientResponseError() | aiohttp.http.HttpProcessingError():
            # aiohttp quotes headers behind it, and the log must hold none.
            reason = re.split(r"\n|:? b['\"]", str(error.message).strip())[0][:200]
            return ProxyError(
                "upstream_protocol", f"the response of {where} is not valid HTTP: {reason}"
            )
        case aiohttp.ServerDisconnectedError() if isinstance(error.message, str):
            message = f"{where} closed the connection without a response"
            return ProxyError("upstream_unreachable", message, cause=cause)
        case aiohttp.ServerDisconnectedError():
            message = f"the answer of {where} broke off"
            return ProxyError("upstream_protocol", message, cause="inside its headers")
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return ProxyError("upstream_unreachable", f"TLS with {where} failed: {error}")
        case _:
            why = getattr(error, "strerror", None) or error
            return ProxyError("upstream_unreachable", f"cannot reach {where}: {why}", cause=cause)
