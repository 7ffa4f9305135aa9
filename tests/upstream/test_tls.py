"""TLS both ways, IPv6, unix sockets as upstreams, and proxies in the environment."""

import asyncio
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trustme

from tests.commands import LISTEN, run
from tests.conftest import StartProxy
from tests.fakes import (
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
    payloads,
    text,
    tool_call,
)

pytestmark = pytest.mark.usefixtures("quiet")

StartTls = Callable[..., Awaitable[Upstream]]


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(ca: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture
async def start_tls(ca: trustme.CA) -> AsyncIterator[StartTls]:
    """Starts an upstream with a certificate for these names; ``names`` collects the SNI."""
    started: list[Upstream] = []

    async def start(*names: str, seen: list[str | None] | None = None) -> Upstream:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(*(names or ("localhost",))).configure_cert(context)
        if seen is not None:
            context.sni_callback = lambda _socket, name, _context: seen.append(name)
        fake = Upstream()
        await fake.start(tls=context)
        started.append(fake)
        return fake

    yield start
    for fake in started:
        await fake.stop()


def trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


def assert_unreachable(answer: Answer) -> None:
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (502, "upstream_unreachable")
    assert "TLS" in error["message"]


# --- towards the upstream -------------------------------------------------------------------------


async def test_an_upstream_with_a_certificate_of_an_own_ca(
    start_tls: StartTls, start_proxy: StartProxy, ca_file: str
) -> None:
    seen: list[str | None] = []
    secure = await start_tls(seen=seen)

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("hi"), DONE, b"")

    secure.script = script
    url = await start_proxy({"upstream.url": f"{secure.origin}/v1", "upstream.ca_file": ca_file})
    for _ in range(2):
        assert (await chat(url)).body == text("hi") + DONE
    assert seen == ["localhost"]  # and one connection for both
    assert (await ask(url, "GET", "/-/ready")).status == 200


async def test_an_upstream_whose_ca_is_not_trusted_is_a_502(
    start_tls: StartTls, start_proxy: StartProxy, tmp_path: Path
) -> None:
    secure = await start_tls()
    wrong = tmp_path / "wrong.pem"
    trustme.CA().cert_pem.write_to_path(wrong)
    for settings in ({}, {"upstream.ca_file": str(wrong)}):
        assert_unreachable(
            await chat(await start_proxy({"upstream.url": secure.origin, **settings}))
        )
    assert secure.requests == []


async def test_a_certificate_of_another_name_is_a_502(
    start_tls: StartTls, start_proxy: StartProxy, ca_file: str
) -> None:
    secure = await start_tls("elsewhere.example")
    url = await start_proxy({"upstream.url": secure.origin, "upstream.ca_file": ca_file})
    assert_unreachable(await chat(url))
    assert secure.requests == []


async def test_the_name_to_ask_for_and_to_check_can_be_set(
    start_tls: StartTls, start_proxy: StartProxy, ca_file: str
) -> None:
    seen: list[str | None] = []
    secure = await start_tls("backend.example", seen=seen)
    settings = {
        "upstream.url": secure.origin,
        "upstream.ca_file": ca_file,
        "upstream.server_name": "backend.example",
    }
    url = await start_proxy(settings)
    assert (await ask(url, "GET", "/v1/models")).status == 200
    assert seen == ["backend.example"]


async def test_probes_ask_for_the_name_that_was_set_too(
    start_tls: StartTls, start_proxy: StartProxy, ca_file: str
) -> None:
    secure = await start_tls("backend.example")
    settings = {
        "upstream.url": secure.origin,
        "upstream.ca_file": ca_file,
        "upstream.server_name": "backend.example",
    }
    assert (await ask(await start_proxy(settings), "GET", "/-/ready")).status == 200


async def test_verification_can_be_turned_off(start_tls: StartTls, start_proxy: StartProxy) -> None:
    """The start warns of it: test_mistakes.py."""
    secure = await start_tls("elsewhere.example")
    url = await start_proxy({"upstream.url": secure.origin, "upstream.verify_tls": False})
    assert (await chat(url)).status == 200


async def test_a_break_is_told_over_tls_too(
    start_tls: StartTls, start_proxy: StartProxy, ca_file: str
) -> None:
    secure = await start_tls()

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call())
        wire.transport.abort()

    secure.script = script
    url = await start_proxy({"upstream.url": secure.origin, "upstream.ca_file": ca_file})
    answer = await chat(url)
    assert payloads(answer.body)[-1]["error"]["code"].startswith("upstream_")
    assert answer.end == "cut"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_cannot_be_used_is_refused_at_start(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    done = run("serve", *LISTEN, LIFECYCLE_PROXY_UPSTREAM__CA_FILE=str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "upstream.ca_file" in done.stderr
    assert "Traceback" not in done.stderr


# --- towards clients ------------------------------------------------------------------------------


@pytest.fixture
def certificate(ca: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """Settings of a listener for localhost."""
    leaf, cert, key = ca.issue_cert("localhost"), tmp_path / "cert.pem", tmp_path / "key.pem"
    for number, blob in enumerate(leaf.cert_chain_pems):
        blob.write_to_path(cert, append=number > 0)
    leaf.private_key_pem.write_to_path(key)
    return {"server.tls_cert": str(cert), "server.tls_key": str(key)}


async def test_clients_may_connect_with_tls(
    upstream: Upstream, start_proxy: StartProxy, ca: trustme.CA, certificate: dict[str, str]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("hi"), DONE, b"")

    upstream.script = script
    url = await start_proxy(certificate)
    assert url.startswith("https://localhost:")
    async with Client(url, trusting(ca)) as client:
        for _ in range(2):
            answer = await (await client.chat()).read()
            assert (answer.body, answer.end) == (text("hi") + DONE, "clean")


async def test_certificate_and_key_may_be_one_file(
    upstream: Upstream, start_proxy: StartProxy, ca: trustme.CA, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(both)
    url = await start_proxy({"server.tls_cert": str(both)})
    assert (await ask(url, "GET", "/v1/models", tls=trusting(ca))).status == 200


async def test_a_large_upload_and_a_large_answer_pass_over_tls(
    upstream: Upstream, start_proxy: StartProxy, ca: trustme.CA, certificate: dict[str, str]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(request.body)

    upstream.script = script
    body = bytes(range(256)) * 16384
    url = await start_proxy(certificate)
    answer = await ask(url, "POST", "/v1/files", body=body, tls=trusting(ca))
    assert answer.body == body


async def test_a_client_of_tls_that_goes_away_takes_the_upstream_along(
    upstream: Upstream, start_proxy: StartProxy, ca: trustme.CA, certificate: dict[str, str]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call())
        await wire.gone.wait()

    upstream.script = script
    async with Client(await start_proxy(certificate), trusting(ca)) as client:
        await (await client.chat()).until(b"running")
    await upstream.wires[0].left()


async def test_a_websocket_passes_over_tls(
    upstream: Upstream, start_proxy: StartProxy, ca: trustme.CA, certificate: dict[str, str]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade")
        await wire.send(await wire.reader.readexactly(5))

    upstream.script = script
    async with Client(await start_proxy(certificate), trusting(ca)) as client:
        await client.send("GET", "/v1/realtime", "Connection: Upgrade", "Upgrade: websocket")
        assert (await client.head(bodiless=True)).status == 101
        await client.wire.send(b"hello")
        assert await client.wire.reader.readexactly(5) == b"hello"


async def test_clear_text_on_a_port_of_tls_does_no_harm(
    upstream: Upstream, start_proxy: StartProxy, ca: trustme.CA, certificate: dict[str, str]
) -> None:
    url = await start_proxy(certificate)
    async with Client(url.replace("https", "http")) as client:
        await client.send("GET", "/v1/models")
        await client.wire.left()
    assert (await ask(url, "GET", "/v1/models", tls=trusting(ca))).status == 200
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("name", ["server.tls_cert", "server.tls_key"])
def test_a_certificate_that_cannot_be_used_is_refused_at_start(
    certificate: dict[str, str], name: str
) -> None:
    settings = {**certificate, name: f"{certificate[name]}.none"}
    environ = {
        f"LIFECYCLE_PROXY_{key.replace('.', '__').upper()}": path for key, path in settings.items()
    }
    done = run("serve", *LISTEN, **environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert "server.tls_" in done.stderr
    assert "Traceback" not in done.stderr


# --- IPv6 -----------------------------------------------------------------------------------------


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
async def test_both_sides_may_have_ipv6_addresses(start_proxy: StartProxy) -> None:
    fake = Upstream()
    await fake.start(socket.create_server(("::1", 0), family=socket.AF_INET6))
    port = fake.origin.rpartition(":")[2]
    url = await start_proxy({"server.listen": "[::1]:0", "upstream.url": f"http://[::1]:{port}/v1"})
    assert url.startswith("http://[::1]:")
    assert not url.endswith(":0")
    assert (await ask(url, "GET", "/v1/models")).status == 200
    assert fake.request.headers["Host"] == f"[::1]:{port}"
    assert (await ask(url, "GET", f"{url}/v1/x")).status == 200  # our own host, in absolute form
    await fake.stop()


# --- unix sockets ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "target", "forwarded"),
    [
        ("", "/v1/models?x=%2F", "/v1/models?x=%2F"),
        (":/base/", "/v1/models", "/base/models"),
        (":/base", "/other", "/other"),
    ],
)
async def test_an_upstream_on_a_unix_socket(
    start_proxy: StartProxy, suffix: str, target: str, forwarded: str
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # 107 bytes are all it may have
        path = f"{directory}/up.sock"
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        fake = Upstream()
        await fake.start(sock)
        url = await start_proxy({"upstream.url": f"unix:{path}{suffix}"})
        for _ in range(2):
            assert (await ask(url, "POST", target, JSON, body=b"{}")).json() == {"ok": True}
        assert [request.target for request in fake.requests] == [forwarded] * 2
        assert fake.requests[0].headers["Host"] == "localhost"
        assert len(fake.wires) == 1
        await fake.stop()


async def test_an_upstream_whose_unix_socket_is_not_there_is_a_502(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    url = await start_proxy({"upstream.url": f"unix:{tmp_path}/none.sock"})
    answer = await chat(url)
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_unreachable")


# --- proxies in the environment -------------------------------------------------------------------


@pytest.fixture
async def http_proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Upstream]:
    """What ``HTTP_PROXY`` names."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    fake = Upstream()
    await fake.start()
    monkeypatch.setenv("HTTP_PROXY", fake.origin)
    yield fake
    await fake.stop()


async def test_a_proxy_in_the_environment_is_ignored(
    upstream: Upstream, start_proxy: StartProxy, http_proxy: Upstream
) -> None:
    assert (await ask(await start_proxy(), "GET", "/v1/models")).status == 200
    assert len(upstream.requests) == 1
    assert http_proxy.wires == []


async def test_a_proxy_in_the_environment_is_used_where_that_is_asked_for(
    start_proxy: StartProxy, http_proxy: Upstream
) -> None:
    http_proxy.script = hello
    settings = {"upstream.url": "http://backend.invalid/v1", "upstream.use_proxy_env": True}
    assert (await ask(await start_proxy(settings), "GET", "/v1/models")).status == 200
    assert http_proxy.request.target == "http://backend.invalid/v1/models"
    assert http_proxy.request.headers["Host"] == "backend.invalid"


async def test_a_tunnel_through_a_proxy_in_the_environment(
    start_tls: StartTls,
    ca_file: str,
    start_proxy: StartProxy,
    http_proxy: Upstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream = await start_tls("localhost")
    port = int(upstream.origin.rpartition(":")[2])

    async def script(request: Request, wire: Wire) -> None:
        assert (request.method, request.target) == ("CONNECT", f"localhost:{port}")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await wire.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = asyncio.create_task(_copied(reader, wire.transport))
        try:
            while data := await wire.reader.read(1 << 16):
                writer.write(data)
        finally:
            back.cancel()
            writer.transport.abort()

    http_proxy.script = script
    monkeypatch.setenv("HTTPS_PROXY", http_proxy.origin)
    url = f"https://localhost:{port}/v1"
    settings = {"upstream.url": url, "upstream.use_proxy_env": True, "upstream.ca_file": ca_file}
    proxy = await start_proxy(settings)
    for _ in range(2):  # on one connection
        assert (await ask(proxy, "GET", "/v1/models")).status == 200
    assert len(http_proxy.wires) == len(upstream.wires) == 1


async def test_a_proxy_that_refuses_the_tunnel_is_a_502(
    start_proxy: StartProxy, http_proxy: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        assert request.method == "CONNECT"
        assert request.headers["Proxy-Authorization"] == "Basic bWU6YTpi"
        assert "Authorization" not in request.headers
        await wire.answer(b"who are you?", "407 Proxy Authentication Required")

    http_proxy.script = script
    monkeypatch.setenv("HTTPS_PROXY", http_proxy.origin.replace("//", "//me:a%3Ab@"))
    proxy = await start_proxy(
        {"upstream.url": "https://backend.invalid/v1", "upstream.use_proxy_env": True}
    )
    answer = await ask(proxy, "GET", "/v1/models", "Authorization: Bearer sk-1")
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (502, "upstream_unreachable")
    assert "407" in error["message"]
    await http_proxy.wires[0].left()


async def test_a_proxy_that_speaks_something_else_is_a_502(
    start_proxy: StartProxy, http_proxy: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:1")
    proxy = await start_proxy(
        {"upstream.url": "http://backend.invalid/v1", "upstream.use_proxy_env": True}
    )
    error = (await ask(proxy, "GET", "/v1/models")).json()["error"]
    assert error["code"] == "upstream_unreachable"
    assert "socks5" in error["message"]


async def _copied(reader: asyncio.StreamReader, transport: asyncio.WriteTransport) -> None:
    while data := await reader.read(1 << 16):
        transport.write(data)
