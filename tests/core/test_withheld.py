"""Calls that the client cannot run, taken out of its stream."""

import orjson
import pytest

from proxy.core.dialects import DIALECTS
from proxy.core.sse import Event
from proxy.core.withheld import Withheld
from tests.core import BYTEWISE, DONE, WHOLE, Json, call, calls, chunk, finish, play, sse, text

RUNNABLE = frozenset({"own"})
HEAD = calls(call(0, "a", "theirs"))
REST = calls(call(arguments='{"q":')) + calls(call(arguments="1}"))
RESULT = {"mcp_call_results": [{"tool_call_id": "a", "result": "sunny"}]}

segmented = pytest.mark.parametrize(
    "sizes", [WHOLE, BYTEWISE, (7,)], ids=["whole", "bytewise", "by 7"]
)


def merged(body: bytes, sizes: tuple[int, ...] = WHOLE, dialect: str = "off") -> bytes:
    options: Json = {"merge_rounds": True, "runnable": RUNNABLE}
    return play(body, sizes, dialect=DIALECTS[dialect], **options).data


@segmented
def test_a_call_that_the_client_cannot_run_is_not_shown_to_it(sizes: tuple[int, ...]) -> None:
    body = text("a") + HEAD + REST + finish() + text("b") + finish("stop") + DONE
    assert merged(body, sizes) == text("a") + text("b") + finish("stop") + DONE


@segmented
def test_its_card_is_complete(sizes: tuple[int, ...]) -> None:
    end = chunk({"provider_specific_fields": RESULT}, finish="tool_calls")
    body = HEAD + REST + end + text("b") + finish("stop") + DONE
    played = play(body, sizes, merge_rounds=True, runnable=RUNNABLE)
    assert played.told == ["running a theirs", "completed a theirs ok"]
    assert [event.hosted for event in played.events] == [True, True]
    assert played.events[0].label == '{"q":1}'


@segmented
def test_a_call_that_it_can_run_stays(sizes: tuple[int, ...]) -> None:
    own = calls(call(1, "b", "own")) + calls(call(1, None, None, "{}"))
    body = HEAD + own + calls(call(0, None, None, "{}")) + finish() + DONE
    assert merged(body, sizes) == own + finish() + DONE


def test_of_a_chunk_with_both_one_is_left() -> None:
    both = calls(call(0, "a", "theirs", "{}"), call(1, "b", "own", "{}"))
    left = merged(both + finish() + DONE)
    entries = orjson.loads(left.partition(b"\n")[0][6:])["choices"][0]["delta"]["tool_calls"]
    assert [entry["id"] for entry in entries] == ["b"]


def test_what_else_a_chunk_says_stays() -> None:
    body = chunk({"content": "x", "tool_calls": [call(0, "a", "theirs", "{}")]}) + DONE
    assert orjson.loads(merged(body).partition(b"\n")[0][6:])["choices"][0]["delta"] == {
        "content": "x"
    }
    last = chunk({"tool_calls": [call(0, "a", "theirs", "{}")]}, finish="tool_calls") + DONE
    choice = orjson.loads(merged(last).partition(b"\n")[0][6:])["choices"][0]
    assert (choice["delta"], choice["finish_reason"]) == ({}, "tool_calls")


def test_the_place_of_a_withheld_call_is_free_again_after_its_finish() -> None:
    own = calls(call(0, "b", "own")) + calls(call(0, None, None, "{}"))
    assert merged(HEAD + REST + finish() + own + finish() + DONE) == own + finish() + DONE


def test_without_a_word_about_tools_all_are_shown() -> None:
    body = HEAD + REST + finish() + DONE
    assert play(body, merge_rounds=True, dialect=DIALECTS["off"]).data == body


@pytest.mark.parametrize(
    "data",
    [
        b"[DONE]",
        b'{"tool_calls":',
        b'["tool_calls"]',
        b'{"tool_calls":1,"choices":{}}',
        b'{"choices":["tool_calls",{"delta":"tool_calls"},{"delta":{"tool_calls":5}}]}',
        b'{"choices":[{"delta":{"tool_calls":[]}}]}',
        b'{"choices":[{"delta":{"tool_calls":["x",{},{"function":1}]}}]}',
    ],
)
def test_what_makes_no_sense_stays(data: bytes) -> None:
    event = Event(b"data: " + data + b"\n\n", b"", data)
    assert Withheld(RUNNABLE).strip(event) is event
    assert merged(event.raw + sse({"x": 1})) == event.raw + sse({"x": 1})


def test_usage_in_the_same_chunk_stays() -> None:
    body = calls(call(0, "a", "theirs", "{}"), usage={"total_tokens": 1}) + DONE
    assert b"total_tokens" in merged(body)


def test_a_name_in_a_withheld_place_begins_another_call() -> None:
    own = calls(call(0, "b", "own")) + calls(call(0, None, None, "{}"))
    assert merged(HEAD + own + finish() + DONE) == own + finish() + DONE


def test_of_a_chunk_that_makes_no_sense_besides_nothing_is_left() -> None:
    entry = {"index": 0, "delta": {"tool_calls": [call(0, "a", "theirs", "{}")]}}
    assert merged(sse({"choices": ["x", entry]}) + DONE) == DONE
