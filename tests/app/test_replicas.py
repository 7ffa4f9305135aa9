"""Replicas as an operator has them: processes of their own, on one Redis."""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from tests.commands import LISTEN, ended, serving
from tests.fakes import (
    DONE,
    Answer,
    Client,
    Request,
    Upstream,
    Wire,
    ask,
    lifecycle,
    text,
    tool_call,
    without_frames,
)
from tests.handlers.test_follow_up import FOLLOW_UP, agent, chat
from tests.redis_server import RedisServer, redis_server

__all__ = ("redis_server",)

SPAN: Final = {"LIFECYCLE_PROXY_LIFECYCLE__SPAN": "execution"}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


Replica = tuple["subprocess.Popen[str]", str]
KEY: Final = "Authorization: Bearer sk-1"


def started(stack: ExitStack, upstream: Upstream, store: str, count: int = 2) -> list[Replica]:
    """Proxies in processes of their own, with their URLs."""
    environ = {**SPAN, "LIFECYCLE_PROXY_STREAMS__STORE": store}
    arguments = (*LISTEN, "--upstream", upstream.origin)
    return [stack.enter_context(serving(*arguments, **environ))[:2] for _ in range(count)]


def replicas(stack: ExitStack, upstream: Upstream, store: str, count: int = 2) -> list[str]:
    """The URLs of proxies in front of an agent."""
    upstream.script = agent
    return [url for _, url in started(stack, upstream, store, count)]


class Stepwise:
    """An upstream's stream that goes on when the test says so."""

    def __init__(self, upstream: Upstream) -> None:
        self.go_on = asyncio.Event()
        upstream.script = self._script

    async def _script(self, request: Request, wire: Wire) -> None:
        await wire.stream(tool_call(), text("one"))
        await self.go_on.wait()
        await wire.chunk(text("two"))
        await wire.chunk(DONE)
        await wire.chunk()


async def events(url: str, stream_id: str, query: str = "") -> Answer:
    """A stream's events, read to the end; the stream may not be known there at once."""
    async with asyncio.timeout(40):
        while True:
            answer = await ask(url, "GET", f"/-/streams/{stream_id}/events{query}", KEY)
            if answer.status not in (404, 503):
                return answer
            await asyncio.sleep(0.05)


async def test_a_follow_up_that_reaches_another_replica_ends_the_call_once(
    stack: ExitStack, upstream: Upstream, redis_server: RedisServer
) -> None:
    await redis_server.start()
    one, two = replicas(stack, upstream, redis_server.url)
    for _ in range(5):
        first = await chat(one)
        assert lifecycle(first.body) == [("call_1", "running", None)]
        second = await chat(two, messages=FOLLOW_UP)
        assert lifecycle(second.body) == [("call_1", "completed", None)]
        for url in (one, two):
            again = await chat(url, messages=FOLLOW_UP)
            assert lifecycle(again.body) == []


async def test_without_redis_chats_go_on(
    stack: ExitStack, upstream: Upstream, redis_server: RedisServer
) -> None:
    one, two = replicas(stack, upstream, redis_server.url)
    assert lifecycle((await chat(one)).body) == [("call_1", "running", None)]
    assert lifecycle((await chat(two, messages=FOLLOW_UP)).body) == []
    found = lifecycle((await chat(one, messages=FOLLOW_UP)).body)
    assert found == [("call_1", "completed", None)]
    shown = (await ask(one, "GET", "/-/metrics")).body.decode()
    assert re.search(r"^lifecycle_proxy_store_failures_total [1-9]", shown, re.MULTILINE)


async def test_no_password_is_shown(upstream: Upstream) -> None:
    environ = {"STORE": "redis://user:s3cret@127.0.0.1:1/0?health_check_interval=0"}
    environ["LIFECYCLE_PROXY_STREAMS__STORE"] = "env:STORE"
    with serving(*LISTEN, "--upstream", upstream.origin, **environ) as (process, url, _):
        shown = (await ask(url, "GET", "/-/config")).json()
        assert shown["streams"]["store"] == "redis://127.0.0.1:1/0"
        process.terminate()
        code, out, err = ended(process)
    assert code == 0
    assert "redis://127.0.0.1:1/0 is down" in err
    assert err.count("is down") == 1
    assert "s3cret" not in out + err


async def test_a_stream_is_read_on_another_replica(
    stack: ExitStack, upstream: Upstream, redis_server: RedisServer
) -> None:
    await redis_server.start()
    (_, one), (_, two) = started(stack, upstream, redis_server.url)
    steps = Stepwise(upstream)
    async with Client(one) as client:
        chat_ = await client.chat(KEY)
        stream_id = chat_.headers["X-Stream-Id"]
        await chat_.until(b"one")
        reading = [asyncio.create_task(events(two, stream_id)) for _ in range(3)]
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in reading)
        steps.go_on.set()
        await chat_.read()
        here = await events(one, stream_id)
        for there in await asyncio.gather(*reading):
            assert there.body == here.body
        assert b"event: stream.done" in here.body
        later = await events(two, stream_id, "?after=1")
        assert later.body == here.body.replace(_first_event(here.body), b"")
    foreign = await ask(two, "GET", f"/-/streams/{stream_id}/events", "Authorization: Bearer x")
    assert foreign.status == 404


def _first_event(body: bytes) -> bytes:
    return body[body.index(b"id: 1\n") : body.index(b"id: 2\n")]


async def test_a_replica_that_is_killed_loses_its_streams_and_says_so(
    stack: ExitStack, upstream: Upstream, redis_server: RedisServer
) -> None:
    await redis_server.start()
    (process, one), (_, two) = started(stack, upstream, redis_server.url)
    Stepwise(upstream)
    async with Client(one) as client:
        chat_ = await client.chat(KEY)
        stream_id = chat_.headers["X-Stream-Id"]
        await chat_.until(b"one")
        await asyncio.sleep(0.3)
        process.kill()
        lost = await events(two, stream_id)
        assert (await chat_.read()).end in ("cut", "reset")
    assert b'"reason":"producer_lost"' in lost.body
    assert lost.body.count(b"event: stream.done") == 1
    assert (await events(two, stream_id)).body == lost.body


async def test_redis_is_killed_while_a_stream_runs(
    stack: ExitStack, upstream: Upstream, redis_server: RedisServer
) -> None:
    await redis_server.start()
    (_, one), (_, two) = started(stack, upstream, redis_server.url)
    steps = Stepwise(upstream)
    async with Client(one) as client:
        chat_ = await client.chat(KEY)
        stream_id = chat_.headers["X-Stream-Id"]
        await chat_.until(b"one")
        await events_begin(two, stream_id)
        redis_server.kill()
        refused = await ask(two, "GET", f"/-/streams/{stream_id}/events", KEY)
        assert refused.status == 503
        error = refused.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["code"]) == ("proxy_error", "streams_unavailable")
        steps.go_on.set()
        whole = await chat_.read()
        assert without_frames(whole.body).endswith(text("two") + DONE)
        assert whole.end == "clean"
        await redis_server.start()
        found = await events(two, stream_id)
        assert b"event: stream.started" in found.body
        assert b"event: stream.done" in found.body


async def events_begin(url: str, stream_id: str) -> None:
    """The stream is known there."""
    async with asyncio.timeout(20):
        while (await ask(url, "GET", f"/-/streams/{stream_id}", KEY)).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
