"""A plain chat request with ``Accept: text/event-stream``: progress, and the answer at the end."""

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.app import serve
from lifecycle_proxy.exchange.media_type import asks_for_event_stream
from lifecycle_proxy.recording.cassette import load

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
    delta,
    event,
    text,
    tool_call,
    usage,
)

pytestmark = pytest.mark.usefixtures("quiet")

ACCEPT = "Accept: text/event-stream"
QUESTION: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
BODY = json.dumps(QUESTION).encode()
START = b': connected\n\nevent: agent_start\ndata: {"agent":"m"}\n\n'
HEAD: dict[str, Any] = {"id": "c1", "created": 7, "model": "up", "system_fingerprint": "fp"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def progress(url: str, *lines: str, body: bytes = BODY) -> Answer:
    return await ask(url, "POST", CHAT, JSON, *(lines or (ACCEPT,)), body=body)


def events(answer: Answer) -> list[tuple[str, Any]]:
    """Names and data; comments as a name."""
    found: list[tuple[str, Any]] = []
    for block in answer.body.decode().split("\n\n")[:-1]:
        if block.startswith(": "):
            found.append((block, None))
        else:
            name, data = block.split("\n")
            data = data.removeprefix("data: ")
            found.append((name.removeprefix("event: "), json.loads(data)))
    return found


async def test_a_client_that_leaves_at_once_is_no_bug(upstream: Upstream, proxy: str) -> None:
    upstream.script = streams(text("hi"), DONE)
    for _ in range(30):
        async with Client(proxy) as client:
            await client.send("POST", CHAT, JSON, ACCEPT, body=BODY)
            await asyncio.sleep(0)
            client.wire.reset()
    assert (await progress(proxy)).status == 200


def streams(*pieces: bytes) -> Any:
    async def script(_: Request, wire: Wire) -> None:
        await wire.stream(*pieces, b"")

    return script


# --- the contract, byte by byte -----------------------------------------------------------------


async def test_every_byte_of_a_stream(upstream: Upstream, proxy: str) -> None:
    upstream.script = streams(
        delta(role="assistant", content=""),
        tool_call("call_1", "terminal", '{"command": "ls"}'),
        delta("tool_calls"),
        usage(3),
        DONE,
    )
    answer = await progress(proxy)
    assert (answer.status, answer.end) == (200, "clean")
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-cache, no-transform"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.headers["X-Stream-Id"].startswith("st_")
    rest = answer.body.removeprefix(
        START + b"event: flow_step_start\n"
        b'data: {"step":"terminal","agent":"m","toolCallId":"call_1"}\n\n'
        b"event: flow_step_complete\n"
        b'data: {"step":"terminal","result":"","toolCallId":"call_1"}\n\n'
        b"event: llm_response\n"
        b'data: {"agent":"m","content":"","tokens":{"input":1,"output":2,"total":3}}\n\n'
        b"event: result\ndata: "
    )
    assert json.loads(rest) == {
        "object": "chat.completion",
        "id": "chatcmpl-up",
        "created": 7,
        "model": "up",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "terminal", "arguments": '{"command": "ls"}'},
                        }
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
    }


async def test_what_the_upstream_is_asked(upstream: Upstream, proxy: str) -> None:
    upstream.script = streams(text("hi"), delta("stop"), DONE)
    body = b'{"model": "m", "messages": [ ], "n": 1.0, "stream": false, "stream_options": {"a": 1}}'
    await progress(proxy, body=body)
    assert upstream.request.body == (
        b'{"model":"m","messages":[ ],"n":1.0,"stream":true,'
        b'"stream_options":{"a":1,"include_usage":true}}'
    )
    assert upstream.request.headers["Accept-Encoding"] == "identity"
    assert upstream.request.headers["Content-Length"] == str(len(upstream.request.body))


async def test_a_compressed_question(upstream: Upstream, proxy: str) -> None:
    upstream.script = streams(text("hi"), delta("stop"), DONE)
    answer = await progress(proxy, ACCEPT, "Content-Encoding: gzip", body=gzip.compress(BODY))
    assert events(answer)[-1][0] == "result"
    assert "Content-Encoding" not in upstream.request.headers
    assert upstream.request.json()["stream"] is True


# --- both ways ----------------------------------------------------------------------------------


def token(name: str) -> dict[str, Any]:
    return {"token": name, "logprob": -0.5, "bytes": [1], "top_logprobs": []}


def choice(index: int, finish: str, message: dict[str, Any], logprobs: Any = None) -> Any:
    message = {"role": "assistant", "content": None, "refusal": None, **message}
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}


CALLS = [
    {"id": "a", "type": "function", "function": {"name": "ls", "arguments": '{"path":"/"}'}},
    {"id": "b", "type": "function", "function": {"name": "cat", "arguments": "{}"}},
]
ANSWERS = {
    "text": [choice(0, "stop", {"content": "Hello 💻"})],
    "calls": [choice(0, "tool_calls", {"tool_calls": CALLS})],
    "text and calls": [choice(0, "tool_calls", {"content": "I look", "tool_calls": CALLS})],
    "choices": [
        choice(0, "stop", {"content": "one"}),
        choice(1, "tool_calls", {"tool_calls": CALLS[:1]}),
        choice(2, "length", {"content": "thr"}),
    ],
    "refusal": [choice(0, "stop", {"refusal": "I cannot"})],
    "reasoning": [choice(0, "stop", {"content": "4", "reasoning_content": "2 + 2"})],
    "log probabilities": [
        choice(
            0,
            "stop",
            {"content": "ab"},
            {"content": [token("a"), token("b")], "refusal": None},
        )
    ],
    "older call": [choice(0, "function_call", {"function_call": {"name": "f", "arguments": "{}"}})],
}


def streamed(choices: list[Any]) -> list[bytes]:
    """The same as OpenAI streams it: every string in two pieces, choices in turn."""

    def chunk(index: int, more: Any = None, finish: str | None = None, **fields: Any) -> bytes:
        own = {"index": index, "delta": fields, "logprobs": more, "finish_reason": finish}
        head = {**HEAD, "object": "chat.completion.chunk", "usage": None, "obfuscation": "xyz"}
        return event({**head, "choices": [own]})

    found = [chunk(one["index"], role="assistant", content="", refusal=None) for one in choices]
    for one in choices:
        index, message = one["index"], one["message"]
        logged = (one["logprobs"] or {}).get("content", [])
        for name in ("reasoning_content", "refusal", "content"):
            whole = message.get(name) or ""
            for at, piece in enumerate(filter(None, (whole[:1], whole[1:]))):
                own = {"content": logged[at : at + 1], "refusal": None} if logged else None
                found.append(chunk(index, own, **{name: piece}))
        for position, call in enumerate(message.get("tool_calls", ())):
            own, body = {**call, "index": position}, call["function"]
            own["function"] = {**body, "arguments": ""}
            found.append(chunk(index, tool_calls=[own]))
            for piece in (body["arguments"][:1], body["arguments"][1:]):
                entry = {"index": position, "function": {"arguments": piece}}
                found.append(chunk(index, tool_calls=[entry]))
        if older := message.get("function_call"):
            found.append(chunk(index, function_call={**older, "arguments": ""}))
            found.append(chunk(index, function_call={"arguments": older["arguments"]}))
        found.append(chunk(index, finish=one["finish_reason"]))
    last = {**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}
    return [*found, event(last), DONE]


@pytest.mark.parametrize("name", ANSWERS)
async def test_the_result_is_the_plain_answer(upstream: Upstream, proxy: str, name: str) -> None:
    choices = ANSWERS[name]
    whole = {**HEAD, "object": "chat.completion", "choices": choices, "usage": USAGE}

    async def script(request: Request, wire: Wire) -> None:
        if request.json().get("stream"):
            await wire.stream(*streamed(choices), b"")
        else:
            await wire.answer(json.dumps(whole).encode(), "200 OK", JSON)

    upstream.script = script
    plain = await ask(proxy, "POST", CHAT, JSON, body=BODY)
    answer = await progress(proxy)
    told = events(answer)
    assert told[-1] == ("result", plain.json())
    content = choices[0]["message"]["content"] or ""
    tokens = {"input": 3, "output": 2, "total": 5}
    assert told[-2] == ("llm_response", {"agent": "m", "content": content, "tokens": tokens})
    steps = [fields["toolCallId"] for kind, fields in told if kind == "flow_step_complete"]
    calls = [one["id"] for own in choices for one in own["message"].get("tool_calls", ())]
    assert steps == calls or name == "older call"


async def test_an_upstream_that_does_not_stream(upstream: Upstream, proxy: str) -> None:
    """Its answer is the result, whatever is in there; compressed though it must not be."""
    whole = {**HEAD, "choices": ANSWERS["calls"], "usage": {**USAGE, "x": 1}, "own": [1.5, None]}
    data = gzip.compress(json.dumps(whole, indent=1).encode())

    async def script(_: Request, wire: Wire) -> None:
        await wire.answer(data, "200 OK", JSON, "Content-Encoding: gzip")

    upstream.script = script
    told = events(await progress(proxy))
    assert [kind for kind, _ in told] == [
        ": connected",
        "agent_start",
        *("flow_step_start", "flow_step_start", "flow_step_complete", "flow_step_complete"),
        "llm_response",
        "result",
    ]
    assert told[-1][1] == whole


async def test_a_tool_that_ran_behind_the_upstream(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = streams(
        tool_call("a", "ls", "{}"),
        delta(role="tool", tool_call_id="a", content="bin"),
        tool_call("b", "rm", "{}"),
        delta(role="tool", tool_call_id="b", content="no", is_error=True),
        text("ok"),
        delta("stop"),
        DONE,
    )
    told = events(await progress(await start_proxy({"lifecycle.result_preview": 20})))
    steps = [fields for kind, fields in told if kind == "flow_step_complete"]
    assert steps == [
        {"step": "ls", "result": "bin", "toolCallId": "a"},
        {"step": "rm", "result": "no", "toolCallId": "b", "isError": True},
    ]
    (own,) = told[-1][1]["choices"]
    assert own["message"] == {"role": "assistant", "content": "ok"}


async def test_a_step_that_the_client_runs(upstream: Upstream, start_proxy: StartProxy) -> None:
    """Span ``execution``: the step ends with the request that has the result."""
    url = await start_proxy({"lifecycle.span": "execution"})
    upstream.script = streams(tool_call("a", "ls", "{}"), delta("tool_calls"), DONE)
    first = events(await progress(url, ACCEPT, "X-Session-Id: s1"))
    assert [kind for kind, _ in first[2:]] == ["flow_step_start", "llm_response", "result"]
    (asked,) = first[-1][1]["choices"]
    result = {"role": "tool", "tool_call_id": "a", "content": "bin"}
    messages = [*QUESTION["messages"], asked["message"], result]
    upstream.script = streams(text("ok"), delta("stop"), DONE)
    body = json.dumps({**QUESTION, "messages": messages}).encode()
    second = events(await progress(url, ACCEPT, "X-Session-Id: s1", body=body))
    assert second[2] == ("flow_step_complete", {"step": "ls", "result": "", "toolCallId": "a"})
    assert [kind for kind, _ in second[3:]] == ["llm_response", "result"]


async def test_a_stream_that_is_compressed_and_unterminated(upstream: Upstream, proxy: str) -> None:
    data = gzip.compress(text("hi") + b"event: chunk\n" + delta("stop").rstrip())

    async def script(_: Request, wire: Wire) -> None:
        kind = "Content-Type: text/event-stream"
        await wire.answer(data, "200 OK", kind, "Content-Encoding: gzip")

    upstream.script = script
    (*_, (kind, fields)) = events(await progress(proxy))
    assert kind == "result"
    assert fields["choices"][0]["finish_reason"] == "stop"


# --- who asks for it ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "is_asked"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("application/json, text/event-stream;q=0.5", True),
        ("text/event-stream; charset=utf-8", True),
        ("text/event-stream; q=1", True),
        ("text/event-stream;q=0.001", True),
        ("text/event-stream;q=0, text/event-stream", True),
        ("text/event-stream;q=0", False),
        ("text/event-stream; Q = 0.000", False),
        ("*/*", False),
        ("text/*", False),
        ("application/json", False),
        ("text/event-streams", False),
        ("x-text/event-stream", False),
        ("", False),
    ],
)
async def test_the_accept_header(accept: str, is_asked: bool) -> None:
    assert asks_for_event_stream([accept]) is is_asked
    assert asks_for_event_stream(["application/json", accept]) is is_asked
    assert not asks_for_event_stream([])


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        ((), BODY),
        (("Accept: */*",), BODY),
        (("Accept: text/event-stream;q=0",), BODY),
        ((ACCEPT,), b'{"model": "m", "stream": true}'),
        ((ACCEPT,), b"[1, 2]"),
        ((ACCEPT,), b"{"),
    ],
)
async def test_any_other_request_passes_as_it_is(
    upstream: Upstream, proxy: str, lines: tuple[str, ...], body: bytes
) -> None:
    own = b'{"ok": "as it is"}'

    async def script(_: Request, wire: Wire) -> None:
        await wire.answer(own, "200 OK", JSON)

    upstream.script = script
    answer = await ask(proxy, "POST", CHAT, JSON, *lines, body=body)
    assert (upstream.request.body, answer.body) == (body, own)
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/embeddings"])
async def test_other_apis_pass_as_they_are(upstream: Upstream, proxy: str, path: str) -> None:
    answer = await ask(proxy, "POST", path, JSON, ACCEPT, body=BODY)
    assert (upstream.request.body, answer.body) == (BODY, b'{"ok": true}')


async def test_a_question_without_a_body(upstream: Upstream, proxy: str) -> None:
    assert (await ask(proxy, "POST", CHAT, ACCEPT)).body == b'{"ok": true}'


# --- errors -------------------------------------------------------------------------------------


async def error(url: str) -> dict[str, Any]:
    answer = await progress(url)
    assert answer.end == "clean"
    told = events(answer)
    assert told[:2] == [(": connected", None), ("agent_start", {"agent": "m"})]
    assert [kind for kind, _ in told].count("error") == 1
    kind, fields = told[-1]
    assert kind == "error"
    own: dict[str, Any] = fields
    return own


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            "401 Unauthorized",
            b'{"error": {"message": "bad key", "code": "invalid_api_key"}}',
            {"error": "bad key", "statusCode": 401, "code": "invalid_api_key"},
        ),
        ("429 Too Many", b'{"error": "slow"}', {"error": "slow", "statusCode": 429}),
        (
            "500 Oh",
            b"<html>",
            {
                "error": "the upstream answered with status 500 and no event stream",
                "statusCode": 500,
                "code": "upstream_protocol",
            },
        ),
    ],
)
async def test_a_status_of_the_upstream(
    upstream: Upstream, proxy: str, status: str, body: bytes, expected: Any
) -> None:
    async def script(_: Request, wire: Wire) -> None:
        await wire.answer(body, status, JSON)

    upstream.script = script
    assert await error(proxy) == expected


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (
            [text("a"), event({"error": {"message": "quota", "code": 429}})],
            {"error": "quota", "statusCode": 429, "code": 429},
        ),
        ([text("a"), event({"error": "quota"})], {"error": "quota", "statusCode": 502}),
        (
            [event({"error": {"status": 503, "why": 1}})],
            {"error": '{"status":503,"why":1}', "statusCode": 503},
        ),
        (
            [text("a")],
            {
                "error": "the upstream's stream ended before the answer was whole",
                "statusCode": 502,
                "code": "upstream_protocol",
            },
        ),
        (
            [text("a"), b"data: {oh\n\n", DONE],
            {
                "error": "an event of the upstream's stream is not valid JSON",
                "statusCode": 502,
                "code": "upstream_protocol",
            },
        ),
    ],
)
async def test_an_error_in_the_stream(
    upstream: Upstream, proxy: str, pieces: list[bytes], expected: Any
) -> None:
    upstream.script = streams(*pieces)
    assert await error(proxy) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "the upstream's answer is not a JSON object"),
        (b"{", "the upstream's answer is not a JSON object"),
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"x": "%b"}' % (b"y" * (5 << 20)), "the upstream's answer is too large"),
    ],
)
async def test_a_bad_answer_of_an_upstream_that_does_not_stream(
    upstream: Upstream, proxy: str, body: bytes, message: str
) -> None:
    async def script(_: Request, wire: Wire) -> None:
        await wire.answer(body, "200 OK", JSON)

    upstream.script = script
    fields = await error(proxy)
    assert (fields["error"], fields["statusCode"]) == (message, 502)


async def test_a_stream_that_breaks_off_closes_its_steps(upstream: Upstream, proxy: str) -> None:
    async def script(_: Request, wire: Wire) -> None:
        await wire.stream(tool_call("a", "ls", '{"x": '))
        wire.close()

    upstream.script = script
    answer = await progress(proxy)
    (step, (kind, fields)) = events(answer)[-2:]
    expected = {"step": "ls", "result": "upstream_error", "toolCallId": "a", "isError": True}
    assert step == ("flow_step_complete", expected)
    assert (kind, fields["statusCode"]) == ("error", 502)
    assert answer.end == "clean"


async def test_an_upstream_that_cannot_be_reached(upstream: Upstream, proxy: str) -> None:
    upstream.refuse()
    fields = await error(proxy)
    assert (fields["statusCode"], fields["code"]) == (502, "upstream_unreachable")


async def test_a_refused_key_is_a_plain_401(upstream: Upstream, start_proxy: StartProxy) -> None:
    answer = await progress(await start_proxy({"server.api_keys": ["secret-key"]}))
    assert (answer.status, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert upstream.requests == []


# --- time ---------------------------------------------------------------------------------------


async def test_it_begins_at_once_and_is_kept_alive(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    """Before the upstream answers, and while it streams what the client does not see."""
    may_answer, may_end = asyncio.Event(), asyncio.Event()

    async def script(_: Request, wire: Wire) -> None:
        await may_answer.wait()
        await wire.stream()
        while not may_end.is_set():
            await wire.chunk(text("a"))
            await asyncio.sleep(0.01)
        await wire.chunk(delta("stop") + DONE)
        await wire.chunk()

    upstream.script = script
    url = await start_proxy({"server.heartbeat_s": 0.05})
    async with Client(url) as client:
        await client.send("POST", CHAT, JSON, ACCEPT, body=BODY)
        answer = await (await client.head()).until(START + b": keepalive\n\n")
        may_answer.set()
        await answer.until(b": keepalive\n\n" * 4)
        may_end.set()
        assert events(await answer.read())[-1][0] == "result"


async def test_a_silent_upstream_is_given_up(upstream: Upstream, start_proxy: StartProxy) -> None:
    async def script(_: Request, wire: Wire) -> None:
        await wire.stream(text("a"))

    upstream.script = script
    fields = await error(await start_proxy({"upstream.stall_timeout_s": 0.2}))
    assert (fields["statusCode"], fields["code"]) == (504, "upstream_timeout")


@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_client_that_leaves_takes_the_upstream_with_it(
    upstream: Upstream, proxy: str, has_begun: bool
) -> None:
    asked = asyncio.Event()

    async def script(_: Request, wire: Wire) -> None:
        if has_begun:
            await wire.stream(tool_call())
        asked.set()

    upstream.script = script
    async with Client(proxy) as client:
        await client.send("POST", CHAT, JSON, ACCEPT, body=BODY)
        answer = await client.head()
        await answer.until(b"flow_step_start" if has_begun else b"agent_start")
        await asked.wait()
    await upstream.request.wire.left()


async def test_it_is_recorded_and_played(
    upstream: Upstream, start_proxy: StartProxy, runners: list[serve.Runner], tmp_path: Path
) -> None:
    upstream.script = streams(text("hi"), delta("stop"), DONE)
    own = {"recording.path": str(tmp_path), "recording.speed": 0}
    first = await progress(await start_proxy({**own, "recording.mode": "record"}))
    await serve.stop(runners.pop(), 0)
    (recorded,) = load(tmp_path)
    assert (recorded.client.status, recorded.client.body) == (200, first.body)
    assert recorded.forwarded is not None
    assert (recorded.request.body, recorded.forwarded.body) == (BODY, upstream.request.body)
    again = await progress(await start_proxy({**own, "recording.mode": "replay"}))
    assert events(again) == events(first)
    assert len(upstream.requests) == 1
