"""One stream in memory, and its writer.

What is written is only put aside at first: most streams have no reader, and nothing is made of
their events then. They are made when somebody looks at them.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from lifecycle_proxy.core.events import ToolCompleted, ToolRunning
from lifecycle_proxy.core.stream_events import FINAL_TYPE, EventType
from lifecycle_proxy.core.stream_fields import tool_fields
from lifecycle_proxy.state.log_shares import Measure
from lifecycle_proxy.state.memory_stream import NO_BYTES, KeptBytes, KeptEvents
from lifecycle_proxy.state.stream_records import BytesEnd, BytesHead, EventData, StreamKey

# What is put aside is not counted, so it is little: characters, of which each event takes some.
_ROOM: Final = 4_000
_EACH: Final = 250
# These events have no text of any length.
_SHORT: Final = frozenset({"usage", FINAL_TYPE, "llm_failover"})


class _Log(Protocol):
    @property
    def now(self) -> Callable[[], float]: ...
    def count(self, stream: "MemoryStream", measure: Measure, size: int) -> None: ...
    def ended(self, stream: "MemoryStream") -> None: ...
    def make_room(self, stream: "MemoryStream") -> None: ...
    def make_room_for_bytes(self, stream: "MemoryStream") -> None: ...
    def forget(self, stream: "MemoryStream") -> None: ...


class MemoryStream:
    """See ``LogWriter``.

    Args:
        log: of all streams.
        key: of this one.
        is_resumable: its bytes are wanted.
        before: the number of the last event of earlier streams of this id.
    """

    __slots__ = (
        *("_aside", "_before", "_budget", "_events", "_is_kept", "_log", "_now", "_room"),
        *("is_done", "kept", "key", "read_at", "readers", "started_at"),
    )

    def __init__(self, log: _Log, key: StreamKey, *, is_resumable: bool, before: int = 0) -> None:
        self._log = log
        self._now = log.now
        self._before = before
        self.key: Final = key
        self._is_kept = True
        self._aside: list[tuple[EventType, EventData, float, int]] = []
        self._budget = self._room = _ROOM  # for what is put aside; none where somebody waits
        self._events: KeptEvents | None = None
        self.is_done = False
        self.started_at = self._now()
        self.readers = 0  # that wait for bytes
        self.read_at = -math.inf
        self.kept = KeptBytes(partial(log.count, self, "bytes")) if is_resumable else NO_BYTES

    @property
    def events(self) -> KeptEvents:
        """All events that are kept."""
        events = self._events
        if events is None:
            count = partial(self._log.count, self, "events")
            events = self._events = KeptEvents(count, self._before)
        if self._aside:
            aside, self._aside, self._room = self._aside, [], self._budget
            for type_, data, at, offset in aside:
                if isinstance(data, ToolRunning | ToolCompleted):
                    data = tool_fields(data)  # noqa: PLW2901
                events.append(type_, data, at, offset)
            self._log.make_room(self)
        return events

    @property
    def last(self) -> int:
        """The number of the newest event."""
        made = self._before if self._events is None else self._events.last
        return made + len(self._aside)

    @property
    def keeps_bytes(self) -> bool:
        return self._is_kept and self.kept.is_wanted and self.kept.end != "given_up"

    def append(self, type_: EventType, data: EventData) -> None:
        """See ``LogWriter``."""
        if self.is_done:
            return
        self._aside.append((type_, data, self._now(), self.kept.total))
        if type_ == FINAL_TYPE:
            self.is_done = True
            self._log.ended(self)
        self._room -= _EACH if type_ in _SHORT else _EACH + _length(data)
        if self._room < 0:
            _ = self.events  # makes them

    async def wait(self, wait_s: float) -> None:
        """Until there is a new event, or the time is over. From now on none is put aside."""
        self._budget = self._room = -1
        await self.events.wait(wait_s)

    def begin_bytes(self, head: BytesHead) -> None:
        """See ``LogWriter``."""
        if self._is_kept:
            self.kept.begin(head)

    def write(self, data: bytes) -> None:
        """See ``LogWriter``."""
        if self._is_kept:
            self.kept.write(data)
            self._log.make_room_for_bytes(self)

    def end_bytes(self, end: BytesEnd) -> None:
        """See ``LogWriter``."""
        self.kept.finish(end)

    def size_in(self, measure: Measure) -> int:
        """See ``Shrinkable``."""
        if measure == "bytes":
            return len(self.kept)
        return 0 if measure == "streams" or self._events is None else self._events.size

    def shrink(self, measure: Measure) -> bool:
        """See ``Shrinkable``."""
        if not self.size_in(measure):
            return False
        if measure == "bytes":
            self.kept.give_up()
        elif self._events is not None:
            self._events.drop_oldest()
        return True

    def discard(self) -> None:
        """See ``LogWriter``."""
        self._log.forget(self)

    def clear(self) -> None:
        """Nothing of it is kept any more."""
        self._is_kept, self.is_done = False, True
        self._aside.clear()
        if self._events is not None:
            self._events.clear()
        self.kept.give_up()


def _length(data: EventData) -> int:
    """How many characters an event has that may be many."""
    if isinstance(data, ToolRunning):
        return len(data.id) + len(data.tool) + len(data.label) + len(data.arguments)
    if isinstance(data, ToolCompleted):
        return len(data.id) + len(data.tool) + len(data.label) + len(data.output or "")
    return len(data.get("text") or data.get("delta") or data.get("model") or "")
