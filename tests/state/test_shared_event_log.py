"""The event log of replicas on a real Redis that comes and goes, and replicas that die."""

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.state.stream_records import (
    Claim,
    LogLimits,
    LogUnavailableError,
    Page,
    StreamExpiredError,
    StreamInUseError,
    StreamKey,
    StreamUnknownError,
)
from lifecycle_proxy.state.wire import framed

from tests.redis_server import RedisServer, redis_server
from tests.state.replicas import DONE, HEAD, KEY, LogReplica, begun, sent, store_process, until
from tests.state.test_event_log import completed, running

__all__ = ("redis_server",)


async def page_with(replica: LogReplica, last: int, key: StreamKey = KEY) -> Page:
    """A page of a stream that has so many events by then."""
    async with asyncio.timeout(30):
        while (page := await replica.log.read(key, 0, 1)).last < last:
            await replica.log.read(key, page.last, 1)
    return page


async def commands(replica: LogReplica) -> int:
    return int((await replica.link.redis.info("stats"))["total_commands_processed"])


# --- across replicas ------------------------------------------------------------------------------


async def test_a_reader_elsewhere_is_woken(redis_server: RedisServer) -> None:
    await redis_server.start()
    one, two = LogReplica(redis_server.url), LogReplica(redis_server.url)
    async with one.running(), two.running():
        writer = await begun(one.log)
        await sent(one.log)
        for number in range(1, 6):
            reading = asyncio.ensure_future(two.log.read(KEY, number - 1, 60))
            await asyncio.sleep(0.05)
            assert not reading.done()
            writer.append("usage", {"totalTokens": number})
            (event,) = (await reading).events
            assert (event.seq, event.data) == (number, {"totalTokens": number})


async def test_many_readers_of_one_stream_share_what_they_ask(redis_server: RedisServer) -> None:
    await redis_server.start()
    one, two = LogReplica(redis_server.url), LogReplica(redis_server.url)
    async with one.running(), two.running():
        writer = await begun(one.log)
        await sent(one.log)

        async def follow() -> list[int]:
            seen: list[int] = []
            while True:
                page = await two.log.read(KEY, len(seen), 30)
                seen += [event.seq for event in page.events]
                if page.is_done and len(seen) == page.last:
                    return seen

        readers = [asyncio.ensure_future(follow()) for _ in range(200)]
        await asyncio.sleep(0.1)
        before = await commands(one)
        for number in range(20):
            writer.append("usage", {"totalTokens": number})
            await sent(one.log)
            await asyncio.sleep(0.02)
        writer.append("stream.done", DONE)
        assert await asyncio.gather(*readers) == [list(range(1, 22))] * 200
        # Two or three requests of five commands for each event, not two hundred.
        assert await commands(one) - before < 21 * 200


async def test_a_gap_is_the_same_elsewhere(redis_server: RedisServer) -> None:
    await redis_server.start()
    limits = LogLimits(events=3)
    one, two = LogReplica(redis_server.url, limits), LogReplica(redis_server.url)
    async with one.running(), two.running():
        writer = await begun(one.log)
        for call in ("a", "b"):
            writer.append("tool.running", running(call))
        await sent(one.log)
        writer.append("tool.completed", completed("a"))
        for _ in range(3):
            writer.append("usage", {})
        await sent(one.log)
        here, there = await one.log.read(KEY, 1, 0), await two.log.read(KEY, 1, 0)
        assert here == there
        assert (there.first, there.last) == (4, 6)
        assert there.open_calls == (running("b"),)


async def test_an_id_is_used_by_one_replica_at_a_time(redis_server: RedisServer) -> None:
    await redis_server.start()
    one, two = LogReplica(redis_server.url), LogReplica(redis_server.url)
    async with one.running(), two.running():
        writer = await one.log.create(KEY, is_chosen=True)
        assert writer is not None
        with pytest.raises(StreamInUseError):
            await two.log.create(KEY, is_chosen=True)
        writer.append("usage", {})
        writer.append("stream.done", DONE)
        await sent(one.log)
        again = await two.log.create(KEY, is_chosen=True)
        assert again is not None
        again.append("usage", {"totalTokens": 9})
        await sent(two.log)
        page = await one.log.read(KEY, 0, 0)
        assert [event.data for event in page.events] == [{"totalTokens": 9}]


async def test_of_many_replicas_one_gets_an_id_and_a_claim(redis_server: RedisServer) -> None:
    await redis_server.start()
    replicas = [LogReplica(redis_server.url) for _ in range(8)]
    running_ = [one.running() for one in replicas]
    for each in running_:
        await each.__aenter__()

    async def try_(replica: LogReplica) -> bool:
        try:
            return await replica.log.create(KEY, is_chosen=True) is not None
        except StreamInUseError:
            return False

    assert sum(await asyncio.gather(*map(try_, replicas))) == 1
    claims = [Claim(f"st_{number}", "f") for number in range(8)]
    held = await asyncio.gather(
        *(one.log.claim("o", "k", mine, 60) for one, mine in zip(replicas, claims, strict=True))
    )
    assert len(set(held)) == 1
    assert await replicas[0].log.claim("other", "k", claims[7], 60) == claims[7]
    for each in running_:
        await each.__aexit__(None, None, None)


async def test_what_never_was_and_what_is_over(redis_server: RedisServer) -> None:
    await redis_server.start()
    limits = LogLimits(keep_s=0.1)
    one, two = LogReplica(redis_server.url, limits), LogReplica(redis_server.url, limits)
    async with one.running(), two.running():
        writer = await begun(one.log)
        writer.append("stream.done", DONE)
        await sent(one.log)
        dropped = await begun(one.log, StreamKey("o", "st_2"))
        await sent(one.log)
        dropped.discard()
        await sent(one.log)
        for key, error in (("st_1", StreamExpiredError), ("st_2", StreamUnknownError)):
            await asyncio.sleep(0.15)
            for ask in (two.log.read, two.log.read_bytes):
                with pytest.raises(error):
                    await ask(StreamKey("o", key), 0, 0)
            with pytest.raises(error):
                await two.log.status(StreamKey("o", key))


async def test_bytes_that_became_too_many_are_given_up_elsewhere(redis_server: RedisServer) -> None:
    await redis_server.start()
    limits = LogLimits(resume_bytes=100)
    one, two = LogReplica(redis_server.url, limits), LogReplica(redis_server.url)
    async with one.running(), two.running():
        writer = await begun(one.log, is_resumable=True)
        writer.begin_bytes(HEAD)
        writer.write(b"x" * 90)
        await sent(one.log)
        page = await two.log.read_bytes(KEY, 80, 0)
        assert (page.head, page.data, page.end) == (HEAD, b"x" * 10, "")
        writer.write(b"x" * 90)
        await sent(one.log)
        assert (await two.log.read_bytes(KEY, 80, 5)).end == "given_up"
        assert not (await two.log.status(KEY)).is_resumable


async def test_all_keys_are_forgotten_and_name_nobody(redis_server: RedisServer) -> None:
    await redis_server.start()
    one = LogReplica(redis_server.url)
    async with one.running():
        for number in range(2):
            key = StreamKey("owner", f"st_{number}")
            writer = await one.log.create(key, is_chosen=True, is_resumable=True)
            assert writer is not None
            writer.begin_bytes(HEAD)
            writer.append("usage", {})
            writer.write(b"x")
            if number:
                writer.end_bytes("eof")
                writer.append("stream.done", DONE)
        await one.log.claim("owner", "sk-secret", Claim("a", "b"), 60)
        await sent(one.log)
        keys = await one.link.redis.keys("*")
        assert len(keys) > 8
        for key in keys:
            assert key.startswith(b"test:")
            assert b"sk-secret" not in key
            assert await one.link.redis.pttl(key) > 0, key


# --- replicas and a Redis that die ----------------------------------------------------------------


async def test_the_stream_of_a_dead_replica_is_ended_once(redis_server: RedisServer) -> None:
    await redis_server.start()
    one = LogReplica(redis_server.url, lease_s=0.4)
    others = [LogReplica(redis_server.url, lease_s=0.4) for _ in range(3)]
    async with others[0].running(), others[1].running(), others[2].running():
        async with one.running():
            writer = await begun(one.log, is_resumable=True)
            writer.begin_bytes(HEAD)
            writer.append("tool.running", {**running("a"), "arguments": "{}"})
            writer.append("tool.running", running("b"))
            writer.append("tool.completed", completed("a"))
            writer.append("tool.running", running("c", 1))
            writer.write(b"half")
            await sent(one.log)
            one.die()
        pages = await asyncio.gather(*(page_with(each, 7) for each in others))
        assert pages[0] == pages[1] == pages[2]
        *_, b, c, done = pages[0].events
        assert [each.type for each in (b, c, done)] == ["tool.completed"] * 2 + ["stream.done"]
        assert (b.data["toolCallId"], c.data["toolCallId"], c.data["choice"]) == ("b", "c", 1)
        for each in (b, c):
            assert each.data["reason"] == "producer_lost"
            assert (each.data["isError"], each.data["outcome"]) == (True, "cut")
            assert each.data["status"] == "completed"
            assert each.data["durationMs"] >= 0
        assert done.data["status"] == "failed"
        assert (done.data["reason"], done.data["calls"]) == ("producer_lost", 3)
        assert pages[0].is_done
        rest = await others[0].log.read_bytes(KEY, 0, 5)
        assert (rest.data, rest.end) == (b"half", "cut")
        assert (await others[1].log.status(KEY)).open_calls == ()


async def test_a_replica_that_was_believed_dead_adds_nothing(redis_server: RedisServer) -> None:
    await redis_server.start()
    one = LogReplica(redis_server.url, lease_s=0.4)
    two = LogReplica(redis_server.url, lease_s=0.4)
    async with one.running(), two.running():
        writer = await begun(one.log)
        writer.append("usage", {})
        await sent(one.log)
        for work in one.works[1:2]:
            work.cancel()  # its lease is not renewed
        page = await page_with(two, 2)
        assert page.is_done
        for _ in range(5):
            writer.append("usage", {})
        writer.append("stream.done", DONE)
        await sent(one.log)
        assert await two.log.read(KEY, 0, 0) == page


async def test_an_id_of_a_dead_replica_is_free_again(redis_server: RedisServer) -> None:
    await redis_server.start()
    one, two = LogReplica(redis_server.url, lease_s=0.2), LogReplica(redis_server.url)
    async with two.running():
        async with one.running():
            assert await one.log.create(KEY, is_chosen=True) is not None
            one.die()
        async with asyncio.timeout(20):
            while True:
                try:
                    writer = await two.log.create(KEY, is_chosen=True)
                except StreamInUseError:
                    await asyncio.sleep(0.05)
                else:
                    break
        assert writer is not None


async def test_a_redis_that_lost_everything_gets_it_again(redis_server: RedisServer) -> None:
    await redis_server.start()
    one, two = LogReplica(redis_server.url), LogReplica(redis_server.url)
    async with one.running(), two.running():
        writer = await begun(one.log, is_resumable=True)
        writer.begin_bytes(HEAD)
        for number in range(120):
            writer.append("usage", {"totalTokens": number})
            writer.write(b"%d," % number)
        await sent(one.log)
        redis_server.kill()
        writer.append("usage", {"totalTokens": 120})
        here = await one.log.read(KEY, 120, 5)  # it runs here
        assert [event.data for event in here.events] == [{"totalTokens": 120}]
        with pytest.raises(LogUnavailableError):
            await two.log.read(KEY, 0, 0)
        await redis_server.start()
        await until(lambda: not (one.health.is_down or two.health.is_down))
        writer.append("stream.done", DONE)
        writer.end_bytes("eof")
        page = await _answered(two, 122)
        seen: list[Any] = list(page.events)
        while len(seen) < 122:
            seen += (await two.log.read(KEY, len(seen), 5)).events
        assert [event.seq for event in seen] == list(range(1, 123))
        got = await two.log.read_bytes(KEY, 0, 5)
        assert got.data == b"".join(b"%d," % number for number in range(120))
        assert (got.head, got.end) == (HEAD, "eof")


async def test_a_redis_that_hangs_delays_no_writer_and_readers_hear_of_it(
    redis_server: RedisServer,
) -> None:
    await redis_server.start()
    one, two = (LogReplica(redis_server.url, patience_s=0.3) for _ in range(2))
    async with one.running(), two.running():
        writer = await begun(one.log)
        await sent(one.log)
        redis_server.signal(signal.SIGSTOP)
        for _ in range(1000):
            writer.append("usage", {})
        other = await one.log.create(StreamKey("o", "mine"), is_chosen=True)
        assert other is not None  # it cannot be known that it is free, and the chat goes on
        for ask in (two.log.read, two.log.read_bytes):
            with pytest.raises(LogUnavailableError):
                await ask(KEY, 0, 60)
        with pytest.raises(LogUnavailableError):
            await two.log.status(KEY)
        assert not await two.log.wait_for(KEY, 0.05)
        assert await two.log.claim("o", "k", Claim("a", "b"), 5) == Claim("a", "b")
        redis_server.signal(signal.SIGCONT)
        page = await _answered(two, 1000)
        assert page.first == 1


async def _answered(replica: LogReplica, last: int) -> Page:
    async with asyncio.timeout(30):
        while True:
            try:
                return await page_with(replica, last)
            except (LogUnavailableError, StreamUnknownError):
                await asyncio.sleep(0.05)


async def test_what_is_no_log_is_told_as_such(redis_server: RedisServer) -> None:
    await redis_server.start()
    one, two = LogReplica(redis_server.url), LogReplica(redis_server.url)
    async with one.running(), two.running():
        writer = await begun(one.log)
        writer.append("usage", {})
        await sent(one.log)
        redis = one.link.redis
        await redis.xadd("test:stream:o:st_1:events", {"d": "nonsense"}, id="0-2")
        with pytest.raises(LogUnavailableError):
            await two.log.read(KEY, 0, 0)
        await redis.hset("test:stream:o:st_1:state", "last", "many")
        for ask in (two.log.read(KEY, 0, 0), two.log.status(KEY)):
            with pytest.raises(LogUnavailableError):
                await ask
        assert two.failures > 2
        assert not two.health.is_down


async def test_what_a_replica_has_said_last_is_sent_before_it_stops(
    redis_server: RedisServer,
) -> None:
    await redis_server.start()
    one, two = LogReplica(redis_server.url), LogReplica(redis_server.url)
    async with two.running():
        async with one.running():
            writer = await begun(one.log)
            await asyncio.sleep(0.05)
            for _ in range(300):
                writer.append("usage", {})
            writer.append("stream.done", DONE)
        assert (await two.log.read(KEY, 300, 0)).is_done


async def test_a_thousand_streams_at_once(redis_server: RedisServer) -> None:
    await redis_server.start()
    one, two = LogReplica(redis_server.url), LogReplica(redis_server.url)
    async with one.running(), two.running():
        for number in range(1000):
            writer = await begun(one.log, StreamKey("o", f"st_{number}"))
            writer.append("usage", {"totalTokens": number})
            writer.append("stream.done", DONE)
        await sent(one.log)
        for number in (0, 500, 999):
            page = await two.log.read(StreamKey("o", f"st_{number}"), 0, 0)
            assert page.events[0].data == {"totalTokens": number}
        assert one.log._mirrors == {}


# --- the store of one machine's workers -----------------------------------------------------------


async def test_the_streams_of_a_dead_worker_end_at_once(tmp_path: Path) -> None:
    async with store_process(tmp_path) as store:
        one, two = LogReplica(store), LogReplica(store)
        async with two.running():
            async with one.running():
                writer = await one.log.create(KEY, is_chosen=True, is_resumable=True)
                assert writer is not None
                writer.begin_bytes(HEAD)
                writer.append("tool.running", running("a"))
                writer.write(b"half")
                await sent(one.log)
                with pytest.raises(StreamInUseError):
                    await two.log.create(KEY, is_chosen=True)
                reading = asyncio.ensure_future(two.log.read(KEY, 1, 60))
                await asyncio.sleep(0.05)
                one.die()
                page = await reading
            assert [event.type for event in page.events] == ["tool.completed", "stream.done"]
            assert page.events[0].data["reason"] == "producer_lost"
            rest = await two.log.read_bytes(KEY, 0, 0)
            assert (rest.head, rest.data, rest.end) == (HEAD, b"half", "cut")
            assert await two.log.create(KEY, is_chosen=True) is not None


async def test_a_store_that_starts_anew_gets_what_runs(tmp_path: Path) -> None:
    one = two = None
    async with store_process(tmp_path) as store:
        one, two = LogReplica(store), LogReplica(store)
        stack = AsyncExitStack()
        await stack.enter_async_context(one.running())
        await stack.enter_async_context(two.running())
        writer = await begun(one.log, is_resumable=True)
        for number in range(120):
            writer.append("usage", {"totalTokens": number})
            writer.write(b"x")
        await sent(one.log)
    await until(lambda: one.health.is_down and two.health.is_down)
    with pytest.raises(LogUnavailableError):
        await two.log.read(KEY, 0, 0)
    writer.append("usage", {"totalTokens": 120})
    async with store_process(tmp_path):
        await until(lambda: not (one.health.is_down or two.health.is_down))
        writer.append("stream.done", DONE)
        writer.end_bytes("eof")
        assert (await _answered(two, 122)).first == 1
        assert (await two.log.read_bytes(KEY, 0, 0)).data == b"x" * 120
        await stack.aclose()


async def test_a_store_that_hangs(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    path = tmp_path / "store.sock"
    server = await asyncio.start_unix_server(silent, path)
    one = LogReplica(f"unix:{path}", patience_s=0.1)
    async with one.running():
        with pytest.raises(LogUnavailableError):
            await one.log.read(KEY, 0, 0.1)
        assert await one.log.create(KEY, is_chosen=True) is not None
        assert one.failures > 0
    server.close()


@pytest.mark.parametrize(
    "nonsense", [b"\xff" * 8, b"\0\0\0\0", b"\0\0\0\1\xc1", b"\0\0\0\4\x93\x01\xa0\xa1"]
)
async def test_a_store_that_makes_no_sense(tmp_path: Path, nonsense: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(nonsense)
        await reader.read()
        writer.close()

    path = tmp_path / "store.sock"
    server = await asyncio.start_unix_server(talk, path)
    one = LogReplica(f"unix:{path}", patience_s=0.2)
    async with one.running():
        with pytest.raises(LogUnavailableError):
            await one.log.status(KEY)
        assert one.failures > 0
    server.close()


async def test_a_worker_that_makes_no_sense_harms_no_other(tmp_path: Path) -> None:
    async with store_process(tmp_path) as store:
        one, two = LogReplica(store), LogReplica(store)
        async with one.running(), two.running():
            writer = await begun(one.log)
            writer.append("usage", {})
            await sent(one.log)
            for message in (b"\xff" * 8, b"\0\0\0\1\x01", framed([1, "no", []])):
                reader, raw = await asyncio.open_unix_connection(store[5:])
                raw.write(message)
                raw.write_eof()
                await reader.read()
                raw.close()
            assert (await two.log.read(KEY, 0, 0)).last == 1
