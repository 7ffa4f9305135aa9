"""Several answers in one stream, answers that begin anew, and answers told twice.

Each class in the API in which it was seen: Responses, Messages, chat completions.
"""

from typing import Any

import pytest
from lifecycle_proxy.core.events import ToolCompleted

from tests.core import (
    BYTEWISE,
    DONE,
    WHOLE,
    Frames,
    Json,
    assert_paired,
    call,
    chunk,
    finish,
    make,
    pairs,
    places,
    play,
    sse,
    text,
)
from tests.core.observers import test_messages as messages
from tests.core.observers import test_responses as responses

_SIZES = [WHOLE, (50,), BYTEWISE]
ONE = ["running a f", "completed a f ok"]
RESTARTED = [*("running a f", "completed a f cut:restarted"), *ONE]

added, done, function = responses.added, responses.done, responses.function
R_PIECE = responses.event(
    "response.function_call_arguments.delta", item_id="fc_1", output_index=0, delta='{"x'
)
R_NEXT = responses.event("response.created", response={"id": "resp_2", "status": "in_progress"})


def ended(*output: object, status: str = "completed") -> bytes:
    return responses.response(status, status=status, output=list(output))


R_ANSWER = responses.HEAD + responses.WRITTEN + ended(function('{"x":1}', "completed"))
R_BROKEN = responses.CREATED + responses.HEAD + R_PIECE
M_NEXT = messages.event("message_start", message={"id": "msg_2", "model": "m", "content": []})
M_ANSWER = messages.CALL + messages.finish() + messages.STOP
M_BROKEN = messages.BEGIN + messages.HEAD + messages.piece('{"x')


# --- several answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("span", ["call", "execution"])
@pytest.mark.parametrize(
    ("api", "first", "begin", "second"),
    [
        ("responses", responses.CREATED + R_ANSWER, R_NEXT, R_ANSWER),
        ("responses", responses.CREATED + R_ANSWER, responses.CREATED, R_ANSWER),
        ("responses", responses.CREATED + R_ANSWER, b"", R_ANSWER),
        ("messages", messages.BEGIN + M_ANSWER, M_NEXT, M_ANSWER),
        ("messages", messages.BEGIN + M_ANSWER, messages.BEGIN, M_ANSWER),
        ("messages", messages.BEGIN + M_ANSWER, b"", M_ANSWER),
        ("messages", messages.BEGIN + messages.CALL, M_NEXT, M_ANSWER),
        ("messages", messages.BEGIN + messages.CALL + messages.STOP, M_NEXT, M_ANSWER),
        ("messages", messages.BEGIN + messages.CALL + messages.finish(), M_NEXT, M_ANSWER),
    ],
)
def test_behind_an_answer_another_may_begin_with_the_same_ids(
    api: str, first: bytes, begin: bytes, second: bytes, span: str, sizes: tuple[int, ...]
) -> None:
    body = first + begin + second
    played = play(body, sizes, observer=api, span=span)
    assert played.told[0] == ONE[0]
    assert played.told[1] in (ONE[1], "completed a f unknown:superseded")
    assert [one for one in played.told if one.startswith("running")] == ["running a f"] * 2
    places(played, body)
    assert_paired(played.events, closed=span == "call")


@pytest.mark.parametrize("sizes", _SIZES)
def test_calls_between_two_answers_have_their_pairs(sizes: tuple[int, ...]) -> None:
    hosted = {"type": "mcp_call", "id": "m", "name": "g", "arguments": "{}"}
    between = added({**hosted, "status": "in_progress"}) + done({**hosted, "output": "o"})
    body = responses.CREATED + R_ANSWER + between + R_NEXT + responses.words() + ended()
    told = play(body, sizes, observer="responses").told
    assert told == [*ONE, "running m g", "completed m g ok"]


@pytest.mark.parametrize(
    ("api", "steps"),
    [
        (
            "responses",
            [
                (responses.CREATED, False),
                (ended(), True),
                (responses.event("ping"), True),
                (R_NEXT, False),
                (ended(), True),
                (responses.words(), False),
                (responses.response("done"), True),
                (responses.HEAD, False),
            ],
        ),
        (
            "messages",
            [
                (messages.BEGIN + messages.CALL + messages.finish(), False),
                (messages.STOP, True),
                (messages.PING, True),
                (M_NEXT, False),
                (messages.STOP, True),
                (messages.words(), False),
            ],
        ),
    ],
)
def test_a_stream_is_over_only_until_another_answer_begins(
    api: str, steps: list[tuple[bytes, bool]]
) -> None:
    pipeline = make(Frames(), api)
    for data, is_done in steps:
        assert pipeline.between_events  # a heartbeat may go out
        pipeline.feed(data, 0.0)
        assert pipeline.is_done is is_done
    step = pipeline.abort("upstream_error", 1.0, error=b"data: error\n\n")
    assert step.data.endswith(b"data: error\n\n")


@pytest.mark.parametrize("api", ["responses", "messages", "chat"])
def test_behind_done_nothing_is_added(api: str) -> None:
    pipeline = make(Frames(), api)
    pipeline.feed(DONE, 0.0)
    assert pipeline.is_done
    assert not pipeline.between_events
    head = {"responses": responses.HEAD, "messages": messages.HEAD}.get(api, text())
    assert pipeline.feed(head, 1.0).data == head
    assert pipeline.abort("upstream_error", 1.0, error=b"data: error\n\n").data == b""


@pytest.mark.parametrize(
    ("api", "body"),
    [
        (
            "responses",
            responses.HEAD + ended() + ended() + ended(status="failed"),
        ),
        (
            "messages",
            messages.CALL + messages.STOP + messages.STOP + messages.ERROR,
        ),
        ("chat", chunk({"tool_calls": [call(0, "a", "f", "{}")]}) + finish() + finish() + DONE),
    ],
)
def test_two_ends_are_one(api: str, body: bytes) -> None:
    played = play(body, observer=api)
    assert len(played.told) == 2
    assert played.counts.failure is None


# --- begun anew ----------------------------------------------------------------------------------


def head(chunk_id: str, *entries: Json, **more: Any) -> bytes:
    """A chunk of a retry: its own id, and mostly a role."""
    delta = {"role": "assistant", **({"tool_calls": list(entries)} if entries else {}), **more}
    return sse({"id": chunk_id, "choices": [{"index": 0, "delta": delta}]})


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    ("api", "broken", "second"),
    [
        ("responses", R_BROKEN, R_NEXT + R_ANSWER),
        ("messages", M_BROKEN, M_NEXT + M_ANSWER),
        (
            "chat",
            head("c1") + head("c1", call(0, "a", "f", '{"x')),
            head("c2") + head("c2", call(0, "a", "f", '{"x":1}')) + finish(),
        ),
        (
            "chat",
            head("c1") + head("c1", call(0, "a", "f", '{"x')),
            head("c2", call(0, "a", "f", '{"x":1}'), content="") + finish(),
        ),
    ],
)
def test_a_call_that_is_unfinished_when_an_answer_begins_broke_off(
    api: str, broken: bytes, second: bytes, sizes: tuple[int, ...]
) -> None:
    played = play(broken + second, sizes, observer=api)
    assert played.told == RESTARTED
    assert places(played, broken + second)[1] == len(broken)


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("name", ["f", "g"])
def test_the_retry_of_a_call_is_a_new_call(name: str, sizes: tuple[int, ...]) -> None:
    body = head("c1") + head("c1", call(0, "a", "f", '{"x'))
    body += head("c2") + head("c2", call(0, "b", name, '{"y":1}')) + finish()
    played = play(body + DONE, sizes)
    assert played.told[1:] == [
        *("completed a f cut:restarted", f"running b {name}", f"completed b {name} ok")
    ]


@pytest.mark.parametrize(
    "rest",
    [
        head("c1") + head("c1", call(0, None, None, '":1}')),  # the same answer
        head("c2", call(0, None, None, '":1}')),  # a piece of the call
        sse({"id": "c2", "choices": [{"index": 0, "delta": {"content": "x"}}]})
        + head("c1", call(0, None, None, '":1}')),  # no role
        head("c2") * 0
        + sse({"choices": [{"index": 0, "delta": {"role": "assistant"}}]})
        + head("c1", call(0, None, None, '":1}')),  # no id
    ],
)
def test_no_answer_begins(rest: bytes) -> None:
    body = head("c1") + head("c1", call(0, "a", "f", '{"x')) + rest + finish() + DONE
    assert play(body).told == ONE


def test_servers_that_never_repeat_an_id_do_not_begin_anew_with_every_chunk() -> None:
    body = head("c1") + head("c2", call(0, "a", "f", '{"x')) + head("c3") + head("c4")
    assert play(body + head("c5", call(0, None, None, '":1}')) + finish() + DONE).told == ONE


def test_ids_that_were_only_skimmed_are_known_to_repeat() -> None:
    words = [sse({"id": "c1", "choices": [{"index": 0, "delta": {"content": w}}]}) for w in "abc"]
    unfinished = chunk({"tool_calls": [call(0, "a", "f")]})
    body = b"".join(words) + unfinished + head("c2") + finish() + DONE
    assert play(body).told == ["running a f", "completed a f cut:restarted"]


def test_written_calls_do_not_break_off() -> None:
    body = head("c1") + head("c1", call(0, "a", "f", "{}")) + head("c2") + text() + finish() + DONE
    assert play(body).told == ONE


# --- one id for several calls (chat completions) -------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    ("entries", "shown"),
    [
        # another name
        ([call(0, "a", "f", "{}"), call(1, "a", "g", "[1]")], ["a f {}", "made_1 g [1]"]),
        ([call(0, "a", "f", "{}"), call(0, "a", "g", "[1]")], ["a f {}", "made_1 g [1]"]),
        ([call(0, "a", "f", "{"), call(1, "a", "g", "[1]")], ["a f {", "made_1 g [1]"]),
        # the same name, other arguments in another place
        ([call(0, "a", "f", "{}"), call(1, "a", "f", '{"x":1}')], ["a f {}", 'made_1 f {"x":1}']),
        (
            [
                call(0, "a", "f", '{"x":1}'),
                call(1, "a", "f", ""),
                call(1, None, None, '{"x":'),
                call(1, None, None, "2}"),
            ],
            ['a f {"x":1}', 'made_1 f {"x":2}'],
        ),
        (
            [
                call(0, "a", "f"),
                call(1, "a", "f"),
                call(0, None, None, '{"x":1}'),
                call(1, None, None, '{"x":2}'),
            ],
            ['a f {"x":1}', 'made_1 f {"x":2}'],
        ),
        (
            [
                call(0, "a", "f", "{}"),
                call(1, "a", "g", "["),
                call(1, "a", None, "1]"),
                call(2, "a", "f", "[2]"),
            ],
            ["a f {}", "made_1 g [1]", "made_2 f [2]"],
        ),
        # the same call again
        ([call(0, "a", "f"), call(1, "a", "f", "{}"), call(2, "a", "f", "{}")], ["a f {}"]),
        ([call(0, "a", "f"), call(1, "a", "f"), call(1, None, None, '{"x":1}')], ['a f {"x":1}']),
        (
            [call(0, "a", "f", '{"x":1}'), call(1, "a", "f", '{"x":'), call(1, None, None, "1}")],
            ['a f {"x":1}'],
        ),
        # a piece of a name
        ([call(0, "a", "f"), call(0, "a", "g", "{}")], ["a f {}"]),
        ([call(None, "a", "f"), call(None, "a", "g", "{}")], ["a f {}"]),
        # arguments that came in the other place alone, and were cut
        ([call(0, "a", "f"), call(1, "a", "f", '{"x')], ['a f {"x']),
        # the first is unfinished when the second is whole: nothing is certain
        ([call(0, "a", "f", '{"x'), call(1, "a", "f", '{"x":2}')], ['a f {"x']),
    ],
)
def test_one_id_for_several_calls(
    entries: list[Json], shown: list[str], sizes: tuple[int, ...]
) -> None:
    body = b"".join(chunk({"tool_calls": [entry]}) for entry in entries) + finish() + DONE
    played = play(body, sizes)
    assert sorted(pairs(played)) == sorted(shown)
    assert_paired(played.events)
    places(played, body)


def test_a_written_call_ends_before_another_runs_under_its_id() -> None:
    body = chunk({"tool_calls": [call(0, "a", "f", "{}")]})
    both = body + chunk({"tool_calls": [call(1, "a", "g", "{}")]}) + finish() + DONE
    assert play(both).told == [
        *ONE,
        *("running made_1 g", "completed made_1 g ok"),
    ]


def test_results_of_one_id_go_to_its_calls_in_turn() -> None:
    both = chunk({"tool_calls": [call(0, "a", "f", "{"), call(1, "a", "g", "[1]")]})
    results = [chunk({"role": "tool", "tool_call_id": "a", "content": c}) for c in "xy"]
    played = play(both + b"".join(results) + finish() + DONE, result_preview=5)
    ends = [e for e in played.events if isinstance(e, ToolCompleted)]
    assert [(e.tool, e.output) for e in ends] == [("f", "x"), ("g", "y")]


def test_ids_of_a_finished_answer_are_free_for_other_names() -> None:
    first = chunk({"tool_calls": [call(0, "a", "f", "{}")]}) + finish()
    again = chunk({"tool_calls": [call(0, "a", "g", "{}")]}) + finish() + DONE
    assert play(first + again).told == [*ONE, "running a g", "completed a g ok"]
    again = chunk({"tool_calls": [call(0, "a", "f", "{}"), call(1, "a", "f", "[1]")]})
    assert pairs(play(first + again + finish() + DONE))[0] == "a f {}"


# --- a finish on a piece whose call goes on ------------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(("span", "told"), [("call", ONE), ("execution", ONE[:1])])
@pytest.mark.parametrize("reason", ["tool_calls", "stop", "length"])
@pytest.mark.parametrize(
    "rest",
    [
        [call(0, None, None, "1}")],
        [call(0, "a", None, "1}")],
        [call(0, "a", "f", "1}")],
        [call(0, None, "f", "1}")],
        [call(None, None, None, "1}")],
        [call(0, None, None, "1"), call(0, None, None, "}")],
    ],
)
def test_a_finish_in_the_middle_of_arguments_that_go_on_is_none(
    rest: list[Json], reason: str, span: str, told: list[str], sizes: tuple[int, ...]
) -> None:
    body = chunk({"tool_calls": [call(0, "a", "f", '{"x":')]}, finish=reason)
    for entry in rest:
        body += chunk({"tool_calls": [entry]}, finish="tool_calls")
    played = play(body + finish() + DONE, sizes, span=span)
    assert played.told == told
    assert span == "execution" or played.events[-1].label == '{"x":1}'
    places(played, body + finish() + DONE)


def test_parallel_calls_go_on_together() -> None:
    body = chunk({"tool_calls": [call(0, "a", "f", "{"), call(1, "b", "g", "{")]}, finish="stop")
    body += chunk({"tool_calls": [call(0, None, None, "}")]}, finish="stop")
    body += chunk({"tool_calls": [call(1, None, None, "}")]}, finish="stop")
    ends = [one for one in play(body + DONE).told if one.startswith("completed")]
    assert ends == ["completed a f ok", "completed b g ok"]


@pytest.mark.parametrize("entry", [None, call(0, "b", "f", "{}"), call(0)])
def test_other_chunks_do_not_go_on_with_it(entry: Json | None) -> None:
    rest = text() if entry is None else chunk({"tool_calls": [entry]})
    body = chunk({"tool_calls": [call(0, "a", "f", "{")]}, finish="stop") + rest + DONE
    assert play(body).told[1] == "completed a f cut:incomplete_arguments"


# --- an answer told again, whole -----------------------------------------------------------------

use, m_result = messages.use, messages.result
MADE = function('{"x":1}', "completed")


def whole(*blocks: object, reason: object = "tool_use") -> bytes:
    """A message as one event."""
    return messages.event("message", id="msg_1", content=list(blocks), stop_reason=reason)


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    "again",
    [
        MADE,
        {**MADE, "id": None},
        {**MADE, "id": "fc_9", "call_id": "z"},
        {**MADE, "id": "fc_9", "call_id": "z", "arguments": '{"x": 1 }'},
        {**MADE, "id": "fc_9", "call_id": "z", "arguments": '{"x":2}'},
    ],
    ids=["ids", "call id", "content", "blanks", "place"],
)
def test_an_item_that_was_told_adds_nothing(again: Json, sizes: tuple[int, ...]) -> None:
    body = responses.CREATED + responses.HEAD + responses.WRITTEN + ended(again)
    assert play(body, sizes, observer="responses").told == ONE
    assert play(body + ended(again), sizes, observer="responses").told == ONE


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("again", [{"x": 1}, '{"x":1}'])
@pytest.mark.parametrize("call_id", ["a", "z", None])
def test_a_block_that_was_told_adds_nothing(
    call_id: str | None, again: object, sizes: tuple[int, ...]
) -> None:
    body = messages.BEGIN + messages.CALL + whole(use(call_id, input=again)) + messages.STOP
    assert play(body, sizes, observer="messages").told == ONE


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("end", [b"", DONE])
def test_an_open_call_ends_as_the_last_snapshot_says(end: bytes, sizes: tuple[int, ...]) -> None:
    body = R_BROKEN + ended({**MADE, "id": None}) + end
    played = play(body, sizes, observer="responses")
    assert (played.told, pairs(played)) == (ONE, ['a f {"x":1}'])
    assert places(played, body)[1] == len(R_BROKEN)
    played = play(M_BROKEN + whole(use(input={"x": 1})) + end, sizes, observer="messages")
    assert (played.told, pairs(played)) == (ONE, ['a f {"x": 1}'])
    cut = ended(function('{"x', "incomplete"), status="incomplete")
    assert play(R_BROKEN + cut, sizes, observer="responses").told[1].endswith("cut:incomplete")


@pytest.mark.parametrize("sizes", _SIZES)
def test_calls_of_the_last_snapshot_alone_are_told_there(sizes: tuple[int, ...]) -> None:
    other = function('{"y":2}', "completed", id="fc_2", call_id="b")
    hosted = {"type": "openrouter:web_search", "id": "w", "status": "completed"}
    body = responses.CREATED + responses.HEAD + responses.WRITTEN
    body += ended(MADE, other, hosted, {"type": "message"}, {"type": 1}, None, {})
    played = play(body, sizes, observer="responses")
    assert sorted(pairs(played)) == ['a f {"x":1}', 'b f {"y":2}', "w web_search web_search"]
    assert_paired(played.events)
    assert places(played, body)[-1] < body.rindex(b"event: response.completed") + 1
    assert play(ended(MADE), sizes, observer="responses").told == ONE


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("reason", ["tool_use", None])
@pytest.mark.parametrize("end", [b"", messages.STOP, DONE])
def test_a_message_as_one_event_has_its_calls(
    end: bytes, reason: object, sizes: tuple[int, ...]
) -> None:
    server = use("s", "web_search", "server_tool_use", input={"q": 1})
    answer = {**m_result("o"), "tool_use_id": "s"}
    body = whole(server, answer, use(input={"x": 1}), {"type": 1}, None, reason=reason) + end
    played = play(body, sizes, observer="messages", result_preview=5)
    assert sorted(pairs(played)) == ['a f {"x": 1}', 's web_search {"q": 1}']
    ends = [e for e in played.events if isinstance(e, ToolCompleted)]
    assert [e.outcome.is_error for e in ends] == [False, False]
    places(played, body)


@pytest.mark.parametrize("content", [None, "x", [None, 1, {}, {"type": "text"}]])
def test_a_message_without_calls_says_nothing(content: object) -> None:
    body = messages.event("message", content=content) + messages.STOP
    assert play(body, observer="messages").told == []


def test_two_items_of_the_same_content_are_two_calls() -> None:
    twice = [{**MADE, "id": f"fc_{n}", "call_id": f"c{n}"} for n in (7, 8)]
    body = responses.CREATED + responses.HEAD + responses.WRITTEN + ended(*twice)
    assert pairs(play(body, observer="responses")) == ['a f {"x":1}', 'c8 f {"x":1}']


def test_calls_of_an_earlier_answer_are_known_by_their_ids() -> None:
    other = {"id": "fc_2", "call_id": "b"}
    second = added(function(**other)) + done(function('{"x":2}', "completed", **other))
    items = [MADE, function('{"x":2}', "completed", **other)]
    body = responses.CREATED + R_ANSWER + R_NEXT + second + ended(*items)
    assert pairs(play(body, observer="responses")) == ['a f {"x":1}', 'b f {"x":2}']
    body = messages.BEGIN + M_ANSWER + M_NEXT + whole(use(input={"x": 1})) + messages.STOP
    assert pairs(play(body, observer="messages")) == ['a f {"x":1}']


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_an_error_beats_the_items_of_the_end(status: str) -> None:
    body = responses.CREATED + responses.HEAD + ended(MADE, status=status)
    end = play(body, observer="responses").events[1]
    assert isinstance(end, ToolCompleted)
    assert end.outcome.is_error


# --- one id for several items or blocks ----------------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("name", ["f", "g"])
def test_an_id_returns_behind_a_written_call(name: str, sizes: tuple[int, ...]) -> None:
    item = {"id": "fc_2", "name": name}
    again = added(function(**item), 1) + done(function('{"y":2}', "completed", **item), 1)
    body = responses.CREATED + responses.HEAD + responses.WRITTEN + again + ended()
    shown = ['a f {"x":1}', f'a {name} {{"y":2}}']
    assert pairs(play(body, sizes, observer="responses")) == shown
    again = messages.start(use(name=name), 1) + messages.piece('{"y":2}', 1) + messages.stop(1)
    body = messages.BEGIN + messages.CALL + again + messages.finish() + messages.STOP
    assert pairs(play(body, sizes, observer="messages")) == shown


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("name", ["f", "g"])
def test_of_two_open_items_the_second_has_an_id_of_its_own(
    name: str, sizes: tuple[int, ...]
) -> None:
    item = {"id": "fc_2", "name": name}
    body = responses.CREATED + added(function('{"x":1}')) + added(function('{"y":2}', **item), 1)
    body += done(function('{"y":2}', "completed", **item), 1) + responses.WRITTEN + ended()
    played = play(body, sizes, observer="responses")
    assert sorted(pairs(played)) == ['a f {"x":1}', f'made_1 {name} {{"y":2}}']
    assert_paired(played.events)


@pytest.mark.parametrize(
    ("first", "rest", "name"),
    [
        (messages.piece('{"x":1}'), b"", "f"),
        (messages.piece('{"x'), messages.piece('":1}'), "g"),
        (messages.piece('{"x":1}') + messages.stop(), b"", "f"),
    ],
)
def test_of_two_open_blocks_the_second_has_an_id_of_its_own(
    first: bytes, rest: bytes, name: str
) -> None:
    kind = "server_tool_use"  # which is open behind its block, too
    again = messages.start(use(name=name, kind=kind), 1) + messages.piece('{"y":2}', 1)
    body = messages.start(use(kind=kind)) + first + again + rest + messages.stop(1)
    played = play(body + messages.finish() + messages.STOP, observer="messages")
    assert sorted(pairs(played)) == ['a f {"x":1}', f'made_1 {name} {{"y":2}}']
    assert_paired(played.events)


def test_the_same_item_in_two_places_is_one_call() -> None:
    twice = added(function('{"x":1}')) + added(function('{"x":1}', id="fc_2"), 1)
    body = responses.CREATED + twice + responses.WRITTEN + ended()
    assert pairs(play(body, observer="responses")) == ['a f {"x":1}']


def test_a_call_id_that_changes_at_the_end_is_one_call() -> None:
    head = responses.CREATED + responses.HEAD
    body = head + done({**MADE, "call_id": "z"}) + ended()
    assert play(body, observer="responses").told == ONE
    body = head + done({**MADE, "call_id": "z", "id": "fc_2"}) + ended()
    assert len(play(body, observer="responses").told) == 4


# --- tools under other names, cut arguments, pieces that are snapshots ---------------------------


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("kind", ["openrouter:web_search", "web_search", "acme:web_search_call"])
def test_an_item_that_goes_from_progress_to_completed_is_a_hosted_call(
    kind: str, sizes: tuple[int, ...]
) -> None:
    item = {"type": kind, "id": "w"}
    start = responses.CREATED + added({**item, "status": "in_progress"})
    end = done({**item, "status": "completed", "action": {"query": "q"}})
    body = start + end + responses.words() + ended()
    played = play(body, sizes, observer="responses")
    assert played.told == ["running w web_search", "completed w web_search ok"]
    assert pairs(played) == ['w web_search {"query": "q"}']
    assert all(e.hosted for e in played.events)
    assert places(played, body) == [len(start), len(start + end)]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "status": "in_progress"},
        {"type": "reasoning", "status": "in_progress"},
        {"type": "mcp_list_tools", "status": "in_progress"},
        {"type": "acme:search_output", "status": "in_progress"},
        {"type": "new_thing"},
        {"type": "new_thing", "status": "completed"},
    ],
)
def test_other_items_are_no_calls(item: Json) -> None:
    body = added({"id": "i", **item}) + done({"id": "i", **item, "status": "completed"})
    assert play(responses.CREATED + body + ended(), observer="responses").told == []


@pytest.mark.parametrize("sizes", _SIZES)
def test_unfinished_arguments_of_a_written_item_are_a_cut_call(sizes: tuple[int, ...]) -> None:
    def end_of(item: Json) -> str:
        body = added({**item, "status": "in_progress"}) + done(item) + ended()
        return play(responses.CREATED + body, sizes, observer="responses").told[1]

    assert end_of({**MADE, "arguments": '{"x'}) == "completed a f cut:incomplete_arguments"
    assert end_of({**MADE, "arguments": '{"x":"a\nb \\d"}'}) == ONE[1]
    custom = {"type": "custom_tool_call", "call_id": "a", "name": "f", "input": '{"x'}
    assert end_of(custom) == ONE[1]


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["{}", '{"x":', "1}"], '{"x":1}'),
        (['{"x', '{"x":1', '{"x":12}'], '{"x":12}'),
        (['{"x":1}', '{"x":1,"y":2}'], '{"x":1,"y":2}'),
        (['{"x":1}', '{"x":', "1}"], '{"x":1}'),
    ],
)
def test_pieces_that_are_snapshots(pieces: list[str], shown: str, sizes: tuple[int, ...]) -> None:
    ends = messages.stop() + messages.finish() + messages.STOP
    body = messages.BEGIN + messages.HEAD + b"".join(map(messages.piece, pieces)) + ends
    assert pairs(play(body, sizes, observer="messages")) == [f"a f {shown}"]
    head = chunk({"tool_calls": [call(0, "a", "f", pieces[0])]})
    rest = [chunk({"tool_calls": [call(0, None, None, piece)]}) for piece in pieces[1:]]
    played = play(head + b"".join(rest) + finish() + DONE, sizes)
    assert (played.told, pairs(played)) == (ONE, [f"a f {shown}"])


@pytest.mark.parametrize("api", ["responses", "messages"])
def test_an_error_object_is_an_error(api: str) -> None:
    begin = {"responses": responses.HEAD, "messages": messages.HEAD}[api]
    played = play(begin + sse({"object": "error", "message": "x"}), observer=api)
    assert played.told[1] == "completed a f failed:upstream_error"


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("responses", responses.CREATED + R_ANSWER + R_BROKEN + R_NEXT + R_ANSWER + ended(MADE)),
        ("messages", messages.BEGIN + M_ANSWER + M_BROKEN + M_NEXT + whole(use()) + M_ANSWER),
        (
            "chat",
            head("c1", call(0, "a", "f", "{}"), call(1, "a", "g", '{"x'))
            + head("c1", call(1, "a", None, '":1}'))
            + finish()
            + head("c2", call(0, "a", "f", '{"x":'))
            + head("c3", call(0, "b", "f", '{"x":2}'))
            + finish("network_error"),
        ),
    ],
)
def test_cut_anywhere_all_pairs_are_closed_and_no_byte_is_lost(api: str, body: bytes) -> None:
    for stop in range(0, len(body), 3):
        for abort in (None, "upstream_error"):
            played = play(body[:stop], (11,), observer=api, abort=abort)
            assert_paired(played.events)
            places(played, body[:stop])


@pytest.mark.unmeasured
@pytest.mark.parametrize("odd", [7, None, "x" * 100_000, {"a": 1}, ["a"], True])
def test_odd_ids_do_no_harm(odd: object) -> None:
    item = {**function("{}", "completed"), "id": odd, "call_id": odd}
    for body, api in (
        (added(item) + done(item) + ended(item, item), "responses"),
        (messages.start(use(odd)) + messages.stop() + whole(use(odd), use(odd)), "messages"),
        (chunk({"tool_calls": [call(odd, odd, "f", "{}")] * 2}) + finish() + DONE, "chat"),
    ):
        played = play(body, observer=api)
        assert played.counts.failure is None
        assert_paired(played.events)
        places(played, body)
