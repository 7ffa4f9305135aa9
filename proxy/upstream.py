"""The way to the backend: one session, set up for a reverse proxy, and its errors translated.

aiohttp's defaults are those of a browser: a total timeout of 300 s, 100 connections, one cookie jar
for all users, decompression, redirects followed, headers of its own. Each is set here on purpose.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from proxy.config import Settings
from proxy.errors import ProxyError

_MAX_HEADERS: Final = 1024
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
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Make the session, on the running loop."""
        own = self._settings.upstream
        connect = own.connect_timeout_s or None
        max_header_bytes = self._settings.server.max_header_bytes
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=own.max_connections, limit_per_host=0, ssl=own.verify_tls
            ),
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
            trust_env=False,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def url(self, path: str) -> URL:
        """Where a request goes: ``/v1/X`` to base + ``/X``, any other path to the base's origin.

        Args:
            path: raw path and query as they came; nothing is decoded, resolved or quoted.
        """
        if path.startswith(("/v1/", "/v1?")) or path == "/v1":
            return URL(self._base + path[3:], encoded=True)
        return URL(self._origin + path, encoded=True)

    async def open(
        self, method: str, url: URL, headers: CIMultiDict[str], body: Any
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for the head of its answer.

        Args:
            body: bytes, or an async iterator of bytes, or None.

        Raises:
            ProxyError: ``upstream_unreachable``, ``upstream_timeout`` or ``upstream_protocol``.
        """
        assert self._session is not None, "started"
        with translated(url):
            async with asyncio.timeout(None) as limit:
                return await self._session.request(
                    method,
                    url,
                    headers=headers,
                    data=self._timed(body, limit),
                    allow_redirects=False,
                )

    def _timed(self, body: Any, limit: asyncio.Timeout) -> Any:
        """The same body. The wait for the first byte begins at its end."""

        def start() -> None:
            if self._first_byte_s is not None:
                limit.reschedule(asyncio.get_running_loop().time() + self._first_byte_s)

        async def pieces() -> AsyncIterator[bytes]:
            async for piece in body:
                yield piece
            start()

        if body is None or isinstance(body, bytes):
            start()
            return body
        return pieces()


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """The border between aiohttp's errors and ours.

    Raises:
        ProxyError: what went wrong before the head of an answer had come.
    """
    where = f"the upstream {url.origin()}"
    try:
        yield
    except aiohttp.ConnectionTimeoutError:
        raise ProxyError(
            "upstream_timeout", f"{where} did not take the connection in time"
        ) from None
    except TimeoutError:
        raise ProxyError("upstream_timeout", f"{where} did not begin to answer in time") from None
    except (aiohttp.ClientResponseError, aiohttp.http.HttpProcessingError) as error:
        raise ProxyError(
            "upstream_protocol", f"{where} answered with no HTTP: {error.message}"
        ) from None
    except aiohttp.ServerDisconnectedError as error:
        if isinstance(error.message, str):  # nothing had come
            raise ProxyError("upstream_unreachable", f"{where} closed without an answer") from None
        raise ProxyError("upstream_protocol", f"the answer of {where} broke off") from None
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
        raise ProxyError("upstream_unreachable", f"TLS with {where} failed: {error}") from None
    except (aiohttp.ClientError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ProxyError("upstream_unreachable", f"cannot reach {where}: {reason}") from None
