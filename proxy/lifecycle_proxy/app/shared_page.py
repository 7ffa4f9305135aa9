"""The live page shows the exchanges of all workers: each reports its own to the others.

They meet in the process with the store (``state.page_hub``). While no page is open, a worker asks
there once a second whether one is, and does nothing else.
"""

import asyncio
from typing import Any, Final, cast

import orjson

from lifecycle_proxy.inspect.live import LiveExchanges, Wish
from lifecycle_proxy.state.health import StoreError
from lifecycle_proxy.state.page_hub import PageNews
from lifecycle_proxy.state.wire import WireLink

_TICK_S: Final = 0.25
_IDLE_S: Final = 1.0
_ANSWER_S: Final = 10.0
_ANYBODY: Final = "*"  # no hash of a key


class SharedPage:
    """One worker's part. It is the ``OtherWorkers`` of its rows.

    Args:
        live: the rows of this worker.
        link: to the process with the store.
    """

    def __init__(self, live: LiveExchanges, link: WireLink) -> None:
        self._live = live
        self._link = link
        self._is_watched = False
        self._seen = 0
        self._known: dict[str, int] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Exchange rows with the others, until cancelled."""
        self._live.others = self
        while True:
            try:
                await self._turn()
            except StoreError:  # the link says so in the log
                self._is_watched = False
                self._restart()
                self._live.watched(from_elsewhere=False)
                self._live.forget(None)
            is_busy = self._is_watched or self._live.has_pages
            await asyncio.sleep(_TICK_S if is_busy else _IDLE_S)

    async def ask(self, owner: str | None, exchange_id: str, wish: Wish) -> bytes | None:
        """See ``OtherWorkers``."""
        kind: Any = bytes | None
        whose = _ANYBODY if owner is None else owner
        try:
            asked = self._link.submit("page_ask", [whose, exchange_id, wish], kind, _ANSWER_S)
            return cast("bytes | None", await asked)
        except StoreError:
            return None

    async def _turn(self) -> None:
        """Raise StoreError if there is nobody to ask."""
        live, report = self._live, b""
        if self._is_watched:
            await live.find_words(None)
            self._seen, change = live.report(self._seen, self._known)
            report = b"" if change is None else orjson.dumps(change)
        news = await self._link.submit("page_sync", [report, live.has_pages], PageNews)
        if news.restarts:
            self._restart()
        self._is_watched = news.is_watched
        live.watched(from_elsewhere=news.is_watched)
        if news.is_reset or not live.has_pages:
            live.forget(None)
        for number, data in news.reports if live.has_pages else ():
            if data:
                live.take(number, orjson.loads(data))
            else:
                live.forget(number)
        for number, question in news.questions:
            task = asyncio.create_task(self._answer(number, *question))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    def _restart(self) -> None:
        """Report all rows anew. Those that are gone by then are still reported as gone."""
        self._seen, self._known = 0, dict.fromkeys(self._known, 0)

    async def _answer(self, number: int, whose: str, exchange_id: str, wish: str) -> None:
        owner = None if whose == _ANYBODY else whose
        answer = await self._live.answer(owner, exchange_id, cast("Wish", wish))
        self._link.submit("page_answer", [number, answer], object)
