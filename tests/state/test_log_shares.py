"""One credential does not push out what the log keeps for others."""

import asyncio
from pathlib import Path

import pytest
from lifecycle_proxy.exchange.client_scope import ANONYMOUS
from lifecycle_proxy.state.event_log import EventLog, LogWriter
from lifecycle_proxy.state.log_delta import StreamMirror
from lifecycle_proxy.state.memory_event_log import MemoryEventLog
from lifecycle_proxy.state.received_streams import ReceivedStreams
from lifecycle_proxy.state.stream_records import (
    LogLimits,
    StreamExpiredError,
    StreamKey,
)

from tests.curve import assert_linear
from tests.redis_server import RedisServer, redis_server
from tests.state.replicas import DONE, HEAD, LogReplica, begun, sent

__all__ = ("redis_server",)


async def of(log: EventLog, owner: str, number: int, *, resumable: bool = False) -> LogWriter:
    return await begun(log, StreamKey(owner, f"st_{number}"), is_resumable=resumable)


async def ended(log: EventLog, owner: str, number: int, size: int = 0) -> None:
    writer = await of(log, owner, number)
    if size:
        writer.append("text", {"text": "x" * size})
    writer.append("stream.done", DONE)


async def kept(log: EventLog, owner: str, numbers: range) -> list[int]:
    found = []
    for number in numbers:
        try:
            await log.read(StreamKey(owner, f"st_{number}"), 0, 0)
        except StreamExpiredError:
            continue
        found.append(number)
    return found


@pytest.mark.parametrize("loud", ["loud", ANONYMOUS])
async def test_the_streams_of_others_stay(loud: str) -> None:
    log = MemoryEventLog(LogLimits(streams=16))
    for number in range(4):
        await ended(log, "quiet", number)
    for number in range(100):
        await ended(log, loud, number)
    assert await kept(log, "quiet", range(4)) == [0, 1, 2, 3]
    assert await kept(log, loud, range(100)) == list(range(88, 100))  # it is alone otherwise
    for number in range(4, 8):
        await ended(log, "quiet", number)
    assert await kept(log, "quiet", range(8)) == list(range(8))
    assert await kept(log, loud, range(100)) == list(range(92, 100))
    assert len(log) == 16


async def test_who_has_most_gives_first() -> None:
    log = MemoryEventLog(LogLimits(streams=16))
    for owner, count in (("a", 5), ("b", 7), ("c", 4)):
        for number in range(count):
            await ended(log, owner, number)
    for number in range(2):
        await ended(log, "d", number)
    assert await kept(log, "a", range(5)) == [0, 1, 2, 3, 4]
    assert await kept(log, "b", range(7)) == [2, 3, 4, 5, 6]
    assert await kept(log, "c", range(4)) == [0, 1, 2, 3]


async def test_where_nobody_has_much_what_ended_first_goes() -> None:
    log = MemoryEventLog(LogLimits(streams=16))
    for number in range(4):
        for owner in "abcd":
            await ended(log, owner, number)
    await ended(log, "e", 0)
    assert await kept(log, "a", range(4)) == [1, 2, 3]
    assert await kept(log, "b", range(4)) == [0, 1, 2, 3]


async def test_streams_that_go_on_push_out_none_of_others() -> None:
    log = MemoryEventLog(LogLimits(streams=16))
    for number in range(12):
        await ended(log, "quiet", number)
    for number in range(20):
        writer = await log.create(StreamKey("loud", f"st_{number}"))
        assert (writer is None) is (number >= 9)  # both have half of it by then
    assert await kept(log, "quiet", range(12)) == [5, 6, 7, 8, 9, 10, 11]
    assert len(log) == 16


async def test_an_owner_s_bytes_push_out_none_of_others() -> None:
    log = MemoryEventLog(LogLimits(total_bytes=100_000))
    for number in range(4):
        await ended(log, "quiet", number, 5_000)
    for number in range(100):
        await ended(log, "loud", number, 5_000)
    assert await kept(log, "quiet", range(4)) == [0, 1, 2, 3]
    assert 10 < len(await kept(log, "loud", range(100))) < 20


async def test_a_stream_that_grows_pushes_out_its_owner_s_only() -> None:
    log = MemoryEventLog(LogLimits(total_bytes=100_000))
    await ended(log, "quiet", 0, 5_000)
    await ended(log, "loud", 0, 5_000)
    writer = await of(log, "loud", 1)
    for _ in range(100):
        writer.append("text", {"text": "x" * 5_000})
    assert await kept(log, "quiet", range(1)) == [0]
    assert await kept(log, "loud", range(1)) == []
    page = await log.read(writer.key, 0, 0)
    assert (page.last, page.first > 80) == (100, True)


async def test_streams_that_go_on_lose_their_oldest_events_to_others() -> None:
    log = MemoryEventLog(LogLimits(total_bytes=100_000))
    loud = [await of(log, "loud", number) for number in range(3)]
    for writer in loud:
        for _ in range(6):
            writer.append("text", {"text": "x" * 5_000})
    await ended(log, "quiet", 0, 5_000)
    for number in range(1, 4):
        await ended(log, "quiet", number, 5_000)
    assert await kept(log, "quiet", range(4)) == [0, 1, 2, 3]
    firsts = [(await log.read(writer.key, 0, 0)).first for writer in loud]
    assert firsts[0] > 1
    assert firsts[2] == 1


async def test_bytes_to_resume_are_shared_likewise() -> None:
    log = MemoryEventLog(LogLimits(resume_total_bytes=100))
    quiet = [await of(log, "quiet", number, resumable=True) for number in range(2)]
    for writer in quiet:
        writer.write(b"x" * 10)
        writer.append("stream.done", DONE)
    loud = [await of(log, "loud", number, resumable=True) for number in range(5)]
    for writer in loud:
        writer.write(b"x" * 20)
    assert [writer.keeps_bytes for writer in loud] == [True] * 4 + [False]
    third = await of(log, "quiet", 2, resumable=True)
    third.write(b"x" * 5)
    assert [writer.keeps_bytes for writer in loud] == [False] + [True] * 3 + [False]
    assert (await log.read_bytes(loud[0].key, 0, 0)).end == "given_up"
    assert await kept(log, "quiet", range(3)) == [0, 1, 2]
    assert third.keeps_bytes


async def test_one_that_is_alone_has_all_of_it() -> None:
    log = MemoryEventLog(LogLimits(streams=16))
    for number in range(20):
        await ended(log, "only", number)
    assert await kept(log, "only", range(20)) == list(range(4, 20))


async def test_what_left_is_not_counted_any_more() -> None:
    log = MemoryEventLog(LogLimits(streams=8, keep_s=0))
    for _ in range(3):
        for number in range(8):
            await ended(log, "a", number)
        log.sweep()
    for number in range(8):
        (await of(log, "b", number)).discard()
    for number in range(2):
        await of(log, "a", number)
        await of(log, "b", number)
    assert len(log) == 4


async def test_the_store_of_several_processes_shares_likewise(tmp_path: Path) -> None:
    own = MemoryEventLog()
    log = MemoryEventLog(LogLimits(streams=16, resume_total_bytes=100))
    streams = ReceivedStreams(log)

    worker = object()

    async def push(owner: str, number: int) -> None:
        writer = await of(own, owner, number, resumable=True)
        writer.begin_bytes(HEAD)
        writer.write(b"x" * 10)
        writer.end_bytes("eof")
        writer.append("stream.done", DONE)
        stream = own.maybe_stream(writer.key)
        assert stream is not None
        await streams.push(worker, [StreamMirror(stream).delta()])

    for number in range(2):
        await push("quiet", number)
    for number in range(50):
        await push("loud", number)
    assert await kept(log, "quiet", range(2)) == [0, 1]
    assert await kept(log, "loud", range(50)) == list(range(42, 50))


async def test_in_redis_each_owner_has_the_room_of_a_process(redis_server: RedisServer) -> None:
    url = (await redis_server.start()).url
    replica = LogReplica(url, LogLimits(streams=4))
    async with replica.running(), LogReplica(url).running() as reader:
        await ended(replica.log, "quiet", 0)
        await sent(replica.log)
        for number in range(12):
            await ended(replica.log, "loud", number)
            await sent(replica.log)
        assert await kept(reader.log, "quiet", range(1)) == [0]
        assert await kept(reader.log, "loud", range(12)) == [8, 9, 10, 11]


async def test_in_redis_the_bytes_of_an_owner_are_bounded(redis_server: RedisServer) -> None:
    url = (await redis_server.start()).url
    replica = LogReplica(url, LogLimits(total_bytes=50_000, resume_total_bytes=0))
    async with replica.running(), LogReplica(url).running() as reader:
        for owner in ("quiet", "loud"):
            await ended(replica.log, owner, 0, 15_000)
            await sent(replica.log)
        again = StreamKey("loud", "st_0")  # its id is chosen again, and in use
        writer = await replica.log.create(again, is_chosen=True)
        assert writer is not None
        writer.append("stream.started", {"model": "m"})
        for number in range(1, 9):
            await ended(replica.log, "loud", number, 15_000)
            await sent(replica.log)
        assert await kept(reader.log, "quiet", range(1)) == [0]
        assert await kept(reader.log, "loud", range(9)) == [0, 6, 7, 8]


@pytest.mark.unmeasured
def test_the_work_is_linear() -> None:
    def make(count: int) -> list[str]:
        return [f"o{number % (count // 2)}" for number in range(count)]

    def work(owners: list[str]) -> None:
        async def run() -> None:
            log = MemoryEventLog(LogLimits(streams=len(owners) // 4, total_bytes=len(owners) * 100))
            for number, owner in enumerate(owners):
                await ended(log, owner, number, 1_200)

        asyncio.run(run())

    assert_linear(make, work, 1000)
