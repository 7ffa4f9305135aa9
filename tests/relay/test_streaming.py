"""Chat completions: when frames are added, in whose dialect, and what must stay as it was."""

import asyncio
import gzip
import zlib
from collections.abc import Callable

import pytest

from tests.conftest import StartProxy
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
    event,
    lifecycle,
    payloads,
    text,
    tool_call,
    usage,
    without_frames,
)

pytestmark = pytest.mark.usefixtures("quiet")

EVENTS = (
    delta(role="assistant"),
    text("Let me look. "),
    tool_call(arguments='{"command": "ls -la"}'),
    delta("tool_calls"),
    text("Häuser 🏠"),
    delta("stop"),
    usage(),
    DONE,
)
NAMED = b"event: hermes.tool.progress\n"


async def agent(request: Request, wire: Wire) -> None:
    """An agent's stream with one tool call."""
    await wire.stream(*EVENTS, b"")


def answering(body: bytes, *lines: str, status: str = "200 OK") -> Script:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(body, status, *lines)

    return script


# --- frames and bytes ---------------------------------------------------------------------------


async def test_a_stream_gets_a_pair_of_frames_and_is_otherwise_the_same(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = agent
    answer = await chat(proxy)
    assert [(call, status) for call, status, _ in lifecycle(answer.body)] == [
        ("call_1", "running"),
        ("call_1", "completed"),
    ]
    assert without_frames(answer.body) == b"".join(EVENTS)
    assert answer.end == "clean"


async def test_a_frame_tells_what_the_tool_does_and_is_a_chunk(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = agent
    running = next(one for one in payloads((await chat(proxy)).body) if "tool" in one)
    assert running == {
        "id": "chatcmpl-up",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "up",
        "choices": [{"index": 0, "delta": {}, "finish_reason": None}],
        "tool": "terminal",
        "emoji": "💻",
        "label": "ls -la",
        "toolCallId": "call_1",
        "status": "running",
    }


async def test_a_frame_before_any_chunk_has_an_envelope_of_its_own(
    upstream: Upstream, proxy: str
) -> None:
    native = {"tool": "x", "label": "x", "toolCallId": "c", "status": "running"}
    body = event(native, "hermes.tool.progress") + DONE
    upstream.script = answering(body, "Content-Type: text/event-stream")
    answer = await chat(proxy, model="asked-for")
    first = payloads(answer.body)[0]
    assert first["id"] == f"chatcmpl-{answer.headers['X-Stream-Id']}"
    assert first["model"] == "asked-for"
    assert first["created"] > 1_700_000_000


async def test_every_split_of_the_upstream_gives_the_same(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream()
        for byte in b"".join(EVENTS):
            await wire.chunk(bytes([byte]))
        await wire.chunk()

    upstream.script = script
    answer = await chat(proxy)
    assert without_frames(answer.body) == b"".join(EVENTS)
    assert len(lifecycle(answer.body)) == 2


async def test_a_chunk_goes_out_when_it_comes(upstream: Upstream, proxy: str) -> None:
    seen = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("first"))
        await seen.wait()
        await wire.chunk(text("second"))
        await wire.chunk()

    upstream.script = script
    async with Client(proxy) as client:
        answer = await (await client.chat()).until(text("first"))
        seen.set()
        await answer.read()
    assert answer.body == text("first") + text("second")


async def test_a_burst_of_tiny_chunks_goes_out_at_once(upstream: Upstream, proxy: str) -> None:
    """aiohttp's parser stops at some 16,000 chunks that nobody has read, and keeps the rest."""
    burst = b"1\r\nx\r\n" * 40_000

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("first"))
        await wire.send(burst + b"3\r\nend\r\n")
        await wire.gone.wait()  # and no more

    upstream.script = script
    async with Client(proxy) as client:
        await client.send("GET", "/v1/files/f/content")
        answer = await (await client.head()).until(b"end")
    assert answer.body == text("first") + b"x" * 40_000 + b"end"


async def test_a_line_of_20_mb_passes(upstream: Upstream, proxy: str) -> None:
    huge = text("x" * 20_000_000)

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(huge, tool_call(), DONE, b"")

    upstream.script = script
    answer = await chat(proxy)
    assert answer.body.startswith(huge)
    assert len(lifecycle(answer.body)) == 2
    assert answer.end == "clean"


async def test_bytes_that_are_no_utf8_pass(upstream: Upstream, proxy: str) -> None:
    body = b'data: {"x": "\xff\xfe"}\n\ndata: \xf0\x9f\n\n' + DONE
    upstream.script = answering(body, "Content-Type: text/event-stream")
    assert (await chat(proxy)).body == body


async def test_connections_are_used_again_after_a_stream(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent
    async with Client(proxy) as client:
        for _ in range(3):
            assert (await (await client.chat()).read()).end == "clean"
    assert len(upstream.wires) == 1


# --- heads --------------------------------------------------------------------------------------


async def test_a_stream_has_the_headers_that_keep_it_flowing(
    upstream: Upstream, proxy: str
) -> None:
    body = b"".join(EVENTS)
    lines = (
        "Content-Type: text/event-stream; charset=utf-8",
        "Cache-Control: max-age=9",
        "X-Up: 1",
    )
    upstream.script = answering(body, *lines)
    answer = await chat(proxy)
    headers = answer.headers
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers.getall("Cache-Control") == ["no-cache, no-transform"]
    assert headers["X-Accel-Buffering"] == "no"
    assert headers["X-Up"] == "1"
    assert headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in headers
    assert answer.end == "clean"


async def test_every_stream_has_ids_of_its_own(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent
    one, two = (await chat(proxy)).headers, (await chat(proxy)).headers
    assert one["X-Stream-Id"] != two["X-Stream-Id"]
    assert one["X-Request-Id"] != two["X-Request-Id"]


async def test_a_request_id_of_the_upstream_is_kept_before_one_of_the_client(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = agent
    assert (await chat(proxy, "X-Request-Id: mine")).headers["X-Request-Id"] == "mine"
    lines = ("Content-Type: text/event-stream", "x-request-id: theirs")
    upstream.script = answering(DONE, *lines)
    headers = (await chat(proxy, "X-Request-Id: mine")).headers
    assert headers.getall("X-Request-Id") == ["theirs"]


async def test_a_stream_is_asked_for_uncompressed(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent
    await chat(proxy, "Accept-Encoding: gzip, br, zstd")
    assert upstream.request.headers.getall("Accept-Encoding") == ["identity"]


# --- compression all the same -------------------------------------------------------------------


def members(body: bytes) -> bytes:
    """gzip in several members, as some servers flush."""
    half = len(body) // 2
    return gzip.compress(body[:half]) + gzip.compress(body[half:])


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("gzip", members),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body, wbits=-15)),
        ("identity", bytes),
    ],
    ids=["gzip", "GZIP", "x-gzip", "members", "zlib", "raw_deflate", "identity"],
)
async def test_a_compressed_stream_is_sent_on_in_clear(
    upstream: Upstream, proxy: str, coding: str, pack: Callable[[bytes], bytes]
) -> None:
    packed = pack(b"".join(EVENTS))
    lines = ("Content-Type: text/event-stream", f"Content-Encoding: {coding}")

    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", *lines, "Transfer-Encoding: chunked")
        for at in range(0, len(packed), 50):
            await wire.chunk(packed[at : at + 50])
            await asyncio.sleep(0)
        await wire.chunk()

    upstream.script = script
    answer = await chat(proxy)
    assert "Content-Encoding" not in answer.headers
    assert without_frames(answer.body) == b"".join(EVENTS)
    assert len(lifecycle(answer.body)) == 2
    assert answer.end == "clean"


async def test_a_huge_compressed_stream_is_inflated_in_pieces(
    upstream: Upstream, proxy: str
) -> None:
    body = text("x" * 5_000_000) + b"".join(EVENTS)
    lines = ("Content-Type: text/event-stream", "Content-Encoding: gzip")
    upstream.script = answering(gzip.compress(body), *lines)
    answer = await chat(proxy)
    assert without_frames(answer.body) == body


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br"])
async def test_a_compression_that_we_cannot_read_is_passed_whole(
    upstream: Upstream, proxy: str, coding: str
) -> None:
    packed = bytes(range(256)) * 20
    lines = ("Content-Type: text/event-stream", f"Content-Encoding: {coding}")
    upstream.script = answering(packed, *lines)
    answer = await chat(proxy)
    assert answer.headers["Content-Encoding"] == coding
    assert answer.headers["Content-Length"] == str(len(packed))
    assert (answer.body, answer.end) == (packed, "clean")


# --- what is left alone -------------------------------------------------------------------------


async def test_a_completion_that_is_no_stream_is_untouched(upstream: Upstream, proxy: str) -> None:
    body = b'{"choices": [{"message": {"tool_calls": [{"id": "call_1"}]}}]}'
    upstream.script = answering(body, JSON)
    answer = await ask(proxy, "POST", CHAT, JSON, body=b'{"model": "m"}')
    assert answer.body == body
    assert answer.headers["Content-Length"] == str(len(body))
    assert {name.lower() for name in answer.headers} <= {"content-type", "content-length", "date"}


async def test_an_event_stream_of_another_path_is_untouched(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent
    answer = await ask(proxy, "POST", "/v1/other", JSON, body=b'{"stream": true}')
    assert answer.body == b"".join(EVENTS)
    assert "X-Stream-Id" not in answer.headers


@pytest.mark.parametrize(
    "target", ["/api/chat/completions", "/v1/x/chat/completions", f"{CHAT}?api-version=1"]
)
async def test_chat_completions_of_any_base_get_frames(
    upstream: Upstream, proxy: str, target: str
) -> None:
    upstream.script = agent
    answer = await ask(proxy, "POST", target, JSON, body=b'{"stream": true}')
    assert len(lifecycle(answer.body)) == 2


async def test_a_body_too_large_to_look_into_gets_frames_all_the_same(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = agent
    answer = await chat(proxy, pad="x" * (9 << 20))
    assert len(lifecycle(answer.body)) == 2


# --- dialects -----------------------------------------------------------------------------------


def shape(body: bytes) -> tuple[int, int, int]:
    """How many named events, lifecycle payloads and lifecycle comments a stream has."""
    return body.count(NAMED), len(lifecycle(body)), body.count(b": hermes.tool.progress {")


SHAPES = {
    "chunk": (2, 2, 0),
    "plain": (0, 2, 0),
    "bare": (2, 2, 0),
    "comment": (0, 0, 2),
    "off": (0, 0, 0),
}


@pytest.mark.parametrize("dialect", SHAPES)
async def test_a_dialect_can_be_asked_for_by_header_or_by_path(
    upstream: Upstream, proxy: str, dialect: str
) -> None:
    upstream.script = agent
    by_header = await chat(proxy, f"X-Lifecycle-Events: {dialect}")
    path = f"/-/as/{dialect}{CHAT}"
    by_path = await ask(proxy, "POST", path, JSON, body=b'{"stream": true}')
    assert shape(by_header.body) == shape(by_path.body) == SHAPES[dialect]
    assert [request.target for request in upstream.requests] == [CHAT, CHAT]


async def test_bare_frames_are_those_of_hermes(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent
    body = (await chat(proxy, "X-Lifecycle-Events: bare")).body
    assert (
        NAMED + b'data: {"tool": "terminal", "emoji": "\\ud83d\\udcbb", "label": "ls -la", '
        b'"toolCallId": "call_1", "status": "running"}\n\n'
    ) in body
    assert (
        NAMED + b'data: {"tool": "terminal", "toolCallId": "call_1", "status": "completed"}\n\n'
    ) in body


async def test_off_changes_no_byte(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent
    assert (await chat(proxy, "X-Lifecycle-Events: off")).body == b"".join(EVENTS)


async def test_a_configured_rule_and_default_apply(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = agent
    rule = {"header": "user-agent", "match": "Old/*", "dialect": "comment"}
    url = await start_proxy({"lifecycle.clients": [rule], "lifecycle.dialect": "off"})
    assert shape((await chat(url, "User-Agent: Old/1.0")).body) == SHAPES["comment"]
    assert shape((await chat(url, "User-Agent: New/1.0")).body) == SHAPES["off"]


async def test_lifecycle_settings_apply(upstream: Upstream, start_proxy: StartProxy) -> None:
    upstream.script = agent
    url = await start_proxy({"lifecycle.emoji": {"terminal": "🖲"}, "lifecycle.label_max": 3})
    running = next(one for one in payloads((await chat(url)).body) if "tool" in one)
    assert running["emoji"] == "🖲"
    assert len(running["label"]) == 3


@pytest.mark.parametrize("native", ["translate", "pass"])
async def test_frames_of_an_upstream_that_has_its_own_are_not_doubled(
    upstream: Upstream, start_proxy: StartProxy, native: str
) -> None:
    told = [
        event(
            {"tool": "x", "label": "x", "toolCallId": "c", "status": status}, NAMED[7:-1].decode()
        )
        for status in ("running", "completed")
    ]

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*told, DONE, b"")

    upstream.script = script
    body = (await chat(await start_proxy({"lifecycle.native": native}))).body
    assert [status for _, status, _ in lifecycle(body)] == ["running", "completed"]
    assert (b"".join(told) in body) == (native == "pass")


async def test_payloads_of_odd_shapes_do_not_stop_the_stream(
    upstream: Upstream, proxy: str
) -> None:
    hostile = b'data: {"choices": [{"index": {"a": 1}, "delta": {"tool_calls": {"x": [1]}}}]}\n\n'

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(hostile, b"data: " + b"[" * 5000 + b"\n\n", text("on"), DONE, b"")

    upstream.script = script
    answer = await chat(proxy)
    assert answer.body.startswith(hostile)
    assert answer.body.endswith(text("on") + DONE)
