"""Requests that two servers could read in two ways.

Each is refused, or forwarded in a form that can be read in one way only. What hides behind it is
never a request of its own.
"""

import asyncio

import pytest

from tests.conftest import StartProxy
from tests.fakes import Answer, Client, Request, Upstream, Wire

pytestmark = pytest.mark.usefixtures("quiet")

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(HIDDEN)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
NOTHING = b"0\r\n\r\n"

# Header lines and the body of a POST; everything behind the body is hidden.
AMBIGUOUS = {
    "cl_te": (LENGTH + CHUNKED, NOTHING),
    "te_cl": (CHUNKED + LENGTH, NOTHING),
    "te_cl_zero": (CHUNKED + b"Content-Length: 0\r\n", NOTHING),
    "two_lengths": (b"Content-Length: 0\r\n" + LENGTH, b""),
    "length_list": (b"Content-Length: 0, %d\r\n" % len(HIDDEN), b""),
    "length_plus": (b"Content-Length: +0\r\n", b""),
    "length_minus": (b"Content-Length: -1\r\n", b""),
    "length_hex": (b"Content-Length: 0x5\r\n", NOTHING),
    "length_underscore": (b"Content-Length: 1_0\r\n", b""),
    "length_empty": (b"Content-Length: \r\n", b""),
    "length_other_digits": ("Content-Length: ٥\r\n".encode(), NOTHING),
    "te_twice": (CHUNKED + CHUNKED, NOTHING),
    "te_unknown": (b"Transfer-Encoding: xchunked\r\n", NOTHING),
    "te_identity": (b"Transfer-Encoding: identity\r\n", NOTHING),
    "te_not_last": (b"Transfer-Encoding: chunked, gzip\r\n", NOTHING),
    "te_identity_and_length": (b"Transfer-Encoding: identity\r\n" + LENGTH, b""),
    "te_empty": (b"Transfer-Encoding:\r\n", b""),
    "te_coding_in_front": (b"Transfer-Encoding: gzip, chunked\r\n", NOTHING),
    "te_unknown_in_front": (b"Transfer-Encoding: x, chunked\r\n", NOTHING),
    "te_tab": (b"Transfer-Encoding:\x0bchunked\r\n", NOTHING),
    "te_quoted": (b'Transfer-Encoding: "chunked"\r\n', NOTHING),
    "space_before_colon": (b"Transfer-Encoding : chunked\r\n", NOTHING),
    "space_before_name": (b" Transfer-Encoding: chunked\r\n", NOTHING),
    "folded": (b"Transfer-Encoding:\r\n chunked\r\n", NOTHING),
    "folded_length": (b"X: a\r\n Content-Length: 0\r\n", b""),
    "bare_cr": (b"X: a\rTransfer-Encoding: chunked\r\n", NOTHING),
    "bare_lf": (b"X: a\nContent-Length: 0\r\n", b""),
    "nul": (b"X: a\x00\r\n" + CHUNKED, NOTHING),
    "no_name": (b": chunked\r\n" + CHUNKED, NOTHING),
    "chunk_size_sign": (CHUNKED, b"+0\r\n\r\n"),
    "chunk_size_hex": (CHUNKED, b"0x0\r\n\r\n"),
    "chunk_size_huge": (CHUNKED, b"f" * 17 + b"\r\n"),
    "chunk_bare_lf": (CHUNKED, b"0\n\n"),
    "chunk_extension_lf": (CHUNKED, b"0;a\nb\r\n\r\n"),
    "chunk_too_long": (CHUNKED, b"1\r\nab\r\n0\r\n\r\n"),
    "host_twice": (b"Host: y\r\nContent-Length: 0\r\n", b""),
}


def assert_clear(answer: Answer) -> None:
    """In our shape, and with no more to come on this connection."""
    error = answer.json()["error"]
    assert (answer.status, error["type"], error["code"]) == (400, "proxy_error", "bad_request")


@pytest.mark.parametrize("target", ["/v1/x", "/v1/chat/completions"])
@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_what_is_ambiguous_is_refused_or_made_clear(
    upstream: Upstream, proxy: str, name: str, target: str
) -> None:
    lines, body = AMBIGUOUS[name]
    async with Client(proxy) as client:
        start = f"POST {target} HTTP/1.1\r\nHost: {client.host}\r\n".encode()
        await client.wire.send(start + lines + b"\r\n" + body + HIDDEN)
        answer = await (await client.head()).read()
        if answer.status == 400:
            assert_clear(answer)
            await client.wire.left()
        else:
            await asyncio.sleep(0.02)
    if answer.status == 400:
        assert [request.target for request in upstream.requests if request.body] == []
        assert not any(b"hidden" in request.raw for request in upstream.requests)
        return
    # Forwarded: with one framing, without a trace of what was odd; what follows is what a reader of
    # RFC 9112 sees there: pipelined, and asked for by the client itself.
    for request in upstream.requests:
        framing = [
            n for n in request.headers if n.lower() in ("content-length", "transfer-encoding")
        ]
        assert len(framing) <= 1
        head = request.raw.replace(b"\r\n", b"")
        assert b"\r" not in head
        assert b"\n" not in head
        assert b"\x00" not in head
        assert len(request.headers.getall("Host")) == 1
        assert not any(char in request.headers.get("Transfer-Encoding", "") for char in '",\x0b')


MUST_BE_REFUSED = (
    "cl_te",
    "te_cl",
    "two_lengths",
    "length_list",
    "length_plus",
    "length_minus",
    "length_hex",
    "length_other_digits",
    "te_unknown",
    "te_not_last",
    "space_before_colon",
    "bare_cr",
    "nul",
    "chunk_size_sign",
    "chunk_size_huge",
)


@pytest.mark.parametrize("name", MUST_BE_REFUSED)
async def test_what_has_no_clear_form_is_refused_and_never_forwarded(
    upstream: Upstream, proxy: str, name: str
) -> None:
    lines, body = AMBIGUOUS[name]
    async with Client(proxy) as client:
        start = f"POST /v1/x HTTP/1.1\r\nHost: {client.host}\r\n".encode()
        await client.wire.send(start + lines + b"\r\n" + body + HIDDEN)
        assert_clear(await (await client.head()).read())
        await client.wire.left()
    assert not any(request.target == "/hidden" for request in upstream.requests)


@pytest.mark.parametrize(
    "line",
    [
        b"GET /v1/x HTTP/1.1 HTTP/1.1",
        b"GET\t/v1/x HTTP/1.1",
        b"GET /v1/x y HTTP/1.1",
        b"GET /v1/\r HTTP/1.1",
        b"GET /v1/x\x7f HTTP/1.1",
        b"GET /v1/x HTTP/9.9",
        b"GET /v1/x http/1.1",
        b"G@T /v1/x HTTP/1.1",
        b"GET http://elsewhere.example:80/v1/x HTTP/1.1",
        b"GET http://user@{host}/v1/x HTTP/1.1",
        b"GET http:///v1/x HTTP/1.1",
        b"GET ftp://{host}/v1/x HTTP/1.1",
        b"GET //elsewhere.example HTTP/1.1\r\nX: \x01",
    ],
)
async def test_a_bad_request_line_is_refused(upstream: Upstream, proxy: str, line: bytes) -> None:
    async with Client(proxy) as client:
        host = client.host.encode()
        await client.wire.send(line.replace(b"{host}", host) + b"\r\nHost: " + host + b"\r\n\r\n")
        assert_clear(await (await client.head()).read())
    assert upstream.requests == []


@pytest.mark.parametrize("line", ["GET  /v1/x HTTP/1.1", "GET /v1/x", "GET /v1/x HTTP/1.0"])
async def test_an_old_or_sloppy_request_line_is_refused_or_made_clear(
    upstream: Upstream, proxy: str, line: str
) -> None:
    async with Client(proxy) as client:
        await client.wire.send(f"{line}\r\nHost: {client.host}\r\n\r\n".encode())
        status = (await client.head()).status
    if status != 400:
        assert upstream.request.raw.startswith(b"GET /v1/x HTTP/1.1\r\nHost: localhost:")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * 5000),
        b"GET / HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n" % (b"x" * 5000),
        b"GET / HTTP/1.1\r\nHost: x\r\n%s: x\r\n\r\n" % (b"x" * 5000),
        b"GET / HTTP/1.1\r\nHost: x\r\n%s\r\n" % (b"X: x\r\n" * 2000),
    ],
    ids=["target", "value", "name", "number"],
)
async def test_a_head_that_is_too_long_is_a_431(
    upstream: Upstream, start_proxy: StartProxy, head: bytes
) -> None:
    async with Client(await start_proxy({"server.max_header_bytes": 4096})) as client:
        await client.wire.send(head)
        answer = await (await client.head()).read()
    assert (answer.status, answer.json()["error"]["code"]) == (431, "header_too_large")
    assert upstream.requests == []


async def test_two_equal_lengths_are_refused_or_become_one(upstream: Upstream, proxy: str) -> None:
    async with Client(proxy) as client:
        await client.send("POST", "/v1/x", "Content-Length: 2", "Content-Length: 2")
        await client.wire.send(b"ok")
        answer = await client.head()
    if answer.status != 400:
        assert upstream.request.headers.getall("Content-Length") == ["2"]


@pytest.mark.parametrize("target", ["/v1/files", "/v1/chat/completions"])
@pytest.mark.parametrize("more", [b"zz\r\n", b"5\r\nhelloXX", b"-1\r\n"])
async def test_a_bad_chunk_in_the_middle_of_a_body_is_a_400(
    upstream: Upstream, proxy: str, target: str, more: bytes
) -> None:
    """Also where the rest of the body is on its way to the upstream already."""
    upstream.lazy = True
    gone = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            async for _ in request.pieces():
                pass
        gone.set()

    upstream.script = script
    async with Client(proxy) as client:
        await client.send("POST", target, "Transfer-Encoding: chunked")
        await client.wire.chunk(b"x" * 1000)
        if target == "/v1/files":
            async with asyncio.timeout(5):
                while not upstream.requests:  # noqa: ASYNC110  a request has no event
                    await asyncio.sleep(0.01)
        await client.wire.send(more)
        answer = await (await client.head()).read()
        assert (answer.status, answer.json()["error"]["code"]) == (400, "bad_request")
        await client.wire.left()
    if upstream.requests:
        async with asyncio.timeout(5):
            await gone.wait()
