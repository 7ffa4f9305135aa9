"""What wins where a stream says two things: kilroy's rules, on chat completions.

Source: kilroy, pull request 54 (provider tool lifecycle events), whose tests name most
of these rules. Where we decide otherwise the test says so: what is open at an abnormal end is
completed (kilroy tells nothing), a finish counts without ``[DONE]``, and of two different outputs
the first stays, since a completed cannot be taken back.
"""

from typing import Any

import pytest
from lifecycle_proxy.core.events import ToolCompleted
from lifecycle_proxy.core.labels import Labels

from tests.core import (
    BYTEWISE,
    DONE,
    WHOLE,
    Json,
    assert_paired,
    call,
    calls,
    chunk,
    finish,
    native,
    pairs,
    places,
    play,
    sse,
    text,
)

ARGS = '{"q":1}'
HEADS = calls(call(0, "a", "f", "{}")) + calls(call(1, "b", "g", "{}"))
OPEN = calls(call(0, "a", "f", ARGS))
STREAMED = calls(call(0, "a", "f")) + calls(call(arguments='{"q"')) + calls(call(arguments=":1}"))
RUNNING = ["running a f", "running b g"]

segmented = pytest.mark.parametrize(
    "sizes", [pytest.param(WHOLE, id="whole"), pytest.param(BYTEWISE, id="bytewise")]
)
errors = pytest.mark.parametrize(
    "error",
    [
        pytest.param(sse({"error": {"message": "x", "code": 502}}), id="object"),
        pytest.param(sse({"error": "x"}), id="string"),
        pytest.param(sse({"message": "x"}, "error"), id="event"),
        pytest.param(chunk({}, finish="stop", error={"message": "x"}), id="with a finish"),
    ],
)


def message(*entries: Json, reason: str | None = None, **fields: Any) -> bytes:
    """A chunk that sums up what was streamed."""
    summary = {"role": "assistant", "tool_calls": list(entries), **fields}
    choice = {"index": 0, "message": summary, "finish_reason": reason}
    return sse({"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice]})


# --- error over finish ---------------------------------------------------------------------------


@segmented
@errors
def test_an_error_before_the_finish_wins(error: bytes, sizes: tuple[int, ...]) -> None:
    body = HEADS + error + finish() + DONE
    played = play(body, sizes)
    assert played.told == [
        *RUNNING,
        "completed a f failed:upstream_error",
        "completed b g failed:upstream_error",
    ]
    assert places(played, body)[2:] == 2 * [len(HEADS)]


@segmented
@errors
def test_an_error_after_the_finish_wins_while_the_completion_is_held(
    error: bytes, sizes: tuple[int, ...]
) -> None:
    body = HEADS + finish() + b": ping\n\n" + error + DONE
    played = play(body, sizes)
    assert played.told == [
        *RUNNING,
        "completed a f failed:upstream_error",
        "completed b g failed:upstream_error",
    ]
    assert places(played, body)[2:] == 2 * [len(HEADS + finish() + b": ping\n\n")]


@segmented
@errors
def test_an_error_never_rewrites_a_call_that_is_done(error: bytes, sizes: tuple[int, ...]) -> None:
    result = chunk({"role": "tool", "tool_call_id": "a", "content": "x"})
    body = HEADS + result + error + finish("error") + DONE
    assert play(body, sizes).told == [
        *RUNNING,
        "completed a f ok",
        "completed b g failed:upstream_error",
    ]


@segmented
@errors
def test_an_error_after_all_is_told_tells_nothing(error: bytes, sizes: tuple[int, ...]) -> None:
    body = HEADS + finish() + text() + error + error + DONE
    assert play(body, sizes).told == [*RUNNING, "completed a f ok", "completed b g ok"]


# --- finishes and ends ---------------------------------------------------------------------------


@segmented
@pytest.mark.parametrize(
    "choice",
    [{}, {"delta": None}, {"delta": {}}, {"delta": {"content": None}}, {"message": None}],
    ids=str,
)
def test_a_finish_without_a_message_keeps_the_accumulated_calls(
    choice: Json, sizes: tuple[int, ...]
) -> None:
    end = sse({"choices": [{"index": 0, **choice, "finish_reason": "tool_calls"}]})
    body = calls(call(1, "b", "g", "{}")) + STREAMED + end + DONE
    assert pairs(play(body, sizes)) == ["b g {}", f"a f {ARGS}"]  # as they were first seen


@segmented
def test_a_finish_with_a_message_tells_no_call_again(sizes: tuple[int, ...]) -> None:
    played = play(STREAMED + message(call(0, "a", "f", ARGS), reason="tool_calls") + DONE, sizes)
    assert played.told == ["running a f", "completed a f ok"]


@segmented
@pytest.mark.parametrize("rest", [b"", text(), b": ping\n\n", b'data: {"cho', b"data: [DO"])
def test_an_end_with_neither_finish_nor_done_is_an_error(
    rest: bytes, sizes: tuple[int, ...]
) -> None:
    played = play(HEADS + rest, sizes)
    assert played.told == [
        *RUNNING,
        "completed a f cut:upstream_eof",
        "completed b g cut:upstream_eof",
    ]
    assert all(e.outcome.is_error for e in played.events if isinstance(e, ToolCompleted))


@segmented
def test_a_finish_without_done_is_a_finish(sizes: tuple[int, ...]) -> None:
    assert play(HEADS + finish(), sizes).told == [*RUNNING, "completed a f ok", "completed b g ok"]


@segmented
def test_an_abnormal_end_completes_what_is_open_and_nothing_else(sizes: tuple[int, ...]) -> None:
    body = HEADS + chunk({"tool_outputs": [{"id": "b"}]}) + finish()
    played = play(body, sizes, abort="upstream_reset")
    assert played.told == [
        *RUNNING,
        "completed b g ok",
        "completed a f failed:upstream_reset",
    ]
    assert_paired(played.events)


@segmented
@pytest.mark.parametrize(
    ("end", "dropped"),
    [
        pytest.param(finish(), 0, id="finish"),
        pytest.param(finish("length"), 0, id="another finish"),
        pytest.param(finish() + text() + finish("error"), 0, id="finish behind text"),
        pytest.param(DONE + DONE, 0, id="done"),
        pytest.param(native("completed", "a"), 1, id="native"),
    ],
)
def test_a_second_end_is_ignored(end: bytes, dropped: int, sizes: tuple[int, ...]) -> None:
    first = native("completed", "a") if dropped else finish()
    played = play(OPEN + first + end + text() + DONE, sizes)
    assert len(played.told) == 2
    assert played.told[1] == f"completed a f {'unknown' if dropped else 'ok'}"
    assert played.counts.dropped == dropped


# --- arguments -----------------------------------------------------------------------------------


@segmented
def test_arguments_begun_in_the_head_go_on_in_deltas(sizes: tuple[int, ...]) -> None:
    body = calls(call(0, "a", "f", '{"q"')) + calls(call(arguments=":1}")) + finish() + DONE
    assert pairs(play(body, sizes)) == [f"a f {ARGS}"]


@segmented
@pytest.mark.parametrize(
    ("streamed", "again"),
    [
        pytest.param(STREAMED, calls(call(0, "a", "f", ARGS)), id="head again"),
        pytest.param(OPEN, OPEN, id="head twice"),
        pytest.param(OPEN, calls(call(arguments=ARGS)), id="head, then delta"),
        pytest.param(
            OPEN,
            calls(call(arguments='{"q"')) + calls(call(arguments=":1}")),
            id="head, then deltas",
        ),
        pytest.param(STREAMED, calls(call(0, "a", None, ARGS)), id="id again"),
        pytest.param(STREAMED, calls(call(arguments=ARGS)), id="delta again"),
        pytest.param(STREAMED, message(call(0, "a", "f", ARGS)), id="message"),
        pytest.param(STREAMED, message(call(None, "a", "f", ARGS)), id="message, no index"),
        pytest.param(STREAMED, message(call(0, None, "f", ARGS)), id="message, no id"),
        pytest.param(STREAMED, message(call(0, "a", None, ARGS)), id="no name"),
        pytest.param(STREAMED + finish(), message(call(0, "a", "f", ARGS)), id="behind finish"),
    ],
)
def test_arguments_that_come_again_in_full_are_not_doubled(
    streamed: bytes, again: bytes, sizes: tuple[int, ...]
) -> None:
    played = play(streamed + again + finish() + DONE, sizes)
    assert pairs(played) == [f"a f {ARGS}"]
    assert len(played.events) == 2


@segmented
def test_a_label_survives_arguments_that_come_again(sizes: tuple[int, ...]) -> None:
    """The fixture of Kimi: all of it in the head, and all of it in a delta."""
    args = '{"command":"ls -la"}'
    body = calls(call(0, "a", "terminal", args)) + calls(call(arguments=args)) + finish() + DONE
    labels = [event.label for event in play(body, sizes, presenter=Labels()).events]
    assert labels == ["ls -la", "ls -la"]


@segmented
@pytest.mark.parametrize("summed_up", ['{"q"', ARGS], ids=["as cut", "in full"])
def test_arguments_cut_in_the_stream_are_not_doubled_by_a_message(
    summed_up: str, sizes: tuple[int, ...]
) -> None:
    streamed = calls(call(0, "a", "f", '{"q"'))
    end = message(call(0, "a", "f", summed_up))
    assert pairs(play(streamed + end + DONE, sizes)) in (['a f {"q"'], [f"a f {ARGS}"])


@segmented
def test_input_of_a_custom_tool_is_not_doubled_by_a_message(sizes: tuple[int, ...]) -> None:
    head, rest, whole = (
        {"index": 0, "type": "custom", **fields}
        for fields in (
            {"id": "a", "custom": {"name": "f", "input": ""}},
            {"custom": {"input": "print(1)"}},
            {"id": "a", "custom": {"name": "f", "input": "print(1)"}},
        )
    )
    body = calls(head) + calls(rest) + message(whole)
    assert pairs(play(body + finish() + DONE, sizes)) == ["a f print(1)"]


@segmented
@pytest.mark.parametrize(
    ("streamed", "summary"),
    [
        (calls(call(0, None, "f", ARGS)), {"tool_calls": [call(0, None, "f", ARGS)]}),
        (
            chunk({"function_call": {"name": "f", "arguments": ARGS}}),
            {"function_call": {"name": "f", "arguments": ARGS}},
        ),
    ],
    ids=["tool_calls", "function_call"],
)
def test_a_call_without_an_id_is_not_told_again_by_a_message(
    streamed: bytes, summary: Json, sizes: tuple[int, ...]
) -> None:
    end = sse({"choices": [{"index": 0, "message": summary, "finish_reason": "stop"}]})
    assert pairs(play(streamed + end + DONE, sizes)) == [f"made_1 f {ARGS}"]


@segmented
def test_a_message_alone_tells_all_its_calls(sizes: tuple[int, ...]) -> None:
    body = message(call(0, None, "f", ARGS), call(1, None, "g", "{}"))
    assert pairs(play(body + DONE, sizes)) == [f"made_1 f {ARGS}", "made_2 g {}"]


# --- output --------------------------------------------------------------------------------------

_ROLE_TOOL = chunk({"role": "tool", "tool_call_id": "a", "content": "x"})
_RESULTS = [{"tool_call_id": "a", "result": "x"}]
_OUTPUTS = [{"tool_call_id": "a", "output": "x"}]


@segmented
@pytest.mark.parametrize(
    ("first", "again"),
    [
        pytest.param(2 * chunk({"tool_outputs": _OUTPUTS}), b"", id="tool_outputs twice"),
        pytest.param(_ROLE_TOOL, chunk({"mcp_call_results": _RESULTS}), id="mcp after role"),
        pytest.param(
            _ROLE_TOOL,
            chunk({"provider_specific_fields": {"mcp_call_results": _RESULTS}}, finish="stop"),
            id="mcp in the finish",
        ),
        pytest.param(
            chunk({"mcp_call_results": _RESULTS}),
            chunk({}, tool_outputs=_OUTPUTS),
            id="beside the choices",
        ),
        pytest.param(
            chunk({"mcp_call_results": _RESULTS, "tool_outputs": _OUTPUTS}), b"", id="one delta"
        ),
        pytest.param(_ROLE_TOOL, message(reason="stop", tool_outputs=_OUTPUTS), id="message"),
        pytest.param(
            _ROLE_TOOL, finish() + text() + sse({"tool_outputs": _OUTPUTS}), id="behind it all"
        ),
    ],
)
def test_output_that_was_streamed_and_is_aggregated_again_is_told_once(
    first: bytes, again: bytes, sizes: tuple[int, ...]
) -> None:
    played = play(OPEN + first + again + text() + finish() + DONE, sizes, result_preview=9)
    assert played.told == ["running a f", "completed a f ok"]
    assert [e.output for e in played.events if isinstance(e, ToolCompleted)] == ["x"]
    assert played.counts.dropped == 1


_TOOL = {"index": 0, "type": "search", "arguments": ARGS}
_BARE = {"index": 0, "type": "search"}


@segmented
@pytest.mark.parametrize(
    ("tool", "ended", "again"),
    [
        pytest.param(_TOOL, _TOOL, _TOOL, id="whole"),
        pytest.param(_BARE, _BARE, _BARE, id="no arguments"),
        pytest.param(
            *(_TOOL, _TOOL, _BARE),
            id="arguments left out",
        ),
    ],
)
def test_an_executed_tool_with_its_output_twice_is_told_once(
    tool: Json, ended: Json, again: Json, sizes: tuple[int, ...]
) -> None:
    streamed = [tool, {**ended, "output": "x"}, {**again, "output": "x"}]
    body = b"".join(chunk({"executed_tools": [entry]}) + text() for entry in streamed)
    played = play(body + finish() + DONE, sizes, result_preview=9)
    assert played.told == ["running made_1 search", "completed made_1 search ok"]
    assert [e.output for e in played.events if isinstance(e, ToolCompleted)] == ["x"]
    assert played.counts.dropped == 1


@segmented
@pytest.mark.parametrize("status", [{}, {"is_error": True}])
def test_another_output_does_not_rewrite_the_first(status: Json, sizes: tuple[int, ...]) -> None:
    more = chunk({"tool_outputs": [{"tool_call_id": "a", "output": "xy", **status}]})
    played = play(OPEN + _ROLE_TOOL + more + finish() + DONE, sizes, result_preview=9)
    assert played.told == ["running a f", "completed a f ok"]
    assert [e.output for e in played.events if isinstance(e, ToolCompleted)] == ["x"]


@segmented
@pytest.mark.parametrize(
    "orphan",
    [
        pytest.param(chunk({"role": "tool", "tool_call_id": "z"}), id="role tool"),
        pytest.param(chunk({"tool_outputs": [{"id": "z"}]}), id="tool_outputs"),
        pytest.param(sse({"tool_outputs": [{"id": "z"}]}), id="no choices"),
        pytest.param(chunk({"mcp_call_results": [{"tool_call_id": "z"}]}), id="mcp"),
        pytest.param(native("completed", "z"), id="native"),
    ],
)
def test_a_result_of_an_unknown_call_is_dropped_and_counted(
    orphan: bytes, sizes: tuple[int, ...]
) -> None:
    played = play(orphan + OPEN + orphan + finish() + text() + orphan + DONE, sizes)
    assert played.told == ["running a f", "completed a f ok"]
    assert played.counts.dropped == 3


@segmented
def test_a_result_before_its_call_is_of_an_unknown_call(sizes: tuple[int, ...]) -> None:
    played = play(_ROLE_TOOL + OPEN + finish() + DONE, sizes, result_preview=9)
    assert played.told == ["running a f", "completed a f ok"]
    assert [e.output for e in played.events if isinstance(e, ToolCompleted)] == [None]
    assert played.counts.dropped == 1


# --- identity ------------------------------------------------------------------------------------


@segmented
@pytest.mark.parametrize("name", [None, "", "null"])
@pytest.mark.parametrize("end", [finish() + DONE, sse({"error": "x"}), DONE, b""])
def test_a_call_without_a_name_is_never_told(
    end: bytes, name: str | None, sizes: tuple[int, ...]
) -> None:
    body = calls(call(0, "a", name, "{")) + calls(call(0, "a", name, "}")) + end
    played = play(body, sizes)
    assert played.events == []
    assert played.data == body


@segmented
@pytest.mark.parametrize("call_id", [None, "", "null"])
def test_a_call_without_an_id_gets_a_made_up_one(
    call_id: str | None, sizes: tuple[int, ...]
) -> None:
    heads = [calls(call(index, call_id, name)) for index, name in enumerate("fg")]
    rest = [calls(call(index, call_id, None, "{}")) for index in (0, 1)]
    played = play(b"".join(heads + rest) + finish() + DONE, sizes)
    assert played.told == [
        *("running made_1 f", "running made_2 g"),
        *("completed made_1 f ok", "completed made_2 g ok"),
    ]
