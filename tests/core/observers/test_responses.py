"""OpenAI Responses streams: each kind of item, whoever runs it, however the events come."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from lifecycle_proxy.core.arguments import Arguments
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.events import (
    CallDelta,
    Envelope,
    ToolCompleted,
    ToolRunning,
)
from lifecycle_proxy.core.observers.responses import ResponsesObserver
from lifecycle_proxy.core.sse import Parser

from tests.choices import Choices, Make, either, made, made_all, picking
from tests.core import (
    BYTEWISE,
    DONE,
    WHOLE,
    Json,
    Played,
    assert_paired,
    native,
    pairs,
    places,
    sse,
)
from tests.core import play as play_any
from tests.core.odd import Odd

_numbers = itertools.count()


def event(kind: str, **fields: Any) -> bytes:
    """One event as OpenAI writes it."""
    return sse({"type": kind, "sequence_number": next(_numbers), **fields}, kind)


def added(item: object, place: object = 0) -> bytes:
    return event("response.output_item.added", output_index=place, item=item)


def done(item: object, place: object = 0) -> bytes:
    return event("response.output_item.done", output_index=place, item=item)


def words(text: str = "hi") -> bytes:
    return event("response.output_text.delta", item_id="msg_1", output_index=0, delta=text)


def response(state: str, **fields: Any) -> bytes:
    body = {"id": "resp_1", "created_at": 7, "model": "m", **fields}
    return event(f"response.{state}", response=body)


def function(arguments: object = "", status: str = "in_progress", **fields: Any) -> Json:
    item = {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "f"}
    return {**item, "arguments": arguments, "status": status, **fields}


CREATED = response("created", status="in_progress")
COMPLETED = response("completed", status="completed")
HEAD = added(function())
WRITTEN = done(function('{"x":1}', "completed"))


def play(body: Any, sizes: tuple[int, ...] = WHOLE, **options: Any) -> Played:
    played = play_any(body, sizes, observer="responses", **options)
    assert played.counts.failure is None
    return played


def outputs(played: Played) -> list[str | None]:
    return [e.output for e in played.events if isinstance(e, ToolCompleted)]


# --- each kind of item ---------------------------------------------------------------------------

_DIRECT = [
    (function('{"x":1}'), "a f", '{"x":1}'),
    ({"type": "custom_tool_call", "call_id": "a", "name": "f", "input": "x y"}, "a f", "x y"),
    (
        {"type": "computer_call", "id": "i", "call_id": "a", "action": {"type": "click"}},
        "a computer",
        '{"type": "click"}',
    ),
    (
        {"type": "computer_call", "call_id": "a", "actions": [{"type": "wait"}]},
        "a computer",
        '{"actions": [{"type": "wait"}]}',
    ),
    (
        {"type": "local_shell_call", "call_id": "a", "action": {"command": ["ls"]}},
        "a local_shell",
        '{"command": ["ls"]}',
    ),
    (
        {"type": "shell_call", "call_id": "a", "environment": {"type": "local"}},
        "a shell",
        "shell",
    ),
    (
        {"type": "apply_patch_call", "call_id": "a", "operation": {"path": "p"}},
        "a apply_patch",
        '{"path": "p"}',
    ),
    (
        {"type": "tool_search_call", "call_id": "a", "execution": "client", "arguments": {"q": 1}},
        "a tool_search",
        '{"q": 1}',
    ),
    ({"type": "new_call", "call_id": "a", "environment": "odd"}, "a new", "new"),
]
_HOSTED = [
    (
        {"type": "mcp_call", "id": "i", "name": "f", "arguments": "{}", "output": "o"},
        ("i f", "{}", "o"),
    ),
    (
        {"type": "web_search_call", "id": "i", "action": {"type": "search", "query": "q"}},
        ("i web_search", '{"type": "search", "query": "q"}', None),
    ),
    (
        {"type": "file_search_call", "id": "i", "queries": ["q"], "results": [{"text": "t"}]},
        ("i file_search", '{"queries": ["q"]}', '[{"text": "t"}]'),
    ),
    (
        {"type": "code_interpreter_call", "id": "i", "code": "1+1", "outputs": None},
        ("i code_interpreter", '{"code": "1+1"}', None),
    ),
    (
        {"type": "image_generation_call", "id": "i", "result": "iVBORw0KGgo="},
        ("i image_generation", "image_generation", None),
    ),
    ({"type": "new_call", "id": "i", "result": {"x": 1}}, ("i new", "new", '{"x": 1}')),
]
_ANSWERED = [
    ({"type": "program", "call_id": "a", "code": "1"}, "program_output", "a program"),
    (
        {"type": "shell_call", "call_id": "a", "environment": {"type": "container_reference"}},
        "shell_call_output",
        "a shell",
    ),
    ({"type": "tool_search_call", "call_id": "a"}, "tool_search_output", "a tool_search"),
]


def _ids(value: Any) -> str | None:
    return str(value["type"]) if isinstance(value, dict) else None


@pytest.mark.parametrize("sizes", [WHOLE, (50,), BYTEWISE])
@pytest.mark.parametrize(("item", "name", "arguments"), _DIRECT, ids=_ids)
def test_what_the_client_runs_is_over_when_it_is_written(
    item: Json, name: str, arguments: str, sizes: tuple[int, ...]
) -> None:
    start, end = CREATED + added(item), done({**item, "status": "completed"})
    body = start + end + words() + COMPLETED
    played = play(body, sizes)
    assert played.told == [f"running {name}", f"completed {name} ok"]
    assert pairs(played) == [f"{name} {arguments}"]
    assert not any(e.hosted for e in played.events)
    assert places(played, body) == [len(start), len(start + end)]


@pytest.mark.parametrize("sizes", [WHOLE, (50,), BYTEWISE])
@pytest.mark.parametrize(("item", "seen"), _HOSTED, ids=_ids)
def test_what_the_server_runs_is_over_when_its_item_is(
    item: Json, seen: tuple[str, str, str | None], sizes: tuple[int, ...]
) -> None:
    name, arguments, output = seen
    start = CREATED + added({**item, "status": "in_progress", "output": None})
    end = done({**item, "status": "completed"})
    body = start + end + words() + COMPLETED
    played = play(body, sizes, result_preview=100)
    assert played.told == [f"running {name}", f"completed {name} ok"]
    assert pairs(played) == [f"{name} {arguments}"]
    assert outputs(played) == [output]
    assert all(e.hosted for e in played.events)
    assert places(played, body) == [len(start), len(start + end)]


@pytest.mark.parametrize("sizes", [WHOLE, BYTEWISE])
@pytest.mark.parametrize(("item", "kind", "name"), _ANSWERED, ids=_ids)
def test_where_an_output_item_follows_it_is_awaited(
    item: Json, kind: str, name: str, sizes: tuple[int, ...]
) -> None:
    head = added(item) + done({**item, "status": "completed"}, 0)
    answer = {"type": kind, "call_id": "a", "output": "o", "status": "completed"}
    growing = {**answer, "status": "in_progress", "output": []}
    body = head + words() + added(growing, 1) + words() + done(answer, 1) + COMPLETED
    played = play(body, sizes, result_preview=9)
    assert played.told == [f"running {name}", f"completed {name} ok"]
    assert outputs(played) == ["o"]
    assert play(head + COMPLETED).told[1] == f"completed {name} unknown"


@pytest.mark.parametrize(
    "item",
    [
        *(
            {"type": kind, "id": "i", "name": "f", "call_id": "a"}
            for kind in ("message", "reasoning")
        ),
        {"type": "mcp_approval_request", "id": "i", "name": "f", "arguments": "{}"},
        {"type": "mcp_list_tools", "id": "i", "tools": [{"name": "f"}]},
        {"type": "function_call", "id": "i", "call_id": "a"},
        {"type": ["function_call"], "call_id": "a", "name": "f"},
        {"call_id": "a", "name": "f"},
        ["function_call"],
        None,
    ],
)
def test_nothing_else_is_a_call(item: object) -> None:
    played = play(CREATED + added(item) + done(item) + COMPLETED)
    assert played.events == []
    assert played.counts == Counts()


def test_a_call_without_any_id_gets_one() -> None:
    item = function("{}", id=None, call_id="")
    assert play(added(item) + done(item) + COMPLETED).told == [
        "running made_1 f",
        "completed made_1 f ok",
    ]


# --- outcomes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "outcome", "output"),
    [
        ({"status": "failed"}, "failed", None),
        ({"status": "incomplete"}, "failed", None),
        ({"status": "cancelled", "output": "x"}, "cancelled", "x"),
        (
            {"status": "completed", "error": {"type": "http_error"}},
            "failed",
            '{"type": "http_error"}',
        ),
        ({"status": "completed", "is_error": True, "output": "x"}, "failed", "x"),
        ({"status": "completed", "error": None}, "ok", None),
        ({"status": ["failed"]}, "ok", None),
        ({"output": [{"type": "input_text", "text": t} for t in "xy"]}, "ok", "x\ny"),
        (
            {"output": [{"type": "input_text", "text": 1}]},
            "ok",
            '[{"type": "input_text", "text": 1}]',
        ),
        ({"outputs": [{"type": "logs", "text": "x"}]}, "ok", '[{"type": "logs", "text": "x"}]'),
        ({"output": ["x"]}, "ok", '["x"]'),
    ],
)
def test_a_hosted_call_tells_its_outcome(fields: Json, outcome: str, output: str | None) -> None:
    item = {"type": "mcp_call", "id": "i", "name": "f", "arguments": "{}"}
    played = play(added(item) + done(item | fields) + COMPLETED, result_preview=100)
    assert played.told == ["running i f", f"completed i f {outcome}"]
    assert outputs(played) == [output]


@pytest.mark.parametrize(
    ("fields", "ending"),
    [
        ({"status": "failed"}, "failed"),
        ({"error": "x"}, "failed"),
        ({"status": "cancelled"}, "cancelled"),
        ({"status": "completed", "output": "x"}, "ok"),
        ({"status": "incomplete"}, "cut:max_output_tokens"),
        ({"status": "incomplete", "arguments": "{}"}, "cut:max_output_tokens"),
    ],
)
def test_a_call_of_the_client_can_end_badly(fields: Json, ending: str) -> None:
    end = response("incomplete", incomplete_details={"reason": "max_output_tokens"})
    played = play(HEAD + done(function('{"x":') | fields) + end)
    assert played.told == ["running a f", f"completed a f {ending}"]


def test_an_incomplete_call_in_a_complete_response_is_cut() -> None:
    played = play(HEAD + done(function('{"x":', "incomplete")) + COMPLETED)
    assert played.told[1] == "completed a f cut:no_finish"


@pytest.mark.parametrize("sizes", [WHOLE, (9,), BYTEWISE])
@pytest.mark.parametrize(
    ("end", "ending", "written"),
    [
        (COMPLETED, "unknown", "ok"),
        (response("done"), "unknown", "ok"),
        (response("completed", status=["failed"]), "unknown", "ok"),
        (event("response.completed"), "unknown", "ok"),
        (DONE, "unknown", "ok"),
        (b"data:  [DONE] \n\n", "unknown", "ok"),
        (response("failed"), "failed:upstream_error", "failed:upstream_error"),
        (response("completed", status="failed"), "failed:upstream_error", "failed:upstream_error"),
        (event("error", message="x"), "failed:upstream_error", "failed:upstream_error"),
        (event("response.error"), "failed:upstream_error", "failed:upstream_error"),
        (sse({"error": {"message": "x"}}), "failed:upstream_error", "failed:upstream_error"),
        (sse("oops", "error"), "failed:upstream_error", "failed:upstream_error"),
        (sse({"message": "x"}, "error"), "failed:upstream_error", "failed:upstream_error"),
        (response("incomplete"), "cut:incomplete", "ok"),
        (response("incomplete", incomplete_details="x"), "cut:incomplete", "ok"),
        (
            response("incomplete", incomplete_details={"reason": "max_output_tokens"}),
            *("cut:max_output_tokens", "ok"),
        ),
        (
            response("completed", status="incomplete", incomplete_details={"reason": "steered"}),
            *("cut:steered", "ok"),
        ),
        (
            response("incomplete", incomplete_details={"reason": "content_filter"}),
            *("cancelled:content_filter", "ok"),
        ),
        (response("cancelled"), "cancelled:cancelled", "ok"),
        (event("response.canceled"), "cancelled:cancelled", "ok"),
        (b"", "cut:upstream_eof", "ok"),
    ],
)
def test_the_end_of_the_stream_ends_what_is_open(
    end: bytes, ending: str, written: str, sizes: tuple[int, ...]
) -> None:
    for body, how in ((HEAD, ending), (HEAD + WRITTEN, written)):
        played = play(body + end, sizes)
        assert played.told == ["running a f", f"completed a f {how}"]
        assert places(played, body + end) == [len(HEAD), len(body)]


# --- when written calls are told to be over ------------------------------------------------------


def other(kind: str, **fields: Any) -> bytes:
    return event(f"response.{kind}", output_index=1, **fields)


_MESSAGE = {"type": "message", "id": "msg_1"}


@pytest.mark.parametrize(
    ("between", "is_over"),
    [
        (words(), True),
        (other("reasoning_summary_text.delta", delta="x"), True),
        (other("refusal.delta", delta="x"), True),
        (other("content_part.added"), True),
        (added(_MESSAGE, 1), True),
        (added({"type": "reasoning"}, 1), True),
        (sse({"type": "made up"}), True),
        (sse({}), True),
        (sse([1]), True),
        (sse("{broken"), True),
        (other("output_text.done", text="x"), False),
        (other("content_part.done"), False),
        (done(_MESSAGE, 1), False),
        (added(function(id="fc_2", call_id="b"), 1), False),
        (other("function_call_arguments.delta", item_id="fc_2", delta="{"), False),
        (other("web_search_call.searching", item_id="i"), False),
        (other("mcp_call.failed", item_id="i", error="x"), False),
        (other("mcp_call_arguments.done", item_id="i", arguments="{}"), False),
        (other("in_progress"), False),
        (CREATED, False),
        (sse({"type": "ping"}), False),
        (sse({"type": "keepalive"}, "keepalive"), False),
        (b": ping\n\n", False),
        (b"data:\n\n", False),
    ],
)
def test_a_written_call_is_over_when_the_model_goes_on(between: bytes, is_over: bool) -> None:
    body = HEAD + WRITTEN + between + COMPLETED
    played = play(body)
    assert "completed a f ok" in played.told
    at = len(HEAD + WRITTEN) + (0 if is_over else len(between))
    assert places(played, body)[played.told.index("completed a f ok")] == at


def test_words_end_what_nothing_else_ends_if_that_is_asked_for() -> None:
    assert play(HEAD + words(), infer=True).told[1] == "completed a f unknown:inferred"
    assert play(HEAD + added(_MESSAGE, 1), infer=True).told[1] == "completed a f cut:upstream_eof"


def test_an_agents_parallel_calls_end_with_their_outputs() -> None:
    calls = [function("{}", id=f"fc_{i}", call_id=i) for i in "ab"]
    answers = [
        {"type": "function_call_output", "id": f"fco_{i}", "call_id": i, "output": i} for i in "ba"
    ]
    body = b"".join(added(c, p) + done(c, p) for p, c in enumerate(calls))
    body += b"".join(added(a, p) + done(a, p) for p, a in enumerate(answers, 2)) + COMPLETED
    played = play(body, result_preview=1)
    assert played.told[2:] == ["completed b f ok", "completed a f ok"]
    assert outputs(played) == ["b", "a"]
    assert played.counts.dropped == 0


@pytest.mark.parametrize("sizes", [WHOLE, (11,), BYTEWISE])
def test_hermes_agent_runs_its_tools_itself(sizes: tuple[int, ...]) -> None:
    call = function('{"command": "ls"}', name="terminal")
    output = [{"type": "input_text", "text": '{"exit_code": 0}'}]
    answer = {"type": "function_call_output", "id": "fco_1", "call_id": "a", "output": output}
    start = CREATED + added(_MESSAGE) + words() + added(call, 1)
    body = start + done({**call, "status": "completed"}, 1)
    end = added({**answer, "status": "completed"}, 2) + done({**answer, "status": "completed"}, 2)
    rest = words() + done(_MESSAGE) + response("completed", output=[call, answer, _MESSAGE])
    played = play(body + end + rest, sizes, result_preview=99)
    assert played.told == ["running a terminal", "completed a terminal ok"]
    assert outputs(played) == ['{"exit_code": 0}']
    assert places(played, body + end + rest) == [len(start), len(body)]
    assert played.counts == Counts()


@pytest.mark.parametrize("status", ["running", "completed"])
def test_native_events_stand_for_themselves(status: str) -> None:
    body = native("running") + (native("completed") if status == "completed" else b"")
    played = play(CREATED + body + words() + COMPLETED)
    assert played.told == ["running call_n terminal", "completed call_n terminal unknown"]
    assert b"hermes.tool.progress" not in played.data
    assert b"hermes.tool.progress" in play(CREATED + native(call_id=None) + COMPLETED).data


# --- arguments -----------------------------------------------------------------------------------


def piece(part: str, event_: str, **fields: Any) -> bytes:
    place = {"item_id": "fc_1", "output_index": 0}
    return event(f"response.{part}.{event_}", **place | fields)


@pytest.mark.unmeasured
@pytest.mark.parametrize("sizes", [WHOLE, (50,), BYTEWISE])
@pytest.mark.parametrize(
    ("kind", "part", "key", "whole"),
    [
        ("function_call", "function_call_arguments", "arguments", '{"a":1}'),
        ("mcp_call", "mcp_call_arguments", "arguments", '{"a":1}'),
        ("mcp_call", "mcp_call.arguments", "arguments", '{"a":1}'),
        ("custom_tool_call", "custom_tool_call_input", "input", '{"a":1}'),
        ("code_interpreter_call", "code_interpreter_call_code", "code", '{"code": "{\\"a\\":1}"}'),
        ("shell_call", "shell_call_command", "command", '{"a":1}'),
    ],
)
def test_arguments_are_told_once(
    kind: str, part: str, key: str, whole: str, sizes: tuple[int, ...]
) -> None:
    item = {"type": kind, "id": "fc_1", "name": "f"}
    pieces = b"".join(piece(part, "delta", delta=p) for p in ("", '{"a', '":1', "}"))
    end = piece(part, "done", **{key: '{"a":1}'})
    for middle, seen in ((pieces, '{"a":1}'), (end, whole), (pieces + end, whole)):
        if (kind, middle) == ("shell_call", end):
            continue  # one of several commands: the item tells them all
        body = added(item) + middle
        assert pairs(play(body + COMPLETED, sizes)) == [f"fc_1 f {seen}"]
        last = {**item, "arguments": '{"a":1}', "status": "completed"}
        assert pairs(play(body + done(last) + COMPLETED, sizes)) == ['fc_1 f {"a":1}']


def arguments_of(*events: bytes) -> list[str]:
    return pairs(play([*events, COMPLETED]))


DELTA = piece("function_call_arguments", "delta", delta="{}")


def test_the_last_word_on_arguments_wins() -> None:
    assert arguments_of(HEAD, DELTA, WRITTEN) == ['a f {"x":1}']
    assert arguments_of(HEAD, DELTA, done(function(""))) == ["a f {}"]
    assert arguments_of(HEAD, WRITTEN, DELTA, done(function("[]"))) == ['a f {"x":1}']


def test_pieces_behind_whole_arguments_begin_anew() -> None:
    assert arguments_of(added(function("{}")), DELTA) == ["a f {}"]


def test_pieces_find_their_call_by_item_id_else_by_place() -> None:
    two = added(function(id="fc_2", call_id="b"), 1)
    by_id = piece("function_call_arguments", "delta", item_id="fc_2", delta="[]")
    by_place = piece("function_call_arguments", "delta", item_id="", output_index=1, delta="[]")
    for found in (by_id, by_place):
        assert arguments_of(HEAD, two, found) == ["a f f", "b f []"]


@pytest.mark.parametrize(
    "lost",
    [
        piece("function_call_arguments", "delta", item_id="?", output_index=9, delta="[]"),
        piece("function_call_arguments", "delta", item_id=[], output_index="0", delta="[]"),
        piece("function_call_arguments", "delta", delta=None),
        piece("function_call_arguments", "done", arguments=None),
    ],
)
def test_pieces_of_nobody_are_nothing(lost: bytes) -> None:
    assert arguments_of(HEAD, lost) == ["a f f"]


def test_of_huge_arguments_only_the_head_is_kept() -> None:
    observer = ResponsesObserver(Counts())
    huge = piece("function_call_arguments", "delta", delta="x" * 300_000)
    (delta,) = observer.observe(Parser(1 << 20).feed(HEAD)[0])
    assert isinstance(delta, CallDelta)
    for one in Parser(1 << 22).feed(5 * huge):
        observer.observe(one)
    assert len(str(delta.arguments)) == Arguments.LIMIT


# --- which call is it ----------------------------------------------------------------------------


def test_a_call_may_be_told_only_when_it_is_done() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    played = play(CREATED + WRITTEN + done(search, 1) + COMPLETED)
    assert played.told == [
        *("running a f", "running ws_1 web_search"),
        *("completed ws_1 web_search ok", "completed a f ok"),
    ]


def test_a_call_told_twice_is_one() -> None:
    assert play(HEAD + HEAD + WRITTEN + WRITTEN + HEAD + COMPLETED).told == [
        "running a f",
        "completed a f ok",
    ]


def test_copilots_item_ids_change_with_every_event() -> None:
    delta = piece("function_call_arguments", "delta", item_id="x2", delta="{}")
    last = done(function("{}", "completed", id="x3"))
    assert arguments_of(added(function(id="x1")), delta, last) == ["a f {}"]
    search = {"type": "web_search_call", "id": "x1"}
    body = added(search) + done({**search, "id": "x2", "status": "completed"})
    assert play(body).told == ["running x1 web_search", "completed x1 web_search ok"]


def test_a_place_is_no_identity() -> None:
    """Some servers number every item 0, or none."""
    for place in (0, None, "0"):
        searches = [{"type": "web_search_call", "id": f"ws_{i}"} for i in (1, 2)]
        two = [function("{}", id="", call_id=i) for i in "ab"]
        body = b"".join(added(item, place) for item in searches + two)
        body += b"".join(done(item, place) for item in two[::-1] + searches[::-1])
        assert [t.split()[1] for t in play(body + COMPLETED).told] == [
            *("ws_1", "ws_2", "a", "b"),
            *("ws_2", "ws_1", "a", "b"),
        ]


def test_a_place_that_was_another_calls_is_no_identity() -> None:
    search = {"type": "web_search_call", "id": "ws_1"}
    body = added(search) + done({**search, "id": "ws_2", "type": "file_search_call"})
    assert play(body).told == [
        *("running ws_1 web_search", "running ws_2 file_search"),
        *("completed ws_2 file_search ok", "completed ws_1 web_search cut:upstream_eof"),
    ]
    body = HEAD + done(function("{}", id="", call_id="b"))
    assert play(body + COMPLETED).told[1:] == [
        *("running b f", "completed b f ok", "completed a f unknown")
    ]


def test_an_id_may_come_again_once_its_call_is_over() -> None:
    body = HEAD + WRITTEN + words() + added(function(id="fc_2"), 2)
    body += done(function("[]", id="fc_2"), 2) + COMPLETED
    assert pairs(play(body)) == ['a f {"x":1}', "a f []"]


def test_a_call_id_that_comes_late_finds_its_output() -> None:
    item = {"type": "function_call", "id": "fc_1", "name": "f", "arguments": "{}"}
    answer = {"type": "function_call_output", "call_id": "late", "output": "o"}
    body = added(item) + done({**item, "call_id": "late"}) + done(answer, 1)
    assert play(body).told == ["running fc_1 f", "completed fc_1 f ok"]
    assert outputs(play(body, result_preview=9)) == ["o"]


def test_an_output_without_a_call_id_is_for_the_latest_call_of_its_tool() -> None:
    searches = [{"type": "tool_search_call", "id": f"ts_{i}", "call_id": None} for i in (1, 2)]
    answers = [{"type": "tool_search_output", "tools": []} for _ in (1, 2, 3)]
    body = b"".join(map(done, [*searches, *answers]))
    played = play(HEAD + body)
    assert played.told[3:5] == [
        "completed ts_2 tool_search ok",
        "completed ts_1 tool_search ok",
    ]
    assert played.counts.dropped == 1


def test_an_output_without_a_call_id_is_not_for_a_call_that_has_ended() -> None:
    search = {"type": "tool_search_call", "id": "ts_1", "call_id": None}
    failed = {**search, "id": "ts_2", "status": "failed"}
    played = play(done(search) + done(failed, 1) + done({"type": "tool_search_output"}, 2))
    assert played.told[2:] == ["completed ts_2 tool_search failed", "completed ts_1 tool_search ok"]


def test_an_output_is_taken_once_it_is_whole() -> None:
    answer = {"type": "function_call_output", "id": "o", "call_id": "a"}
    growing = {**answer, "output": "x", "status": "in_progress"}
    bare = {**answer, "status": "completed"}
    for first in (growing, bare):
        body = HEAD + WRITTEN + added(first, 1) + done({**bare, "output": "xy"}, 1)
        assert outputs(play(body, result_preview=9)) == ["xy"]
    whole = added({**bare, "output": "xy"}, 1)
    assert outputs(play(HEAD + WRITTEN + whole, result_preview=9)) == ["xy"]


def test_an_output_of_nobody_or_a_second_one_is_dropped_and_counted() -> None:
    answer = {"type": "function_call_output", "call_id": "a", "output": "o"}
    played = play(HEAD + added(answer) + done(answer) + added(answer) + done(answer))
    assert (len(played.events), played.counts.dropped) == (2, 1)
    played = play(added(answer) + done(answer))
    assert (len(played.events), played.counts.dropped) == (0, 1)


@pytest.mark.parametrize("status", ["failed", "incomplete"])
def test_an_output_tells_the_outcome(status: str) -> None:
    answer = {"type": "apply_patch_call_output", "call_id": "a", "status": status}
    patch = {"type": "apply_patch_call", "call_id": "a"}
    body = added(patch) + done({**patch, "status": "completed"}) + done(answer, 1)
    assert play(body).told[1] == "completed a apply_patch failed"


# --- what frames of ours copy --------------------------------------------------------------------


def observed(*raws: bytes) -> ResponsesObserver:
    observer = ResponsesObserver(Counts())
    for one in Parser(1 << 20).feed(b"".join(raws)):
        observer.observe(one)
    return observer


@pytest.mark.parametrize(
    ("response_", "envelope"),
    [
        ({"id": "r", "created_at": 3, "model": "n"}, Envelope("r", 3, "n")),
        ({"id": "r", "created_at": 3.0, "model": "n"}, Envelope("r", 3, "n")),
        ({"id": "", "created_at": True, "model": 1}, Envelope("id", 1, "model")),
        ({"created_at": 3.5}, Envelope("id", 1, "model")),
        ({"created_at": float("inf")}, Envelope("id", 1, "model")),
        ([], Envelope("id", 1, "model")),
        (None, Envelope("id", 1, "model")),
    ],
)
def test_the_envelope_is_the_responses(response_: object, envelope: Envelope) -> None:
    copied = Envelope("id", 1, "model")
    observed(event("response.created", response=response_), words()).update(copied)
    copied.sequence_number = 0
    assert copied == envelope


def number_of(observer: ResponsesObserver) -> int:
    envelope = Envelope("id", 1, "model")
    observer.update(envelope)
    return envelope.sequence_number


def test_the_latest_sequence_number_is_known() -> None:
    observer = observed(sse({"type": "response.output_text.delta"}))
    assert number_of(observer) == 0
    for number, raw in enumerate((CREATED, HEAD, words(), COMPLETED)):
        numbered = raw.replace(b'"sequence_number":', b'"sequence_number":9%d,"x":' % number)
        assert observer.skim(numbered) is (number == 2)
        for one in Parser(1 << 20).feed(numbered):
            observer.observe(one)
        assert number_of(observer) == 90 + number
    assert number_of(observed(sse({"type": "ping", "sequence_number": True}))) == 0


# --- the quick look ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        words(),
        words('"type":"response.completed"\n\\'),
        sse({"type": "response.output_text.delta"}),
        event("response.reasoning_text.delta", delta="x"),
        event("response.function_call_arguments.delta", item_id="fc_1", delta="x"),
        event("response.web_search_call.searching"),
        sse({"type": "made up"}),
    ],
)
def test_the_quick_look_is_enough_for_text_and_progress(raw: bytes) -> None:
    assert ResponsesObserver(Counts()).skim(raw)


@pytest.mark.parametrize(
    "raw",
    [
        *(CREATED, HEAD, WRITTEN, COMPLETED, DONE, native(), b"", b": ping\n\n"),
        words()[:-1],
        words() + words(),
        words() + b"\n",
        words().replace(b"\n", b"\r\n"),
        words().replace(b'"type"', b'\r"type"'),
        words().replace(b'"hi"', b'"\xff"'),
        words().replace(b'"hi"', b"NaN"),
        words().replace(b'"hi"', b'"hi","type":"response.completed"'),
        words().replace(b'"hi"', b'"hi","\\u0074ype":"response.completed"'),
        words().replace(b'"hi"', b'"hi","error":"x"'),
        words().replace(b"data: {", b"data: [{").replace(b"}\n", b"}]\n"),
        words().replace(b"\ndata", b"\nid: 1\ndata"),
        words().replace(b'"type"', b'"kind"'),
        words().replace(b"event: response.output_text.delta", b"event: error"),
        words().replace(b"event: response.output_text.delta", b"event: hermes.tool.progress"),
        sse({"type": ["response.output_text.delta"]}),
    ],
)
def test_the_quick_look_is_not_fooled(raw: bytes) -> None:
    assert not ResponsesObserver(Counts()).skim(raw)


class Thorough(ResponsesObserver):
    """Looks at everything properly."""

    def skim(self, raw: bytes) -> bool:
        return False


_WORDS = ("a", "b", "", "f", "failed", "in_progress", "local", "\ud800")
_odd = Odd(_WORDS, ("type", "id", "error", "text"), items=2, fields=3, depth=2)
_json = _odd.value
_cases: list[Any] = [*_DIRECT, *_HOSTED, *_ANSWERED]
_kinds = picking(
    *[case[0]["type"] for case in _cases],
    *("function_call_output", "shell_call_output", "tool_search_output", "message", "reasoning"),
)
_few = picking("a", "b", "c")
_texts = picking("", "{", "}", "{}", '"')
_item = _odd.fields(
    type=_kinds,
    id=_few,
    call_id=_few,
    name=picking("f", "g", "_h"),
    status=picking("in_progress", "completed", "failed", "incomplete"),
    arguments=_texts,
    code=_texts,
    action=_json,
    output=_json,
    error=_json,
    environment=_odd.fields(type=_few),
    execution=picking("server", "client"),
)
_events = picking(
    *["response.output_item.added", "response.output_item.done"] * 6,
    *["response.function_call_arguments.delta", "response.function_call_arguments.done"] * 2,
    *("response.created", "response.failed", "response.incomplete", "response.completed"),
    *("response.output_text.delta", "response.reasoning_text.delta", "response.x", "error"),
    *("response.output_text.done", "response.web_search_call.searching", "ping"),
)
_fields: dict[str, Make[Any]] = {
    "item": _item,
    "item_id": _few,
    "output_index": either(lambda choices: choices.below(3), _json),
    "sequence_number": either(lambda choices: choices.below(256) - 128, _json),
    "delta": either(_texts, _json),
    "arguments": either(_texts, _json),
    "response": _odd.fields(
        id=_few, created_at=_json, status=_few, incomplete_details=_odd.fields(reason=_few)
    ),
    "error": either(picking(None), _json),
}


def _written(choices: Choices) -> bytes:
    kind = either(_events, _events, _events, _json)(choices)
    payload = {"type": kind, **choices.some(_fields)}
    named = isinstance(kind, str) and kind.isascii() and choices.flag()
    name = kind if named else choices.pick(["", "", "", "error", "response.x"])
    return sse(payload, name)


_noise = picking(native(), native("completed"), DONE, sse("{"), sse("[1]"), b": x\n\n")


def _pieces(choices: Choices) -> list[bytes]:
    return choices.several(either(_written, _written, _written, _noise), 10, 64)


@settings(max_examples=300, deadline=None)
@given(made_all(picking(WHOLE, BYTEWISE, (7, 90)), _pieces, size=650))
def test_whatever_comes_pairs_close_and_no_byte_is_lost(
    case: tuple[tuple[int, ...], list[bytes]],
) -> None:
    sizes, pieces = case
    body = b"".join(pieces)
    played = play(body, sizes, result_preview=9)
    assert_paired(played.events)
    assert played.told == play(pieces).told
    if b"hermes" not in body:
        places(played, body)


@settings(max_examples=300, deadline=None)
@given(made(_pieces, 650))
def test_the_quick_look_sees_what_the_thorough_one_sees(pieces: list[bytes]) -> None:
    assert play(pieces) == play_any(pieces, observer=Thorough)
    quick, thorough = ResponsesObserver(Counts()), ResponsesObserver(Counts())
    for raw in pieces:
        for one in Parser(1 << 20).feed(raw):
            seen = thorough.observe(one)
            if quick.skim(raw):
                assert all(type(o).__name__ in ("Activity", "Text") for o in seen)
            else:
                assert [type(o) for o in quick.observe(one)] == [type(o) for o in seen]
            assert number_of(quick) == number_of(thorough)


def test_nesting_beyond_reason_is_survived() -> None:
    for deep in (500, 5000, 100_000):
        nested = json.loads("[" * 500 + "]" * 500)
        raw = (
            done(function(nested)).replace(b"[" * 500, b"[" * deep).replace(b"]" * 500, b"]" * deep)
        )
        assert_paired(play(HEAD + raw + COMPLETED).events)


def test_all_is_known_of_what_runs() -> None:
    (running, completed) = play(HEAD + WRITTEN + COMPLETED).events
    assert isinstance(running, ToolRunning)
    assert isinstance(completed, ToolCompleted)
    assert (completed.duration_ms, completed.label) == (0, '{"x":1}')


@pytest.mark.parametrize("empty", [b"data:\n\n", b"data:  \n\n", b"event: x\ndata:\n\n"])
def test_an_event_with_empty_data_changes_nothing(empty: bytes) -> None:
    head = added(function())
    with_it, without = play(empty + head + empty + DONE), play(head + DONE)
    assert (with_it.told, with_it.counts) == (without.told, without.counts)


def test_a_comment_says_nothing() -> None:
    (event,) = Parser(1 << 20).feed(b": ping\n\n")
    assert list(ResponsesObserver(Counts()).observe(event)) == []
