"""Readers beside a stream: before, during and after it; whose streams they may read."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from lifecycle_proxy.handlers.stream_tokens import StreamTokens
from lifecycle_proxy.state.stream_records import StreamKey

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
    chatting,
    delta,
    event,
    text,
    tool_call,
    usage,
)

pytestmark = pytest.mark.usefixtures("quiet")

CHOSEN: Final = "my-stream-1"
CHOOSES: Final = f"X-Event-Stream-Id: {CHOSEN}"
MINE: Final = "Authorization: Bearer mine"
THEIRS: Final = "Authorization: Bearer theirs"


async def agent(request: Request, wire: Wire) -> None:
    """Text, a call, usage."""
    chunks = (text("Hel"), text("lo"), tool_call(), delta("tool_calls"), usage(), DONE, b"")
    await wire.stream(*chunks)


def in_steps(upstream: Upstream) -> asyncio.Event:
    """The upstream calls a tool, and ends the stream when it is let go."""
    go = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("Hello"), tool_call())
        await go.wait()
        await wire.chunk(delta("tool_calls"))
        await wire.chunk(DONE)
        await wire.chunk()

    upstream.script = script
    return go


def events_of(stream_id: str, query: str = "") -> str:
    return f"/-/streams/{stream_id}/events{query}"


def parsed(body: bytes) -> list[tuple[int | None, str, dict[str, Any]]]:
    """``(id, type, data)`` of the events in what a reader got."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":")
        )
        if "event" in fields:
            number = int(fields["id"]) if "id" in fields else None
            found.append((number, fields["event"], json.loads(fields["data"])))
    return found


def types(body: bytes) -> list[str]:
    return [one for _, one, _ in parsed(body)]


async def read(proxy: str, stream_id: str, *lines: str, query: str = "") -> Answer:
    return await ask(proxy, "GET", events_of(stream_id, query), *lines)


@asynccontextmanager
async def reading(proxy: str, target: str, *lines: str) -> AsyncIterator[Answer]:
    """A reader whose response has begun."""
    async with Client(proxy) as client:
        await client.send("GET", target, *lines)
        yield await client.head()


# --- what a reader gets ---------------------------------------------------------------------------


async def test_the_events_of_a_stream_that_has_ended(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent
    answer = await chat(proxy, "X-Request-Id: req-1")
    stream_id = answer.headers["X-Stream-Id"]
    assert re.fullmatch(r"st_[0-9a-f]{24}", stream_id)
    assert answer.headers["X-Stream-Url"] == events_of(stream_id)
    told = await ask(proxy, "GET", answer.headers["X-Stream-Url"])
    assert told.status == 200
    assert told.headers["Content-Type"] == "text/event-stream"
    assert told.headers["Cache-Control"] == "no-cache, no-transform"
    assert told.headers["X-Accel-Buffering"] == "no"
    assert told.body.startswith(b"retry: 2000\n: connected\n\nid: 1\nevent: stream.started\n")
    found = parsed(told.body)
    assert [number for number, _, _ in found] == [1, 2, 3, 4, 5]
    for number, _, data in found:
        assert (data.pop("seq"), data.pop("streamId")) == (number, stream_id)
        assert data.pop("ts") > 1e9
    started, running, completed, used, done = (data for _, _, data in found)
    assert started == {"model": "m", "api": "chat", "requestId": "req-1"}
    call = {"tool": "terminal", "emoji": "💻", "label": "terminal", "toolCallId": "call_1"}
    assert running == {**call, "status": "running"}
    assert completed.pop("durationMs") >= 0
    assert completed == {**call, "status": "completed", "outcome": "ok"}
    assert used == {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}
    assert done.pop("durationMs") >= 0
    assert done == {"status": "completed", "calls": 1}
    assert types(told.body)[-1] == "stream.done"


async def test_a_reader_beside_a_running_stream(upstream: Upstream, proxy: str) -> None:
    go = in_steps(upstream)
    async with chatting(proxy) as answer:
        async with reading(proxy, answer.headers["X-Stream-Url"]) as told:
            await told.until(b"tool.running")
            go.set()
            await told.read()
        await answer.read()
    assert types(told.body) == ["stream.started", "tool.running", "tool.completed", "stream.done"]
    assert told.end == "clean"


async def test_a_reader_may_come_first(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent
    async with reading(proxy, events_of(CHOSEN)) as told:
        await told.until(b": connected\n\n")
        answer = await chat(proxy, CHOOSES)
        await told.read()
    assert answer.headers["X-Stream-Id"] == CHOSEN
    assert "X-Event-Stream-Id" not in upstream.request.headers
    assert types(told.body)[0] == "stream.started"
    assert types(told.body)[-1] == "stream.done"


@pytest.mark.parametrize("cursor", [1, 2, 3, 4])
async def test_a_reader_goes_on_where_it_was(upstream: Upstream, proxy: str, cursor: int) -> None:
    upstream.script = agent
    stream_id = (await chat(proxy)).headers["X-Stream-Id"]
    for told in (
        await read(proxy, stream_id, f"Last-Event-ID: {cursor}"),
        await read(proxy, stream_id, query=f"?after={cursor}"),
        await read(proxy, stream_id, query=f"?starting_after={cursor}"),
        await read(proxy, stream_id, f"Last-Event-ID: {cursor}", query="?after=0"),
    ):
        assert [number for number, _, _ in parsed(told.body)] == list(range(cursor + 1, 6))


@pytest.mark.parametrize("cursor", [5, 6, 2**53 - 1])
async def test_behind_the_end_nothing_comes(upstream: Upstream, proxy: str, cursor: int) -> None:
    upstream.script = agent
    stream_id = (await chat(proxy)).headers["X-Stream-Id"]
    told = await read(proxy, stream_id, f"Last-Event-ID: {cursor}")
    assert (told.status, told.body) == (204, b"")  # EventSource does not connect again


async def test_a_cursor_that_no_event_has_yet(upstream: Upstream, proxy: str) -> None:
    go = in_steps(upstream)
    async with (
        chatting(proxy, seen=b"running") as answer,
        reading(proxy, answer.headers["X-Stream-Url"], "Last-Event-ID: 77") as told,
    ):
        await told.until(b"tool.running")
        go.set()
        await told.read()
    (number, first, data), *rest = parsed(told.body)
    assert (number, first, data["requested"]) == (None, "reset", 77)
    assert [number for number, _, _ in rest] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "cursor", ["abc", "1.5", "+1", "0-5", "-2", "1 2", "9" * 17, str(2**53), "٣", "0x1", "1e3"]
)
async def test_cursors_that_are_none(upstream: Upstream, proxy: str, cursor: str) -> None:
    upstream.script = agent
    stream_id = (await chat(proxy)).headers["X-Stream-Id"]
    line = f"Last-Event-ID: {cursor}".encode().decode("latin-1")
    told = await read(proxy, stream_id, line)
    assert told.status == 400
    error = told.json()["error"]
    assert (error["code"], error["param"]) == ("bad_request", "Last-Event-ID")


@pytest.mark.parametrize("cursor", ["-1", "", "0", " 0 "])
async def test_no_cursor(upstream: Upstream, proxy: str, cursor: str) -> None:
    """LangGraph's SDK sends -1 where it knows no event."""
    upstream.script = agent
    stream_id = (await chat(proxy)).headers["X-Stream-Id"]
    told = await read(proxy, stream_id, f"Last-Event-ID: {cursor}")
    assert [number for number, _, _ in parsed(told.body)] == [1, 2, 3, 4, 5]


async def test_what_is_not_kept_any_more_is_a_gap(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    calls = [tool_call(f"call_{number}") for number in range(5)]

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*calls, delta("tool_calls"), DONE, b"")

    upstream.script = script
    proxy = await start_proxy({"streams.max_events": 4})
    stream_id = (await chat(proxy)).headers["X-Stream-Id"]
    for line, requested in (("Accept: */*", 1), ("Last-Event-ID: 3", 4)):
        told = parsed((await read(proxy, stream_id, line)).body)
        (number, first, gap), *rest = told
        assert (number, first, gap["requested"]) == (None, "gap", requested)
        assert gap["firstAvailable"] == rest[0][0] == 9
        assert [number for number, _, _ in rest] == [9, 10, 11, 12]
        ids = [call["toolCallId"] for call in gap["openCalls"]]
        ends = [data["toolCallId"] for _, kind, data in rest if kind == "tool.completed"]
        assert ids == ends  # so that each end has its beginning
    metrics = await ask(proxy, "GET", "/-/metrics")
    assert b"lifecycle_proxy_stream_gaps_total 2.0" in metrics.body


async def test_silence_is_filled(upstream: Upstream, start_proxy: StartProxy) -> None:
    in_steps(upstream)
    proxy = await start_proxy({"server.heartbeat_s": 0.05})
    async with reading(proxy, events_of(CHOSEN)) as early:
        await early.until(b": keep-alive\n\n")
        async with Client(proxy) as client:
            await client.chat(CHOOSES)
            await early.until(b"tool.running")
            seen = len(early.body)
            await early.until(b": keep-alive\n\n" * 2)
            assert early.body[seen:].endswith(b": keep-alive\n\n")


async def test_a_question_for_the_head(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent
    stream_id = (await chat(proxy)).headers["X-Stream-Id"]
    told = await ask(proxy, "HEAD", events_of(stream_id))
    assert (told.status, told.headers["Content-Type"]) == (200, "text/event-stream")


# --- text -----------------------------------------------------------------------------------------


async def test_text_comes_in_batches_in_front_of_tools(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent
    answer = await chat(proxy, "X-Lifecycle-Text: on")
    told = parsed((await ask(proxy, "GET", answer.headers["X-Stream-Url"])).body)
    assert [kind for _, kind, _ in told][:3] == ["stream.started", "text", "tool.running"]
    data = told[1][2]
    assert (data["text"], data["kind"], data["choice"]) == ("Hello", "text", 0)


async def test_a_batch_waits_for_no_tool(upstream: Upstream, proxy: str) -> None:
    go = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("a"), text("b"))
        await go.wait()
        await wire.stream(text("c"), DONE, b"")

    upstream.script = script
    async with (
        chatting(proxy, "X-Lifecycle-Text: 1") as answer,
        reading(proxy, answer.headers["X-Stream-Url"]) as told,
    ):
        await told.until(b'"text":"ab"')
        go.set()


@pytest.mark.parametrize(
    ("settings", "lines", "wanted"),
    [
        ({}, (), False),
        ({}, (CHOOSES,), True),
        ({}, (CHOOSES, "X-Lifecycle-Text: off"), False),
        ({"streams.text": True}, (), True),
        ({"streams.text": True}, ("X-Lifecycle-Text: off",), False),
    ],
)
async def test_who_wants_text(
    upstream: Upstream,
    start_proxy: StartProxy,
    settings: dict[str, Any],
    lines: tuple[str, ...],
    wanted: bool,
) -> None:
    upstream.script = agent
    proxy = await start_proxy(settings)
    answer = await chat(proxy, *lines)
    told = await ask(proxy, "GET", answer.headers["X-Stream-Url"])
    assert ("text" in types(told.body)) is wanted
    assert "X-Lifecycle-Text" not in upstream.request.headers


async def test_text_and_tools_of_one_read_keep_their_order(upstream: Upstream, proxy: str) -> None:
    pieces = (text("a"), tool_call("call_1"), text("b"), tool_call("call_2"), text("c"))

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(b"".join(pieces), delta("tool_calls"), DONE, b"")

    upstream.script = script
    for line in ("Accept: */*", "X-Lifecycle-Events: off"):
        answer = await chat(proxy, "X-Lifecycle-Text: on", line)
        told = parsed((await ask(proxy, "GET", answer.headers["X-Stream-Url"])).body)
        texts = [data["text"] for _, kind, data in told if kind == "text"]
        assert "".join(texts) == "abc"
        if "off" not in line:
            assert texts == ["a", "b", "c"]


# --- how it ended ---------------------------------------------------------------------------------


async def done_of(proxy: str, answer: Answer) -> dict[str, Any]:
    told = await ask(proxy, "GET", answer.headers["X-Stream-Url"])
    return parsed(told.body)[-1][2]


@pytest.mark.parametrize(
    ("events", "status", "reason"),
    [
        ((text("a"), delta("stop"), DONE), "completed", None),
        ((text("a"), delta("length"), DONE), "incomplete", "length"),
        ((text("a"), delta("content_filter"), DONE), "incomplete", "content_filter"),
        ((text("a"), delta("error"), DONE), "failed", "error"),
        ((text("a"), event({"error": {"message": "x"}}), delta("stop"), DONE), "failed", None),
        ((text("a"), delta("stop"), event({"error": {"message": "x"}}), DONE), "failed", None),
        ((text("a"),), "incomplete", "upstream_eof"),
    ],
)
async def test_how_a_stream_ended(
    upstream: Upstream, proxy: str, events: tuple[bytes, ...], status: str, reason: str | None
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*events, b"")

    upstream.script = script
    done = await done_of(proxy, await chat(proxy))
    expected = "upstream_error" if status == "failed" and reason is None else reason
    assert (done["status"], done.get("reason")) == (status, expected)


async def test_a_stream_that_broke(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call())
        wire.reset()

    upstream.script = script
    answer = await chat(proxy)
    told = parsed((await ask(proxy, "GET", answer.headers["X-Stream-Url"])).body)
    assert [kind for _, kind, _ in told][-2:] == ["tool.completed", "stream.done"]
    assert (told[-2][2]["outcome"], told[-2][2]["isError"]) == ("cut", True)
    assert (told[-1][2]["status"], told[-1][2]["reason"]) == ("failed", "upstream_error")


async def test_a_client_that_left(upstream: Upstream, proxy: str) -> None:
    in_steps(upstream)
    async with chatting(proxy, seen=b"running") as answer:
        pass
    async with reading(proxy, answer.headers["X-Stream-Url"]) as told:
        await told.read()
    done = parsed(told.body)[-1][2]
    assert (done["status"], done["reason"]) == ("cancelled", "client_disconnected")


async def test_a_chosen_stream_that_was_refused(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b'{"error": {"message": "no"}}', "401 Unauthorized", JSON)

    upstream.script = script
    async with reading(proxy, events_of(CHOSEN)) as told:
        assert (await chat(proxy, CHOOSES)).status == 401
        await told.read()
    assert types(told.body) == ["stream.started", "stream.done"]
    assert parsed(told.body)[-1][2]["status"] == "failed"


async def test_no_stream_no_log(upstream: Upstream, proxy: str) -> None:
    answer = await ask(proxy, "POST", CHAT, JSON, body=b'{"model": "m"}')
    assert "X-Stream-Url" not in answer.headers


# --- whose it is ----------------------------------------------------------------------------------


async def test_a_stream_of_another_key_is_unknown(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent
    stream_id = (await chat(proxy, MINE)).headers["X-Stream-Id"]
    assert (await read(proxy, stream_id, MINE)).status == 200
    assert (await read(proxy, stream_id, "X-Api-Key: mine")).status == 200
    for target in (events_of(stream_id), f"/-/streams/{stream_id}"):
        for lines in ((THEIRS,), ()):
            told = await ask(proxy, "GET", target, *lines)
            assert (told.status, told.json()["error"]["code"]) == (404, "not_found")
    assert (await ask(proxy, "POST", f"/-/streams/{stream_id}/token", THEIRS)).status == 404


async def test_two_users_may_choose_the_same_id(upstream: Upstream, proxy: str) -> None:
    go = in_steps(upstream)
    async with Client(proxy) as one, Client(proxy) as other:
        mine = await one.chat(CHOOSES, MINE, model="my-model")
        theirs = await other.chat(CHOOSES, THEIRS, model="their-model")
        assert (mine.status, theirs.status) == (200, 200)
        go.set()
        await mine.read()
        await theirs.read()
    for line, model in ((MINE, "my-model"), (THEIRS, "their-model")):
        told = parsed((await read(proxy, CHOSEN, line)).body)
        assert told[0][2]["model"] == model


async def test_an_id_in_use(upstream: Upstream, proxy: str) -> None:
    go = in_steps(upstream)
    async with chatting(proxy, CHOOSES) as answer:
        again = await chat(proxy, CHOOSES)
        assert again.status == 409
        error = again.json()["error"]
        assert (error["code"], error["param"]) == ("stream_in_use", "X-Event-Stream-Id")
        go.set()
        await answer.read()
    assert len(upstream.requests) == 1
    assert (await chat(proxy, CHOOSES)).status == 200


@pytest.mark.parametrize(("cursor", "missing"), [(0, None), (3, 4), (4, 5), (5, None), (7, None)])
async def test_a_cursor_of_an_earlier_stream_of_the_same_id(
    upstream: Upstream, proxy: str, cursor: int, missing: int | None
) -> None:
    """It belongs to no event of the later one: what is missing is told, and nothing else is."""
    upstream.script = agent
    for _ in range(2):
        await chat(proxy, CHOOSES, "X-Lifecycle-Text: off")
    told = parsed((await read(proxy, CHOSEN, f"Last-Event-ID: {cursor}")).body)
    numbers = [number for number, _, _ in told if number]
    assert numbers == list(range(max(cursor + 1, 6), 11))
    gaps = [data for number, kind, data in told if kind == "gap"]
    assert [gap["requested"] for gap in gaps] == ([] if missing is None else [missing])
    assert [kind for number, kind, _ in told if number == 6] in ([], ["stream.started"])
    status = (await ask(proxy, "GET", f"/-/streams/{CHOSEN}")).json()
    assert (status["firstSeq"], status["lastSeq"]) == (6, 10)


async def test_a_reader_that_is_behind_when_its_id_is_chosen_again(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = agent
    await chat(proxy, CHOOSES, "X-Lifecycle-Text: off")
    go = in_steps(upstream)
    async with chatting(proxy, CHOOSES, "X-Lifecycle-Text: off") as answer:
        async with reading(proxy, events_of(CHOSEN), "Last-Event-ID: 2") as told:
            await told.until(b"tool.running")
            go.set()
            await told.read()
        await answer.read()
    (number, kind, gap), *rest = parsed(told.body)
    assert (number, kind, gap["requested"], gap["firstAvailable"]) == (None, "gap", 3, 6)
    assert [number for number, _, _ in rest] == [6, 7, 8, 9]


@pytest.mark.parametrize(
    "chosen", ["short", "x" * 65, "with space", "st_12345678", "a/b/c/d/e", ""]
)
async def test_ids_that_cannot_be_chosen(upstream: Upstream, proxy: str, chosen: str) -> None:
    answer = await chat(proxy, f"X-Event-Stream-Id: {chosen}")
    error = answer.json()["error"]
    assert (answer.status, error["param"]) == (400, "X-Event-Stream-Id")
    assert upstream.requests == []


async def test_ids_that_others_could_guess(upstream: Upstream, start_proxy: StartProxy) -> None:
    """Where others reach the proxy and nobody has a key, the id is the key."""
    upstream.script = agent
    proxy = (await start_proxy({"server.listen": "0.0.0.0:0"})).replace("0.0.0.0", "127.0.0.1")
    assert (await chat(proxy, CHOOSES)).status == 400
    assert (await chat(proxy, CHOOSES, MINE)).status == 200
    uuid = "0b7e6a53-3c1d-4e0a-9f4e-6a2b8d1c5e7f"
    assert (await chat(proxy, f"X-Event-Stream-Id: {uuid}")).status == 200


async def test_a_wish_for_text_that_is_none(upstream: Upstream, proxy: str) -> None:
    answer = await chat(proxy, "X-Lifecycle-Text: maybe")
    assert (answer.status, answer.json()["error"]["param"]) == (400, "X-Lifecycle-Text")


@pytest.mark.parametrize("target", ["st_0123456789abcdef01234567", "st_unknown", "short", "a%2Fb"])
async def test_unknown_streams(upstream: Upstream, proxy: str, target: str) -> None:
    for what in ("", "/events"):
        assert (await ask(proxy, "GET", f"/-/streams/{target}{what}")).status == 404
    assert (await ask(proxy, "POST", f"/-/streams/{target}/token")).status == 404
    assert upstream.requests == []


async def test_expired_streams(upstream: Upstream, start_proxy: StartProxy) -> None:
    upstream.script = agent
    proxy = await start_proxy({"streams.keep_s": 0})
    stream_id = (await chat(proxy)).headers["X-Stream-Id"]
    for what in ("", "/events"):
        told = await ask(proxy, "GET", f"/-/streams/{stream_id}{what}")
        assert (told.status, told.json()["error"]["code"]) == (410, "stream_expired")


# --- tokens ---------------------------------------------------------------------------------------


async def test_a_token_for_a_page(
    upstream: Upstream, start_proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.script = agent
    proxy = await start_proxy({"server.api_keys": ["mine", "theirs"]})
    stream_id = (await chat(proxy, MINE)).headers["X-Stream-Id"]
    other_id = (await chat(proxy, MINE)).headers["X-Stream-Id"]
    assert (await read(proxy, stream_id)).status == 401
    made = await ask(proxy, "POST", f"/-/streams/{stream_id}/token", MINE)
    assert (made.status, made.headers["Cache-Control"]) == (200, "no-store")
    token, url = made.json()["token"], made.json()["url"]
    assert url == events_of(stream_id, f"?token={token}")
    with caplog.at_level("DEBUG"):
        told = await ask(proxy, "GET", url)
        assert types(told.body)[-1] == "stream.done"
        assert (await ask(proxy, "GET", url, "Last-Event-ID: 5")).status == 204
        for stranger in (
            events_of(other_id, f"?token={token}"),
            events_of(stream_id, f"?token={token[:-4]}AAAA"),
            events_of(stream_id, "?token=AAAA"),
            events_of(stream_id, "?token=%FF%00"),
        ):
            refused = await ask(proxy, "GET", stranger)
            assert (refused.status, refused.json()["error"]["code"]) == (401, "invalid_token")
            assert token.encode() not in refused.body
    assert token not in caplog.text
    assert "theirs" not in token
    for target in ("/-/metrics?token=x", "/-/streams/x/token", "/v1/models?token=x"):
        assert (await ask(proxy, "GET", target)).status == 401, target


@pytest.mark.parametrize(
    "query", ["?token=", "?token=&token=", "?xtoken=1", "?a=token=", "?tok%65n"]
)
async def test_what_is_no_token_lets_nobody_in(
    upstream: Upstream, start_proxy: StartProxy, query: str
) -> None:
    upstream.script = agent
    proxy = await start_proxy({"server.api_keys": ["mine"]})
    stream_id = (await chat(proxy, MINE)).headers["X-Stream-Id"]
    token = (await ask(proxy, "POST", f"/-/streams/{stream_id}/token", MINE)).json()["token"]
    for method, target in (
        ("GET", f"/-/streams/{stream_id}{query}"),
        ("HEAD", events_of(stream_id, query)),
        ("GET", f"/-/streams/{stream_id}/chat{query}"),
        ("GET", events_of("a-stream-that-may-begin-yet", query)),
        ("POST", f"/-/streams/{stream_id}/token{query}"),
        ("POST", f"/-/streams/{stream_id}/token?token={token}"),
    ):
        assert (await ask(proxy, method, target)).status == 401, target


def test_a_token_s_time() -> None:
    now = [100.0]
    tokens = StreamTokens("secret", 10, lambda: now[0])
    key = StreamKey("ab" * 32, "st_1")
    token, expires_at = tokens.make(key)
    assert expires_at == 110
    assert tokens.owner(token, "st_1") == key.owner
    assert tokens.make(key)[0] != token
    for other in (StreamTokens("other", 10, lambda: now[0]), tokens):
        now[0] = 100.0 if other is not tokens else 110.0
        with pytest.raises(Exception, match="expired"):
            other.owner(token, "st_1")


# --- the other paths ------------------------------------------------------------------------------


async def test_the_status_of_a_stream(upstream: Upstream, proxy: str) -> None:
    go = in_steps(upstream)
    async with chatting(proxy, seen=b"running") as answer:
        target = f"/-/streams/{answer.headers['X-Stream-Id']}"
        status = (await ask(proxy, "GET", target)).json()
        assert (status["status"], status["firstSeq"], status["lastSeq"]) == ("running", 1, 2)
        assert [call["toolCallId"] for call in status["openCalls"]] == ["call_1"]
        assert (status["done"], status["expiresAt"], status["resumable"]) == (None, None, False)
        go.set()
        await answer.read()
    status = (await ask(proxy, "GET", target)).json()
    assert (status["status"], status["lastSeq"], status["openCalls"]) == ("completed", 4, [])
    assert 299 < status["expiresAt"] - status["startedAt"] < 400


async def test_methods(upstream: Upstream, proxy: str) -> None:
    for method, target, allowed in (
        ("POST", events_of("st_x"), "GET, HEAD"),
        ("DELETE", "/-/streams/st_x", "GET, HEAD"),
        ("GET", "/-/streams/st_x/token", "POST"),
    ):
        told = await ask(proxy, method, target)
        assert (told.status, told.headers["Allow"]) == (405, allowed)


async def test_pages_of_other_origins(upstream: Upstream, start_proxy: StartProxy) -> None:
    upstream.script = agent
    origin = "Origin: https://page.example"
    proxy = await start_proxy({"server.cors_origins": ["https://page.example"]})
    answer = await chat(proxy, origin)
    assert "X-Stream-Url" in answer.headers["Access-Control-Expose-Headers"]
    told = await ask(proxy, "GET", answer.headers["X-Stream-Url"], origin)
    assert told.headers["Access-Control-Allow-Origin"] == "https://page.example"
    assert (
        await ask(proxy, "GET", events_of("st_x"), "Origin: https://evil.example")
    ).status == 403


async def test_an_unknown_dialect(upstream: Upstream, proxy: str) -> None:
    told = await read(proxy, "st_x", query="?dialect=klingon")
    assert (told.status, told.json()["error"]["param"]) == (400, "dialect")
    assert "hermes" in told.json()["error"]["message"]


async def test_a_query_that_is_none(upstream: Upstream, proxy: str) -> None:
    assert (await read(proxy, "st_x", query="?" + "a=1&" * 200)).status == 400


async def test_the_log_can_be_off(upstream: Upstream, start_proxy: StartProxy) -> None:
    upstream.script = agent
    proxy = await start_proxy({"streams.max_streams": 0})
    answer = await chat(proxy)
    assert (answer.status, "X-Stream-Url" in answer.headers) == (200, False)
    assert (await read(proxy, answer.headers["X-Stream-Id"])).status == 404


async def test_more_streams_than_there_is_room_for(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    go = in_steps(upstream)
    proxy = await start_proxy({"streams.max_streams": 1})
    async with chatting(proxy) as answer:
        async with Client(proxy) as other:
            more = await other.chat()
            assert (more.status, "X-Stream-Url" in more.headers) == (200, False)
            go.set()
            await more.read()
        await answer.read()
    metrics = await ask(proxy, "GET", "/-/metrics")
    assert b"lifecycle_proxy_streams_not_kept_total 1.0" in metrics.body
