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
    """One exchange.

    Attributes:
        version: of all rows, when this one changed last.
    """

    __slots__ = ("chunks", "exchange", "owner", "running", "since", "tools", "version", "words")

    def __init__(self, exchange: Exchange, owner: str) -> None:
        self.exchange: Exchange = exchange
        self.owner = owner
        self.since = time.time() - (time.monotonic() - exchange.started)
        self.tools: list[list[Any]] = []
        self.running: dict[tuple[str, int, int], list[Any]] = {}
        self.version = 0
        self.chunks = 0
        self.words: str | None = None


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
        self._ended: dict[str, Json] = {}

    def follow(self, exchange: Exchange, owner: str) -> None:
        """Show an exchange from now on.

        Args:
            exchange: whose request has come.
            owner: who may see it, by a hash of the keys.
        """
        if len(self._open) < _MAX_OPEN:
            row = self._open[_id(exchange)] = _Row(exchange, owner)
            self._changed(row)
            exchange.listeners.add(self)

    def on_lifecycle(self, exchange: Exchange, events: Sequence[LifecycleEvent]) -> None:
        """Draw the bars of tools."""
        row = self._open.get(_id(exchange))
        if row is None or len(row.tools) >= _MAX_TOOLS:
            return
        now = _ms(time.monotonic() - exchange.started)
        for event in events:
            key = event.id, event.choice, event.repeat
            if isinstance(event, ToolRunning):
                bar = [_text(event.tool), _text(event.label), now, None, ""]
                row.running[key] = bar
                row.tools.append(bar)
                continue
            bar = row.running.pop(key, [])
            if not bar:  # it began in an earlier exchange
                bar = [_text(event.tool), _text(event.label), now - event.duration_ms, None, ""]
                row.tools.append(bar)
            bar[3:] = now, "made up" if event.reason else _HOW.get(event.outcome, "")
            bar[4] = _HOW.get(event.outcome, bar[4])
        self._changed(row)

    def on_end(self, exchange: Exchange) -> None:
        """Keep what is known of it."""
        row = self._open.pop(_id(exchange), None)
        if row is None:
            return
        self._changed(row)
        if not self._keep:
            return
        self._over[_id(exchange)] = row
        self._ended[_id(exchange)] = self._drawn(_id(exchange), row, time.monotonic())
        row.running.clear()
        row.exchange = _NOTHING
        while len(self._over) > self._keep:
            gone, _ = self._over.popitem(last=False)
            del self._ended[gone]

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
        rows, now = [], time.monotonic()
        for one, row in (*self._over.items(), *self._open.items()):
            if row.version > seen and owner in (None, row.owner):
                rows.append(self._ended.get(one) or self._drawn(one, row, now))
        known.update(row["i"] for row in rows)
        gone = [one for one in known if one not in self._open and one not in self._over]
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
        row = self._open.get(exchange_id) or self._over.get(exchange_id)
        if row is None or owner not in (None, row.owner):
            return None
        return self.tapes.find(exchange_id)

    def note_words(self, exchange_id: str, words: str) -> None:
        """Show what was asked, now that it is known.

        Args:
            exchange_id: of the exchange.
            words: redacted.
        """
        row = self._open.get(exchange_id) or self._over.get(exchange_id)
        if row is not None and row.words is None:
            row.words = words
            if (ended := self._ended.get(exchange_id)) is not None:
                ended["w"] = words
            self._changed(row)

    def without_words(self, owner: str | None, most: int) -> list[tuple[str, LiveTape]]:
        """Rows that one may see, whose question is not known yet.

        Args:
            owner: who asks; None for one who may see all.
            most: how many.
        """
        found = []
        for one, row in (*self._open.items(), *self._over.items()):
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

    def _drawn(self, exchange_id: str, row: _Row, now: float) -> Json:
        """The row, in the short names that the page knows."""
        one = row.exchange
        is_open = exchange_id in self._open
        first = None if one.first_byte is None else _ms(one.first_byte - one.started)
        return {
            "i": exchange_id,
            "t": row.since * 1000,
            "c": _text(one.client),
            "m": _text(one.model),
            "u": _text(one.upstream),
            "r": one.route if one.route != "other" else _text(f"{one.method} {one.path}"),
            "y": one.dialect,
            "w": row.words or "",
            "s": one.status,
            "e": "" if is_open else one.ended,
            "x": one.error,
            "f": first,
            "d": None if is_open else _ms(now - one.started),
            "n": one.chunks,
            "b": one.sent_bytes,
            "g": _ms(one.longest_gap_s),
            "k": row.tools,
        }


_NOTHING: Final = Exchange("", "", "", "")


def _id(exchange: Exchange) -> str:
    return f"ex_{exchange.token}"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _text(text: str) -> str:
    return text[:_TEXT].encode("utf-8", "replace").decode()
