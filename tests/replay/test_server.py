"""What was recorded is what a client gets: the head, the pieces, the times in order, the end."""

import asyncio
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web
from lifecycle_proxy.config.model import ConfigError
from lifecycle_proxy.exchange.ends import SideEnd
from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.faults.rules import Fault, FaultSettings
from lifecycle_proxy.recording.cassette import RecordedExchange
from lifecycle_proxy.recording.cassette_file import CassetteError
from lifecycle_proxy.recording.json_lines import line, pack
from lifecycle_proxy.replay.matching import Rules
from lifecycle_proxy.replay.near_miss import Miss
from lifecycle_proxy.replay.schedule import Schedule, playable, schedule, timed
from lifecycle_proxy.replay.server import Options, ReplayApp, serve_replay, start_replay

from tests import commands
from tests.conftest import StartProxy
from tests.fakes import DONE, Answer, Client, ask, chat, lifecycle, text, tool_call, without_frames
from tests.recording import CHAT, SSE_HEAD, asked, exchange

pytestmark = pytest.mark.usefixtures("quiet")

StartReplay = Callable[..., Awaitable[str]]
_HERE = Path(__file__).parents[1]
_SHARED = _HERE.parents[1] / "shared"
_FOLDERS = (
    _HERE / "corpus",
    _SHARED / "recorded-streams",
    _SHARED / "reference" / "captures",
)
_STREAMS = [path for folder in _FOLDERS for path in sorted(folder.glob("*.sse"))]
ANY = Rules(stages=("order",), loop=True)
AT_ONCE = Options(speed=0, rules=ANY)
STREAMED = asked({"stream": True})
ODD_HEAD: Headers = (
    ("date", "Sat, 21 Nov 2026 06:00:00 GMT"),
    ("content-TYPE", "text/event-stream"),
    ("Set-Cookie", "a=1"),
    ("X-Odd", "  two   blanks, ünïcode, \udcff"),
    ("set-cookie", "b=2"),
    ("Set-Cookie", "a=1"),
    ("transfer-encoding", "chunked"),
)


@pytest.fixture
async def start() -> AsyncIterator[StartReplay]:
    """Starts a replay: ``await start([exchange], options)`` returns its URL."""
    async with AsyncExitStack() as stack:

        async def begin(exchanges: list[RecordedExchange], options: Options = AT_ONCE) -> str:
            app = ReplayApp(exchanges, options)
            runner, url = await start_replay(app, "127.0.0.1:0")
            stack.push_async_callback(runner.stop)
            return url

        yield begin


async def pieces(answer: Answer) -> list[bytes]:
    """The chunks of an answer, one by one; ``answer.end`` tells how it ended."""
    found: list[bytes] = []
    answer.end = "clean"
    try:
        async with asyncio.timeout(5):
            async for piece in answer.pieces:
                found.append(piece)  # noqa: PERF401  what came before a break counts
    except asyncio.IncompleteReadError:
        answer.end = "cut"
    except ConnectionError:
        answer.end = "reset"
    return found


def head_of(one: RecordedExchange) -> bytes:
    side = one.upstream
    lines = [f"HTTP/1.1 {side.status} {side.reason}", *(f"{k}: {v}" for k, v in side.headers)]
    return "\r\n".join((*lines, "", "")).encode("utf-8", "surrogateescape")


def sliced(stream: bytes | Path) -> list[bytes]:
    """Cut anywhere, also inside of characters; a stream always in the same places."""
    body = stream if isinstance(stream, bytes) else stream.read_bytes()
    chance = random.Random(body)
    cuts = sorted(chance.sample(range(1, len(body)), min(len(body) - 1, chance.randint(1, 60))))
    return [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]


# --- bytes, pieces, head --------------------------------------------------------------------------


@pytest.mark.parametrize("path", _STREAMS, ids=lambda path: path.stem)
async def test_a_stream_is_replayed_to_the_byte(path: Path, start: StartReplay) -> None:
    recorded = exchange(asked({}), sliced(path), headers=ODD_HEAD)
    url = await start([recorded])
    async with Client(url) as client:
        for _ in range(2):  # the connection goes on
            answer = await client.chat()
            assert answer.raw == head_of(recorded)
            assert await pieces(answer) == [piece.data for piece in recorded.upstream.pieces]
            assert answer.end == "clean"


@pytest.mark.parametrize(
    ("status", "reason"), [(200, ""), (200, "Fine, thanks"), (429, "Slow Down"), (599, "?")]
)
async def test_status_and_reason(status: int, reason: str, start: StartReplay) -> None:
    recorded = exchange(status=status, reason=reason)
    answer = await chat(await start([recorded]))
    assert (answer.raw, answer.body) == (head_of(recorded), b"{}")


async def test_a_length_stays_and_so_does_the_connection(start: StartReplay) -> None:
    recorded = exchange(pieces=[b"ab", b"", b"c"], headers=(("content-length", "3"),))
    async with Client(await start([recorded])) as client:
        for _ in range(2):
            answer = await (await client.chat()).read()
            assert (answer.raw, answer.body, answer.end) == (head_of(recorded), b"abc", "clean")


async def test_a_length_that_redaction_changed_is_put_right(start: StartReplay) -> None:
    recorded = exchange(pieces=[b"abc"], headers=(("Content-Length", "7"),))
    answer = await chat(await start([recorded]))
    assert (answer.headers["Content-Length"], answer.body, answer.end) == ("3", b"abc", "clean")


@pytest.mark.parametrize("headers", [(), (("Connection", "close"), ("Content-Length", "2"))])
async def test_the_end_of_the_connection(headers: Headers, start: StartReplay) -> None:
    recorded = exchange(headers=headers)
    async with Client(await start([recorded])) as client:
        answer = await (await client.chat()).read()
        assert (answer.raw, answer.body, answer.end) == (head_of(recorded), b"{}", "clean")
        await client.wire.left()


async def test_no_chunks_for_an_old_client(start: StartReplay) -> None:
    recorded = exchange(pieces=[b"data: 1\n\n", b"data: 2\n\n"])
    async with Client(await start([recorded])) as client:
        answer = await (await client.chat(version="1.0")).read()
        assert "Transfer-Encoding" not in answer.headers
        assert (answer.body, answer.end) == (b"data: 1\n\ndata: 2\n\n", "clean")


async def test_answers_without_a_body(start: StartReplay) -> None:
    head = exchange(asked(b"", method="HEAD", target="/x"), [], headers=(("Content-Length", "9"),))
    none = exchange(asked(b"", method="DELETE", target="/x"), [], status=204, headers=())
    async with Client(await start([head, none])) as client:
        for recorded in (head, none, head):
            await client.send(recorded.request.method, "/x")
            bodiless = recorded is head
            answer = await (await client.head(bodiless=bodiless)).read()
            assert (answer.raw, answer.body) == (head_of(recorded), b"")


async def test_a_line_break_in_a_header_begins_no_other(start: StartReplay) -> None:
    recorded = exchange(headers=(("X-A", "1\r\nX-B: 2"), ("Content-Length", "2")))
    answer = await chat(await start([recorded]))
    assert "X-B" not in answer.headers


async def test_a_request_line_with_a_whole_url(start: StartReplay) -> None:
    url = await start([exchange(asked(b"", method="GET", target="/v1/x?y=1"))])
    assert (await ask(url, "GET", "http://anywhere/v1/x?y=1")).body == b"{}"


async def test_both_sides(start: StartReplay) -> None:
    recorded = exchange()
    recorded.client = exchange(pieces=[b"the client's"]).client
    assert (await chat(await start([recorded]))).body == b"{}"
    options = replace(AT_ONCE, side="client")
    assert (await chat(await start([recorded], options))).body == b"the client's"


# --- ends -----------------------------------------------------------------------------------------

LENGTH: Headers = (("Content-Length", "100"),)


@pytest.mark.parametrize("headers", [SSE_HEAD, LENGTH, ()], ids=["chunked", "length", "close"])
@pytest.mark.parametrize("end", ["reset", "gone"])
async def test_a_reset_is_seen_as_one(end: SideEnd, headers: Headers, start: StartReplay) -> None:
    big = [b"x" * 70_000, b"the last before the reset"]
    url = await start([exchange(pieces=big, headers=headers, end=end)])
    answer = await chat(url)
    if headers is not LENGTH:
        assert answer.body == b"".join(big)
    assert answer.end in ("reset", "clean" if headers is LENGTH else "reset")


async def test_a_cut_is_no_reset_and_no_end(start: StartReplay) -> None:
    def cut(plan: Schedule) -> Schedule:
        return replace(plan, end="cut")

    answer = await chat(await start([exchange()], replace(AT_ONCE, transform=cut)))
    assert (answer.body, answer.end) == (b"{}", "cut")


@pytest.mark.parametrize(
    ("headers", "version", "end"),
    [
        (SSE_HEAD, "1.1", "cut"),
        (SSE_HEAD, "1.0", "reset"),  # has no chunks
        ((("Content-Length", "9"),), "1.1", "cut"),
        ((), "1.1", "reset"),
    ],
)
async def test_a_cut_can_be_seen(
    headers: Headers, version: str, end: str, start: StartReplay
) -> None:
    faults = FaultSettings(rules=[Fault("cut_at_byte", byte=4)])
    recorded = exchange(pieces=[b"123456789"], headers=headers)
    async with Client(await start([recorded], replace(AT_ONCE, faults=faults))) as client:
        answer = await (await client.chat(version=version)).read()
    assert (answer.body, answer.end) == (b"1234", end)


@pytest.mark.parametrize("end", ["reset", "gone", "timeout"])
async def test_an_end_before_the_head(end: SideEnd, start: StartReplay) -> None:
    recorded = exchange(pieces=[], status=0, headers=(), end=end)
    async with Client(await start([recorded], replace(AT_ONCE, hold_s=0.01))) as client:
        await client.ask_chat()
        with pytest.raises(ConnectionResetError):
            await client.head()


async def test_a_timeout_is_silence_until_the_client_gives_up(start: StartReplay) -> None:
    url = await start([exchange(pieces=[b"data: 1\n\n"], end="timeout")])
    async with Client(url) as client:
        answer = await (await client.chat()).until(b"data: 1\n\n")
        with pytest.raises(TimeoutError):
            await client.wire.left(0.1)
        assert answer.end == ""


async def test_silence_has_a_limit(start: StartReplay) -> None:
    options = replace(AT_ONCE, hold_s=0.02)
    answer = await chat(await start([exchange(pieces=[b"data: 1\n\n"], end="timeout")], options))
    assert (answer.body, answer.end) == (b"data: 1\n\n", "reset")


async def test_a_client_that_goes_away_ends_the_playing() -> None:
    slow = exchange(STREAMED, pieces=[(1.0, b"data: 1\n\n"), (60_000.0, b"data: 2\n\n")])
    app = ReplayApp([slow], Options())
    runner, url = await start_replay(app, "127.0.0.1:0")
    async with Client(url) as client:
        await (await client.chat()).until(b"data: 1\n\n")
    async with asyncio.timeout(5):
        while runner.server and runner.server.connections:  # noqa: ASYNC110  no event tells
            await asyncio.sleep(0.01)
    await runner.stop()


async def test_stopping_resets_what_still_plays() -> None:
    pieces = [(1.0, b"data: 1\n\n"), (60_000.0, b"data: 2\n\n")]
    app = ReplayApp([exchange(STREAMED, pieces, headers=())], Options())
    runner, url = await start_replay(app, "127.0.0.1:0", end_s=0.05)
    async with Client(url) as client:
        answer = await (await client.chat()).until(b"data: 1\n\n")
        await runner.stop()
        assert (await answer.read()).end == "reset"  # by a FIN it would look whole


async def test_a_slow_reader_gets_all_of_it_before_the_reset(start: StartReplay) -> None:
    big = [b"x" * (1 << 20)] * 6
    url = await start([exchange(pieces=big, end="reset")])
    async with Client(url) as client:
        answer = await client.chat()
        client.wire.transport.pause_reading()
        await asyncio.sleep(0.1)
        client.wire.transport.resume_reading()
        assert b"".join(await pieces(answer)) == b"".join(big)
        assert answer.end == "reset"


# --- times ----------------------------------------------------------------------------------------


def plan(*times: float) -> Schedule:
    head, *rest, end = times
    return Schedule("x", 200, "OK", (), head, tuple((ms, b"x") for ms in rest), "eof", end)


@pytest.mark.parametrize(
    ("speed", "max_gap_ms", "expected"),
    [
        (1, None, [10, 15, 15, 1015, 1020]),
        (10, None, [1, 1.5, 1.5, 101.5, 102]),
        (0, None, [0, 0, 0, 0, 0]),
        (1, 8, [8, 13, 13, 21, 26]),
        (0.5, 8, [8, 16, 16, 24, 32]),
        (0, 8, [0, 0, 0, 0, 0]),
        (1, 0, [0, 0, 0, 0, 0]),
    ],
)
def test_speed_and_gaps(speed: float, max_gap_ms: float | None, expected: list[float]) -> None:
    new = timed(plan(10, 15, 14, 1015, 1020), speed, max_gap_ms)
    times = [new.head_ms, *(ms for ms, _ in new.pieces), new.end_ms]
    assert times == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [{"speed": -1}, {"speed": float("nan")}, {"max_gap_ms": -1}])
def test_times_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="negative"):
        Options(**wrong)


async def test_it_takes_as_long_as_it_took(start: StartReplay) -> None:
    recorded = exchange(STREAMED, pieces=[(ms, b"data: 1\n\n") for ms in (20.0, 60.0, 100.0)])
    url = await start([recorded], Options(speed=1))
    begun = time.perf_counter()
    await chat(url)
    assert time.perf_counter() - begun >= 0.09


async def test_at_speed_0_it_takes_no_time(start: StartReplay) -> None:
    recorded = exchange(STREAMED, pieces=[(ms, b"data: 1\n\n") for ms in (9e3, 6e4, 9e5)])
    answer = await chat(await start([recorded], Options(speed=0)))
    assert (answer.body, answer.end) == (3 * b"data: 1\n\n", "clean")


async def test_a_schedule_can_be_changed(start: StartReplay) -> None:
    def fault(plan: Schedule) -> Schedule:
        return replace(plan, status=500, pieces=((0.0, b"boom"),), headers=LENGTH)

    answer = await chat(await start([exchange()], replace(AT_ONCE, transform=fault)))
    assert (answer.status, answer.body, answer.end) == (500, b"boom", "cut")


# --- what is asked --------------------------------------------------------------------------------


async def test_a_miss_is_an_error_that_says_what_differs(start: StartReplay) -> None:
    told: list[Miss] = []
    body = {"model": "m", "messages": [], "stream": True, "temperature": 1}
    options = Options(speed=0, rules=Rules(strict=True), on_miss=told.append)
    url = await start([exchange(asked(body), name="one")], options)
    answer = await chat(url, temperature=2, user="u")
    assert answer.status == 404
    error = answer.json()["error"]
    assert (error["code"], error["nearest"]) == ("no_recording", "one")
    assert error["diff"] == [{"path": "temperature", "recorded": 1, "asked": 2}]
    assert len(told) == 1


async def test_a_miss_is_logged(start: StartReplay, caplog: pytest.LogCaptureFixture) -> None:
    await ask(await start([exchange()]), "GET", "/nothing")
    assert "no recording for GET /nothing" in caplog.text


async def test_sdks_do_not_try_again(start: StartReplay) -> None:
    told: list[Miss] = []
    url = await start([exchange(asked(b"", method="GET"))], Options(on_miss=told.append))
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x") as client:
        with pytest.raises(openai.NotFoundError, match="no recording for POST"):
            await client.chat.completions.create(model="m", messages=[])
    assert len(told) == 1


async def test_sessions_and_loop(start: StartReplay) -> None:
    recorded = [exchange(asked({}), [b"%d" % n]) for n in range(2)]
    url = await start(recorded, Options(speed=0, rules=ANY))
    asked_by = ["A", "A", "B", "A", "B"]
    bodies = [(await chat(url, f"Authorization: Bearer {who}")).body for who in asked_by]
    assert bodies == [b"0", b"1", b"0", b"0", b"1"]
    bodies = [(await chat(url, f"X-Session-Id: {who}")).body for who in asked_by]
    assert bodies == [b"0", b"1", b"0", b"0", b"1"]


async def test_whose_request_it_is_can_be_told(start: StartReplay) -> None:
    def session(request: web.Request) -> str:
        return request.headers.get("X-Test", "")

    recorded = [exchange(asked({}), [b"%d" % n]) for n in range(2)]
    url = await start(recorded, Options(speed=0, rules=ANY, session=session))
    assert [(await chat(url, f"X-Test: {who}")).body for who in "aab"] == [b"0", b"1", b"0"]


async def test_it_is_healthy(start: StartReplay) -> None:
    answer = await ask(await start([]), "GET", "/-/healthy")
    assert (answer.status, answer.json()) == (200, {"status": "ok"})


async def test_bad_requests_are_refused_in_our_words(start: StartReplay) -> None:
    async with Client(await start([])) as client:
        await client.wire.send(b"no HTTP at all\r\n\r\n")
        assert (await (await client.head()).read()).json()["error"]["code"] == "bad_request"


async def test_the_openai_package_reads_a_replay(start: StartReplay) -> None:
    body = text("Hä") + tool_call("call_1") + text("user") + DONE
    url = await start([exchange(asked({}), sliced(body))])
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x") as client:
        stream = await client.chat.completions.create(model="m", messages=[], stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
    assert "".join(delta.content or "" for delta in deltas) == "Häuser"
    assert [call.id for delta in deltas for call in delta.tool_calls or ()] == ["call_1"]


async def test_the_proxy_in_front_of_a_replay(start: StartReplay, start_proxy: StartProxy) -> None:
    body = text("a") + tool_call("call_1") + DONE
    url = await start([exchange(asked({}), sliced(body))])
    answer = await chat(await start_proxy({"upstream.url": f"{url}/v1"}))
    assert without_frames(answer.body) == body
    assert [status for _, status, _ in lifecycle(answer.body)] == ["running", "completed"]


# --- what cannot be played ------------------------------------------------------------------------


def unplayable(**fields: Any) -> RecordedExchange:
    return exchange(name="bad", **fields)


BOTH = (("Content-Length", "2"), ("transfer-encoding", "chunked"))


def torn() -> RecordedExchange:
    one = unplayable()
    one.upstream.pieces.pop()
    return one


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (unplayable(is_complete=False), "end was not recorded"),
        (unplayable(omitted="websocket"), "not recorded: websocket"),
        (unplayable(end=""), "no answer on the upstream side"),
        (torn(), "missing"),
        (unplayable(pieces=[], status=0), "head"),
        *[(unplayable(status=status), "not the status") for status in (100, 199, 600, 99999)],
        (unplayable(headers=BOTH), "both Content-Length and Transfer-Encoding"),
        (unplayable(headers=(("Transfer-Encoding", "gzip, chunked"),)), "not chunked"),
        (unplayable(headers=(("Content-Length", "2"),) * 2), "no valid Content-Length"),
        (unplayable(headers=(("Content-Length", "+2"),)), "no valid Content-Length"),
    ],
)
async def test_it_is_left_out(bad: RecordedExchange, reason: str, start: StartReplay) -> None:
    good = exchange()
    kept, ((name, why),) = playable([bad, good], "upstream")
    assert (kept, name) == ([good], "bad")
    assert reason in why
    assert (await chat(await start([bad, good]))).body == b"{}"


def test_a_schedule_is_the_recording() -> None:
    recorded = exchange(pieces=[(5.0, b"a"), (7.5, b"b")])
    made = schedule(recorded, "client")
    assert (made.id, made.pieces, made.end_ms) == (recorded.id, ((5.0, b"a"), (7.5, b"b")), 8.5)
    assert (made.header("content-type"), made.header("x")) == ("text/event-stream", "")


# --- the command ----------------------------------------------------------------------------------

_SCRIPT = """
import asyncio, sys
from pathlib import Path
from lifecycle_proxy.replay.server import Options, serve_replay
sys.exit(asyncio.run(serve_replay([Path(sys.argv[1])], "127.0.0.1:0", Options(speed=0))))
"""
_LINE = re.compile(r"replaying 1 exchange on (http://127\.0\.0\.1:\d+)\n")


def written(path: Path, *exchanges: RecordedExchange) -> Path:
    """A cassette of these, both sides the same."""
    lines: list[dict[str, Any]] = [{"kind": "cassette", "version": 1, "ts": "", "by": "a test"}]
    for one in exchanges:
        asked, side, name = one.request, one.upstream, {"id": one.id}
        request = {"method": asked.method, "target": asked.target, "headers": asked.headers}
        body = pack(asked.body or b"")
        lines += [{**name, **request, "kind": "request", "ts": "", "route": "chat", "body": body}]
        head = {"ms": side.ms, "status": side.status, "reason": side.reason}
        for view in ("upstream", "client"):
            lines += [{**name, **head, "kind": "head", "side": view, "headers": side.headers}]
        for piece in side.pieces:
            data = pack(piece.data)
            lines += [{**name, "kind": "read", "ms": piece.ms, "data": data, "sent": True}]
        if one.is_complete:
            told = {"end": side.end, "ms": side.end_ms, "sha256": side.sha256}
            lines += [{**name, "kind": "end", "ended": "", "upstream": told, "client": told}]
    path.write_bytes(b"".join(map(line, lines)))
    return path


def test_the_command_plays_files_until_it_is_asked_to_stop(tmp_path: Path) -> None:
    recorded = exchange(asked({"a": 1}), [b"data: 1\n\n", b"data: \xff\n\n"], name="one")
    unfinished = exchange(is_complete=False, name="unfinished")
    file = written(tmp_path / "a.jsonl", recorded, unfinished)
    with subprocess.Popen(
        (sys.executable, "-c", _SCRIPT, str(file)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=commands.environment(),
    ) as process:
        try:
            assert process.stdout is not None
            told = _LINE.fullmatch(process.stdout.readline())
            assert told
            answer = asyncio.run(ask(told[1], "POST", CHAT, body=b'{"a":1}'))
            assert answer.body == recorded.upstream.body
            assert asyncio.run(ask(told[1], "GET", "/v1/x?key=hunter2")).status == 404
            process.send_signal(signal.SIGTERM)
            code, out, errors = commands.ended(process)
        finally:
            process.kill()
    assert (code, out) == (0, "")
    assert "unfinished is left out: its end was not recorded" in errors
    assert "no recording for GET /v1/x?key=***" in errors
    assert "  :method\n    recorded: POST\n    asked:    GET\n" in errors
    assert "Traceback" not in errors


async def test_nothing_to_play_is_said(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", exchange(is_complete=False))
    with pytest.raises(CassetteError, match="nothing that can be played"):
        await serve_replay([file], "127.0.0.1:0")


async def test_an_address_that_is_none() -> None:
    with pytest.raises(ConfigError):
        await start_replay(ReplayApp([]), "nonsense")


async def test_a_socket_file(tmp_path: Path) -> None:
    app = ReplayApp([exchange(end="reset")], AT_ONCE)
    runner, url = await start_replay(app, f"unix:{tmp_path / 's'}")
    answer = await chat(url)
    await runner.stop()
    assert (answer.body, answer.end) == (b"{}", "cut")
