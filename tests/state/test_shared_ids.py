"""Made ids that several processes know: over the store of the workers, and a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.state import redis_link
from lifecycle_proxy.state.health import StoreHealth
from lifecycle_proxy.state.made_ids import PER_TENANT, MadeIds
from lifecycle_proxy.state.redis_ids import RedisIds
from lifecycle_proxy.state.redis_link import RedisLink
from lifecycle_proxy.state.shared_ids import SharedIds
from lifecycle_proxy.state.wire import WireLink
from lifecycle_proxy.state.wire_server import StoreServer
from lifecycle_proxy.state.wire_tables import WireIds

from tests.redis_server import RedisServer, redis_server
from tests.state.replicas import until

__all__ = ("redis_server",)


@asynccontextmanager
async def process(url: str) -> AsyncIterator[SharedIds]:
    """The ids of one process."""
    health = StoreHealth("store", lambda: None)
    link: Any
    if url.startswith("unix:"):
        link = WireLink(url[5:], health, retry_s=0.05)
        ids = SharedIds(WireIds(link))
    else:
        link = RedisLink(redis_link.client(url, 2.0), health, 2.0, 0.05)
        ids = SharedIds(RedisIds(link, "test"))
    work = asyncio.create_task(link.run())
    try:
        if url.startswith("unix:"):
            await until(lambda: link.is_connected or health.is_down)
        yield ids
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


@pytest.fixture(params=["workers", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "redis":
        redis: RedisServer = request.getfixturevalue("redis_server")
        await redis.start()
        yield redis.url
        return
    server, path = StoreServer(), str(tmp_path / "store.sock")
    await server.start(path)
    yield f"unix:{path}"
    await server.close()


async def test_what_one_process_saw_others_know(store: str) -> None:
    async with process(store) as one, process(store) as two:
        assert one
        one.add("t", "resp_1", "a")
        one.add("t", "file-2", "b")
        one.add("t", "file-2", "c")
        assert await one.find("t", ["v1", "responses", "resp_1"]) == "a"
        async with asyncio.timeout(10):  # they may hear of it a moment later
            while await two.find("t", ["file-2"]) != "c":  # noqa: ASYNC110  in another process
                await asyncio.sleep(0.01)
        assert await two.find("t", ["v1", "responses", "resp_1"]) == "a"
        assert await two.find("t", ["resp_0", "file-2", "resp_1"]) == "c"
        assert await two.find("u", ["resp_1"]) == ""  # of another user
        assert await two.find("t", ["resp_0"]) == ""
        assert len(two) == 0


async def test_no_credential_fills_the_store(store: str) -> None:
    async with process(store) as one, process(store) as two:
        one.add("u", "resp_x1", "a")
        for number in range(PER_TENANT + 5):
            one.add("t", f"resp_{number}", "a")
            if not number % 100:
                await one.find("t", ["none-1"])
        assert await two.find("t", ["resp_4"]) == ""
        assert await two.find("t", ["resp_5"]) == "a"
        assert await two.find("u", ["resp_x1"]) == "a"


@pytest.mark.parametrize("store", ["unix:/nowhere/store.sock", "redis://127.0.0.1:1/0"])
async def test_without_the_store_a_process_knows_its_own(store: str) -> None:
    async with process(store) as one:
        one.add("t", "resp_1", "a")
        assert await one.find("t", ["resp_1"]) == "a"
        assert await one.find("t", ["resp_2"]) == ""


class NotAsked:
    """A table that nobody may ask."""

    def keep(self, tenant: str, made: str, upstream: str) -> "asyncio.Future[None]":
        raise AssertionError(made)

    def find(self, tenant: str, ids: Any) -> "asyncio.Future[str]":
        raise AssertionError(ids)


@pytest.mark.parametrize(
    "path", ["v1/embeddings", "v1/audio/transcriptions", "v1beta/fine_tuning/jobs", ""]
)
async def test_the_words_of_an_api_are_not_asked_for(path: str) -> None:
    assert await SharedIds(NotAsked()).find("t", path.split("/")) == ""


async def test_what_is_too_long_is_not_shared() -> None:
    ids = SharedIds(NotAsked())
    ids.add("t", "resp_1" * 99, "a")
    assert await ids.find("t", ["resp_1" * 99]) == ""
    assert not MadeIds()
