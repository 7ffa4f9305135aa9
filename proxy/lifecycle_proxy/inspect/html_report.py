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
from lifecycle_proxy.inspect import timeline, view
from lifecycle_proxy.recording import question
from lifecycle_proxy.recording.cassette import Json, RecordedExchange, Request, Side

MAX_EXCHANGE_BYTES: Final = 2 << 20
MAX_BYTES: Final = 48 << 20
MAX_FRAMES: Final = 5000
_MAX_WORDS: Final = 300


def page(
    exchanges: Sequence[RecordedExchange],
    *,
    title: str,
    max_exchange_bytes: int = MAX_EXCHANGE_BYTES,
    max_bytes: int = MAX_BYTES,
    max_frames: int = MAX_FRAMES,
) -> str:
    """The page. It shows where something is left out because of a limit.

    Args:
        exchanges: of the recording.
        title: the name of the recording.
        max_exchange_bytes: characters of frames and bodies of one exchange.
        max_bytes: likewise of all exchanges.
        max_frames: of one side of an exchange.
    """
    limits = (max_exchange_bytes, max_bytes, max_frames)
    data = json.dumps(recording_of(exchanges, title, *limits))
    # json.dumps writes ASCII, so a lone surrogate does no harm.
    return view.page_of(title, data.replace("<", "\\u003c"))


def recording_of(
    exchanges: Sequence[RecordedExchange],
    title: str,
    max_exchange_bytes: int = MAX_EXCHANGE_BYTES,
    max_bytes: int = MAX_BYTES,
    max_frames: int = MAX_FRAMES,
) -> Json:
    """A recording as the page draws it.

    Args:
        exchanges: of the recording.
        title: the name of the recording.
        max_exchange_bytes: see ``page``.
        max_bytes: see ``page``.
        max_frames: see ``page``.
    """
    budget = _Budget(max_bytes)
    shown = [_exchange(one, _Budget(max_exchange_bytes, budget), max_frames) for one in exchanges]
    return {"by": f"lifecycle-proxy {__version__}", "title": title, "exchanges": shown}


def exchange_of(exchange: RecordedExchange) -> Json:
    """One exchange as the page draws it."""
    return _exchange(exchange, _Budget(MAX_EXCHANGE_BYTES), MAX_FRAMES)


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


def _exchange(exchange: RecordedExchange, budget: _Budget, max_frames: int) -> Json:
    forwarded = exchange.forwarded
    table = _FrameTable(budget)
    bars = timeline.bars(exchange)
    fields: Json = {
        "id": exchange.id,
        "ts": exchange.ts,
        "line": question.line(exchange),
        "bad": question.is_bad(exchange),
        "route": exchange.route,
        "ended": exchange.ended,
        "error": exchange.error,
        "omitted": exchange.omitted,
        "complete": exchange.is_complete,
        "end": timeline.end_ms(exchange),
        "request": _request(exchange.request, budget),
        "forwarded": None if forwarded is None else _forwarded(exchange, forwarded, budget),
        "bars": [_bar(bar) for bar in bars],
        "client": _side(exchange.client, table, max_frames),
        "upstream": _side(exchange.upstream, table, max_frames),
        "raws": table.texts,
    }
    fields["cut"] = budget.was_cut
    return fields


def _request(request: Request, budget: _Budget) -> Json:
    return {
        "method": request.method,
        "target": request.target,
        "headers": _headers(request.headers),
        "body": None if request.body is None else budget.take(_text(request.body)),
        "size": len(request.body or b""),
        "omitted": request.omitted,
    }


def _forwarded(exchange: RecordedExchange, forwarded: Request, budget: _Budget) -> Json:
    """The forwarded request; without its body if that is the client's."""
    is_same = forwarded.body == exchange.request.body
    return {**_request(forwarded, _Budget(0) if is_same else budget), "same": is_same}


def _side(side: Side, table: _FrameTable, max_frames: int) -> Json:
    frames = timeline.frames(side)
    shown = frames[:max_frames]
    return {
        "status": side.status,
        "reason": side.reason,
        "headers": _headers(side.headers),
        "ms": side.ms,
        "end": side.end,
        "endMs": side.end_ms,
        "size": len(side.body),
        "frames": [_frame(frame, table) for frame in shown],
        "more": len(frames) - len(shown),
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


def _bar(bar: timeline.Bar) -> Json:
    return {
        "tool": bar.tool,
        "label": bar.label,
        "emoji": bar.emoji,
        "start": bar.start,
        "stop": bar.stop,
        "took": bar.duration_ms,
        "failed": bar.is_error,
        "reason": bar.reason,
    }


def _headers(headers: Headers) -> list[Iterable[str]]:
    return [[name, value] for name, value in headers]


def _text(data: bytes) -> str:
    """Bytes as text; invalid UTF-8 as ``\\xff``."""
    return data.decode("utf-8", "backslashreplace")
