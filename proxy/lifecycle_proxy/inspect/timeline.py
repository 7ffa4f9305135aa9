"""What happened when, in one recorded exchange: frames with their times, and tools from their
running to their completed.

A cassette holds reads, not frames. They are found here by parsing, each with the time of the read
that gave its last byte.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from lifecycle_proxy.core import sse
from lifecycle_proxy.exchange.content_coding import CODINGS, Decompressor
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.media_type import is_event_stream
from lifecycle_proxy.exchange.model import SideName
from lifecycle_proxy.inspect.summary import EventSummary, Json, summarize, summarize_body
from lifecycle_proxy.recording.cassette import Exchange, Piece, Side

_MAX_EVENT_BYTES: Final = 64 << 20
_FIRST_READS: Final = 8  # a byte each, at worst


class Frame(NamedTuple):
    """One event of a stream; of any other body, one read.

    Attributes:
        ms: when it was complete, in milliseconds since the request came.
        start: the offset of its first byte in the body, with no content coding.
        is_added: whether the proxy added it.
    """

    ms: float
    start: int
    raw: bytes
    is_added: bool
    summary: EventSummary


@dataclass(slots=True)
class Bar:
    """A tool call, from running to completed.

    Attributes:
        start: in milliseconds since the request came; None where no frame in the stream tells.
        stop: likewise; None where the call was never completed.
        duration_ms: as the completed frame told it.
    """

    id: str
    tool: str
    label: str
    emoji: str
    choice: int = 0
    start: float | None = None
    stop: float | None = None
    duration_ms: float | None = None
    is_error: bool = False
    reason: str = ""


def frames(side: Side) -> list[Frame]:
    """The frames of one side, in order. Their raw bytes are the whole body."""
    pieces = clear(side)
    if not _is_event_stream(side, pieces):
        return list(_reads(pieces))
    parser, found, start = sse.Parser(_MAX_EVENT_BYTES), [], 0
    added = list(_added(pieces))
    for ms, events in _events(parser, pieces):
        for event in events:
            for part in _parted(event, start, added):
                ours = _is_added(start, start + len(part.raw), added)
                found.append(Frame(ms, start, part.raw, ours, summarize(part)))
                start += len(part.raw)
    return found


def clear(side: Side) -> list[Piece]:
    """The reads of a side with its content coding undone; as they are, where that fails."""
    coding = side.header("Content-Encoding").strip().lower()
    if coding not in CODINGS:
        return side.pieces
    inflate = Decompressor()
    try:
        return [Piece(piece.ms, inflate.feed(piece.data)) for piece in side.pieces]
    except ProxyError:
        return side.pieces


def end_ms(exchange: Exchange) -> float:
    """When the last thing happened that was recorded."""
    sides = (exchange.upstream, exchange.client)
    times = [time for side in sides for time in (side.ms, side.end_ms)]
    return max(*times, *(side.pieces[-1].ms for side in sides if side.pieces))


def bars(exchange: Exchange) -> list[Bar]:
    """The tools, in the order they began: as the client was told, else as the upstream told it."""
    found: list[Bar] = []
    for name in _SIDES:
        found = found or list(_bars(frames(exchange.side(name))))
    known = {(bar.id, bar.choice) for bar in found}
    untimed = [frame for frame in exchange.tools if _key(frame) not in known]
    return found + [_untimed(bar) for bar in _bars(_told(untimed))]


_SIDES: Final[tuple[SideName, ...]] = ("client", "upstream")


def _told(tools: Iterable[Json]) -> Iterator[Frame]:
    for fields in tools:
        yield Frame(0.0, 0, b"", is_added=True, summary=EventSummary("tool", "", tool=fields))


def _untimed(bar: Bar) -> Bar:
    bar.start = bar.stop = None
    return bar


def _bars(told: Iterable[Frame]) -> Iterator[Bar]:
    """Bars from lifecycle frames. An id may come again when the call before it is over."""
    bars: list[Bar] = []
    running: dict[tuple[str, int], Bar] = {}
    for frame in told:
        fields = frame.summary.tool
        if fields is None:
            continue
        key = _key(fields)
        bar = running.pop(key, None)
        if bar is None or fields.get("status") == "running":
            bar = _begun(fields, frame.ms)
            bars.append(bar)
        if fields.get("status") == "running":
            running[key] = bar
        else:
            _complete(bar, fields, frame.ms)
    return iter(bars)


def _key(fields: Json) -> tuple[str, int]:
    choice = fields.get("choice")
    return str(fields.get("toolCallId")), choice if isinstance(choice, int) else 0


def _begun(fields: Json, ms: float) -> Bar:
    tool, label, emoji = (str(fields.get(key) or "") for key in ("tool", "label", "emoji"))
    exact, choice = _key(fields)
    return Bar(exact, tool, "" if label == tool else label, emoji, choice, start=ms)


def _complete(bar: Bar, fields: Json, ms: float) -> None:
    took = fields.get("durationMs")
    bar.stop = ms
    bar.is_error = fields.get("isError") is True
    bar.reason = str(fields.get("reason") or "")
    if isinstance(took, int | float):
        bar.duration_ms = took
    if bar.start == ms:  # its running was told in an earlier exchange, or in the same read
        bar.start = max(0.0, ms - (bar.duration_ms or 0.0))


def _is_event_stream(side: Side, pieces: list[Piece]) -> bool:
    """By its type, or by its looks: not all servers say what they send."""
    start = b"".join(piece.data for piece in pieces[:_FIRST_READS])
    return is_event_stream(side.header("Content-Type")) or bool(sse.begins_stream(start.lstrip()))


def _reads(pieces: list[Piece]) -> Iterator[Frame]:
    start = 0
    for piece in pieces:
        yield Frame(piece.ms, start, piece.data, is_added=False, summary=summarize_body(piece.data))
        start += len(piece.data)


def _events(parser: sse.Parser, pieces: list[Piece]) -> Iterator[tuple[float, list[sse.Event]]]:
    for piece in pieces:
        yield piece.ms, parser.feed(piece.data)
    yield pieces[-1].ms if pieces else 0.0, parser.eof()


def _added(pieces: list[Piece]) -> Iterator[tuple[int, int]]:
    """What the proxy added, in offsets of the whole body."""
    start = 0
    for piece in pieces:
        yield from ((start + first, start + stop) for first, stop in piece.added)
        start += len(piece.data)


def _parted(event: sse.Event, start: int, added: list[tuple[int, int]]) -> list[sse.Event]:
    """Comments of the proxy with one line end behind them, and the event that follows."""
    parts: list[sse.Event] = []
    at, stop = start, start + len(event.raw)
    for first, last in added:
        if last <= start:
            continue
        comment = event.raw[at - start : last - start]
        if first != at or last >= stop or not comment.startswith(b":"):
            break
        parts.append(sse.Event(comment, b"", None))
        at = last
    return [*parts, event._replace(raw=event.raw[at - start :])] if parts else [event]


def _is_added(start: int, stop: int, added: list[tuple[int, int]]) -> bool:
    """Whether most of a frame was added: in front of ours there may be a line end of the other's.

    The ranges are in order, and so are the frames: those that are passed are dropped.
    """
    while added and added[0][1] <= start:
        del added[0]
    size = 0
    for first, last in added:
        if first >= stop:
            break
        size += min(stop, last) - max(start, first)
    return size * 2 > stop - start
