"""Faults on live traffic: what a client sees of each kind, through the proxy."""

import asyncio
import gzip
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from lifecycle_proxy.app import serve
from lifecycle_proxy.faults.plan import Fault, FaultPolicy

from tests.conftest import StartProxy
from tests.fakes import (
    CHAT,
    DONE,
    JSON,
    Answer,
    Client,
    Request,
    Upstream,
    Wire,
    ask,
    chat,
    delta,
    lifecycle,
    payloads,
    text,
    tool_call,
    without_frames,
)

pytestmark = pytest.mark.usefixtures("quiet")

WORD = text("wörd").replace(rb"\u00f6", "ö".encode())
STREAM = tool_call() + WORD + delta("tool_calls") + DONE
OPEN = tool_call() + WORD + DONE  # nothing ends the call but the end
BODY = json.dumps({"answer": "ö"}, ensure_ascii=False).encode()
FIRST = len(tool_call())
HEARTBEAT = b": keep-alive\n\n"
STALL = {"upstream.stall_timeout_s": 0.15}
Start = Callable[..., Awaitable[str]]


@pytest.fixture
def start(start_proxy: StartProxy, upstream: Upstream) -> Start:
    """Starts a proxy with faults: dicts are rules, in order."""

    async def script(request: Request, wire: Wire) -> None:
        if request.method != "POST" or request.json().get("stream"):
            await wire.stream(STREAM)
            await wire.chunk()
        else:
            await wire.answer(BODY, "200 OK", JSON)

    upstream.script = script

    async def begin(*rules: dict[str, Any], seed: int = 1, **settings: Any) -> str:
        own = {"faults.rules": list(rules), "faults.seed": seed}
        return await start_proxy({**own, **settings})

    return begin


def rule(kind: str, **parameters: Any) -> dict[str, Any]:
    return {"kind": kind, **parameters}


def assert_broken(answer: Answer, code: str, reason: str = "upstream_error") -> None:
    """The open call is completed as failed, then comes the error, then a visibly broken end."""
    whole = [told for told in answer.body.split(b"\n\n") if told.endswith(b"}")]
    every = payloads(b"\n\n".join(whole))  # a frame that was cut is none
    told = [payload for payload in every if "toolCallId" in payload]
    assert [one["status"] for one in told] == ["running", "completed"]
    assert (told[-1]["isError"], told[-1]["reason"]) == (True, reason)
    *_, before, last = every
    assert before == told[-1]
    assert last["error"]["code"] == code
    assert b"[DONE]" not in answer.body
    assert answer.end == "cut"


# --- the answer as a whole ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("status_429", 429, "rate_limit_exceeded"),
        ("status_500", 500, None),
        ("error_200", 200, None),
    ],
)
async def test_an_error_instead_of_the_answer(
    kind: str, status: int, code: str | None, start: Start, upstream: Upstream
) -> None:
    url = await start(rule(kind, **({"retry_after_s": 7} if status == 429 else {})))
    async with Client(url) as client:
        for _ in range(2):  # on one connection
            answer = await (await client.chat()).read()
            assert (answer.status, answer.end) == (status, "clean")
            assert answer.headers["Content-Type"] == "application/json"
            assert answer.headers.get("Retry-After") == ("7" if status == 429 else None)
            assert answer.json()["error"]["code"] == code
            assert "a fault on purpose" in answer.json()["error"]["message"]
    assert upstream.requests == []


async def test_an_error_leaves_a_large_body_unread_and_the_proxy_well(
    start: Start, upstream: Upstream
) -> None:
    url = await start(rule("status_500"))
    answer = await chat(url, pad="x" * (1 << 20))
    assert answer.status == 500
    assert (await ask(url, "GET", "/-/healthy")).status == 200


async def test_latency(start: Start) -> None:
    url = await start(rule("latency", ms=80), rule("latency", ms=40))
    began = time.monotonic()
    answer = await chat(url)
    assert time.monotonic() - began >= 0.12
    assert without_frames(answer.body) == STREAM
    assert (await ask(url, "GET", "/-/healthy")).status == 200  # ours have none


# --- the body -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (rule("cut_at_byte", byte=FIRST + 9), "upstream_protocol"),
        (rule("reset", byte=FIRST + 9), "upstream_unreachable"),
        (rule("cut_inside_character"), "upstream_protocol"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
async def test_a_break_ends_what_is_open(
    fault: dict[str, Any], code: str, start: Start, upstream: Upstream
) -> None:
    url = await start(fault)
    for _ in range(2):
        answer = await chat(url)
        assert_broken(answer, code)
        assert answer.body.startswith(tool_call())
    assert len(upstream.requests) == 2


async def test_a_break_in_front_of_everything(start: Start) -> None:
    url = await start(rule("cut_at_byte", byte=0))
    answer = await chat(url)
    assert (answer.status, answer.end) == (200, "cut")
    (error,) = payloads(answer.body)
    assert error["error"]["code"] == "upstream_protocol"


async def test_a_break_behind_everything_is_none(start: Start) -> None:
    url = await start(rule("cut_at_byte", byte=len(STREAM) + 1))
    assert (await chat(url)).end == "clean"


async def test_a_stall_for_ever_ends_at_the_limit(start: Start) -> None:
    url = await start(rule("stall", frame=2), **STALL)
    answer = await chat(url)
    assert_broken(answer, "upstream_timeout", "upstream_timeout")
    assert without_frames(answer.body).startswith(tool_call())


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_stall_hides_that_the_upstream_goes(
    how: str, start: Start, upstream: Upstream
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call(), WORD)
        getattr(wire, how)()

    url = await start(rule("stall", frame=2), **STALL)
    upstream.script = script
    answer = await chat(url)
    assert_broken(answer, "upstream_timeout", "upstream_timeout")
    assert WORD not in answer.body


async def test_a_stall_for_a_while_and_its_heartbeats(start: Start) -> None:
    url = await start(rule("stall", frame=2, ms=200), **{"server.heartbeat_s": 0.05})
    began = time.monotonic()
    answer = await chat(url)
    assert time.monotonic() - began >= 0.2
    assert answer.end == "clean"
    assert answer.body.count(HEARTBEAT) >= 2
    before, _, _ = answer.body.partition(HEARTBEAT)
    assert tool_call() in before
    assert WORD not in before
    assert without_frames(answer.body) == STREAM


async def test_a_stall_above_the_limit_is_a_timeout(start: Start) -> None:
    url = await start(rule("stall", frame=2, ms=2000), **STALL)
    assert_broken(await chat(url), "upstream_timeout", "upstream_timeout")


async def test_without_its_last_word(start: Start, upstream: Upstream) -> None:
    url = await start(rule("drop_done"))
    answer = await chat(url)
    assert without_frames(answer.body) == STREAM.removesuffix(DONE)
    assert answer.end == "clean"
    assert [status for _, status, _ in lifecycle(answer.body)] == ["running", "completed"]


async def test_a_chunk_twice(start: Start) -> None:
    url = await start(rule("duplicate_chunk"))
    answer = await chat(url)
    assert without_frames(answer.body) == tool_call() + STREAM
    assert [status for _, status, _ in lifecycle(answer.body)] == ["running", "completed"]


async def test_garbage(start: Start) -> None:
    url = await start(rule("garbage_line", frame=2, text="<html>"))
    answer = await chat(url)
    assert without_frames(answer.body) == STREAM.replace(WORD, b"<html>\n" + WORD)
    assert answer.end == "clean"


async def test_a_slow_drip(start: Start, upstream: Upstream) -> None:
    url = await start(rule("slow_drip", size_bytes=40, ms=5), **STALL)
    began = time.monotonic()
    answer = await chat(url)
    assert time.monotonic() - began >= 0.005 * (len(STREAM) // 40 - 1)
    assert without_frames(answer.body) == STREAM
    assert answer.end == "clean"


async def test_a_slow_drip_of_what_is_compressed(start: Start, upstream: Upstream) -> None:
    """The end has long come when the last drop does, and the connection serves another."""

    async def script(request: Request, wire: Wire) -> None:
        if request is upstream.requests[0]:
            head = ("Content-Type: text/event-stream", "Content-Encoding: gzip")
            await wire.head("200 OK", *head, "Transfer-Encoding: chunked")
            await wire.chunk(gzip.compress(STREAM))
            await wire.chunk()
        else:
            await wire.stream()
            for _ in range(6):
                await wire.chunk(WORD)
                await asyncio.sleep(0.03)
            await wire.chunk()

    url = await start(rule("slow_drip", size_bytes=40, ms=20))
    upstream.script = script
    async with Client(url) as one, Client(url) as other:
        first = await one.chat()
        await other.send("GET", "/v1/files/f/content")
        second = await other.head()
        await asyncio.gather(first.read(), second.read())
    assert (without_frames(first.body), first.end) == (STREAM, "clean")
    assert (second.body, second.end) == (WORD * 6, "clean")
    assert len(upstream.wires) == 1


async def test_several_at_once(start: Start) -> None:
    url = await start(
        rule("slow_drip", size_bytes=64, ms=2),
        rule("duplicate_chunk"),
        rule("garbage_line", text="?"),
        rule("reset", byte=2 * FIRST + 10),
    )
    answer = await chat(url)
    assert_broken(answer, "upstream_unreachable")
    assert answer.body.startswith(b"?\n" + tool_call())


# --- answers with a length ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        (rule("drop_done"), BODY),
        (rule("duplicate_chunk"), BODY),  # which holds no event
        (rule("garbage_line", text="?"), b"?\n" + BODY),
        (rule("slow_drip", ms=1), BODY),
        (rule("stall", ms=20), BODY),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("target", [CHAT, "/v1/embeddings"])
async def test_an_answer_with_a_length(
    target: str, fault: dict[str, Any], body: bytes, start: Start
) -> None:
    url = await start(fault)
    async with Client(url) as client:
        for _ in range(2):
            await client.send("POST", target, JSON, body=b"{}")
            answer = await (await client.head()).read()
            assert (answer.body, answer.end) == (body, "clean")
            length = answer.headers.get("Content-Length")
            assert length in (None, str(len(answer.body)))


@pytest.mark.parametrize("target", [CHAT, "/v1/embeddings"])
@pytest.mark.parametrize("kind", ["cut_at_byte", "reset"])
async def test_an_answer_that_is_cut_keeps_its_length(kind: str, target: str, start: Start) -> None:
    url = await start(rule(kind, byte=5))
    answer = await ask(url, "POST", target, JSON, body=b"{}")
    assert (answer.status, answer.body, answer.end) == (200, BODY[:5], "cut")
    assert answer.headers["Content-Length"] == str(len(BODY))


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_an_answer_without_a_body(
    method: str, status: int, start: Start, upstream: Upstream
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head(f"{status} Fine", *(["Content-Length: 7"] if status == 200 else []))

    url = await start(rule("garbage_line"), rule("slow_drip"))
    upstream.script = script
    async with Client(url) as client:
        for _ in range(2):
            await client.send(method, "/v1/models")
            answer = await (await client.head(bodiless=True)).read()
            assert (answer.status, answer.end) == (status, "clean")


# --- which, and when ------------------------------------------------------------------------------


async def outcomes(url: str, count: int) -> list[int]:
    return [(await chat(url)).status for _ in range(count)]


async def test_the_same_seed_the_same_exchanges(start: Start) -> None:
    fault = rule("status_500", probability=0.5)
    drawn = FaultPolicy([Fault("status_500", probability=0.5)], 7)
    expected = [500 if drawn.sample(number) else 200 for number in range(1, 13)]
    assert {200, 500} == set(expected)
    for _ in range(2):
        assert await outcomes(await start(fault, seed=7), 12) == expected
    assert await outcomes(await start(fault, seed=8), 12) != expected


@pytest.mark.parametrize(("probability", "statuses"), [(0, {200}), (1, {500})])
async def test_never_and_always(probability: float, statuses: set[int], start: Start) -> None:
    url = await start(rule("status_500", probability=probability))
    assert set(await outcomes(url, 5)) == statuses


async def test_a_probability_of_zero_leaves_every_byte(start: Start) -> None:
    kinds = [rule("cut_at_byte", byte=1), rule("drop_done"), rule("stall"), rule("slow_drip")]
    url = await start(*({**kind, "probability": 0} for kind in kinds))
    assert without_frames((await chat(url)).body) == STREAM


# --- what lies behind -----------------------------------------------------------------------------


async def test_a_client_that_leaves_during_a_latency(start: Start, upstream: Upstream) -> None:
    url = await start(rule("latency", ms=250))
    async with Client(url) as client:
        await client.ask_chat()
        await asyncio.sleep(0.03)
    await asyncio.sleep(0.28)
    assert upstream.requests == []
    assert (await ask(url, "GET", "/-/healthy")).status == 200


@pytest.mark.parametrize("fault", [rule("stall", frame=2, ms=250), rule("slow_drip", ms=1)])
async def test_a_client_that_leaves_during_a_delay(
    fault: dict[str, Any], start: Start, upstream: Upstream
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(OPEN)
        await wire.gone.wait()

    url = await start(fault)
    upstream.script = script
    async with Client(url) as client:
        await (await client.chat()).until(b"data")
    await upstream.request.wire.left()


async def test_a_shutdown_during_a_delay(start: Start, runners: list[serve.Runner]) -> None:
    url = await start(rule("stall", frame=2, ms=60_000))
    async with Client(url) as client:
        answer = await (await client.chat()).until(b"running")
        stopping = asyncio.create_task(serve.stop(runners.pop(), 0))
        await answer.read()
        await stopping
    assert_broken(answer, "draining", "drained")


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_upstream_that_breaks_during_a_delay(
    how: str, start: Start, upstream: Upstream
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call(), WORD)
        await asyncio.sleep(0.05)  # a reset would overtake the bytes
        getattr(wire, how)()

    url = await start(rule("stall", frame=2, ms=150))
    upstream.script = script
    answer = await chat(url)
    assert_broken(answer, "upstream_protocol")
    assert WORD in answer.body  # it came before the break


async def test_a_delayed_answer_leaves_its_connection_to_others(
    start: Start, upstream: Upstream
) -> None:
    """The upstream is through with it before the client is, and takes the next request."""

    async def script(request: Request, wire: Wire) -> None:
        is_second = len(upstream.requests) == 2
        await wire.stream(tool_call())
        await asyncio.sleep(0.01)  # behind the head: then it is the connection that tells of it
        await wire.chunk(WORD)
        await asyncio.sleep(0.2 if is_second else 0)  # the first is over by then
        await wire.chunk(delta("tool_calls") + DONE)
        await wire.chunk()

    url = await start(rule("stall", frame=2, ms=100))
    upstream.script = script
    first = asyncio.create_task(chat(url))
    await asyncio.sleep(0.04)
    second = await chat(url)
    for answer in (await first, second):
        assert (without_frames(answer.body), answer.end) == (STREAM, "clean")
    assert len(upstream.wires) == 1


async def test_the_next_request_on_the_connection(start: Start) -> None:
    url = await start(rule("slow_drip", size_bytes=100, ms=1), rule("duplicate_chunk"))
    async with Client(url) as client:
        for _ in range(3):
            answer = await (await client.chat()).read()
            assert without_frames(answer.body) == tool_call() + STREAM
            assert answer.end == "clean"


# --- an upstream that sends faster than the fault lets pass ---------------------------------------


async def test_a_drip_holds_an_upstream_that_floods(start: Start, upstream: Upstream) -> None:
    sent = 0

    async def script(request: Request, wire: Wire) -> None:
        nonlocal sent
        await wire.stream()
        while not wire.gone.is_set():
            await wire.chunk(bytes(1 << 20))
            sent += 1

    url = await start(rule("slow_drip", size_bytes=1, ms=20))
    upstream.script = script
    async with Client(url) as client:
        await (await client.chat()).until(b"\0\0\0")
        async with asyncio.timeout(5):
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.2)
    assert sent < 30  # that is what sockets hold
    await upstream.request.wire.left()


@pytest.mark.parametrize("ends", ["well", "broken"])
@pytest.mark.parametrize("target", [CHAT, "/v1/embeddings"])
async def test_a_drip_of_much_loses_nothing(
    target: str, ends: str, start: Start, upstream: Upstream
) -> None:
    body = b"".join(b"data: %d\n\n" % number for number in range(100_000))

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(body)
        if ends == "well":
            await wire.chunk()
        else:
            wire.close()

    url = await start(rule("slow_drip", size_bytes=1 << 14, ms=1))
    upstream.script = script
    answer = await ask(url, "POST", target, JSON, body=b'{"stream": true}')
    assert answer.body.startswith(body)
    assert answer.end == ("clean" if ends == "well" else "cut")
    assert len(answer.body) - len(body) < 1000  # the error
