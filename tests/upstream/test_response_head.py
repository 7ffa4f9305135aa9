"""Response headers that cannot be sent on, and responses that contradict themselves.

Each goes through the proxy over real sockets, with a second request behind it: the client's
connection stays in step, and nobody gets what belongs to another response.
"""

import asyncio

import pytest

from tests.fakes import Client, Request, Upstream, Wire, ask

pytestmark = pytest.mark.usefixtures("quiet")

CHAT = "/v1/chat/completions"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
LATER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECRET"


def answering(head: bytes, later: bytes = b"") -> "Script":
    return Script(head, later)


class Script:
    """The first request gets these bytes, all others a response of their own."""

    def __init__(self, first: bytes, later: bytes) -> None:
        self._first, self._later = first, later
        self.connections: list[Wire] = []

    async def __call__(self, request: Request, wire: Wire) -> None:
        if not self.connections:
            self.connections.append(wire)
            await wire.send(self._first)
            if self._later:
                await asyncio.sleep(0.05)
                await wire.send(self._later)
        else:
            self.connections.append(wire)
            await wire.answer(b'"own"')


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nX-Trace: a\x01b\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX-Trace: a\x7fb\r\n" + CHUNKED,
        b"HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nConnection : X-A\r\nX-A: b\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nwhatever",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 65 + b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n"
        + b"X-A: %b\r\n" % (b"a" * 60_000) * 5
        + b"Content-Length: 2\r\n\r\n{}",
    ],
    ids=[
        *("control character", "delete", "status line", "blank before the colon"),
        *("blank and hop-by-hop", "blank in a name", "101 that nobody asked for"),
        *("many interim responses", "large headers"),
    ],
)
@pytest.mark.parametrize("target", ["/v1/models", CHAT])
async def test_headers_that_cannot_be_sent_on_are_a_502(
    head: bytes, target: str, upstream: Upstream, proxy: str
) -> None:
    upstream.script = answering(head)
    async with Client(proxy) as client:
        for expected in (502, 200):
            await client.send("POST", target, body=b'{"stream": true}')
            answer = await (await client.head()).read()
            assert answer.status == expected
            if expected == 502:
                assert answer.json()["error"]["code"] == "upstream_protocol"
    assert answer.body == b'"own"'


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("framing", [b"Content-Length: 45", b"Transfer-Encoding: chunked"])
async def test_what_follows_a_response_without_a_body_is_nobodys(
    status: bytes, framing: bytes, upstream: Upstream, proxy: str
) -> None:
    head = b"HTTP/1.1 " + status + b"\r\n" + framing + b"\r\n\r\n"
    script = upstream.script = answering(head, LATER)
    await ask(proxy, "GET", "/v1/models")
    await asyncio.sleep(0.1)
    answer = await ask(proxy, "GET", "/v1/models")
    assert answer.body == b'"own"'
    assert script.connections[0] is not script.connections[1]


async def test_what_follows_the_response_to_a_head_is_nobodys(
    upstream: Upstream, proxy: str
) -> None:
    script = upstream.script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n", LATER)
    async with Client(proxy) as client:
        await client.send("HEAD", "/v1/models")
        answer = await client.head(bodiless=True)
        assert (answer.status, answer.headers["Content-Length"]) == (200, "45")
    await asyncio.sleep(0.1)
    assert (await ask(proxy, "GET", "/v1/models")).body == b'"own"'
    assert script.connections[0] is not script.connections[1]


async def test_a_connection_with_two_framings_is_not_used_again(
    upstream: Upstream, proxy: str
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    script = upstream.script = answering(head + b"2\r\n{}\r\n0\r\n\r\n")
    await ask(proxy, "GET", "/v1/models")
    assert (await ask(proxy, "GET", "/v1/models")).body == b'"own"'
    assert script.connections[0] is not script.connections[1]


async def test_a_few_interim_responses_are_no_reason_to_fail(
    upstream: Upstream, proxy: str
) -> None:
    interim = b"HTTP/1.1 102 Processing\r\n\r\n" * 60
    upstream.script = answering(interim + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    assert (await ask(proxy, "GET", "/v1/models")).body == b"{}"


@pytest.mark.parametrize("head", [b"200 " + b"KEY" * 30_000, b"200 OK\r\nX-A: " + b"KEY" * 30_000])
async def test_the_error_does_not_quote_a_response_that_is_too_long(
    head: bytes, upstream: Upstream, proxy: str
) -> None:
    upstream.script = answering(b"HTTP/1.1 " + head + b"\r\nContent-Length: 2\r\n\r\n{}")
    answer = await ask(proxy, "GET", "/v1/models")
    assert answer.status == 502
    assert b"KEY" not in answer.body
