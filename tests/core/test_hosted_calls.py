"""Calls that the client cannot run, taken out of its stream."""

from pathlib import Path

import orjson
import pytest
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.hosted_calls import HostedCallFilter
from lifecycle_proxy.core.sse import Event, Parser

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
    play,
    sse,
    text,
    whatwg,
)
from tests.curve import assert_linear

CLIENT_TOOLS = frozenset({"own"})
HEAD = calls(call(0, "a", "theirs"))
REST = calls(call(arguments='{"q":')) + calls(call(arguments="1}"))
RESULT = {"mcp_call_results": [{"tool_call_id": "a", "result": "sunny"}]}

segmented = pytest.mark.parametrize(
    "sizes", [WHOLE, BYTEWISE, (7,)], ids=["whole", "bytewise", "by 7"]
)


def merged_alone(body: bytes) -> bytes:
    """What is left without what ``rounds`` does."""
    events, stripper = Parser(8 << 20).feed(body), HostedCallFilter(CLIENT_TOOLS)
    return b"".join(left.raw for event in events if (left := stripper.strip(event)))


def merged(body: bytes, sizes: tuple[int, ...] = WHOLE, dialect: str = "off") -> bytes:
    options: Json = {"merge_rounds": True, "client_tools": CLIENT_TOOLS}
    return play(body, sizes, dialect=DIALECTS[dialect], **options).data


@segmented
def test_a_call_that_the_client_cannot_run_is_not_shown_to_it(sizes: tuple[int, ...]) -> None:
    body = text("a") + HEAD + REST + finish() + text("b") + finish("stop") + DONE
    assert merged(body, sizes) == text("a") + text("b") + finish("stop") + DONE


@segmented
def test_its_card_is_complete(sizes: tuple[int, ...]) -> None:
    end = chunk({"provider_specific_fields": RESULT}, finish="tool_calls")
    body = HEAD + REST + end + text("b") + finish("stop") + DONE
    played = play(body, sizes, merge_rounds=True, client_tools=CLIENT_TOOLS)
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


def test_where_the_tools_are_not_known_all_are_shown() -> None:
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
        b'{"choices":[{"delta":{"tool_calls":["x",5]}}]}',
    ],
)
def test_what_makes_no_sense_stays(data: bytes) -> None:
    event = Event(b"data: " + data + b"\n\n", b"", data)
    assert HostedCallFilter(CLIENT_TOOLS).strip(event) is event
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


# --- calls whose name comes late, or never --------------------------------------------------------


@segmented
def test_a_call_is_shown_from_its_start_once_its_name_has_come(sizes: tuple[int, ...]) -> None:
    late = calls(call(0, "b", None, "")) + calls(call(0, None, "own", "{}"))
    entries = shown(merged(late + finish() + DONE, sizes))
    assert [entry.get("id") for entry in entries] == ["b", None]
    assert entries[1]["function"] == {"name": "own", "arguments": "{}"}


@segmented
def test_a_call_without_a_name_is_not_shown_before_it_has_one(sizes: tuple[int, ...]) -> None:
    late = (
        calls(call(0, "a", None, ""))
        + calls(call(0, None, None, "{"))
        + calls(call(0, "a", "theirs"))
    )
    body = text("a") + late + REST + finish() + text("b") + finish("stop") + DONE
    assert merged(body, sizes) == text("a") + text("b") + finish("stop") + DONE


def test_a_call_that_never_has_a_name_is_not_shown() -> None:
    nameless = calls(call(0, "a", None, "{}")) + calls({}, {"function": 1, "index": 2})
    assert merged(nameless + finish() + DONE) == finish() + DONE
    own = calls(call(0, "b", "own", "{}"))  # what was kept belongs to no later call of its place
    assert merged(nameless + finish() + own + finish() + DONE) == own + finish() + DONE


def test_an_index_of_any_kind_breaks_nothing() -> None:
    for index in (b"[" * 990 + b"]" * 990, b'{"a":1}', b"1.5", b"true", b'"0"', b"null"):
        theirs, own = (
            calls(call(77, "a", name, "{}")).replace(b'"index":77', b'"index":' + index)
            for name in ("theirs", "own")
        )
        assert merged_alone(theirs) == b""
        assert merged_alone(own) == own


@pytest.mark.unmeasured
@pytest.mark.parametrize("entry", [{"id": "a"}, {"function": {"name": "theirs"}}])
def test_many_calls_in_one_event_take_a_time_that_grows_with_their_number_only(entry: Json) -> None:
    def body(count: int) -> bytes:
        return calls(*({"index": n, **entry} for n in range(count)))

    assert merged_alone(body(1_000)) == b""
    assert_linear(body, merged_alone, 3_000)


@pytest.mark.unmeasured
@pytest.mark.parametrize("entry", [{"id": "a"}, {"function": {"name": "theirs"}}])
def test_many_choices_take_a_time_that_grows_with_their_number_only(entry: Json) -> None:
    def body(count: int) -> bytes:
        begun = [calls({"index": 0, **entry}, choice=n) for n in range(count)]
        return b"".join((*begun, *(finish(choice=n) for n in range(count))))

    assert_linear(body, merged_alone, 250)


def test_no_more_is_kept_than_a_call_could_have() -> None:
    late = calls(call(0, "b", None, "1")) + calls(*5000 * [call(0, None, None, "2")])
    entries = shown(merged(late + calls(call(0, None, "own", "3")) + finish() + DONE))
    assert [entry["function"]["arguments"] for entry in entries] == ["1", *4095 * ["2"], "3"]


def test_no_more_calls_are_remembered_than_there_could_be() -> None:
    many = calls(*(call(n, f"i{n}", "theirs") for n in range(4096)))
    later = [calls(call(0, name, name), choice=1) for name in ("theirs", "own")]
    assert merged_alone(many + b"".join(later)) == later[1]


def test_arguments_at_a_place_without_a_call_are_those_of_the_latest_call() -> None:
    """SGLang with MiniMax."""
    rest = calls(call(7, None, None, "{}"))
    own = calls(call(0, "b", "own"))
    assert merged(own + rest + finish() + DONE) == own + rest + finish() + DONE
    assert merged(HEAD + rest + finish() + DONE) == finish() + DONE


def test_a_name_in_pieces_is_not_one_of_the_clients() -> None:
    """Open WebUI takes the latest piece for the name: it could not run such a call either."""
    pieces = calls(call(0, "a", "o", "")) + calls(call(0, None, "wn", "")) + REST
    assert merged(pieces + finish() + DONE) == finish() + DONE


def test_a_name_that_is_none_is_none() -> None:
    odd = calls(call(0, "a", ["own"], "{}")) + calls(call(1, "b", {"own": 1}, "{}"))
    assert merged(odd + finish() + DONE) == finish() + DONE


# --- other forms ----------------------------------------------------------------------------------


def test_a_single_call_may_be_no_list() -> None:
    """TGI before 2025-03."""
    body = chunk({"tool_calls": call(0, "a", "theirs", "{}")}) + finish() + DONE
    assert merged(body) == finish() + DONE
    own = chunk({"tool_calls": call(0, "b", "own", "{}")})
    assert merged(own + finish() + DONE) == own + finish() + DONE


@segmented
def test_a_result_is_no_part_of_the_answer(sizes: tuple[int, ...]) -> None:
    result = chunk({"role": "tool", "tool_call_id": "a", "content": "sunny"})
    body = HEAD + REST + finish() + result + text("b") + finish("stop") + DONE
    assert merged(body, sizes) == text("b") + finish("stop") + DONE
    told = play(body, sizes, merge_rounds=True, client_tools=CLIENT_TOOLS).told
    assert told == ["running a theirs", "completed a theirs ok"]


def test_choices_have_places_of_their_own() -> None:
    rest = calls(call(0, None, None, " "), choice=1)
    one, two = merged_alone(HEAD), merged_alone(HEAD + finish("stop", choice=1) + REST)
    assert (one, two) == (b"", finish("stop", choice=1))
    other = calls(call(0, "b", "own", "{}"), choice=1)
    assert merged_alone(HEAD + other + finish() + rest) == other + finish() + rest


@pytest.mark.parametrize("piece", ["\\ud83d", "NaN"])
def test_what_only_a_forgiving_parser_reads_is_withheld_too(piece: str) -> None:
    odd = HEAD.replace(b'"arguments":""', f'"arguments":"","x":{piece!s}'.encode())
    odd = odd.replace(b'"x":\\u', b'"x":"\\u').replace(b"\\ud83d", b'\\ud83d"')
    assert merged(odd + finish() + DONE) == finish() + DONE
    beside = odd.replace(b'"delta":{', b'"delta":{"content":"c",')
    left = merged(beside + finish() + DONE)
    assert b'"content":"c"' in left
    assert b"theirs" not in left


def test_what_is_nested_beyond_reason_is_not_shown() -> None:
    deep = b'"delta":{"x":' + b"[" * 1010 + b"]" * 1010 + b","
    assert b"theirs" not in merged_alone(HEAD.replace(b'"delta":{', deep))


def test_the_name_of_an_event_stays() -> None:
    body = b"event: message\n" + chunk(
        {"content": "x", "tool_calls": [call(0, "a", "theirs", "{}")]}
    )
    assert merged(body + DONE).startswith(b'event: message\ndata: {"id"')


# --- ends -----------------------------------------------------------------------------------------


def test_a_whole_line_of_an_event_that_never_ended_is_not_shown() -> None:
    """Open WebUI reads by line, and would run the call."""
    played = play(
        text("a") + HEAD[:-1], abort="upstream_error", merge_rounds=True, client_tools=CLIENT_TOOLS
    )
    assert b"theirs" not in played.data.replace(b"theirs ", b"")
    rest = text("b")[:-1]
    played = play(HEAD + rest, abort="upstream_error", merge_rounds=True, client_tools=CLIENT_TOOLS)
    assert played.data.endswith(rest)


@segmented
def test_a_card_is_closed_when_the_stream_breaks_in_its_call(sizes: tuple[int, ...]) -> None:
    options: Json = {"merge_rounds": True, "client_tools": CLIENT_TOOLS, "abort": "upstream_error"}
    played = play(text("a") + HEAD + REST[:-40], sizes, **options)
    assert played.told == ["running a theirs", "completed a theirs failed:upstream_error"]
    assert all(event.hosted for event in played.events)


# --- the corpus -----------------------------------------------------------------------------------

_CORPUS = sorted((Path(__file__).parents[1] / "corpus").glob("*.sse"))


@pytest.mark.unmeasured
@segmented
@pytest.mark.parametrize("file", _CORPUS, ids=lambda file: file.stem)
def test_no_stream_shows_a_call_that_the_client_cannot_run(
    file: Path, sizes: tuple[int, ...]
) -> None:
    played = play(file.read_bytes(), sizes, merge_rounds=True, client_tools=frozenset[str]())
    assert not shown(played.data)
    assert_paired(played.events)


def shown(body: bytes) -> list[Json]:
    """The entries of ``tool_calls`` in a stream."""
    chunks = [orjson.loads(d) for _, d in whatwg(body) if d.startswith(b"{") and b"tool_calls" in d]
    choices = [choice for one in chunks for choice in one["choices"]]
    return [entry for choice in choices for entry in choice["delta"].get("tool_calls") or ()]


def test_the_finish_of_another_choice_changes_nothing() -> None:
    own = calls(call(1, "b", "own"))
    end = finish("stop", choice=1)
    assert merged_alone(HEAD + own + end + REST) == own + end
    assert merged_alone(own + HEAD + end + calls(call(1, None, None, "{}"))) == own + end + calls(
        call(1, None, None, "{}")
    )
