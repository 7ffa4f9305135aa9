"""A recording as one HTML page that needs no other file and executes nothing that was recorded.

The recording is in the page as JSON, in a block that browsers do not execute. ``<`` is escaped, so
that it cannot end the block. The page's own script writes it with ``textContent`` only. A content
security policy allows that script, that style sheet, and no network.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lifecycle_proxy import __version__
from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.inspect import timeline, tool_bars, view
from lifecycle_proxy.recording import question
from lifecycle_proxy.recording.cassette import Json, RecordedExchange, Request, Side

MAX_EXCHANGE_BYTES: Final = 2 << 20
MAX_BYTES: Final = 48 << 20
MAX_FRAMES: Final = 5000
MAX_EVENTS: Final = 2_000_000
MAX_EXCHANGES: Final = 100_000
# The page of a running proxy draws the same one again and again.
_MAX_EVENTS_LIVE: Final = 50_000
_MAX_WORDS: Final = 300
_MAX_BARS: Final = 500
_MAX_HEADERS: Final = 500
_MAX_TEXT: Final = 16_384  # of a header, an error, a target


def page(
    exchanges: Sequence[RecordedExchange],
    *,
    title: str,
    max_exchange_bytes: int = MAX_EXCHANGE_BYTES,
    max_bytes: int = MAX_BYTES,
    max_frames: int = MAX_FRAMES,
    max_events: int = MAX_EVENTS,
) -> str:
    """The page. It shows where something is left out because of a limit.

    Args:
        exchanges: of the recording.
        title: the name of the recording.
        max_exchange_bytes: characters of frames and bodies of one exchange.
        max_bytes: likewise of all exchanges.
        max_frames: of one side of an exchange.
        max_events: of all sides of all exchanges: those behind are neither drawn nor counted.
    """
    recording = recording_of(
        exchanges,
        title,
        max_exchange_bytes=max_exchange_bytes,
        max_bytes=max_bytes,
        max_frames=max_frames,
        max_events=max_events,
    )
    # json.dumps writes ASCII, so a lone surrogate does no harm.
    return view.page_of(title, json.dumps(recording).replace("<", "\\u003c"))


def recording_of(
    exchanges: Sequence[RecordedExchange],
    title: str,
    *,
    max_exchange_bytes: int = MAX_EXCHANGE_BYTES,
    max_bytes: int = MAX_BYTES,
    max_frames: int = MAX_FRAMES,
    max_events: int = MAX_EVENTS,
    max_exchanges: int = MAX_EXCHANGES,
) -> Json:
    """A recording as the page draws it.

    Args:
        exchanges: of the recording.
        title: the name of the recording.
        max_exchange_bytes: see ``page``.
        max_bytes: see ``page``.
        max_frames: see ``page``.
        max_events: see ``page``.
        max_exchanges: the first ones.
    """
    drawn = exchanges[:max_exchanges]
    budget, events = _Budget(max_bytes), _Events(max_frames, max_events)
    shown = [_exchange(one, _Budget(max_exchange_bytes, budget), events) for one in drawn]
    more = len(exchanges) - len(drawn)
    by = f"lifecycle-proxy {__version__}"
    return {"by": by, "title": title, "exchanges": shown, "more": more}


def exchange_of(exchange: RecordedExchange) -> Json:
    """One exchange as the page draws it."""
    return _exchange(exchange, _Budget(MAX_EXCHANGE_BYTES), _Events(MAX_FRAMES, _MAX_EVENTS_LIVE))


@dataclass(slots=True)
class _Events:
    """How many frames of a side are drawn, and how many events may still be parsed."""

    max_frames: int
    left: int

    def skim(self, side: Side, known: timeline.Summaries) -> timeline.Skim:
        found = timeline.skim(side, self.max_frames, self.left, known)
        self.left -= found.parsed
        return found


@dataclass(slots=True)
class _Budget:
    """How many characters may still be added. ``of`` is the budget that this one is part of."""

    left: int
    of: "_Budget | None" = None
    was_cut: bool = False

    def take(self, text: str) -> str:
        left = self.left if self.of is None else min(self.left, self.of.left)
        self.was_cut = self.was_cut or len(text) > left
        taken = text[: max(0, left)]
        self.left -= len(taken)
        if self.of is not None:
            self.of.left -= len(taken)
        return taken


class _FrameTable:
    """Raw frames by number. A frame that was forwarded unchanged is there once for both sides."""

    def __init__(self, budget: _Budget) -> None:
        self.texts: list[str] = []
        self.budget = budget
        self._numbers: dict[bytes, int] = {}

    def number(self, raw: bytes) -> int:
        if raw not in self._numbers:
            self._numbers[raw] = len(self.texts)
            self.texts.append(self.budget.take(_text(raw)))
        return self._numbers[raw]


def _exchange(exchange: RecordedExchange, budget: _Budget, events: _Events) -> Json:
    forwarded = exchange.forwarded
    table, known = _FrameTable(budget), timeline.Summaries()
    client, upstream = (events.skim(one, known) for one in (exchange.client, exchange.upstream))
    bars = tool_bars.of_frames(exchange, client.tools or upstream.tools)
    fields: Json = {
        "id": exchange.id,
        "ts": exchange.ts,
        "line": question.line(exchange),
        "bad": question.is_bad(exchange),
        "route": exchange.route,
        "ended": exchange.ended,
        "error": _brief(exchange.error),
        "omitted": _brief(exchange.omitted),
        "complete": exchange.is_complete,
        "end": timeline.end_ms(exchange),
        "request": _request(exchange.request, budget),
        "forwarded": None if forwarded is None else _forwarded(exchange, forwarded, budget),
        "bars": [_bar(bar) for bar in bars[:_MAX_BARS]],
        "moreBars": max(0, len(bars) - _MAX_BARS),
        "client": _side(exchange.client, client, table),
        "upstream": _side(exchange.upstream, upstream, table),
        "raws": table.texts,
    }
    fields["cut"] = budget.was_cut
    return fields


def _request(request: Request, budget: _Budget) -> Json:
    return {
        "method": _brief(request.method),
        "target": _brief(request.target),
        "headers": _headers(request.headers),
        "body": None if request.body is None else budget.take(_text(request.body)),
        "size": len(request.body or b""),
        "omitted": request.omitted,
    }


def _forwarded(exchange: RecordedExchange, forwarded: Request, budget: _Budget) -> Json:
    """The forwarded request; without its body if that is the client's."""
    is_same = forwarded.body == exchange.request.body
    return {**_request(forwarded, _Budget(0) if is_same else budget), "same": is_same}


def _side(side: Side, found: timeline.Skim, table: _FrameTable) -> Json:
    return {
        "status": side.status,
        "reason": _brief(side.reason),
        "headers": _headers(side.headers),
        "ms": side.ms,
        "end": side.end,
        "endMs": side.end_ms,
        "size": len(side.body),
        "frames": [_frame(frame, table) for frame in found.frames],
        "more": found.more,
        "unread": found.unread,
    }


def _frame(frame: timeline.Frame, table: _FrameTable) -> list[Any]:
    """A frame as a list, in the order that the page's script expects."""
    summary = frame.summary
    return [
        round(frame.ms, 3),
        len(frame.raw),
        int(frame.is_added),
        summary.kind,
        summary.words[:_MAX_WORDS],
        table.budget.take(summary.delta("text")),
        table.budget.take(summary.delta("thought")),
        table.number(frame.raw),
    ]


def _bar(bar: tool_bars.Bar) -> Json:
    return {
        "tool": bar.tool[:_MAX_WORDS],
        "label": bar.label[:_MAX_WORDS],
        "emoji": bar.emoji[:_MAX_WORDS],
        "start": bar.start,
        "stop": bar.stop,
        "took": bar.duration_ms,
        "failed": bar.is_error,
        "reason": bar.reason[:_MAX_WORDS],
    }


def _headers(headers: Headers) -> list[Iterable[str]]:
    return [[_brief(name), _brief(value)] for name, value in headers[:_MAX_HEADERS]]


def _brief(text: str) -> str:
    """A text as long as a proxy takes one; longer ones were written by somebody else."""
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "… cut off in this page"


def _text(data: bytes) -> str:
    """Bytes as text; invalid UTF-8 as ``\\xff``."""
    return data.decode("utf-8", "backslashreplace")
