"""Span ``execution`` over real sockets: a call in one answer, its end in the next request."""

import asyncio
import json
import re
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

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
    delta,
    lifecycle,
    payloads,
    text,
    tool_call,
    without_frames,
)
from tests.fakes import chat as chat_of_nobody

pytestmark = pytest.mark.usefixtures("quiet")

SPAN = {"lifecycle.span": "execution"}
BY_HEADER = "X-Lifecycle-Span: execution"
USER = {"role": "user", "content": "hi"}
STEP = (
    delta(role="assistant"),
    tool_call("call_1", "terminal", '{"command": "ls"}'),
    delta("tool_calls"),
    DONE,
)
LAST = (text("42 files"), delta("stop"), DONE)


def one(call_id: str, name: str = "terminal", arguments: str = "{}") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def asked(*call_ids: str) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [one(i) for i in call_ids]}


def answer(call_id: str = "call_1", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "42", **more}


FOLLOW_UP = [USER, asked("call_1"), answer()]
_CALL = one("call_1", "terminal", '{"command":"ls"}')
REPEATED = [USER, {**asked(), "tool_calls": [_CALL]}, answer()]


SESSION = "X-Session-Id: s1"


async def chat(url: str, *lines: str, **more: Any) -> Answer:
    """One chat stream of a user who is told from others."""
    return await chat_of_nobody(url, SESSION, *lines, **more)


async def agent(request: Request, wire: Wire) -> None:
    """Asks for a tool until it is told a result."""
    has_result = (
        request.json()["messages"][-1:] and request.json()["messages"][-1]["role"] == "tool"
    )
    await wire.stream(*(LAST if has_result else STEP), b"")


@pytest.fixture
def backend(upstream: Upstream) -> Upstream:
    upstream.script = agent
    return upstream


@pytest.fixture
async def url(backend: Upstream, start_proxy: StartProxy) -> str:
    return await start_proxy(SPAN)


async def calls_over(url: str) -> dict[str, float]:
    """How many calls are over, by outcome."""
    shown = (await ask(url, "GET", "/-/metrics")).body.decode()
    found = re.findall(r'tool_calls_total\{gen_ai_tool_name="\w+",outcome="(\w+)"\} (\S+)', shown)
    return {outcome: float(number) for outcome, number in found}


# --- one step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_header", [True, False])
async def test_a_call_is_running_until_its_result_is_sent(
    backend: Upstream, start_proxy: StartProxy, by_header: bool
) -> None:
    url = await start_proxy({} if by_header else SPAN)
    lines = [BY_HEADER] if by_header else []
    first = await chat(url, *lines)
    assert lifecycle(first.body) == [("call_1", "running", None)]
    assert without_frames(first.body) == b"".join(STEP)
    await asyncio.sleep(0.05)
    second = await chat(url, *lines, messages=FOLLOW_UP)
    head = payloads(second.body)[0]
    assert (head["toolCallId"], head["status"], head["label"]) == ("call_1", "completed", "ls")
    assert 50 <= head["durationMs"] < 3000
    assert (head["id"], head["model"]) == ("chatcmpl-up", "up")
    assert "isError" not in head
    assert lifecycle(second.body) == [("call_1", "completed", None)]
    assert without_frames(second.body) == b"".join(LAST)
    assert lifecycle((await chat(url, *lines, messages=FOLLOW_UP)).body) == []


async def test_the_header_can_ask_for_the_other_span(url: str) -> None:
    first = await chat(url, "X-Lifecycle-Span: call")
    assert [status for _, status, _ in lifecycle(first.body)] == ["running", "completed"]
    assert lifecycle((await chat(url, messages=FOLLOW_UP)).body) == []


@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/messages"])
async def test_an_unknown_span_is_refused(backend: Upstream, url: str, path: str) -> None:
    refused = await ask(url, "POST", path, JSON, "X-Lifecycle-Span: both", body=b"{}")
    assert refused.status == 400
    assert refused.json()["error"]["param"] == "X-Lifecycle-Span"
    assert backend.requests == []


async def test_our_headers_are_not_forwarded(backend: Upstream, url: str) -> None:
    await chat(url, BY_HEADER, "X-Lifecycle-Events: plain", "X-Lifecycle-Else: 1", "X-Else: 1")
    sent = {name.lower() for name in backend.request.headers}
    assert "x-else" in sent
    assert not {name for name in sent if name.startswith("x-lifecycle")}


async def test_parallel_calls_complete_in_the_order_in_which_they_began(
    upstream: Upstream, url: str
) -> None:
    second = json.loads(tool_call("call_2", "web_search")[6:])
    second["choices"][0]["delta"]["tool_calls"][0]["index"] = 1
    both = (tool_call(), f"data: {json.dumps(second)}\n\n".encode(), delta("tool_calls"), DONE)

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*(LAST if len(request.json()["messages"]) > 1 else both), b"")

    upstream.script = script
    first = await chat(url, messages=[USER])
    assert [(i, status) for i, status, _ in lifecycle(first.body)] == [
        ("call_1", "running"),
        ("call_2", "running"),
    ]
    messages = [USER, asked("call_1", "call_2"), answer("call_2", is_error=True), answer("call_1")]
    second_answer = await chat(url, messages=messages)
    assert sorted(lifecycle(second_answer.body)) == [
        ("call_1", "completed", None),
        ("call_2", "completed", None),
    ]
    failed = [p["toolCallId"] for p in payloads(second_answer.body) if p.get("isError")]
    assert failed == ["call_2"]
    assert await calls_over(url) == {"ok": 1.0, "failed": 1.0}


async def test_a_call_without_a_result_is_abandoned(url: str) -> None:
    await chat(url)
    follow_up = await chat(url, messages=[USER, asked("call_1"), USER, answer("other")])
    assert lifecycle(follow_up.body)[0] == ("call_1", "completed", "abandoned")


async def test_another_conversation_leaves_the_call(url: str) -> None:
    await chat(url)
    assert lifecycle((await chat(url, messages=[USER, answer("other")])).body) == []
    assert lifecycle((await chat(url, messages=FOLLOW_UP)).body) == [("call_1", "completed", None)]


async def test_the_same_question_again_supersedes_the_call(url: str) -> None:
    await chat(url)
    assert lifecycle((await chat(url)).body) == [
        ("call_1", "completed", "superseded"),
        ("call_1", "running", None),
    ]


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        ("Authorization: Bearer one", "Authorization: Bearer two"),
        ("X-Session-Id: one", "X-Session-Id: two"),
    ],
)
async def test_nobody_else_can_complete_a_call(url: str, mine: str, other: str) -> None:
    await chat_of_nobody(url, mine)
    assert lifecycle((await chat_of_nobody(url, other, messages=REPEATED)).body) == []
    follow_up = await chat_of_nobody(url, mine, messages=REPEATED)
    assert lifecycle(follow_up.body) == [("call_1", "completed", None)]


@pytest.mark.parametrize(
    "lines",
    [
        ((), ()),
        (("Authorization: Bearer shared",),) * 2,
        (("X-Api-Key: shared",),) * 2,
        (("Cookie: session=1",), ("Cookie: session=2",)),
        (("Authorization: Bearer shared", "Cookie: a=1"), ("Authorization: Bearer shared",)),
    ],
)
@pytest.mark.parametrize("is_forged", [True, False])
async def test_a_guessed_id_tells_nothing_of_another_user(
    backend: Upstream, url: str, lines: tuple[tuple[str, ...], ...], is_forged: bool
) -> None:
    mine, other = lines
    await chat_of_nobody(url, *mine)
    guess = FOLLOW_UP if is_forged else [USER]
    got = await chat_of_nobody(url, *other, messages=guess)
    told = [(i, status) for i, status, _ in lifecycle(got.body)]
    assert ("call_1", "completed") not in told[:1]
    # The user of a shared credential still learns how the call ended.
    status = [("call_1", "completed", None)] if any("shared" in line for line in mine) else []
    assert lifecycle((await chat_of_nobody(url, *mine, messages=REPEATED)).body) == status


async def test_without_anything_that_tells_users_apart_the_span_is_the_call(url: str) -> None:
    first = await chat_of_nobody(url)
    assert [status for _, status, _ in lifecycle(first.body)] == ["running", "completed"]


async def test_a_call_whose_result_never_comes_is_counted(
    backend: Upstream, start_proxy: StartProxy
) -> None:
    url = await start_proxy({**SPAN, "lifecycle.registry_ttl_s": 0.05})
    await chat(url)
    async with asyncio.timeout(5):
        while not await calls_over(url):  # noqa: ASYNC110  nothing else shows it from outside
            await asyncio.sleep(0.02)
    assert await calls_over(url) == {"unknown": 1.0}
    assert lifecycle((await chat(url, messages=FOLLOW_UP)).body) == []


# --- follow-ups of other kinds --------------------------------------------------------------------


async def test_a_follow_up_that_is_no_stream_completes_the_call(
    upstream: Upstream, url: str
) -> None:
    await chat(url)

    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b'{"choices": []}', "200 OK", JSON)

    upstream.script = script
    body = json.dumps({"model": "m", "messages": FOLLOW_UP}).encode()
    plain = await ask(url, "POST", CHAT, JSON, SESSION, body=body)
    assert plain.body == b'{"choices": []}'
    assert await calls_over(url) == {"ok": 1.0}


@pytest.mark.parametrize("status", ["500 Oops", "429 Too Many Requests", "400 Bad Request"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_waits_for_the_follow_up_that_is_not_refused(
    upstream: Upstream, url: str, status: str, stream: bool
) -> None:
    await chat(url)

    async def refusing(request: Request, wire: Wire) -> None:
        await wire.answer(b"{}", status, JSON)

    upstream.script = refusing
    refused = await chat(url, messages=FOLLOW_UP, stream=stream)
    assert (refused.status, refused.body) == (int(status[:3]), b"{}")
    assert await calls_over(url) == {}
    upstream.script = agent
    assert lifecycle((await chat(url, messages=FOLLOW_UP)).body) == [("call_1", "completed", None)]


def streaming(*events: bytes) -> Script:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*events, b"")

    return script


@pytest.mark.parametrize(
    "events", [[], [b": ping\n\n"], [DONE], [b'data: {"error": {"message": "x"}}\n\n', DONE]]
)
async def test_a_follow_up_without_an_answer_tells_the_end(
    upstream: Upstream, url: str, events: list[bytes]
) -> None:
    await chat(url)
    upstream.script = streaming(*events)
    follow_up = await chat(url, messages=FOLLOW_UP)
    assert lifecycle(follow_up.body) == [("call_1", "completed", None)]
    assert without_frames(follow_up.body) == without_frames(b"".join(events))


async def test_a_follow_up_begun_with_signs_of_life_tells_the_end(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    settings = {"server.heartbeat_before_first_byte": True, "server.heartbeat_s": 0.03}
    url = await start_proxy({**SPAN, **settings})
    upstream.script = agent
    await chat(url)

    async def late(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.1)
        await agent(request, wire)

    upstream.script = late
    follow_up = await chat(url, messages=FOLLOW_UP)
    assert follow_up.body.startswith(b": ")
    assert lifecycle(follow_up.body) == [("call_1", "completed", None)]


async def test_the_result_may_come_while_the_first_stream_is_still_open(
    upstream: Upstream, url: str
) -> None:
    over = asyncio.Event()

    async def slow(request: Request, wire: Wire) -> None:
        if len(request.json()["messages"]) > 1:
            await wire.stream(*LAST, b"")
            return
        await wire.stream(*STEP[:-1])
        await over.wait()
        await wire.chunk(DONE)
        await wire.chunk()

    upstream.script = slow
    async with Client(url) as client:
        first = await (await client.chat(SESSION)).until(b'"running"')
        follow_up = await chat(url, messages=FOLLOW_UP)
        assert lifecycle(follow_up.body) == [("call_1", "completed", None)]
        over.set()
        await first.read()
    assert lifecycle(first.body) == [("call_1", "running", None)]
    assert without_frames(first.body) == b"".join(STEP)


@pytest.mark.parametrize("finished", [True, False])
async def test_a_client_that_leaves_takes_only_finished_calls_with_it(
    upstream: Upstream, url: str, finished: bool
) -> None:
    async def stuck(request: Request, wire: Wire) -> None:
        await wire.stream(*(STEP[:-1] if finished else (*STEP[:-2], text("so"))))
        await wire.gone.wait()

    upstream.script = stuck
    async with Client(url) as client:
        await (await client.chat(SESSION)).until(b'"running"')
    async with asyncio.timeout(5):
        await upstream.wires[0].left()
    upstream.script = agent
    follow_up = await chat(url, messages=FOLLOW_UP)
    assert lifecycle(follow_up.body) == ([("call_1", "completed", None)] if finished else [])
    assert await calls_over(url) == ({"ok": 1.0} if finished else {"cancelled": 1.0})


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_an_upstream_that_dies_behind_the_finish(
    upstream: Upstream, url: str, elsewhere: bool
) -> None:
    dies = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        if len(request.json()["messages"]) > 1:
            await wire.stream(*LAST, b"")
            return
        await wire.stream(*STEP[:-1])
        await dies.wait()
        wire.reset()

    upstream.script = script
    async with Client(url) as client:
        first = await (await client.chat(SESSION)).until(b'"running"')
        if elsewhere:
            await chat(url, messages=FOLLOW_UP)
        dies.set()
        await first.read()
    ends = lifecycle(first.body)[1:]
    assert ends == ([] if elsewhere else [("call_1", "completed", "upstream_error")])
    assert lifecycle((await chat(url, messages=FOLLOW_UP)).body) == []


# --- histories ------------------------------------------------------------------------------------


async def test_our_cards_do_not_reach_the_upstream(backend: Upstream, proxy: str) -> None:
    said = {"role": "assistant", "content": "Let me look. ", "tool_calls": [one("htp_call_1")]}
    end = {"role": "assistant", "content": "42 files"}
    await chat(proxy, messages=[USER, said, answer("htp_call_1"), end, USER])
    sent = backend.request
    assert sent.json()["messages"] == [
        USER,
        {"role": "assistant", "content": "Let me look. 42 files"},
        USER,
    ]
    assert sent.headers.getall("Content-Length") == [str(len(sent.body))]


@pytest.mark.parametrize(
    "body",
    [
        b'{ "stream":true,  "messages" : [ ], "x": 1e400, "y": "\\u00e9", "stream":true }\n',
        json.dumps({"stream": True, "messages": FOLLOW_UP}).encode(),
        b'{"stream": true, "messages": [{"role": "user", "content": "htp_ is a prefix"}]}',
        b'{"stream": true, "messages": [{"role": "user", "content": "htp_ \xff"}]}',
        b'{"stream": true, "messages": [htp_',
    ],
)
@pytest.mark.parametrize("lines", [[], [BY_HEADER]])
async def test_every_other_body_reaches_the_upstream_as_it_is(
    upstream: Upstream, proxy: str, body: bytes, lines: list[str]
) -> None:
    await ask(proxy, "POST", CHAT, JSON, *lines, body=body)
    assert upstream.request.body == body
    assert upstream.request.headers.getall("Content-Length") == [str(len(body))]


# --- what the proxy can do ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "lines", "told"),
    [
        ("/v1/capabilities", [], True),
        ("/v1/capabilities?x=1", [], True),
        ("/-/as/bare/v1/capabilities", [], True),
        ("/-/as/off/v1/capabilities", [], False),
        ("/v1/capabilities", ["X-Lifecycle-Events: off"], False),
    ],
)
async def test_capabilities_are_told_where_the_upstream_tells_none(
    upstream: Upstream, proxy: str, path: str, lines: list[str], told: bool
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b"not found", "404 Not Found")

    upstream.script = script
    shown = await ask(proxy, "GET", path, *lines)
    assert shown.status == 200
    assert shown.headers["Content-Type"].startswith("application/json")
    assert shown.json()["features"] == {
        "tool_progress_events": told,
        "chat_completions_streaming": True,
    }
    assert upstream.request.target.startswith("/v1/capabilities")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/capabilities", "200 OK"),
        ("GET", "/v1/capabilities", "401 Unauthorized"),
        ("GET", "/v1/capabilities", "500 Oops"),
        ("POST", "/v1/capabilities", "404 Not Found"),
        ("GET", "/v1/capabilities/x", "404 Not Found"),
        ("GET", "/capabilities", "404 Not Found"),
    ],
)
async def test_what_the_upstream_says_of_itself_stays(
    upstream: Upstream, proxy: str, method: str, path: str, status: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b'{"mine": 1}', status, JSON)

    upstream.script = script
    shown = await ask(proxy, method, path, body=b"{}" if method == "POST" else None)
    assert (shown.status, shown.body) == (int(status[:3]), b'{"mine": 1}')


# --- a real client --------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["chunk", "plain", "comment", "openwebui", "reasoning"])
async def test_the_openai_client_runs_a_tool_and_asks_again(url: str, dialect: str) -> None:
    told: list[tuple[str, str]] = []
    async with openai.AsyncOpenAI(base_url=f"{url}/-/as/{dialect}/v1", api_key="sk-x") as client:
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
        function: Any = {"type": "function", "function": {"name": "terminal", "strict": True}}
        asked: Any = {"model": "m", "messages": messages, "tools": [function]}
        for _ in range(2):
            async with client.chat.completions.stream(**asked) as stream:
                extras = [e.chunk.model_extra async for e in stream if e.type == "chunk"]
                told += [(extra["toolCallId"], extra["status"]) for extra in extras if extra]
                message = (await stream.get_final_completion()).choices[0].message
            if message.tool_calls:
                messages.append(
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {
                                "id": call.id,
                                "type": "function",
                                "function": {
                                    "name": call.function.name,
                                    "arguments": call.function.arguments,
                                },
                            }
                            for call in message.tool_calls
                        ],
                    }
                )
                messages += [
                    {"role": "tool", "tool_call_id": call.id, "content": "42"}
                    for call in message.tool_calls
                ]
    assert message.content == "42 files"
    assert len(messages) == 3
    shows = dialect in ("chunk", "plain", "openwebui")
    assert told == ([("call_1", "running"), ("call_1", "completed")] if shows else [])
    assert await calls_over(url) == {"ok": 1.0}
