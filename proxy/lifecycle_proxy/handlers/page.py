"""The live page at ``/-/``: its files, the stream of what changes, and one exchange as a whole.

The page and its files need no key: there is nothing in them. What they ask for does.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Protocol

from aiohttp import web

from lifecycle_proxy.exchange.client_scope import owner_of
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.routes import PAGE_PREFIX, VIEW_PREFIX
from lifecycle_proxy.handlers.page_guard import check_own

log = logging.getLogger("proxy.handlers")

_TICK_S: Final = 0.25
_QUIET_TICKS: Final = 40  # after so many without a change an empty line keeps the connection open
_MOST_PAGES: Final = 32
_MAX_RECORDING_BYTES: Final = 32 << 20
Wish = Literal["drawn", "cassette", "stop"]  # see ``LiveExchanges.answer``


class LiveSource(Protocol):
    """What is shown; see ``inspect.live.LiveExchanges``.

    Attributes:
        elsewhere: what can be done about a recording that is too large for a page.
    """

    elsewhere: str

    def changes(self, owner: str | None, seen: int, known: dict[str, int]) -> tuple[int, bytes]:
        """See ``LiveExchanges``."""
        ...

    async def find_words(self, owner: str | None) -> None:
        """See ``LiveExchanges``."""
        ...

    async def whole(self, owner: str | None, exchange_id: str, wish: Wish) -> bytes | None:
        """See ``LiveExchanges``."""
        ...

    async def opened(self, data: bytes) -> bytes:
        """See ``LiveExchanges``."""
        ...

    def watch(self, change: int) -> int:
        """One page more, or one less: how many there are."""
        ...


class LivePage:
    """Handles requests for the page.

    Args:
        source: what is shown.
        files: by name: the text and its type; the page itself is ``""``.
        policy: its content security policy.
        has_keys: each key sees its own exchanges only.
        may_end: whether streams may be ended here.
        upstreams: how each upstream is.
        is_draining: whether the process is about to end.
    """

    def __init__(
        self,
        source: LiveSource,
        files: Mapping[str, tuple[str, str]],
        policy: str,
        *,
        has_keys: bool,
        may_end: bool,
        upstreams: Callable[[], list[dict[str, Any]]],
        is_draining: Callable[[], bool],
    ) -> None:
        self._source = source
        self._may_end = may_end
        self._upstreams = upstreams
        self._is_opening = False
        self._files = files
        self._has_keys = has_keys
        self._is_draining = is_draining
        self._headers = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Opener-Policy": "same-origin",
        }

    async def handle(self, request: ClientRequest, path: str) -> web.StreamResponse:
        """A request for the page, or of the page.

        Args:
            request: the browser's.
            path: without the query.

        Raises:
            ProxyError: ``method_not_allowed`` or ``not_found``.
        """
        if not path.startswith(PAGE_PREFIX):
            _check_reads(request)
            return self._file(path.removeprefix(VIEW_PREFIX) if path != "/-/" else "")
        owner = owner_of(request.headers) if self._has_keys else None
        wanted = path.removeprefix(PAGE_PREFIX)
        if wanted == "recordings":
            return await self._recording(request)
        if wanted.startswith("exchanges/"):
            return await self._exchange(request, owner, wanted.removeprefix("exchanges/"))
        _check_reads(request)
        if wanted == "changes":
            return await self._changes(request, owner)
        if wanted == "upstreams":
            return web.json_response({"upstreams": self._upstreams()}, headers=self._headers)
        raise ProxyError("not_found", "the page has nothing there")

    def _file(self, name: str) -> web.Response:
        if name not in self._files:
            raise ProxyError("not_found", f"the page has no file {name[:100]}")
        text, kind = self._files[name]
        return web.Response(
            body=text.encode(), content_type=kind, charset="utf-8", headers=self._headers
        )

    async def _exchange(self, request: ClientRequest, owner: str | None, name: str) -> web.Response:
        exchange_id, _, what = name.partition("/")
        if what == "end":
            return await self._end(request, owner, exchange_id)
        _check_reads(request)
        exchange_id = name.removesuffix(".jsonl")
        is_cassette = exchange_id != name
        wish: Wish = "cassette" if is_cassette else "drawn"
        body = await self._source.whole(owner, exchange_id, wish)
        if body is None:
            raise ProxyError("not_found", "no bytes of this exchange are kept")
        kind = "application/jsonl" if is_cassette else "application/json"
        return web.Response(body=body, content_type=kind, headers=self._headers)

    async def _end(
        self, request: ClientRequest, owner: str | None, exchange_id: str
    ) -> web.Response:
        if request.method != "POST":
            raise ProxyError("method_not_allowed", "a stream is ended with POST")
        if not self._may_end:
            raise ProxyError("stopped", "without server.api_keys nothing is ended from afar")
        check_own(request)
        body = await self._source.whole(owner, exchange_id, "stop")
        if body is None:
            raise ProxyError("not_found", "this exchange is not open, or cannot be ended now")
        who = owner_of(request.headers)[:12], request.remote or "unknown"
        log.warning("%s was ended from the live page by credential %s at %s", exchange_id, *who)
        return web.Response(body=body, content_type="application/json", headers=self._headers)

    async def _recording(self, request: ClientRequest) -> web.Response:
        """A recording that the page opens, as it draws it. Nothing of it is kept."""
        if request.method != "POST":
            raise ProxyError("method_not_allowed", "a recording is sent with POST")
        check_own(request)
        if self._is_opening:
            raise ProxyError("streams_unavailable", "another recording is being read; try again")
        self._is_opening = True
        try:
            data = bytearray()
            async for piece in request.content.iter_any():
                data += piece
                if len(data) > _MAX_RECORDING_BYTES:
                    most = _MAX_RECORDING_BYTES >> 20
                    words = (
                        f"a page opens recordings of at most {most} MiB; {self._source.elsewhere}"
                    )
                    raise ProxyError("request_too_large", words)
            body = await self._source.opened(bytes(data))
        finally:
            self._is_opening = False
        return web.Response(body=body, content_type="application/json", headers=self._headers)

    async def _changes(self, request: ClientRequest, owner: str | None) -> web.StreamResponse:
        if self._source.watch(0) >= _MOST_PAGES:
            raise ProxyError("streams_unavailable", f"{_MOST_PAGES} pages are open already")
        response = web.StreamResponse(headers=self._headers)
        response.content_type = "application/jsonl"
        self._source.watch(1)
        try:
            await response.prepare(request)
            if request.method == "GET":
                await self._send(response, owner)
        except ConnectionError:
            pass  # the page was closed
        finally:
            self._source.watch(-1)
        return response

    async def _send(self, response: web.StreamResponse, owner: str | None) -> None:
        known: dict[str, int] = {}
        seen, quiet = 0, _QUIET_TICKS
        while not self._is_draining():
            await self._source.find_words(owner)
            seen, line = self._source.changes(owner, seen, known)
            quiet = 0 if line else quiet + 1
            if line or quiet >= _QUIET_TICKS:
                await response.write(line or b"{}\n")
                quiet = 0
            await asyncio.sleep(_TICK_S)
        await response.write_eof()


def _check_reads(request: ClientRequest) -> None:
    """Refuse what would change something.

    Raises:
        ProxyError: ``method_not_allowed``.
    """
    if request.method not in ("GET", "HEAD"):
        raise ProxyError("method_not_allowed", f"{request.path[:200]} takes GET and HEAD")
