"""What is sent a second time, and what never is.

A pooled connection may be dead before anybody has noticed. A request that met such a one is sent
again if nobody can have seen it; a request that may have been seen is not, as it may cost money.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest

from tests.conftest import StartProxy
from tests.fakes import CHAT, DONE, JSON, Answer, Client, Request, Upstream, Wire, ask, chat, text

pytestmark = pytest.mark.usefixtures("quiet")

BODY = json.dumps({"stream": True, "model": "m"}).encode()


async def answered(request: Request, wire: Wire) -> None:
    if request.target == CHAT:
        await wire.stream(text("hi"), DONE, b"")
    else:
        await wire.answer(b"hi")


def is_used(request: Request, upstream: Upstream) -> bool:
    """Whether its connection had another request before."""
    return sum(one.wire is request.wire for one in upstream.requests) > 1


def stale(upstream: Upstream, end: str = "close") -> None:
    """From now on connections take one request each and die at the next."""

    async def script(request: Request, wire: Wire) -> None:
        if is_used(request, upstream):
            getattr(wire, end)()
        else:
            await answered(request, wire)

    upstream.script = script


async def fill_pool(url: str, upstream: Upstream, connections: int = 1) -> None:
    """Leave this many connections idle in the proxy's pool."""
    script, together = upstream.script, asyncio.Barrier(connections)

    async def wait(request: Request, wire: Wire) -> None:
        await together.wait()
        await answered(request, wire)

    upstream.script = wait
    for answer in await asyncio.gather(*(chat(url) for _ in range(connections))):
        assert answer.status == 200
    assert len(upstream.wires) == connections
    upstream.script = script


def assert_unreachable(answer: Answer) -> None:
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_unreachable")


# --- stale connections ----------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("target", [CHAT, "/v1/embeddings"])
async def test_a_post_that_met_a_stale_connection_is_sent_once_more_on_a_new_one(
    upstream: Upstream, proxy: str, target: str, connections: int, end: str
) -> None:
    stale(upstream, end)
    await fill_pool(proxy, upstream, connections)
    answer = await ask(proxy, "POST", target, JSON, body=BODY)
    assert answer.status == 200
    assert answer.body.startswith(b"hi" if target != CHAT else text("hi"))
    first, second = upstream.requests[connections:]
    assert (is_used(first, upstream), is_used(second, upstream)) == (True, False)
    assert first.body == second.body == BODY
    assert len(upstream.wires) == connections + 1


async def test_a_get_that_met_stale_connections_is_answered(upstream: Upstream, proxy: str) -> None:
    stale(upstream)
    await fill_pool(proxy, upstream, 4)
    assert (await ask(proxy, "GET", "/v1/models")).body == b"hi"


async def test_a_request_that_was_sent_again_is_the_same(upstream: Upstream, proxy: str) -> None:
    stale(upstream)
    await fill_pool(proxy, upstream)
    await chat(proxy, "Authorization: Bearer sk-1", "X-Twice: a", "X-Twice: b")
    first, second = upstream.requests[1:]
    names = ("Authorization", "Content-Type", "Accept-Encoding", "Content-Length")
    for name in names:
        assert first.headers.getall(name) == second.headers.getall(name)
    assert second.headers.getall("X-Twice") == ["a", "b"]
    assert (first.target, first.body) == (second.target, second.body)


async def test_it_is_not_sent_a_third_time(upstream: Upstream, proxy: str) -> None:
    dead = False

    async def script(request: Request, wire: Wire) -> None:
        if dead:
            wire.close()
        else:
            await answered(request, wire)

    upstream.script = script
    await fill_pool(proxy, upstream, 3)
    dead = True
    assert_unreachable(await ask(proxy, "POST", CHAT, JSON, body=BODY))
    assert len(upstream.requests) == 3 + 2


async def test_a_post_on_a_new_connection_is_not_sent_again(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        wire.close()

    upstream.script = script
    assert_unreachable(await chat(await start_proxy({"upstream.retries": 3})))
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("seen", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_it_is_not_sent_again_if_a_byte_of_an_answer_had_come(
    upstream: Upstream, proxy: str, seen: bytes, end: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        if not is_used(request, upstream):
            return await answered(request, wire)
        await wire.send(seen)
        await asyncio.sleep(0.05)
        getattr(wire, end)()
        return None

    upstream.script = script
    await fill_pool(proxy, upstream)
    answer = await ask(proxy, "POST", CHAT, JSON, body=BODY)
    assert answer.status == 502
    assert len(upstream.requests) == 2


@pytest.mark.parametrize(("target", "size"), [(CHAT, 9 << 20), ("/v1/files", 2 << 20)])
@pytest.mark.parametrize("framing", ["Content-Length", "Transfer-Encoding"])
async def test_a_body_that_was_streamed_is_not_sent_again(
    upstream: Upstream, proxy: str, target: str, size: int, framing: str
) -> None:
    stale(upstream)
    await fill_pool(proxy, upstream)
    async with Client(proxy) as client:
        if framing == "Content-Length":
            await client.send("POST", target, f"Content-Length: {size}")
            await client.wire.send(bytes(size))
        else:
            await client.send("POST", target, "Transfer-Encoding: chunked")
            await client.wire.chunk(bytes(size))
            await client.wire.chunk()
        assert_unreachable(await (await client.head()).read())
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_what_the_upstream_has_worked_on_is_not_sent_again(
    upstream: Upstream, proxy: str, method: str, end: str
) -> None:
    """A prompt that ends a backend's process must not end the next one, too."""

    async def script(request: Request, wire: Wire) -> None:
        if not is_used(request, upstream):
            return await answered(request, wire)
        await asyncio.sleep(0.7)
        getattr(wire, end)()
        return None

    upstream.script = script
    await fill_pool(proxy, upstream)
    assert_unreachable(await ask(proxy, method, CHAT, JSON, body=BODY))
    assert len(upstream.requests) == 2


async def test_nothing_is_sent_again_where_that_is_turned_off(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    url = await start_proxy({"upstream.retry_stale": False})
    stale(upstream)
    await fill_pool(url, upstream)
    assert_unreachable(await ask(url, "POST", CHAT, JSON, body=BODY))
    assert len(upstream.requests) == 2


async def test_a_time_limit_is_no_reason_to_send_again(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        if is_used(request, upstream):
            await wire.gone.wait()
        else:
            await answered(request, wire)

    upstream.script = script
    url = await start_proxy({"upstream.first_byte_timeout_s": 0.2, "upstream.retries": 2})
    await fill_pool(url, upstream)
    assert (await chat(url)).status == 504
    assert len(upstream.requests) == 2


# --- no connection --------------------------------------------------------------------------------


@pytest.fixture
async def late() -> AsyncIterator[tuple[Upstream, socket.socket]]:
    """An upstream that does not listen yet, and the socket for it."""
    fake, sock = Upstream(), socket.socket()
    fake.script = answered
    sock.bind(("127.0.0.1", 0))
    fake.origin = f"http://127.0.0.1:{sock.getsockname()[1]}"
    yield fake, sock
    await fake.stop()
    sock.close()


@pytest.mark.parametrize("size", [10, 2 << 20])
async def test_an_upstream_that_listens_late_is_reached_with_retries(
    late: tuple[Upstream, socket.socket], start_proxy: StartProxy, size: int
) -> None:
    fake, sock = late
    url = await start_proxy({"upstream.url": fake.origin, "upstream.retries": 3})
    asking = asyncio.create_task(ask(url, "POST", "/v1/files", body=bytes(size)))
    await asyncio.sleep(0.2)
    await fake.start(sock)
    assert (await asking).body == b"hi"
    assert fake.request.body == bytes(size)


async def test_without_retries_an_upstream_that_listens_late_is_not_reached(
    late: tuple[Upstream, socket.socket], start_proxy: StartProxy
) -> None:
    fake, sock = late
    assert_unreachable(await chat(await start_proxy({"upstream.url": fake.origin})))
    await fake.start(sock)
    assert fake.wires == []


async def test_retries_end(late: tuple[Upstream, socket.socket], start_proxy: StartProxy) -> None:
    fake, sock = late
    url = await start_proxy({"upstream.url": fake.origin, "upstream.retries": 2})
    began = asyncio.get_running_loop().time()
    assert_unreachable(await chat(url))
    assert asyncio.get_running_loop().time() - began > 0.25
    await fake.start(sock)


async def test_a_client_gone_while_we_retry_is_seen(
    late: tuple[Upstream, socket.socket], start_proxy: StartProxy
) -> None:
    fake, sock = late
    url = await start_proxy({"upstream.url": fake.origin, "upstream.retries": 3})
    async with Client(url) as client:
        await client.ask_chat()
        await asyncio.sleep(0.15)
    await fake.start(sock)
    await asyncio.sleep(0.5)
    assert fake.wires == []


async def test_retries_help_a_stale_connection_to_an_upstream_that_restarts(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    url = await start_proxy({"upstream.retries": 3})
    port = int(upstream.origin.rpartition(":")[2])
    again = Upstream()
    again.script = answered

    async def dies(request: Request, wire: Wire) -> None:
        upstream.refuse()
        wire.reset()

    await fill_pool(url, upstream)
    upstream.script = dies
    asking = asyncio.create_task(ask(url, "POST", CHAT, JSON, body=BODY))
    await asyncio.sleep(0.2)
    await again.start(socket.create_server(("127.0.0.1", port)))
    answer = await asking
    await again.stop()
    assert answer.status == 200
