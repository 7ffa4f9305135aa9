"""WebSockets: what either side says arrives at the other, and so does its end.

Half of the tests have WebSocket libraries at both ends; half look at the bytes.
"""

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
import pytest
from aiohttp import WSCloseCode, WSMsgType, web
from lifecycle_proxy.app import serve as server

from tests.conftest import StartProxy
from tests.fakes import JSON, Answer, Client, Request, Upstream, Wire, ask

pytestmark = pytest.mark.usefixtures("quiet")

REALTIME: Final = "/v1/realtime?model=m"
ASKS: Final = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)
KEYS: Final = {"server.api_keys": ["ours-1"]}


# --- both ends are libraries ----------------------------------------------------------------------


class Backend:
    """An echo that speaks two subprotocols.

    Attributes:
        seen: types of what came, pings and closes included.
        ends: the close codes that come.
    """

    def __init__(self) -> None:
        self.seen: list[WSMsgType] = []
        self.ends: asyncio.Queue[int | None] = asyncio.Queue()
        self.url = ""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(
            protocols=("realtime", "other"), autoping=False, max_msg_size=0
        )
        await socket.prepare(request)
        async for message in socket:
            self.seen.append(message.type)
            match message.type:
                case WSMsgType.PING:
                    await socket.pong(message.data)
                case WSMsgType.BINARY:
                    await socket.send_bytes(message.data)
                case WSMsgType.TEXT if message.data == "ping me":
                    await socket.ping(b"from behind")
                case WSMsgType.TEXT if message.data.startswith("close "):
                    await socket.close(code=int(message.data[6:]), message=b"so there")
                case WSMsgType.TEXT:
                    await socket.send_str(message.data)
                case _:
                    pass
        self.ends.put_nowait(socket.close_code)
        return socket


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    echo = Backend()
    app = web.Application()
    app.router.add_get("/{path:.*}", echo.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    echo.url = f"http://localhost:{runner.addresses[0][1]}"
    yield echo
    await runner.cleanup()


@pytest.fixture
async def through(backend: Backend, start_proxy: StartProxy) -> str:
    """The URL of a proxy in front of the echo."""
    return await start_proxy({"upstream.url": f"{backend.url}/v1"})


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as one:
        yield one


@pytest.mark.parametrize("path", [REALTIME, "/ws/any/thing", "/-/as/plain/v1/realtime"])
async def test_text_and_binary_pass_on_any_path(
    through: str, session: aiohttp.ClientSession, path: str
) -> None:
    async with session.ws_connect(through + path) as ws:
        for word in ("", "hello", "Häuser 🏠"):
            await ws.send_str(word)
            assert await ws.receive_str() == word
            await ws.send_bytes(word.encode())
            assert await ws.receive_bytes() == word.encode()


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["realtime"], "realtime"), (["x", "other", "realtime"], "other"), (["x"], None), ([], None)],
)
async def test_the_upstream_chooses_the_subprotocol(
    through: str, session: aiohttp.ClientSession, offered: list[str], chosen: str | None
) -> None:
    async with session.ws_connect(through + REALTIME, protocols=offered) as ws:
        assert ws.protocol == chosen


@pytest.mark.parametrize("compress", [0, 15])
async def test_extensions_are_agreed_between_the_two_ends(
    through: str, session: aiohttp.ClientSession, compress: int
) -> None:
    async with session.ws_connect(through + REALTIME, compress=compress) as ws:
        assert ws.compress == compress
        await ws.send_str("again and " * 1000)
        assert await ws.receive_str() == "again and " * 1000


async def test_a_ping_is_answered_by_the_other_end_not_by_the_proxy(
    backend: Backend, through: str, session: aiohttp.ClientSession
) -> None:
    async with session.ws_connect(through + REALTIME, autoping=False) as ws:
        await ws.ping(b"anybody?")
        answer = await ws.receive(2)
        assert (answer.type, answer.data) == (WSMsgType.PONG, b"anybody?")
        await ws.send_str("ping me")
        asked = await ws.receive(2)
        assert (asked.type, asked.data) == (WSMsgType.PING, b"from behind")
        await ws.pong(asked.data)
        await ws.send_str("over")
        assert await ws.receive_str() == "over"
    assert backend.seen[:3] == [WSMsgType.PING, WSMsgType.TEXT, WSMsgType.PONG]


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4321])
async def test_a_close_code_reaches_the_client(
    backend: Backend, through: str, session: aiohttp.ClientSession, code: int
) -> None:
    async with session.ws_connect(through + REALTIME, autoclose=False) as ws:
        await ws.send_str(f"close {code}")
        end = await ws.receive(2)
        assert (end.type, end.data, end.extra) == (WSMsgType.CLOSE, code, "so there")


@pytest.mark.parametrize("code", [WSCloseCode.OK, WSCloseCode.GOING_AWAY, 4001])
async def test_a_close_code_reaches_the_upstream(
    backend: Backend, through: str, session: aiohttp.ClientSession, code: int
) -> None:
    async with session.ws_connect(through + REALTIME) as ws:
        await ws.close(code=code, message=b"bye")
    assert await asyncio.wait_for(backend.ends.get(), 1) == code


async def test_a_message_of_20_mb_passes_both_ways(
    through: str, session: aiohttp.ClientSession
) -> None:
    data = os.urandom(1 << 20) * 20
    async with session.ws_connect(through + REALTIME, max_msg_size=0) as ws:
        await ws.send_bytes(data)
        back = await ws.receive_bytes()
    assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()


# --- the handshake --------------------------------------------------------------------------------


async def shake(request: Request, wire: Wire) -> None:
    """Agree, as RFC 6455 section 4.2.2 says."""
    key = request.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode(), usedforsecurity=False).digest())
    await wire.head(
        "101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept.decode()}",
    )


async def hold(request: Request, wire: Wire) -> None:
    """Agree, and wait for the end."""
    await shake(request, wire)
    await wire.gone.wait()


async def upgraded(client: Client, *lines: str, target: str = REALTIME) -> Answer:
    await client.send("GET", target, *(lines or ASKS))
    answer = await client.head(bodiless=True)
    assert answer.status == 101
    return answer


async def test_the_handshake_passes_with_its_hop_by_hop_part(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = hold
    lines = (*ASKS, "Sec-WebSocket-Extensions: x-1; a=b, x-2", "Authorization: Bearer sk-1")
    async with Client(proxy) as client:
        answer = await upgraded(client, *lines, "OpenAI-Beta: realtime=v1")
    sent = upstream.request.headers
    assert upstream.request.target == REALTIME
    assert (sent["Connection"].lower(), sent["Upgrade"]) == ("upgrade", "websocket")
    assert sent["Sec-WebSocket-Key"] == "AAAAAAAAAAAAAAAAAAAAAA=="
    assert sent["Sec-WebSocket-Extensions"] == "x-1; a=b, x-2"
    assert (sent["Authorization"], sent["OpenAI-Beta"]) == ("Bearer sk-1", "realtime=v1")
    assert "Content-Length" not in sent
    assert "Transfer-Encoding" not in sent
    assert answer.headers.getall("Connection") == ["Upgrade"]
    assert answer.headers.getall("Upgrade") == ["websocket"]
    assert answer.headers["Sec-WebSocket-Accept"] == "ICX+Yqv66kxgM0FcWaLWlFLwTAI="
    assert not {"Content-Length", "Transfer-Encoding", "Content-Type"} & set(answer.headers)


async def test_an_upgrade_may_be_asked_for_as_firefox_does(upstream: Upstream, proxy: str) -> None:
    upstream.script = hold
    async with Client(proxy) as client:
        await upgraded(client, "Connection: keep-alive, Upgrade", "Upgrade: WebSocket", *ASKS[2:])
    assert upstream.request.headers["Upgrade"].lower() == "websocket"


@pytest.mark.parametrize(
    "lines",
    [
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAM"),
        ("Upgrade: websocket",),
    ],
)
async def test_other_upgrades_are_not_asked_for(
    upstream: Upstream, proxy: str, lines: tuple[str, ...]
) -> None:
    answer = await ask(proxy, "GET", "/v1/models", *lines)
    assert answer.status == 200
    assert not {"Upgrade", "Connection", "HTTP2-Settings"} & set(upstream.request.headers)


@pytest.mark.parametrize(
    ("status", "body"), [("403 Forbidden", b'{"error": "no"}'), ("426 Upgrade Required", b"")]
)
async def test_a_refused_upgrade_is_passed_on(
    upstream: Upstream, proxy: str, status: str, body: bytes
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(body, status, JSON, "Retry-After: 3")

    upstream.script = script
    async with Client(proxy) as client:
        await client.send("GET", REALTIME, *ASKS)
        answer = await (await client.head()).read()
        assert f"{answer.status} {answer.reason}" == status
        assert (answer.body, answer.headers["Retry-After"]) == (body, "3")
        await client.send("GET", "/-/healthy")  # it is still an HTTP connection
        assert (await (await client.head()).read()).status == 200


async def test_an_upgrade_of_an_upstream_that_is_down_is_a_502(
    upstream: Upstream, proxy: str
) -> None:
    upstream.refuse()
    answer = await ask(proxy, "GET", REALTIME, *ASKS)
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_unreachable")


# --- keys -----------------------------------------------------------------------------------------


async def test_a_key_in_the_subprotocols_is_checked_and_taken_out(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = hold
    offer = "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.ours-1, openai-beta.v1"
    async with Client(await start_proxy(KEYS)) as client:
        await upgraded(client, *ASKS, offer)
    assert upstream.request.headers["Sec-WebSocket-Protocol"] == "realtime, openai-beta.v1"
    assert b"ours-1" not in upstream.request.raw


async def test_a_key_is_taken_out_where_nothing_else_is_offered(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = hold
    async with Client(await start_proxy(KEYS)) as client:
        await upgraded(client, *ASKS, "Sec-WebSocket-Protocol: openai-insecure-api-key.ours-1")
    assert "Sec-WebSocket-Protocol" not in upstream.request.headers


async def test_a_key_is_taken_out_of_several_lines(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = hold
    lines = (
        "Sec-WebSocket-Protocol: realtime",
        "Sec-WebSocket-Protocol: openai-insecure-api-key.ours-1",
    )
    async with Client(await start_proxy(KEYS)) as client:
        await upgraded(client, *ASKS, *lines)
    assert upstream.request.headers.getall("Sec-WebSocket-Protocol") == ["realtime"]
    assert b"ours-1" not in upstream.request.raw


@pytest.mark.parametrize("lines", [(), ("Sec-WebSocket-Protocol: openai-insecure-api-key.no",)])
async def test_without_a_key_there_is_no_tunnel(
    upstream: Upstream, start_proxy: StartProxy, lines: tuple[str, ...]
) -> None:
    answer = await ask(await start_proxy(KEYS), "GET", REALTIME, *ASKS, *lines)
    assert (answer.status, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert upstream.requests == []


async def test_the_upstreams_key_replaces_the_one_in_the_subprotocols(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = hold
    settings = {**KEYS, "upstream.api_key": "theirs-1"}
    offer = "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.ours-1"
    async with Client(await start_proxy(settings)) as client:
        await upgraded(client, *ASKS, offer)
    sent = upstream.request.headers
    assert sent.getall("Authorization") == ["Bearer theirs-1"]
    assert sent["Sec-WebSocket-Protocol"] == "realtime"


async def test_a_key_for_the_upstream_stays_where_the_proxy_has_none(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = hold
    offer = "realtime, openai-insecure-api-key.sk-1"
    async with Client(proxy) as client:
        await upgraded(client, *ASKS, f"Sec-WebSocket-Protocol: {offer}")
    assert upstream.request.headers["Sec-WebSocket-Protocol"] == offer


# --- the tunnel -----------------------------------------------------------------------------------


async def test_bytes_right_behind_either_half_of_the_handshake_are_not_lost(
    upstream: Upstream, proxy: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        lines = ("HTTP/1.1 101 Switching Protocols", *ASKS[:2], "", "first from the upstream")
        await wire.send("\r\n".join(lines).encode())
        await wire.send(await wire.reader.readexactly(21))

    upstream.script = script
    async with Client(proxy) as client:
        lines = (
            f"GET {REALTIME} HTTP/1.1",
            f"Host: {client.host}",
            *ASKS,
            "",
            "first from the client",
        )
        await client.wire.send("\r\n".join(lines).encode())
        assert (await client.head(bodiless=True)).status == 101
        expected = b"first from the upstreamfirst from the client"
        assert await asyncio.wait_for(client.wire.reader.readexactly(len(expected)), 2) == expected


async def test_a_client_gone_takes_the_upstream_along(upstream: Upstream, proxy: str) -> None:
    upstream.script = hold
    async with Client(proxy) as client:
        await upgraded(client)
    await upstream.wires[0].left()


async def test_a_client_that_resets_takes_the_upstream_along(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = hold
    async with Client(proxy) as client:
        await upgraded(client)
        client.wire.reset()
        await upstream.wires[0].left()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_upstream_gone_takes_the_client_along(
    upstream: Upstream, proxy: str, how: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await shake(request, wire)
        await wire.reader.readexactly(3)
        await wire.send(b"last words")
        await asyncio.sleep(0.05)
        getattr(wire, how)()

    upstream.script = script
    async with Client(proxy) as client:
        await upgraded(client)
        await client.wire.send(b"end")
        assert await asyncio.wait_for(client.wire.reader.readexactly(10), 2) == b"last words"
        await client.wire.left()


async def test_what_was_written_before_a_close_arrives(upstream: Upstream, proxy: str) -> None:
    size = 4 << 20

    async def script(request: Request, wire: Wire) -> None:
        await shake(request, wire)
        await wire.send(bytes(size))
        wire.close()

    upstream.script = script
    async with Client(proxy) as client:
        await upgraded(client)
        data = await asyncio.wait_for(client.wire.reader.readexactly(size), 3)
    assert len(data) == size


async def test_an_idle_tunnel_is_closed_at_its_limit_and_a_busy_one_is_not(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = hold
    async with Client(await start_proxy({"upstream.websocket_idle_s": 0.2})) as client:
        await upgraded(client)
        for _ in range(5):  # one side's life is enough
            await asyncio.sleep(0.1)
            await client.wire.send(b"still here")
        assert not client.wire.gone.is_set()
        await client.wire.left()
    await upstream.wires[0].left()


async def test_a_tunnel_has_no_stall_limit_and_no_heartbeats(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await shake(request, wire)
        await asyncio.sleep(0.8)
        await wire.send(b"late")

    upstream.script = script
    settings = {
        "upstream.stall_timeout_s": 0.1,
        "upstream.first_byte_timeout_s": 0.6,  # a loaded machine may need a while for a handshake
        "server.heartbeat_s": 0.05,
    }
    async with Client(await start_proxy(settings)) as client:
        await upgraded(client)
        assert await asyncio.wait_for(client.wire.reader.read(99), 2) == b"late"


async def flood(wire: Wire, sent: list[int]) -> None:
    """Write for as long as the other side lets us."""
    while not wire.gone.is_set():
        await wire.send(bytes(1 << 16))
        sent[0] += 1 << 16
        await asyncio.sleep(0)


async def settled(sent: list[int]) -> int:
    """How much was taken before the other side stopped taking."""
    before = -1
    async with asyncio.timeout(5):
        while sent[0] != before:
            before = sent[0]
            await asyncio.sleep(0.15)
    return before


async def test_a_client_that_does_not_read_stops_the_upstream(
    upstream: Upstream, proxy: str
) -> None:
    sent = [0]

    async def script(request: Request, wire: Wire) -> None:
        await shake(request, wire)
        await flood(wire, sent)

    upstream.script = script
    async with Client(proxy) as client:
        await upgraded(client)
        client.wire.transport.pause_reading()
        stopped_at = await settled(sent)
        assert stopped_at < 24 << 20  # the kernel's buffers, of two connections
        client.wire.transport.resume_reading()
        got = 0
        async with asyncio.timeout(5):
            while got <= stopped_at:
                got += len(await client.wire.reader.read(1 << 20))
    await upstream.wires[0].left()


async def test_an_upstream_that_does_not_read_stops_the_client(
    upstream: Upstream, proxy: str
) -> None:
    sent, go_on, all_read = [0], asyncio.Event(), asyncio.Event()
    stopped_at = 0

    async def script(request: Request, wire: Wire) -> None:
        wire.transport.pause_reading()
        await shake(request, wire)
        await go_on.wait()
        wire.transport.resume_reading()
        got = 0
        while got <= stopped_at:
            got += len(await wire.reader.read(1 << 20))
        all_read.set()

    upstream.script = script
    async with Client(proxy) as client:
        await upgraded(client)
        flooding = asyncio.ensure_future(flood(client.wire, sent))
        stopped_at = await settled(sent)
        assert stopped_at < 24 << 20
        go_on.set()
        await asyncio.wait_for(all_read.wait(), 3)
        flooding.cancel()
    await upstream.wires[0].left()


async def test_the_end_of_a_side_that_does_not_read_is_seen(upstream: Upstream, proxy: str) -> None:
    sent = [0]

    async def script(request: Request, wire: Wire) -> None:
        await shake(request, wire)
        await flood(wire, sent)

    upstream.script = script
    async with Client(proxy) as client:
        await upgraded(client)
        client.wire.transport.pause_reading()
        await settled(sent)
    await upstream.wires[0].left()


async def test_a_tunnel_does_not_outlive_the_drain(
    upstream: Upstream, proxy: str, runners: list[server.Runner]
) -> None:
    upstream.script = hold
    async with Client(proxy) as client:
        await upgraded(client)
        async with asyncio.timeout(5):
            await server.stop(runners.pop(), 0.1)
        await client.wire.left()
    await upstream.wires[0].left()
