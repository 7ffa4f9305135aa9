"""Connections to an upstream: how many, which are used again, and what ends them."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.ports import UpstreamRequest
from lifecycle_proxy.upstream.collect import collect
from lifecycle_proxy.upstream.errors import map_failure
from lifecycle_proxy.upstream.http1.byte_stream import PART_BYTES
from lifecycle_proxy.upstream.http1.connection import HttpConnection
from lifecycle_proxy.upstream.http1.dialer import Dialer, DialTarget
from lifecycle_proxy.upstream.http1.failures import TransportError
from lifecycle_proxy.upstream.http1.pool import ConnectionPool
from lifecycle_proxy.upstream.http1.request import RequestWriter
from lifecycle_proxy.upstream.http1.response import HttpResponse
from multidict import CIMultiDict
from yarl import URL

from tests.conftest import StartProxy
from tests.fakes import Client, Request, Upstream, Wire, ask

MakePool = Callable[..., ConnectionPool]


@pytest.fixture
async def make_pool(upstream: Upstream) -> AsyncIterator[MakePool]:
    made: list[ConnectionPool] = []

    def make(*limits: float, **more: float) -> ConnectionPool:
        dialer = Dialer(DialTarget(URL(upstream.origin)), 5)
        made.append(ConnectionPool(dialer.dial, *limits, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for pool in made:
        await pool.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  a connection has no event for it
            await asyncio.sleep(0.01)


async def asked(connection: HttpConnection, method: str = "GET") -> HttpResponse:
    request = UpstreamRequest(method, "/", CIMultiDict(), None)
    return await connection.send(RequestWriter("x").write(request, "/"), 5)


async def used(connection: HttpConnection) -> bytes:
    """One request, read to its end: the connection is given back."""
    return (await collect(await asked(connection), lambda data: False)).data


async def test_the_connection_that_became_idle_last_is_used_first(make_pool: MakePool) -> None:
    pool = make_pool()
    connections = [await pool.acquire() for _ in range(3)]
    for connection in connections:
        await used(connection)
    assert [await pool.acquire() for _ in range(3)] == connections[::-1]
    assert len(pool) == 3


async def test_who_waits_longest_is_next(make_pool: MakePool) -> None:
    pool, order = make_pool(1), []
    first = await pool.acquire()

    async def wait(number: int) -> None:
        connection = await pool.acquire()
        order.append(number)
        await used(connection)

    waiting = [asyncio.create_task(wait(number)) for number in range(5)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    await used(first)
    await asyncio.wait(waiting)
    assert order == [0, 2, 3, 4]
    assert len(pool) == 1


async def test_a_slot_that_was_given_to_one_who_left_is_not_lost(make_pool: MakePool) -> None:
    pool = make_pool(1)
    first = await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    first.close()  # the slot is given to the one who waits
    waiting.cancel()
    await asyncio.wait([waiting])
    async with asyncio.timeout(5):
        await pool.acquire()


async def test_who_leaves_as_a_response_ends_ends_no_other_request(
    make_pool: MakePool, upstream: Upstream
) -> None:
    """By the time it hears of its end, its connection may serve the next one."""

    async def script(request: Request, wire: Wire) -> None:
        if len(upstream.requests) == 2:
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb")

    async def take_the_next() -> bytes:
        assert pool.maybe_idle() is connection
        return await used(connection)

    def end() -> None:
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
        first.cancel()

    upstream.script = script
    pool = make_pool()
    connection = await pool.acquire()
    first = asyncio.create_task(asked(connection))
    await until(lambda: len(upstream.requests) == 1)
    asyncio.get_running_loop().call_soon(end)
    second = asyncio.create_task(take_the_next())  # its turn comes before that of the first one
    async with asyncio.timeout(5):
        assert await second == b"b"
    assert first.cancelled()


async def test_a_connection_that_could_not_be_made_takes_no_slot(
    make_pool: MakePool, upstream: Upstream
) -> None:
    pool = make_pool(1)
    upstream.refuse()
    for _ in range(2):
        with pytest.raises(TransportError) as caught:
            await pool.acquire()
        assert map_failure(caught.value, "x").code == "upstream_unreachable"


async def test_who_waits_too_long_gives_up(make_pool: MakePool) -> None:
    pool = make_pool(1, 0.05)
    first = await pool.acquire()
    with pytest.raises(TransportError):
        await pool.acquire()
    await used(first)
    assert await pool.acquire() is first


async def test_what_is_idle_for_long_is_closed(make_pool: MakePool, upstream: Upstream) -> None:
    pool = make_pool(idle_s=0.1)
    connections = [await pool.acquire() for _ in range(2)]
    for connection in connections:
        await used(connection)
    for wire in upstream.wires:
        await wire.left()
    assert len(pool) == 0
    assert await pool.acquire() not in connections


async def test_an_idle_connection_that_the_upstream_closes_is_forgotten(
    make_pool: MakePool, upstream: Upstream
) -> None:
    pool = make_pool()
    first = await pool.acquire()
    await used(first)
    upstream.wires[0].close()
    await until(lambda: len(pool) == 0)
    assert await pool.acquire() is not first


async def test_all_connections_are_closed_with_the_pool(
    make_pool: MakePool, upstream: Upstream
) -> None:
    pool = make_pool()
    idle, busy = await pool.acquire(), await pool.acquire()
    await used(idle)
    before = ConnectionPool.open_connections()
    await pool.close()
    assert (idle.is_usable, busy.is_usable) == (False, False)
    assert before - ConnectionPool.open_connections() == 2
    for wire in upstream.wires:
        await wire.left()


@pytest.mark.parametrize("size", [PART_BYTES - 40, 3 * PART_BYTES, 1 << 20])
@pytest.mark.parametrize("behind", [0, 100, 2 * PART_BYTES])
async def test_what_stands_behind_a_large_read_reaches_nobody(
    make_pool: MakePool, upstream: Upstream, size: int, behind: int
) -> None:
    body = random.Random(size).randbytes(size)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size

    async def script(request: Request, wire: Wire) -> None:
        await wire.send(head + body + b"HTTP/1.1 200 OK\r\n\r\nof another".ljust(behind)[:behind])

    upstream.script = script
    pool = make_pool()
    for _ in range(3):
        assert await used(await pool.acquire()) == body
    if behind:
        await until(lambda: all(wire.gone.is_set() for wire in upstream.wires))


async def test_a_large_read_is_taken_in_order_while_a_client_is_behind(
    make_pool: MakePool, upstream: Upstream
) -> None:
    pieces = [random.Random(number).randbytes(5_000) for number in range(200)]

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*pieces, b"")

    upstream.script = script
    response = await asked(await make_pool().acquire())
    await asyncio.sleep(0.05)  # more has come than is kept
    taken, ended = Slow(response), asyncio.Event()
    taken.on_end = ended.set
    response.attach(taken)
    async with asyncio.timeout(10):
        await ended.wait()
    assert b"".join(taken.pieces) == b"".join(pieces)


class Slow:
    """A sink that pauses after each read, and goes on in a later turn."""

    def __init__(self, response: HttpResponse) -> None:
        self.pieces: list[bytes] = []
        self.on_end: Callable[[], None] = lambda: None
        self._response = response

    def data_received(self, data: bytes, framed: bytes = b"") -> None:
        self.pieces.append(data)
        self._response.pause()
        asyncio.get_running_loop().call_later(0.001, self._response.resume)

    def ended(self, failure: ProxyError | None) -> None:
        assert failure is None
        self.on_end()


async def test_a_response_that_nobody_wants_closes_its_connection(
    make_pool: MakePool, upstream: Upstream
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(b"some")
        await wire.gone.wait()

    upstream.script = script
    pool = make_pool()
    (await asked(await pool.acquire())).close()
    await upstream.wires[0].left()
    assert len(pool) == 0


async def test_a_connection_that_ends_before_its_first_request_fails_it(
    make_pool: MakePool, upstream: Upstream
) -> None:
    pool = make_pool(1)
    for number in range(2):
        connection = await pool.acquire()
        await until(lambda: len(upstream.wires) > number)  # noqa: B023  this round's
        upstream.wires[-1].close()
        await until(lambda: not connection.is_usable)  # noqa: B023  this round's
        with pytest.raises(TransportError) as caught:
            await asked(connection)
        assert map_failure(caught.value, "x").code == "upstream_unreachable"


# --- through the proxy ----------------------------------------------------------------------------


async def test_a_body_that_is_longer_than_its_length_is_cut_there(
    upstream: Upstream, proxy: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more")
        await wire.left()

    upstream.script = script
    for _ in range(2):
        answer = await ask(proxy, "GET", "/v1/x")
        assert (answer.status, answer.body, answer.end) == (200, b"hello", "clean")
    assert len(upstream.wires) == 2


@pytest.mark.parametrize("status", ["413 Too Large", "200 OK"])
async def test_a_response_in_the_middle_of_an_upload_is_passed_on(
    upstream: Upstream, proxy: str, status: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await anext(aiter(request.pieces()))
        await wire.answer(b"enough", status)
        await wire.left()  # the rest of the upload would be the next request

    upstream.lazy, upstream.script = True, script
    async with Client(proxy) as client:
        await client.send("POST", "/v1/files", "Content-Length: 100000000")
        await client.wire.send(b"x" * 1000)
        answer = await (await client.head()).read()
    assert (f"{answer.status} {answer.reason}", answer.body) == (status, b"enough")


async def test_a_client_that_leaves_an_upload_leaves_nothing_behind(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            async for _ in request.pieces():
                pass
        await wire.left()
        left.set()

    left = asyncio.Event()
    upstream.lazy, upstream.script = True, script
    url = await start_proxy({"upstream.max_connections": 1})
    async with Client(url) as client:
        await client.send("POST", "/v1/files", "Transfer-Encoding: chunked")
        await client.wire.chunk(b"x" * 1000)
        await until(lambda: bool(upstream.requests))
    async with asyncio.timeout(5):
        await left.wait()
    upstream.lazy = False
    upstream.script = lambda request, wire: wire.answer(b"next")
    assert (await ask(url, "GET", "/v1/x")).body == b"next"


async def _broken() -> AsyncIterator[bytes]:
    yield b"hello"
    raise ProxyError("request_timeout", "no more came")


async def _lost() -> AsyncIterator[bytes]:
    yield b"hello"
    raise ConnectionResetError


async def _longer() -> AsyncIterator[bytes]:
    yield b"hello"
    yield b" and more"


async def _shorter() -> AsyncIterator[bytes]:
    yield b"he"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (_broken, "request_timeout"),
        (_lost, "bad_request"),
        (_longer, "bad_request"),
        (_shorter, "bad_request"),
    ],
)
async def test_a_body_that_fails_fails_its_request(
    make_pool: MakePool,
    upstream: Upstream,
    body: Callable[[], AsyncIterator[bytes]],
    code: str,
) -> None:
    got: list[bytes] = []

    async def script(request: Request, wire: Wire) -> None:
        got.append(await wire.reader.read())

    upstream.lazy, upstream.script = True, script
    headers = CIMultiDict({"Content-Length": "10" if body in (_broken, _lost) else "5"})
    outgoing = RequestWriter("x").write(UpstreamRequest("POST", "/", headers, body()), "/")
    with pytest.raises(ProxyError) as caught:
        await (await make_pool().acquire()).send(outgoing, 5)
    assert caught.value.code == code
    await upstream.wires[0].left()
    await until(lambda: bool(got))
    assert len(got[0]) <= 5, "bytes behind the announced body would be another request"


@pytest.mark.parametrize("value", ["a\r\nX-B: c", "a\nb", "a\rb"])
def test_a_header_with_a_line_end_is_never_written(value: str) -> None:
    request = UpstreamRequest("GET", "/", CIMultiDict({"X-A": value}), None)
    with pytest.raises(ValueError, match="line end"):
        RequestWriter("x").write(request, "/")


@pytest.mark.parametrize(
    ("method", "body", "expected"),
    [
        ("GET", None, b""),
        ("POST", None, b"Content-Length: 0\r\n"),
        ("POST", b"", b"Content-Length: 0\r\n"),
        ("GET", b"x", b"Content-Length: 1\r\n"),
        ("DELETE", None, b"Content-Length: 0\r\n"),
    ],
)
def test_a_request_says_how_long_its_body_is(
    method: str, body: bytes | None, expected: bytes
) -> None:
    sent = CIMultiDict([("X-A", "\udca0b"), ("x-a", "ä")])
    outgoing = RequestWriter("h:1").write(UpstreamRequest(method, "/", sent, body), "/p?q=ä")
    line = f"{method} /p?q=ä HTTP/1.1\r\nHost: h:1\r\n".encode()
    named = b"X-A: \xa0b\r\nx-a: \xc3\xa4\r\n"
    assert outgoing.head == line + named + expected + b"\r\n" + (body or b"")
