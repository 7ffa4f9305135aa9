"""LobeChat's requests over real sockets: it is recognised, and its lines come back to nobody."""

import json
from typing import Any

import pytest

from tests.conftest import StartProxy
from tests.fakes import (
    CHAT,
    DONE,
    JSON,
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

MARK = "\u2063"
CALL = tool_call(arguments='{"command": "df -h /"}')
EVENTS = (
    *(delta(role="assistant"), text("Let me look. "), CALL),
    *(delta("tool_calls"), text("Half full."), delta("stop"), DONE),
)
BEGUN = f"Let me look. \n\n> {MARK * 2}💻 terminal: `df -h /` …"
NEW_API = "x-client: LobeHub"
NODE_4 = ("x-stainless-lang: js", "x-stainless-package-version: 4.104.0")
USER = {"user": "DEFAULT_LOBE_CHAT_USER"}
ASKED = {"role": "user", "content": "How full is the disk?"}


async def agent(request: Request, wire: Wire) -> None:
    await wire.stream(*EVENTS, b"")


@pytest.fixture(autouse=True)
def script(upstream: Upstream) -> None:
    upstream.script = agent


def said(body: bytes) -> str:
    """The answer's text as a page puts it together."""
    chunks = (chunk for one in payloads(body) for chunk in one.get("choices", ()))
    return "".join(chunk["delta"].get("content") or "" for chunk in chunks)


@pytest.mark.parametrize(
    ("lines", "more"),
    [
        ((NEW_API,), {}),
        ((NEW_API, *NODE_4), {}),
        (NODE_4, USER),
        (("X-Lifecycle-Events: quote",), {}),
    ],
)
async def test_lobe_chat_is_recognised(proxy: str, lines: tuple[str, ...], more: Any) -> None:
    answer = await chat(proxy, *lines, **more)
    found = said(answer.body)
    assert found.startswith(BEGUN)
    assert found.endswith(f" s{MARK}\n\nHalf full.")
    assert b"hermes.tool.progress" not in answer.body


async def test_others_and_those_who_say_what_they_want_get_no_lines(proxy: str) -> None:
    for lines, more in (
        (NODE_4, {}),
        (NODE_4, {"user": "7"}),
        ((NEW_API, "X-Lifecycle-Events: chunk"), USER),
    ):
        assert MARK not in said((await chat(proxy, *lines, **more)).body)


async def test_an_unknown_name_is_refused_before_the_backend_is_asked(
    proxy: str, upstream: Upstream
) -> None:
    for target in (CHAT, "/v1/responses", "/v1/messages", "/v1/models"):
        path = f"/-/as/klingon{target}"
        answer = await ask(proxy, "POST", path, JSON, body=b'{"stream": true, "messages": []}')
        assert (answer.status, answer.json()["error"]["code"]) == (400, "bad_request")
    assert upstream.requests == []


async def turn(proxy: str, target: str, asked: Any, *lines: str, is_ascii: bool = True) -> None:
    body = json.dumps(asked, ensure_ascii=is_ascii).encode()
    answer = await ask(proxy, "POST", target, JSON, *lines, body=body)
    assert answer.status == 200


@pytest.mark.parametrize("is_ascii", [True, False])
async def test_the_backend_never_sees_a_line(
    proxy: str, upstream: Upstream, is_ascii: bool
) -> None:
    found = said((await chat(proxy, NEW_API, messages=[ASKED])).body)
    clean = "Let me look. Half full."
    assert found != clean

    def talks(answer: str) -> list[tuple[str, Any]]:
        parts = [{"type": "text", "text": answer}]
        turns = [ASKED, {"role": "assistant", "content": answer}, ASKED]
        in_parts = [ASKED, {"role": "assistant", "content": parts}, ASKED]
        prompt = f"Summarize:\nuser: hi\nassistant: {answer}\nJSON: {json.dumps(answer)}"
        return [
            (CHAT, {"stream": True, "messages": turns}),
            (CHAT, {"stream": False, "messages": in_parts}),
            (CHAT, {"messages": [{"role": "user", "content": prompt}]}),
            ("/v1/responses", {"stream": True, "input": in_parts}),
            ("/v1/messages", {"stream": True, "system": prompt, "messages": turns}),
        ]

    for (target, asked), (_, expected) in zip(talks(found), talks(clean), strict=True):
        await turn(proxy, target, asked, NEW_API, is_ascii=is_ascii)
        assert upstream.requests[-1].body == json.dumps(expected, ensure_ascii=is_ascii).encode()


async def test_lines_are_taken_out_for_any_client(proxy: str, upstream: Upstream) -> None:
    """A user may go on in another page, or with another provider of the same one."""
    line = f"a\n\n> {MARK * 2}💻 terminal …{MARK}\n\nb"
    await turn(proxy, CHAT, {"messages": [{"role": "user", "content": line}]})
    assert upstream.request.json()["messages"] == [{"role": "user", "content": "ab"}]
    assert int(upstream.request.headers["Content-Length"]) == len(upstream.request.body)


async def test_the_line_is_there_while_the_tool_runs(proxy: str, upstream: Upstream) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*EVENTS[:2], CALL)
        await wire.left(30)

    upstream.script = script
    async with Client(proxy) as client:
        answer = await (await client.chat(NEW_API)).until("…".encode())
    assert said(answer.body) == BEGUN


async def test_a_backend_that_dies_leaves_no_line_open(proxy: str, upstream: Upstream) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*EVENTS[:2], CALL)
        wire.close()

    upstream.script = script
    answer = await chat(proxy, NEW_API)
    found = said(answer.body)
    assert found.startswith(f"{BEGUN} ✗ ")
    assert found.endswith(f" s{MARK}\n\n")
    assert list(payloads(answer.body)[-1]) == ["error"]


@pytest.mark.parametrize(("dialect", "expected"), [("strip", b""), ("off", None)])
async def test_strip_takes_out_what_off_passes(
    start_proxy: StartProxy, upstream: Upstream, dialect: str, expected: bytes | None
) -> None:
    native = event({"tool": "ls", "toolCallId": "a", "status": "running"}, "hermes.tool.progress")

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("a"), native, CALL, text("b"), DONE, b"")

    upstream.script = script
    url = await start_proxy({"lifecycle.dialect": dialect})
    middle = native if expected is None else expected
    assert (await chat(url)).body == text("a") + middle + CALL + text("b") + DONE


@pytest.mark.parametrize("profile", ["", "/-/as/reasoning", "/-/as/quote", "/-/as/openwebui"])
async def test_no_named_event_for_an_old_sdk_in_a_responses_stream(
    proxy: str, upstream: Upstream, profile: str
) -> None:
    item = {"type": "web_search_call", "id": "ws_1", "status": "in_progress"}
    added = {"type": "response.output_item.added", "output_index": 0, "item": item}
    done = {"type": "response.output_item.done", "output_index": 0, "item": item}

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(event({"type": "response.created"}), event(added), event(done), b"")

    upstream.script = script
    target = f"{profile}/v1/responses"
    for lines, named in ((NODE_4, False), ((), True)):
        body = json.dumps({"stream": True, "input": "hi"}).encode()
        answer = await ask(proxy, "POST", target, JSON, *lines, body=body)
        assert answer.body.count(b'"toolCallId":"ws_1"') == 2
        assert (b"event: hermes" in answer.body) is named


async def test_a_large_conversation_is_cleaned(proxy: str, upstream: Upstream) -> None:
    line = f"\n\n> {MARK * 2}💻 terminal: `ls` … ✓ 0.1 s{MARK}\n\n"
    turns = [{"role": "assistant", "content": f"word{line}word " * 20}] * 200
    await turn(proxy, CHAT, {"messages": turns})
    assert upstream.request.json()["messages"] == [{**turns[0], "content": "wordword " * 20}] * 200
