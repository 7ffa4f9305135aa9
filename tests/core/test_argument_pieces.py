"""The pieces of calls' arguments, for readers beside a stream."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from lifecycle_proxy.core.argument_pieces import MAX_PIECES, MAX_REDACTED, ArgumentPieces
from lifecycle_proxy.core.arguments import Arguments
from lifecycle_proxy.core.events import Outcome, ToolCompleted, ToolRunning
from lifecycle_proxy.core.labels import Labels
from lifecycle_proxy.core.observers.typed import ReplaceableArguments

from tests.core import BYTEWISE, DONE, WHOLE, call, calls, finish, make, segments, sse, text

_SECRET = '{"query":"sk-abcdefgh12345678"}'


def running(written: Arguments, call_id: str = "a", **more: Any) -> ToolRunning:
    return ToolRunning(call_id, more.pop("choice", 0), "t", "t", "*", written=written, **more)


def completed(
    call_id: str = "a", choice: int = 0, outcome: Outcome = Outcome.UNKNOWN
) -> ToolCompleted:
    return ToolCompleted(call_id, choice, "t", "t", "*", outcome, 1)


def of(*pieces: str, kind: type[Arguments] = Arguments, free: bool = False) -> Arguments:
    arguments = kind(is_free_form=free)
    for piece in pieces:
        arguments.take(piece)
    return arguments


def deltas(pieces: Any) -> list[str]:
    return [piece["delta"] for piece in pieces]


def read(body: bytes, sizes: Sequence[int], own: ArgumentPieces, api: str) -> list[Any]:
    """What a log gets of a stream, if it looks behind each read."""
    pipeline = make(lambda *_: b"", api, follows_arguments=True)
    found: list[Any] = []
    for piece in (*segments(body, sizes), None):
        step = pipeline.eof(1.0) if piece is None else pipeline.feed(piece, 0.0)
        for event in step.events:
            if isinstance(event, ToolRunning):
                kept = own.begin(event)
                assert kept.written is None
                found.append(("running", kept.id))
            else:
                found += own.last(event)
                found.append(("completed", event.id))
        own.renew()
        found += own.due()
    assert not list(own.rest())
    return found


_PIECES = ('{"query":', '"sk-abcd', 'efgh12345678"}')
_CHAT = b"".join(
    (
        text("a"),
        calls(call(0, "a", "t", "")),
        *(calls(call(0, arguments=piece)) for piece in _PIECES),
        finish(),
        DONE,
    )
)
_ITEM = {"type": "function_call", "id": "fc", "call_id": "a", "name": "t", "arguments": ""}
_PLACE = {"output_index": 0, "item_id": "fc"}
_DELTA = "response.function_call_arguments.delta"
_RESPONSES = b"".join(
    (
        sse({"type": "response.created", "response": {"id": "r"}}),
        sse({"type": "response.output_item.added", "output_index": 0, "item": _ITEM}),
        *(sse({"type": _DELTA, **_PLACE, "delta": piece}) for piece in _PIECES),
        sse({"type": "response.function_call_arguments.done", **_PLACE, "arguments": _SECRET}),
        sse(
            {
                "type": "response.output_item.done",
                "output_index": 0,
                "item": {**_ITEM, "arguments": _SECRET, "status": "completed"},
            }
        ),
        sse({"type": "response.completed", "response": {"id": "r", "status": "completed"}}),
    )
)
_BLOCK = {"type": "tool_use", "id": "a", "name": "t", "input": {}}
_MESSAGES = b"".join(
    (
        sse({"type": "message_start", "message": {"id": "m"}}),
        sse({"type": "content_block_start", "index": 0, "content_block": _BLOCK}),
        *(
            sse(
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "input_json_delta", "partial_json": piece},
                }
            )
            for piece in _PIECES
        ),
        sse({"type": "content_block_stop", "index": 0}),
        sse({"type": "message_delta", "delta": {"stop_reason": "tool_use"}}),
        sse({"type": "message_stop"}),
    )
)
_APIS = [("chat", _CHAT), ("responses", _RESPONSES), ("messages", _MESSAGES)]


@pytest.mark.parametrize(("api", "body"), _APIS)
@pytest.mark.parametrize("sizes", [WHOLE, BYTEWISE, (150,), (61, 7)])
def test_pieces_come_between_the_events_of_their_call(
    api: str, body: bytes, sizes: Sequence[int]
) -> None:
    first, *pieces, last = read(body, sizes, ArgumentPieces(None), api)
    assert (first, last) == (("running", "a"), ("completed", "a"))
    assert "".join(deltas(pieces)) == _SECRET
    assert {piece["toolCallId"] for piece in pieces} == {"a"}
    assert len(pieces) > 1 or sizes is WHOLE


@pytest.mark.parametrize(("api", "body"), _APIS)
@pytest.mark.parametrize("sizes", [WHOLE, BYTEWISE, (150,), (61, 7)])
def test_a_secret_over_several_pieces_does_not_pass(
    api: str, body: bytes, sizes: Sequence[int]
) -> None:
    own = ArgumentPieces(Labels())
    piece = {"toolCallId": "a", "delta": '{"query":"***"}'}
    assert read(body, sizes, own, api) == [("running", "a"), piece, ("completed", "a")]
    assert not own.are_open


def test_calls_without_ids_have_those_of_their_events() -> None:
    one, two = '{"n":1}', '{"n":2}'
    body = calls(call(0, None, "t", one)) + calls(call(1, None, "t", two)) + finish() + DONE
    found = read(body, WHOLE, ArgumentPieces(None), "chat")
    assert [piece for piece in found if isinstance(piece, dict)] == [
        {"toolCallId": "made_1", "delta": one},
        {"toolCallId": "made_2", "delta": two},
    ]


def test_ids_that_come_again_have_their_own_arguments() -> None:
    body = b"".join(
        calls(call(0, "0", "t", f'{{"n":{n}}}'), id=f"c{n}") + finish(id=f"c{n}") for n in (1, 2)
    )
    for sizes in (WHOLE, BYTEWISE):
        found = read(body, sizes, ArgumentPieces(None), "chat")
        assert deltas(one for one in found if isinstance(one, dict)) == ['{"n":1}', '{"n":2}']


def test_nothing_is_followed_unasked() -> None:
    pipeline = make(lambda *_: b"")
    (event,) = pipeline.feed(calls(call(0, "a", "t", "{}")), 0.0).events
    assert isinstance(event, ToolRunning)
    assert event.written is None
    own = ArgumentPieces(None)
    assert own.begin(event) is event
    assert not own.are_open


def test_arguments_that_readers_have_are_not_sent_again() -> None:
    own = ArgumentPieces(None)
    own.begin(running(of("{}"), arguments="{}"))
    assert not own.are_open
    assert list(own.last(completed())) == []


def test_the_choice_is_there_where_it_is_not_the_first() -> None:
    own = ArgumentPieces(None)
    own.begin(running(of("[1"), choice=2))
    assert list(own.due()) == [{"toolCallId": "a", "choice": 2, "delta": "[1"}]
    assert list(own.last(completed(choice=2))) == []


def test_a_placeholder_waits_for_the_end() -> None:
    own, arguments = ArgumentPieces(None), of("{}")
    own.begin(running(arguments))
    assert list(own.due()) == []
    assert deltas(own.last(completed())) == ["{}"]


def test_snapshots_and_repetitions_are_sent_once() -> None:
    own, arguments = ArgumentPieces(None), of('{"a"')
    own.begin(running(arguments))
    assert deltas(own.due()) == ['{"a"']
    arguments.take('{"a":1')
    assert deltas(own.due()) == [":1"]
    arguments.take("}")
    arguments.take('{"a":1}')
    assert deltas(own.due()) == ["}"]
    assert list(own.last(completed())) == []


def test_a_whole_that_comes_again_in_pieces_is_sent_once() -> None:
    arguments = ReplaceableArguments()
    arguments.whole('{"a":1}')
    own = ArgumentPieces(None)
    own.begin(running(arguments))
    assert deltas(own.due()) == ['{"a":1}']
    arguments.piece('{"a"')
    assert deltas(own.due()) == []
    arguments.piece(":1} ")
    assert deltas(own.due()) == [" "]


def test_other_arguments_later_are_not_mixed_with_the_first_ones() -> None:
    arguments = ReplaceableArguments()
    own = ArgumentPieces(None)
    own.begin(running(arguments))
    arguments.piece("print(1)")
    assert deltas(own.due()) == ["print(1)"]
    arguments.whole('{"code":"print(1)"}')
    assert deltas(own.due()) == []
    assert deltas(own.last(completed())) == []


def test_of_long_arguments_the_beginning_is_sent() -> None:
    own, arguments = ArgumentPieces(None), of("[" + "x" * MAX_PIECES)
    own.begin(running(arguments))
    assert len("".join(deltas(own.due()))) == MAX_PIECES
    arguments.take("y")
    assert deltas(own.due()) == []


@pytest.mark.parametrize(
    ("arguments", "outcome", "expected"),
    [
        (of('{"password": "x"'), Outcome.CUT, []),
        (of("token=abc"), Outcome.OK, []),
        (of("[1]"), Outcome.OK, []),
        (of(""), Outcome.OK, []),
        (of("{}"), Outcome.OK, ["{}"]),
        (of("run token=abc", free=True), Outcome.OK, ["run token=***"]),
        (of("run token='ab", free=True), Outcome.CUT, []),
        (of("run token='ab", free=True), Outcome.CANCELLED, []),
    ],
)
def test_what_is_not_known_to_be_whole_is_not_shown(
    arguments: Arguments, outcome: Outcome, expected: list[str]
) -> None:
    own = ArgumentPieces(Labels())
    own.begin(running(arguments))
    assert list(own.due()) == []
    assert deltas(own.last(completed(outcome=outcome))) == expected


def test_calls_that_clients_run_end_behind_the_stream() -> None:
    own = ArgumentPieces(Labels())
    own.begin(running(of("ls", free=True)))
    assert deltas(own.rest()) == ["ls"]
    assert not own.are_open
    plain = ArgumentPieces(None)
    plain.begin(running(of('{"a"')))
    assert deltas(plain.rest()) == ['{"a"']


def test_not_too_much_is_searched_for_secrets_at_once() -> None:
    large = json.dumps({"a": "x" * (MAX_REDACTED - 100)})
    own = ArgumentPieces(Labels())
    for number in range(3):
        own.begin(running(of(large), f"{number}"))
    for _ in range(3):
        assert deltas(own.due()) == [large.replace(" ", "")]
        assert list(own.due()) == []
        own.renew()
    assert not own.are_open
    assert not own.are_left
    for number in range(2):
        own.begin(running(of(large), f"{number}"))
    assert len(deltas(own.last(completed("0")))) == 1
    assert list(own.due()) == []
    assert own.are_left
    assert deltas(own.last(completed("1"))) == []


def test_what_is_too_long_to_be_searched_is_left_out() -> None:
    own = ArgumentPieces(Labels())
    own.begin(running(of(json.dumps({"a": "x" * MAX_REDACTED}))))
    own.begin(running(of('{"a": 1}'), "b"))
    assert deltas(own.due()) == ['{"a":1}']


def test_what_is_behind_an_offset() -> None:
    arguments = of("ab", "cd", "ef")
    assert [arguments.behind(at) for at in range(8)] == [
        *("abcdef", "bcdef", "cdef", "def", "ef", "f", "", "")
    ]
    assert str(arguments) == "abcdef"
    assert arguments.behind(3) == "def"
    long = of("[", "x" * Arguments.LIMIT, "y")
    assert long.length == Arguments.LIMIT
    assert long.behind(Arguments.LIMIT - 1) == "x"
