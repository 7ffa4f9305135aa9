"""Clients that are slow, or greedy: headers, bodies and idle connections have limits."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from tests.commands import LISTEN, serving
from tests.conftest import StartProxy
from tests.fakes import CHAT, DONE, JSON, Answer, Client, Request, Upstream, Wire, ask, chat, text

pytestmark = pytest.mark.usefixtures("quiet")

LINE = b"X-%d: " + b"a" * 60_000 + b"\r\n"


def assert_error(answer: Answer, status: int, code: str) -> None:
    error = answer.json()["error"]
    assert (answer.status, error["type"], error["code"]) == (status, "proxy_error", code)
    assert (answer.version, answer.headers["Connection"]) == ("HTTP/1.1", "close")


# --- how much -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause_s", [0, 0.01])
async def test_all_headers_together_are_limited(
    upstream: Upstream, proxy: str, pause_s: float
) -> None:
    async with Client(proxy) as client:
        await client.wire.send(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n")
        for number in range(6):
            await client.wire.send(LINE % number)
            await asyncio.sleep(pause_s)
        assert_error(await (await client.head()).read(), 431, "header_too_large")
        await client.wire.left()
    assert upstream.wires == []


async def test_a_whole_request_with_too_many_headers(upstream: Upstream, proxy: str) -> None:
    lines = [f"X-{number}: {'a' * 1000}" for number in range(300)]
    answer = await ask(proxy, "GET", "/v1/models", *lines)
    assert_error(answer, 431, "header_too_large")
    assert upstream.wires == []


async def test_large_headers_pass_within_the_limit(upstream: Upstream, proxy: str) -> None:
    lines = [f"X-{number}: {'a' * 1000}" for number in range(240)]
    async with Client(proxy) as client:
        for _ in range(3):  # each request is counted by itself
            await client.send("POST", "/v1/files", *lines, body=b"x" * 300_000)
            assert (await (await client.head()).read()).status == 200
    assert len(upstream.requests) == 3


async def test_there_may_be_no_limit(upstream: Upstream, start_proxy: StartProxy) -> None:
    lines = [f"X-{number}: {'a' * 1000}" for number in range(400)]
    url = await start_proxy({"server.max_head_bytes": 0})
    assert (await ask(url, "GET", "/v1/models", *lines)).status == 200


async def answer_of(client: Client) -> Answer:
    return await (await client.head()).read()


@pytest.mark.parametrize(
    "line", [b"X-%d: " + b"a" * 60_000 + b"\r\n", b"1;%d" + b"a" * 60_000], ids=["trailers", "ext"]
)
async def test_what_stands_beside_a_chunked_body_is_limited(
    upstream: Upstream, proxy: str, line: bytes
) -> None:
    start = b"0\r\n" if line.startswith(b"X") else b""
    async with Client(proxy) as client:
        await client.send("POST", "/v1/files", "Transfer-Encoding: chunked")
        await client.wire.send(b"3\r\nabc\r\n" + start)
        await asyncio.sleep(0.05)
        # Read while it is sent: what comes behind the refusal may break the connection.
        refusal = asyncio.create_task(answer_of(client))
        for number in range(5):
            await client.wire.send(line % number)
            await asyncio.sleep(0.01)
        assert_error(await refusal, 400, "bad_request")
        await client.wire.left()


@pytest.mark.unmeasured
@pytest.mark.skipif(not Path("/proc").exists(), reason="memory is read from /proc")
async def test_unfinished_headers_take_little_memory() -> None:
    with serving(*LISTEN) as (process, url, _):
        assert (await ask(url, "GET", "/-/healthy")).status == 200
        before = resident_mb(process.pid)
        for _ in range(3):
            async with Client(url) as client:
                await client.wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
                for number in range(500):  # 30 MB on each connection
                    await client.wire.send(LINE % number)
                    if client.wire.gone.is_set():
                        break
        grown = resident_mb(process.pid) - before
    assert grown < 10


def resident_mb(pid: int) -> float:
    fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


# --- how long -------------------------------------------------------------------------------------


async def test_headers_have_a_time_in_which_to_come(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    url = await start_proxy({"server.head_timeout_s": 0.3})
    started = time.monotonic()
    async with Client(url) as client:
        await client.wire.send(b"GET /v1/models HTTP/1.1\r\n")
        for _ in range(5):  # that something comes does not make it longer
            await client.wire.send(b"X: a\r\n")
            await asyncio.sleep(0.05)
        assert_error(await (await client.head()).read(), 408, "request_timeout")
        await client.wire.left()
    assert 0.3 <= time.monotonic() - started < 2
    assert upstream.wires == []


async def test_headers_behind_a_first_request_have_the_same_time(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    url = await start_proxy({"server.head_timeout_s": 0.3})
    async with Client(url) as client:
        await client.send("GET", "/v1/models")
        await (await client.head()).read()
        await asyncio.sleep(0.4)  # between requests nothing is awaited
        await client.send("GET", "/v1/models")
        assert (await (await client.head()).read()).status == 200
        await client.wire.send(b"\r\n")  # of an old client: it ends a body with a line end
        await asyncio.sleep(0.4)
        await client.wire.send(b"GET /v1/models HTTP/1.1\r\nHost: localhost")
        assert_error(await (await client.head()).read(), 408, "request_timeout")


async def test_headers_that_stop_during_a_stream_do_not_break_it(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("one"))
        await asyncio.sleep(0.5)
        await wire.chunk(text("two") + DONE)
        await wire.chunk()

    upstream.script = script
    async with Client(await start_proxy({"server.head_timeout_s": 0.1})) as client:
        answer = await (await client.chat()).until(b"one")
        await client.wire.send(b"GET /v1/models HTTP/1.1\r\n")
        await answer.read()
        assert (answer.body, answer.end) == (text("one") + text("two") + DONE, "clean")
        assert_error(await (await client.head()).read(), 408, "request_timeout")


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("target", [CHAT, "/v1/files", "/v1/embeddings"])
async def test_a_body_that_stops_is_given_up(
    upstream: Upstream, start_proxy: StartProxy, target: str, chunked: bool
) -> None:
    url = await start_proxy({"server.body_idle_s": 0.3})
    length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 1000"
    kind = "Content-Type: text/plain" if target == "/v1/files" else JSON
    async with Client(url) as client:
        await client.send("POST", target, kind, length)
        for _ in range(5):  # each piece makes it longer
            await client.wire.send(b"1\r\n \r\n" if chunked else b" ")
            await asyncio.sleep(0.1)
        assert_error(await (await client.head()).read(), 408, "request_timeout")
        await client.wire.left()
    for wire in upstream.wires:
        await wire.left()


async def test_a_client_that_is_not_read_is_not_late(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    body = b"x" * (16 << 20)
    size = 0

    async def script(request: Request, wire: Wire) -> None:
        nonlocal size
        await asyncio.sleep(1)
        async for piece in request.pieces(keep=False):
            size += len(piece)
        await wire.answer()

    upstream.lazy, upstream.script = True, script
    url = await start_proxy({"server.body_idle_s": 0.3})
    assert (await ask(url, "POST", "/v1/files", body=body)).status == 200
    assert size == len(body)


async def test_a_response_that_takes_its_time_is_not_the_clients_fault(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.5)
        await wire.stream(text("hi"), DONE, b"")

    upstream.script = script
    limits = ("head_timeout_s", "body_idle_s", "keep_alive_s")
    url = await start_proxy({f"server.{name}": 0.2 for name in limits})
    assert (await chat(url)).body == text("hi") + DONE


@pytest.mark.parametrize("has_asked", [True, False])
async def test_an_idle_connection_is_closed(
    upstream: Upstream, start_proxy: StartProxy, has_asked: bool
) -> None:
    async with Client(await start_proxy({"server.keep_alive_s": 0.3})) as client:
        if has_asked:
            await client.send("GET", "/v1/models")
            await (await client.head()).read()
        await asyncio.sleep(0.1)
        assert not client.wire.gone.is_set()
        await client.wire.left(2)
        assert client.wire.reader.at_eof()  # without a word


async def test_limits_of_time_can_be_turned_off(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    names = ("head_timeout_s", "body_idle_s", "keep_alive_s")
    async with Client(await start_proxy({f"server.{name}": 0 for name in names})) as client:
        for _ in range(2):
            await client.wire.send(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\n")
            await asyncio.sleep(0.2)
            await client.wire.send(b"Content-Length: 2\r\n\r\na")
            await asyncio.sleep(0.2)
            await client.wire.send(b"b")
            assert (await (await client.head()).read()).status == 200
            await asyncio.sleep(0.2)
