"""The events and the bytes of one stream, in memory. The bounds are the log's."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import orjson

from lifecycle_proxy.core.dialects.fields import dumps
from lifecycle_proxy.core.stream_events import FINAL_TYPE, EventType, StreamEvent
from lifecycle_proxy.state.stream_records import BytesEnd, BytesHead, BytesPage, Fields, Page

_PAGE_EVENTS: Final = 100
_PAGE_BYTES: Final = 1 << 16
_ENTRY_BYTES: Final = 200  # what an entry takes besides its data

_Count = Callable[[int], None]


class KeptEvent(NamedTuple):
    """An event as it is kept.

    Attributes:
        at: in seconds of Unix time.
        data: JSON.
        offset: how many bytes the client had got by then.
    """

    at: float
    type: EventType
    data: bytes
    offset: int

    @property
    def size(self) -> int:
        return len(self.data) + _ENTRY_BYTES


class KeptEvents:
    """The events of one stream, numbered densely.

    Args:
        count: called with the bytes that come and go.
        before: the number of the last event of earlier streams of this id.
    """

    __slots__ = (
        *("_changed", "_count", "_dropped", "_entries", "_open"),
        *("before", "done", "last", "size"),
    )

    def __init__(self, count: _Count, before: int = 0) -> None:
        self._count = count
        self._entries: list[KeptEvent] = []
        self._dropped = 0  # of the entries, at their beginning
        # Calls that began in what was dropped, and did not end in it.
        self._open: dict[tuple[str, int], Fields] = {}
        self._changed: asyncio.Event | None = None  # once somebody waits
        self.size = 0
        self.before = self.last = before
        self.done: Fields | None = None

    def __len__(self) -> int:
        return len(self._entries) - self._dropped

    @property
    def first(self) -> int:
        return self.last - len(self) + 1

    def append(self, type_: EventType, data: Fields, at: float, offset: int) -> None:
        """Add one.

        Args:
            type_: of the event.
            data: its fields.
            at: in seconds of Unix time.
            offset: how many bytes the client has got by now.
        """
        # orjson's bytes keep the buffer that they were written into, of 4 KiB at least.
        encoded = bytes(memoryview(dumps(data)))
        self._entries.append(KeptEvent(at, type_, encoded, offset))
        self.last += 1
        if type_ == FINAL_TYPE:
            self.done = data
        self._grow(len(encoded) + _ENTRY_BYTES)
        if self._changed is not None:
            self.wake()

    def accept(self, seq: int, entry: KeptEvent) -> None:
        """Add one that was numbered elsewhere, if it is new.

        Args:
            seq: its number. Those between are not kept.
            entry: the event.
        """
        if seq <= self.last or self.done is not None:
            return
        if seq > self.last + 1:
            self.clear()
        self._entries.append(entry)
        self.last = seq
        if entry.type == FINAL_TYPE:
            self.done = orjson.loads(entry.data)
        self._grow(entry.size)
        self.wake()

    def behind(self, seq: int, most: int) -> list[tuple[int, KeptEvent]]:
        """Events behind a number, each with its own.

        Args:
            seq: of the last one that is known.
            most: how many at most.
        """
        start = max(seq + 1, self.first)
        return [(at, self._entry(at)) for at in range(start, min(start + most, self.last + 1))]

    def drop_oldest(self) -> None:
        """Keep one less."""
        entry = self._entries[self._dropped]
        self._dropped += 1
        self._grow(-entry.size)
        follow(self._open, entry)
        if self._dropped > len(self._entries) // 2:
            del self._entries[: self._dropped]
            self._dropped = 0

    def clear(self) -> None:
        """Keep none."""
        self._entries.clear()
        self._dropped = 0
        self._grow(-self.size)
        self.wake()

    def page(self, after: int) -> Page:
        """What is behind a cursor."""
        first, events, size = self.first, [], 0
        start = max(after + 1, first)
        for seq in range(start, self.last + 1):
            entry = self._entry(seq)
            events.append(StreamEvent(seq, entry.at, entry.type, orjson.loads(entry.data)))
            size += entry.size
            if len(events) >= _PAGE_EVENTS or size >= _PAGE_BYTES:
                break
        is_done, open_calls = self.done is not None, tuple(self._open.values())
        return Page(tuple(events), first, self.last, is_done, open_calls, self.before)

    def open_calls(self) -> tuple[Fields, ...]:
        """Data of the calls that have not ended."""
        open_ = dict(self._open)
        for seq in range(self.first, self.last + 1):
            follow(open_, self._entry(seq))
        return tuple(open_.values())

    def offset_of(self, seq: int) -> int:
        """How many bytes the client had got when an event came."""
        return self._entry(seq).offset if self.first <= seq <= self.last else 0

    def _entry(self, seq: int) -> KeptEvent:
        return self._entries[seq - self.last - 1]

    def open_before(self) -> tuple[Fields, ...]:
        """Data of the calls that began in what was dropped, and did not end in it."""
        return tuple(self._open.values())

    async def wait(self, wait_s: float) -> None:
        """Until something changes, or the time is over."""
        self._changed = self._changed or asyncio.Event()
        await _wait(self._changed, wait_s)

    def wake(self) -> None:
        """Something has changed."""
        if self._changed is not None:
            self._changed.set()
            self._changed.clear()

    def _grow(self, size: int) -> None:
        self.size += size
        self._count(size)


class KeptBytes:
    """The response of one stream, as its client gets it.

    Args:
        count: called with the bytes that come and go.
        is_wanted: they are to be kept; else nothing is, ever.
    """

    __slots__ = ("_changed", "_count", "_data", "_head", "end", "is_wanted", "total")

    def __init__(self, count: _Count, *, is_wanted: bool = True) -> None:
        self._count = count
        self._data = bytearray()
        self._head: BytesHead | None = None
        self._changed: asyncio.Event | None = None  # once somebody waits
        self.is_wanted = is_wanted
        self.total = 0
        self.end: BytesEnd = ""

    def __len__(self) -> int:
        return len(self._data)

    def begin(self, head: BytesHead) -> None:
        """The response has these headers."""
        if self.is_wanted:
            self._head = head
            self.wake()

    def write(self, data: bytes) -> None:
        """More of it."""
        if not self.is_wanted:
            return
        self.total += len(data)
        if not self.end:
            self._data += data
            self._count(len(data))
            self.wake()

    def finish(self, end: BytesEnd) -> None:
        """No more comes."""
        if self.is_wanted:
            self.end = self.end or end
            self.wake()

    def give_up(self) -> None:
        """Keep none of it."""
        if not self.is_wanted:
            return
        size, self._data = len(self._data), bytearray()
        self._count(-size)
        self.end = "given_up"
        self.wake()

    def has_behind(self, offset: int) -> bool:
        """Whether there is something to say to a reader that knows so much."""
        return bool(self.end) or offset < len(self._data)

    @property
    def head(self) -> BytesHead | None:
        return self._head

    def piece(self, offset: int, most: int) -> bytes:
        """Bytes from an offset on.

        Args:
            offset: of the first.
            most: how many at most.
        """
        return bytes(memoryview(self._data)[offset : offset + most])

    def page(self, offset: int) -> BytesPage:
        """What is behind an offset."""
        data = bytes(memoryview(self._data)[offset : offset + _PAGE_BYTES])
        is_last = offset + len(data) >= len(self._data)
        return BytesPage(self._head, data, self.end if is_last else "")

    async def wait(self, wait_s: float) -> None:
        """Until something changes, or the time is over."""
        self._changed = self._changed or asyncio.Event()
        await _wait(self._changed, wait_s)

    def wake(self) -> None:
        """Something has changed."""
        if self._changed is not None:
            self._changed.set()
            self._changed.clear()


NO_BYTES: Final = KeptBytes(lambda _: None, is_wanted=False)


def follow(open_: dict[tuple[str, int], Fields], entry: KeptEvent) -> None:
    """Note which calls are open behind an event.

    Args:
        open_: those in front of it, by id and choice; is changed.
        entry: the event.
    """
    if entry.type not in ("tool.running", "tool.completed"):
        return
    data = orjson.loads(entry.data)
    call = (data.get("toolCallId", ""), data.get("choice", 0))
    if entry.type == "tool.running":
        open_[call] = data
    else:
        open_.pop(call, None)


async def _wait(changed: asyncio.Event, wait_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await changed.wait()
