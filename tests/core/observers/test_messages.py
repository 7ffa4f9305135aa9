"""Anthropic Messages streams: blocks that are calls, blocks that are results, and how it ends."""

from typing import Any

import pytest
from hypothesis import given, settings
from lifecycle_proxy.core.arguments import Arguments
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.events import CallDelta, Envelope, ToolCompleted
from lifecycle_proxy.core.observers.messages import MessagesObserver
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


def event(kind: str, **fields: Any) -> bytes:
    """One event as Anthropic writes it."""
    return sse({"type": kind, **fields}, kind)


def start(block: object, index: object = 0) -> bytes:
    return event("content_block_start", index=index, content_block=block)


def delta(index: object = 0, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta=fields)


def piece(text: object, index: object = 0) -> bytes:
    return delta(index, type="input_json_delta", partial_json=text)


def words(text: str = "hi", index: int = 0) -> bytes:
    return delta(index, type="text_delta", text=text)


def stop(index: object = 0) -> bytes:
    return event("content_block_stop", index=index)


def finish(reason: object = "tool_use") -> bytes:
    return event("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 1})


def use(call_id: object = "a", name: object = "f", kind: str = "tool_use", **fields: Any) -> Json:
    return {"type": kind, "id": call_id, "name": name, "input": {}, **fields}


def result(content: object = None, kind: str = "web_search_tool_result", **fields: Any) -> Json:
    return {"type": kind, "tool_use_id": "a", "content": content, **fields}


BEGIN = event("message_start", message={"id": "msg_1", "model": "m", "content": []})
PING = event("ping")
STOP = event("message_stop")
ERROR = event("error", error={"type": "overloaded_error", "message": "x"})
HEAD = start(use())
CALL = HEAD + piece('{"x":') + piece("1}") + stop()
HOSTED = start(use(kind="server_tool_use")) + piece("{}") + stop()


def play(body: Any, sizes: tuple[int, ...] = WHOLE, **options: Any) -> Played:
    played = play_any(body, sizes, observer="messages", **options)
    assert played.counts.failure is None
    return played


def outputs(played: Played) -> list[str | None]:
    return [e.output for e in played.events if isinstance(e, ToolCompleted)]


# --- calls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [WHOLE, (50,), BYTEWISE])
def test_a_call_of_the_client_is_over_when_its_block_is(sizes: tuple[int, ...]) -> None:
    first = BEGIN + PING + start({"type": "text", "text": ""}) + words() + stop()
    head, rest = start(use(), 1), piece('{"x":', 1) + piece("1}", 1) + stop(1)
    body = first + head + rest + PING + finish() + STOP
    played = play(body, sizes)
    assert played.told == ["running a f", "completed a f ok"]
    assert pairs(played) == ['a f {"x":1}']
    assert not any(e.hosted for e in played.events)
    assert places(played, body) == [len(first + head), len(first + head + rest + PING)]


@pytest.mark.parametrize("sizes", [WHOLE, (50,), BYTEWISE])
@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("server_tool_use", "web_search_tool_result"),
        ("server_tool_use", "bash_code_execution_tool_result"),
        ("mcp_tool_use", "mcp_tool_result"),
    ],
)
def test_a_call_of_the_server_is_over_when_its_result_is_there(
    kind: str, answer: str, sizes: tuple[int, ...]
) -> None:
    head = BEGIN + start(use(kind=kind))
    rest = piece('{"x":1}') + stop() + PING
    body = head + rest + start(result("o", answer), 1) + stop(1) + words(index=2)
    body += finish("end_turn") + STOP
    played = play(body, sizes, result_preview=9)
    assert played.told == ["running a f", "completed a f ok"]
    assert (pairs(played), outputs(played)) == (['a f {"x":1}'], ["o"])
    assert all(e.hosted for e in played.events)
    assert played.counts == Counts()
    answered = head + rest + start(result("o", answer), 1)
    assert places(played, body) == [len(head), len(answered)]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "id": "a", "name": "f", "text": "x"},
        {"type": "thinking"},
        {"type": "container_upload", "id": "a", "name": "f"},
        {"type": ["tool_use"], "id": "a", "name": "f"},
        use(name=None),
        use(name=""),
        {"id": "a", "name": "f"},
        ["tool_use"],
        None,
    ],
)
def test_nothing_else_is_a_call(block: object) -> None:
    played = play(BEGIN + start(block) + piece("{}") + stop() + finish() + STOP)
    assert played.events == []
    assert played.counts == Counts()


@pytest.mark.parametrize("call_id", ["", None, 7, ["a"]])
def test_a_call_without_an_id_gets_one(call_id: object) -> None:
    body = start(use(call_id)) + stop() + start(use(call_id)) + stop() + STOP
    assert play(body).told == [
        *("running made_1 f", "running made_2 f"),
        *("completed made_1 f ok", "completed made_2 f ok"),
    ]


@pytest.mark.parametrize("indexes", [(0, 1), (1, 0), (7, -1), (1 << 70, 0), (0, None), ("x", 0)])
def test_calls_may_be_interleaved(indexes: tuple[object, object]) -> None:
    one, two = indexes
    body = start(use("a"), one) + start(use("b", "g"), two)
    body += piece("[", one) + piece("{", two) + piece("]", one) + piece("}", two)
    body += stop(two) + stop(one) + finish() + STOP
    played = play(body)
    assert pairs(played) == ["a f []", "b g {}"]
    assert played.told[2:] == ["completed a f ok", "completed b g ok"]


def test_a_call_that_is_announced_twice_is_one() -> None:
    body = HEAD + start(use(), 1) + piece("{}", 1) + stop(1) + stop(0) + STOP
    assert pairs(play(body)) == ["a f {}"]
    named_late = start(use(name=None)) + start(use()) + stop()
    assert play(named_late + STOP).told == ["running a f", "completed a f ok"]


def test_an_id_may_come_again_once_its_call_is_over() -> None:
    body = CALL + words(index=1) + start(use(), 2) + piece("[]", 2) + stop(2) + STOP
    assert pairs(play(body)) == ['a f {"x":1}', "a f []"]
    twice = HOSTED + start(result(), 1)
    assert play(2 * twice).told == 2 * ["running a f", "completed a f ok"]


def test_a_block_of_another_kind_takes_the_index() -> None:
    body = HEAD + piece("{}") + start({"type": "text"}) + piece("]") + stop() + finish() + STOP
    assert pairs(play(body)) == ["a f {}"]


@pytest.mark.parametrize(
    ("given", "pieces", "seen"),
    [
        ({}, [], "f"),
        ({}, ["{", "}"], "{}"),
        ({"x": 1}, [], '{"x": 1}'),
        ({"x": 1}, [""], '{"x": 1}'),
        ({"x": 1}, ['{"x": 1}'], '{"x": 1}'),
        ({"x": 1}, ['{"x"', ": 2}"], '{"x": 2}'),
        ('{"x":1}', ['{"x":1}'], '{"x":1}'),
        ("", ["{}"], "{}"),
        (None, [None, 1, "{}"], "{}"),
    ],
)
def test_input_is_told_once(given: object, pieces: list[object], seen: str) -> None:
    body = start(use(input=given)) + b"".join(map(piece, pieces)) + stop() + finish() + STOP
    assert pairs(play(body)) == [f"a f {seen}"]


def test_of_huge_input_only_the_head_is_kept() -> None:
    observer = MessagesObserver(Counts())
    (head,) = observer.observe(Parser(1 << 20).feed(HEAD)[0])
    assert isinstance(head, CallDelta)
    for one in Parser(1 << 22).feed(5 * piece("x" * 300_000)):
        observer.observe(one)
    assert len(str(head.arguments)) == Arguments.LIMIT


# --- results -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "outcome", "output"),
    [
        (result("x"), "ok", "x"),
        (result(None), "ok", None),
        (result([{"type": "web_search_result"}]), "ok", '[{"type": "web_search_result"}]'),
        (result([{"type": "text", "text": t} for t in "xy"]), "ok", "x\ny"),
        (result({"type": "code_execution_result"}), "ok", '{"type": "code_execution_result"}'),
        (result({"type": "web_search_tool_result_error"}), "failed", None),
        (result([{"type": "web_fetch_tool_result_error"}]), "failed", None),
        (result("x", "mcp_tool_result", is_error=True), "failed", "x"),
        (result("x", "mcp_tool_result", is_error=False), "ok", "x"),
        (result("x", "tool_result"), "ok", "x"),
        (result({"type": ["_error"]}), "ok", '{"type": ["_error"]}'),
    ],
)
def test_a_result_tells_outcome_and_output(block: Json, outcome: str, output: str | None) -> None:
    played = play(HOSTED + start(block, 1) + stop(1) + STOP, result_preview=99)
    assert played.told == ["running a f", f"completed a f {outcome}"]
    assert outputs(played) == [output] or outcome == "failed"


@pytest.mark.parametrize("tool_use_id", ["b", "", None, ["a"]])
def test_a_result_of_nobody_is_dropped_and_counted(tool_use_id: object) -> None:
    played = play(HOSTED + start(result("x", tool_use_id=tool_use_id), 1) + STOP)
    assert played.told[1] == "completed a f unknown"
    assert played.counts.dropped == 1


def test_a_second_result_is_dropped_and_counted() -> None:
    played = play(HOSTED + 2 * start(result("x"), 1) + STOP)
    assert played.told == ["running a f", "completed a f ok"]
    assert played.counts.dropped == 1


def test_parallel_calls_end_with_their_results() -> None:
    body = CALL + start(use("b"), 1) + stop(1)
    results = [start(result("x", "tool_result", tool_use_id=i), 2) + stop(2) for i in "ba"]
    played = play([body, *results, words(index=3), STOP])
    assert played.told[2:] == ["completed b f ok", "completed a f ok"]
    assert (played.events[2].duration_ms, played.events[3].duration_ms) == (1000, 2000)  # type: ignore[union-attr]


# --- the end -------------------------------------------------------------------------------------

_BROKEN = HEAD + piece('{"x":') + stop()
_UNSTOPPED = HEAD + piece("{}")


@pytest.mark.parametrize("sizes", [WHOLE, (9,), BYTEWISE])
@pytest.mark.parametrize(
    ("reason", "broken", "written", "hosted"),
    [
        ("tool_use", "cut:incomplete_arguments", "ok", "unknown"),
        ("end_turn", "cut:incomplete_arguments", "ok", "failed"),
        ("stop_sequence", "cut:incomplete_arguments", "ok", "failed"),
        ("pause_turn", "cut:incomplete_arguments", "ok", "unknown"),
        ("compaction", "cut:incomplete_arguments", "ok", "unknown"),
        ("new_word", "cut:new_word", "ok", "unknown"),
        ("terminated", *["failed:terminated"] * 3),
        ("sensitive", *["cancelled:sensitive"] * 3),
        ("max_tokens", "cut:max_tokens", "ok", "cut:max_tokens"),
        *[
            (word, f"{how}:{word}", "ok", f"{how}:{word}")
            for word, how in (
                ("model_context_window_exceeded", "cut"),
                ("refusal", "cancelled"),
            )
        ],
        (None, "cut:no_finish", "ok", "unknown"),
        ("", "cut:no_finish", "ok", "unknown"),
        (["refusal"], "cut:no_finish", "ok", "unknown"),
    ],
)
def test_the_stop_reason_ends_what_is_open(
    reason: object, broken: str, written: str, hosted: str, sizes: tuple[int, ...]
) -> None:
    for blocks, how in ((_BROKEN, broken), (CALL, written), (HOSTED, hosted)):
        body = BEGIN + blocks + PING + finish(reason) + STOP
        played = play(body, sizes)
        assert played.told == ["running a f", f"completed a f {how}"]
        places(played, body)


def test_a_block_that_is_never_stopped_ends_with_the_message() -> None:
    assert play(_UNSTOPPED + finish() + STOP).told[1] == "completed a f ok"
    assert play(_UNSTOPPED + finish("max_tokens") + STOP).told[1] == "completed a f cut:max_tokens"
    assert play(_UNSTOPPED + event("message_delta") + STOP).told[1] == "completed a f unknown"


@pytest.mark.parametrize("sizes", [WHOLE, BYTEWISE])
@pytest.mark.parametrize(
    ("end", "ending", "written"),
    [
        (STOP, "cut:no_finish", "ok"),
        (DONE, "cut:no_finish", "ok"),
        (ERROR, "failed:upstream_error", "failed:upstream_error"),
        (sse("oops", "error"), "failed:upstream_error", "failed:upstream_error"),
        (event("error"), "failed:upstream_error", "failed:upstream_error"),
        (sse({"type": "error"}), "failed:upstream_error", "failed:upstream_error"),
        (sse({"error": "x"}), "failed:upstream_error", "failed:upstream_error"),
        (b"", "cut:upstream_eof", "ok"),
    ],
)
def test_the_end_of_the_stream_ends_what_is_open(
    end: bytes, ending: str, written: str, sizes: tuple[int, ...]
) -> None:
    for body, how in ((_BROKEN, ending), (CALL, written)):
        played = play(body + end, sizes)
        assert played.told == ["running a f", f"completed a f {how}"]
        assert places(played, body + end) == [len(HEAD), len(body)]


# --- when written calls are told to be over ------------------------------------------------------


@pytest.mark.parametrize(
    ("between", "is_over"),
    [
        (words(index=1), True),
        (delta(1, type="thinking_delta", thinking="x"), True),
        (delta(1, type="citations_delta"), True),
        (event("content_block_delta", index=1), True),
        (start({"type": "text"}, 1), True),
        (event("made up"), True),
        (event("message_start", message=[]), True),
        (sse([1]), True),
        (sse("{broken"), True),
        (PING, False),
        (b": ping\n\n", False),
        (b"data:\n\n", False),
        (stop(0), False),
        (piece("{", 1), False),
        (start(use("b"), 1), False),
        (start(use("b", kind="server_tool_use"), 1), False),
    ],
)
def test_a_written_call_is_over_when_the_model_goes_on(between: bytes, is_over: bool) -> None:
    body = CALL + between + STOP
    played = play(body)
    at = len(CALL) + (0 if is_over else len(between))
    assert places(played, body)[played.told.index("completed a f ok")] == at


def test_words_end_what_nothing_else_ends_if_that_is_asked_for() -> None:
    assert play(HEAD + words(index=1), infer=True).told[1] == "completed a f unknown:inferred"
    assert play(HEAD + delta(1), infer=True).told[1] == "completed a f cut:upstream_eof"


def test_native_events_stand_for_themselves() -> None:
    played = play(BEGIN + native() + native("completed") + words() + STOP)
    assert played.told == ["running call_n terminal", "completed call_n terminal unknown"]
    assert b"hermes.tool.progress" not in played.data


def test_the_name_of_the_event_serves_where_the_data_has_no_type() -> None:
    body = sse({"index": 0, "content_block": use()}, "content_block_start")
    body += sse({"index": 0}, "content_block_stop") + sse({}, "message_stop")
    assert play(body).told == ["running a f", "completed a f ok"]


# --- what frames of ours copy --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "envelope"),
    [
        ({"id": "msg_1", "model": "m"}, Envelope("msg_1", 1, "m")),
        ({"id": 1, "model": ""}, Envelope("id", 1, "model")),
        (None, Envelope("id", 1, "model")),
    ],
)
def test_the_envelope_is_the_messages(message: object, envelope: Envelope) -> None:
    observer, copied = MessagesObserver(Counts()), Envelope("id", 1, "model")
    observer.observe(Parser(1 << 20).feed(event("message_start", message=message))[0])
    observer.update(copied)
    assert copied == envelope


# --- the quick look ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        words(),
        words('"type":"message_stop"\n\\'),
        delta(type="signature_delta", signature="x"),
        piece("{"),
        sse({"type": "content_block_delta"}),
    ],
)
def test_the_quick_look_is_enough_for_pieces(raw: bytes) -> None:
    assert MessagesObserver(Counts()).skim(raw)


@pytest.mark.parametrize(
    "raw",
    [
        *(BEGIN, HEAD, PING, STOP, ERROR, DONE, native(), b"", b": ping\n\n"),
        words()[:-1],
        words() + words(),
        words().replace(b"\n", b"\r\n"),
        words().replace(b'"hi"', b'"\xff"'),
        words().replace(b'"index"', b'"type":"message_stop","index"'),
        words().replace(b'"index"', b'"error":"x","index"'),
        words().replace(b"event: content_block_delta", b"event: error"),
        words().replace(b'"type":"content_block_delta"', b'"type":[]'),
    ],
)
def test_the_quick_look_is_not_fooled(raw: bytes) -> None:
    assert not MessagesObserver(Counts()).skim(raw)


class Thorough(MessagesObserver):
    """Looks at everything properly."""

    def skim(self, raw: bytes) -> bool:
        return False


_WORDS = ("a", "b", "", "f", "text", "\ud800")
_odd = Odd(_WORDS, ("type", "id", "error", "text"), items=2, fields=3, depth=2)
_json = _odd.value
_few = picking("a", "b", "c")
_uses = picking("tool_use", "tool_use", "server_tool_use", "mcp_tool_use")
_block = either(
    _odd.fields(type=_uses, id=_few, name=picking("f", "g", "_h"), input=_json),
    lambda choices: use(_few(choices), "f", _uses(choices)),
    _odd.fields(
        type=picking("mcp_tool_result", "web_search_tool_result", "text"),
        tool_use_id=_few,
        content=_json,
        is_error=picking(False, True),
    ),
)
_delta = _odd.fields(
    type=picking("text_delta", "input_json_delta"),
    partial_json=picking("", "{", "}", "{}", '"'),
    stop_reason=picking("tool_use", "end_turn", "max_tokens", "refusal", "pause_turn"),
)
_kinds = picking(
    *["content_block_start", "content_block_delta", "content_block_stop"] * 4,
    *("message_start", "message_delta", "message_stop", "ping", "error", "x"),
)
_numbers = picking(0, 1, 2)
_fields: dict[str, Make[Any]] = {
    "index": either(_numbers, _numbers, _json),
    "content_block": _block,
    "delta": _delta,
    "message": _odd.fields(id=_few, model=_few),
    "error": either(picking(None, None), picking(None), _json),
}


def _written(choices: Choices) -> bytes:
    kind = either(_kinds, _kinds, _kinds, _json)(choices)
    payload = {"type": kind, **choices.some(_fields)}
    named = isinstance(kind, str) and kind.isascii() and choices.flag()
    return sse(payload, kind if named else choices.pick(["", "", "error", "x"]))


_noise = picking(native(), native("completed"), DONE, sse("{"), sse("[1]"), b": x\n\n")


def _pieces(choices: Choices) -> list[bytes]:
    return choices.several(either(_written, _written, _written, _noise), 10, 48)


@settings(max_examples=300, deadline=None)
@given(made_all(picking(WHOLE, BYTEWISE, (7, 90)), _pieces, size=500))
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
@given(made(_pieces, 500))
def test_the_quick_look_sees_what_the_thorough_one_sees(pieces: list[bytes]) -> None:
    assert play(pieces) == play_any(pieces, observer=Thorough)
    quick, thorough = MessagesObserver(Counts()), MessagesObserver(Counts())
    for raw in pieces:
        for one in Parser(1 << 20).feed(raw):
            seen = thorough.observe(one)
            if quick.skim(raw):
                assert all(type(o).__name__ in ("Activity", "Text") for o in seen)
            else:
                assert [type(o) for o in quick.observe(one)] == [type(o) for o in seen]


def test_nesting_beyond_reason_is_survived() -> None:
    for deep in (500, 5000, 100_000):
        raw = start(use(input="x")).replace(b'"x"', b"[" * deep + b"]" * deep)
        assert_paired(play(raw + piece("{}") + stop() + finish() + STOP).events)
