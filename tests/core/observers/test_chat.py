"""Chat completions chunks as backends write them, and when a call is over."""

from typing import Any

import pytest
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.events import Envelope
from lifecycle_proxy.core.observers.chat import ChatObserver
from lifecycle_proxy.core.sse import Event

from tests.core import (
    BYTEWISE,
    DONE,
    WHOLE,
    call,
    calls,
    chunk,
    finish,
    pairs,
    play,
    sse,
    text,
)

HEAD = calls(call(0, "a", "f"))
CALL = calls(call(0, "a", "f", "{}"))
ERROR = sse({"error": {"message": "no"}})


@pytest.mark.parametrize("sizes", [WHOLE, (7,), BYTEWISE])
@pytest.mark.parametrize(
    ("rest", "ending"),
    [
        pytest.param(finish() + DONE, "ok", id="finish"),
        pytest.param(finish("stop") + DONE, "ok", id="stop"),
        pytest.param(finish("length") + DONE, "cut:length", id="length"),
        pytest.param(finish("content_filter"), "cancelled:content_filter", id="filter"),
        pytest.param(finish("error") + DONE, "failed:error", id="finish error"),
        pytest.param(finish() + finish("error") + DONE, "ok", id="finish twice"),
        pytest.param(finish() + sse({"choices": [], "usage": {}}) + DONE, "ok", id="usage"),
        pytest.param(DONE, "unknown", id="done"),
        pytest.param(b"data:[DONE]\n\n", "unknown", id="done without space"),
        pytest.param(b"data:  [DONE] \n\n", "unknown", id="done in spaces"),
        pytest.param(b"data: [DONE]", "unknown", id="done without line end"),
        pytest.param(b"", "cut:upstream_eof", id="end"),
        pytest.param(text(), "cut:upstream_eof", id="text"),
        pytest.param(ERROR + DONE, "failed:upstream_error", id="error"),
        pytest.param(sse({"error": "no"}), "failed:upstream_error", id="error string"),
        pytest.param(finish() + ERROR, "failed:upstream_error", id="error beats finish"),
        pytest.param(finish() + text() + ERROR, "ok", id="error after the finish"),
        pytest.param(
            chunk({}, finish="stop", error={"code": 502}), "failed:upstream_error", id="both"
        ),
        pytest.param(sse({"x": 1}, "error"), "failed:upstream_error", id="event error"),
        pytest.param(sse("Bad Gateway", "error"), "failed:upstream_error", id="event error, text"),
        pytest.param(sse("", "error"), "failed:upstream_error", id="event error, nothing"),
        pytest.param(b"error: {}\n\n" + DONE, "unknown", id="a field named error"),
        pytest.param(chunk({}, error=None) + DONE, "unknown", id="error null"),
    ],
)
def test_a_call_is_over(rest: bytes, ending: str, sizes: tuple[int, ...]) -> None:
    told = play(HEAD + rest, sizes).told
    assert told == ["running a f", f"completed a f {ending}"]


@pytest.mark.parametrize(
    "quiet",
    [
        b": ping\n\n",
        b"data: \n\n",
        b"event: x\n\n",
        sse({"type": "ping"}),
    ],
)
def test_pings_are_no_substance(quiet: bytes) -> None:
    played = play([CALL + finish(), quiet, text()])
    assert played.data.index(quiet) < played.data.index(played.frames[1])


@pytest.mark.parametrize(
    "loud",
    [
        text(),
        sse("{broken"),
        sse([1]),
        sse(1),
        sse({"choices": []}),
        # SDKs take the usage from the last chunk they see: none of ours may follow.
        sse({"choices": [], "usage": {"total_tokens": 1}}),
        sse({"usage": None}),
        sse({"choices": None}),
        sse({"sources": [1]}),
        chunk({"reasoning_content": "hm"}),
        DONE,
    ],
)
def test_whatever_else_comes_is_substance(loud: bytes) -> None:
    played = play([CALL + finish(), loud])
    assert played.told[1] == "completed a f ok"
    assert played.data.index(played.frames[1]) < played.data.index(loud)


@pytest.mark.parametrize(
    "body",
    [
        chunk({"function_call": {"name": "f", "arguments": ""}})
        + chunk({"function_call": {"arguments": "{}"}}),
        chunk({"tool_calls": [{"index": 0, "custom": {"name": "f", "input": "{}"}}]}),
        chunk({"tool_calls": {"index": 0, "function": {"name": "f", "arguments": {}}}})
        + calls(call(arguments="{}")),
        chunk({"tool_calls": [{"type": "f", "f": {"input": "{}"}}]}),
        sse({"choices": [{"message": {"tool_calls": [call(0, None, "f", "{}")]}}]}),
    ],
    ids=["function_call", "custom", "an object", "all-tools", "message"],
)
def test_calls_without_an_id_in_other_clothes(body: bytes) -> None:
    assert pairs(play(body + finish())) == ["made_1 f {}"]


def test_arguments_may_be_an_object() -> None:
    assert pairs(play(calls(call(0, "a", "f", {"q": "é"})))) == ['a f {"q": "é"}']


def test_a_legacy_call_is_told_with_its_name() -> None:
    assert play(chunk({"function_call": {"name": "f"}})).told[0] == "running made_1 f"


def test_tool_calls_win_over_a_function_call() -> None:
    both = {"tool_calls": [call(0, "a", "f", "{}")], "function_call": {"name": "f"}}
    assert pairs(play(chunk(both) + finish())) == ["a f {}"]


def test_builtin_functions_are_calls() -> None:
    entry = {"index": 0, "id": "a", "type": "builtin_function", "function": {"name": "$web_search"}}
    assert pairs(play(calls(entry))) == ["a $web_search $web_search"]


def test_definitions_are_no_calls() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    delta = {"provider_specific_fields": {"mcp_list_tools": tools}}
    assert play(chunk(delta) + DONE).events == []


def test_mcp_tool_calls_are_calls() -> None:
    delta = {"provider_specific_fields": {"mcp_tool_calls": [call(0, "a", "f", "{}")]}}
    assert pairs(play(chunk(delta) + DONE)) == ["a f {}"]


def test_a_message_that_sums_up_without_ids_adds_nothing() -> None:
    message = {"tool_calls": [call(0, None, "f", "{}")]}
    summary = sse({"id": "chatcmpl-1", "choices": [{"message": message, "finish_reason": "stop"}]})
    assert pairs(play(CALL + finish() + summary + DONE)) == ["a f {}"]


def test_a_choice_without_an_index_is_the_first() -> None:
    body = sse({"choices": [{"delta": {"tool_calls": [call(0, "a", "f")]}}]})
    assert play(body + finish() + text()).told[1] == "completed a f ok"


def test_choices_that_end_in_one_chunk() -> None:
    entries = [
        {"index": i, "delta": {"tool_calls": [call(0, "a", "f")]}, "finish_reason": "stop"}
        for i in range(3)
    ]
    assert play(sse({"choices": entries}) + DONE).told == [
        *("running a f", "running a/1 f", "running a/2 f"),
        *("completed a f ok", "completed a/1 f ok", "completed a/2 f ok"),
    ]


_JUNK: list[Any] = [None, [], {}, "", "x", 0, 1, True, 1.5, [None], ["x"], [[]], [{}], {"a": []}]


@pytest.mark.parametrize("junk", _JUNK, ids=repr)
@pytest.mark.parametrize(
    "place",
    [
        lambda x: {"choices": x},
        lambda x: {"choices": [x]},
        lambda x: {"choices": [{"index": x, "delta": x, "message": x, "finish_reason": x}]},
        lambda x: {"choices": [{"delta": {"tool_calls": x, "function_call": x}}]},
        lambda x: {"choices": [{"delta": {"tool_calls": [x, [x]]}}]},
        lambda x: {"choices": [{"delta": {"tool_calls": [{"function": x, "custom": x}]}}]},
        lambda x: {"choices": [{"delta": {"tool_calls": [{"id": x, "index": x, "type": x}]}}]},
        lambda x: {"choices": [{"delta": {"executed_tools": x, "provider_specific_fields": x}}]},
        lambda x: {"choices": [{"delta": {"role": "tool", "tool_call_id": x}}]},
        lambda x: {"choices": [{"delta": {"mcp_call_results": x, "tool_outputs": x}}]},
        lambda x: {"choices": [{"delta": {}, "tool_outputs": x}], "tool_outputs": x, "id": x},
        lambda x: x,
    ],
)
def test_wrong_types_are_passed_over(place: Any, junk: Any) -> None:
    body = sse(place(junk))
    played = play(body + CALL + finish("stop") + DONE)
    assert "running a f" in played.told
    assert played.counts.failure is None


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"delta":{"tool_calls":[{"id":"a","function":{"name":"f","x":NaN}}]}}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"id":"a","function":{"name":"f","x":"\xff"}}]}}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"id":"a","function":{"name":"f","x":"\\ud800"}}]}}]}',
    ],
)
def test_json_of_sloppy_servers_is_read(data: bytes) -> None:
    assert play(b"data: " + data + b"\n\n").told[0] == "running a f"


def test_a_sloppy_native_event_is_read() -> None:
    payload = '{"toolCallId":"a","tool":"f","status":"running","x":NaN}'
    body = sse(payload, "hermes.tool.progress")
    assert play(body).told[0] == "running a f"


@pytest.mark.parametrize("data", [b"{", b"<html>", b"\xff", b"[" * 100_000, b"DONE"])
def test_what_is_no_json_is_counted_and_passes(data: bytes) -> None:
    body = b"data: " + data + b"\n\n"
    played = play(CALL + body + finish() + DONE)
    assert played.counts.undecodable == 1
    assert played.told == ["running a f", "completed a f ok"]
    assert body in played.data


@pytest.mark.usefixtures("usual_recursion_limit")
def test_arguments_nested_beyond_reason_are_not_shown() -> None:
    deep = b"[" * 1000 + b"]" * 1000
    assert pairs(play(calls(call(0, "a", "f", "@")).replace(b'"@"', deep))) == ["a f f"]


# --- what frames copy ----------------------------------------------------------------------------


def envelope_after(*chunks: object) -> Envelope:
    observer = ChatObserver(Counts())
    for number, payload in enumerate(chunks):
        raw = sse(payload)
        observer.observe(Event(raw, b"", raw[6:-2]))
        assert number >= 0
    envelope = Envelope("own", 1, "model")
    observer.update(envelope)
    return envelope


def test_frames_copy_id_created_and_model_of_the_latest_chunk() -> None:
    choices = [{"delta": {"content": "x"}}]
    first = {"id": "c1", "created": 2, "model": "m", "choices": choices}
    assert envelope_after({**first, "id": "c0"}, first, {"id": "no"}) == Envelope("c1", 2, "m")


@pytest.mark.parametrize("junk", [None, "", [], True, 1.5])
def test_what_cannot_be_copied_stays(junk: object) -> None:
    payload = {"id": junk, "created": junk, "model": junk, "choices": [{"delta": {}}]}
    assert envelope_after(payload) == Envelope("own", 1, "model")
    assert envelope_after() == Envelope("own", 1, "model")


def test_an_event_without_data_says_nothing() -> None:
    assert ChatObserver(Counts()).observe(Event(b": x\n\n", b"", None)) == ()


def test_the_frame_carries_the_upstreams_id() -> None:
    assert b'{"id":"chatcmpl-1","object":' in play(CALL, dialect=DIALECTS["plain"]).data
