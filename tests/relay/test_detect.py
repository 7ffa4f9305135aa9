"""Event streams that are not labelled as such: known by their first bytes."""

import asyncio
import gzip
import zlib
from collections.abc import Callable

import pytest
from lifecycle_proxy.app import serve
from lifecycle_proxy.core.sse import begins_stream

from tests.conftest import StartProxy
from tests.exchange.test_routes import MESSAGE, PAIR, RESPONSE
from tests.fakes import (
    CHAT,
    DONE,
    JSON,
    Client,
    Request,
    Script,
    Upstream,
    Wire,
    ask,
    chat,
    delta,
    lifecycle,
    payloads,
    text,
    tool_call,
    without_frames,
)

pytestmark = pytest.mark.usefixtures("quiet")

EVENTS = b"".join((delta(role="assistant"), tool_call(), delta("tool_calls"), DONE))
PLAIN = "Content-Type: text/plain; charset=utf-8"
EARLY = {"server.heartbeat_before_first_byte": True, "server.heartbeat_s": 0.05}
TYPES = [
    PLAIN,
    JSON,
    "Content-Type: application/octet-stream",
    "Content-Type: text/event-stream, text/event-stream",
    "X-Nothing: 1",
]
BEGINNINGS = [
    b"data:{}\n\n",
    b"event: x\ndata: {}\n\n",
    b"id: 1\ndata: {}\n\n",
    b"retry: 3000\n\n",
    b": hello\n\n",
    b"\xef\xbb\xbf",
    b"\xef\xbb\xbf\r\n\n",
]
OTHERS = [
    b'{"choices": []}',
    b"",
    b" data: x\n\n",
    b"\n\n{}",
    b"data is what it is",
    b"dat",
    b"i",
    b"retry",
    b"event-stream: no",
    b"\xef\xbb\xbf{}",
    b"\xef\xbb\xbf",
    b"\xef\xbbx",
]


def streaming(pieces: list[bytes], *lines: str) -> Script:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", *lines, "Transfer-Encoding: chunked")
        for piece in pieces:
            await wire.chunk(piece)
            await asyncio.sleep(0)
        await wire.chunk()

    return script


def bytewise(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


# --- what is one ----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [lambda body: [body], bytewise], ids=["whole", "bytewise"])
@pytest.mark.parametrize("line", TYPES)
async def test_a_stream_under_another_type_has_frames(
    upstream: Upstream, proxy: str, line: str, split: Callable[[bytes], list[bytes]]
) -> None:
    upstream.script = streaming(split(EVENTS), line, "X-Up: 1")
    answer = await chat(proxy)
    assert lifecycle(answer.body) == PAIR
    assert without_frames(answer.body) == EVENTS
    assert answer.end == "clean"
    name, _, value = line.partition(": ")
    assert answer.headers.getall(name) == [value]
    assert answer.headers["X-Up"] == "1"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert ("Content-Type" in answer.headers) == (name == "Content-Type")


@pytest.mark.parametrize("start", BEGINNINGS)
async def test_a_stream_may_begin_with_any_field_a_comment_or_a_mark(
    upstream: Upstream, proxy: str, start: bytes
) -> None:
    assert begins_stream(start + EVENTS) is True
    assert {begins_stream(start[:end]) for end in range(len(start))} <= {None, True}
    upstream.script = streaming([start + EVENTS], PLAIN)
    assert lifecycle((await chat(proxy)).body) == PAIR


async def test_the_length_of_such_a_stream_is_dropped(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(EVENTS, "200 OK", PLAIN)

    upstream.script = script
    answer = await chat(proxy)
    assert "Content-Length" not in answer.headers
    assert (lifecycle(answer.body), answer.end) == (PAIR, "clean")


@pytest.mark.parametrize(
    ("target", "events"), [("/v1/responses", RESPONSE), ("/v1/messages", MESSAGE)]
)
async def test_the_other_apis_are_detected_too(
    upstream: Upstream, proxy: str, target: str, events: tuple[bytes, ...]
) -> None:
    upstream.script = streaming(list(events), JSON)
    answer = await ask(proxy, "POST", target, JSON, body=b'{"stream": true}')
    assert lifecycle(answer.body) == PAIR
    assert without_frames(answer.body) == b"".join(events)


@pytest.mark.parametrize("split", [lambda body: [body], bytewise], ids=["whole", "bytewise"])
@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body, wbits=-15)),
    ],
)
async def test_a_compressed_one_is_detected(
    upstream: Upstream,
    proxy: str,
    name: str,
    pack: Callable[[bytes], bytes],
    split: Callable[[bytes], list[bytes]],
) -> None:
    upstream.script = streaming(split(pack(EVENTS)), PLAIN, f"Content-Encoding: {name}")
    answer = await chat(proxy)
    assert "Content-Encoding" not in answer.headers
    assert lifecycle(answer.body) == PAIR
    assert without_frames(answer.body) == EVENTS


# --- what is none ---------------------------------------------------------------------------------


@pytest.mark.parametrize("body", OTHERS)
@pytest.mark.parametrize("line", [JSON, PLAIN])
async def test_what_is_no_stream_is_untouched(
    upstream: Upstream, proxy: str, line: str, body: bytes
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", line, f"Content-Length: {len(body)}")
        for byte in bytewise(body):
            await wire.send(byte)
            await asyncio.sleep(0)

    upstream.script = script
    answer = await chat(proxy)
    assert (answer.body, answer.end) == (body, "clean")
    names = {name.lower() for name in answer.headers}
    assert names <= {"content-type", "content-length", "date"}
    assert answer.headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize(
    ("packed", "name"),
    [
        (gzip.compress(b'{"choices": []}', mtime=0), "gzip"),
        (b"\x1f\x8b no gzip", "gzip"),
        (b"\x1f\x8b\x08\x08\0\0\0\0\0\0" + b"name" * 2000, "gzip"),
        (b"data: nothing that can be read here\n\n", "br"),
    ],
)
async def test_what_is_compressed_and_no_stream_is_untouched(
    upstream: Upstream, proxy: str, packed: bytes, name: str
) -> None:
    upstream.script = streaming([packed], PLAIN, f"Content-Encoding: {name}")
    answer = await chat(proxy)
    assert (answer.body, answer.end) == (packed, "clean")
    assert answer.headers["Content-Encoding"] == name


@pytest.mark.parametrize(
    ("status", "body"), [("201 Created", b'{"stream": true}'), ("200 OK", b'{"stream": false}')]
)
async def test_without_a_200_or_a_request_for_a_stream_nothing_is_looked_at(
    upstream: Upstream, proxy: str, status: str, body: bytes
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(EVENTS, status, PLAIN)

    upstream.script = script
    answer = await ask(proxy, "POST", CHAT, JSON, body=body)
    assert answer.body == EVENTS
    assert answer.headers["Content-Length"] == str(len(EVENTS))


# --- the wait for the first bytes -----------------------------------------------------------------


async def test_the_first_byte_of_json_is_enough(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", JSON, "Content-Length: 2")
        await wire.send(b"{")
        await wire.gone.wait()

    upstream.script = script
    async with Client(proxy) as client:
        answer = await (await client.chat()).until(b"{")
    assert answer.headers["Content-Length"] == "2"


async def test_each_event_goes_out_when_it_comes(upstream: Upstream, proxy: str) -> None:
    seen = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", PLAIN, "Transfer-Encoding: chunked")
        await wire.chunk(text("first"))
        await seen.wait()
        await wire.chunk(text("second"))
        await wire.chunk()

    upstream.script = script
    async with Client(proxy) as client:
        answer = await (await client.chat()).until(text("first"))
        seen.set()
        await answer.read()
    assert answer.body == text("first") + text("second")


async def headers_alone(request: Request, wire: Wire) -> None:
    await wire.head("200 OK", PLAIN, "Transfer-Encoding: chunked")
    await wire.left()


async def test_a_body_that_never_comes_is_a_504_at_the_stall_limit(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = headers_alone
    answer = await chat(await start_proxy({"upstream.stall_timeout_s": 0.2}))
    assert (answer.status, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    await upstream.wires[0].left()


async def test_a_client_that_leaves_meanwhile_takes_the_upstream_along(
    upstream: Upstream, proxy: str
) -> None:
    waiting = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", PLAIN, "Transfer-Encoding: chunked")
        waiting.set()
        await wire.left()

    upstream.script = script
    async with Client(proxy) as client:
        await client.ask_chat()
        await waiting.wait()
        await asyncio.sleep(0.05)
    await upstream.wires[0].left()


async def test_a_drain_ends_the_wait(
    upstream: Upstream, start_proxy: StartProxy, runners: list[serve.Runner]
) -> None:
    waiting = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", PLAIN, "Transfer-Encoding: chunked")
        waiting.set()
        await wire.left()

    upstream.script = script
    async with Client(await start_proxy()) as client:
        await client.ask_chat()
        await waiting.wait()
        await asyncio.sleep(0.05)
        await serve.stop(runners.pop(), 0.1)
        answer = await (await client.head()).read()
    assert (answer.status, answer.json()["error"]["code"]) == (503, "draining")


@pytest.mark.parametrize("start", [b"", b"da"])
async def test_a_break_meanwhile_is_passed_on_as_one(
    upstream: Upstream, proxy: str, start: bytes
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", PLAIN, "Content-Length: 100")
        await wire.send(start)
        await asyncio.sleep(0.05)
        wire.close()

    upstream.script = script
    answer = await chat(proxy)
    assert (answer.status, answer.body, answer.end) == (200, start, "cut")


async def test_a_stream_that_breaks_off_breaks_as_any_other(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", PLAIN, "Transfer-Encoding: chunked")
        await wire.chunk(tool_call())
        wire.close()

    upstream.script = script
    answer = await chat(proxy)
    assert lifecycle(answer.body) == [PAIR[0], ("call_1", "completed", "upstream_error")]
    assert payloads(answer.body)[-1]["error"]["code"] == "upstream_protocol"
    assert answer.end == "cut"


async def test_heartbeats_before_the_first_byte_go_on_meanwhile(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", PLAIN, "Transfer-Encoding: chunked")
        await asyncio.sleep(0.18)
        await wire.chunk(EVENTS)
        await wire.chunk()

    upstream.script = script
    answer = await chat(await start_proxy(EARLY))
    assert answer.body.startswith(b": keep-alive\n\n" * 2)
    assert (lifecycle(answer.body), answer.end) == (PAIR, "clean")


async def test_an_error_behind_early_heartbeats_is_whole(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", JSON, "Content-Length: 28")
        await asyncio.sleep(0.12)
        await wire.send(b"{")
        await asyncio.sleep(0.02)
        await wire.send(b'"error": {"message": "no"}}')

    upstream.script = script
    answer = await chat(await start_proxy(EARLY))
    assert payloads(answer.body) == [{"error": {"message": "no", "status": 200}}]
