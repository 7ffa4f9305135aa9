"""What every event log does (``log``: one of each kind), and the bounds of the one in memory."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from lifecycle_proxy.core.events import Outcome, ToolCompleted, ToolRunning
from lifecycle_proxy.core.stream_events import StreamEvent
from lifecycle_proxy.state.event_log import EventLog
from lifecycle_proxy.state.memory_event_log import MemoryEventLog
from lifecycle_proxy.state.stream_records import (
    Claim,
    LogLimits,
    StreamExpiredError,
    StreamInUseError,
    StreamKey,
    StreamUnknownError,
)

from tests.redis_server import RedisServer, redis_server
from tests.state.replicas import DONE, HEAD, KEY, Across, LogReplica, begun, store_process

__all__ = ("redis_server",)

_PATIENCE_S = 30.0


@pytest.fixture(params=["memory", "redis", "redis, other replica", "worker", "worker, other"])
async def log(request: pytest.FixtureRequest) -> AsyncIterator[EventLog]:
    if request.param == "memory":
        yield MemoryEventLog()
        return
    async with AsyncExitStack() as stack:
        if "redis" in request.param:
            server: RedisServer = request.getfixturevalue("redis_server")
            url = (await server.start()).url
        else:
            tmp_path: Path = request.getfixturevalue("tmp_path")
            url = await stack.enter_async_context(store_process(tmp_path))
        one, two = LogReplica(url), LogReplica(url)
        for each in (one, two):
            await stack.enter_async_context(each.running())
        yield Across(one.log, two.log) if "other" in request.param else one.log


def running(call_id: str, choice: int = 0) -> dict[str, object]:
    data: dict[str, object] = {"tool": "t", "toolCallId": call_id, "status": "running"}
    return {**data, "choice": choice} if choice else data


def completed(call_id: str, choice: int = 0) -> dict[str, object]:
    return {**running(call_id, choice), "status": "completed"}


# --- events -------------------------------------------------------------------------------------


async def test_events_are_numbered_densely_and_read_behind_a_cursor(log: EventLog) -> None:
    writer = await begun(log)
    for number in range(1, 251):
        writer.append("text", {"text": str(number)})
    seen: list[StreamEvent] = []
    after = 0
    while (page := await log.read(KEY, after, 0)).events:
        seen += page.events
        after = seen[-1].seq
    assert [one.seq for one in seen] == list(range(1, 251))
    assert [one.data["text"] for one in seen] == [str(number) for number in range(1, 251)]
    assert (page.first, page.last, page.is_done) == (1, 250, False)
    assert all(one.at > 1e9 and one.type == "text" for one in seen)


async def test_a_reader_waits_for_the_next_event(log: EventLog) -> None:
    writer = await begun(log)
    reading = asyncio.ensure_future(log.read(KEY, 0, _PATIENCE_S))
    await asyncio.sleep(0)
    assert not reading.done()
    writer.append("usage", {"totalTokens": 3})
    page = await reading
    assert [one.data for one in page.events] == [{"totalTokens": 3}]


async def test_a_reader_that_waits_in_vain_gets_nothing_in_time(log: EventLog) -> None:
    await begun(log)
    page = await log.read(KEY, 0, 0.01)
    assert (page.events, page.first, page.last, page.is_done) == ((), 1, 0, False)


async def test_nothing_follows_the_last_event(log: EventLog) -> None:
    writer = await begun(log)
    writer.append("stream.done", DONE)
    writer.append("text", {"text": "late"})
    page = await log.read(KEY, 0, _PATIENCE_S)
    assert [one.type for one in page.events] == ["stream.done"]
    assert page.is_done
    assert (await log.read(KEY, 1, _PATIENCE_S)).events == ()  # at once


async def test_a_cursor_behind_the_end_does_not_wait(log: EventLog) -> None:
    writer = await begun(log)
    writer.append("usage", {})
    page = await log.read(KEY, 7, _PATIENCE_S)
    assert (page.events, page.last) == ((), 1)


async def test_the_event_of_a_call_becomes_its_fields(log: EventLog) -> None:
    writer = await begun(log)
    for call_id, label in (("a", "short"), ("b", "x" * 2_000)):
        writer.append("tool.running", ToolRunning(call_id, 0, "t", label, "*"))
        ended = ToolCompleted(call_id, 0, "t", label, "*", Outcome.OK, 1)
        writer.append("tool.completed", ended)
    page = await log.read(KEY, 0, 0)
    assert [one.data["toolCallId"] for one in page.events] == ["a", "a", "b", "b"]
    assert [one.data["status"] for one in page.events] == ["running", "completed"] * 2
    assert page.events[1].data["outcome"] == "ok"


async def test_what_nobody_reads_is_bounded_too() -> None:
    log = MemoryEventLog(LogLimits(total_bytes=10_000))
    writer = await begun(log)
    for number in range(1_000):
        writer.append("tool.running", ToolRunning(f"{number}", 0, "t", "label", "*"))
    page = await log.read(KEY, 0, 0)
    assert page.last == 1_000
    assert 20 < len(page.events) < 40


async def test_many_readers_get_the_same(log: EventLog) -> None:
    writer = await begun(log)
    readers = [asyncio.ensure_future(log.read(KEY, 0, _PATIENCE_S)) for _ in range(50)]
    await asyncio.sleep(0)
    writer.append("text", {"text": "é\ud800"})  # a model may well write lone surrogates
    pages = await asyncio.gather(*readers)
    assert {page.events[0].data["text"] for page in pages} == {"é?"}


async def test_a_stream_is_its_owner_s(log: EventLog) -> None:
    writer = await begun(log)
    other = StreamKey("p", KEY.id)
    with pytest.raises(StreamUnknownError):
        await log.read(other, 0, 0)
    with pytest.raises(StreamUnknownError):
        await log.status(other)
    theirs = await begun(log, other)
    writer.append("text", {"text": "mine"})
    theirs.append("text", {"text": "theirs"})
    assert [one.data for one in (await log.read(other, 0, 0)).events] == [{"text": "theirs"}]


async def test_an_id_is_in_use_until_its_stream_ends(log: EventLog) -> None:
    writer = await begun(log)
    writer.append("usage", {})
    with pytest.raises(StreamInUseError):
        await log.create(KEY, is_chosen=True)
    writer.append("stream.done", DONE)
    again = await log.create(KEY, is_chosen=True)
    assert again is not None
    assert (await log.read(KEY, 2, 0)).events == ()
    writer.append("text", {"text": "of the one before"})
    assert (await log.read(KEY, 2, 0)).events == ()


async def test_the_numbers_of_an_id_go_on(log: EventLog) -> None:
    """So a cursor that a reader has of an earlier stream belongs to no event of a later one."""
    last = 0
    for turn in range(3):
        writer = await log.create(KEY, is_chosen=True)
        assert writer is not None
        writer.append("usage", {"totalTokens": turn})
        writer.append("stream.done", DONE)
        for cursor in {0, last}:
            page = await log.read(KEY, cursor, 0)
            assert [(one.seq, one.type) for one in page.events] == [
                (last + 1, "usage"),
                (last + 2, "stream.done"),
            ]
            assert (page.first, page.last, page.before) == (last + 1, last + 2, last)
        status = await log.status(KEY)
        assert (status.first, status.last) == (last + 1, last + 2)
        last = page.last


async def test_a_stream_that_never_was(log: EventLog) -> None:
    writer = await begun(log)
    reading = asyncio.ensure_future(log.read(KEY, 0, _PATIENCE_S))
    await asyncio.sleep(0)
    writer.discard()
    with pytest.raises(StreamUnknownError):
        await reading
    writer.append("usage", {})  # no more than behind its end


async def test_a_reader_may_come_before_its_stream(log: EventLog) -> None:
    assert not await log.wait_for(KEY, 0.01)
    waiting = [asyncio.ensure_future(log.wait_for(KEY, _PATIENCE_S)) for _ in range(2)]
    others = asyncio.ensure_future(log.wait_for(StreamKey("p", KEY.id), 0.05))
    await asyncio.sleep(0)
    await begun(log)
    assert await asyncio.gather(*waiting) == [True, True]
    assert not await others
    assert await log.wait_for(KEY, 0)


async def test_the_status_of_a_stream(log: EventLog) -> None:
    writer = await begun(log, is_resumable=True)
    for data in (running("a"), running("b"), completed("a"), running("a", 1)):
        writer.append("tool.running" if data["status"] == "running" else "tool.completed", data)
    status = await log.status(KEY)
    assert (status.first, status.last, status.done, status.expires_at) == (1, 4, None, None)
    assert status.open_calls == (running("b"), running("a", 1))
    assert status.is_resumable
    writer.append("stream.done", DONE)
    status = await log.status(KEY)
    assert status.done == DONE
    assert status.expires_at is not None
    assert 200 < status.expires_at - status.started_at < 400


# --- bytes --------------------------------------------------------------------------------------


async def test_the_bytes_of_a_stream_from_any_offset(log: EventLog) -> None:
    writer = await begun(log, is_resumable=True)
    assert await log.read_bytes(KEY, 0, 0) == (None, b"", "")
    writer.begin_bytes(HEAD)
    writer.write(b"abc")
    assert await log.read_bytes(KEY, 0, 0) == (HEAD, b"abc", "")
    assert await log.read_bytes(KEY, 2, 0) == (HEAD, b"c", "")
    reading = asyncio.ensure_future(log.read_bytes(KEY, 3, _PATIENCE_S))
    await asyncio.sleep(0)
    writer.write(b"d")
    assert (await reading).data == b"d"
    writer.end_bytes("cut")
    assert await log.read_bytes(KEY, 4, _PATIENCE_S) == (HEAD, b"", "cut")


async def test_a_long_response_is_read_in_pieces(log: EventLog) -> None:
    writer = await begun(log, is_resumable=True)
    writer.begin_bytes(HEAD)
    writer.write(bytes(range(256)) * 1000)
    writer.end_bytes("eof")
    data, page = b"", await log.read_bytes(KEY, 0, 0)
    while page.data:
        assert len(page.data) < 256_000
        data += page.data
        last, page = page, await log.read_bytes(KEY, len(data), 0)
    assert data == bytes(range(256)) * 1000
    assert (last.end, page.end) == ("eof", "eof")


async def test_bytes_that_nobody_wants_are_not_kept(log: EventLog) -> None:
    writer = await begun(log)
    writer.write(b"abc")
    assert not writer.keeps_bytes
    with pytest.raises(StreamUnknownError):
        await log.read_bytes(KEY, 0, 0)


async def test_where_in_the_bytes_an_event_came(log: EventLog) -> None:
    writer = await begun(log, is_resumable=True)
    writer.append("stream.started", {})
    writer.write(b"abc")
    writer.append("tool.running", running("a"))
    writer.write(b"def")
    assert [await log.offset_of(KEY, seq) for seq in (0, 1, 2, 3)] == [0, 0, 3, 0]


# --- claims -------------------------------------------------------------------------------------


async def test_one_of_many_gets_a_claim(log: EventLog) -> None:
    mine, theirs = Claim("st_1", "x"), Claim("st_2", "y")
    assert await log.claim("o", "key", mine, 60) == mine
    assert await log.claim("o", "key", theirs, 60) == mine
    assert await log.claim("p", "key", theirs, 60) == theirs
    log.release("o", "key", theirs)  # it is not theirs
    assert await log.claim("o", "key", theirs, 60) == mine
    log.release("o", "key", mine)
    assert await log.claim("o", "key", theirs, 60) == theirs


# --- in memory ----------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_what_ended_is_kept_for_a_while_and_known_to_have_been() -> None:
    clock = Clock()
    log = MemoryEventLog(LogLimits(keep_s=10), clock=clock)
    writer = await begun(log)
    clock.now = 100
    assert (await log.read(KEY, 0, 0)).last == 0  # it goes on: nothing expires
    writer.append("stream.done", DONE)
    clock.now = 109
    assert (await log.read(KEY, 0, 0)).is_done
    clock.now = 110
    with pytest.raises(StreamExpiredError):
        await log.read(KEY, 0, 0)
    with pytest.raises(StreamUnknownError):
        await log.read(StreamKey("p", KEY.id), 0, 0)
    assert len(log) == 0


async def test_the_numbers_of_an_id_go_on_behind_what_is_not_kept_any_more() -> None:
    now = [0.0]
    log = MemoryEventLog(LogLimits(keep_s=10), clock=lambda: now[0])
    for last in (0, 1, 2):
        writer = await begun(log)
        writer.append("stream.done", DONE)
        assert [one.seq for one in (await log.read(KEY, 0, 0)).events] == [last + 1]
        now[0] += 11
        with pytest.raises(StreamExpiredError):
            await log.read(KEY, 0, 0)


async def test_it_forgets_by_itself() -> None:
    log = MemoryEventLog(LogLimits(keep_s=0), sweep_s=0.001)
    (await begun(log)).append("stream.done", DONE)
    sweeping = asyncio.ensure_future(log.run())
    async with asyncio.timeout(_PATIENCE_S):
        while len(log):  # noqa: ASYNC110  it says nothing when it does
            await asyncio.sleep(0.001)
    sweeping.cancel()


async def test_the_oldest_events_go_and_open_calls_are_not_lost() -> None:
    log = MemoryEventLog(LogLimits(events=3))
    writer = await begun(log)
    for data in (running("a"), running("b"), completed("a"), running("c"), completed("b")):
        writer.append("tool.running" if data["status"] == "running" else "tool.completed", data)
    page = await log.read(KEY, 0, 0)
    assert (page.first, page.last) == (3, 5)
    assert [one.seq for one in page.events] == [3, 4, 5]
    assert page.open_calls == (running("a"), running("b"))  # in front of 3: a has not ended there
    writer.append("usage", {})
    assert (await log.read(KEY, 0, 0)).open_calls == (running("b"),)
    assert (await log.status(KEY)).open_calls == (running("c"),)


async def test_the_bytes_of_events_are_bounded() -> None:
    log = MemoryEventLog(LogLimits(bytes=10_000))
    writer = await begun(log)
    for _ in range(100):
        writer.append("text", {"text": "x" * 800})
    page = await log.read(KEY, 0, 0)
    assert (len(page.events), page.last) == (9, 100)
    writer.append("text", {"text": "x" * 20_000})  # alone too much
    page = await log.read(KEY, 0, 0)
    assert (page.events, page.first, page.last) == ((), 102, 101)


async def test_what_ended_first_makes_room_for_new_streams() -> None:
    log = MemoryEventLog(LogLimits(streams=2))
    first, second, third, fourth = (StreamKey("o", f"st_{n}") for n in range(4))
    (await begun(log, first)).append("stream.done", DONE)
    await begun(log, second)
    await begun(log, third)
    with pytest.raises(StreamExpiredError):
        await log.read(first, 0, 0)
    assert await log.create(fourth) is None  # not at the cost of those that go on
    assert len(log) == 2


async def test_the_bytes_of_all_are_bounded() -> None:
    log = MemoryEventLog(LogLimits(total_bytes=10_000))
    old = StreamKey("o", "st_0")
    ended = await begun(log, old)
    ended.append("text", {"text": "x" * 4_000})
    ended.append("stream.done", DONE)
    writer = await begun(log)
    for _ in range(3):
        writer.append("text", {"text": "x" * 4_000})
    with pytest.raises(StreamExpiredError):
        await log.read(old, 0, 0)
    page = await log.read(KEY, 0, 0)
    assert (page.first, page.last) == (2, 3)


async def test_events_that_nobody_looks_at_count_too() -> None:
    log = MemoryEventLog(LogLimits(total_bytes=20_000))
    keys = [StreamKey("o", f"st_{number}") for number in range(20)]
    for key in keys:
        writer = await begun(log, key)
        for number in range(5):  # none of them is long
            arguments = "x" * 800
            call = ToolRunning(f"call_{number}", 0, "t", "l", "", arguments=arguments)
            writer.append("tool.running", call)
        writer.append("stream.done", DONE)
    with pytest.raises(StreamExpiredError):
        await log.read(keys[0], 0, 0)
    assert (await log.read(keys[-1], 0, 0)).last == 6
    assert len(log) < 10


async def test_resuming_is_given_up_for_what_is_too_large() -> None:
    log = MemoryEventLog(LogLimits(resume_bytes=10))
    writer = await begun(log, is_resumable=True)
    writer.begin_bytes(HEAD)
    writer.write(b"x" * 10)
    assert writer.keeps_bytes
    writer.write(b"x")
    assert not writer.keeps_bytes
    writer.write(b"x")
    writer.end_bytes("eof")
    assert await log.read_bytes(KEY, 5, 0) == (HEAD, b"", "given_up")
    assert not (await log.status(KEY)).is_resumable


async def test_the_responses_of_all_are_bounded() -> None:
    log = MemoryEventLog(LogLimits(resume_total_bytes=10))
    old, second = StreamKey("o", "st_0"), StreamKey("o", "st_2")
    ended = await begun(log, old, is_resumable=True)
    ended.write(b"x" * 8)
    ended.end_bytes("eof")
    ended.append("stream.done", DONE)
    writer = await begun(log, is_resumable=True)
    writer.write(b"x" * 8)
    with pytest.raises(StreamExpiredError):
        await log.read_bytes(old, 0, 0)
    other = await begun(log, second, is_resumable=True)
    other.write(b"x" * 8)
    assert (await log.read_bytes(second, 0, 0)).end == "given_up"
    assert (await log.read_bytes(KEY, 0, 0)).data == b"x" * 8


async def test_claims_are_held_for_a_while_and_bounded() -> None:
    clock = Clock()
    log = MemoryEventLog(clock=clock)
    mine, theirs = Claim("st_1", "x"), Claim("st_2", "y")
    await log.claim("o", "key", mine, 10)
    clock.now = 10
    assert await log.claim("o", "key", theirs, 10) == theirs
    clock.now = 20
    log.sweep()
    for number in range(10_001):
        await log.claim("o", f"{number}", mine, 10)
    assert await log.claim("o", "0", theirs, 10) == theirs  # the oldest is gone


async def test_readers_in_waiting_are_bounded() -> None:
    log = MemoryEventLog()
    waiting = [asyncio.ensure_future(log.wait_for(KEY, _PATIENCE_S)) for _ in range(1_000)]
    await asyncio.sleep(0)
    assert not await log.wait_for(KEY, _PATIENCE_S)
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    again = asyncio.ensure_future(log.wait_for(KEY, _PATIENCE_S))
    await asyncio.sleep(0)
    await begun(log)
    assert await again


async def test_only_so_many_are_known_to_have_been() -> None:
    log = MemoryEventLog(LogLimits(keep_s=0))
    for number in range(4_097):
        (await begun(log, StreamKey("o", f"{number}"))).append("stream.done", DONE)
        log.sweep()
    with pytest.raises(StreamUnknownError):
        await log.read(StreamKey("o", "0"), 0, 0)
    with pytest.raises(StreamExpiredError):
        await log.read(StreamKey("o", "1"), 0, 0)


async def test_when_bytes_were_read_last(log: EventLog) -> None:
    writer = await begun(log, is_resumable=True)
    assert await log.idle_s(KEY) == math.inf
    writer.write(b"x")
    assert (await log.read_bytes(KEY, 0, 0)).data == b"x"
    assert await log.idle_s(KEY) < _PATIENCE_S
    assert await log.idle_s(StreamKey("o", "other")) == math.inf
