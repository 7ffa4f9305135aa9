"""Replicas as an operator has them: processes of their own, on one Redis."""

import asyncio
import os
import re
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest
import redis.asyncio

from tests.backends import Backend, backends, came, complete
from tests.commands import LISTEN, children, ended, serving, stores
from tests.fakes import (
    DONE,
    Answer,
    Client,
    Request,
    Upstream,
    Wire,
    ask,
    chatting,
    lifecycle,
    text,
    tool_call,
    without_frames,
)
from tests.handlers.test_follow_up import FOLLOW_UP, agent, chat
from tests.redis_server import RedisServer, redis_server
from tests.server.test_life import lives, until

__all__ = ("redis_server",)
pytestmark = pytest.mark.unmeasured

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
        await _is_stored(redis_server)
        second = await chat(two, messages=FOLLOW_UP)
        assert lifecycle(second.body) == [("call_1", "completed", None)]
        for url in (one, two):
            again = await chat(url, messages=FOLLOW_UP)
            assert lifecycle(again.body) == []


async def _is_stored(server: RedisServer) -> None:
    """Wait until Redis has a call: on a busy machine the client may have its stream before."""
    store = redis.asyncio.from_url(server.url)
    try:
        async with asyncio.timeout(10):
            while not await store.keys("*:calls:*"):  # noqa: ASYNC110  no event tells of it
                await asyncio.sleep(0.01)
    finally:
        await store.aclose()


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
    async with chatting(one, KEY, seen=b"one") as chat_:
        stream_id = chat_.headers["X-Stream-Id"]
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
    async with chatting(one, KEY, seen=b"one") as chat_:
        stream_id = chat_.headers["X-Stream-Id"]
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
    async with chatting(one, KEY, seen=b"one") as chat_:
        stream_id = chat_.headers["X-Stream-Id"]
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


async def test_the_same_post_continues_on_another_replica(
    stack: ExitStack, upstream: Upstream, redis_server: RedisServer
) -> None:
    await redis_server.start()
    (_, one), (_, two) = started(stack, upstream, redis_server.url)
    steps = Stepwise(upstream)
    lines = (KEY, "X-Lifecycle-Resume: 60", "Idempotency-Key: k1")
    async with Client(one) as client:
        chat_ = await client.chat(*lines)
        stream_id = chat_.headers["X-Stream-Id"]
        await chat_.until(b"one")
        await events_begin(two, stream_id)
        client.wire.reset()  # the link to the client is lost
    async with Client(two) as client:
        again = await client.chat(*lines)
        assert again.status == 200
        assert again.headers["X-Lifecycle-Resumed"] == "true"
        await again.until(b"one")
        steps.go_on.set()
        whole = await again.read()
    assert without_frames(whole.body) == tool_call() + text("one") + text("two") + DONE
    assert len(upstream.requests) == 1
    async with Client(two) as client:
        other = await client.chat(*lines, temperature=1)
        assert (other.status, len(upstream.requests)) == (409, 1)


# --- the workers of one machine -------------------------------------------------------------------


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """The path of a socket may have 107 bytes only."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def workers(
    upstream: Upstream, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Replica]:
    """Two workers, and no Redis."""
    monkeypatch.setenv("TMPDIR", str(short_tmp))
    upstream.script = agent
    arguments = (*LISTEN, "--workers", "2", "--upstream", upstream.origin)
    with serving(*arguments, **SPAN) as (process, url, _):
        yield process, url


async def test_a_long_path_of_temporary_files_is_no_obstacle(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    upstream.script = agent
    arguments = (*LISTEN, "--workers", "2", "--upstream", upstream.origin)
    with serving(*arguments, **SPAN) as (process, _, _base):
        assert len(stores(process)) == 1
        process.terminate()
        assert "ended" not in (await asyncio.to_thread(ended, process))[2]


async def test_a_call_ends_once_whichever_worker_is_asked(workers: Replica) -> None:
    _, url = workers
    for _ in range(12):  # the kernel spreads connections over the workers
        assert lifecycle((await chat(url)).body) == [("call_1", "running", None)]
        answers = await asyncio.gather(*(chat(url, messages=FOLLOW_UP) for _ in range(6)))
        ends = [end for answer in answers for end in lifecycle(answer.body)]
        assert ends == [("call_1", "completed", None)]


async def test_a_stream_is_read_whichever_worker_is_asked(
    upstream: Upstream, workers: Replica
) -> None:
    _, url = workers
    steps = Stepwise(upstream)
    async with chatting(url, KEY, seen=b"one") as chat_:
        stream_id = chat_.headers["X-Stream-Id"]
        reading = [asyncio.create_task(events(url, stream_id)) for _ in range(8)]
        await asyncio.sleep(0.2)
        steps.go_on.set()
        await chat_.read()
        bodies = {answer.body for answer in await asyncio.gather(*reading)}
    (body,) = bodies
    assert b"event: stream.done" in body


async def test_an_id_leads_to_its_upstream_whichever_worker_is_asked(
    tmp_path: Path, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(short_tmp))
    async with backends(one=[], two=[]) as (one, two):
        file = tmp_path / "config.toml"
        file.write_text(_tables(one, two))
        arguments = (*LISTEN, "--workers", "2", "--config", str(file))
        with serving(*arguments) as (_, url, _base):
            await _ids_are_known(two, [url])


async def test_an_id_leads_to_its_upstream_on_another_replica(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    await redis_server.start()
    async with backends(one=[], two=[]) as (one, two):
        file = tmp_path / "config.toml"
        file.write_text(f'{_tables(one, two)}[streams]\nstore = "{redis_server.url}"\n')
        arguments = (*LISTEN, "--config", str(file))
        with serving(*arguments) as (_, first, _a), serving(*arguments) as (_, second, _b):
            await _ids_are_known(two, [first, second])


def _tables(*some: Backend) -> str:
    tables = (f'[[upstreams]]\nname = "{one.name}"\nurl = "{one.origin}/v1"\n' for one in some)
    return "".join(f'{table}models = ["m-{number}"]\n' for number, table in enumerate(tables))


async def _ids_are_known(two: Backend, urls: list[str]) -> None:
    """Each connection may be another process's. On a busy machine it may hear of an id later."""
    lines = (KEY, "Content-Type: application/json")
    for number in range(12):
        made = f"resp_{number}"

        async def makes(_: Request, wire: Wire, made: str = made) -> None:
            await wire.answer(b'{"id":"%b","by":"two"}' % made.encode(), "200 OK")

        two.answer = makes
        url, other = urls[0], urls[-1]
        answer = await ask(url, "POST", "/v1/responses", *lines, body=b'{"model":"m-1"}')
        assert answer.json()["id"] == made
        body = b'{"previous_response_id":"%b"}' % made.encode()
        async with asyncio.timeout(10):
            while True:
                answers = [ask(other, "GET", f"/v1/responses/{made}", KEY) for _ in range(4)]
                answers.append(ask(other, "POST", "/v1/responses", *lines, body=body))
                if {one.json()["by"] for one in await asyncio.gather(*answers)} == {"two"}:
                    break


async def test_a_conversation_stays_where_it_is_whichever_worker_is_asked(
    tmp_path: Path, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(short_tmp))
    async with backends(one=[], two=[]) as (one, two):
        file = tmp_path / "config.toml"
        file.write_text(f'{_tables(one, two)}[models]\n"m" = [["one/a", "two/a"]]\n')
        arguments = (*LISTEN, "--workers", "2", "--config", str(file))
        with serving(*arguments) as (_, url, _base):
            places = set()
            for number in range(8):
                asked = [{"role": "user", "content": f"chat {number}"}]
                first = await complete(url, "m", KEY, messages=asked)
                place = first.json()["by"]
                places.add(place)
                here, held = (one if place == "one" else two), asyncio.Event()

                async def holds(request: Request, wire: Wire, held: asyncio.Event = held) -> None:
                    if b"held" in request.body:
                        await held.wait()
                    await wire.answer(b'{"by":"%b"}' % place.encode())  # noqa: B023

                here.answer = holds
                lines = [{"role": "user", "content": "held"}]
                before, made = len(here.asked), f"{place}/a"
                waiting = [
                    asyncio.create_task(complete(url, made, KEY, messages=lines)) for _ in range(6)
                ]
                await came(before + 6, here)
                # By load alone these would go elsewhere.
                answers = [complete(url, "m", KEY, messages=asked) for _ in range(6)]
                found = {answer.json()["by"] for answer in await asyncio.gather(*answers)}
                held.set()
                await asyncio.gather(*waiting)
                here.answer = here.echo
                assert found == {place}
            assert places == {"one", "two"}


def test_the_store_is_private_and_nothing_listens_on_tcp(workers: Replica, short_tmp: Path) -> None:
    process, _ = workers
    (store,) = stores(process)
    (sock,) = short_tmp.glob("*/store.sock")
    assert stat.S_IMODE(sock.parent.stat().st_mode) == 0o700
    held = {link.readlink().name for link in Path(f"/proc/{store}/fd").iterdir()}
    of_all = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {f"socket:[{fields[9]}]" for fields in of_all if fields[3] == "0A"}
    assert listening
    assert held & listening == set()


@pytest.mark.parametrize("key", ["k1", "\xff\xfe", "x" * 5000], ids=len)
async def test_the_same_post_many_times_at_once_is_asked_for_once(
    workers: Replica, upstream: Upstream, key: str
) -> None:
    _, url = workers
    steps = Stepwise(upstream)
    lines = (KEY, "X-Lifecycle-Resume: 60", f"Idempotency-Key: {key}")

    async def post() -> Answer:
        async with Client(url) as client:
            answer = await (await client.chat(*lines)).until(b"one")
            steps.go_on.set()
            return await answer.read()

    answers = [*await asyncio.gather(*(post() for _ in range(8))), await post()]
    assert {(one.status, one.end) for one in answers} == {(200, "clean")}
    assert len({one.body for one in answers}) == len(upstream.requests) == 1


async def test_a_killed_store_is_replaced_and_chats_go_on(
    upstream: Upstream, workers: Replica, short_tmp: Path
) -> None:
    process, url = workers
    (killed,) = stores(process)
    steps = Stepwise(upstream)
    async with chatting(url, KEY, seen=b"one") as chat_:
        stream_id = chat_.headers["X-Stream-Id"]
        os.kill(killed, signal.SIGKILL)
        steps.go_on.set()
        assert (await chat_.read()).end == "clean"
        await until(lambda: bool(stores(process) - {killed}))
        answers = [await events(url, stream_id) for _ in range(6)]
        assert {b"event: stream.done" in answer.body for answer in answers} == {True}
    upstream.script = agent
    known = 0  # in a row: each worker finds the new store by itself
    async with asyncio.timeout(20):
        while known < 4:
            assert lifecycle((await chat(url)).body) == [("call_1", "running", None)]
            found = lifecycle((await chat(url, messages=FOLLOW_UP)).body)
            assert found in ([], [("call_1", "completed", None)])
            known = known + 1 if found else 0
    process.terminate()
    code, _, err = await asyncio.to_thread(ended, process)
    assert code == 0
    assert "workers' store ended (-9)" in err
    assert err.count("is down") <= 2  # once for each worker
    assert "Traceback" not in err
    assert os.listdir(short_tmp) == []  # noqa: PTH208  Path's own would block, too


async def test_a_supervisor_that_is_killed_leaves_no_process(workers: Replica) -> None:
    process, url = workers
    assert (await ask(url, "GET", "/-/healthy")).status == 200
    pids = children(process)
    assert len(pids) == 3
    process.kill()
    await until(lambda: not any(map(lives, pids)), 30)


async def test_a_killed_workers_stream_ends_for_its_readers(
    upstream: Upstream, workers: Replica
) -> None:
    process, url = workers
    Stepwise(upstream)
    async with chatting(url, KEY, seen=b"one") as chat_:
        stream_id = chat_.headers["X-Stream-Id"]
        await events_begin(url, stream_id)
        for pid in children(process) - stores(process):
            os.kill(pid, signal.SIGKILL)
        lost = await events_after_restart(url, stream_id)
    assert b'"reason":"producer_lost"' in lost.body


async def events_after_restart(url: str, stream_id: str) -> Answer:
    async with asyncio.timeout(40):
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                return await events(url, stream_id)
            await asyncio.sleep(0.05)
