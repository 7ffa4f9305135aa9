"""The event log of several processes: each keeps its own streams, and a table has those of all.

Writers write into this process's memory. From there a task in the background brings what is new
into the table: it asks the memory, not a queue, so nothing is missing after the table was down, and
a table that lost everything gets it again. Readers of a stream that runs here read the memory;
all others read the table.
"""

import asyncio
from contextlib import suppress
from itertools import islice
from typing import Final

from lifecycle_proxy.core.stream_events import EventType
from lifecycle_proxy.state.event_log import LogWriter
from lifecycle_proxy.state.health import StoreError
from lifecycle_proxy.state.log_delta import LogDelta, StreamMirror
from lifecycle_proxy.state.log_table import LogReader, LogTable
from lifecycle_proxy.state.memory_event_log import MemoryEventLog
from lifecycle_proxy.state.memory_writer import MemoryStream
from lifecycle_proxy.state.stream_records import (
    BytesEnd,
    BytesHead,
    BytesPage,
    Claim,
    EventData,
    Page,
    StreamInUseError,
    StreamKey,
    StreamStatus,
)

_BATCH: Final = 16
_LAST_S: Final = 0.5
_REFRESH_S: Final = 30.0
_RETRY_S: Final = 0.25
_LOOK_S: Final = 0.5


class SharedEventLog:
    """See ``EventLog``.

    Args:
        own: the streams of this process.
        table: those of all.
        refresh_s: how often the table hears of a stream that says nothing, in seconds.
    """

    def __init__(self, own: MemoryEventLog, table: LogTable, refresh_s: float = _REFRESH_S) -> None:
        self._own = own
        self._table = table
        self._refresh_s = refresh_s
        self._mirrors: dict[StreamKey, StreamMirror] = {}
        self._dirty: dict[StreamKey, None] = {}
        self._wanted = asyncio.Event()

    def __len__(self) -> int:
        return len(self._own)

    async def create(
        self, key: StreamKey, *, is_chosen: bool = False, is_resumable: bool = False
    ) -> LogWriter | None:
        """See ``EventLog``."""
        there = self._own.maybe_stream(key)
        if there is not None and there.events.done is None:
            raise StreamInUseError
        self._mirrors.pop(key, None)
        is_clear, before = True, 0
        if is_chosen:
            try:
                last = await self._table.start(key)
            except StoreError:
                is_clear = False  # what is there of an earlier stream must go first
            else:
                if last is None:
                    raise StreamInUseError
                before = last
        writer = await self._own.create(key, is_resumable=is_resumable, before=before)
        stream = self._own.maybe_stream(key)
        if writer is None or stream is None:
            return None
        self._mirrors[key] = StreamMirror(stream, is_clear=is_clear)
        self.mark(key)
        return MirroredWriter(self, stream)

    def mark(self, key: StreamKey) -> None:
        """A stream has something new."""
        self._dirty[key] = None
        self._wanted.set()

    def discard(self, key: StreamKey) -> None:
        """There was never such a stream."""
        self._dirty.pop(key, None)
        mirror = self._mirrors.pop(key, None)
        if mirror is not None and mirror.is_begun:
            self._table.discard(key)

    async def run(self) -> None:
        """See ``EventLog``."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._own.run())
                group.create_task(self._refresh())
                group.create_task(self._send())
        except asyncio.CancelledError:
            with suppress(TimeoutError, StoreError):
                async with asyncio.timeout(_LAST_S):
                    while self._dirty:
                        await self._send_some()
            raise

    async def _send(self) -> None:
        while True:
            await self._wanted.wait()
            try:
                await self._send_some()
            except StoreError:
                await asyncio.sleep(_RETRY_S)

    async def _send_some(self) -> None:
        """Bring a part of what is new into the table.

        Raises:
            StoreError: that did not succeed. It will be sent again.
        """
        keys = list(islice(self._dirty, _BATCH))
        for key in keys:
            del self._dirty[key]
        if not self._dirty:
            self._wanted.clear()
        mirrors = [self._mirrors[key] for key in keys if key in self._mirrors]
        deltas = [mirror.delta() for mirror in mirrors]
        if not deltas:
            return
        for mirror in mirrors:
            mirror.is_begun = True  # perhaps
            if not mirror.is_clear:
                self._table.discard(mirror.stream.key)
        try:
            known = await self._table.push(deltas)
        except (StoreError, asyncio.CancelledError):
            for mirror in mirrors:
                self.mark(mirror.stream.key)
            raise
        for mirror, delta, was_known in zip(mirrors, deltas, known, strict=True):
            self._sent(mirror, delta, was_known=was_known)

    def _sent(self, mirror: StreamMirror, delta: LogDelta, *, was_known: bool) -> None:
        key = mirror.stream.key
        if self._mirrors.get(key) is not mirror:
            return
        if not was_known and not mirror.is_new:
            mirror.restart()  # the table has lost what it had
            self.mark(key)
        elif mirror.sent(delta):
            self.mark(key)
        elif mirror.is_over:
            del self._mirrors[key]

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            for key in self._mirrors:
                self.mark(key)

    # --- reading --------------------------------------------------------------------------------

    def _reader(self, key: StreamKey) -> LogReader:
        """Who knows a stream best."""
        stream = self._own.maybe_stream(key)
        is_here = stream is not None and (stream.events.done is None or key in self._mirrors)
        return self._own if is_here else self._table

    async def read(self, key: StreamKey, after: int, wait_s: float) -> Page:
        """See ``EventLog``."""
        return await self._reader(key).read(key, after, wait_s)

    async def read_bytes(self, key: StreamKey, offset: int, wait_s: float) -> BytesPage:
        """See ``EventLog``."""
        return await self._reader(key).read_bytes(key, offset, wait_s)

    async def offset_of(self, key: StreamKey, seq: int) -> int:
        """See ``EventLog``."""
        return await self._reader(key).offset_of(key, seq)

    async def idle_s(self, key: StreamKey) -> float:
        """See ``EventLog``."""
        here_s = await self._own.idle_s(key)
        return here_s and min(here_s, await self._table.idle_s(key))

    async def status(self, key: StreamKey) -> StreamStatus:
        """See ``EventLog``."""
        return await self._reader(key).status(key)

    async def wait_for(self, key: StreamKey, wait_s: float) -> bool:
        """See ``EventLog``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            with suppress(StoreError):
                if self._own.maybe_stream(key) is not None or await self._table.has(key):
                    return True
            left = deadline - loop.time()
            if left <= 0:
                return False
            until = loop.time() + min(left, _LOOK_S)
            if await self._own.wait_for(key, min(left, _LOOK_S)):
                return True
            await asyncio.sleep(until - loop.time())  # where too many wait

    # --- claims ---------------------------------------------------------------------------------

    async def claim(self, owner: str, name: str, claim: Claim, ttl_s: float) -> Claim:
        """See ``EventLog``."""
        try:
            return await self._table.claim(owner, name, claim, ttl_s)
        except StoreError:
            return claim

    def release(self, owner: str, name: str, claim: Claim) -> None:
        """See ``EventLog``."""
        self._table.release(owner, name, claim)


class MirroredWriter:
    """See ``LogWriter``.

    Args:
        log: is said when there is something new.
        stream: in this process's memory.
    """

    def __init__(self, log: SharedEventLog, stream: MemoryStream) -> None:
        self._log = log
        self._stream = stream

    @property
    def key(self) -> StreamKey:
        return self._stream.key

    @property
    def keeps_bytes(self) -> bool:
        return self._stream.keeps_bytes

    def append(self, type_: EventType, data: EventData) -> None:
        """See ``LogWriter``."""
        self._stream.append(type_, data)
        self._log.mark(self._stream.key)

    def begin_bytes(self, head: BytesHead) -> None:
        """See ``LogWriter``."""
        self._stream.begin_bytes(head)
        self._log.mark(self._stream.key)

    def write(self, data: bytes) -> None:
        """See ``LogWriter``."""
        if self._stream.keeps_bytes:  # perhaps no longer behind this
            self._stream.write(data)
            self._log.mark(self._stream.key)
        else:
            self._stream.write(data)

    def end_bytes(self, end: BytesEnd) -> None:
        """See ``LogWriter``."""
        self._stream.end_bytes(end)
        self._log.mark(self._stream.key)

    def discard(self) -> None:
        """See ``LogWriter``."""
        self._stream.discard()
        self._log.discard(self._stream.key)
