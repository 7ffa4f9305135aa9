"""The tool calls of a recorded exchange, from running to completed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from lifecycle_proxy.exchange.model import SideName
from lifecycle_proxy.inspect import timeline
from lifecycle_proxy.inspect.summary import EventSummary
from lifecycle_proxy.inspect.timeline import Frame
from lifecycle_proxy.recording.cassette import Json, RecordedExchange

_MOST_MS: Final = 1e15


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


def of(exchange: RecordedExchange) -> list[Bar]:
    """The tool calls in order: those in the client's stream, else those in the upstream's."""
    both = (timeline.frames(exchange.side(name)) for name in _SIDES)
    found = ([frame for frame in frames if frame.summary.tool] for frames in both)
    return of_frames(exchange, next(filter(None, found), []))


def of_frames(exchange: RecordedExchange, frames: Iterable[Frame]) -> list[Bar]:
    """Likewise.

    Args:
        exchange: whose calls they are.
        frames: the lifecycle frames of one side.
    """
    found = list(_bars(frames))
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
    took: Any = fields.get("durationMs")
    bar.stop = ms
    bar.is_error = fields.get("isError") is True
    bar.reason = str(fields.get("reason") or "")
    # JSON of Python knows NaN, which no browser reads.
    is_number = isinstance(took, int | float) and not isinstance(took, bool)
    if is_number and 0 <= took < _MOST_MS:
        bar.duration_ms = took
    if bar.start == ms:  # its running event was in an earlier exchange, or in the same read
        bar.start = max(0.0, ms - (bar.duration_ms or 0.0))
