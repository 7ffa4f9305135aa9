"""Work that grows with the size of its input and no faster, and the limits of what is followed.

Each input here once took quadratic time, or could hold the event loop for too long.
"""

import json
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from lifecycle_proxy.core.arguments import canonical
from lifecycle_proxy.core.complexity import MAX_VALUES, count_values, is_too_complex
from lifecycle_proxy.core.counts import MAX_CALLS, MAX_OPEN_CALLS
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.history import without_own_output
from lifecycle_proxy.core.labels import Labels, preview
from lifecycle_proxy.core.observers.json import loads
from lifecycle_proxy.core.redact import redact
from lifecycle_proxy.core.sse import Event, Parser

from tests.core import DONE, call, calls, chunk, finish, make, native, play, sse, text
from tests.curve import assert_linear

Pieces = Callable[[int], list[bytes]]


def _opened(count: int, *, nameless: bool = False) -> list[bytes]:
    name = None if nameless else "f"
    return [calls(call(n, f"c{n}", name, "{")) for n in range(count)]


# --- the parser ---------------------------------------------------------------------------------


def _line_begun_again(size: int) -> list[bytes]:
    return [b'data: {"a":[' + b"1," * (size * 50) + b"1\n", *[b"data: {\n"] * size]


def _line_begun_again_by_line(size: int) -> list[bytes]:
    return [b"data: {}\ndata: {}\n", *_line_begun_again(size)]


def _line_of_text_then_data(size: int) -> list[bytes]:
    return [b": " + b"x" * (size * 50) + b"\n", *[b"data: {\n"] * size]


def _small_reads(size: int) -> list[bytes]:
    return [b'data: {"a": "', *[b"x" * 256] * size, b'"}\n\n']


def _lines(size: int) -> list[bytes]:
    return [b": comment\n"] * size


def _lines_with_cr(size: int) -> list[bytes]:
    return [b": comment\r\n"] * size


def _empty_lines(size: int) -> list[bytes]:
    return [b"\n\r"] * size


# --- calls --------------------------------------------------------------------------------------


def _open_calls(size: int) -> list[bytes]:
    return _opened(size)


def _text_behind_open_calls(size: int) -> list[bytes]:
    return [*_opened(size), *[text()] * size]


def _text_behind_nameless_calls(size: int) -> list[bytes]:
    return [*_opened(size, nameless=True), *[text()] * size]


def _empty_deltas_behind_delegated_calls(size: int) -> list[bytes]:
    begun = [calls(call(n, f"c{n}", "f", "{}")) for n in range(size)]
    return [*begun, finish(), *[chunk({})] * size]


def _results(size: int) -> list[bytes]:
    ended = [chunk({"role": "tool", "tool_call_id": f"c{n}"}) for n in range(size)]
    return [*_opened(size), *ended]


def _native(size: int) -> list[bytes]:
    ids = [f"c{n}" for n in range(size)]
    begun, ended = [native(call_id=n) for n in ids], [native("completed", n) for n in ids]
    return [*begun, *[finish()] * size, *ended]


def _choices(size: int) -> list[bytes]:
    begun = [calls(call(0, f"c{n}", "f", "{}"), choice=n) for n in range(size)]
    return [*begun, *(finish(choice=n) for n in range(size))]


def _resumed(size: int) -> list[bytes]:
    again = [calls(call(n, arguments="}")) for n in range(size)]
    return [*_opened(size), finish(), *again, finish()]


STREAMS: Final[dict[str, tuple[Pieces, int]]] = {
    "a line that is begun again and again": (_line_begun_again, 250),
    "the same in a stream of lines": (_line_begun_again_by_line, 250),
    "a comment, and lines of data behind it": (_line_of_text_then_data, 500),
    "an event in small reads": (_small_reads, 1_000),
    "lines without end": (_lines, 2_000),
    "lines without end, of CR LF": (_lines_with_cr, 2_000),
    "line ends alone": (_empty_lines, 2_000),
    "open calls": (_open_calls, 60),
    "text behind open calls": (_text_behind_open_calls, 60),
    "text behind nameless calls": (_text_behind_nameless_calls, 60),
    "empty deltas behind delegated calls": (_empty_deltas_behind_delegated_calls, 60),
    "calls and their results": (_results, 60),
    "calls of the upstream's own": (_native, 60),
    "choices with a call each": (_choices, 60),
    "calls that go on behind a finish": (_resumed, 60),
}


def _played(pieces: list[bytes], dialect: str, span: str) -> None:
    pipeline = make(DIALECTS[dialect], span=span, merge_rounds=DIALECTS[dialect].merges_rounds)
    for piece in pieces:
        pipeline.feed(piece, 1.0)
    pipeline.eof(2.0)


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize(
    ("dialect", "span"), [("chunk", "call"), ("openwebui", "execution"), ("quote", "call")]
)
def test_the_work_on_a_stream_grows_as_its_size(name: str, dialect: str, span: str) -> None:
    pieces, size = STREAMS[name]
    assert_linear(pieces, lambda given: _played(given, dialect, span), size)


def _hosted_items(size: int) -> list[bytes]:
    item = {"type": "web_search_call", "status": "in_progress"}
    begun = [
        sse(
            {
                "type": "response.output_item.added",
                "output_index": n,
                "item": {**item, "id": f"i{n}"},
            }
        )
        for n in range(size)
    ]
    output = {"type": "web_search_output", "output": "x"}
    return [*begun, *[sse({"type": "response.output_item.done", "item": output})] * size]


def _blocks(size: int) -> list[bytes]:
    block = {"type": "server_tool_use", "name": "f"}
    begun = [
        sse({"type": "content_block_start", "index": n, "content_block": {**block, "id": f"b{n}"}})
        for n in range(size)
    ]
    paused = sse({"type": "message_delta", "delta": {"stop_reason": "pause_turn"}})
    return [*begun, *[paused, sse({"type": "message_start", "message": {}})] * size]


@pytest.mark.unmeasured
@pytest.mark.parametrize(("api", "pieces"), [("responses", _hosted_items), ("messages", _blocks)])
def test_the_work_on_other_apis_grows_as_the_stream(api: str, pieces: Pieces) -> None:
    def work(given: list[bytes]) -> None:
        play(given, observer=api)

    assert_linear(pieces, work, 60)


# --- limits -------------------------------------------------------------------------------------


def _chat_calls(count: int) -> Iterator[bytes]:
    for n in range(count):
        yield calls(call(n, f"c{n}", "f", "{}"))
        yield chunk({"role": "tool", "tool_call_id": f"c{n}"})


def _items(count: int) -> Iterator[bytes]:
    for n in range(count):
        item = {"type": "function_call", "name": "f", "call_id": f"c{n}", "id": f"i{n}"}
        place = {"output_index": n, "item": item}
        yield sse({"type": "response.output_item.added", **place})
        yield sse({"type": "response.output_item.done", **place})
        yield text()


def _tool_blocks(count: int) -> Iterator[bytes]:
    for n in range(count):
        block = {"type": "tool_use", "id": f"c{n}", "name": "f", "input": {}}
        yield sse({"type": "content_block_start", "index": n, "content_block": block})
        yield sse({"type": "content_block_stop", "index": n})
        yield sse({"type": "content_block_start", "content_block": {"type": "text"}})


def _own_events(count: int) -> Iterator[bytes]:
    for n in range(count):
        yield native(call_id=f"c{n}")
        yield native("completed", f"c{n}")


@pytest.mark.parametrize(
    ("api", "stream"),
    [
        ("chat", _chat_calls),
        ("chat", _own_events),
        ("responses", _items),
        ("messages", _tool_blocks),
    ],
)
def test_calls_above_the_limit_pass_and_are_counted(
    api: str, stream: Callable[[int], Iterator[bytes]]
) -> None:
    body = b"".join(stream(MAX_CALLS + 3))
    played = play(body, (1 << 16,), observer=api, dialect=DIALECTS["strip"])
    assert played.counts.not_followed == 3
    assert len(played.events) == 2 * MAX_CALLS
    if stream is not _own_events:
        assert played.data == body


def test_no_more_calls_are_open_at_once() -> None:
    played = play([*_opened(MAX_OPEN_CALLS + 2), *_opened(MAX_OPEN_CALLS + 2), finish(), DONE])
    assert played.counts.not_followed == 2
    assert len(played.events) == 2 * MAX_OPEN_CALLS


@pytest.mark.parametrize("late", [{"id": "x"}, {}])
def test_a_piece_of_a_call_that_is_not_followed_belongs_to_no_other(late: dict[str, str]) -> None:
    pieces = [*_chat_calls(MAX_CALLS - 1), calls(call(7777, "last", "f", '{"a":'))]
    pieces += [calls(call(8888, "more", "f", '{"b":'))]
    pieces += [calls(call(7777, arguments="1")), calls({**call(8888, arguments="2}"), **late})]
    pieces += [calls(call(7777, arguments="}")), finish(), DONE]
    played = play(pieces)
    assert played.counts.not_followed == 1
    assert played.events[-1].label == '{"a":1}'


def test_other_forms_of_calls_have_the_same_limit() -> None:
    full = list(_chat_calls(MAX_CALLS - 1))
    executed = chunk({"executed_tools": [{"index": 0, "type": "search", "output": "x"}]})
    twin = [calls(call(1, "t", "f", '{"a":1}')), calls(call(2, "t", "f", '{"a":2}'))]
    played = play([*full, *twin, executed, finish(), DONE])
    assert played.counts.not_followed == 2


def test_calls_of_choices_above_the_limit_are_not_followed() -> None:
    choices = [chunk({"role": "x"}, choice=n, finish="stop") for n in range(MAX_CALLS)]
    played = play([*choices, calls(call(0, "a", "f", "{}"), choice=MAX_CALLS), DONE])
    assert played.counts.not_followed == 1
    assert not played.events


def test_an_id_belongs_to_the_first_choice_that_appeared() -> None:
    begun = [text(choice=0), calls(call(0, "a", "f", "{}"), choice=1)]
    begun += [calls(call(0, "b", "f", "{}"), choice=0), calls(call(0, "a", "f", "{}"), choice=0)]
    result = chunk({"role": "tool", "tool_call_id": "a"})
    assert play([chunk({"x": 1}, finish="stop"), *begun, result]).told[-3:-2] == [
        "completed a f ok"
    ]


@pytest.mark.unmeasured
def test_ids_of_an_item_are_remembered_up_to_a_limit() -> None:
    def added(n: int) -> bytes:
        item = {"type": "function_call", "name": "f", "call_id": "c", "id": f"i{n}"}
        return sse({"type": "response.output_item.added", "output_index": 0, "item": item})

    played = play(b"".join(map(added, range(5 * MAX_CALLS))), (1 << 16,), observer="responses")
    assert played.told == ["running c f", "completed c f cut:upstream_eof"]


# --- what is too complex ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"[],", b"{},", b'"":1,', b"[[[]]],"])
def test_an_event_of_many_values_passes_undecoded(value: bytes) -> None:
    parser = Parser(8 << 20)
    raw = b'data: {"a":[' + value * MAX_VALUES + b"1]}\n\n"
    (event,) = parser.feed(raw)
    assert event == Event(raw, b"", None, closed=True, parsed=False)
    assert parser.oversized == 1
    assert [event.data for event in parser.feed(b"data: x\n\n")] == [b"x"]


def test_an_event_of_many_lines_passes_undecoded() -> None:
    raw = b"data: x\n" * 60_000 + b"id: 1\n\n"
    (event,) = Parser(8 << 20).feed(raw)
    assert (event.raw, event.parsed, event.has_id) == (raw, False, True)


@pytest.mark.parametrize("event", [b"\n\n", b"data:x\n\n", b"data: {}\n", b":\r\r"])
def test_of_a_read_of_too_many_events_the_rest_passes_undecoded(event: bytes) -> None:
    parser, raw = Parser(8 << 20), event * 30_000
    events = parser.feed(raw)
    assert len(events) == 10_001
    assert b"".join(each.raw for each in events) + parser.tail == raw
    assert parser.oversized == 1
    parser.feed(b"\n\n\n\n")
    assert b"{}" in [each.data for each in parser.feed(b"data: {}\n\n")]


def test_a_large_picture_is_decoded() -> None:
    picture = {"content": "QUJD+/" * 1_000_000}
    assert play(chunk(picture, finish="stop")).counts.undecodable == 0
    assert Parser(8 << 20).feed(chunk(picture))[0].parsed


def test_text_counts_as_bytes_do() -> None:
    assert is_too_complex("[]," * MAX_VALUES)
    assert is_too_complex(b"[]," * MAX_VALUES)
    assert not is_too_complex("x" * MAX_VALUES * 2)
    assert not is_too_complex("[]," * 10)
    assert count_values(b'{"a": [1, 2]}') == 4


def test_a_long_line_is_an_event_by_its_ends() -> None:
    line = b'data: {"a": "' + b"x" * 300_000 + b'"}\n'
    events = Parser(8 << 20).feed(line + line + b"data: {}\n\n")
    assert [event.raw for event in events[:2]] == [line, line]
    cut = line.replace(b"}", b"")
    assert len(Parser(8 << 20).feed(cut + b"data: {}\n\n")) == 1


def test_arguments_that_are_too_complex_are_not_looked_into() -> None:
    arguments = '{"query": "x", "a": [' + "[]," * MAX_VALUES + "1]}"
    assert preview("f", arguments) == ""
    assert canonical(f" {arguments} ") == arguments
    assert Labels().arguments(arguments) == ""


def test_large_json_is_decoded_strictly() -> None:
    small, large = ({"a": "x" * size} for size in (1_000, 2 << 20))
    assert loads(json.dumps(small).encode().replace(b"x", b"\xff", 1))["a"].startswith("\ufffd")
    assert loads(json.dumps(large).encode()) == large
    with pytest.raises(ValueError, match="UTF-8"):
        loads(json.dumps(large).encode().replace(b"x", b"\xff", 1))


@pytest.mark.unmeasured
def test_looking_for_secrets_takes_a_time_that_grows_with_the_text() -> None:
    assert_linear(lambda size: "a" * size + " ", redact, 4_000)


# --- requests -----------------------------------------------------------------------------------

CARD: Final = b'{"role": "assistant", "tool_calls": [{"id": "htp_1"}]}'


def _with_cards(size: int) -> bytes:
    return b'{"messages": [' + b",".join([CARD, b"{}"] * size) + b"]}"


def _with_marks(size: int) -> bytes:
    return b'{"messages": ["' + "> \u2063\u2063a\u2063\\n".encode() * size + b'"]}'


def _with_escaped_marks(size: int) -> bytes:
    return b'{"messages": ["' + rb"\\u2063\\u2063\\u00e4 \\u2063\\n" * size + b'"]}'


@pytest.mark.unmeasured
@pytest.mark.parametrize("body", [_with_cards, _with_marks, _with_escaped_marks])
def test_cleaning_a_request_takes_a_time_that_grows_with_its_size(
    body: Callable[[int], bytes],
) -> None:
    assert without_own_output(body(10)) != body(10)
    assert_linear(body, without_own_output, 500)


@pytest.mark.parametrize("body", [_with_cards, _with_marks, _with_escaped_marks])
def test_a_request_with_too_much_in_it_stays_as_it_is(body: Callable[[int], bytes]) -> None:
    large = body(50_000)
    assert without_own_output(large) is large
