"""The exchanges that are open, and the last ones that were: a row of each, for the live page.

A row is what an exchange knows of itself; its bytes are not looked at. What a page gets of them is
on tapes and in the marks of lanes, and only while a page is open (``recording.live_tapes``).

Rows are seen by those with the same key as their client, where keys tell users apart. Where several
workers serve, each has those of the others, too, while one of its pages is open.
"""

import asyncio
import itertools
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, Protocol

import orjson

from lifecycle_proxy.core.events import LifecycleEvent
from lifecycle_proxy.exchange.model import Exchange, Listener
from lifecycle_proxy.inspect import html_report, opened
from lifecycle_proxy.inspect.live_rows import PREFIX, LiveRow, OtherRow, ToolBars, ms, short
from lifecycle_proxy.recording import cassette, question
from lifecycle_proxy.recording.cassette import Json
from lifecycle_proxy.recording.live_tapes import LiveTape, LiveTapes

_MAX_OPEN: Final = 5000  # more are not shown
_WORDS_AT_ONCE: Final = 20
# What can be asked for of one exchange: as the page draws it, as a cassette, that it ends.
Wish = Literal["drawn", "cassette", "stop"]


class OtherWorkers(Protocol):
    """The other workers of this proxy."""

    async def ask(self, owner: str | None, exchange_id: str, wish: Wish) -> bytes | None:
        """See ``LiveExchanges.answer``.

        Args:
            owner: who asks; None for one who may see all.
            exchange_id: of the exchange.
            wish: what of it.
        """
        ...


class LiveExchanges(Listener):
    """All rows of one process.

    Attributes:
        elsewhere: see ``opened.ELSEWHERE``.
        tapes: as given.
        others: where rows of other workers come from; None where there are none.

    Args:
        keep: how many finished ones.
        tapes: of what was seen while a page was open.
    """

    elsewhere = opened.ELSEWHERE

    def __init__(self, keep: int, tapes: LiveTapes) -> None:
        self._keep = keep
        self.tapes = tapes
        self.others: OtherWorkers | None = None
        self._pages = 0
        self._version = 0
        self._open: dict[str, LiveRow] = {}
        self._over: OrderedDict[str, LiveRow] = OrderedDict()
        self._foreign: dict[str, OtherRow] = {}

    # --- what happens ---------------------------------------------------------------------------

    def follow(
        self, exchange: Exchange, owner: str, stop: Callable[[Exchange], bool] = lambda _: False
    ) -> None:
        """Show an exchange from now on.

        Args:
            exchange: whose request has come.
            owner: who may see it, by a hash of the keys.
            stop: ends it; whether it could.
        """
        if len(self._open) < _MAX_OPEN:
            row = self._open[exchange.token] = LiveRow(exchange, owner, stop)
            self._changed(row)
            exchange.listeners.add(self)
            if self.tapes.watchers:
                row.mark()

    def on_lifecycle(self, exchange: Exchange, events: Sequence[LifecycleEvent]) -> None:
        """Draw the bars of tools."""
        row = self._open.get(exchange.token)
        if row is None:
            return
        tools = row.tools = row.tools or ToolBars()
        tools.take(events, ms(time.monotonic() - exchange.started))
        self._changed(row)

    def on_end(self, exchange: Exchange) -> None:
        """Keep what is known of it."""
        row = self._open.pop(exchange.token, None)
        if row is None:
            return
        row.end()
        self._changed(row)
        if self._keep:
            self._over[exchange.token] = row
            if len(self._over) > self._keep:
                self._over.popitem(last=False)

    # --- for pages ------------------------------------------------------------------------------

    def watch(self, change: int) -> int:
        """One page more, or one less: how many there are."""
        self._pages += change
        self.watched(from_elsewhere=False)
        return self._pages

    def watched(self, *, from_elsewhere: bool) -> None:
        """Know whether somebody looks.

        Args:
            from_elsewhere: at a page of another worker.
        """
        was_watched = self.tapes.watchers > 0
        self.tapes.watchers = self._pages + from_elsewhere
        if self.tapes.watchers and not was_watched:
            for row in self._open.values():
                row.mark()

    def changes(self, owner: str | None, seen: int, known: dict[str, int]) -> tuple[int, bytes]:
        """What has changed: the version, and a line for a page; b"" for nothing.

        Args:
            owner: who asks; None for one who may see all.
            seen: the version that the page has; 0 for none.
            known: ids that the page has, and how many marks of each. Changed here.
        """
        self._notice()
        every: tuple[LiveRow | OtherRow, ...] = (*self._rows(), *self._foreign.values())
        rows = [
            _since(row, known) for row in every if row.version > seen and owner in (None, row.owner)
        ]
        gone = self._gone(known)
        if not (rows or gone):
            return self._version, b""
        change = {"now": time.time() * 1000, "rows": rows, "gone": gone}
        return self._version, orjson.dumps(change) + b"\n"

    async def find_words(self, owner: str | None) -> None:
        """Find out what was asked, where that is not known yet.

        Args:
            owner: whose exchanges; None for all.
        """
        for one, tape in self._without_words(owner):
            self._note_words(one, await asyncio.to_thread(_asked, tape))

    async def whole(self, owner: str | None, exchange_id: str, wish: Wish) -> bytes | None:
        """See ``answer``. Any worker may be asked for the exchange of any other.

        Args:
            owner: who asks; None for one who may see all.
            exchange_id: of the exchange.
            wish: what of it.
        """
        if self.others is None or isinstance(self._maybe_row(exchange_id), LiveRow):
            return await self.answer(owner, exchange_id, wish)
        return await self.others.ask(owner, exchange_id, wish)

    async def opened(self, data: bytes) -> bytes:
        """See ``opened.drawn``."""
        return await opened.drawn(data)

    async def answer(self, owner: str | None, exchange_id: str, wish: Wish) -> bytes | None:
        """What somebody wants of an exchange of this process; None if it cannot or must not be had.

        Args:
            owner: who asks; None for one who may see all.
            exchange_id: of the exchange.
            wish: what of it.
        """
        row = self._maybe_row(exchange_id)
        if not isinstance(row, LiveRow) or owner not in (None, row.owner):
            return None
        if wish == "stop":
            return b"{}" if row.stop() else None
        tape = self.tapes.find(exchange_id)
        form = _drawn if wish == "drawn" else LiveTape.lines
        return None if tape is None else await asyncio.to_thread(form, tape)

    # --- for other workers ----------------------------------------------------------------------

    @property
    def has_pages(self) -> bool:
        """Whether a page of this worker is open."""
        return self._pages > 0

    def report(self, seen: int, known: dict[str, int]) -> tuple[int, Json | None]:
        """As ``changes``, of this process only, for the other ones.

        Args:
            seen: the version that they have.
            known: ids that they have, and how many marks of each. Changed here.
        """
        self._notice()
        rows = [
            {**_since(row, known), "o": row.owner} for row in self._rows() if row.version > seen
        ]
        gone = self._gone(known)
        return self._version, {"rows": rows, "gone": gone} if rows or gone else None

    def take(self, worker: int, report: Json) -> None:
        """Show what another worker reports.

        Args:
            worker: its number.
            report: see ``report``.
        """
        for fresh in report["rows"]:
            row = self._foreign.setdefault(fresh["i"], OtherRow(worker))
            row.take(fresh)
            self._changed(row)
        for gone in report["gone"]:
            self._foreign.pop(gone, None)

    def forget(self, worker: int | None) -> None:
        """Show no more of another worker; None for all of them."""
        for one in [one for one, row in self._foreign.items() if worker in (None, row.worker)]:
            del self._foreign[one]

    # --- inside ---------------------------------------------------------------------------------

    def _rows(self) -> Iterator[LiveRow]:
        yield from self._over.values()
        yield from self._open.values()

    def _notice(self) -> None:
        """See which of the open ones have changed."""
        for row in self._open.values():
            if row.has_moved():
                self._changed(row)

    def _gone(self, known: dict[str, int]) -> list[str]:
        gone = [one for one in known if self._maybe_row(one) is None]
        for one in gone:
            del known[one]
        return gone

    def _without_words(self, owner: str | None) -> list[tuple[str, LiveTape]]:
        """Some rows that one may see, whose question is not known yet."""
        wordless = (row for row in self._rows() if row.words is None and owner in (None, row.owner))
        found = ((row.id, self.tapes.find(row.id)) for row in wordless)
        known = ((one, tape) for one, tape in found if tape is not None)
        return list(itertools.islice(known, _WORDS_AT_ONCE))

    def _note_words(self, exchange_id: str, words: str) -> None:
        row = self._maybe_row(exchange_id)
        if isinstance(row, LiveRow):
            row.say(words)
            self._changed(row)

    def _changed(self, row: LiveRow | OtherRow) -> None:
        self._version += 1
        row.version = self._version

    def _maybe_row(self, exchange_id: str) -> LiveRow | OtherRow | None:
        token = exchange_id.removeprefix(PREFIX)
        return self._open.get(token) or self._over.get(token) or self._foreign.get(exchange_id)


def _since(row: LiveRow | OtherRow, known: dict[str, int]) -> Json:
    """A row with the marks that are not known yet. The last one known may have grown."""
    shown, marks = row.shown(), row.marks
    start = max(0, known.get(row.id, 0) - 1)
    known[row.id] = len(marks)
    return {**shown, "l": (start, marks[start:])} if marks else shown


def _drawn(tape: LiveTape) -> bytes:
    """An exchange as the page draws it, as JSON. For a thread."""
    (exchange,) = cassette.parse(tape.lines())
    return json.dumps(html_report.exchange_of(exchange)).encode()


def _asked(tape: LiveTape) -> str:
    """What was asked, in a line. For a thread."""
    exchanges = cassette.parse(tape.lines())
    return short(question.asked(exchanges[0])) if exchanges else ""
