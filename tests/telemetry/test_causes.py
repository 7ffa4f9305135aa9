"""A failure of the upstream is a warning in the access log, with its cause."""

import asyncio
import logging
from typing import Any

import pytest

from tests.conftest import StartProxy
from tests.fakes import JSON, Request, Script, Upstream, Wire, ask, chat, hello, text

pytestmark = pytest.mark.usefixtures("quiet")

BODY = len(text("hi"))


async def reset(request: Request, wire: Wire) -> None:
    await wire.stream(text("hi"))
    await asyncio.sleep(0.05)
    wire.reset()


async def cut(request: Request, wire: Wire) -> None:
    await wire.stream(text("hi"))
    wire.close()


async def short(request: Request, wire: Wire) -> None:
    await wire.head("200 OK", JSON, "Content-Length: 100")
    await wire.send(b"{")
    wire.close()


async def reset_without_length(request: Request, wire: Wire) -> None:
    await wire.head("200 OK", JSON)
    await wire.send(b"{")
    await asyncio.sleep(0.05)
    wire.reset()


async def bad_chunk(request: Request, wire: Wire) -> None:
    await wire.stream(text("hi"))
    await asyncio.sleep(0.05)
    await wire.send(b"ZZZ secret\r\n")


async def stalled(request: Request, wire: Wire) -> None:
    await wire.stream(text("hi"))
    await wire.gone.wait()


async def silent(request: Request, wire: Wire) -> None:
    await wire.gone.wait()


async def bad_header(request: Request, wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nSet-Cookie: secret\x00\r\n\r\n")


async def half_a_head(request: Request, wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nSet-Cookie: secret")
    wire.close()


async def closed(request: Request, wire: Wire) -> None:
    wire.close()


async def reset_at_once(request: Request, wire: Wire) -> None:
    wire.reset()


def access(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """The fields of the lines of the access log."""
    return [r.msg for r in caplog.records if r.name == "proxy.access"]


@pytest.mark.parametrize(
    ("script", "code", "causes"),
    [
        (reset, "upstream_protocol", [f"after {BODY} bytes", "Connection reset by peer"]),
        (cut, "upstream_protocol", [f"broke off before its end after {BODY} bytes", "transfer"]),
        (short, "upstream_protocol", ["after 1 of 100 bytes", "content length"]),
        (reset_without_length, "upstream_unreachable", ["after 1 bytes", "ConnectionResetError"]),
        (bad_chunk, "upstream_protocol", [f"after {BODY} bytes", "a chunk was expected"]),
        (stalled, "upstream_timeout", [f"after {BODY} bytes", "nothing came for 0."]),
        (silent, "upstream_timeout", ["did not begin to answer", "first_byte_timeout_s"]),
        (bad_header, "upstream_protocol", ["is not valid HTTP", "header"]),
        (half_a_head, "upstream_protocol", ["broke off", "inside its headers"]),
        (closed, "upstream_unreachable", ["closed the connection without a response"]),
        (reset_at_once, "upstream_unreachable", ["cannot reach", "Connection reset by peer"]),
    ],
)
async def test_a_failure_of_the_upstream_is_a_warning_with_its_cause(
    upstream: Upstream,
    start_proxy: StartProxy,
    caplog: pytest.LogCaptureFixture,
    script: Script,
    code: str,
    causes: list[str],
) -> None:
    """Also where nothing else is logged."""
    upstream.script = script
    limits = {"upstream.stall_timeout_s": 0.2, "upstream.first_byte_timeout_s": 0.2}
    url = await start_proxy({**limits, "server.access_log": False})
    await ask(url, "GET", "/v1/x?key=secret")
    (entry,) = access(caplog)
    assert entry.error == code
    for cause in causes:
        assert cause in entry.cause
    assert "secret" not in str(entry)
    assert "\n" not in str(entry)
    assert next(r.levelno for r in caplog.records if r.msg is entry) == logging.WARNING


async def test_an_upstream_that_takes_no_connections_is_one(
    upstream: Upstream, proxy: str, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.refuse()
    await chat(proxy)
    (entry,) = access(caplog)
    assert "ConnectionRefusedError" in entry.cause


async def test_a_refusal_behind_early_heartbeats_is_one(
    upstream: Upstream, start_proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.12)
        await wire.answer(b"{}", "503 No")

    upstream.script = script
    early = {"server.heartbeat_before_first_byte": True, "server.heartbeat_s": 0.05}
    await chat(await start_proxy(early))
    (entry,) = access(caplog)
    assert entry.ended == "upstream_error"
    assert entry.cause == "the upstream answered with status 503 and no event stream"


async def test_what_ends_well_or_is_the_clients_fault_is_none(
    upstream: Upstream, start_proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    upstream.script = hello
    url = await start_proxy()
    assert (await ask(url, "GET", "/v1/x")).end == "clean"
    assert (await chat(url, "X-Lifecycle-Events: nonsense")).status == 400
    assert [r.levelno for r in caplog.records if r.name == "proxy.access"] == 2 * [logging.INFO]
    assert [entry.ended for entry in access(caplog)] == ["done", "refused"]
    assert [entry.cause for entry in access(caplog)] == ["", ""]
