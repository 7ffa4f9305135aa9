"""Waiting calls that several processes know, on a real Redis that comes and goes."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from lifecycle_proxy.core.events import ToolCompleted
from lifecycle_proxy.core.followup import EarlierCalls, TrailingCall, last_calls
from lifecycle_proxy.exchange.client_scope import Scope
from lifecycle_proxy.state import redis_link
from lifecycle_proxy.state.health import StoreError, StoreHealth
from lifecycle_proxy.state.pending_calls import ConversationCalls, Waiting
from lifecycle_proxy.state.redis_calls import RedisCalls
from lifecycle_proxy.state.redis_link import RedisLink
from lifecycle_proxy.state.shared_calls import SharedCalls

from tests.core import told
from tests.redis_server import RedisServer, redis_server
from tests.state.test_pending_calls import answer, asked, delegated, said

__all__ = ("redis_server",)


class Process:
    """What one replica has of the calls."""

    def __init__(self, url: str, ttl_s: float = 60.0, patience_s: float = 2.0, **more: Any) -> None:
        self.failures = 0
        self.ended: list[ToolCompleted] = []
        self.health = StoreHealth("redis", self._failed)
        self.link = RedisLink(redis_link.client(url, patience_s), self.health, patience_s, 0.05)
        self.table = RedisCalls(self.link, "test")
        self.store = SharedCalls(self.table, ttl_s, self.ended.append, **more)

    def _failed(self) -> None:
        self.failures += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Process"]:
        works = [asyncio.create_task(self.link.run()), asyncio.create_task(self.store.run())]
        try:
            yield self
        finally:
            for work in works:
                work.cancel()
                with suppress(asyncio.CancelledError):
                    await work

    def conversation(self, *messages: Any, has_session: bool = True) -> ConversationCalls:
        scope = Scope("s", has_session)
        return ConversationCalls(self.store, scope, last_calls(list(messages)))

    async def written(self) -> None:
        """All that was put has reached the table."""
        await self.table.look(["nothing"])

    async def left(self) -> int:
        (found,) = await self.table.look(["s"])
        return len(found)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  what other processes do sets no event
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(*processes: Process) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for one in processes:
            await stack.enter_async_context(one.running())
        yield


@pytest.fixture
async def pair(redis_server: RedisServer) -> AsyncIterator[tuple[Process, Process]]:
    """Two replicas on one Redis."""
    await redis_server.start()
    one, two = Process(redis_server.url), Process(redis_server.url)
    async with running(one, two):
        yield one, two


Pair = tuple[Process, Process]


async def test_a_call_ends_on_another_replica(pair: Pair) -> None:
    one, two = pair
    one.conversation().put(delegated("a"))
    await one.written()
    (event,) = await two.conversation(asked("a"), answer("a")).resume(1e9)
    assert told(event) == "completed a f ok"
    assert event.label == "label"
    assert await one.conversation(asked("a"), answer("a")).resume(1e9) == []
    assert await one.left() == 0
    assert one.ended == two.ended == []


async def test_what_a_conversation_held_before_is_known_elsewhere(pair: Pair) -> None:
    one, two = pair
    first = said("0")
    one.conversation(*first).put(delegated("0"))
    await one.written()
    assert await two.conversation(*first).resume(1e9) == []
    (event,) = await two.conversation(*first, *said("0", result="other")).resume(1e9)
    assert told(event) == "completed 0 f ok"


async def test_where_a_credential_may_be_shared_only_who_knows_the_call_ends_it(
    pair: Pair,
) -> None:
    one, two = pair
    (call,) = last_calls(said("0", '{"x": 1}'))
    one.conversation(has_session=False).put(delegated("0", content=call.content))
    await one.written()
    guess = two.conversation(asked("0"), answer("0"), has_session=False)
    assert await guess.resume(1e9) == []
    (event,) = await two.conversation(*said("0", '{"x":1}'), has_session=False).resume(1e9)
    assert told(event) == "completed 0 f ok"


async def test_of_many_that_race_for_a_call_one_has_it(redis_server: RedisServer) -> None:
    await redis_server.start()
    processes = [Process(redis_server.url) for _ in range(12)]
    async with running(*processes):
        for number in range(20):
            processes[0].conversation().put(delegated(f"c{number}"))
            await processes[0].written()
            messages = (asked(f"c{number}"), answer(f"c{number}"))
            events = await asyncio.gather(
                *(one.conversation(*messages).resume(1e9) for one in processes)
            )
            assert sorted(map(len, events)) == [0] * 11 + [1]


async def test_a_stream_takes_its_own_call_without_waiting(pair: Pair) -> None:
    one, two = pair
    conversation = one.conversation()
    conversation.put(delegated("a"))
    assert conversation.maybe_take("a", 0) == delegated("a")
    await one.written()
    assert await two.conversation(asked("a"), answer("a")).resume(1e9) == []
    assert await two.left() == 0


async def test_an_id_that_comes_again_does_not_end_what_ended_elsewhere(pair: Pair) -> None:
    one, two = pair
    one.conversation().put(delegated("a"))
    await one.written()
    assert len(await two.conversation(asked("a"), answer("a")).resume(1e9)) == 1
    again = one.conversation()
    assert again.maybe_take("a", 0) is None
    again.put(delegated("a"))
    await one.written()
    assert one.ended == two.ended == []
    assert len(await two.conversation(asked("a"), answer("a")).resume(1e9)) == 1


async def test_a_look_forgets_what_ended_elsewhere(pair: Pair) -> None:
    one, two = pair
    one.conversation().put(delegated("a"))
    await one.written()
    assert len(await two.conversation(asked("a"), answer("a")).resume(1e9)) == 1
    assert len(one.store) == 1
    assert await one.conversation(asked("a"), answer("a")).resume(1e9) == []
    assert len(one.store) == 0


async def test_a_call_that_nobody_answers_expires_once(redis_server: RedisServer) -> None:
    await redis_server.start()
    one, two = Process(redis_server.url, 0.2, sweep_s=0.05), Process(redis_server.url)
    async with running(one, two):
        one.conversation().put(delegated("a"))
        one.conversation().put(delegated("b"))
        await one.written()
        (event,) = await two.conversation(asked("a"), answer("a")).resume(1e9)
        await until(lambda: bool(one.ended))
        await one.written()
        assert [told(each) for each in one.ended] == ["completed b f unknown:expired"]
        assert told(event) == "completed a f ok"


async def test_a_call_whose_replica_died_is_forgotten(redis_server: RedisServer) -> None:
    await redis_server.start()
    async with Process(redis_server.url, 0.1).running() as one:
        one.conversation().put(delegated("a"))
        await one.written()
    async with Process(redis_server.url).running() as two:
        await asyncio.sleep(0.12)
        assert await two.conversation(asked("a"), answer("a")).resume(1e9) == []


async def test_the_same_id_put_elsewhere_ends_the_earlier_call(pair: Pair) -> None:
    one, two = pair
    one.conversation().put(delegated("a"))
    await one.written()
    two.conversation().put(delegated("a", started=1.0))
    await two.written()
    assert [told(each) for each in two.ended] == ["completed a f unknown:superseded"]
    assert await one.left() == 1


async def test_a_call_as_the_table_has_it_is_the_same_elsewhere(pair: Pair) -> None:
    one, two = pair
    seen = frozenset((TrailingCall("a", "c", "r", True),))
    waiting = Waiting(delegated("a"), EarlierCalls(3, seen), EarlierCalls(1))
    one.store.put("s", waiting)
    await one.written()
    (found,) = (await two.store.look(["s"]))["s"]
    assert (found.earlier, found.alike) == (waiting.earlier, waiting.alike)
    assert found.call.announced == waiting.call.announced
    assert abs(found.call.started - waiting.call.started) < 1


@pytest.mark.parametrize("value", [b"", b"{}", b"[1,2,3]", b"\xff", b"[9e9,1,null]"])
async def test_what_is_no_call_is_left_where_it_is(pair: Pair, value: bytes) -> None:
    one, two = pair
    await one.table.put("s", "x", value, 60)
    assert await two.conversation(asked("a"), answer("a")).resume(1e9) == []


# --- a Redis that does not answer -----------------------------------------------------------------


async def follow_up(process: Process) -> list[str]:
    messages = (asked("a"), answer("a"))
    return [told(event) for event in await process.conversation(*messages).resume(1e9)]


async def test_without_redis_a_process_knows_its_own_calls(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with Process(redis_server.url).running() as one:
        await until(lambda: one.health.is_down)
        one.conversation().put(delegated("a"))
        assert await follow_up(one) == ["completed a f ok"]
        assert await follow_up(one) == []
        await until(lambda: one.failures > 3)
        await redis_server.start()
        await until(lambda: not one.health.is_down)
        one.conversation().put(delegated("a"))
        await one.written()
        assert await one.left() == 1
    texts = [record.getMessage() for record in caplog.records if record.name == "proxy.state"]
    assert ["is down" in text for text in texts] == [True, False]
    assert "answers again" in texts[1]


async def test_redis_killed_in_the_middle(redis_server: RedisServer) -> None:
    await redis_server.start()
    one, two = Process(redis_server.url), Process(redis_server.url)
    async with running(one, two):
        one.conversation().put(delegated("a"))
        await one.written()
        redis_server.kill()
        assert await follow_up(two) == []
        assert await follow_up(one) == ["completed a f ok"]
        await redis_server.start()
        await until(lambda: not (one.health.is_down or two.health.is_down))
        one.conversation().put(delegated("a"))
        await one.written()
        assert await follow_up(two) == ["completed a f ok"]
        assert await follow_up(one) == []


async def test_a_removal_that_redis_did_not_hear_of_is_made_up_for(
    redis_server: RedisServer,
) -> None:
    await redis_server.start()
    async with Process(redis_server.url, patience_s=0.3).running() as one:
        one.conversation().put(delegated("a"))
        await one.written()
        redis_server.signal(signal.SIGSTOP)
        assert await follow_up(one) == ["completed a f ok"]
        redis_server.signal(signal.SIGCONT)
        await until(lambda: not one.health.is_down)
        await one.conversation(asked("b")).resume(1e9)
        assert await one.left() == 0


async def test_a_redis_that_hangs_costs_one_wait(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await redis_server.start()
    async with Process(redis_server.url, patience_s=0.3).running() as one:
        await one.written()
        redis_server.signal(signal.SIGSTOP)
        one.conversation().put(delegated("a"))
        assert await follow_up(one) == ["completed a f ok"]
        assert one.health.is_down
        failures = one.failures
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for _ in range(1000):
            await follow_up(one)
        assert one.failures - failures < 100  # it was not asked: only probed
        assert loop.time() - begun < 100 * 0.3
        redis_server.signal(signal.SIGCONT)
        await until(lambda: not one.health.is_down)
    assert len([one for one in caplog.records if one.levelno == logging.ERROR]) == 1


NONSENSE = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x00" * 100,
    b"+OK\r\n" * 100,
    b":1\r\n" * 100,
    b"*1\r\n*1\r\n" * 100,
    b"$-5\r\n",
    b"-ERR no\r\n" * 100,
    b"%1\r\n+a\r\n+b\r\n" * 100,
    b"",
]


@pytest.mark.parametrize("nonsense", NONSENSE)
async def test_what_answers_nonsense_is_as_good_as_down(nonsense: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(1 << 16):
                writer.write(nonsense)
                if not nonsense:
                    break
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        url = f"redis://127.0.0.1:{port}"
        async with Process(url, patience_s=0.5).running() as one:
            one.conversation().put(delegated("a"))
            with suppress(StoreError):
                await one.written()
            assert await follow_up(one) in (["completed a f ok"], [])
            await until(lambda: one.failures > 0)
            with pytest.raises(StoreError):
                await one.table.look(["s"])
        server.close()


async def test_commands_that_redis_refuses_are_counted(redis_server: RedisServer) -> None:
    await redis_server.start()
    async with Process(redis_server.url).running() as one:
        await one.link.redis.set("test:calls:s", "no hash")
        one.conversation().put(delegated("a"))
        assert await follow_up(one) == ["completed a f ok"]
        assert one.failures > 0
        assert not one.health.is_down
        assert await one.table.look(["t"]) == [[]]


async def test_what_waits_is_bounded_and_ends_with_the_process(redis_server: RedisServer) -> None:
    await redis_server.start()
    process = Process(redis_server.url)
    waiting = [process.table.look(["s"]) for _ in range(10_001)]
    with pytest.raises(StoreError, match="too many"):
        await waiting[-1]
    async with process.running():
        assert await waiting[0] == [[]]
        last = process.table.look(["s"])
    with pytest.raises(StoreError):
        await last
