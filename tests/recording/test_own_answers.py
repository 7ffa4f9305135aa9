"""What the proxy answers by itself is recorded as the client gets it: heads, bodies, the end."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.app import factory, serve
from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.recording.cassette import RecordedExchange, load
from lifecycle_proxy.state.pending_calls import MemoryStore, Waiting

from tests.conftest import StartProxy
from tests.fakes import (
    DONE,
    JSON,
    Answer,
    Client,
    Request,
    Upstream,
    Wire,
    ask,
    chat,
    payloads,
    text,
)

HEARTBEAT = b": keep-alive\n\n"
EARLY = {"server.heartbeat_s": 0.05, "server.heartbeat_before_first_byte": True}
Start = Callable[..., Awaitable[str]]
Recorded = Callable[[], Awaitable[RecordedExchange]]


@pytest.fixture
def start(start_proxy: StartProxy, tmp_path: Path) -> Start:
    async def begin(settings: dict[str, Any] | None = None, **more: Any) -> str:
        own = {"recording.mode": "record", "recording.path": str(tmp_path / "kept")}
        return await start_proxy({**own, **(settings or {})}, **more)

    return begin


@pytest.fixture
def recorded(runners: list[serve.Runner], tmp_path: Path) -> Recorded:
    """Ends the proxy; the one exchange that it recorded."""

    async def end() -> RecordedExchange:
        while runners:
            await serve.stop(runners.pop(), 0)
        (one,) = load(tmp_path / "kept")
        return one

    return end


def head_of(answer: Answer) -> tuple[int, str, Headers]:
    """Status, reason and headers as they came, in their order."""
    lines = answer.raw.decode("latin-1").strip().split("\r\n")[1:]
    headers = tuple((name, value) for name, _, value in (line.partition(": ") for line in lines))
    return answer.status, answer.reason, headers


def assert_got(one: RecordedExchange, answer: Answer, end: str) -> None:
    """The recording holds what the client got, and marks what of it is ours."""
    side = one.client
    assert (side.status, side.reason, side.headers) == head_of(answer)
    assert (side.body, side.end, side.is_whole) == (answer.body, end, True)
    times = [side.ms, *(piece.ms for piece in side.pieces), side.end_ms]
    assert times == sorted(times)
    theirs = b"".join(_less(piece.data, piece.added) for piece in side.pieces)
    assert theirs in {b"", one.upstream.body}


def _less(data: bytes, added: tuple[tuple[int, int], ...]) -> bytes:
    return b"".join(
        data[at : at + 1]
        for at in range(len(data))
        if not any(first <= at < last for first, last in added)
    )


# --- before the upstream has answered -------------------------------------------------------------


async def test_heartbeats_and_then_a_stream(
    upstream: Upstream, start: Start, recorded: Recorded
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.12)
        await wire.stream(text("hi"), DONE, b"")

    upstream.script = script
    answer = await chat(await start(EARLY))
    one = await recorded()
    assert answer.body.startswith(2 * HEARTBEAT)
    assert_got(one, answer, "eof")
    assert [piece.data for piece in one.client.pieces[:2]] == [HEARTBEAT] * 2
    assert one.client.ms < 90 < one.upstream.ms
    assert one.upstream.body == text("hi") + DONE


async def test_a_refusal(upstream: Upstream, start: Start, recorded: Recorded) -> None:
    body = b'{"error": {"message": "slow down"}}'

    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.08)
        await wire.head("429 Too Many Requests", JSON, f"Content-Length: {len(body)}")
        await wire.send(body[:20])
        await asyncio.sleep(0.02)
        await wire.send(body[20:])

    upstream.script = script
    answer = await chat(await start(EARLY))
    one = await recorded()
    assert payloads(answer.body) == [{"error": {"message": "slow down", "status": 429}}]
    assert answer.end == "cut"
    assert_got(one, answer, "cut")
    assert (one.upstream.status, one.upstream.body, one.upstream.end) == (429, body, "eof")
    assert (one.ended, one.error) == ("upstream_error", "")


async def test_a_refusal_that_breaks_off(
    upstream: Upstream, start: Start, recorded: Recorded
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.08)
        await wire.head("500 Oops", "Content-Length: 100")
        wire.close()

    upstream.script = script
    answer = await chat(await start(EARLY))
    one = await recorded()
    assert_got(one, answer, "cut")
    assert (one.upstream.status, one.upstream.end) == (500, "cut")


async def test_a_failure(upstream: Upstream, start: Start, recorded: Recorded) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.gone.wait()

    upstream.script = script
    answer = await chat(await start({**EARLY, "upstream.first_byte_timeout_s": 0.12}))
    one = await recorded()
    assert b"upstream_timeout" in answer.body
    assert_got(one, answer, "cut")
    assert (one.ended, one.error) == ("timeout", "upstream_timeout")
    assert one.upstream.end == ""


async def test_a_drain(
    upstream: Upstream, start: Start, recorded: Recorded, runners: list[serve.Runner]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.gone.wait()

    upstream.script = script
    async with Client(await start(EARLY)) as client:
        answer = await (await client.chat()).until(HEARTBEAT)
        await serve.stop(runners.pop(), 0)
        await answer.read()
    one = await recorded()
    assert b'"draining"' in answer.body
    assert answer.end == "cut"
    assert_got(one, answer, "cut")
    assert (one.ended, one.error) == ("drained", "draining")


async def test_a_client_that_leaves(upstream: Upstream, start: Start, recorded: Recorded) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.gone.wait()

    upstream.script = script
    async with Client(await start(EARLY)) as client:
        answer = await (await client.chat()).until(HEARTBEAT)
    await upstream.request.wire.left()
    one = await recorded()
    assert one.ended == "client_gone"
    assert one.client.body.startswith(answer.body)
    assert one.client.end == "gone"


# --- in the upstream's place ----------------------------------------------------------------------


async def test_an_upstream_that_is_not_there(
    upstream: Upstream, start: Start, recorded: Recorded
) -> None:
    upstream.refuse()
    answer = await chat(await start())
    one = await recorded()
    assert answer.status == 502
    assert {"Date", "Server", "Content-Length"} <= set(answer.headers)
    assert_got(one, answer, "eof")
    assert one.upstream.end == ""


async def test_the_answer_to_a_head_has_no_body(
    upstream: Upstream, start: Start, recorded: Recorded
) -> None:
    upstream.refuse()
    answer = await ask(await start(), "HEAD", "/v1/models")
    assert_got(await recorded(), answer, "eof")


async def test_marks_for_browsers_are_recorded(
    upstream: Upstream, start: Start, recorded: Recorded
) -> None:
    upstream.refuse()
    origin = "https://ui.example"
    answer = await chat(await start({"server.cors_origins": [origin]}), f"Origin: {origin}")
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert_got(await recorded(), answer, "eof")


async def test_capabilities(upstream: Upstream, start: Start, recorded: Recorded) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b"", "404 Not Found")

    upstream.script = script
    answer = await ask(await start(), "GET", "/v1/capabilities")
    one = await recorded()
    assert answer.status == 200
    assert_got(one, answer, "eof")
    assert one.upstream.status == 404


async def test_a_late_no(
    upstream: Upstream, start: Start, recorded: Recorded, runners: list[serve.Runner]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.gone.wait()

    upstream.script = script
    async with Client(await start()) as client:
        await client.ask_chat()
        while not upstream.requests:  # noqa: ASYNC110  the fake sets no event
            await asyncio.sleep(0.01)
        await serve.stop(runners.pop(), 0)
        answer = await (await client.head()).read()
    one = await recorded()
    assert answer.status == 503
    assert_got(one, answer, "eof")
    assert (one.ended, one.error) == ("drained", "draining")


class Broken(MemoryStore):
    async def look(self, scopes: Sequence[str]) -> dict[str, list[Waiting]]:
        raise RuntimeError("a bug")


BROKEN = {"create": partial(factory.ProxyApp, store=Broken(0, print))}
EXECUTION = {"lifecycle.span": "execution"}
FOLLOW_UP = [
    {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]},
    {"role": "tool", "tool_call_id": "a", "content": "r"},
]


@pytest.fixture
def late(upstream: Upstream) -> None:
    """An answer that takes a while: the proxy fails when it comes, where its store is broken."""

    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.08)
        await wire.stream(DONE, b"")

    upstream.script = script


@pytest.mark.usefixtures("late")
async def test_a_bug(start: Start, recorded: Recorded) -> None:
    url = await start(EXECUTION, **BROKEN)
    answer = await chat(url, "X-Session-Id: s1", messages=FOLLOW_UP)
    one = await recorded()
    assert answer.status == 500
    assert_got(one, answer, "eof")
    assert one.error == "internal"


@pytest.mark.usefixtures("late")
async def test_a_bug_behind_a_head(start: Start, recorded: Recorded) -> None:
    url = await start({**EARLY, **EXECUTION}, **BROKEN)
    answer = await chat(url, "X-Session-Id: s1", messages=FOLLOW_UP)
    one = await recorded()
    assert answer.body.startswith(HEARTBEAT)
    assert (answer.body.replace(HEARTBEAT, b""), answer.end) == (b"", "cut")
    assert_got(one, answer, "cut")
    assert (one.ended, one.error) == ("upstream_error", "internal")
