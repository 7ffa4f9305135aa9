"""Several upstreams as one: what depends on time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from lifecycle_proxy.config import model as config
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.upstream.choice import RequestFacts
from lifecycle_proxy.upstream.pool import UpstreamPool

from tests.backends import Backend, backends, several


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def pool(clock: Clock, *upstreams: Backend, **more: Any) -> AsyncIterator[UpstreamPool]:
    settings = config.load(environ={}, flags=several(*(one.table() for one in upstreams), **more))
    made = UpstreamPool(settings, clock=clock)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def is_known(of: UpstreamPool, model: str) -> bool:
    try:
        await of.choose(RequestFacts(model))
    except ProxyError:
        return False
    return True


async def test_a_list_is_kept_for_a_minute_and_asked_again_for_what_is_new() -> None:
    clock = Clock()
    async with backends(a=["x"]) as (one,), pool(clock, one) as own:
        assert await is_known(own, "x")
        one.models.append("new")
        clock.now += 4
        assert not await is_known(own, "new")  # asked a moment ago
        assert len(one.requests) == 1
        clock.now += 1
        assert await is_known(own, "new")
        assert len(one.requests) == 2
        one.models.remove("x")
        clock.now += 59
        assert await is_known(own, "x")
        assert len(one.requests) == 2
        clock.now += 1
        assert not await is_known(own, "x")


async def test_an_upstream_that_is_away_is_asked_again_after_five_seconds() -> None:
    clock = Clock()
    async with backends(a=["x"], b=["y"]) as (one, two), pool(clock, one, two) as own:
        assert await is_known(own, "y")
        await two.stop()
        clock.now += 60
        assert await is_known(own, "y")  # as it was
        assert own.members["b"].list.error()
        asked = len(one.requests)
        clock.now += 4
        assert not await is_known(own, "z")
        assert len(one.requests) == asked


async def test_who_asks_at_the_same_time_waits_for_the_same_list() -> None:
    clock = Clock()
    async with backends(a=["x"]) as (one,), pool(clock, one) as own:
        found = await asyncio.gather(*(is_known(own, "x") for _ in range(50)))
        assert all(found)
        assert len(one.requests) == 1


@pytest.mark.parametrize("count", [1, 20_000])
async def test_places_of_conversations_are_bounded(count: int) -> None:
    async with backends(a=[]) as (one,), pool(Clock(), one) as own:
        for number in range(count):
            own.went_to(b"%d" % number, "a")
        assert len(own._places) == min(count, 10_000)


async def test_the_first_upstream_stands_for_all_where_nothing_is_routed() -> None:
    async with backends(a=["x"], b=["y"]) as (one, two), pool(Clock(), one, two) as own:
        assert own.target("/v1/x") == "/v1/x"
        assert await own.probe() == ""
        one.refuse()
        assert await own.probe() == ""
