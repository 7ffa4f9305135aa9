"""The arguments of calls, for readers beside a stream that were asked for them."""

import asyncio
import json
from typing import Any, Final

import pytest

from tests.conftest import StartProxy
from tests.fakes import (
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
    delta,
    event,
    text,
    tool_call,
)
from tests.handlers.test_streams import parsed, reading, types

pytestmark = pytest.mark.usefixtures("quiet")

ON: Final = "X-Lifecycle-Arguments: on"
PLAIN: Final = {"lifecycle.redact": False}
_PIECES: Final = ('{"query":', '"sk-abcd', 'efgh12345678"}')
_SECRET: Final = "".join(_PIECES)


def chat_piece(piece: str, **more: Any) -> bytes:
    return delta(tool_calls=[{"index": 0, "function": {"arguments": piece}, **more}])


def _chat() -> list[bytes]:
    pieces = [chat_piece(piece) for piece in _PIECES]
    return [tool_call("a", "t", ""), *pieces, delta("tool_calls"), DONE]


def _responses() -> list[bytes]:
    item = {"type": "function_call", "id": "fc", "call_id": "a", "name": "t", "arguments": ""}
    place = {"output_index": 0, "item_id": "fc"}
    kind = "response.function_call_arguments"
    return [
        event({"type": "response.created", "response": {"id": "r", "status": "in_progress"}}),
        event({"type": "response.output_item.added", "output_index": 0, "item": item}),
        *(event({"type": f"{kind}.delta", **place, "delta": piece}) for piece in _PIECES),
        event({"type": f"{kind}.done", **place, "arguments": _SECRET}),
        event(
            {
                "type": "response.output_item.done",
                "output_index": 0,
                "item": {**item, "arguments": _SECRET, "status": "completed"},
            }
        ),
        event({"type": "response.completed", "response": {"id": "r", "status": "completed"}}),
    ]


def _messages() -> list[bytes]:
    block = {"type": "tool_use", "id": "a", "name": "t", "input": {}}
    pieces = [
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "input_json_delta", "partial_json": piece},
        }
        for piece in _PIECES
    ]
    return [
        event({"type": "message_start", "message": {"id": "m", "role": "assistant"}}),
        event({"type": "content_block_start", "index": 0, "content_block": block}),
        *map(event, pieces),
        event({"type": "content_block_stop", "index": 0}),
        event({"type": "message_delta", "delta": {"stop_reason": "tool_use"}}),
        event({"type": "message_stop"}),
    ]


_APIS: Final = [
    ("/v1/chat/completions", _chat),
    ("/v1/responses", _responses),
    ("/v1/messages", _messages),
]


def script_of(*chunks: bytes) -> Script:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*chunks, b"")

    return script


async def told(proxy: str, answer: Answer, query: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = await ask(proxy, "GET", answer.headers["X-Stream-Url"] + query)
    return [(kind, data) for _, kind, data in parsed(found.body)]


def arguments_of(found: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    names = ("toolCallId", "choice", "delta")
    return [
        {name: data[name] for name in names if name in data}
        for kind, data in found
        if kind == "tool.arguments"
    ]


async def post(proxy: str, path: str, *lines: str) -> Answer:
    body = json.dumps({"model": "m", "messages": [], "input": "hi", "stream": True}).encode()
    return await ask(proxy, "POST", path, JSON, *lines, body=body)


@pytest.mark.parametrize(("path", "chunks"), _APIS)
async def test_arguments_come_between_the_events_of_their_call(
    upstream: Upstream, start_proxy: StartProxy, path: str, chunks: Any
) -> None:
    upstream.script = script_of(*chunks())
    proxy = await start_proxy(PLAIN)
    found = await told(proxy, await post(proxy, path, ON))
    kinds = [kind for kind, _ in found if kind != "tool.arguments"]
    assert kinds == ["stream.started", "tool.running", "tool.completed", "stream.done"]
    assert [kind for kind, _ in found][2:-2] == ["tool.arguments"] * (len(found) - 4)
    assert "".join(one["delta"] for one in arguments_of(found)) == _SECRET
    assert "X-Lifecycle-Arguments" not in upstream.request.headers


@pytest.mark.parametrize(("path", "chunks"), _APIS)
async def test_a_secret_in_several_pieces_is_redacted(
    upstream: Upstream, proxy: str, path: str, chunks: Any
) -> None:
    steps = chunks()
    go = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*steps[:4])
        await go.wait()
        for step in (*steps[4:], b""):
            await wire.chunk(step)

    upstream.script = script
    async with Client(proxy) as client:
        body = json.dumps({"model": "m", "messages": [], "input": "x", "stream": True}).encode()
        await client.send("POST", path, JSON, ON, body=body)
        answer = await client.head()
        async with reading(proxy, answer.headers["X-Stream-Url"]) as beside:
            await beside.until(b"tool.running")
            await asyncio.sleep(0.25)  # longer than a batch: had it passed, it would be there
            go.set()
            await beside.read()
    assert b"sk-abcd" not in beside.body
    assert b"efgh12345678" not in beside.body
    found = [(kind, data) for _, kind, data in parsed(beside.body)]
    assert arguments_of(found) == [{"toolCallId": "a", "delta": '{"query":"***"}'}]


async def test_pieces_come_while_the_call_is_written(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    steps = [asyncio.Event() for _ in range(2)]

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call("a", "t", ""), chat_piece('{"a'), chat_piece('":'))
        await steps[0].wait()
        await wire.chunk(chat_piece("1"))
        await steps[1].wait()
        for chunk in (chat_piece("}"), delta("tool_calls"), DONE, b""):
            await wire.chunk(chunk)

    upstream.script = script
    proxy = await start_proxy(PLAIN)
    async with Client(proxy) as client:
        answer = await client.chat(ON)
        async with reading(proxy, answer.headers["X-Stream-Url"]) as beside:
            await beside.until(b'"delta":"{\\"a\\":"')  # two pieces, one event
            steps[0].set()
            await beside.until(b'"delta":"1"')
            steps[1].set()
            await beside.read()
    assert types(beside.body)[-3:] == ["tool.arguments", "tool.completed", "stream.done"]


@pytest.mark.parametrize(
    ("settings", "lines", "wanted"),
    [
        ({}, (), False),
        ({}, ("X-Event-Stream-Id: my-stream-1",), False),
        ({}, ("X-Lifecycle-Text: on",), False),
        ({}, ("X-Lifecycle-Text: on", ON), True),
        ({}, (ON, "X-Lifecycle-Resume: 60", "Idempotency-Key: k"), True),
        ({"streams.arguments": True}, (), True),
        ({"streams.arguments": True}, ("X-Lifecycle-Arguments: off",), False),
    ],
)
async def test_who_wants_arguments(
    upstream: Upstream,
    start_proxy: StartProxy,
    settings: dict[str, Any],
    lines: tuple[str, ...],
    wanted: bool,
) -> None:
    upstream.script = script_of(text("a"), *_chat())
    proxy = await start_proxy(settings)
    found = await told(proxy, await chat(proxy, *lines))
    assert bool(arguments_of(found)) is wanted


async def test_a_wish_that_is_none(proxy: str) -> None:
    answer = await chat(proxy, "X-Lifecycle-Arguments: maybe")
    assert (answer.status, answer.json()["error"]["param"]) == (400, "X-Lifecycle-Arguments")


async def test_calls_without_ids(upstream: Upstream, start_proxy: StartProxy) -> None:
    entries = [
        {"index": n, "function": {"name": "t", "arguments": f'{{"n":{n}}}'}} for n in range(2)
    ]
    upstream.script = script_of(delta(tool_calls=entries), delta("tool_calls"), DONE)
    for settings in ({}, PLAIN):
        proxy = await start_proxy(settings)
        found = await told(proxy, await chat(proxy, ON))
        ids = [data["toolCallId"] for kind, data in found if kind == "tool.running"]
        expected = [{"toolCallId": own, "delta": f'{{"n":{n}}}'} for n, own in enumerate(ids)]
        assert len(set(ids)) == 2
        assert arguments_of(found) == expected


async def test_a_call_that_the_client_runs(upstream: Upstream, proxy: str) -> None:
    """Its end comes with another request; its arguments belong to this stream."""
    upstream.script = script_of(*_chat())
    lines = ("X-Lifecycle-Span: execution", "X-Session-Id: s", "Authorization: Bearer k")
    answer = await chat(proxy, ON, *lines)
    found = await ask(proxy, "GET", answer.headers["X-Stream-Url"], lines[2])
    assert types(found.body) == ["stream.started", "tool.running", "tool.arguments", "stream.done"]


async def test_text_and_arguments_keep_their_order(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    chunks = (text("a"), tool_call("a", "t", "{"), chat_piece("}"), delta("tool_calls"))
    upstream.script = script_of(b"".join((*chunks, text("b"), DONE)))
    proxy = await start_proxy(PLAIN)
    found = await told(proxy, await chat(proxy, ON, "X-Lifecycle-Text: on"))
    assert [kind for kind, _ in found][1:-1] == [
        *("text", "tool.running", "tool.arguments", "tool.completed", "text")
    ]


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        ("ag-ui", b'{"type":"TOOL_CALL_ARGS","toolCallId":"a","delta":"{\\"query\\":\\"***\\"}"}'),
        ("vercel-ui", b'"tool-input-delta","toolCallId":"a","inputTextDelta":"{\\"query\\":\\"***'),
        ("openai-responses", b"event: response.function_call_arguments.delta"),
    ],
)
async def test_other_vocabularies_have_a_place_for_them(
    upstream: Upstream, proxy: str, dialect: str, expected: bytes
) -> None:
    upstream.script = script_of(*_chat())
    answer = await chat(proxy, ON)
    url = f"{answer.headers['X-Stream-Url']}?dialect={dialect}"
    assert expected in (await ask(proxy, "GET", url)).body
