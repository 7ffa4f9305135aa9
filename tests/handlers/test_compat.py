"""kilroy's and rdev's contracts over real sockets: their paths, their events, and 202."""

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import pytest
from lifecycle_proxy.app import serve
from lifecycle_proxy.core.vocabularies import VOCABULARIES
from lifecycle_proxy.exchange.headers import prefers_async
from multidict import CIMultiDict

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
    event,
    payloads,
    text,
    tool_call,
)

pytestmark = pytest.mark.usefixtures("quiet")

RUN: Final = "run-00000001"
CHOOSES: Final = f"X-Event-Stream-Id: {RUN}"
MINE: Final = "Authorization: Bearer mine"
THEIRS: Final = "Authorization: Bearer theirs"
ASYNC: Final = "Prefer: respond-async"
QUESTION: Final[dict[str, Any]] = {"model": "m", "messages": []}
KILROY: Final = f"/-/compat/runs/{RUN}/events"


def agent(*pieces: bytes) -> Any:
    async def script(_: Request, wire: Wire) -> None:
        await wire.stream(*pieces, b"")

    return script


WHOLE: Final = (text("Hel"), text("lo"), tool_call("c1", "ls"), delta("tool_calls"), DONE)


def names(body: bytes) -> list[str]:
    return [payload["event"] for payload in payloads(body) if payload]


# --- kilroy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [KILROY, KILROY.replace("runs", "pipelines")])
async def test_a_run_that_is_over_is_replayed(upstream: Upstream, proxy: str, path: str) -> None:
    """Several deltas are one event; a tool event comes behind all text that was in front of it."""
    upstream.script = agent(*WHOLE)
    await chat(proxy, CHOOSES)
    answer = await ask(proxy, "GET", path)
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert "no-cache" in answer.headers["Cache-Control"]
    told = payloads(answer.body)
    assert names(answer.body) == [
        "llm_text_delta",
        "llm_tool_call_start",
        "llm_tool_call_end",
        "llm_turn_end",
        "run_completed",
    ]
    assert told[0]["delta"] == "Hello"
    assert (told[1]["tool_name"], told[1]["call_id"]) == ("ls", "c1")
    assert (told[3]["text_length"], told[3]["tool_call_count"]) == (5, 1)
    assert {payload["run_id"] for payload in told[:-1]} == {RUN}
    assert answer.body.endswith(b"event: done\ndata: {}\n\n")
    assert b"\nid:" not in answer.body
    assert (await ask(proxy, "GET", path)).body == answer.body


async def test_a_reader_that_goes_on_gets_the_rest(upstream: Upstream, proxy: str) -> None:
    """It is told of the same node and length, though it gets none of what they are known from."""
    upstream.script = agent(*WHOLE)
    await chat(proxy, CHOOSES)
    whole = payloads((await ask(proxy, "GET", KILROY)).body)
    for after in range(1, 5):
        rest = payloads((await ask(proxy, "GET", f"{KILROY}?after={after}")).body)
        assert rest == whole[-len(rest) :]
        assert len(rest) == len(whole) - (after - 1)


async def test_history_then_live(upstream: Upstream, proxy: str) -> None:
    """Text that nothing follows comes after 100 ms; a tool event comes at once."""
    go, end = asyncio.Event(), asyncio.Event()

    async def script(_: Request, wire: Wire) -> None:
        await wire.stream(text("a"), text("b"))
        await go.wait()
        await wire.chunk(text("c") + tool_call("c1", "ls"))
        await end.wait()
        await wire.chunk(delta("tool_calls") + DONE)
        await wire.chunk()

    upstream.script = script
    async with Client(proxy) as client, Client(proxy) as reader:
        await client.chat(CHOOSES)
        await reader.send("GET", KILROY)
        answer = await (await reader.head()).until(b'"delta":"ab"')
        go.set()
        await answer.until(b"llm_tool_call_start")
        assert names(answer.body) == ["llm_text_delta", "llm_text_delta", "llm_tool_call_start"]
        end.set()
        await answer.read()
    assert names(answer.body)[-2:] == ["llm_turn_end", "run_completed"]


async def test_an_error_beats_the_finish(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent(*WHOLE[:4], event({"error": {"message": "no"}}), DONE)
    await chat(proxy, CHOOSES)
    answer = await ask(proxy, "GET", KILROY)
    told = payloads(answer.body)
    assert (told[-2]["event"], told[-2]["status"]) == ("run_failed", "fail")
    assert "llm_turn_end" not in names(answer.body)


async def test_a_run_that_breaks_off_ends_its_calls(upstream: Upstream, proxy: str) -> None:
    async def script(_: Request, wire: Wire) -> None:
        await wire.stream(text("a"), tool_call("c1", "ls", '{"x":'))
        wire.close()

    upstream.script = script
    await chat(proxy, CHOOSES)
    told = payloads((await ask(proxy, "GET", KILROY)).body)
    assert [payload["event"] for payload in told[:-1]] == [
        "llm_text_delta",
        "llm_tool_call_start",
        "llm_tool_call_end",
        "run_failed",
    ]
    assert told[2]["is_error"] is True


async def test_heartbeats_while_a_stage_is_silent(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    end = asyncio.Event()

    async def script(_: Request, wire: Wire) -> None:
        await wire.stream(text("a"))
        await end.wait()
        await wire.chunk(delta("stop") + DONE)
        await wire.chunk()

    upstream.script = script
    url = await start_proxy({"server.heartbeat_s": 0.05})
    async with Client(url) as client, Client(url) as reader:
        await client.chat(CHOOSES)
        await reader.send("GET", KILROY)
        answer = await (await reader.head()).until(b"stage_heartbeat")
        end.set()
        await answer.read()
    beats = [payload for payload in payloads(answer.body) if payload.get("elapsed_s") is not None]
    assert beats[0].keys() >= {"node_id", "elapsed_s", "event_count", "since_last_output_s"}
    assert names(answer.body)[-1] == "run_completed"  # none comes behind the end


async def test_done_is_a_real_end(upstream: Upstream, start_proxy: StartProxy) -> None:
    """A reader that is cut off with the proxy gets none."""

    async def script(_: Request, wire: Wire) -> None:
        await wire.stream(tool_call("c1", "ls"))

    upstream.script = script
    url = await start_proxy()
    async with Client(url) as client, Client(url) as reader:
        await client.chat(CHOOSES)
        await reader.send("GET", KILROY)
        answer = await (await reader.head()).until(b"llm_tool_call_start")
    assert b"event: done" not in answer.body


@pytest.mark.parametrize("path", [KILROY, f"/-/compat/projects/p/events/{RUN}"])
async def test_a_run_that_is_not_known_is_a_404(proxy: str, path: str) -> None:
    answer = await ask(proxy, "GET", path)
    assert (answer.status, answer.json()["error"]["code"]) == (404, "not_found")


async def test_a_run_of_another_key_is_a_404(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent(*WHOLE)
    await chat(proxy, CHOOSES, MINE)
    assert (await ask(proxy, "GET", KILROY, THEIRS)).status == 404
    assert (await ask(proxy, "GET", KILROY, MINE)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", KILROY, 405),
        ("GET", "/-/compat/", 404),
        ("GET", f"/-/compat/runs/{RUN}", 404),
        ("GET", "/-/compat/runs/a%20b/events", 404),
        ("GET", f"/-/compat/runs/{'x' * 65}/events", 404),
        ("GET", f"{KILROY}?after=x", 400),
    ],
)
async def test_bad_requests(proxy: str, method: str, path: str, status: int) -> None:
    answer = await ask(proxy, method, path)
    assert (answer.status, "message" in answer.json()["error"]) == (status, True)


@pytest.mark.parametrize("name", VOCABULARIES)
async def test_every_vocabulary_reads_the_same_stream(
    upstream: Upstream, proxy: str, name: str
) -> None:
    upstream.script = agent(*WHOLE)
    await chat(proxy, CHOOSES)
    answer = await ask(proxy, "GET", f"/-/streams/{RUN}/events?dialect={name}")
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers.get("x-vercel-ai-ui-message-stream") == (
        "v1" if name == "vercel-ui" else None
    )
    assert b"Hello" in answer.body
    assert b"c1" in answer.body or name == "rdev"
    assert answer.end == "clean"


# --- their own paths ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [f"/runs/{RUN}/events", f"/pipelines/{RUN}/events", f"/projects/a%2Fb/events/{RUN}"]
)
async def test_their_own_paths_where_that_is_set(
    upstream: Upstream, start_proxy: StartProxy, path: str
) -> None:
    upstream.script = agent(*WHOLE)
    url = await start_proxy({"streams.compat_paths": True})
    await chat(url, CHOOSES)
    answer = await ask(url, "GET", path)
    assert b"event: done" in answer.body
    assert len(upstream.requests) == 1


async def test_their_own_paths_are_the_upstream_s_otherwise(
    upstream: Upstream, proxy: str, start_proxy: StartProxy
) -> None:
    path = f"/runs/{RUN}/events"
    assert (await ask(proxy, "GET", path)).body == b'{"ok": true}'
    url = await start_proxy({"streams.compat_paths": True})
    assert (await ask(url, "POST", path, body=b"{}")).body == b'{"ok": true}'
    assert (await ask(url, "GET", "/runs/a/b/events")).body == b'{"ok": true}'
    assert [request.target for request in upstream.requests] == [path, path, "/runs/a/b/events"]


# --- rdev ---------------------------------------------------------------------------------------


async def start(url: str, *lines: str, **more: Any) -> Answer:
    body = json.dumps({**QUESTION, **more}).encode()
    return await ask(url, "POST", CHAT, JSON, ASYNC, *lines, body=body)


def outputs(body: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        if not block.startswith(":"):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"stream": False}])
async def test_a_command_is_started_and_read(
    upstream: Upstream, proxy: str, more: dict[str, Any]
) -> None:
    """The POST is answered before the upstream answers, and its connection may be closed."""
    may_answer = asyncio.Event()

    async def script(_: Request, wire: Wire) -> None:
        await may_answer.wait()
        await wire.stream(text("Hel"), text("lo"), delta("stop"), DONE, b"")

    upstream.script = script
    started = await start(proxy, MINE, **more)
    told = started.json()
    assert (started.status, told["status"]) == (202, "running")
    assert started.headers["Preference-Applied"] == "respond-async"
    assert started.headers["Location"] == told["stream_url"]
    assert told["stream_url"] == f"/-/compat/projects/default/events/{told['stream_id']}"
    may_answer.set()
    answer = await ask(proxy, "GET", told["stream_url"], MINE)
    (output, (kind, end)) = outputs(answer.body)
    assert output == ("output", {"type": "stdout", "content": "Hello"})
    assert (kind, end["exit_code"]) == ("done", 0)
    assert end["duration_ms"] >= 0
    assert upstream.request.json()["stream"] is True
    assert "Prefer" not in upstream.request.headers
    own = await ask(proxy, "GET", started.headers["X-Stream-Url"], MINE)
    assert b"event: stream.done" in own.body
    assert (await ask(proxy, "GET", told["stream_url"], THEIRS)).status == 404


async def test_the_output_of_tools(upstream: Upstream, start_proxy: StartProxy) -> None:
    upstream.script = agent(
        tool_call("a", "ls"),
        delta(role="tool", tool_call_id="a", content="bin"),
        tool_call("b", "rm"),
        delta(role="tool", tool_call_id="b", content="denied", is_error=True),
        delta("stop"),
        DONE,
    )
    own = {"lifecycle.result_preview": 20, "streams.compat_paths": True}
    url = await start_proxy(own)
    told = (await start(url)).json()
    assert told["stream_url"] == f"/projects/default/events/{told['stream_id']}"
    answer = await ask(url, "GET", told["stream_url"])
    assert outputs(answer.body)[:2] == [
        ("output", {"type": "stdout", "content": "bin"}),
        ("output", {"type": "stderr", "content": "rm: denied"}),
    ]


async def broken(_: Request, wire: Wire) -> None:
    await wire.stream(text("a"))
    wire.close()


async def refusing(_: Request, wire: Wire) -> None:
    await wire.answer(b'{"error": "no"}', "500 Oh", JSON)


async def silent(_: Request, wire: Wire) -> None:
    await wire.stream(text("a"))


async def garbled(_: Request, wire: Wire) -> None:
    await wire.head("200 OK", "Content-Type: text/event-stream", "Content-Encoding: gzip")
    await wire.send(b"this is no gzip")


async def truncated(_: Request, wire: Wire) -> None:
    lines = ("Content-Type: text/event-stream", "Content-Encoding: gzip", "Content-Length: 3")
    await wire.head("200 OK", *lines)
    await wire.send(b"\x1f\x8b\x08")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (broken, "upstream_error"),
        (refusing, "upstream_error"),
        (silent, "upstream_timeout"),
        (garbled, "upstream_error"),
        (truncated, "upstream_error"),
    ],
)
async def test_a_command_that_fails(
    upstream: Upstream, start_proxy: StartProxy, script: Any, reason: str
) -> None:
    upstream.script = script
    url = await start_proxy({"upstream.stall_timeout_s": 0.3})
    told = (await start(url)).json()
    answer = await ask(url, "GET", told["stream_url"])
    *_, error, (kind, end) = outputs(answer.body)
    assert error == ("output", {"type": "stderr", "content": reason})
    assert (kind, end["exit_code"]) == ("done", 1)


async def test_an_upstream_that_cannot_be_reached(upstream: Upstream, proxy: str) -> None:
    upstream.refuse()
    told = (await start(proxy)).json()
    answer = await ask(proxy, "GET", told["stream_url"])
    assert outputs(answer.body)[-1][1]["exit_code"] == 1


async def test_a_drain_waits_for_a_command_and_then_ends_it(
    upstream: Upstream, start_proxy: StartProxy, runners: list[serve.Runner]
) -> None:
    """Whether the upstream has answered yet, or not."""
    asked = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        if request.json()["model"] == "streams":
            await wire.stream(text("a"))
        if len(upstream.requests) == 2:
            asked.set()

    upstream.script = script
    url = await start_proxy()
    for model in ("streams", "waits"):
        await start(url, model=model)
    await asked.wait()
    await serve.stop(runners.pop(), 0.1)
    for request in upstream.requests:
        await request.wire.left()


@pytest.mark.parametrize(
    ("prefer", "is_asked"),
    [
        ("respond-async", True),
        ("Respond-Async, wait=10", True),
        ("return=minimal, respond-async; x=1", True),
        ("respond-async=1", False),
        ("wait=10", False),
        ("", False),
    ],
)
def test_the_prefer_header(prefer: str, is_asked: bool) -> None:
    sent = CIMultiDict([("Prefer", "wait=1"), ("prefer", prefer)])
    assert prefers_async(sent) is is_asked


@pytest.mark.parametrize(
    ("settings", "path", "body"),
    [
        ({"streams.max_streams": 0}, CHAT, b"{}"),
        ({}, CHAT, b"["),
        ({}, CHAT, b"[]"),
        ({}, "/v1/responses", b"{}"),
        ({}, "/v1/embeddings", b"{}"),
    ],
)
async def test_what_cannot_be_started_is_answered_as_ever(
    upstream: Upstream, start_proxy: StartProxy, settings: Any, path: str, body: bytes
) -> None:
    url = await start_proxy(settings)
    answer = await ask(url, "POST", path, JSON, ASYNC, body=body)
    assert (answer.status, answer.body) == (200, b'{"ok": true}')
    assert upstream.request.body == body


async def test_a_stream_of_another_api_can_be_started(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent(event({"type": "message_stop"}, "message_stop"))
    body = json.dumps({"model": "m", "stream": True}).encode()
    answer = await ask(proxy, "POST", "/v1/messages", JSON, ASYNC, body=body)
    assert answer.status == 202
    read = await ask(proxy, "GET", answer.json()["stream_url"])
    assert outputs(read.body)[-1][1]["exit_code"] == 0


async def test_a_started_stream_is_not_resumed(upstream: Upstream, start_proxy: StartProxy) -> None:
    """The same request once more starts another one: it is not answered with a stream."""
    upstream.script = agent(*WHOLE)
    url = await start_proxy({"streams.resume_s": 5})
    lines = ("Idempotency-Key: k1", "X-Stainless-Retry-Count: 1")
    first, second = [await start(url, *lines, stream=True) for _ in range(2)]
    assert (first.status, second.status) == (202, 202)
    assert first.json()["stream_id"] != second.json()["stream_id"]


async def test_a_started_stream_is_recorded_and_played(
    upstream: Upstream, start_proxy: StartProxy, runners: list[serve.Runner], tmp_path: Path
) -> None:
    upstream.script = agent(*WHOLE)
    own = {"recording.path": str(tmp_path), "recording.speed": 0}
    url = await start_proxy({**own, "recording.mode": "record"})
    first = await ask(url, "GET", (await start(url)).json()["stream_url"])
    await serve.stop(runners.pop(), 0)
    url = await start_proxy({**own, "recording.mode": "replay"})
    again = await ask(url, "GET", (await start(url)).json()["stream_url"])
    assert outputs(again.body)[:-1] == outputs(first.body)[:-1]
    assert len(upstream.requests) == 1
