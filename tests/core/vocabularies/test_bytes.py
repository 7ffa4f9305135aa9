"""What readers beside a stream get, to the byte: a file in ``expected/`` for each vocabulary."""

from pathlib import Path
from typing import Any, Final

import pytest
from lifecycle_proxy.core.stream_events import EventType, StreamEvent
from lifecycle_proxy.core.vocabularies import VOCABULARIES, Vocabulary, agentlang

from tests.core.vocabularies.legal import Data

_EXPECTED: Final = Path(__file__).parent / "expected"
_AT: Final = 1700000000.1234
_CALL: Final[Data] = {"tool": "terminal", "emoji": "💻", "label": "ls", "toolCallId": "call_1"}
_HOSTED: Final[Data] = {**_CALL, "tool": "search", "toolCallId": "call_2", "hosted": True}
_FAILOVER: Final = {
    "from_provider": "a",
    "from_model": "m",
    "to_provider": "b",
    "to_model": "n",
    "reason": "503",
}
# A stream with all there is.
ROWS: Final[tuple[tuple[EventType, Data], ...]] = (
    ("stream.started", {"model": "m", "api": "chat", "requestId": "req_1"}),
    ("text", {"text": "hm", "kind": "reasoning", "choice": 0}),
    ("text", {"text": "Hé", "kind": "text", "choice": 0}),
    ("text", {"text": "llo", "kind": "text", "choice": 0}),
    ("tool.running", {**_CALL, "status": "running", "arguments": '{"command":"ls"}'}),
    ("tool.running", {**_HOSTED, "status": "running"}),
    ("tool.arguments", {"toolCallId": "call_2", "delta": '{"q":'}),
    ("tool.arguments", {"toolCallId": "call_2", "delta": "1}"}),
    (
        "tool.completed",
        {**_HOSTED, "status": "completed", "durationMs": 3, "result": "bin", "outcome": "ok"},
    ),
    (
        "tool.completed",
        {
            **_CALL,
            "status": "completed",
            "durationMs": 4,
            "isError": True,
            "reason": "length",
            "outcome": "cut",
        },
    ),
    ("llm_failover", _FAILOVER),
    ("usage", {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}),
    ("stream.done", {"status": "completed", "durationMs": 5, "calls": 2}),
)


def of(seq: int, type_: EventType, **data: Any) -> StreamEvent:
    return StreamEvent(seq, _AT, type_, data)


def made(name: str) -> Vocabulary:
    return VOCABULARIES[name]("st_1")


@pytest.mark.parametrize("name", VOCABULARIES)
def test_every_byte_of_a_stream(name: str) -> None:
    own = made(name)
    events = (StreamEvent(seq, _AT, *row) for seq, row in enumerate(ROWS, 1))
    written = b"".join((own.begin(), *map(own.render, events), own.done()))
    assert written == (_EXPECTED / f"{name}.sse").read_bytes()


@pytest.mark.parametrize(
    ("name", "status", "expected"),
    [
        ("kilroy", "failed", '"event":"run_failed","status":"fail","reason":"upstream_timeout"}'),
        ("kilroy", "cancelled", '"event":"run_failed","status":"canceled","reason":"upstream_ti'),
        ("rdev", "failed", 'event: done\ndata: {"exit_code":1,"duration_ms":5}'),
        ("rdev", "failed", '{"type":"stderr","content":"upstream_timeout"}'),
        ("agentlang", "failed", '{"error":"upstream_timeout","statusCode":504}'),
        ("ag-ui", "failed", '{"type":"RUN_ERROR","message":"upstream_timeout","code":"upstream_ti'),
        ("vercel-ui", "failed", '{"type":"error","errorText":"upstream_timeout"}'),
        ("vercel-ui", "cancelled", '{"type":"abort","reason":"upstream_timeout"}'),
        ("openai-responses", "failed", '{"code":"server_error","message":"upstream_timeout"}'),
        ("openai-responses", "incomplete", '"incomplete_details":{"reason":"max_output_tokens"}'),
    ],
)  # fmt: skip
def test_other_ends(name: str, status: str, expected: str) -> None:
    done = of(1, "stream.done", status=status, reason="upstream_timeout", durationMs=5, calls=0)
    assert expected in made(name).render(done).decode()


def test_a_reason_that_is_not_known() -> None:
    done = of(1, "stream.done", status="failed")
    assert b'"error":"failed","statusCode":502' in made("agentlang").render(done)
    assert b'"message":"failed"' in made("ag-ui").render(done)
    cut = of(1, "stream.done", status="incomplete", reason="content_filter")
    assert b'{"reason":"content_filter"}' in made("openai-responses").render(cut)


GAPS: Final = {
    "kilroy": b'data: {"id":"0000000d","ts":"1970-01-01T00:00:00Z","run_id":"st_1","node_id":"",'
    b'"backend":"api","event":"gap","requested":3,"first_available":7}\n\n',
    "rdev": b'event: output\ndata: {"type":"stderr","content":"output is missing: events 3 to 6"}'
    b"\n\n",
    "agentlang": b'event: gap\ndata: {"requested":3,"firstAvailable":7}\n\n',
    "ag-ui": b'data: {"type":"CUSTOM","name":"gap","value":{"requested":3,"firstAvailable":7}}\n\n'
    b'data: {"type":"TOOL_CALL_START","toolCallId":"call_1","toolCallName":"terminal"}\n\n',
    "vercel-ui": b'data: {"type":"data-gap","data":{"requested":3,"firstAvailable":7}}\n\n'
    b'data: {"type":"tool-input-start","toolCallId":"call_1","toolName":"terminal",'
    b'"dynamic":true,"providerExecuted":true}\n\n',
}


@pytest.mark.parametrize("name", GAPS)
def test_a_gap(name: str) -> None:
    assert made(name).gap(3, 7, [_CALL]) == GAPS[name]


def test_a_gap_in_a_response() -> None:
    written = made("openai-responses").gap(3, 7, [_CALL])
    assert b'"type":"keepalive","sequence_number":2,"event":"gap","requested":3' in written
    assert b'"type":"response.output_item.added","sequence_number":3,"output_index":0' in written


RESETS: Final = {
    "kilroy": b"",
    "rdev": b"",
    "agentlang": b"",
    "ag-ui": b'data: {"type":"TOOL_CALL_END","toolCallId":"call_2"}\n\n'
    b'data: {"type":"CUSTOM","name":"reset","value":{"requested":9}}\n\n',
    "vercel-ui": b'data: {"type":"data-reset","data":{"requested":9}}\n\n',
    "openai-responses": b'event: keepalive\ndata: {"type":"keepalive","sequence_number":4,'
    b'"event":"reset","requested":9}\n\n',
}


@pytest.mark.parametrize("name", RESETS)
def test_a_reset_with_an_open_call(name: str) -> None:
    own = made(name)
    own.render(of(1, "tool.running", **_HOSTED))
    assert own.reset(9) == RESETS[name]
    assert own.render(of(1, "tool.running", **_HOSTED)) or name == "rdev"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rdev", b": keep-alive\n\n"),
        ("agentlang", b": keepalive\n\n"),
        ("ag-ui", b": keep-alive\n\n"),
        ("vercel-ui", b": keep-alive\n\n"),
        ("openai-responses", b": keep-alive\n\n"),
        ("kilroy", b": keep-alive\n\n"),
    ],
)
def test_silence(name: str, expected: bytes) -> None:
    assert made(name).keep_alive(_AT) == expected


@pytest.mark.parametrize("name", VOCABULARIES)
def test_events_without_any_field(name: str) -> None:
    """A log may be of a later version."""
    types: tuple[EventType, ...] = (
        "stream.started",
        "text",
        "tool.arguments",
        "tool.running",
        "tool.running",
        "tool.arguments",
        "tool.completed",
        "tool.completed",
        "usage",
        "llm_failover",
        "approval.request",
        "stream.done",
    )
    own = made(name)
    written = [own.render(StreamEvent(seq, _AT, type_, {})) for seq, type_ in enumerate(types, 1)]
    assert all(isinstance(frames, bytes) for frames in written)


def test_arguments_behind_the_whole_ones_are_ignored() -> None:
    whole = {**_CALL, "arguments": "{}"}
    more = {"toolCallId": "call_1", "delta": "{}"}
    for name in ("ag-ui", "vercel-ui", "openai-responses"):
        own = made(name)
        assert own.render(StreamEvent(1, _AT, "tool.running", whole))
        assert own.render(StreamEvent(2, _AT, "tool.arguments", more)) == b""


def test_arguments_that_are_not_json() -> None:
    own = made("vercel-ui")
    written = own.render(of(1, "tool.running", **_CALL, arguments="{oh"))
    assert b'"input":"{oh"' in written
    large = "[" * 300_000
    assert b'"input":"[[' in own.render(of(1, "tool.running", toolCallId="b", arguments=large))


def test_texts_of_many_choices_are_not_all_open() -> None:
    own = made("ag-ui")
    for choice in range(17):
        written = own.render(of(choice + 1, "text", text="a", kind="text", choice=choice))
    assert b'{"type":"TEXT_MESSAGE_END","messageId":"st_1-message-1"}' in written


def test_items_that_are_not_kept_for_the_end() -> None:
    own = made("openai-responses")
    for number in range(4100):
        own.render(of(number, "tool.completed", tool="t", toolCallId=f"c{number}"))
    written = own.render(of(9999, "stream.done", status="completed"))
    assert written.count(b'"type":"function_call"') == 4096


def test_an_agent_without_usage() -> None:
    frames = made("agentlang").render(of(1, "stream.done", status="completed"))
    assert frames == (
        b'event: llm_response\ndata: {"agent":"","content":""}\n\n'
        b'event: result\ndata: {"content":"","status":"completed"}\n\n'
    )


def test_an_error_of_an_agent() -> None:
    assert agentlang.error("no", 401) == (
        b'event: error\ndata: {"error":"no","statusCode":401}\n\n'
    )
    assert b'"statusCode":429,"code":7}' in agentlang.error("no", 429, 7)


def test_two_choices_with_a_call_of_one_id() -> None:
    own = made("ag-ui")
    own.render(of(1, "tool.running", **_CALL))
    assert b'"toolCallId":"call_1#1"' in own.render(of(2, "tool.running", **_CALL, choice=1))
    assert b'"toolCallId":"call_1"' in own.render(of(3, "tool.completed", **_CALL))
    assert b'"toolCallId":"call_1#1"' in own.render(of(4, "tool.completed", **_CALL, choice=1))


def test_a_call_that_ended_in_a_gap() -> None:
    for name, end in (("vercel-ui", b"tool-input-available"), ("ag-ui", b"TOOL_CALL_END")):
        own = made(name)
        own.render(of(1, "tool.running", **_CALL))
        own.render(of(2, "tool.running", **_HOSTED))
        written = own.gap(3, 7, [])
        assert written.count(end) == 2
        assert written.count(b"tool-output-available") == (name == "vercel-ui")  # the hosted one's


@pytest.mark.parametrize(
    ("more", "is_told"),
    [
        ({"outcome": "unknown"}, False),
        ({"outcome": "unknown", "hosted": True}, True),
        ({"outcome": "unknown", "result": "x"}, True),
        ({"outcome": "ok"}, True),
        ({"outcome": "cut", "isError": True}, True),
    ],
)
def test_a_call_that_the_client_runs_has_no_result_when_it_is_written(
    more: Data, is_told: bool
) -> None:
    """An empty one would say that the tool gave nothing."""
    for name, end in (("vercel-ui", b"tool-output"), ("ag-ui", b"TOOL_CALL_RESULT")):
        own = made(name)
        own.render(of(1, "tool.running", **_CALL))
        written = own.render(of(2, "tool.completed", **_CALL, **more))
        assert (end in written) is is_told
        assert b"tool-input-available" in written or b"TOOL_CALL_END" in written
        assert own.render(of(3, "tool.running", **_CALL))


CLOSED: Final = {
    "hermes": b'event: closed\ndata: {"reason":"not_begun","message":"why","streamId":"st_1"}\n\n',
    "kilroy": b'data: {"id":"80000001","ts":"1970-01-01T00:00:00Z","run_id":"st_1","node_id":"",'
    b'"backend":"api","event":"closed","reason":"not_begun","message":"why"}\n\n',
    "rdev": b'event: output\ndata: {"type":"stderr","content":"why"}\n\n',
    "agentlang": b'event: closed\ndata: {"reason":"not_begun","message":"why"}\n\n',
    "ag-ui": b'data: {"type":"RUN_ERROR","message":"why","code":"not_begun"}\n\n',
    "vercel-ui": b'data: {"type":"error","errorText":"why"}\n\n',
    "openai-responses": b'event: error\ndata: {"type":"error","sequence_number":0,'
    b'"code":"not_begun","message":"why","param":null}\n\n',
}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_connection_that_ends_before_the_stream(name: str) -> None:
    assert made(name).closed("not_begun", "why") == CLOSED[name]


def test_arguments_in_pieces_are_the_input() -> None:
    own = made("vercel-ui")
    own.render(of(1, "tool.running", **_CALL))
    for piece in ('{"a"', ":1}"):
        own.render(of(2, "tool.arguments", toolCallId="call_1", delta=piece))
    assert b'"input":{"a":1}' in own.render(of(3, "tool.completed", **_CALL))


def test_a_call_that_is_open_twice_begins_once() -> None:
    own = made("vercel-ui")
    assert own.render(of(1, "tool.running", **_CALL))
    assert own.render(of(2, "tool.running", **_CALL)) == b""
