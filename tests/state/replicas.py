"""Event logs of several processes, in this one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from lifecycle_proxy.state import redis_link
from lifecycle_proxy.state.event_log import EventLog, LogWriter
from lifecycle_proxy.state.health import StoreHealth
from lifecycle_proxy.state.log_delta import StreamMirror
from lifecycle_proxy.state.log_table import LogTable
from lifecycle_proxy.state.memory_event_log import MemoryEventLog
from lifecycle_proxy.state.redis_link import RedisLink
from lifecycle_proxy.state.redis_log import RedisLog
from lifecycle_proxy.state.shared_event_log import SharedEventLog
from lifecycle_proxy.state.stream_records import (
    BytesHead,
    BytesPage,
    Claim,
    LogLimits,
    Page,
    StreamKey,
    StreamStatus,
)
from lifecycle_proxy.state.wire import WireLink
from lifecycle_proxy.state.wire_server import StoreServer
from lifecycle_proxy.state.wire_tables import WireLog

KEY: Final = StreamKey("o", "st_1")
DONE: Final = {"status": "completed", "durationMs": 1, "calls": 0}
HEAD: Final = BytesHead(200, ((b"Content-Type", b"text/event-stream"), (b"X", b"\xff")), b"\xa0")


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
        self.health = StoreHealth("store", self._failed)
        self.own = MemoryEventLog(limits)
        self.works: list[asyncio.Task[None]] = []
        self.wire: WireLink | None = None
        table: LogTable
        if url.startswith("unix:"):
            self.wire = wire = WireLink(url[5:], self.health, patience_s, 0.05)
            table, self._run = WireLog(wire), [wire.run]
        else:
            self.link = RedisLink(redis_link.client(url, patience_s), self.health, patience_s, 0.05)
            table = redis = RedisLog(self.link, "test", self.own.limits, lease_s)
            self._run = [self.link.run, redis.run]
        self.log = SharedEventLog(self.own, table)

    def _failed(self) -> None:
        self.failures += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator["LogReplica"]:
        self.works = [asyncio.create_task(run()) for run in (*self._run, self.log.run)]
        try:
            if self.wire is not None:
                wire = self.wire
                await until(lambda: wire.is_connected or self.health.is_down)
            yield self
        finally:
            for work in reversed(self.works):
                work.cancel()
                with suppress(asyncio.CancelledError):
                    await work

    def die(self) -> None:
        """As by kill -9: nothing more is said."""
        for work in self.works:
            work.cancel()


@asynccontextmanager
async def store_process(folder: Path) -> AsyncIterator[str]:
    """The process that holds the workers' store, in this one; gives its address."""
    path = folder / "store.sock"
    path.unlink(missing_ok=True)
    server = StoreServer()
    await server.start(str(path))
    yield f"unix:{path}"
    await server.close()


async def begun(log: EventLog, key: StreamKey = KEY, *, is_resumable: bool = False) -> LogWriter:
    """The writer of a stream that has begun."""
    writer = await log.create(key, is_resumable=is_resumable)
    assert writer is not None
    return writer


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  what other processes do sets no event
            await asyncio.sleep(0.02)


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
