"""Results of tools that ran behind the upstream, in every place where servers put them."""

from typing import Any

import pytest
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.events import ToolCompleted

from tests.core import (
    BYTEWISE,
    DONE,
    WHOLE,
    Json,
    call,
    calls,
    chunk,
    finish,
    pairs,
    play,
    sse,
    text,
)

CALL = calls(call(0, "a", "f", "{}"))


def result_of(body: bytes, *, preview: int = 100) -> list[tuple[str, str | None]]:
    played = play(body, result_preview=preview)
    return [(e.outcome.value, e.output) for e in played.events if isinstance(e, ToolCompleted)]


def top(**fields: Any) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {}, **fields.pop("choice", {})}], **fields})


@pytest.mark.parametrize("sizes", [WHOLE, BYTEWISE])
@pytest.mark.parametrize(
    "result",
    [
        chunk({"role": "tool", "tool_call_id": "a", "content": "x"}),
        sse({"id": "a", "choices": [{"delta": {"role": "tool", "content": "x"}}]}),
        chunk({"mcp_call_results": [{"tool_call_id": "a", "result": "x"}]}),
        chunk({"provider_specific_fields": {"mcp_call_results": [{"tool_call_id": "a"}]}}),
        chunk({"tool_outputs": [{"tool_call_id": "a", "output": "x"}]}),
        chunk({"tool_outputs": [{"call_id": "a", "output": "x"}]}),
        chunk({"tool_outputs": [{"id": "a", "output": "x"}]}),
        top(choice={"tool_outputs": [{"id": "a"}]}),
        top(tool_outputs=[{"id": "a"}]),
        sse({"tool_outputs": [{"id": "a"}]}),
        sse({"choices": [{"message": {"role": "tool", "tool_call_id": "a"}}]}),
        calls({"index": 0, "id": "a", "function": {"output": "x"}}),
        calls({"index": 0, "id": "a", "function": {}, "result": "x"}),
        calls({"index": 0, "id": "a", "function": {}, "outputs": ["x"]}),
    ],
)
def test_a_result_ends_its_call_there(result: bytes, sizes: tuple[int, ...]) -> None:
    played = play(CALL + result + text() + finish() + DONE, sizes)
    assert played.told == ["running a f", "completed a f ok"]
    assert played.data.index(played.frames[1]) < played.data.index(text())


@pytest.mark.parametrize(
    ("entry", "outcome", "output"),
    [
        ({"content": "x"}, "ok", "x"),
        ({"tool_result": "x"}, "ok", "x"),
        ({"result": {"a": 1}}, "ok", '{"a": 1}'),
        ({"output": "", "content": "x"}, "ok", None),
        ({"content": "x", "is_error": True}, "failed", "x"),
        ({"content": "x", "isError": True}, "failed", "x"),
        ({"content": "x", "error": "no"}, "failed", "x"),
        ({"content": "x", "error": None, "is_error": False}, "ok", "x"),
        ({"content": "x", "status": "failed"}, "failed", "x"),
        ({"content": "x", "status": "error"}, "failed", "x"),
        ({"content": "x", "status": ["error"]}, "ok", "x"),
        ({}, "ok", None),
    ],
)
def test_a_result_tells_its_outcome_and_output(
    entry: Json, outcome: str, output: str | None
) -> None:
    body = CALL + chunk({"role": "tool", "tool_call_id": "a", **entry})
    assert result_of(body) == [(outcome, output)]


@pytest.mark.parametrize(("preview", "shown"), [(0, None), (3, "abc"), (100, "abcdef")])
def test_of_a_result_as_much_is_told_as_is_asked_for(preview: int, shown: str | None) -> None:
    body = CALL + chunk({"role": "tool", "tool_call_id": "a", "content": "abcdef"})
    assert result_of(body, preview=preview) == [("ok", shown)]
    data = play(body, dialect=DIALECTS["plain"], result_preview=preview).data
    assert (b'"result":"abcdef"' in data) is (shown == "abcdef")


@pytest.mark.parametrize(
    "orphan",
    [
        chunk({"role": "tool", "tool_call_id": "b"}),
        chunk({"role": "tool"}),
        chunk({"role": "tool", "tool_call_id": ["a"]}),
        chunk({"tool_outputs": [{"output": "x"}]}),
        chunk({"mcp_call_results": [{"tool_call_id": 1}]}),
    ],
)
def test_a_result_of_nobody_is_dropped_and_counted(orphan: bytes) -> None:
    played = play(CALL + orphan + finish() + DONE)
    assert played.told == ["running a f", "completed a f ok"]
    assert played.counts.dropped == 1


def test_a_second_result_is_dropped_and_counted() -> None:
    result = chunk({"role": "tool", "tool_call_id": "a", "content": "x"})
    played = play(CALL + 2 * result + DONE)
    assert len(played.events) == 2
    assert played.counts.dropped == 1


def test_a_result_finds_its_call_in_another_choice() -> None:
    body = CALL + calls(call(0, "b", "g"), choice=1)
    result = chunk({"role": "tool", "tool_call_id": "b"}, choice=0)
    assert play(body + result).told[2] == "completed b/1 g ok"


# --- Groq's built-in tools -----------------------------------------------------------------------


def executed(*entries: object, **more: Any) -> bytes:
    return chunk({"executed_tools": list(entries)}, **more)


SEARCH = {"index": 0, "type": "search", "arguments": '{"q":1}'}


@pytest.mark.parametrize("sizes", [WHOLE, BYTEWISE])
def test_an_executed_tool_runs_until_its_output(sizes: tuple[int, ...]) -> None:
    before, after = executed(SEARCH), executed({**SEARCH, "output": "x"}, id="stub")
    played = play(before + text() + after + text() + finish() + DONE, sizes)
    assert played.told == ["running made_1 search", "completed made_1 search ok"]
    assert [event.label for event in played.events] == ['{"q":1}'] * 2
    assert played.data.index(text()) < played.data.index(played.frames[1])


def test_parallel_tools_end_one_by_one() -> None:
    both = calls(call(0, "a", "f", "{}"), call(1, "b", "g", "{}"), finish="tool_calls")
    of_b, of_a = (chunk({"role": "tool", "tool_call_id": id_, "content": "x"}) for id_ in "ba")
    played = play([both, of_b, b": a still runs\n\n", of_a, text()])
    assert played.told[2:] == ["completed b g ok", "completed a f ok"]
    assert played.data.index(b": a still runs") < played.data.index(played.frames[3])


def test_an_executed_tool_may_come_with_its_output() -> None:
    assert result_of(executed({"name": "f", "output": {"a": 1}})) == [("ok", '{"a": 1}')]


def test_executed_tools_without_an_index_count_by_their_place() -> None:
    body = executed({"type": "f"}, {"type": "g"}) + executed({"type": "f", "output": "x"})
    assert play(body + DONE).told == [
        *("running made_1 f", "running made_2 g"),
        *("completed made_1 f ok", "completed made_2 g unknown"),
    ]


def test_an_executed_tool_with_other_arguments_after_its_output_is_another_one() -> None:
    first, second = {**SEARCH, "output": "x"}, {**SEARCH, "arguments": "{}", "output": "y"}
    assert pairs(play(executed(first) + executed(second))) == [
        'made_1 search {"q":1}',
        "made_2 search {}",
    ]


def test_an_executed_tool_told_again_after_its_output_is_nothing_new() -> None:
    body = 2 * executed({**SEARCH, "output": "x"})
    played = play(body)
    assert len(played.events) == 2
    assert played.counts.dropped == 1


def test_an_executed_tool_without_a_name_is_nothing() -> None:
    assert play(executed({"index": 0, "output": "x", "arguments": 1})).events == []


# --- Zhipu's all-tools ---------------------------------------------------------------------------


def test_outputs_in_the_entry_of_the_call_end_it() -> None:
    head = {"id": "a", "type": "code", "code": {"input": "1+1"}}
    end = {"id": "a", "type": "code", "code": {"outputs": [{"x": 2}]}}
    assert result_of(calls(head) + calls(end) + finish()) == [("ok", '[{"x": 2}]')]


def test_a_result_that_is_null_is_none() -> None:
    entry = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}, "output": None}
    assert play(calls(entry) + text()).told == ["running a f", "completed a f cut:upstream_eof"]


def test_entries_of_no_known_form_are_passed_over() -> None:
    fields = {"mcp_tool_calls": ["x", call(0, "a", "f", "{}")]}
    assert play(chunk({"provider_specific_fields": fields}) + DONE).told[0] == "running a f"
