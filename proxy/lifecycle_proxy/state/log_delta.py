"""What of a stream's log is sent to a store outside of this process, and how it is written there.

Events carry their numbers, and bytes their offset, so what is sent twice is kept once.
"""

from typing import Any, Final, NamedTuple

import msgspec
import orjson

from lifecycle_proxy.core.dialects.fields import dumps
from lifecycle_proxy.core.stream_events import FINAL_TYPE, EventType, StreamEvent
from lifecycle_proxy.state.memory_stream import KeptEvent, follow
from lifecycle_proxy.state.memory_writer import MemoryStream
from lifecycle_proxy.state.stream_records import BytesEnd, BytesHead, Fields, StreamKey

_MOST_EVENTS: Final = 50
_MOST_BYTES: Final = 1 << 16
_event: Final = msgspec.json.Decoder(tuple[float, EventType, int, msgspec.Raw]).decode
_head: Final = msgspec.json.Decoder(BytesHead).decode
_json_of_head: Final = msgspec.json.Encoder().encode  # bytes are base64


class LogDelta(NamedTuple):
    """What is new of one stream.

    Attributes:
        key: of the stream.
        is_first: no event was sent before.
        events: each with its number; what ``encoded`` makes.
        first: the number of the oldest event that is kept.
        last: the number of the newest one here.
        open: JSON: data of the calls that were open in front of ``first``.
        done: JSON: data of ``stream.done``; empty while it is not among ``events`` or before.
        offset: of ``data`` in the body.
        data: bytes of the body.
        head: JSON: of the response, empty if there is none yet.
        end: of the body, once ``data`` is all of it.
        size: of all that is kept, in bytes.
        before: as in ``Page``.
    """

    key: StreamKey
    is_first: bool
    started_at: float
    is_resumable: bool
    events: list[tuple[int, bytes]]
    first: int
    last: int
    open: bytes
    done: bytes
    offset: int
    data: bytes
    head: bytes
    end: BytesEnd
    size: int
    before: int = 0


class StreamMirror:
    """How much of a stream the store has.

    Args:
        stream: as this process has it.
        is_clear: the store has no earlier stream of this name.
    """

    def __init__(self, stream: MemoryStream, *, is_clear: bool = True) -> None:
        self.stream = stream
        self.is_clear = is_clear
        self.restart()

    def restart(self) -> None:
        """The store has nothing of it."""
        self.is_begun = False
        self._seq = 0
        self._offset = 0
        self._end: BytesEnd = ""

    def delta(self) -> LogDelta:
        """What the store does not have yet, or the first part of it."""
        stream, events, kept = self.stream, self.stream.events, self.stream.kept
        new = events.behind(self._seq, _MOST_EVENTS)
        reached = new[-1][0] if new else max(self._seq, events.last - len(events))
        is_over = events.done is not None and reached >= events.last
        is_given_up = kept.end == "given_up"
        data = b"" if is_given_up else kept.piece(self._offset, _MOST_BYTES)
        has_all = is_given_up or self._offset + len(data) >= len(kept)
        return LogDelta(
            stream.key,
            self._seq == 0,
            stream.started_at,
            kept.is_wanted,
            [(seq, encoded(entry)) for seq, entry in new],
            events.first,
            reached,
            _json(list(events.open_before())),
            _json(events.done) if is_over else b"",
            self._offset,
            data,
            b"" if kept.head is None else _json_of_head(kept.head),
            kept.end if has_all else "",
            events.size + len(kept),
            events.before,
        )

    def sent(self, delta: LogDelta) -> bool:
        """The store has this, too.

        Returns:
            Whether there is more.
        """
        self.is_begun = self.is_clear = True
        self._seq = max(self._seq, delta.last)
        self._offset = delta.offset + len(delta.data)
        self._end = delta.end
        events, kept = self.stream.events, self.stream.kept
        return self._seq < events.last or (
            kept.is_wanted and (self._offset < len(kept) or self._end != kept.end)
        )

    @property
    def is_new(self) -> bool:
        """Whether the store has nothing of it, as far as is known."""
        return self._seq == self._offset == 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        events, kept = self.stream.events, self.stream.kept
        is_written = not kept.is_wanted or bool(self._end)
        return events.done is not None and self._seq >= events.last and is_written


def encoded(event: KeptEvent) -> bytes:
    """An event as a store has it."""
    return b'[%r,"%b",%d,%b]' % (event.at, event.type.encode(), event.offset, event.data)


def decoded(value: bytes) -> KeptEvent:
    """An event of a store.

    Raises:
        msgspec.DecodeError: it is none.
    """
    at, type_, offset, data = _event(value)
    return KeptEvent(at, type_, bytes(data), offset)


def as_event(seq: int, event: KeptEvent) -> StreamEvent:
    """An event as readers get it.

    Args:
        seq: its number.
        event: as it is kept.
    """
    return StreamEvent(seq, event.at, event.type, orjson.loads(event.data))


def decoded_head(value: bytes) -> BytesHead:
    """The head of a response.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _head(value)


def lost_events(
    events: list[tuple[int, KeptEvent]],
    last: int,
    open_before: list[Fields],
    started: float,
    now: float,
) -> list[tuple[int, KeptEvent]]:
    """The end of a stream whose process is gone.

    Args:
        events: all that are kept of it, each with its number.
        last: the number of the newest one.
        open_before: data of calls that were open in front of them.
        started: when the stream began, in seconds of Unix time.
        now: Unix time, in seconds.
    """
    open_ = {(one.get("toolCallId", ""), one.get("choice", 0)): one for one in open_before}
    began: dict[tuple[str, int], float] = {}
    calls = 0
    for _, event in events:
        before = set(open_)
        follow(open_, event)
        calls += event.type == "tool.running"
        began.update((call, event.at) for call in open_.keys() - before)
    seq = last
    result: list[tuple[int, KeptEvent]] = []
    for call, running in open_.items():
        seq += 1
        duration_ms = round((now - began.get(call, started)) * 1000)
        result.append((seq, _kept("tool.completed", _lost(running, duration_ms), now)))
    done = {
        "status": "failed",
        "reason": "producer_lost",
        "durationMs": round((now - started) * 1000),
        "calls": calls,
    }
    return [*result, (seq + 1, _kept(FINAL_TYPE, done, now))]


def _lost(running: Fields, duration_ms: int) -> Fields:
    kept = {name: value for name, value in running.items() if name != "arguments"}
    end: dict[str, Any] = {"durationMs": duration_ms, "isError": True, "reason": "producer_lost"}
    return {**kept, "status": "completed", **end, "outcome": "cut"}


def _kept(type_: EventType, data: Fields, now: float) -> KeptEvent:
    return KeptEvent(now, type_, dumps(data), 0)


def _json(value: Any) -> bytes:
    return dumps(value)
