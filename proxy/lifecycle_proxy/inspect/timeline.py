"""A recorded exchange in time: its frames. ``tool_bars.py`` has its tool calls.

A cassette contains reads, not frames. Parsing finds the frames here; the time of a frame is that of
the read with its last byte.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from msgspec.structs import replace

from lifecycle_proxy.core import sse
from lifecycle_proxy.exchange.content_coding import CODINGS, Decompressor
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.media_type import is_event_stream
from lifecycle_proxy.inspect.summary import EventSummary, summarize, summarize_body
from lifecycle_proxy.recording.cassette import Piece, RecordedExchange, Side

_MAX_EVENT_BYTES: Final = 64 << 20
_MAX_CLEAR_BYTES: Final = 128 << 20  # of a side, decompressed
_FIRST_READS: Final = 8  # a byte each, at worst
_TOOL_KEYS: Final = (b"toolCallId", b"\\u")  # one of them is in each lifecycle frame

Summaries = dict[bytes, EventSummary]


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
class Skim:
    """What of a side is drawn, from one pass over it.

    Attributes:
        frames: the first ones.
        more: how many were counted behind those.
        unread: bytes at the end that were not parsed.
        parsed: how many events were.
        tools: the lifecycle frames among all that were parsed.
    """

    frames: list[Frame] = field(default_factory=list)
    more: int = 0
    unread: int = 0
    parsed: int = 0
    tools: list[Frame] = field(default_factory=list)


class _Unread(NamedTuple):
    """A frame before it is summarized, which is what takes long."""

    ms: float
    start: int
    event: sse.Event
    is_added: bool
    is_body: bool = False

    def summary(self) -> EventSummary:
        return summarize_body(self.event.raw) if self.is_body else summarize(self.event)

    def frame(self, known: Summaries | None = None) -> Frame:
        """It, summarized.

        Args:
            known: summaries of the same bytes: both sides mostly have the same.
        """
        raw = self.event.raw
        found = None if known is None else known.get(raw)
        if found is None:
            found = self.summary()
            if known is not None:
                known[raw] = found
        return Frame(self.ms, self.start, raw, self.is_added, found)


def frames(side: Side) -> list[Frame]:
    """The frames of one side, in order. Their raw bytes are the whole body, decompressed."""
    return [one.frame() for one in _unread(clear(side), side)]


def skim(side: Side, max_frames: int, max_events: int, known: Summaries) -> Skim:
    """The first frames of one side, and all tools in it; however many frames it has.

    Args:
        side: of an exchange.
        max_frames: as many are summarized.
        max_events: as many are parsed.
        known: summaries of the other side; those of this one are added.
    """
    found, pieces = Skim(), clear(side)
    for one in _unread(pieces, side):
        if found.parsed >= max_events:
            found.unread = sum(len(piece.data) for piece in pieces) - one.start
            break
        found.parsed += 1
        is_drawn = len(found.frames) < max_frames
        if not is_drawn:
            found.more += 1
            if not any(key in one.event.raw for key in _TOOL_KEYS):
                continue
        frame = one.frame(known if is_drawn else None)
        if is_drawn:
            found.frames.append(frame)
        if frame.summary.tool is not None:
            found.tools.append(frame)
    return found


def _unread(pieces: list[Piece], side: Side) -> Iterator[_Unread]:
    """The frames of one side, as they are asked for."""
    if not _is_event_stream(side, pieces):
        yield from _reads(pieces)
        return
    parser, start = sse.Parser(_MAX_EVENT_BYTES), 0
    added = deque(_added(pieces))
    for ms, events in _events(parser, pieces):
        for event in events:
            for part in _parted(event, start, added):
                is_added = _is_added(start, start + len(part.raw), added)
                yield _Unread(ms, start, part, is_added)
                start += len(part.raw)


def clear(side: Side) -> list[Piece]:
    """The reads of a side, decompressed; as they are, if that fails or gives too much."""
    coding = side.header("Content-Encoding").strip().lower()
    if coding not in CODINGS:
        return side.pieces
    inflate, size, found = Decompressor(), 0, []
    try:
        for piece in side.pieces:
            found.append(Piece(piece.ms, inflate.feed(piece.data)))
            size += len(found[-1].data)
            if size > _MAX_CLEAR_BYTES:
                return side.pieces
    except ProxyError:
        return side.pieces
    return found


def end_ms(exchange: RecordedExchange) -> float:
    """The last time in a recorded exchange, in milliseconds since the request."""
    sides = (exchange.upstream, exchange.client)
    times = [time for side in sides for time in (side.ms, side.end_ms)]
    return max(*times, *(side.pieces[-1].ms for side in sides if side.pieces))


def _is_event_stream(side: Side, pieces: list[Piece]) -> bool:
    """By its content type or its first bytes: not all servers send the right type."""
    start = b"".join(piece.data for piece in pieces[:_FIRST_READS])
    return is_event_stream(side.header("Content-Type")) or bool(sse.begins_stream(start.lstrip()))


def _reads(pieces: list[Piece]) -> Iterator[_Unread]:
    start = 0
    for piece in pieces:
        event = sse.Event(piece.data, b"", None)
        yield _Unread(piece.ms, start, event, is_added=False, is_body=True)
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


def _parted(event: sse.Event, start: int, added: Iterable[tuple[int, int]]) -> list[sse.Event]:
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
    return [*parts, replace(event, raw=event.raw[at - start :])] if parts else [event]


def _is_added(start: int, stop: int, added: deque[tuple[int, int]]) -> bool:
    """Whether most of a frame was added: it may begin with a line end of the upstream's.

    The ranges are in order, and so are the frames: ranges before the frame are removed.
    """
    while added and added[0][1] <= start:
        added.popleft()
    size = 0
    for first, last in added:
        if first >= stop:
            break
        size += min(stop, last) - max(start, first)
    return size * 2 > stop - start
