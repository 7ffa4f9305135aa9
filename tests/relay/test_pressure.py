"""Slow readers, and aborts by the hundred: what is held stays bounded, and nothing is lost."""

import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lifecycle_proxy.app import serve
from lifecycle_proxy.app.factory import ProxyApp
from lifecycle_proxy.exchange.forwarded_response import ForwardedResponse
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.relay.relay import Relay
from lifecycle_proxy.relay.sse import HEARTBEAT, StreamBody
from lifecycle_proxy.server.protocol import Protocol

from tests.commands import LISTEN, ended, serving
from tests.conftest import StartProxy
from tests.fakes import (
    CHAT,
    DONE,
    JSON,
    Client,
    Request,
    Upstream,
    Wire,
    ask,
    chat,
    hello,
    text,
    tool_call,
)

pytestmark = pytest.mark.usefixtures("quiet")

PIECE = text("x" * 65_000)


def _kernel_bytes() -> int:
    """What the kernel may hold for two connections: send and receive buffers at their largest.

    On some machines a receive buffer grows to 6 MiB, on others to 32.
    """
    sizes = Path("/proc/sys/net/ipv4/tcp_rmem"), Path("/proc/sys/net/ipv4/tcp_wmem")
    try:
        return 2 * sum(int(size.read_text().split()[2]) for size in sizes)
    except OSError:  # not Linux
        return 64 << 20


KERNEL_BYTES = max(_kernel_bytes(), 24 << 20)


class Flood:
    """Writes for as long as the other side takes it, up to a limit."""

    def __init__(self, limit: int = 1 << 40) -> None:
        self.sent = 0
        self._limit = limit

    async def run(self, write: Callable[[bytes], object], wire: Wire) -> None:
        while not wire.gone.is_set() and self.sent < self._limit:
            await write(PIECE)  # type: ignore[misc]
            self.sent += len(PIECE)
            await asyncio.sleep(0)

    async def settled(self) -> int:
        """How much was taken when no more was taken."""
        before = -1
        async with asyncio.timeout(5):
            while self.sent != before:
                before = self.sent
                await asyncio.sleep(0.15)
        return before


def held_bytes(runner: serve.Runner) -> int:
    """What the proxy has not yet been able to write to its clients."""
    assert runner.server is not None
    transports = [one.transport for one in runner.server.connections]
    return sum(one.get_write_buffer_size() for one in transports if one is not None)


# --- slow readers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [CHAT, "/v1/files/f/content"])
async def test_for_a_slow_client_little_is_held_and_nothing_is_lost(
    upstream: Upstream, start_proxy: StartProxy, runners: list[serve.Runner], target: str
) -> None:
    flood = Flood(limit=KERNEL_BYTES + (16 << 20))

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream()
        await flood.run(wire.chunk, wire)
        await wire.chunk(DONE)
        await wire.chunk()

    upstream.script = script
    settings = {"upstream.stall_timeout_s": 0.2, "server.heartbeat_s": 0.1}
    async with Client(await start_proxy(settings)) as client:
        await client.send("POST", target, JSON, body=b'{"stream": true}')
        answer = await client.head()
        client.wire.transport.pause_reading()
        assert await flood.settled() < KERNEL_BYTES
        assert held_bytes(runners[0]) < 1 << 20
        await asyncio.sleep(0.4)  # the limit for stalls is not about clients
        client.wire.transport.resume_reading()
        await answer.read()
    assert answer.end == "clean"
    assert len(answer.body.replace(HEARTBEAT, b"")) == flood.sent + len(DONE)
    assert answer.body.endswith(PIECE + DONE)


@pytest.mark.parametrize("target", [CHAT, "/v1/files/f/content"])
async def test_what_comes_last_reaches_a_client_that_has_caught_up(
    upstream: Upstream, proxy: str, runners: list[serve.Runner], target: str
) -> None:
    """aiohttp's parser, once told to pause, stops in the middle of the next read."""
    caught_up = asyncio.Event()
    sent = bytearray()

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream()
        while held_bytes(runners[0]) < 1 << 16:  # then nothing is under way
            await wire.chunk(PIECE)
            sent.extend(PIECE)
            await asyncio.sleep(0.01)
        client.wire.transport.resume_reading()
        await caught_up.wait()
        await wire.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(DONE), DONE))

    upstream.script = script
    async with Client(proxy) as client:
        await client.send("POST", target, JSON, body=b'{"stream": true}')
        answer = await client.head()
        client.wire.transport.pause_reading()
        while len(answer.body) < len(sent) or not sent:
            answer.body += await anext(answer.pieces)
        caught_up.set()
        await answer.read()
    assert answer.end == "clean"
    assert answer.body == sent + DONE


@pytest.mark.parametrize("target", [CHAT, "/v1/files/f/content"])
async def test_a_connection_whose_answer_ended_before_a_slow_client_serves_the_next(
    upstream: Upstream, proxy: str, runners: list[serve.Runner], target: str
) -> None:
    body = bytearray()

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream()
        piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
        while not held_bytes(runners[0]):
            await wire.send(piece)
            body.extend(PIECE)
            await asyncio.sleep(0.01)
        await wire.send(piece * 2 + b"0\r\n\r\n")  # one read, behind which reading stops
        body.extend(PIECE * 2)
        await asyncio.sleep(0.1)
        client.wire.transport.resume_reading()

    upstream.script = script
    async with Client(proxy) as client:
        await client.send("POST", target, JSON, body=b'{"stream": true}')
        answer = await client.head()
        client.wire.transport.pause_reading()
        await answer.read()
        assert answer.body == body
        upstream.script = hello
        assert (await client.chat()).status == 200
    assert len(upstream.wires) == 1


@pytest.mark.parametrize("target", [CHAT, "/v1/files/f/content"])
async def test_the_end_of_a_client_that_does_not_read_is_seen(
    upstream: Upstream, proxy: str, target: str
) -> None:
    flood = Flood()

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream()
        await flood.run(wire.chunk, wire)

    upstream.script = script
    async with Client(proxy) as client:
        await client.send("POST", target, JSON, body=b'{"stream": true}')
        await client.head()
        client.wire.transport.pause_reading()
        await flood.settled()
    await upstream.wires[0].left()


async def test_a_slow_client_does_not_hold_up_others(upstream: Upstream, proxy: str) -> None:
    flood = Flood()

    async def script(request: Request, wire: Wire) -> None:
        if request is upstream.requests[0]:
            await wire.stream()
            await flood.run(wire.chunk, wire)
        else:
            await wire.stream(text("quick"), DONE, b"")

    upstream.script = script
    async with Client(proxy) as client:
        await client.chat()
        client.wire.transport.pause_reading()
        await flood.settled()
        for _ in range(3):
            assert (await chat(proxy)).body == text("quick") + DONE


@pytest.mark.parametrize("target", [CHAT, "/v1/files"])
async def test_an_upstream_that_does_not_read_an_upload_stops_the_client(
    upstream: Upstream, proxy: str, target: str
) -> None:
    flood, go_on = Flood(limit=KERNEL_BYTES + (16 << 20)), asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        wire.transport.pause_reading()
        await go_on.wait()
        wire.transport.resume_reading()
        size = 0
        async for piece in request.pieces(keep=False):
            size += len(piece)
        await wire.answer(b"%d" % size)

    upstream.lazy = True
    upstream.script = script
    async with Client(proxy) as client:
        await client.send("POST", target, "Transfer-Encoding: chunked")
        uploading = asyncio.create_task(flood.run(client.wire.chunk, client.wire))
        assert await flood.settled() < KERNEL_BYTES
        go_on.set()
        await uploading
        await client.wire.chunk()
        answer = await (await client.head()).read()
    assert answer.body == b"%d" % flood.sent


# --- limits that are not there --------------------------------------------------------------------


async def test_a_stream_that_goes_on_outlives_every_limit(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream()
        for _ in range(12):
            await asyncio.sleep(0.05)
            await wire.chunk(text("on"))
        await wire.chunk(DONE)
        await wire.chunk()

    upstream.script = script
    limits = ("connect", "first_byte", "stall")
    answer = await chat(await start_proxy({f"upstream.{one}_timeout_s": 0.2 for one in limits}))
    assert (answer.body, answer.end) == (text("on") * 12 + DONE, "clean")


# --- aborts ---------------------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  names are enough


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
@pytest.mark.parametrize("when", ["before", "within", "after"])
async def test_aborts_by_the_hundred_leave_nothing_behind(
    upstream: Upstream, proxy: str, runners: list[serve.Runner], when: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        if when != "before":
            await wire.stream(tool_call())
        await wire.gone.wait()

    async def abort() -> None:
        async with Client(proxy) as client:
            await client.ask_chat()
            if when == "within":
                await client.head()
            if when == "after":
                await (await client.head()).until(b"running")
            if when != "before":
                client.wire.reset()

    async def many(number: int) -> None:
        for _ in range(number // 20):
            await asyncio.gather(*(abort() for _ in range(20)))
        for wire in upstream.wires:
            await wire.left()
            await wire.end()
        upstream.requests.clear()
        upstream.wires.clear()
        await asyncio.sleep(0.1)
        gc.collect()

    upstream.script = script
    await many(40)  # whatever is made once is there now
    before = descriptors(), len(asyncio.all_tasks())
    await many(300)
    app = runners[0].service
    assert isinstance(app, ProxyApp)
    assert descriptors() <= before[0] + 2
    assert len(asyncio.all_tasks()) <= before[1] + 2
    assert not app.gateway._active
    assert not app.watch._streams
    assert [one for one in gc.get_objects() if isinstance(one, Relay)] == []
    told = (await ask(proxy, "GET", "/-/metrics")).body.decode()
    assert 'exchanges_open{route="chat"} 0.0' in told


async def test_what_belongs_to_a_connection_goes_with_it(upstream: Upstream, proxy: str) -> None:
    """At once. A cycle would stay until the garbage collector looks for it, which is rare."""

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call(), DONE, b"")

    upstream.script = script
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            assert (await chat(proxy)).status == 200
            async with Client(proxy) as client:
                await client.chat()
                client.wire.reset()
        await asyncio.sleep(0.1)
        kinds = (Relay, Protocol, StreamBody, ForwardedResponse, ClientRequest)
        left = [one for one in gc.get_objects() if isinstance(one, kinds)]
        assert left == []
    finally:
        gc.enable()


async def test_clients_that_leave_a_flood_are_no_bug(upstream: Upstream) -> None:
    """In a process of its own, on the event loop that it has there."""

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("x"))
        with contextlib.suppress(ConnectionError):
            while not wire.gone.is_set():
                await wire.chunk(text("more"))
                await asyncio.sleep(0.0005)

    async def leave(url: str) -> None:
        async with Client(url) as client:
            await client.ask_chat()
            await (await client.head()).until(b"more")
            client.wire.reset()

    upstream.script = script
    with serving(*LISTEN, "--upstream", f"{upstream.origin}/v1") as (process, url, _):
        for _ in range(25):
            await asyncio.gather(*(leave(url) for _ in range(8)))
        process.terminate()
        code, _, err = await asyncio.to_thread(ended, process)
    assert (code, "a bug of" in err, "Traceback" in err) == (0, False, False)
