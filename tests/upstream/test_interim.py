"""Interim responses: 102, 103 and others reach the client before the response; 100 does not."""

import asyncio

import pytest

from tests.conftest import StartProxy
from tests.fakes import CHAT, DONE, JSON, Client, Request, Upstream, Wire, text

pytestmark = pytest.mark.usefixtures("quiet")

HINTS = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nX-A: \xa0b\x85\r\n"
    b"Connection: X-Hop\r\nX-Hop: 1\r\n\r\n"
)


async def hinting(request: Request, wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n" + HINTS)
    await wire.send(b"HTTP/1.1 102 Processing\r\n\r\n")
    if request.target == CHAT:
        await wire.stream(text("hi"), DONE, b"")
    else:
        await wire.answer(b"hi")


@pytest.mark.parametrize("target", [CHAT, "/v1/x"])
async def test_interim_responses_are_passed_on(upstream: Upstream, proxy: str, target: str) -> None:
    upstream.script = hinting
    async with Client(proxy) as client:
        for _ in range(2):
            await client.send("POST", target, JSON, body=b'{"stream": true}')
            answer = await (await client.head()).read()
            assert client.hints == [
                b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nX-A: \xa0b\x85\r\n\r\n",
                b"HTTP/1.1 102 Processing\r\n\r\n",
            ]
            client.hints.clear()
            assert (answer.status, answer.end) == (200, "clean")
            assert answer.body == (b"hi" if target != CHAT else text("hi") + DONE)


async def test_a_client_of_http_1_0_gets_none(upstream: Upstream, proxy: str) -> None:
    upstream.script = hinting
    async with Client(proxy) as client:
        await client.send("GET", "/v1/x", version="1.0")
        answer = await (await client.head()).read()
    assert (answer.status, answer.body, client.hints) == (200, b"hi", [])


async def test_none_follows_headers_that_were_sent(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    heard = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await heard.wait()
        await hinting(request, wire)

    upstream.script = script
    early = {"server.heartbeat_before_first_byte": True, "server.heartbeat_s": 0.05}
    async with Client(await start_proxy(early)) as client:
        answer = await (await client.chat()).until(b": keep-alive")
        heard.set()
        await answer.read()
    assert answer.end == "clean"
    assert b"HTTP/1.1" not in answer.body
    assert answer.body.endswith(text("hi") + DONE)
