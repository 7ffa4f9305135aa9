"""Replicas as an operator has them: processes of their own, on one Redis."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from tests.commands import LISTEN, ended, serving
from tests.fakes import Upstream, ask, lifecycle
from tests.handlers.test_follow_up import FOLLOW_UP, agent, chat
from tests.redis_server import RedisServer, redis_server

__all__ = ("redis_server",)

SPAN: Final = {"LIFECYCLE_PROXY_LIFECYCLE__SPAN": "execution"}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def replicas(stack: ExitStack, upstream: Upstream, store: str, count: int = 2) -> list[str]:
    """The URLs of proxies in processes of their own."""
    upstream.script = agent
    environ = {**SPAN, "LIFECYCLE_PROXY_STREAMS__STORE": store}
    arguments = (*LISTEN, "--upstream", upstream.origin)
    return [stack.enter_context(serving(*arguments, **environ))[1] for _ in range(count)]


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
