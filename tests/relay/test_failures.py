"""Ends that nobody planned: clients that go away, upstreams that break, limits, and shutdown.

A client must be able to tell a broken stream from a whole one, and an upstream must learn at once
that nobody listens any more.
"""

import asyncio
import gzip
import json
import socket
from collections.abc import Callable

import pytest
from lifecycle_proxy.app import serve

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
    delta,
    hello,
    lifecycle,
    payloads,
    text,
    tool_call,
)

pytestmark = pytest.mark.usefixtures("quiet")

HEARTBEAT = b": keep-alive\n\n"
STALL = {"upstream.stall_timeout_s": 0.15}
EARLY = {"server.heartbeat_s": 0.05, "server.heartbeat_before_first_byte": True}


async def silent(request: Request, wire: Wire) -> None:
    """Takes the request and never says anything."""
    await wire.gone.wait()


async def stuck_tool(request: Request, wire: Wire) -> None:
    """A tool call, and then nothing."""
    await wire.stream(tool_call())
    await wire.gone.wait()


def error_of(answer: Answer) -> tuple[int, str, str]:
    error = answer.json()["error"]
    assert error["message"]
    return answer.status, error["type"], error["code"]


def assert_broken(answer: Answer, code: str) -> None:
    """Open calls are completed, then comes the error frame, then a visibly broken end."""
    assert [status for _, status, _ in lifecycle(answer.body)] == ["running", "completed"]
    last = payloads(answer.body)[-1]
    assert (last["error"]["type"], last["error"]["code"]) == ("proxy_error", code)
    assert b"[DONE]" not in answer.body
    assert answer.end in ("cut", "reset")


# --- the client goes away -----------------------------------------------------------------------


async def test_a_client_gone_in_mid_stream_takes_the_upstream_request_along(
    upstream: Upstream, proxy: str
) -> None:
    async def endless(request: Request, wire: Wire) -> None:
        await wire.stream()
        while not wire.gone.is_set():
            await wire.chunk(text("word "))
            await asyncio.sleep(0.005)

    upstream.script = endless
    async with Client(proxy) as client:
        await (await client.chat()).until(b"word")
    await upstream.wires[0].left()


async def test_a_client_gone_in_the_silence_of_a_tool_takes_the_upstream_request_along(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = stuck_tool
    async with Client(proxy) as client:
        await (await client.chat()).until(b"running")
    await upstream.wires[0].left()


@pytest.mark.parametrize("settings", [{}, EARLY])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_gone_before_the_first_byte_takes_the_upstream_request_along(
    upstream: Upstream, start_proxy: StartProxy, settings: dict[str, object], stream: bool
) -> None:
    asked = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        asked.set()
        await wire.gone.wait()

    upstream.script = script
    async with Client(await start_proxy(settings)) as client:
        await client.ask_chat(stream=stream)
        await asked.wait()
    await upstream.wires[0].left()


async def test_a_client_gone_in_a_plain_answer_takes_the_upstream_request_along(
    upstream: Upstream, proxy: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", "Content-Length: 100")
        await wire.send(b"half")
        await wire.gone.wait()

    upstream.script = script
    async with Client(proxy) as client:
        await client.send("GET", "/v1/files/f/content")
        await (await client.head()).until(b"half")
    await upstream.wires[0].left()


@pytest.mark.parametrize("target", [CHAT, "/v1/files"])
async def test_a_client_gone_in_its_upload_takes_the_upstream_request_along(
    upstream: Upstream, proxy: str, target: str
) -> None:
    arrived = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        async for _ in request.pieces():
            arrived.set()

    upstream.lazy = True
    upstream.script = script
    async with Client(proxy) as client:
        await client.send("POST", target, "Content-Length: 19000000")
        await client.wire.send(bytes(9 << 20))
        await arrived.wait()
    await upstream.wires[0].left()


async def test_a_client_that_reads_slowly_pauses_the_upstream_and_its_end_is_seen(
    upstream: Upstream, proxy: str
) -> None:
    sent = 0

    async def flood(request: Request, wire: Wire) -> None:
        nonlocal sent
        await wire.stream()
        while not wire.gone.is_set():
            await wire.chunk(text("x" * 65536))
            sent += 65536

    upstream.script = flood
    async with Client(proxy) as client:
        await client.chat()
        client.wire.transport.pause_reading()
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 32 << 20
    await upstream.wires[0].left()


# --- no answer ----------------------------------------------------------------------------------


async def test_a_refused_connection_is_a_502(start_proxy: StartProxy) -> None:
    with socket.socket() as taken:  # bound and not listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        answer = await chat(await start_proxy({"upstream.url": url}))
    assert error_of(answer) == (502, "proxy_error", "upstream_unreachable")
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"


async def test_a_name_that_does_not_resolve_is_a_502(start_proxy: StartProxy) -> None:
    answer = await chat(await start_proxy({"upstream.url": "http://nowhere.invalid/v1"}))
    assert error_of(answer) == (502, "proxy_error", "upstream_unreachable")
    assert "nowhere.invalid" in answer.json()["error"]["message"]


async def test_tls_with_an_upstream_that_has_none_is_a_502(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.greeting = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    url = upstream.origin.replace("http://", "https://")
    answer = await chat(await start_proxy({"upstream.url": url}))
    assert error_of(answer) == (502, "proxy_error", "upstream_unreachable")
    assert "TLS" in answer.json()["error"]["message"]


async def test_a_connection_that_is_not_taken_in_time_is_a_504(start_proxy: StartProxy) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        host, port = full.getsockname()
        with socket.create_connection((host, port)):  # the backlog is full
            settings = {
                "upstream.url": f"http://{host}:{port}/v1",
                "upstream.connect_timeout_s": 0.1,
            }
            answer = await chat(await start_proxy(settings))
    assert error_of(answer) == (504, "proxy_error", "upstream_timeout")


@pytest.mark.parametrize("end", [Wire.close, Wire.reset])
async def test_an_end_before_any_answer_is_a_502(
    upstream: Upstream, proxy: str, end: Callable[[Wire], None]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        end(wire)

    upstream.script = script
    assert error_of(await chat(proxy)) == (502, "proxy_error", "upstream_unreachable")


@pytest.mark.parametrize(
    "data",
    [
        b"220 mail.example ESMTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 270_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["banner", "cut", "no_end", "no_colon", "two_lengths", "negative", "too_long", "tls"],
)
async def test_an_answer_that_is_no_http_is_a_502(
    upstream: Upstream, proxy: str, data: bytes
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.send(data)
        wire.close()

    upstream.script = script
    assert error_of(await chat(proxy)) == (502, "proxy_error", "upstream_protocol")


async def test_silence_before_the_first_byte_is_a_504_at_its_limit(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = silent
    url = await start_proxy({"upstream.first_byte_timeout_s": 0.1})
    assert error_of(await chat(url)) == (504, "proxy_error", "upstream_timeout")
    await upstream.wires[0].left()


async def test_the_wait_for_the_first_byte_begins_at_the_end_of_the_upload(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    url = await start_proxy({"upstream.first_byte_timeout_s": 0.1})
    async with Client(url) as client:
        await client.send("POST", "/v1/files", "Content-Length: 4")
        for byte in b"slow":
            await asyncio.sleep(0.05)
            await client.wire.send(bytes([byte]))
        assert (await (await client.head()).read()).status == 200
        upstream.script = silent
        await client.send("POST", "/v1/files", "Transfer-Encoding: chunked")
        await client.wire.chunk(b"x")
        await client.wire.chunk()
        answer = await (await client.head()).read()
    assert error_of(answer) == (504, "proxy_error", "upstream_timeout")


async def test_the_pool_is_whole_again_after_failures(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    settings = {"upstream.max_connections": 1, "upstream.first_byte_timeout_s": 0.1}
    url = await start_proxy(settings)
    for script in (stuck_tool, silent, stuck_tool):
        upstream.script = script
        async with Client(url) as client:
            await client.ask_chat()
            await client.head()
    upstream.script = hello
    assert (await ask(url, "GET", "/v1/models")).status == 200


# --- the stream breaks --------------------------------------------------------------------------


async def test_a_reset_in_mid_stream_breaks_the_stream(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call())
        await asyncio.sleep(0.05)
        wire.reset()

    upstream.script = script
    answer = await chat(proxy)
    assert_broken(answer, "upstream_protocol")
    assert lifecycle(answer.body)[1] == ("call_1", "completed", "upstream_error")


async def test_a_reset_breaks_a_body_without_framing_too(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", "Content-Type: text/event-stream", version="1.0")
        await wire.send(tool_call())
        await asyncio.sleep(0.05)
        wire.reset()

    upstream.script = script
    assert_broken(await chat(proxy), "upstream_unreachable")


async def test_a_chunked_body_that_is_cut_breaks_the_stream(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call())
        wire.close()

    upstream.script = script
    assert_broken(await chat(proxy), "upstream_protocol")


async def test_a_body_shorter_than_its_length_breaks_the_stream(
    upstream: Upstream, proxy: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", "Content-Type: text/event-stream", "Content-Length: 9999")
        await wire.send(tool_call())
        wire.close()

    upstream.script = script
    assert_broken(await chat(proxy), "upstream_protocol")


async def test_a_bad_chunk_size_breaks_the_stream(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call())
        await asyncio.sleep(0.02)
        await wire.send(b"xyz\r\nnonsense\r\n")
        await wire.gone.wait()

    upstream.script = script
    answer = await chat(await start_proxy({"server.heartbeat_s": 0.2}))
    assert_broken(answer, "upstream_protocol")


async def test_a_stalled_upstream_breaks_the_stream_at_the_limit(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = stuck_tool
    assert_broken(await chat(await start_proxy(STALL)), "upstream_timeout")
    await upstream.wires[0].left()


@pytest.mark.parametrize("settings", [{}, STALL])
async def test_a_client_of_http_1_0_sees_the_break_as_a_reset(
    upstream: Upstream, start_proxy: StartProxy, settings: dict[str, object]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call())
        if settings:
            await wire.gone.wait()
        wire.close()

    upstream.script = script
    async with Client(await start_proxy(settings)) as client:
        answer = await (await client.chat(version="1.0")).read()
    assert "Transfer-Encoding" not in answer.headers
    assert_broken(answer, "upstream_timeout" if settings else "upstream_protocol")
    assert answer.end == "reset"


@pytest.mark.parametrize("settings", [{}, STALL])
async def test_a_plain_answer_that_breaks_ends_broken(
    upstream: Upstream, start_proxy: StartProxy, settings: dict[str, object]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", "Content-Type: audio/mpeg", "Transfer-Encoding: chunked")
        await wire.chunk(b"some music")
        if settings:
            await wire.gone.wait()
        wire.close()

    upstream.script = script
    answer = await ask(await start_proxy(settings), "GET", "/v1/audio")
    assert (answer.body, answer.end) == (b"some music", "cut")


@pytest.mark.parametrize("target", [CHAT, "/v1/anything"])
@pytest.mark.parametrize("end", [Wire.close, Wire.reset])
async def test_bytes_that_came_before_the_break_are_not_lost(
    upstream: Upstream, proxy: str, target: str, end: Callable[[Wire], None]
) -> None:
    events = [text(f"word {n} ") for n in range(9)]  # one window: the kernel has delivered them

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*events)
        end(wire)

    upstream.script = script
    answer = await ask(proxy, "POST", target, JSON, body=b'{"stream": true}')
    assert answer.body.startswith(b"".join(events))
    assert answer.end == "cut"


async def test_a_half_event_before_the_break_does_not_swallow_the_error(
    upstream: Upstream, proxy: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call(), b'data: {"half')
        await asyncio.sleep(0.05)
        wire.reset()

    upstream.script = script
    answer = await chat(proxy)
    assert b"\n\nevent: hermes.tool.progress\n" in answer.body
    assert b'\n\ndata: {"error"' in answer.body
    assert answer.end == "cut"


async def test_an_end_without_done_is_passed_on_as_the_end_it_was(
    upstream: Upstream, proxy: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call(), b"")

    upstream.script = script
    answer = await chat(proxy)
    assert lifecycle(answer.body)[1:] == [("call_1", "completed", "upstream_eof")]
    assert payloads(answer.body)[-1]["isError"] is True
    assert b"[DONE]" not in answer.body
    assert b'"error"' not in answer.body
    assert answer.end == "clean"


async def test_a_close_is_the_proper_end_of_a_body_without_framing(
    upstream: Upstream, proxy: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", "Content-Type: text/event-stream", version="1.0")
        await wire.send(text("all") + DONE)
        wire.close()

    upstream.script = script
    answer = await chat(proxy)
    assert (answer.body, answer.end) == (text("all") + DONE, "clean")


@pytest.mark.parametrize("body", [b"not gzip at all", gzip.compress(text("hi"))[:-12]])
async def test_compression_that_breaks_breaks_the_stream(
    upstream: Upstream, proxy: str, body: bytes
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        lines = ("Content-Type: text/event-stream", "Content-Encoding: gzip")
        await wire.answer(body, "200 OK", *lines)

    upstream.script = script
    answer = await chat(proxy)
    last = answer.body.splitlines()[-2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_protocol"
    assert answer.end == "cut"


async def test_what_was_inflated_before_a_break_is_not_lost(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        lines = ("Content-Type: text/event-stream", "Content-Encoding: gzip")
        await wire.head("200 OK", *lines, "Transfer-Encoding: chunked")
        await wire.chunk(gzip.compress(text("all")))
        wire.reset()

    upstream.script = script
    answer = await chat(proxy)
    assert answer.body.startswith(text("all"))
    assert answer.end == "cut"


# --- heartbeats ---------------------------------------------------------------------------------


async def test_a_silent_stream_has_heartbeats_from_its_head_on(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream()
        await wire.gone.wait()

    upstream.script = script
    async with Client(await start_proxy({"server.heartbeat_s": 0.05})) as client:
        answer = await (await client.chat()).until(HEARTBEAT * 2)
    assert answer.body == HEARTBEAT * 2


async def test_heartbeats_leave_the_stream_whole(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    beaten = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call())
        await beaten.wait()
        await wire.chunk(text("late"))
        await wire.chunk(DONE)
        await wire.chunk()

    upstream.script = script
    async with Client(await start_proxy({"server.heartbeat_s": 0.05})) as client:
        answer = await (await client.chat()).until(HEARTBEAT)
        beaten.set()
        await answer.read()
    assert answer.end == "clean"
    assert [status for _, status, _ in lifecycle(answer.body)] == ["running", "completed"]


async def test_behind_an_id_a_heartbeat_has_no_blank_line(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    """It would be an empty event for openai-python, which fails to decode it."""
    beaten = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(b"id: 1\n" + text("one"))
        await beaten.wait()
        await wire.chunk(b"id: 2\n" + DONE)
        await wire.chunk()

    upstream.script = script
    beat = b": keep-alive\n"
    async with Client(await start_proxy({"server.heartbeat_s": 0.05})) as client:
        answer = await (await client.chat()).until(beat * 2)
        beaten.set()
        await answer.read()
    assert answer.body.replace(beat, b"") == b"id: 1\n" + text("one") + b"id: 2\n" + DONE
    assert answer.end == "clean"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_no_heartbeat_falls_inside_an_event(
    upstream: Upstream, start_proxy: StartProxy, version: str
) -> None:
    whole = text("one event in two pieces")

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(whole[:20])
        await asyncio.sleep(0.3)
        await wire.chunk(whole[20:])
        await asyncio.sleep(0.15)
        await wire.chunk(DONE)
        await wire.chunk()

    upstream.script = script
    async with Client(await start_proxy({"server.heartbeat_s": 0.05})) as client:
        answer = await (await client.chat(version=version)).read()
    assert answer.body.startswith(whole + HEARTBEAT)
    assert answer.body.endswith(HEARTBEAT + DONE)
    assert answer.end == "clean"


async def test_heartbeats_do_not_put_off_the_stall_limit(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = stuck_tool
    url = await start_proxy({"server.heartbeat_s": 0.05, "upstream.stall_timeout_s": 0.3})
    answer = await chat(url)
    assert HEARTBEAT in answer.body
    assert_broken(answer, "upstream_timeout")


async def test_a_comment_of_the_upstream_is_a_sign_of_life(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream()
        for _ in range(8):
            await asyncio.sleep(0.05)
            await wire.chunk(b": busy\n\n")
        await wire.chunk(DONE)
        await wire.chunk()

    upstream.script = script
    answer = await chat(await start_proxy(STALL))
    assert answer.body.endswith(DONE)
    assert answer.end == "clean"


async def test_a_plain_answer_has_no_heartbeats(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", "Content-Length: 2")
        await wire.send(b"o")
        await asyncio.sleep(0.2)
        await wire.send(b"k")

    upstream.script = script
    answer = await ask(await start_proxy({"server.heartbeat_s": 0.05}), "GET", "/v1/x")
    assert (answer.body, answer.end) == (b"ok", "clean")


async def test_heartbeats_before_the_first_byte_and_then_a_stream(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.12)
        await wire.stream(tool_call(), text("hi"), DONE, b"")

    upstream.script = script
    answer = await chat(await start_proxy(EARLY))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["X-Stream-Id"]
    assert answer.body.startswith(HEARTBEAT)
    assert [status for _, status, _ in lifecycle(answer.body)] == ["running", "completed"]
    assert answer.body.endswith(DONE)
    assert answer.end == "clean"


async def test_an_answer_in_time_has_no_early_head(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b'{"error": {}}', "429 Too Many Requests", "Retry-After: 7")

    upstream.script = script
    answer = await chat(await start_proxy(EARLY))
    assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
    assert answer.body == b'{"error": {}}'


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (
            "429 Too Many Requests",
            b'{"error": {"message": "slow down", "code": "rate_limit"}}',
            {"message": "slow down", "code": "rate_limit", "status": 429},
        ),
        ("400 Bad Request", b'{"error": "no"}', {"message": "no", "status": 400}),
    ],
)
async def test_a_refusal_behind_early_heartbeats_is_told_in_the_stream(
    upstream: Upstream,
    start_proxy: StartProxy,
    status: str,
    body: bytes,
    error: dict[str, object],
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.12)
        await wire.answer(body, status, JSON)

    upstream.script = script
    answer = await chat(await start_proxy(EARLY))
    assert answer.status == 200
    assert payloads(answer.body) == [{"error": error}]
    assert answer.end == "cut"


@pytest.mark.parametrize(
    ("status", "body"),
    [("502 Bad Gateway", b"<html>"), ("500 Oops", b"[]"), ("200 OK", b'{"choices": []}')],
)
async def test_an_answer_that_is_no_stream_behind_early_heartbeats_is_told_in_the_stream(
    upstream: Upstream, start_proxy: StartProxy, status: str, body: bytes
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.12)
        await wire.answer(body, status)

    upstream.script = script
    answer = await chat(await start_proxy(EARLY))
    (told,) = payloads(answer.body)
    assert told["error"]["code"] == "upstream_protocol"
    assert told["error"]["status"] == int(status[:3])
    assert answer.end == "cut"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_failure_behind_early_heartbeats_is_told_in_the_stream(
    upstream: Upstream, start_proxy: StartProxy, version: str
) -> None:
    upstream.script = silent
    url = await start_proxy({**EARLY, "upstream.first_byte_timeout_s": 0.2})
    async with Client(url) as client:
        answer = await (await client.chat(version=version)).read()
    (told,) = payloads(answer.body)
    assert told["error"]["code"] == "upstream_timeout"
    assert answer.end == ("reset" if version == "1.0" else "cut")


async def test_a_refusal_that_breaks_off_behind_early_heartbeats_is_told_too(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.12)
        await wire.head("500 Oops", "Content-Length: 100")
        wire.close()

    upstream.script = script
    answer = await chat(await start_proxy(EARLY))
    assert payloads(answer.body)[0]["error"]["status"] == 500
    assert answer.end == "cut"


async def test_a_refusal_that_never_ends_behind_early_heartbeats_has_a_limit(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.12)
        await wire.head("500 Oops", "Content-Length: 100")
        await wire.send(b'{"error":')
        await wire.left()

    upstream.script = script
    answer = await chat(await start_proxy({**EARLY, "upstream.stall_timeout_s": 0.2}))
    assert payloads(answer.body)[0]["error"]["status"] == 500
    assert answer.end == "cut"


async def test_a_drain_ends_a_refusal_that_never_ends(
    upstream: Upstream, start_proxy: StartProxy, runners: list[serve.Runner]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.12)
        await wire.head("500 Oops", "Content-Length: 100")
        stopping.set()
        await wire.gone.wait()

    stopping = asyncio.Event()
    upstream.script = script
    async with Client(await start_proxy(EARLY)) as client:
        answer = await client.chat()
        await stopping.wait()
        await asyncio.sleep(0.05)
        await serve.stop(runners.pop(), 0.1)
        await answer.read()
    assert payloads(answer.body)[0]["error"]["code"] == "draining"
    assert answer.end == "cut"


# --- shutdown -----------------------------------------------------------------------------------


async def test_an_open_stream_may_end_within_the_drain(
    upstream: Upstream, proxy: str, runners: list[serve.Runner]
) -> None:
    stopping = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("one"))
        await stopping.wait()
        await wire.chunk(text("two"))
        await wire.chunk(DONE)
        await wire.chunk()

    upstream.script = script
    async with Client(proxy) as client:
        answer = await (await client.chat()).until(b"one")
        stop = asyncio.create_task(serve.stop(runners.pop(), 2))
        await asyncio.sleep(0.05)
        stopping.set()
        await answer.read()
        await stop
    assert answer.body == text("one") + text("two") + DONE
    assert answer.end == "clean"


async def test_a_request_that_waits_for_its_answer_may_end_within_the_drain(
    upstream: Upstream, proxy: str, runners: list[serve.Runner]
) -> None:
    asked = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        asked.set()
        await asyncio.sleep(2.3)
        await hello(request, wire)

    upstream.script = script
    async with Client(proxy) as client:
        await client.send("POST", CHAT, JSON, body=b"{}")
        await asked.wait()
        stop = asyncio.create_task(serve.stop(runners.pop(), 4))
        assert (await (await client.head()).read()).json() == {"ok": True}
        await stop


async def test_a_stream_that_outlives_the_drain_is_completed_and_broken_off(
    upstream: Upstream, proxy: str, runners: list[serve.Runner]
) -> None:
    upstream.script = stuck_tool
    async with Client(proxy) as client:
        answer = await (await client.chat()).until(b"running")
        async with asyncio.timeout(5):
            await serve.stop(runners.pop(), 0.1)
        await answer.read()
    assert_broken(answer, "draining")
    await upstream.wires[0].left()


async def test_a_request_without_an_answer_does_not_outlive_the_drain(
    upstream: Upstream, proxy: str, runners: list[serve.Runner]
) -> None:
    asked = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        asked.set()
        await wire.gone.wait()

    upstream.script = script
    async with Client(proxy) as client:
        await client.ask_chat()
        await asked.wait()
        async with asyncio.timeout(5):
            await serve.stop(runners.pop(), 0.1)
        await client.wire.left()
    await upstream.wires[0].left()


async def test_a_client_that_does_not_read_does_not_hold_up_the_shutdown(
    upstream: Upstream, proxy: str, runners: list[serve.Runner]
) -> None:
    async def flood(request: Request, wire: Wire) -> None:
        await wire.stream()
        while not wire.gone.is_set():
            await wire.chunk(text("x" * 65536))

    upstream.script = flood
    async with Client(proxy) as client:
        await client.chat()
        client.wire.transport.pause_reading()
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            await serve.stop(runners.pop(), 0.1)
    await upstream.wires[0].left()


async def test_nothing_new_is_taken_while_draining(
    upstream: Upstream, proxy: str, runners: list[serve.Runner]
) -> None:
    upstream.script = stuck_tool
    async with Client(proxy) as idle, Client(proxy) as busy:
        await idle.send("GET", "/-/healthy")
        await (await idle.head()).read()
        await (await busy.chat()).until(b"running")
        stop = asyncio.create_task(serve.stop(runners.pop(), 0.3))
        await asyncio.sleep(0.05)
        await idle.ask_chat()
        answer = await (await idle.head()).read()
        await stop
    assert error_of(answer) == (503, "proxy_error", "draining")
    assert answer.headers["Retry-After"]


async def test_an_upstream_error_before_the_first_event_leaves_no_lifecycle(
    upstream: Upstream, proxy: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(delta(role="assistant"))
        wire.close()

    upstream.script = script
    answer = await chat(proxy)
    assert lifecycle(answer.body) == []
    assert payloads(answer.body)[-1]["error"]["code"] == "upstream_protocol"
