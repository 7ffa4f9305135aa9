"""A row of the live page: what is known of one exchange, its bars, and the marks of its lane."""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from lifecycle_proxy.core.events import LifecycleEvent, Outcome, ToolRunning
from lifecycle_proxy.exchange.model import Added, Exchange, Listener
from lifecycle_proxy.recording.cassette import Json

PREFIX: Final = "ex_"
_TEXT: Final = 200
_MAX_TOOLS: Final = 200
_MAX_MARKS: Final = 200
_GAP_MS: Final = 250
_LOOKED_AT: Final = 1 << 14  # bytes of a read, for reasoning
# How the end of a call is drawn.
_HOW: Final = {
    Outcome.FAILED: "failed",
    Outcome.CANCELLED: "cut",
    Outcome.CUT: "cut",
}
# Reasoning in a delta, of any of the three APIs. In a text the quotes would be escaped.
_REASONING: Final = re.compile(
    rb'"(?:reasoning|reasoning_content|thinking)"\s*:\s*"[^"]'
    rb'|"type"\s*:\s*"response\.reasoning_[a-z_]+\.delta"'
)
_HEARTBEAT: Final = b":"  # a comment that no read caused

Mark = tuple[str, float, float]


def ms(seconds: float) -> float:
    """Milliseconds, as rows have them."""
    return round(seconds * 1000, 1)


def short(text: str) -> str:
    """A text that others chose, as rows have it."""
    return text[:_TEXT].encode("utf-8", "replace").decode()


class ToolBars:
    """The bars of one exchange: name, label, start, stop (None: it runs), how it ended."""

    __slots__ = ("_running", "bars")

    def __init__(self) -> None:
        self.bars: list[list[Any]] = []
        self._running: dict[tuple[str, int, int], list[Any]] = {}

    def take(self, events: Sequence[LifecycleEvent], now: float) -> None:
        """Draw events.

        Args:
            events: in order.
            now: milliseconds since the request.
        """
        for event in events:
            key = event.id, event.choice, event.repeat
            if isinstance(event, ToolRunning):
                if (bar := self._maybe_bar(event, now)) is not None:
                    self._running[key] = bar
                continue
            found = self._running.pop(key, None)
            if found is None:  # it began in an earlier exchange
                found = self._maybe_bar(event, now - event.duration_ms)
            if found is not None:
                found[3:] = now, _HOW.get(event.outcome, "made up" if event.reason else "")

    def _maybe_bar(self, event: LifecycleEvent, start: float) -> list[Any] | None:
        """One more, if there is room."""
        if len(self.bars) >= _MAX_TOOLS:
            return None
        self.bars.append([short(event.tool), short(event.label), start, None, ""])
        return self.bars[-1]


class LaneMarks(Listener):
    """What a lane shows besides bars: gaps, reasoning, heartbeats.

    It gets each chunk, so it is only there for exchanges that go on while a page is open.

    Attributes:
        marks: kind (``gap``, ``think``, ``beat``), start and stop in milliseconds since the
            request, in order. Only the last one may still grow.
    """

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self._last: float | None = None
        self._is_thinking = False

    def on_chunk(
        self, exchange: Exchange, read: bytes, written: bytes, added: Added, now: float
    ) -> None:
        at, last = ms(now - exchange.started), self._last
        self._last = at
        if last is not None and at - last >= _GAP_MS:
            self._mark("gap", last, at)
        if _REASONING.search(read, 0, _LOOKED_AT) is None:
            self._is_thinking = False
        elif self._is_thinking:
            self.marks[-1] = ("think", self.marks[-1][1], at)
        else:
            self._is_thinking = self._mark("think", at, at)

    def on_write(self, exchange: Exchange, data: bytes, added: Added) -> None:
        if data.startswith(_HEARTBEAT):
            at = ms(time.monotonic() - exchange.started)
            self._mark("beat", at, at)

    def _mark(self, kind: str, start: float, stop: float) -> bool:
        """Add one, if there is room."""
        self._is_thinking = False
        if len(self.marks) < _MAX_MARKS:
            self.marks.append((kind, start, stop))
            return True
        return False


class LiveRow:
    """One exchange. Nothing is drawn before somebody looks.

    Attributes:
        owner: who may see it.
        token: of the exchange.
        over: when it ended, on the monotonic clock; None while it is open.
        drawn: as the page is sent it, once it is over.
        version: of all rows, when this one changed last.
        lane: its marks; None before somebody looks.
        chunks: how many there were when it was looked at last, and how many marks.
        words: what was asked; None where that is not known.

    Args:
        exchange: is shown.
        owner: as above.
        stop: ends it; whether it could.
    """

    __slots__ = (
        *("_stop", "chunks", "drawn", "exchange", "lane", "over", "owner", "token", "tools"),
        *("version", "words"),
    )

    def __init__(self, exchange: Exchange, owner: str, stop: Callable[[Exchange], bool]) -> None:
        self.exchange = exchange
        self.token = exchange.token
        self.owner = owner
        self._stop = stop
        self.over: float | None = None
        self.drawn: Json | None = None
        self.tools: ToolBars | None = None
        self.lane: LaneMarks | None = None
        self.version = 0
        self.chunks = (0, 0)
        self.words: str | None = None

    @property
    def id(self) -> str:
        """As the page knows it."""
        return PREFIX + self.token

    def say(self, words: str) -> None:
        """What was asked is known now."""
        self.words = words
        if self.drawn is not None:
            self.drawn["w"] = words

    def mark(self) -> None:
        """Mark the lane from now on."""
        if self.lane is None and self.over is None:
            self.lane = LaneMarks()
            self.exchange.listeners.add(self.lane)

    def has_moved(self) -> bool:
        """Whether something came since this was asked last."""
        before, self.chunks = self.chunks, (self.exchange.chunks, len(self.marks))
        return self.chunks != before

    def end(self) -> None:
        """It is over."""
        self.over = time.monotonic()
        self._stop = _cannot

    def stop(self) -> bool:
        """End the exchange; whether it could be ended."""
        return self._stop(self.exchange)

    def shown(self) -> Json:
        """The row, in the short names that the page knows."""
        if self.drawn is not None:
            return self.drawn
        one, now = self.exchange, time.monotonic()
        drawn = {
            "i": self.id,
            "t": round((time.time() - (now - one.started)) * 1000),
            "c": short(one.client),
            "m": short(one.model),
            "u": short(one.upstream),
            "r": one.route if one.route != "other" else short(f"{one.method} {one.path}"),
            "y": one.dialect,
            "w": self.words or "",
            "s": one.status,
            "e": "" if self.over is None else one.ended,
            "x": one.error,
            "f": None if one.first_byte is None else ms(one.first_byte - one.started),
            "d": None if self.over is None else ms(self.over - one.started),
            "n": one.chunks,
            "b": one.sent_bytes,
            "g": ms(one.longest_gap_s),
            "k": self.tools.bars if self.tools is not None else [],
        }
        if self.over is not None:
            self.drawn, self.exchange = drawn, _NOTHING  # what it holds is not kept
        return drawn

    @property
    def marks(self) -> Sequence[Mark]:
        """Those of its lane."""
        return () if self.lane is None else self.lane.marks


class OtherRow:
    """One exchange of another worker.

    Attributes:
        owner: who may see it.
        version: see ``LiveRow``.
        marks: see ``LaneMarks``.

    Args:
        worker: of which it is.
    """

    __slots__ = ("_shown", "marks", "owner", "version", "worker")

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.owner = ""
        self.version = 0
        self.marks: list[Mark] = []
        self._shown: Json = {}

    @property
    def id(self) -> str:
        """See ``LiveRow``."""
        return str(self._shown["i"])

    def take(self, row: Json) -> None:
        """It has changed.

        Args:
            row: as ``LiveExchanges.report`` has it.
        """
        self.owner = row.pop("o")
        start, marks = row.pop("l", (len(self.marks), ()))
        self.marks[start:] = marks
        self._shown = row

    def shown(self) -> Json:
        """See ``LiveRow``."""
        return self._shown


def _cannot(exchange: Exchange) -> bool:
    return False


_NOTHING: Final = Exchange("", "", "", "")
