"""The command ``show``: a list of the exchanges of a recording, and the events of each with times.

Recordings contain text from anywhere. Characters that do not print are escaped, so that a line
stays one line and nothing changes the state of the terminal.
"""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Final, TextIO

from lifecycle_proxy.core.printable import printable, wants_colour
from lifecycle_proxy.exchange.model import SideName
from lifecycle_proxy.inspect import timeline, tool_bars
from lifecycle_proxy.inspect.choice import chosen
from lifecycle_proxy.inspect.terminal import Paper, columns, padded, size
from lifecycle_proxy.inspect.timeline import Frame
from lifecycle_proxy.inspect.tool_bars import Bar
from lifecycle_proxy.recording import cassette, question
from lifecycle_proxy.recording.cassette import RecordedExchange

_SHORTEST_ID: Final = 8
_LEAST_WIDTH: Final = 40
_TOOLS_WIDTH: Final = 20
_BOLD: Final = "\x1b[1m"
_DIM: Final = "\x1b[2m"
_ADDED: Final = "\x1b[36m"
_COLOURS: Final = {
    "tool": _ADDED,
    "call": "\x1b[33m",
    "result": "\x1b[33m",
    "thought": _DIM,
    "comment": _DIM,
    "error": "\x1b[31m",
    "bytes": "\x1b[35m",
}


def show(
    path: Path,
    *,
    exchange_id: str = "",
    side: SideName = "client",
    stream: TextIO | None = None,
) -> None:
    """Write a cassette, or a folder of them, to the terminal.

    Args:
        path: a cassette, or a folder of them.
        exchange_id: only this exchange; the beginning of its id is enough.
        side: whose frames.
        stream: standard output, if not given. In colour on a terminal, unless the environment has
            ``NO_COLOR``.

    Raises:
        CassetteError: it is not a cassette, or does not contain the exchange.
    """
    stream = sys.stdout if stream is None else stream
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="replace")  # not all encodings have emojis
    lines = render(
        cassette.load(path),
        width=shutil.get_terminal_size((100, 24)).columns,
        colour=wants_colour(stream.isatty(), os.environ),
        side=side,
        exchange_id=exchange_id,
    )
    with suppress(BrokenPipeError):
        for line in lines:
            stream.write(f"{line}\n")
        stream.flush()
        return
    # The reader, such as head, has closed the pipe. Python's flush at exit must not fail.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def render(
    exchanges: Sequence[RecordedExchange],
    *,
    width: int = 100,
    colour: bool = False,
    side: SideName = "client",
    exchange_id: str = "",
) -> Iterator[str]:
    """The lines to write, without line ends.

    Args:
        exchanges: of a recording, in order.
        width: of the terminal; no line is wider, in columns.
        colour: write escape sequences for colours.
        side: whose frames.
        exchange_id: only this exchange; the beginning of its id is enough.

    Raises:
        CassetteError: there is no such exchange.
    """
    paper = Paper(max(width, _LEAST_WIDTH), colour)
    ids = _short_ids(exchanges)
    numbered = [
        (number, exchange)
        for number, exchange in enumerate(exchanges, 1)
        if not exchange_id or exchange.id == chosen(exchanges, exchange_id).id
    ]
    yield from _list(paper, numbered, ids)
    for number, exchange in numbered:
        yield ""
        yield from _exchange(paper, number, exchange, side)


def _short_ids(exchanges: Sequence[RecordedExchange]) -> dict[str, str]:
    """The shortest beginnings of the ids that are all different."""
    ids = {exchange.id for exchange in exchanges}
    longest = max((len(one) for one in ids), default=0)
    length = _SHORTEST_ID
    while length < longest and len({one[:length] for one in ids}) < len(ids):
        length += 1
    return {one: one[:length] for one in ids}


# --- the list -----------------------------------------------------------------------------------


def _list(
    paper: Paper, numbered: Sequence[tuple[int, RecordedExchange]], ids: dict[str, str]
) -> Iterator[str]:
    rows = [_row(number, exchange, ids[exchange.id]) for number, exchange in numbered]
    heads = ("#", "id", "UTC", "status", "ended", "ms", "events", "tools", "request")
    numeric = {0, 3, 5, 6}
    widths = [max(columns(row[at]) for row in (heads, *rows)) for at in range(len(heads))]
    widths[7] = min(widths[7], _TOOLS_WIDTH)
    colours = [_COLOURS["error"] if question.is_bad(one) else "" for _, one in numbered]
    for row, colour in zip((heads, *rows), (_BOLD, *colours), strict=True):
        cells = (
            f"{cell:>{widths[at]}}" if at in numeric else padded(cell, widths[at])
            for at, cell in enumerate(row)
        )
        yield paper.line("  ".join(cells), colour)
    if example := next((row[6] for row in rows if "+" in row[6]), ""):
        others, added = example.split("+")
        yield paper.line(f"{example}: {others} events, and {added} that the proxy added", _DIM)


def _row(number: int, exchange: RecordedExchange, short_id: str) -> tuple[str, ...]:
    frames = timeline.frames(exchange.client)
    added = sum(frame.is_added for frame in frames)
    return (
        str(number),
        printable(short_id),
        printable(exchange.ts[11:19]),
        str(exchange.client.status or "-"),
        printable(_ended(exchange)),
        f"{timeline.end_ms(exchange):.0f}",
        f"{len(frames) - added}+{added}" if added else str(len(frames)),
        printable(_tools(exchange)),
        printable(question.line(exchange)),
    )


def _tools(exchange: RecordedExchange) -> str:
    """The names of the tools, each once, with how often it was called."""
    counts = Counter(bar.tool for bar in tool_bars.of(exchange))
    return ", ".join(f"{name} x{n}" if n > 1 else name for name, n in counts.items()) or "-"


def _ended(exchange: RecordedExchange) -> str:
    return exchange.ended or ("-" if exchange.is_complete else "incomplete")


# --- one exchange -------------------------------------------------------------------------------


def _exchange(
    paper: Paper, number: int, exchange: RecordedExchange, side: SideName
) -> Iterator[str]:
    request = exchange.request
    yield paper.line(f"{number}  {exchange.id}  {exchange.ts}  {exchange.route}", _BOLD)
    yield paper.line(f"   {request.method} {request.target}  {size(len(request.body or b''))}")
    if words := question.asked(exchange):
        yield paper.line(f"   {question.model(exchange) or 'asked'}: {words}")
    shown = exchange.side(side)
    frames = timeline.frames(shown)
    added = sum(frame.is_added for frame in frames)
    head = f"{shown.status} {shown.reason}".strip() if shown.status else "no answer"
    end = f"{shown.end} at {shown.end_ms:.1f} ms" if shown.end else "no end"
    yield paper.line(
        f"   {side}: {head} at {shown.ms:.1f} ms, {size(len(shown.body))}, "
        f"{len(frames)} events ({added} added by the proxy), {end}; {_ended(exchange)}"
    )
    for what in filter(None, (exchange.error, exchange.omitted and f"omitted: {exchange.omitted}")):
        yield paper.line(f"   {what}", _COLOURS["error"])
    yield from _bars(paper, tool_bars.of(exchange), timeline.end_ms(exchange))
    yield from _frames(paper, frames)


def _bars(paper: Paper, bars: Sequence[Bar], end_ms: float) -> Iterator[str]:
    if not bars:
        return
    names = [f"{bar.tool}  {bar.label}".strip() for bar in bars]
    left = min(max(columns(printable(name)) for name in names), paper.width // 3)
    ends = [_took(bar) for bar in bars]
    right = min(max(map(len, ends)), paper.width // 3)
    track = paper.width - 3 - left - right - 4
    yield ""
    for bar, name, end in zip(bars, names, ends, strict=True):
        drawn = _track(bar, end_ms, track) if track > 0 else ""
        yield paper.line(
            f"   {padded(name, left)}  {drawn}  {end}",
            _COLOURS["error"] if bar.is_error else _ADDED,
        )


def _track(bar: Bar, end_ms: float, width: int) -> str:
    """A bar of at least one column; lighter, and to the end, for a call that was not completed."""
    if bar.start is None:
        return " " * width
    scale = width / max(end_ms, 1e-9)
    first = min(int(bar.start * scale), width - 1)
    stop = end_ms if bar.stop is None else bar.stop
    last = min(max(int(stop * scale), first + 1), width)
    drawn = ("█" if bar.stop is not None else "▒") * (last - first)
    return "·" * first + drawn + "·" * (width - last)


def _took(bar: Bar) -> str:
    took = bar.duration_ms
    if took is None and bar.start is not None and bar.stop is not None:
        took = bar.stop - bar.start
    state = "failed" if bar.is_error else "" if took is not None else "not completed"
    words = (f"{took:.0f} ms" if took is not None else "", state, printable(bar.reason))
    return " ".join(filter(None, words))


def _frames(paper: Paper, frames: Sequence[Frame]) -> Iterator[str]:
    if not frames:
        return
    yield ""
    yield paper.line(f"  {'ms':>10}  {'size':>9}", _BOLD)
    for frame in frames:
        mark = "+" if frame.is_added else " "
        words = f"{mark} {frame.ms:>10.1f}  {size(len(frame.raw)):>9}  {frame.summary.words}"
        yield paper.line(words, _ADDED if frame.is_added else _COLOURS.get(frame.summary.kind, ""))
