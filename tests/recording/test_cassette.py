"""Traffic over real sockets, what the cassette's reader gives of it, and files that are hurt."""

import asyncio
import gzip
import hashlib
import json
import random
import zlib
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.app import serve
from lifecycle_proxy.exchange.model import SideName
from lifecycle_proxy.recording.cassette import Piece, RecordedExchange, Side, load
from lifecycle_proxy.recording.cassette_file import CassetteError, files, lines
from lifecycle_proxy.recording.json_lines import line, pack, unpack
from lifecycle_proxy.replay.matching import Rules
from lifecycle_proxy.replay.server import Options, ReplayApp, start_replay

from tests.conftest import StartProxy
from tests.fakes import (
    CHAT,
    DONE,
    JSON,
    Answer,
    Client,
    Request,
    Script,
    Upstream,
    Wire,
    ask,
    chat,
    text,
    tool_call,
    without_frames,
)
from tests.recording.build import FIRST, Tape

pytestmark = pytest.mark.usefixtures("quiet")

HERE = Path(__file__).parents[1] / "corpus"
SHARED = Path(__file__).parents[3] / "shared"
STREAMS = {
    path: path.read_bytes()
    for path in (
        *sorted(HERE.glob("*.sse")),
        *sorted((SHARED / "corpus").glob("*.sse")),
        *sorted((SHARED / "recorded-streams").glob("*.sse")),
        *sorted((SHARED / "reference" / "captures").glob("hermes-*.sse")),
    )
}
SSE = "Content-Type: text/event-stream"
HEAD = ("conTENT-type: text/event-stream", "X-Twice: one", "x-Other: 1", "X-Twice: two")
TARGETS = {"hermes-responses-one": "/v1/responses"}

Recorded = Callable[[], Awaitable[list[RecordedExchange]]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
async def recording(start_proxy: StartProxy, place: Path) -> str:
    """The URL of a proxy that records."""
    return await start_proxy({"recording.mode": "record", "recording.path": str(place)})


@pytest.fixture
async def recorded(runners: list[serve.Runner], place: Path) -> Recorded:
    """Ends the proxies, and reads what they wrote."""

    async def read() -> list[RecordedExchange]:
        while runners:
            await serve.stop(runners.pop(), 0)
        return load(place)

    return read


def pairs(raw: bytes) -> list[tuple[str, str]]:
    """The headers of a raw head, as they stand there."""
    head = raw.decode("latin-1").split("\r\n\r\n")[0]
    parts = (one.partition(": ") for one in head.split("\r\n")[1:])
    return [(name, value) for name, _, value in parts]


async def played(one: RecordedExchange, side: SideName) -> Answer:
    """What a replay answers to the recorded request."""
    app = ReplayApp([one], Options(side=side, speed=0))
    runner, url = await start_replay(app, "127.0.0.1:0")
    try:
        return await ask(url, one.request.method, one.request.target, JSON, body=one.request.body)
    finally:
        await runner.stop()


def less_added(side: Side) -> bytes:
    """What a client got, less what is marked as ours."""
    left = bytearray()
    for piece in side.pieces:
        at = 0
        for start, stop in piece.added:
            left += piece.data[at:start]
            at = stop
        left += piece.data[at:]
    return bytes(left)


def added(side: Side) -> bytes:
    return b"".join(p.data[start:stop] for p in side.pieces for start, stop in p.added)


def check(one: RecordedExchange) -> None:
    """What holds of every exchange that was recorded to its end."""
    assert one.is_complete
    for side in (one.upstream, one.client):
        assert side.is_whole
        assert side.sha256 == hashlib.sha256(side.body).hexdigest()
        times = [side.ms, *(piece.ms for piece in side.pieces), side.end_ms]
        assert times == sorted(times) or not side.status
        for piece in side.pieces:
            marks = [edge for mark in piece.added for edge in mark]
            assert marks == sorted(marks)
            assert not marks or marks[-1] <= len(piece.data)


def segments(body: bytes, seed: str) -> list[bytes]:
    """The body in pieces of random sizes, the same for the same seed."""
    rng, pieces, at = random.Random(seed), [], 0
    while at < len(body):
        size = rng.choice((1, 3, 17, 90, 400, 2000))
        pieces.append(body[at : at + size])
        at += size
    return pieces


def slowly(pieces: list[bytes]) -> Script:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 Fine", *HEAD, "Transfer-Encoding: chunked")
        for number, piece in enumerate(pieces):
            await wire.chunk(piece)
            if number % 4 == 0:
                await asyncio.sleep(0)
        await wire.chunk()

    return script


# --- whole streams --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", STREAMS, ids=[path.stem for path in STREAMS])
async def test_what_was_sent_is_what_is_read(
    upstream: Upstream, recording: str, recorded: Recorded, path: Path
) -> None:
    body = STREAMS[path]
    upstream.script = slowly(segments(body, path.name))
    target = TARGETS.get(path.stem, CHAT)
    asked = b'{"model": "m", "stream": true, "messages": [], "max_tokens": 9}'
    lines = (JSON, "x-lower: a", "x-lower: b", "User-agent: me")
    answer = await ask(recording, "POST", target, *lines, body=asked)
    (one,) = await recorded()
    check(one)
    assert (one.upstream.body, one.client.body) == (body, answer.body)
    left = less_added(one.client)
    if b"\nevent: hermes" in body:  # replaced by ours
        left, body = without_frames(left), without_frames(body)
    assert left == body
    assert (one.upstream.end, one.client.end) == ("eof", "eof")
    assert (one.request.method, one.request.target, one.request.body) == ("POST", target, asked)
    own = pairs(b"GET / HTTP/1.1\r\nHost: x\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n")
    assert one.request.headers[1:-1] == tuple(own[1:])
    sent = "\r\n".join(("", *HEAD, "Transfer-Encoding: chunked"))
    assert list(one.upstream.headers) == pairs(sent.encode())
    assert (one.upstream.status, one.upstream.reason) == (200, "Fine")
    assert (one.client.status, one.client.reason) == (answer.status, answer.reason)
    assert list(one.client.headers) == pairs(answer.raw)
    assert one.forwarded is not None
    assert one.forwarded.body == upstream.request.body == asked
    told = {(name.lower(), value) for name, value in one.forwarded.headers}
    assert told <= {(name.lower(), value) for name, value in pairs(upstream.request.raw)}
    for side in (one.upstream, one.client):
        again = await played(one, "upstream" if side is one.upstream else "client")
        assert (again.status, again.reason) == (side.status, side.reason)
        assert pairs(again.raw) == list(side.headers)
        assert (again.body, again.end) == (side.body, "clean")


async def test_a_read_is_a_piece_and_has_its_time(
    upstream: Upstream, recording: str, recorded: Recorded
) -> None:
    pieces = [text("one"), text("two")[:20], text("two")[20:], DONE]

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream()
        for piece in pieces:
            await wire.chunk(piece)
            await asyncio.sleep(0.06)
        await wire.chunk()

    upstream.script = script
    await chat(recording)
    (one,) = await recorded()
    check(one)
    assert [piece.data for piece in one.upstream.pieces] == pieces
    assert [piece.data for piece in one.client.pieces] == pieces
    times = [piece.ms for piece in one.upstream.pieces]
    gaps = [after - before for before, after in pairwise([*times, one.upstream.end_ms])]
    assert all(50 < gap < 200 for gap in gaps), gaps
    assert one.upstream.pieces == one.client.pieces


async def test_what_the_proxy_added_is_marked(
    upstream: Upstream, recording: str, recorded: Recorded
) -> None:
    sent = [text("a") + tool_call(), b'data: {"choi', b'ces": []}\n\n', text("b") + DONE]
    upstream.script = slowly(sent)
    answer = await chat(recording)
    (one,) = await recorded()
    check(one)
    assert one.client.body == answer.body != one.upstream.body
    assert less_added(one.client) == b"".join(sent)
    assert added(one.client).count(b"event: hermes.tool.progress\n") == 2
    assert [told["status"] for told in one.tools] == ["running", "completed"]
    assert one.tools[0]["toolCallId"] == "call_1"


async def test_exchanges_at_the_same_time_are_told_apart(
    upstream: Upstream, recording: str, recorded: Recorded
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        name = request.json()["name"]
        await wire.stream()
        for number in range(20):
            await wire.chunk(text(f"{name}-{number}"))
            await asyncio.sleep(0)
        await wire.chunk(DONE)
        await wire.chunk()

    upstream.script = script
    answers = await asyncio.gather(*(chat(recording, name=f"n{n}") for n in range(12)))
    found = await recorded()
    bodies = {json.loads(one.request.body or b"")["name"]: one.client.body for one in found}
    for number, answer in enumerate(answers):
        assert bodies[f"n{number}"] == answer.body
    for one in found:
        check(one)
        assert one.upstream.body == one.client.body


# --- ends -----------------------------------------------------------------------------------------


def ends(one: RecordedExchange) -> tuple[str, str, str]:
    return one.ended, one.upstream.end, one.client.end


async def test_the_end_without_done(upstream: Upstream, recording: str, recorded: Recorded) -> None:
    upstream.script = slowly([text("a")])
    await chat(recording)
    (one,) = await recorded()
    check(one)
    assert ends(one) == ("eof", "eof", "eof")


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_an_upstream_that_breaks(
    upstream: Upstream, recording: str, recorded: Recorded, how: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("a"), tool_call())
        await asyncio.sleep(0.05)
        getattr(wire, how)()

    upstream.script = script
    answer = await chat(recording)
    assert answer.end == "cut"
    (one,) = await recorded()
    check(one)
    assert ends(one) == ("upstream_error", "reset" if how == "reset" else "cut", "cut")
    assert (await played(one, "upstream")).end == one.upstream.end
    again = await played(one, "client")
    assert (again.body, again.end) == (answer.body, answer.end)
    assert one.error.startswith("upstream_")
    assert one.upstream.body == text("a") + tool_call()
    assert one.client.body == answer.body
    assert less_added(one.client).startswith(one.upstream.body)
    assert one.tools[-1]["reason"] == "upstream_error"


async def test_a_client_that_leaves(upstream: Upstream, recording: str, recorded: Recorded) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("a"))
        await wire.gone.wait()

    upstream.script = script
    async with Client(recording) as client:
        await (await client.chat()).until(b'"a"')
    await upstream.wires[0].left()
    (one,) = await recorded()
    check(one)
    assert ends(one) == ("client_gone", "gone", "gone")
    assert one.client.body == one.upstream.body == text("a")


async def test_a_client_that_leaves_before_the_answer(
    upstream: Upstream, recording: str, recorded: Recorded
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.gone.wait()

    upstream.script = script
    async with Client(recording) as client:
        await client.ask_chat()
        while not upstream.requests:  # noqa: ASYNC110  the upstream tells nobody
            await asyncio.sleep(0.01)
    await upstream.wires[0].left()
    (one,) = await recorded()
    check(one)
    assert ends(one) == ("client_gone", "", "")
    assert (one.upstream.status, one.client.status) == (0, 0)


async def test_an_upstream_that_falls_silent(
    upstream: Upstream, start_proxy: StartProxy, recorded: Recorded, place: Path
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("a"))
        await wire.gone.wait()

    upstream.script = script
    own = {"recording.mode": "record", "recording.path": str(place)}
    answer = await chat(await start_proxy({**own, "upstream.stall_timeout_s": 0.15}))
    (one,) = await recorded()
    check(one)
    assert ends(one) == ("timeout", "timeout", "cut")
    assert (one.error, one.client.body) == ("upstream_timeout", answer.body)
    assert one.upstream.body == text("a")
    assert added(one.client) + one.upstream.body in (answer.body, added(one.client) + text("a"))
    assert one.upstream.end_ms - one.upstream.pieces[-1].ms > 100  # how long it was waited for


async def test_a_drain(
    upstream: Upstream, recording: str, recorded: Recorded, runners: list[serve.Runner]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("a"))
        await wire.gone.wait()

    upstream.script = script
    async with Client(recording) as client:
        answer = await (await client.chat()).until(b'"a"')
        (one,) = await recorded()
        await answer.read()
    check(one)
    assert ends(one) == ("drained", "gone", "cut")
    assert one.client.body == answer.body


async def test_an_upstream_that_is_down(
    upstream: Upstream, recording: str, recorded: Recorded
) -> None:
    upstream.refuse()
    answer = await chat(recording)
    (one,) = await recorded()
    check(one)
    assert (answer.status, one.client.status) == (502, 502)
    assert (one.client.body, one.client.pieces[0].added) == (answer.body, ((0, len(answer.body)),))
    assert ends(one) == ("refused", "", "eof")
    assert (one.upstream.status, one.error) == (0, "upstream_unreachable")
    assert one.forwarded is not None


@pytest.mark.parametrize("status", ["400 Bad Request", "429 Slow Down", "500 Oh"])
@pytest.mark.parametrize("target", [CHAT, "/v1/embeddings"])
async def test_an_answer_of_the_upstreams_own(
    upstream: Upstream, recording: str, recorded: Recorded, status: str, target: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b'{"error": {"message": "no"}}', status, JSON, "Retry-After: 3")

    upstream.script = script
    answer = await ask(recording, "POST", target, JSON, body=b'{"stream": true}')
    (one,) = await recorded()
    check(one)
    assert f"{one.upstream.status} {one.upstream.reason}" == status
    assert one.upstream.body == one.client.body == answer.body
    assert list(one.client.headers) == pairs(answer.raw)
    assert one.upstream.header("retry-after") == "3"
    assert one.upstream.header("nothing") == one.request.header("nothing") == ""
    assert ends(one) == ("done", "eof", "eof")


@pytest.mark.parametrize("method", ["HEAD", "GET", "DELETE"])
async def test_requests_without_a_body(
    upstream: Upstream, recording: str, recorded: Recorded, method: str
) -> None:
    answer = await ask(recording, method, "/v1/models?a=%20b&a=c")
    (one,) = await recorded()
    check(one)
    assert (one.request.method, one.request.target) == (method, "/v1/models?a=%20b&a=c")
    assert one.request.body == b""
    assert one.route == "other"
    assert one.upstream.body == one.client.body == answer.body
    assert one.client.status == 200


COMPRESSED = "a compressed body, which cannot be searched for secrets"


async def test_an_answer_is_asked_for_in_clear(
    upstream: Upstream, recording: str, recorded: Recorded
) -> None:
    upstream.script = answering(b'{"data": []}', JSON)
    for more in (("Accept-Encoding: gzip, br",), (), ("X-Lifecycle-Record: off",)):
        await ask(recording, "GET", "/v1/models", "Accept-Encoding: zstd", *more)
    codings = [request.headers.getall("Accept-Encoding") for request in upstream.requests]
    assert codings == [["identity"], ["identity"], ["zstd"]]
    one, two = await recorded()
    for each in (one, two):
        check(each)
        assert each.forwarded is not None
        assert [v for n, v in each.forwarded.headers if n == "Accept-Encoding"] == ["identity"]
        assert each.upstream.body == b'{"data": []}'
    assert one.request.header("accept-encoding") == "zstd"


def answering(body: bytes, *lines: str) -> Script:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(body, "200 OK", *lines)

    return script


@pytest.mark.parametrize("target", [CHAT, "/v1/files"])
async def test_a_compressed_request_is_named_and_its_answer_kept(
    upstream: Upstream, recording: str, recorded: Recorded, target: str
) -> None:
    packed = gzip.compress(b'{"password": "hunter2x"}')
    await ask(recording, "POST", target, JSON, "content-encoding: GZip", body=packed)
    assert upstream.request.body == packed
    await ask(recording, "POST", target, JSON, "Content-Encoding: gzip", "Content-Length: 0")
    await ask(recording, "POST", target, JSON, "Content-Encoding: identity", body=b"{}")
    one, empty, clear = await recorded()
    check(one)
    assert (one.request.body, one.request.omitted, one.omitted) == (None, COMPRESSED, "")
    assert one.request.sha256 == hashlib.sha256(packed).hexdigest()
    assert (empty.request.body, clear.request.body) == (b"", b"{}")
    assert not empty.omitted + clear.omitted


async def test_a_compressed_answer_is_named_only(
    upstream: Upstream, recording: str, recorded: Recorded
) -> None:
    packed = gzip.compress(b'{"text": "' + b"a" * 500 + b'"}')

    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(packed, "200 OK", JSON, "Content-Encoding: gzip")

    upstream.script = script
    await ask(recording, "GET", "/v1/models", "Accept-Encoding: gzip")
    (one,) = await recorded()
    assert one.omitted == COMPRESSED
    assert (one.is_complete, one.client.pieces, one.upstream.pieces) == (True, [], [])


async def test_a_compressed_stream_goes_on_in_clear_and_is_named_only(
    upstream: Upstream, recording: str, recorded: Recorded
) -> None:
    clear = text("a") + tool_call() + text("b") + DONE
    packed = zlib.compress(clear)

    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(packed, "200 OK", SSE, "Content-Encoding: deflate")

    upstream.script = script
    answer = await chat(recording)
    assert text("b") in answer.body
    (one,) = await recorded()
    assert one.omitted == COMPRESSED
    assert (one.is_complete, one.client.pieces, one.upstream.pieces) == (True, [], [])


async def test_a_websocket_is_named_only(
    upstream: Upstream, recording: str, recorded: Recorded
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        lines = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: x")
        await wire.head("101 Switching Protocols", *lines)
        await wire.send(b"secret talk")
        wire.close()

    upstream.script = script
    lines = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: x")
    async with Client(recording) as client:
        await client.send("GET", "/v1/realtime", *lines)
        await client.head(bodiless=True)
        assert await client.wire.reader.read() == b"secret talk"
    (one,) = await recorded()
    assert (one.route, one.omitted, one.request.omitted) == ("websocket",) + ("a WebSocket",) * 2
    assert one.request.body is None
    assert (one.is_complete, one.client.pieces, one.upstream.pieces) == (True, [], [])


UPLOADS = {
    "multipart": ("/v1/files", ("Content-Type: multipart/form-data; boundary=q",), b"--q\r\n\r\nx"),
    "curl -d": ("/api/generate", ("Content-Type: application/x-www-form-urlencoded",), b"{}"),
    "no type": ("/api/generate", (), b'{"model": "m"}'),
    "no text": ("/v1/x", ("Content-Type: audio/wav",), bytes(range(256)) * 10),
    "over 1 MiB": ("/v1/embeddings", (JSON,), b'{"input": "' + b"a " * (1 << 20) + b'"}'),
    "over 8 MiB": (CHAT, (JSON,), b'{"messages": "' + b"abc/" * (2 << 20) + b'"}'),
}


@pytest.mark.parametrize("name", UPLOADS)
async def test_an_upload_is_recorded_and_replayed(
    upstream: Upstream, recording: str, recorded: Recorded, name: str
) -> None:
    upstream.script = answering(b'{"ok": 1}', JSON)
    target, lines, body = UPLOADS[name]
    await ask(recording, "POST", target, *lines, body=body)
    (one,) = await recorded()
    check(one)
    assert (one.request.body == body, one.request.omitted, one.omitted) == (True, "", "")
    assert one.forwarded is not None
    assert one.forwarded.body == body == upstream.request.body
    assert (await played(one, "client")).body == b'{"ok": 1}'


async def test_an_upload_in_chunks_is_recorded_as_it_comes(
    upstream: Upstream, recording: str, recorded: Recorded
) -> None:
    """The upstream has the first piece before the second is sent."""
    upstream.script = answering(b'{"ok": 1}', JSON)
    async with Client(recording) as client:
        await client.send("POST", "/v1/x", JSON, "Transfer-Encoding: chunked")
        for number in range(3):
            data = b'{"key": "sk-0123456789abcdef%d"}' % number
            await client.wire.send(b"%x\r\n%b\r\n" % (len(data), data))
            await asyncio.sleep(0.02)
        await client.wire.send(b"0\r\n\r\n")
        answer = await (await client.head()).read()
    assert answer.body == b'{"ok": 1}'
    (one,) = await recorded()
    check(one)
    assert (one.request.body or b"").count(b'{"key": "[redacted:') == 3


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_an_upload_that_is_too_large_is_named_and_its_answer_kept(
    upstream: Upstream,
    start_proxy: StartProxy,
    recorded: Recorded,
    place: Path,
    caplog: pytest.LogCaptureFixture,
    is_chunked: bool,
) -> None:
    upstream.script = answering(b'{"ok": 1}', JSON)
    own = {"recording.mode": "record", "recording.path": str(place)}
    url = await start_proxy({**own, "recording.max_body_bytes": 100_000})
    body = b"#" * 300_000
    kind = JSON if is_chunked else "Content-Type: text/x"
    await ask(url, "POST", "/v1/files?key=k3y", kind, body=body)
    metrics = (await ask(url, "GET", "/-/metrics")).body
    (one,) = await recorded()
    check(one)
    assert (one.request.body, one.omitted, one.client.body) == (None, "", b'{"ok": 1}')
    assert "larger than 100000 bytes" in one.request.omitted
    assert one.request.sha256 == hashlib.sha256(body).hexdigest()
    app = ReplayApp([one], Options(rules=Rules(strict=True)))
    runner, there = await start_replay(app, "127.0.0.1:0")
    for sent, status in ((body, 200), (body + b"#", 404)):
        assert (await ask(there, "POST", "/v1/files?key=k3y", body=sent)).status == status
    await runner.stop()
    said = [m for m in caplog.messages if "POST /v1/files: the request body is not recorded" in m]
    assert len(said) == 1
    assert "k3y" not in said[0]
    assert b"recording_omitted_total" in metrics


async def test_an_upload_that_nobody_reads_is_named(
    upstream: Upstream, recording: str, recorded: Recorded
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b"no", "413 Content Too Large", "Connection: close")

    upstream.lazy = True
    upstream.script = script
    async with Client(recording) as client:
        await client.send("POST", "/v1/x", "Content-Length: 1000")
        await client.wire.send(b"x" * 10)
        answer = await (await client.head()).read()
    assert answer.status == 413
    (one,) = await recorded()
    assert (one.request.body, one.client.body) == (None, b"no")
    assert "did not read" in one.request.omitted


def test_pieces_of_a_body_that_are_missing(tmp_path: Path) -> None:
    first, asked, *rest = whole()
    request = {**json.loads(asked), "body": None, "streamed": True}
    own = {"kind": "body", "id": "ex_1", "ms": 1}
    last = {**own, "size": 4, "sha256": hashlib.sha256(b"abcd").hexdigest()}
    piece = {**own, "data": "ab"}
    for pieces, body in (([piece, piece | {"data": "cd"}], b"abcd"), ([piece], None)):
        lines = [line(one) for one in (*pieces, last)]
        (one,) = load(written(tmp_path / "a.jsonl", first, line(request), *lines, *rest))
        assert one.request.body == body
        assert bool(one.request.omitted) == (body is None)
    (one,) = load(written(tmp_path / "a.jsonl", first, line(request), line(piece), *rest))
    assert (one.request.body, bool(one.request.omitted)) == (None, True)


async def test_heartbeats_are_ours(
    upstream: Upstream, start_proxy: StartProxy, recorded: Recorded, place: Path
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("a"))
        await asyncio.sleep(0.25)
        await wire.chunk(DONE)
        await wire.chunk()

    upstream.script = script
    own = {"recording.mode": "record", "recording.path": str(place), "server.heartbeat_s": 0.08}
    answer = await chat(await start_proxy(own))
    (one,) = await recorded()
    check(one)
    assert one.client.body == answer.body
    assert b": keep-alive\n\n" in added(one.client)
    assert less_added(one.client) == one.upstream.body == text("a") + DONE


async def test_a_history_that_was_cleaned(
    upstream: Upstream, recording: str, recorded: Recorded
) -> None:
    upstream.script = slowly([text("b"), DONE])
    function = {"name": "x", "arguments": "{}"}
    call = {"id": "htp_call_1", "type": "function", "function": function}
    ours = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "htp_call_1", "content": "done"},
    ]
    await chat(recording, messages=[{"role": "user", "content": "hi"}, *ours])
    (one,) = await recorded()
    check(one)
    assert one.forwarded is not None
    assert one.forwarded.body == upstream.request.body != one.request.body
    assert b"htp_" in (one.request.body or b"")
    assert b"htp_" not in (one.forwarded.body or b"")


async def test_bytes_that_are_no_text(
    upstream: Upstream, recording: str, recorded: Recorded
) -> None:
    body = bytes(range(256)) * 3 + "é".encode()[:1]

    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(body, "200 OK", "Content-Type: application/octet-stream")

    upstream.script = script
    asked = b'"\xff\xfe'
    await ask(recording, "POST", "/v1/embeddings", JSON, body=asked)
    (one,) = await recorded()
    check(one)
    assert (one.request.body, one.upstream.body) == (asked, body)


# --- the reader -----------------------------------------------------------------------------------


def whole(name: str = "ex_1") -> list[bytes]:
    """The lines of a cassette with one exchange."""
    tape = Tape(name).request()
    tape.line("read", ms=1.0, data="a", sent=True)
    told = {"end": "eof", "ms": 2.0, "size": 1, "sha256": hashlib.sha256(b"a").hexdigest()}
    tape.line("end", ended="done", error="", tools=[], upstream=told, client=told)
    return [line(FIRST), *(line(one) for one in tape.lines)]


def written(place: Path, *parts: bytes) -> Path:
    place.write_bytes(b"".join(parts))
    return place


def loaded(place: Path, *parts: bytes) -> list[tuple[str, bytes, bool]]:
    written(place, *parts)
    return [(one.id, one.client.body, one.is_complete) for one in load(place)]


def test_a_torn_last_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = whole()
    for cut in range(1, len(lines[-1]) - 1):
        body = b"".join(lines)[: -cut - 1]
        assert loaded(tmp_path / "a.jsonl", body) == [("ex_1", b"a", False)]
    assert "torn" in caplog.text


def test_lines_that_are_none_of_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, *rest = whole()
    foreign = [
        *(b"no json\n", b"[1]\n", b'"x"\n', b"7\n", b"\n", b"\xff\xfe\n", b"[" * 9000 + b"\n"),
        *(b'{"kind": "other", "id": "ex_1"}\n', b'{"id": 1}\n', b'{"kind": []}\n'),
        *(b'{"kind": "read", "id": []}\n', b'{"kind": "read", "id": "ex_1", "data": 3}\n'),
        b'{"kind": "read", "id": "ex_9", "data": "of no request"}\n',
        b'{"kind": "read", "id": "ex_1", "ms": 1, "data": {"base64": "?"}}\n',
        first,
    ]
    mixed = [first] + [part for one in rest for part in (one, *foreign)]
    place = tmp_path / "a.jsonl"
    assert loaded(place, *mixed) == [("ex_1", b"a", True)]
    assert f"{place}: line 3 is not valid JSON" in caplog.text  # counted with the empty ones
    assert "was ignored" in caplog.text


@pytest.mark.parametrize(
    ("start", "why"),
    [
        (b"no json\n", "line 1: not a cassette"),
        (b"\n[]\n", "line 2: not a cassette"),
        (b'{"kind": "request"}\n', "the first record is of another kind"),
        (b'{"kind": "cassette", "version": 2}\n', "version 2; this program reads 1 to 1"),
        (b'{"kind": "cassette"}\n', "version None"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, start: bytes, why: str) -> None:
    place = written(tmp_path / "a.jsonl", start, *whole())
    with pytest.raises(CassetteError, match=why):
        load(place)


def test_a_later_version_may_follow(tmp_path: Path) -> None:
    place = written(tmp_path / "a.jsonl", *whole(), line({**FIRST, "version": 9}))
    with pytest.raises(CassetteError, match="version 9"):
        load(place)


def test_places(tmp_path: Path) -> None:
    with pytest.raises(CassetteError, match="no cassettes in this folder"):
        load(tmp_path)
    with pytest.raises(CassetteError, match="no such file"):
        load(tmp_path / "none.jsonl")
    (tmp_path / "x.jsonl").symlink_to("/proc/self/mem")
    with pytest.raises(CassetteError, match=r"x\.jsonl"):
        load(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").unlink()
    inner = tmp_path / "b"
    inner.mkdir()
    written(tmp_path / "a.jsonl", *whole("one"))
    written(inner / "c.jsonl.gz", gzip.compress(b"".join(whole("two"))))
    written(tmp_path / "notes.txt", b"not read")
    assert [one.id for one in load(tmp_path)] == ["one", "two"]
    assert written(tmp_path / "empty.jsonl") in files(tmp_path)
    assert load(tmp_path / "empty.jsonl") == []


def test_a_torn_compressed_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(b"".join(whole())) + packer.flush(zlib.Z_SYNC_FLUSH)
    assert loaded(tmp_path / "a.jsonl.gz", packed) == [("ex_1", b"a", True)]
    assert "torn" in caplog.text
    caplog.clear()
    loaded(tmp_path / "a.jsonl.gz", packed, gzip.compress(b"".join(whole("ex_2"))))
    assert "torn" in caplog.text


def test_what_is_marked_as_not_recorded_has_no_pieces(tmp_path: Path) -> None:
    *lines, end = whole()
    record = {**json.loads(end), "omitted": "the disk was full"}
    (one,) = load(written(tmp_path / "a.jsonl", *lines, line(record)))
    assert (one.omitted, one.client.pieces, one.upstream.sha256) == ("the disk was full", [], "")
    assert not one.client.is_whole


TIMES: list[Any] = ["1", None, -1, 1e99, [], True]
BYTES: list[Any] = [None, 1, [], {"base64": "é"}, {"base64": 1}]
EVENTS: list[Any] = [5, [5], [{"tool": 1}], [{"durationMs": "x"}], {}]
HURT: list[tuple[int, Any]] = [
    *[(1, {name: 5}) for name in ("ts", "route", "method", "target", "omitted", "headers", "id")],
    *[(1, {"headers": [[1, "x"]]}), (1, {"headers": [["x"]]}), (1, {"body": [1]})],
    *[(2, {"ms": ms}) for ms in TIMES],
    *[(2, {"data": data}) for data in BYTES],
    *[(3, {"tools": tools}) for tools in EVENTS],
    *[(3, {name: 5}) for name in ("ended", "error", "upstream", "client", "omitted")],
    (3, {"client": {"end": "never", "ms": 1, "sha256": ""}}),
]


@pytest.mark.parametrize(("number", "fields"), HURT)
def test_records_with_values_of_other_types_are_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int, fields: Any
) -> None:
    """Whatever reads a cassette can rely on its types: a file may come from anybody."""
    every = list(whole())
    every[number] = line({**json.loads(every[number]), **fields})
    place = written(tmp_path / "a.jsonl", *every)
    assert [one for one in load(place) if one.is_complete and one.client.is_whole] == []
    assert f"{place}: line {number + 1}: an invalid" in caplog.text


def test_what_is_added_lies_within_the_data(tmp_path: Path) -> None:
    first, asked, *rest = whole()
    for added in ([[2, 1]], [[0, 9]], [[1, 2], [0, 1]], [[-1, 1]]):
        sent = {"kind": "sent", "id": "ex_1", "ms": 3.5, "data": "abc", "added": added}
        (one,) = load(written(tmp_path / "a.jsonl", first, asked, line(sent), *rest))
        assert [piece.data for piece in one.client.pieces] == [b"a"]


@pytest.mark.parametrize("is_line", [True, False])
def test_nothing_unpacks_without_a_bound(tmp_path: Path, is_line: bool) -> None:
    more = b"a" * (3 << 20) if is_line else b'{"kind": "x"}\n' * (1 << 19)
    place = written(tmp_path / "a.jsonl.gz", gzip.compress(b"".join(whole()) + more))
    problem = r"a\.jsonl\.gz: line 5: longer than 1 MiB" if is_line else "unpacks to more than"
    with pytest.raises(CassetteError, match=problem):
        list(lines(place, 1 << 20, 4 << 20))


@pytest.mark.parametrize("data", [b"", b"abc", "é\n\0".encode(), b"\xff", bytes(range(256))])
def test_bytes_in_json(data: bytes) -> None:
    assert unpack(json.loads(json.dumps(pack(data)))) == data


@pytest.mark.parametrize("value", [None, 1, [], {"base64": 1}, {"base64": "é"}, {"base64": "a"}])
def test_what_is_no_bytes(value: Any) -> None:
    with pytest.raises(ValueError, match=r"neither|base64|ASCII|padd"):
        unpack(value)


def test_a_line_of_what_is_no_text() -> None:
    assert json.loads(line({"headers": [["X", "\udcff"]]})) == {"headers": [["X", "\udcff"]]}


def test_a_body_of_the_upstreams_own(tmp_path: Path) -> None:
    """A forwarded request without a body has the client's, one with null has none."""
    first, asked, *rest = whole()
    for more, body in (({}, b'{"stream":true}'), ({"body": "x"}, b"x"), ({"body": None}, None)):
        own = {"kind": "forwarded", "id": "ex_1", "ms": 1, "target": "/x", "headers": [["A", "b"]]}
        (one,) = load(written(tmp_path / "a.jsonl", first, asked, line({**own, **more}), *rest))
        assert one.forwarded is not None
        assert (one.forwarded.target, one.forwarded.body) == ("/x", body)
        assert one.forwarded.header("a") == "b"


def test_a_piece_may_hold_ours(tmp_path: Path) -> None:
    first, asked, *rest = whole()
    sent = {"kind": "sent", "id": "ex_1", "ms": 3.5, "data": "abc", "added": [[0, 1], [2, 3]]}
    (one,) = load(written(tmp_path / "a.jsonl", first, asked, *rest, line(sent)))
    assert one.client.pieces[-1] == Piece(3.5, b"abc", ((0, 1), (2, 3)))
