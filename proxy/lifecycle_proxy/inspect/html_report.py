"""A recording as one HTML page: nothing else is needed to look at it, and nothing in it can run.

What was recorded is in the page as JSON, in a block that no browser executes, with ``<`` escaped so
that it cannot end the block; the page's own script writes it with ``textContent`` only. A content
security policy allows that script, that style sheet, and no network.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from lifecycle_proxy import __version__
from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.inspect import timeline
from lifecycle_proxy.recording import question
from lifecycle_proxy.recording.cassette import Exchange, Request, Side

Json = dict[str, Any]

MAX_EXCHANGE_BYTES: Final = 2 << 20
MAX_BYTES: Final = 48 << 20
MAX_FRAMES: Final = 5000
_MAX_WORDS: Final = 300
_INLINE: Final = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)
_HOLE: Final = re.compile(r"\{\{(csp|title|data)\}\}")


def page(
    exchanges: Sequence[Exchange],
    *,
    title: str,
    max_exchange_bytes: int = MAX_EXCHANGE_BYTES,
    max_bytes: int = MAX_BYTES,
    max_frames: int = MAX_FRAMES,
) -> str:
    """The page.

    Args:
        title: the name of the recording.
        max_exchange_bytes: of frames and bodies so many characters of one exchange are put in.
        max_bytes: likewise of all exchanges.
        max_frames: of one side of an exchange.

    What is left out the page says, in each place.
    """
    budget = _Budget(max_bytes)
    shown = [_exchange(one, _Budget(max_exchange_bytes, budget), max_frames) for one in exchanges]
    data = json.dumps({"by": f"lifecycle-proxy {__version__}", "title": title, "exchanges": shown})
    template = (
        resources.files("lifecycle_proxy.inspect").joinpath("html_report.html").read_text("utf-8")
    )
    holes: dict[str, Callable[[], str]] = {
        "csp": lambda: _policy(template),
        "title": lambda: html.escape(title.encode("utf-8", "replace").decode()),
        # ASCII as it is, so that a lone surrogate does no harm either.
        "data": lambda: data.replace("<", "\\u003c"),
    }
    return _HOLE.sub(lambda hole: holes[hole[1]](), template)


def _policy(template: str) -> str:
    """No network, and of scripts and styles those of the template alone."""
    allowed = {
        kind: f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for kind, text in _INLINE.findall(template)
    }
    return (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; "
        "base-uri 'none'; form-action 'none'"
    )


@dataclass(slots=True)
class _Budget:
    """How many characters may still be put in. What one exchange takes, all have less."""

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
    """Raw frames by number: what went through unchanged is put in once for both sides."""

    def __init__(self, budget: _Budget) -> None:
        self.texts: list[str] = []
        self.budget = budget
        self._numbers: dict[bytes, int] = {}

    def number(self, raw: bytes) -> int:
        if raw not in self._numbers:
            self._numbers[raw] = len(self.texts)
            self.texts.append(self.budget.take(_text(raw)))
        return self._numbers[raw]


def _exchange(exchange: Exchange, budget: _Budget, max_frames: int) -> Json:
    forwarded = exchange.forwarded
    table = _FrameTable(budget)
    bars = timeline.bars(exchange)
    told: Json = {
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
    told["cut"] = budget.was_cut
    return told


def _request(request: Request, budget: _Budget) -> Json:
    return {
        "method": request.method,
        "target": request.target,
        "headers": _headers(request.headers),
        "body": None if request.body is None else budget.take(_text(request.body)),
        "size": len(request.body or b""),
        "omitted": request.omitted,
    }


def _forwarded(exchange: Exchange, forwarded: Request, budget: _Budget) -> Json:
    """Without the body where it is the client's."""
    told = _request(forwarded, _Budget(0) if forwarded.body == exchange.request.body else budget)
    told["same"] = forwarded.body == exchange.request.body
    return told


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
    """In the order in which the page's script takes it apart."""
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
    """Bytes as text, with those that are none written as ``\\xff``."""
    return data.decode("utf-8", "backslashreplace")
