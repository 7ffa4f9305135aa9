"""Versions of HTTP, and what a response says of the software that wrote it."""

import pytest

from tests.conftest import StartProxy
from tests.fakes import CHAT, Answer, Client, Request, Upstream, Wire, ask, chat

pytestmark = pytest.mark.usefixtures("quiet")


async def raw(url: str, data: bytes) -> Answer:
    """What comes for these bytes; the connection is closed behind it."""
    async with Client(url) as client:
        await client.wire.send(data)
        answer = await (await client.head()).read()
        await client.wire.left()
        return answer


@pytest.mark.parametrize("path", ["/v1/models", "/-/healthy"])
@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET %s\r\n\r\n", 400),
        (b"GET %s HTTP/0.9\r\nHost: localhost\r\n\r\n", 400),
        (b"GET %s HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (b"GET %s HTTP/3.0\r\nHost: localhost\r\n\r\n", 400),
        (b"GET %s HTTP/1.2\r\nHost: localhost\r\n\r\n", 400),
        (b"GET %s HTTP/1.1\r\n\r\n", 400),
        (b"GET %s HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET %s HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", 400),
        (b"\x16\x03\x01 %s\r\n\r\n", 400),
    ],
)
async def test_other_versions_are_refused_in_http_1_1(
    upstream: Upstream, proxy: str, path: str, line: bytes, status: int
) -> None:
    answer = await raw(proxy, line % path.encode())
    assert (answer.status, answer.version) == (status, "HTTP/1.1")
    code = "http_version_not_supported" if status == 505 else "bad_request"
    assert answer.json()["error"]["code"] == code
    assert answer.headers["Connection"] == "close"
    assert answer.headers["Server"] == "lifecycle-proxy"
    assert upstream.wires == []


async def test_http_1_0_is_understood(upstream: Upstream, proxy: str) -> None:
    async with Client(proxy) as client:
        await client.send("GET", "/v1/models", version="1.0")
        assert (await client.head()).status == 200


async def test_no_response_names_aiohttp(upstream: Upstream, start_proxy: StartProxy) -> None:
    url = await start_proxy({"server.max_header_bytes": 2000, "server.cors_origins": ["http://p"]})
    preflight = ("Origin: http://p", "Access-Control-Request-Method: POST")
    answers = [
        *[await ask(url, "GET", path) for path in ("/-/healthy", "/-/metrics", "/-/none")],
        await ask(url, "POST", "/-/config"),
        await ask(url, "OPTIONS", CHAT, *preflight),
        await ask(url, "GET", "/v1/models", f"X: {'a' * 3000}"),
        await ask(url, "GET", "/v1/models"),
        await chat(url),
    ]
    upstream.refuse()
    for wire in upstream.wires:
        wire.reset()
    answers.append(await ask(url, "GET", "/v1/models"))
    assert {200, 204, 404, 405, 431, 502} <= {answer.status for answer in answers}
    for answer in answers:
        assert b"aiohttp" not in answer.raw
        assert b"Python" not in answer.raw


async def test_the_upstreams_own_name_stays(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b"{}", "200 OK", "Server: uvicorn")

    upstream.script = script
    assert (await ask(proxy, "GET", "/v1/models")).headers.getall("Server") == ["uvicorn"]


@pytest.mark.parametrize("length", ["010", "00000000000000000010", "10 "])
async def test_a_length_is_written_anew(upstream: Upstream, proxy: str, length: str) -> None:
    for target in ("/v1/files", CHAT):
        async with Client(proxy) as client:
            await client.send("POST", target, f"Content-Length: {length}")
            await client.wire.send(b"0123456789")
            assert (await client.head()).status == 200
    for request in upstream.requests:
        assert request.headers.getall("Content-Length") == ["10"]
        assert request.body == b"0123456789"
