"""The exchanges that are open, and the last ones that were: a row of each, for the live page.

A row is what an exchange knows of itself; its bytes are not looked at. What a page gets of them is
on tapes, and only while a page is open (``recording.live_tapes``).

Rows are seen by those with the same key as their client, where keys tell users apart.
"""

import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import orjson

from lifecycle_proxy.core.events import LifecycleEvent, Outcome, ToolRunning
from lifecycle_proxy.exchange.model import Exchange, Listener
from lifecycle_proxy.inspect import html_report
from lifecycle_proxy.recording import cassette, question
from lifecycle_proxy.recording.cassette import Json
from lifecycle_proxy.recording.live_tapes import LiveTape, LiveTapes

_TEXT: Final = 200
_MAX_TOOLS: Final = 200
_MAX_OPEN: Final = 5000  # more are not shown
# How the end of a call is drawn.
_HOW: Final = {
    Outcome.FAILED: "failed",
    Outcome.CANCELLED: "cut",
    Outcome.CUT: "cut",
}


class _Row:
    """One exchange. Nothing is drawn before somebody looks.

    Attributes:
        over: when it ended, on the monotonic clock; None while it is open.
        drawn: as the page is sent it, once it is over.
        version: of all rows, when this one changed last.
    """

    __slots__ = ("chunks", "drawn", "exchange", "over", "owner", "tools", "version", "words")

    def __init__(self, exchange: Exchange, owner: str) -> None:
        self.exchange = exchange
        self.owner = owner
        self.over: float | None = None
        self.drawn: Json | None = None
        self.tools: _Tools | None = None
        self.version = 0
        self.chunks = 0
        self.words: str | None = None


class _Tools:
    """The bars of one exchange: name, label, start, stop (None: it runs), how it ended."""

    __slots__ = ("_running", "bars")

    def __init__(self) -> None:
        self.bars: list[list[Any]] = []
        self._running: dict[tuple[str, int, int], list[Any]] = {}

    def take(self, event: LifecycleEvent, now: float) -> None:
        """Draw one event, at this time in milliseconds since the request."""
        key = event.id, event.choice, event.repeat
        if isinstance(event, ToolRunning):
            bar = self._running[key] = [_text(event.tool), _text(event.label), now, None, ""]
            self.bars.append(bar)
            return
        found = self._running.pop(key, None)
        if found is None:  # it began in an earlier exchange
            found = [_text(event.tool), _text(event.label), now - event.duration_ms, None, ""]
            self.bars.append(found)
        found[3] = now
        found[4] = _HOW.get(event.outcome, "made up" if event.reason else "")


class LiveExchanges(Listener):
    """All rows of one process.

    Attributes:
        tapes: as given.

    Args:
        keep: how many finished ones.
        tapes: of what was seen while a page was open.
    """

    def __init__(self, keep: int, tapes: LiveTapes) -> None:
        self._keep = keep
        self.tapes = tapes
        self._version = 0
        self._open: dict[str, _Row] = {}
        self._over: OrderedDict[str, _Row] = OrderedDict()

    def follow(self, exchange: Exchange, owner: str) -> None:
        """Show an exchange from now on.

        Args:
            exchange: whose request has come.
            owner: who may see it, by a hash of the keys.
        """
        if len(self._open) < _MAX_OPEN:
            row = self._open[exchange.token] = _Row(exchange, owner)
            self._changed(row)
            exchange.listeners.add(self)

    def on_lifecycle(self, exchange: Exchange, events: Sequence[LifecycleEvent]) -> None:
        """Draw the bars of tools."""
        row = self._open.get(exchange.token)
        if row is None:
            return
        tools = row.tools = row.tools or _Tools()
        now = _ms(time.monotonic() - exchange.started)
        for event in events[: _MAX_TOOLS - len(tools.bars)]:
            tools.take(event, now)
        self._changed(row)

    def on_end(self, exchange: Exchange) -> None:
        """Keep what is known of it."""
        row = self._open.pop(exchange.token, None)
        if row is None:
            return
        row.over = time.monotonic()
        self._changed(row)
        if self._keep:
            self._over[exchange.token] = row
            if len(self._over) > self._keep:
                self._over.popitem(last=False)

    def changes(self, owner: str | None, seen: int, known: set[str]) -> tuple[int, bytes]:
        """What has changed: the version, and a line for a page; b"" for nothing.

        Args:
            owner: who asks; None for one who may see all.
            seen: the version that the page has; 0 for none.
            known: ids that the page has. Changed here.
        """
        for row in self._open.values():
            if row.chunks != row.exchange.chunks:
                row.chunks = row.exchange.chunks
                self._changed(row)
        rows = [
            _drawn(row)
            for row in (*self._over.values(), *self._open.values())
            if row.version > seen and owner in (None, row.owner)
        ]
        known.update(row["i"] for row in rows)
        gone = [one for one in known if self._maybe_row(one) is None]
        known.difference_update(gone)
        if not (rows or gone):
            return self._version, b""
        change = {"now": time.time() * 1000, "rows": rows, "gone": gone}
        return self._version, orjson.dumps(change) + b"\n"

    def find(self, owner: str | None, exchange_id: str) -> LiveTape | None:
        """The tape of an exchange that one may see.

        Args:
            owner: who asks; None for one who may see all.
            exchange_id: of the exchange.
        """
        row = self._maybe_row(exchange_id)
        if row is None or owner not in (None, row.owner):
            return None
        return self.tapes.find(exchange_id)

    def note_words(self, exchange_id: str, words: str) -> None:
        """Show what was asked, now that it is known.

        Args:
            exchange_id: of the exchange.
            words: redacted.
        """
        row = self._maybe_row(exchange_id)
        if row is not None and row.words is None:
            row.words = words
            if row.drawn is not None:
                row.drawn["w"] = words
            self._changed(row)

    def without_words(self, owner: str | None, most: int) -> list[tuple[str, LiveTape]]:
        """Rows that one may see, whose question is not known yet.

        Args:
            owner: who asks; None for one who may see all.
            most: how many.
        """
        found = []
        for token, row in (*self._open.items(), *self._over.items()):
            one = f"{_PREFIX}{token}"
            if row.words is not None or owner not in (None, row.owner):
                continue
            if (tape := self.tapes.find(one)) is not None:
                found.append((one, tape))
                if len(found) == most:
                    break
        return found

    def watch(self, change: int) -> int:
        """One page more, or one less: how many there are."""
        self.tapes.watchers += change
        return self.tapes.watchers

    def drawn(self, tape: LiveTape) -> bytes:
        """An exchange as the page draws it, as JSON. For a thread."""
        (exchange,) = cassette.parse(tape.lines())
        return json.dumps(html_report.exchange_of(exchange)).encode()

    def cassette(self, tape: LiveTape) -> bytes:
        """An exchange as a cassette. For a thread."""
        return tape.lines()

    def asked(self, tape: LiveTape) -> str:
        """What was asked, in a line. For a thread."""
        exchanges = cassette.parse(tape.lines())
        return _text(question.asked(exchanges[0])) if exchanges else ""

    def _changed(self, row: _Row) -> None:
        self._version += 1
        row.version = self._version

    def _maybe_row(self, exchange_id: str) -> _Row | None:
        token = exchange_id.removeprefix(_PREFIX)
        return self._open.get(token) or self._over.get(token)


def _drawn(row: _Row) -> Json:
    """The row, in the short names that the page knows."""
    if row.drawn is not None:
        return row.drawn
    one, now = row.exchange, time.monotonic()
    drawn = {
        "i": f"{_PREFIX}{one.token}",
        "t": round((time.time() - (now - one.started)) * 1000),
        "c": _text(one.client),
        "m": _text(one.model),
        "u": _text(one.upstream),
        "r": one.route if one.route != "other" else _text(f"{one.method} {one.path}"),
        "y": one.dialect,
        "w": row.words or "",
        "s": one.status,
        "e": "" if row.over is None else one.ended,
        "x": one.error,
        "f": None if one.first_byte is None else _ms(one.first_byte - one.started),
        "d": None if row.over is None else _ms(row.over - one.started),
        "n": one.chunks,
        "b": one.sent_bytes,
        "g": _ms(one.longest_gap_s),
        "k": row.tools.bars if row.tools is not None else [],
    }
    if row.over is not None:
        row.drawn, row.exchange = drawn, _NOTHING  # what it holds is not kept
    return drawn


_PREFIX: Final = "ex_"
_NOTHING: Final = Exchange("", "", "", "")


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _text(text: str) -> str:
    return text[:_TEXT].encode("utf-8", "replace").decode()
