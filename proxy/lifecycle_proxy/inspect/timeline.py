"""A recorded exchange in time: its frames, and its tool calls from running to completed.

A cassette contains reads, not frames. Parsing finds the frames here; the time of a frame is that of
the read with its last byte.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from lifecycle_proxy.core import sse
from lifecycle_proxy.exchange.content_coding import CODINGS, Decompressor
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.media_type import is_event_stream
from lifecycle_proxy.exchange.model import SideName
from lifecycle_proxy.inspect.summary import EventSummary, summarize, summarize_body
from lifecycle_proxy.recording.cassette import Json, Piece, RecordedExchange, Side

_MAX_EVENT_BYTES: Final = 64 << 20
_FIRST_READS: Final = 8  # a byte each, at worst


class Frame(NamedTuple):
    """One event of a stream; of any other body, one read.

    Attributes:
        ms: when it was complete, in milliseconds since the request.
        start: the offset of its first byte in the decompressed body.
        raw: its bytes.
        is_added: whether the proxy added it.
        summary: its content in a few words.
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
        start: in milliseconds since the request; None if no frame of the stream has the call.
        stop: likewise; None if the call was never completed.
        duration_ms: that of the completed frame.
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
    """The frames of one side, in order. Their raw bytes are the whole body, decompressed."""
    pieces = clear(side)
    if not _is_event_stream(side, pieces):
        return list(_reads(pieces))
    parser, found, start = sse.Parser(_MAX_EVENT_BYTES), [], 0
    added = list(_added(pieces))
    for ms, events in _events(parser, pieces):
        for event in events:
            for part in _parted(event, start, added):
                is_added = _is_added(start, start + len(part.raw), added)
                found.append(Frame(ms, start, part.raw, is_added, summarize(part)))
                start += len(part.raw)
    return found


def clear(side: Side) -> list[Piece]:
    """The reads of a side, decompressed; as they are, if that fails."""
    coding = side.header("Content-Encoding").strip().lower()
    if coding not in CODINGS:
        return side.pieces
    inflate = Decompressor()
    try:
        return [Piece(piece.ms, inflate.feed(piece.data)) for piece in side.pieces]
    except ProxyError:
        return side.pieces


def end_ms(exchange: RecordedExchange) -> float:
    """The last time in a recorded exchange, in milliseconds since the request."""
    sides = (exchange.upstream, exchange.client)
    times = [time for side in sides for time in (side.ms, side.end_ms)]
    return max(*times, *(side.pieces[-1].ms for side in sides if side.pieces))


def bars(exchange: RecordedExchange) -> list[Bar]:
    """The tool calls in order: those in the client's stream, else those in the upstream's."""
    found: list[Bar] = []
    for name in _SIDES:
        found = found or list(_bars(frames(exchange.side(name))))
    known = {(bar.id, bar.choice) for bar in found}
    untimed = [frame for frame in exchange.tools if _key(frame) not in known]
    return found + [_untimed(bar) for bar in _bars(_frames_of(untimed))]


_SIDES: Final[tuple[SideName, ...]] = ("client", "upstream")


def _frames_of(tools: Iterable[Json]) -> Iterator[Frame]:
    for fields in tools:
        yield Frame(0.0, 0, b"", is_added=True, summary=EventSummary("tool", "", tool=fields))


def _untimed(bar: Bar) -> Bar:
    bar.start = bar.stop = None
    return bar


def _bars(frames: Iterable[Frame]) -> Iterator[Bar]:
    """Bars from lifecycle frames. An id may be used again after its call is completed."""
    bars: list[Bar] = []
    running: dict[tuple[str, int], Bar] = {}
    for frame in frames:
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
    if bar.start == ms:  # its running event was in an earlier exchange, or in the same read
        bar.start = max(0.0, ms - (bar.duration_ms or 0.0))


def _is_event_stream(side: Side, pieces: list[Piece]) -> bool:
    """By its content type or its first bytes: not all servers send the right type."""
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
    """The ranges that the proxy added, as (start, stop) in the whole body."""
    start = 0
    for piece in pieces:
        yield from ((start + first, start + stop) for first, stop in piece.added)
        start += len(piece.data)


def _parted(event: sse.Event, start: int, added: list[tuple[int, int]]) -> list[sse.Event]:
    """Split comments of the proxy, which end with one line end only, from the event after them."""
    parts: list[sse.Event] = []
    at, stop = start, start + len(event.raw)
    for first, last in added:
        if last <= start:
            continue
        comment = event.raw[at - start : last - start]
        # Only comments at the beginning: a range further inside is in the upstream's own event.
        if first != at or last >= stop or not comment.startswith(b":"):
            break
        parts.append(sse.Event(comment, b"", None))
        at = last
    return [*parts, event._replace(raw=event.raw[at - start :])] if parts else [event]


def _is_added(start: int, stop: int, added: list[tuple[int, int]]) -> bool:
    """Whether most of a frame was added: it may begin with a line end of the upstream's.

    The ranges are in order, and so are the frames: ranges before the frame are removed.
    """
    while added and added[0][1] <= start:
        del added[0]
    size = 0
    for first, last in added:
        if first >= stop:
            break
        size += min(stop, last) - max(start, first)
    return size * 2 > stop - start
