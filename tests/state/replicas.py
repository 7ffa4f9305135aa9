"""Event logs of several processes, in this one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from lifecycle_proxy.state import redis_link
from lifecycle_proxy.state.event_log import LogWriter
from lifecycle_proxy.state.health import StoreHealth
from lifecycle_proxy.state.log_delta import StreamMirror
from lifecycle_proxy.state.memory_event_log import MemoryEventLog
from lifecycle_proxy.state.redis_link import RedisLink
from lifecycle_proxy.state.redis_log import RedisLog
from lifecycle_proxy.state.shared_event_log import SharedEventLog
from lifecycle_proxy.state.stream_records import (
    BytesPage,
    Claim,
    LogLimits,
    Page,
    StreamKey,
    StreamStatus,
)


class LogReplica:
    """The event log of one replica on Redis."""

    def __init__(
        self,
        url: str,
        limits: LogLimits | None = None,
        patience_s: float = 2.0,
        lease_s: float = 10.0,
    ) -> None:
        self.failures = 0
        self.health = StoreHealth("redis", self._failed)
        self.link = RedisLink(redis_link.client(url, patience_s), self.health, patience_s, 0.05)
        self.own = MemoryEventLog(limits)
        self.table = RedisLog(self.link, "test", self.own.limits.keep_s, lease_s)
        self.log = SharedEventLog(self.own, self.table)
        self._works: list[asyncio.Task[None]] = []

    def _failed(self) -> None:
        self.failures += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator["LogReplica"]:
        works = (self.link.run(), self.table.run(), self.log.run())
        self._works = [asyncio.create_task(work) for work in works]
        try:
            yield self
        finally:
            for work in reversed(self._works):
                work.cancel()
                with suppress(asyncio.CancelledError):
                    await work

    def die(self) -> None:
        """As by kill -9: nothing more is said."""
        for work in self._works:
            work.cancel()


async def sent(log: SharedEventLog) -> None:
    """All that was written has reached the table."""
    async with asyncio.timeout(20):
        while log._dirty or any(map(_is_behind, log._mirrors.values())):  # noqa: ASYNC110  tasks
            await asyncio.sleep(0.001)
        await log._table.has(StreamKey("o", "nothing"))


def _is_behind(mirror: StreamMirror) -> bool:
    delta = mirror.delta()
    return bool(delta.events or delta.data or not mirror.is_begun)


class Across:
    """What one replica writes is read by the other: see ``EventLog``."""

    def __init__(self, writer: SharedEventLog, reader: SharedEventLog) -> None:
        self._writer = writer
        self._reader = reader

    async def create(
        self, key: StreamKey, *, is_chosen: bool = False, is_resumable: bool = False
    ) -> LogWriter | None:
        return await self._writer.create(key, is_chosen=is_chosen, is_resumable=is_resumable)

    async def read(self, key: StreamKey, after: int, wait_s: float) -> Page:
        await sent(self._writer)
        return await self._reader.read(key, after, wait_s)

    async def read_bytes(self, key: StreamKey, offset: int, wait_s: float) -> BytesPage:
        await sent(self._writer)
        return await self._reader.read_bytes(key, offset, wait_s)

    async def offset_of(self, key: StreamKey, seq: int) -> int:
        await sent(self._writer)
        return await self._reader.offset_of(key, seq)

    async def idle_s(self, key: StreamKey) -> float:
        return await self._writer.idle_s(key)

    async def wait_for(self, key: StreamKey, wait_s: float) -> bool:
        return await self._reader.wait_for(key, wait_s)

    async def status(self, key: StreamKey) -> StreamStatus:
        await sent(self._writer)
        return await self._reader.status(key)

    async def claim(self, owner: str, name: str, claim: Claim, ttl_s: float) -> Claim:
        return await self._reader.claim(owner, name, claim, ttl_s)

    def release(self, owner: str, name: str, claim: Claim) -> None:
        self._writer.release(owner, name, claim)

    async def run(self) -> None:
        await self._reader.run()
