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
        b"HTTP/1.1 200 OK\r\nDate: \r\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n X-A: b\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 103 Early Hints\r\nX-A : b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 099 X\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + CHUNKED,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\nContent-Length: 2\r\n\r\n{}",
        *(
            b"HTTP/1.1 200 OK\r\n" + CHUNKED.replace(b"chunked", coding)
            for coding in (b"xchunked", b"gzip, chunked", b"chunked, identity", b"chunked, chunked")
        ),
    ],
    ids=[
        *("control character", "delete", "status line", "blank before the colon"),
        *("blank and hop-by-hop", "blank in a name", "101 that nobody asked for"),
        *("many interim responses", "large headers", "CR", "blank before the first header"),
        *("interim", "status", "chunked twice", "identity", "no coding", "unknown coding"),
        *("gzip in chunks", "identity behind chunks", "chunks in chunks"),
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


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize("extra", [b"H", b"HTTP/1.1 20", b"X", b"\r\nHT", LATER])
@pytest.mark.parametrize("head", [LENGTH, b"HTTP/1.1 200 OK\r\n" + CHUNKED])
@pytest.mark.parametrize("is_late", [False, True])
async def test_bytes_behind_a_response_end_the_connection(
    head: bytes, extra: bytes, is_late: bool, upstream: Upstream, proxy: str
) -> None:
    script = answering(head, extra) if is_late else answering(head + extra)
    upstream.script = script
    assert (await ask(proxy, "GET", "/v1/models")).body == b"{}"
    await asyncio.sleep(0.1 if is_late else 0)
    assert (await ask(proxy, "GET", "/v1/models")).body == b'"own"'
    assert script.connections[0] is not script.connections[1]


async def test_a_connection_is_kept_after_a_correct_response(
    upstream: Upstream, proxy: str
) -> None:
    script = upstream.script = answering(LENGTH)
    for _ in range(2):
        await ask(proxy, "GET", "/v1/models")
    assert script.connections[0] is script.connections[1]


async def test_chunks_of_http_1_0_end_the_connection(upstream: Upstream, proxy: str) -> None:
    """RFC 9112, section 6.1."""
    head = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + CHUNKED
    script = upstream.script = answering(head)
    assert (await ask(proxy, "GET", "/v1/models")).body == b"{}"
    assert (await ask(proxy, "GET", "/v1/models")).body == b'"own"'
    assert script.connections[0] is not script.connections[1]


async def test_a_101_without_a_protocol_ends_the_connection(upstream: Upstream, proxy: str) -> None:
    script = upstream.script = answering(b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n")
    assert (await ask(proxy, "GET", "/v1/models")).status == 502
    assert (await ask(proxy, "GET", "/v1/models")).body == b'"own"'
    assert script.connections[0] is not script.connections[1]


@pytest.mark.parametrize("head", [b"200 " + b"KEY" * 90_000, b"200 OK\r\nX-A: " + b"KEY" * 90_000])
async def test_the_error_does_not_quote_a_response_that_is_too_long(
    head: bytes, upstream: Upstream, proxy: str
) -> None:
    upstream.script = answering(b"HTTP/1.1 " + head + b"\r\nContent-Length: 2\r\n\r\n{}")
    answer = await ask(proxy, "GET", "/v1/models")
    assert answer.status == 502
    assert b"KEY" not in answer.body
