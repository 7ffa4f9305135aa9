"""The live page at ``/-/``: its files, the stream of what changes, and one exchange as a whole.

The page and its files need no key: there is nothing in them. What they ask for does.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from aiohttp import web

from lifecycle_proxy.exchange.client_scope import owner_of
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.routes import PAGE_PREFIX, VIEW_PREFIX

_TICK_S: Final = 0.25
_QUIET_TICKS: Final = 40  # after so many without a change an empty line keeps the connection open
_MOST_PAGES: Final = 32
_WORDS_AT_ONCE: Final = 20
_Tape = Any  # what ``find`` gives is only handed back


class LiveSource(Protocol):
    """What is shown; see ``inspect.live.LiveExchanges``."""

    def changes(self, owner: str | None, seen: int, known: set[str]) -> tuple[int, bytes]:
        """See ``LiveExchanges``."""
        ...

    def find(self, owner: str | None, exchange_id: str) -> _Tape | None:
        """See ``LiveExchanges``."""
        ...

    def without_words(self, owner: str | None, most: int) -> list[tuple[str, _Tape]]:
        """See ``LiveExchanges``."""
        ...

    def note_words(self, exchange_id: str, words: str) -> None:
        """See ``LiveExchanges``."""
        ...

    def watch(self, change: int) -> int:
        """One page more, or one less: how many there are."""
        ...

    def drawn(self, tape: _Tape) -> bytes:
        """An exchange as the page draws it, in a thread."""
        ...

    def cassette(self, tape: _Tape) -> bytes:
        """An exchange as a cassette, in a thread."""
        ...

    def asked(self, tape: _Tape) -> str:
        """What was asked, in a thread."""
        ...


class LivePage:
    """Handles requests for the page.

    Args:
        source: what is shown.
        files: by name: the text and its type; the page itself is ``""``.
        policy: its content security policy.
        has_keys: each key sees its own exchanges only.
        is_draining: whether the process is about to end.
    """

    def __init__(
        self,
        source: LiveSource,
        files: Mapping[str, tuple[str, str]],
        policy: str,
        *,
        has_keys: bool,
        is_draining: Callable[[], bool],
    ) -> None:
        self._source = source
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

    async def handle(self, request: web.Request, path: str) -> web.StreamResponse:
        """A request for the page, or of the page.

        Args:
            request: the browser's.
            path: without the query.

        Raises:
            ProxyError: ``method_not_allowed`` or ``not_found``.
        """
        if request.method not in ("GET", "HEAD"):
            raise ProxyError("method_not_allowed", f"{path[:200]} takes GET and HEAD")
        if not path.startswith(PAGE_PREFIX):
            return self._file(path.removeprefix(VIEW_PREFIX) if path != "/-/" else "")
        owner = owner_of(request.headers) if self._has_keys else None
        wanted = path.removeprefix(PAGE_PREFIX)
        if wanted == "changes":
            return await self._changes(request, owner)
        if wanted.startswith("exchanges/"):
            return await self._exchange(owner, wanted.removeprefix("exchanges/"))
        raise ProxyError("not_found", "the page has nothing there")

    def _file(self, name: str) -> web.Response:
        if name not in self._files:
            raise ProxyError("not_found", f"the page has no file {name[:100]}")
        text, kind = self._files[name]
        return web.Response(
            body=text.encode(), content_type=kind, charset="utf-8", headers=self._headers
        )

    async def _exchange(self, owner: str | None, name: str) -> web.Response:
        exchange_id = name.removesuffix(".jsonl")
        tape = self._source.find(owner, exchange_id)
        if tape is None:
            raise ProxyError("not_found", "no bytes of this exchange are kept")
        if name == exchange_id:
            body, kind = await asyncio.to_thread(self._source.drawn, tape), "application/json"
        else:
            body, kind = await asyncio.to_thread(self._source.cassette, tape), "application/jsonl"
        return web.Response(body=body, content_type=kind, headers=self._headers)

    async def _changes(self, request: web.Request, owner: str | None) -> web.StreamResponse:
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
        seen, known, quiet = 0, set[str](), _QUIET_TICKS
        while not self._is_draining():
            for one, tape in self._source.without_words(owner, _WORDS_AT_ONCE):
                self._source.note_words(one, await asyncio.to_thread(self._source.asked, tape))
            seen, line = self._source.changes(owner, seen, known)
            quiet = 0 if line else quiet + 1
            if line or quiet >= _QUIET_TICKS:
                await response.write(line or b"{}\n")
                quiet = 0
            await asyncio.sleep(_TICK_S)
        await response.write_eof()
