"""Everything that is not ours to touch: paths, headers and bodies, to the byte, both ways."""

import asyncio
import gzip
import hashlib
import json
from collections.abc import Sequence

import pytest
from lifecycle_proxy.exchange import hops

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
    hello,
    text,
)

pytestmark = pytest.mark.usefixtures("quiet")

HOPS = hops.HEADER.lower()


# --- paths and methods --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "PROPFIND"]
)
async def test_every_method_is_forwarded(upstream: Upstream, proxy: str, method: str) -> None:
    answer = await ask(proxy, method, "/v1/things/7")
    assert answer.status == 200
    assert upstream.request.method == method


@pytest.mark.parametrize(
    "target",
    [
        "/v1/a%2Fb//c?x=1&&y=%20",
        "/v1/%41%7e%7E",
        "/v1/x/../y/./z",
        '/v1/a|b"c^`{}\\',
        "/v1/models?a=b?c&d=%&e=+&f=%zz",
        "/v1/a:b@c;d=1,2",
        "/v1/",
        "/v1",
        "/v1?x=1",
        "/v1x/y",
        "/",
        "/?q",
        "//double/slash",
        "/api/tags",
        "/metrics?name[]=up",
        "/-x/y",
    ],
)
async def test_path_and_query_are_kept_to_the_byte(
    upstream: Upstream, proxy: str, target: str
) -> None:
    await ask(proxy, "GET", target)
    assert upstream.request.target == target


@pytest.mark.parametrize(
    ("base", "target", "forwarded"),
    [
        ("/v1", "/v1/models?a", "/v1/models?a"),
        ("", "/v1/models", "/v1/models"),
        ("/", "/v1/models", "/v1/models"),
        ("/api/openai", "/v1/models", "/api/openai/models"),
        ("/api/openai/", "/v1/models", "/api/openai/models"),
        ("/api/openai", "/v1?x=/v1/", "/api/openai?x=/v1/"),
        ("/api/openai", "/other/v1/models", "/other/v1/models"),
        ("/api/openai", "/v10/models", "/v10/models"),
    ],
)
async def test_v1_is_the_base_and_the_rest_is_the_origin(
    upstream: Upstream, start_proxy: StartProxy, base: str, target: str, forwarded: str
) -> None:
    url = await start_proxy({"upstream.url": upstream.origin + base})
    await ask(url, "GET", target)
    assert upstream.request.target == forwarded
    assert f"http://{upstream.request.headers['Host']}" == upstream.origin


@pytest.mark.parametrize("path", ["/-/nothing", "/-/view/x", "/-/page/x", "/-/healthy/x"])
async def test_unknown_paths_of_our_own_are_not_forwarded(
    upstream: Upstream, proxy: str, path: str
) -> None:
    answer = await ask(proxy, "GET", path)
    error = answer.json()["error"]
    assert (answer.status, error["type"], error["code"]) == (404, "proxy_error", "not_found")
    assert upstream.requests == []


async def test_healthy_answers_without_the_upstream(upstream: Upstream, proxy: str) -> None:
    assert (await ask(proxy, "GET", "/-/healthy")).json() == {"status": "ok"}
    assert upstream.wires == []


async def test_a_profile_is_taken_out_of_the_path(upstream: Upstream, proxy: str) -> None:
    await ask(proxy, "GET", "/-/as/plain/v1/models%2F?x=1")
    assert upstream.request.target == "/v1/models%2F?x=1"


# --- headers ------------------------------------------------------------------------------------

HOP_BY_HOP = (
    "Keep-Alive: timeout=5",
    "Proxy-Authenticate: Basic",
    "Proxy-Authorization: Basic x",
    "Proxy-Connection: keep-alive",
    "TE: trailers",
    "Trailer: X-Sum",
    "Connection: X-Private, close",
    "Connection: x-other",
    "X-Private: 1",
    "x-OTHER: 1",
)
KEPT = (
    "Authorization: Bearer sk-1",
    "X-Twice: a",
    "X-Twice: b",
    "X-Name: caf\xc3\xa9",
    "Via: 1.1 x",
)


def names(message: Request | Answer) -> set[str]:
    return {name.lower() for name in message.headers}


def has_lines(message: Request | Answer, lines: Sequence[str]) -> bool:
    """Whether all of these header lines are there; names have no case."""
    head = message.raw.decode("latin-1").lower()
    return all(f"\r\n{line.lower()}\r\n" in head for line in lines)


async def test_request_headers_of_this_hop_stay_here(upstream: Upstream, proxy: str) -> None:
    await ask(proxy, "GET", "/v1/models", *HOP_BY_HOP, *KEPT)
    kept = {"host", "authorization", "x-twice", "x-name", "via"}
    assert names(upstream.request) - {HOPS} == kept
    assert has_lines(upstream.request, KEPT)


async def test_answer_headers_of_this_hop_stay_here(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        lines = [line for line in HOP_BY_HOP if "close" not in line]
        await wire.answer(b"x", "200 OK", *lines, "Connection: x-private", *KEPT)

    upstream.script = script
    answer = await ask(proxy, "GET", "/v1/models")
    kept = {"authorization", "x-twice", "x-name", "via"}
    assert names(answer) - {"date"} == {"content-length", *kept}
    assert has_lines(answer, KEPT)


@pytest.mark.parametrize("target", ["/v1/models", CHAT])
async def test_headers_for_the_proxy_are_not_forwarded(
    upstream: Upstream, proxy: str, target: str
) -> None:
    own = ("X-Lifecycle-Events: off", "x-lifecycle-more: 1", "X-Event-Stream-Id: abcdefgh")
    await ask(proxy, "POST", target, *own, body=b"{}")
    assert names(upstream.request) - {HOPS} == {"host", "content-length"}


async def test_one_header_is_added_to_a_request(upstream: Upstream, proxy: str) -> None:
    await ask(proxy, "GET", "/v1/models")
    await ask(proxy, "POST", CHAT, body=b"{}")
    assert names(upstream.requests[0]) == {"host", HOPS}
    assert names(upstream.requests[1]) == {"host", "content-length", HOPS}


async def test_duplicate_answer_headers_are_kept_in_order(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b"", "200 OK", "Set-Cookie: a=1; Path=/", "Set-Cookie: b=2")

    upstream.script = script
    answer = await ask(proxy, "GET", "/v1/models")
    assert answer.headers.getall("Set-Cookie") == ["a=1; Path=/", "b=2"]


async def test_cookies_of_one_user_do_not_reach_another(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b"", "200 OK", "Set-Cookie: sid=secret; Path=/")

    upstream.script = script
    await ask(proxy, "GET", "/v1/models")
    await ask(proxy, "GET", "/v1/models", "Cookie: sid=mine")
    await ask(proxy, "GET", "/v1/models")
    cookies = [request.headers.getall("Cookie", []) for request in upstream.requests]
    assert cookies == [[], ["sid=mine"], []]


async def test_a_custom_reason_is_kept(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b"", "299 Almost Fine")

    upstream.script = script
    answer = await ask(proxy, "GET", "/v1/models")
    assert (answer.status, answer.reason) == (299, "Almost Fine")


# --- answers ------------------------------------------------------------------------------------


async def test_a_compressed_answer_is_passed_as_it_is(upstream: Upstream, proxy: str) -> None:
    packed = gzip.compress(b'{"data": []}')

    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(packed, "200 OK", "Content-Encoding: gzip", JSON)

    upstream.script = script
    for target in ("/v1/models", CHAT):
        answer = await ask(proxy, "POST", target, "Accept-Encoding: gzip, br", body=b"{}")
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.body == packed
    sent = [request.headers["Accept-Encoding"] for request in upstream.requests]
    assert sent == ["gzip, br", "gzip, br"]


@pytest.mark.parametrize(
    ("method", "status", "lines"),
    [
        ("HEAD", "200 OK", ["Content-Length: 1234", "ETag: x"]),
        ("HEAD", "200 OK", ["Transfer-Encoding: chunked"]),
        ("HEAD", "404 Not Found", ["Content-Length: 9"]),
        ("GET", "204 No Content", ["ETag: x"]),
        ("DELETE", "204 No Content", []),
        ("GET", "304 Not Modified", ["ETag: x", "Cache-Control: no-store"]),
        ("GET", "304 Not Modified", []),
        ("GET", "205 Reset Content", ["Content-Length: 0"]),
    ],
)
async def test_an_answer_without_a_body_leaves_the_connection_in_order(
    upstream: Upstream, proxy: str, method: str, status: str, lines: list[str]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head(status, *lines)

    upstream.script = script
    async with Client(proxy) as client:
        await client.send(method, "/v1/x")
        answer = await (await client.head(bodiless=method == "HEAD")).read()
        upstream.script = hello
        await client.send("GET", "/v1/next")
        assert (await (await client.head()).read()).json() == {"ok": True}
    assert f"{answer.status} {answer.reason}" == status
    assert has_lines(answer, [line for line in lines if "chunked" not in line])


async def test_a_redirect_is_passed_not_followed(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b"", "307 Temporary Redirect", "Location: /elsewhere")

    upstream.script = script
    answer = await ask(proxy, "POST", CHAT, body=b"{}")
    assert (answer.status, answer.headers["Location"]) == (307, "/elsewhere")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("target", ["/v1/models", CHAT])
@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        ("400 Bad Request", "application/json", b'{"error": {"message": "no such model"}}'),
        ("429 Too Many Requests", "application/json; charset=utf-8", b'{"error": "slow down"}'),
        ("503 Service Unavailable", "text/html", b"<html>busy</html>"),
        ("500 Internal Server Error", "text/event-stream", b'data: {"error": "no"}\n\n'),
    ],
)
async def test_errors_of_the_upstream_are_passed_on(
    upstream: Upstream, proxy: str, target: str, status: str, kind: str, body: bytes
) -> None:
    lines = (f"Content-Type: {kind}", "Retry-After: 7", "X-Request-Id: up-1", "Server: up")

    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(body, status, *lines)

    upstream.script = script
    answer = await ask(proxy, "POST", target, JSON, body=b'{"stream": true}')
    assert f"{answer.status} {answer.reason}" == status
    assert answer.body == body
    assert has_lines(answer, lines)


async def test_interim_answers_do_not_disturb(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("100 Continue")
        await wire.head("103 Early Hints", "Link: </x>")
        await hello(request, wire)

    upstream.script = script
    answer = await ask(proxy, "POST", "/v1/x", body=b"x")
    assert (answer.status, answer.json()) == (200, {"ok": True})


async def test_trailers_do_not_disturb(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", "Transfer-Encoding: chunked", "Trailer: X-Sum")
        await wire.chunk(b"body")
        await wire.send(b"0\r\nX-Sum: 7\r\n\r\n")

    upstream.script = script
    for _ in range(2):
        answer = await ask(proxy, "GET", "/v1/x")
        assert (answer.body, answer.end) == (b"body", "clean")


async def test_an_answer_is_passed_on_while_it_comes(upstream: Upstream, proxy: str) -> None:
    seen = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", "Content-Length: 8")
        await wire.send(b"half")
        await seen.wait()
        await wire.send(b"rest")

    upstream.script = script
    async with Client(proxy) as client:
        await client.send("GET", "/v1/audio")
        answer = await (await client.head()).until(b"half")
        seen.set()
        await answer.read()
    assert (answer.body, answer.end) == (b"halfrest", "clean")
    assert answer.headers["Content-Length"] == "8"


async def test_a_client_of_http_1_0_gets_a_body_that_ends_with_the_connection(
    upstream: Upstream, proxy: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("hi"), DONE, b"")

    upstream.script = script
    async with Client(proxy) as client:
        answer = await (await client.chat(version="1.0")).read()
    assert "Transfer-Encoding" not in answer.headers
    assert (answer.body, answer.end) == (text("hi") + DONE, "clean")


async def test_requests_in_a_row_share_connections(upstream: Upstream, proxy: str) -> None:
    async with Client(proxy) as client:
        for _ in range(3):
            await client.send("GET", "/v1/models")
            await (await client.head()).read()
    assert len(upstream.requests) == 3
    assert len(upstream.wires) == 1


async def test_pipelined_requests_are_answered_in_order(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(request.target.encode())

    upstream.script = script
    async with Client(proxy) as client:
        for number in range(3):
            await client.send("GET", f"/v1/{number}")
        bodies = [(await (await client.head()).read()).body for _ in range(3)]
    assert bodies == [b"/v1/0", b"/v1/1", b"/v1/2"]


# --- request bodies -----------------------------------------------------------------------------

DEEP = b'{"stream": true, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"\xff\xfe{}",
        b'{"stream": "yes"}',
        b'{"stream": true, "model": 7}',
        b'{"stream": false, "stream": true}',
        b'{"model": "\\ud800", "stream": true}',
        b'{"n": 1e999, "seed": 123456789012345678901234567890, "stream": true}',
        b' {"stream" :\ttrue}\r\n',
        DEEP,
    ],
    ids=lambda body: repr(body[:24]),
)
@pytest.mark.parametrize("target", [CHAT, "/v1/embeddings"])
async def test_a_body_is_forwarded_to_the_byte_whatever_it_is(
    upstream: Upstream, proxy: str, target: str, body: bytes
) -> None:
    answer = await ask(proxy, "POST", target, JSON, body=body)
    assert answer.status == 200
    assert upstream.request.body == body
    assert upstream.request.headers["Content-Length"] == str(len(body))


async def test_a_compressed_body_is_forwarded_as_it_is(upstream: Upstream, proxy: str) -> None:
    packed = gzip.compress(b'{"stream": true}')
    for target in (CHAT, "/v1/embeddings"):
        await ask(proxy, "POST", target, JSON, "Content-Encoding: gzip", body=packed)
    for request in upstream.requests:
        assert request.headers["Content-Encoding"] == "gzip"
        assert request.body == packed


@pytest.mark.unmeasured
@pytest.mark.parametrize("target", [CHAT, "/v1/files"])
async def test_a_body_of_50_mb_is_forwarded_unchanged(
    upstream: Upstream, proxy: str, target: str
) -> None:
    arrived = hashlib.sha256()

    async def script(request: Request, wire: Wire) -> None:
        async for piece in request.pieces(keep=False):
            arrived.update(piece)
        await hello(request, wire)

    upstream.lazy = True
    upstream.script = script
    body = json.dumps({"stream": True, "pad": "0123456789" * 5_000_000}).encode()
    answer = await ask(proxy, "POST", target, JSON, body=body)
    assert answer.status == 200
    assert arrived.digest() == hashlib.sha256(body).digest()
    assert upstream.request.headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize("size", [10, 9 << 20])
@pytest.mark.parametrize("framing", ["Content-Length", "Transfer-Encoding"])
@pytest.mark.parametrize("target", [CHAT, "/v1/files"])
async def test_uploads_keep_their_framing(
    upstream: Upstream, proxy: str, target: str, framing: str, size: int
) -> None:
    chunked = framing == "Transfer-Encoding"
    async with Client(proxy) as client:
        await client.send("POST", target, f"{framing}: {'chunked' if chunked else size}")
        if chunked:
            await client.wire.chunk(bytes(size))
            await client.wire.chunk()
        else:
            await client.wire.send(bytes(size))
        assert (await (await client.head()).read()).status == 200
    assert upstream.request.body == bytes(size)
    if size > 10 or target != CHAT:  # a small chat body has been read, so its length is known
        assert framing in upstream.request.headers


@pytest.mark.parametrize("framing", ["Content-Length: 8", "Transfer-Encoding: chunked"])
async def test_an_upload_is_passed_on_while_it_comes(
    upstream: Upstream, proxy: str, framing: str
) -> None:
    first = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        async for _ in request.pieces():
            first.set()
        await hello(request, wire)

    upstream.lazy = True
    upstream.script = script
    async with Client(proxy) as client:
        send = client.wire.chunk if "chunked" in framing else client.wire.send
        await client.send("POST", "/v1/files", framing)
        await send(b"half")
        await asyncio.wait_for(first.wait(), 1)
        await send(b"rest")
        if "chunked" in framing:
            await client.wire.chunk()
        assert (await client.head()).status == 200
    assert upstream.request.body == b"halfrest"


async def test_an_answer_in_mid_upload_reaches_the_client(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b"too large", "413 Content Too Large", "Connection: close")
        await wire.gone.wait()

    upstream.lazy = True
    upstream.script = script
    async with Client(proxy) as client:
        await client.send("POST", "/v1/files", "Content-Length: 900000000")
        await client.wire.send(bytes(1 << 20))
        answer = await (await client.head()).read()
    assert (answer.status, answer.body) == (413, b"too large")


@pytest.mark.parametrize("target", [CHAT, "/v1/files"])
async def test_a_client_that_expects_100_continue_gets_it(
    upstream: Upstream, proxy: str, target: str
) -> None:
    async with Client(proxy) as client:
        await client.send("POST", target, "Expect: 100-continue", "Content-Length: 2")
        assert (await client.head(bodiless=True)).status == 100
        await client.wire.send(b"{}")
        assert (await client.head()).status == 200
    assert "Expect" not in upstream.request.headers
    assert upstream.request.body == b"{}"


# --- bad requests -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [CHAT, "/v1/files/f/content"])
async def test_a_body_that_only_the_end_of_the_connection_ends_is_ended(
    upstream: Upstream, proxy: str, target: str
) -> None:
    """Also where a client of HTTP/1.0 asked to keep the connection."""

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(DONE, b"")

    upstream.script = script
    async with Client(proxy) as client:
        lines = (JSON, "Connection: keep-alive")
        await client.send("POST", target, *lines, body=b'{"stream": true}', version="1.0")
        answer = await (await client.head()).read()
    assert (answer.body, answer.end) == (DONE, "clean")


@pytest.mark.parametrize(
    "data",
    [
        b"GET http://elsewhere.example/v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"GET v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"CONNECT elsewhere.example:443 HTTP/1.1\r\nHost: elsewhere.example:443\r\n\r\n",
        b"CONNECT /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"GET /v1/\xc3\xa9 HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"GET /v1/\x01 HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"GET /v1/x\x00y HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"GET /v1/x HTTP/1.1\r\nHost: {host}\r\nX: a\x00b\r\n\r\n",
        b"GET /v1/x HTTP/1.1\r\nHost: {host}\r\nX y: 1\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0",
        b"POST /v1/x HTTP/1.1\r\nHost: {host}\r\nContent-Length: +4\r\n\r\nabcd",
        b"POST /v1/x HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
    ids=lambda data: repr(data[:48]),
)
async def test_a_bad_request_is_refused_and_not_forwarded(
    upstream: Upstream, proxy: str, data: bytes
) -> None:
    async with Client(proxy) as client:
        await client.wire.send(data.replace(b"{host}", client.host.encode()))
        answer = await client.head()
    assert answer.status == 400
    assert upstream.requests == []


async def test_an_over_long_header_is_a_431(upstream: Upstream, start_proxy: StartProxy) -> None:
    url = await start_proxy({"server.max_header_bytes": 2048})
    answer = await ask(url, "GET", "/v1/models", f"X: {'x' * 4096}")
    assert answer.status == 431
    assert answer.json()["error"]["code"] == "header_too_large"
    assert upstream.requests == []


async def test_headers_up_to_the_limit_pass(upstream: Upstream, proxy: str) -> None:
    lines = [f"X-{n}: {n}" for n in range(400)]
    answer = await ask(proxy, "GET", f"/v1/models?{'q' * 30_000}", f"X: {'x' * 60_000}", *lines)
    assert answer.status == 200
    assert len(upstream.request.headers) == 403


@pytest.mark.parametrize(
    ("target", "forwarded"),
    [("/v1/models?x", "/v1/models?x"), ("", "/"), ("?x", "/?x"), ("/a//b%2F", "/a//b%2F")],
)
async def test_an_absolute_target_for_our_own_host_is_made_relative(
    upstream: Upstream, proxy: str, target: str, forwarded: str
) -> None:
    answer = await ask(proxy, "GET", proxy + target)
    assert answer.status == 200
    assert upstream.request.target == forwarded


async def test_a_bad_chunk_of_an_upload_is_refused(upstream: Upstream, proxy: str) -> None:
    async with Client(proxy) as client:
        await client.send("POST", CHAT, "Transfer-Encoding: chunked")
        await client.wire.send(b"2\r\n{}\r\nxyz\r\n")
        assert (await client.head()).status == 400
    assert all(request.body != b"{}" for request in upstream.requests)


async def test_an_unknown_dialect_is_refused_everywhere(upstream: Upstream, proxy: str) -> None:
    for answer in (
        await ask(proxy, "GET", "/-/as/klingon/v1/models"),
        await chat(proxy, "X-Lifecycle-Events: klingon"),
    ):
        error = answer.json()["error"]
        assert (answer.status, error["code"]) == (400, "bad_request")
        assert "klingon" in error["message"]
        assert "chunk, plain, bare" in error["message"]
    assert upstream.requests == []


@pytest.mark.parametrize("expected", [b"100-continue", b"x", b"\xff"])
async def test_no_expectation_of_a_client_is_an_error(
    upstream: Upstream, proxy: str, expected: bytes
) -> None:
    async with Client(proxy) as client:
        head = b"POST /v1/a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: " + expected
        await client.wire.send(head + b"\r\n\r\nhi")
        answer = await client.head()
        if expected == b"100-continue":
            assert answer.status == 100
            answer = await client.head()
    assert answer.status == 200
    assert upstream.request.body == b"hi"
    assert "Expect" not in upstream.request.headers


BYTES = b"\xa0v\x85 \xc3\xa9 \xff"


@pytest.mark.parametrize("target", ["/v1/x", CHAT])
async def test_header_values_keep_their_bytes(upstream: Upstream, proxy: str, target: str) -> None:
    """Also those that some take for blanks, and those that are not UTF-8."""

    async def script(request: Request, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nX-R: " + BYTES + b"\r\nContent-Length: 2\r\n\r\n{}")

    upstream.script = script
    async with Client(proxy) as client:
        for _ in range(2):
            line = f"T: {BYTES.decode('latin-1')}"
            await client.send("POST", target, JSON, line, body=b'{"stream": true}')
            answer = await (await client.head()).read()
            assert answer.status == 200
            assert f"\r\nX-R: {BYTES.decode('latin-1')}\r\n" in answer.raw.decode("latin-1")
            assert answer.body == b"{}"
            assert b"\r\nT: " + BYTES + b"\r\n" in upstream.requests[-1].raw


async def test_a_stream_of_the_proxys_own_ends_with_its_connection_in_http_1_0(
    upstream: Upstream, proxy: str
) -> None:
    """Without a length and without chunks, nothing else ends it."""

    async def script(_: Request, wire: Wire) -> None:
        await wire.stream(text("hi"), DONE, b"")

    upstream.script = script
    answer = await chat(proxy)
    path = answer.headers["X-Stream-Url"]
    host, port = proxy.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = (f"GET {path} HTTP/1.0", f"Host: {host}", "Connection: keep-alive", "", "")
    writer.write("\r\n".join(lines).encode())
    async with asyncio.timeout(10):
        assert b"stream.done" in await reader.read()
    writer.close()
