"""The event log in the memory of one process.

What goes first when there is too much, so that no credential pushes out what others have:

1. of owners that take more than a quarter, the heaviest first: what ended first, then the oldest
   events of what grows, or its bytes;
2. of all others, what ended first; then the oldest events, or the bytes, of the stream that grows.

A stream that could only begin at the cost of one that has not ended is not kept. Nor is one of the
heaviest owner, where only others have some that ended.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from lifecycle_proxy.state.event_log import LogWriter
from lifecycle_proxy.state.expected_streams import ExpectedStreams
from lifecycle_proxy.state.log_shares import LogShares, Measure
from lifecycle_proxy.state.memory_claims import MemoryClaims
from lifecycle_proxy.state.memory_writer import MemoryStream
from lifecycle_proxy.state.stream_records import (
    BytesPage,
    Claim,
    LogLimits,
    Page,
    StreamExpiredError,
    StreamInUseError,
    StreamKey,
    StreamStatus,
    StreamUnknownError,
)

_SWEEP_S: Final = 5.0
# Of streams that are gone this many are still known to have been.
_MAX_GONE: Final = 4_096


class MemoryEventLog:
    """See ``EventLog``.

    Args:
        limits: how much is kept.
        sweep_s: how often ``run`` looks for what is kept no longer, in seconds.
        clock: the monotonic clock, in seconds.
        now: Unix time, in seconds.
    """

    def __init__(
        self,
        limits: LogLimits | None = None,
        *,
        sweep_s: float = _SWEEP_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.limits = limits or LogLimits()
        self._sweep_s = sweep_s
        self._clock = clock
        self.now = now
        self._streams: dict[StreamKey, MemoryStream] = {}
        # In the order of their deadlines: all are kept for the same time.
        self._ended: OrderedDict[StreamKey, float] = OrderedDict()
        self._gone: OrderedDict[StreamKey, int] = OrderedDict()  # with their last numbers
        self._expected = ExpectedStreams(self._streams)
        self._claims = MemoryClaims(clock)
        self._shares = LogShares(self.limits)

    def __len__(self) -> int:
        return len(self._streams)

    # --- writing --------------------------------------------------------------------------------

    async def create(
        self,
        key: StreamKey,
        *,
        is_chosen: bool = False,
        is_resumable: bool = False,
        before: int = 0,
    ) -> LogWriter | None:
        """See ``EventLog``.

        Args:
            key: as there.
            is_chosen: as there.
            is_resumable: as there.
            before: the number of the last event of this id, if others know of more.
        """
        old = self._streams.get(key)
        if old is not None and not old.is_done:
            raise StreamInUseError
        if old is not None:
            before = max(before, old.last)
            self.forget(old)
        elif not self._has_room(key.owner):
            return None
        before = max(before, self._gone.pop(key, 0))
        stream = MemoryStream(self, key, is_resumable=is_resumable, before=before)
        self._streams[key] = stream
        self._shares.count(stream, "streams", 1)
        self._expected.begun(key)
        return stream

    def last_number(self, key: StreamKey) -> int:
        """The number of the last event that an id has had; 0 where none is known."""
        stream = self._streams.get(key)
        return self._gone.get(key, 0) if stream is None else stream.last

    def make_room(self, stream: MemoryStream) -> None:
        """Keep the bounds after a stream has grown."""
        limits, events = self.limits, stream.events
        while len(events) > limits.events or events.size > limits.bytes:
            events.drop_oldest()
        self._free(stream, "events")

    def make_room_for_bytes(self, stream: MemoryStream) -> None:
        """The same, for what can be resumed."""
        if len(stream.kept) > self.limits.resume_bytes:
            stream.kept.give_up()
        self._free(stream, "bytes")

    def count(self, stream: MemoryStream, measure: Measure, size: int) -> None:
        """Bytes came, or went.

        Args:
            stream: whose.
            measure: of what.
            size: how many; negative for what went.
        """
        self._shares.count(stream, measure, size)

    def ended(self, stream: MemoryStream) -> None:
        """A stream has got its last event: its time begins to run."""
        if self._streams.get(stream.key) is stream:
            self._ended[stream.key] = self._clock() + self.limits.keep_s
            self._shares.ended(stream)

    def forget(self, stream: MemoryStream) -> None:
        """A stream is kept no longer."""
        if self._streams.get(stream.key) is stream:
            del self._streams[stream.key]
            self._ended.pop(stream.key, None)
            stream.clear()
            self._shares.left(stream)

    def _has_room(self, owner: str) -> bool:
        """Whether an owner may have one more stream; if need be, another one is forgotten."""
        shares = self._shares
        if not shares.is_full("streams"):
            return True
        for heavy in shares.heavy("streams"):
            if heavy.ended:
                self._evict(next(iter(heavy.ended)))
                return True
            if heavy.name == owner:
                return False
        return self._evict_oldest()

    def _free(self, stream: MemoryStream, measure: Measure) -> None:
        """Keep a bound of all streams after one has grown."""
        while self._shares.is_over(measure) and self._take(stream, measure):
            pass

    def _take(self, stream: MemoryStream, measure: Measure) -> bool:
        """Keep less; False where nothing is left. See the module."""
        for heavy in self._shares.heavy(measure):
            if heavy.ended:
                self._evict(next(iter(heavy.ended)))
                return True
            if heavy.name == stream.key.owner and stream.shrink(measure):
                return True
            if growing := next(iter(heavy.growing[measure].values()), None):
                return growing.shrink(measure)
        return self._evict_oldest() or stream.shrink(measure)

    def _evict_oldest(self) -> bool:
        """Forget the stream that ended first; False where none has ended."""
        if not self._ended:
            return False
        self._evict(next(iter(self._ended)))
        return True

    def _evict(self, key: StreamKey) -> None:
        last = self.last_number(key)
        self.forget(self._streams[key])
        self._gone[key] = last
        if len(self._gone) > _MAX_GONE:
            self._gone.popitem(last=False)

    async def run(self) -> None:
        """See ``EventLog``."""
        while True:
            await asyncio.sleep(self._sweep_s)
            self.sweep()

    def sweep(self) -> None:
        """Forget what has been kept for long enough."""
        now = self._clock()
        while self._ended and next(iter(self._ended.values())) <= now:
            self._evict_oldest()
        self._claims.sweep()

    def maybe_stream(self, key: StreamKey) -> MemoryStream | None:
        """A stream that is kept here, if it is."""
        return self._streams.get(key)

    # --- reading --------------------------------------------------------------------------------

    def _stream(self, key: StreamKey) -> MemoryStream:
        deadline = self._ended.get(key, math.inf)
        if deadline <= self._clock():
            self.sweep()
        stream = self._streams.get(key)
        if stream is not None:
            return stream
        if key in self._gone:
            raise StreamExpiredError
        raise StreamUnknownError

    async def read(self, key: StreamKey, after: int, wait_s: float) -> Page:
        """See ``EventLog``."""
        stream = self._stream(key)
        events = stream.events
        if after == events.last and events.done is None and wait_s > 0:
            await stream.wait(wait_s)
        return self._stream(key).events.page(after)

    async def read_bytes(self, key: StreamKey, offset: int, wait_s: float) -> BytesPage:
        """See ``EventLog``."""
        stream = self._stream(key)
        if not stream.kept.is_wanted:
            raise StreamUnknownError
        stream.read_at = self._clock()
        if not stream.kept.has_behind(offset) and wait_s > 0:
            stream.readers += 1
            try:
                await stream.kept.wait(wait_s)
            finally:
                stream.readers -= 1
                stream.read_at = self._clock()
        return self._stream(key).kept.page(offset)

    async def offset_of(self, key: StreamKey, seq: int) -> int:
        """See ``EventLog``."""
        return self._stream(key).events.offset_of(seq)

    async def wait_for(self, key: StreamKey, wait_s: float) -> bool:
        """See ``EventLog``."""
        return await self._expected.wait_for(key, wait_s)

    async def idle_s(self, key: StreamKey) -> float:
        """See ``EventLog``."""
        stream = self._streams.get(key)
        if stream is None:
            return math.inf
        return 0.0 if stream.readers else self._clock() - stream.read_at

    async def status(self, key: StreamKey) -> StreamStatus:
        """See ``EventLog``."""
        stream = self._stream(key)
        events = stream.events
        expires_at = None
        if (deadline := self._ended.get(key)) is not None:
            expires_at = self.now() + deadline - self._clock()
        return StreamStatus(
            stream.started_at,
            events.first,
            events.last,
            events.done,
            expires_at,
            events.open_calls(),
            stream.keeps_bytes,
        )

    # --- claims ---------------------------------------------------------------------------------

    async def claim(self, owner: str, name: str, claim: Claim, ttl_s: float) -> Claim:
        """See ``EventLog``."""
        return self._claims.claim(owner, name, claim, ttl_s)

    def release(self, owner: str, name: str, claim: Claim) -> None:
        """See ``EventLog``."""
        self._claims.release(owner, name, claim)
