"""What must hold for every stream there can be, however it is cut into pieces."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from lifecycle_proxy.core.arguments import Arguments
from lifecycle_proxy.core.context import Span, StreamContext
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.events import (
    ACTIVITY,
    UPSTREAM_ERROR,
    CallDelta,
    CallResult,
    CallWritten,
    ChoiceFinished,
    LifecycleEvent,
    NativeProgress,
    Observation,
    Outcome,
    StreamEnded,
    Text,
    ToolCompleted,
    UnknownResult,
)
from lifecycle_proxy.core.labels import Labels
from lifecycle_proxy.core.lifecycle import Lifecycle
from lifecycle_proxy.core.lines import without_lines
from lifecycle_proxy.core.observers.chat import ChatObserver
from lifecycle_proxy.core.pipeline import Pipeline
from lifecycle_proxy.core.sse import Parser

from tests.choices import Choices, Make, either, made, made_all, picking
from tests.core import (
    BYTEWISE,
    DONE,
    WHOLE,
    Frames,
    GivenObserver,
    Json,
    Played,
    Presenter,
    assert_paired,
    call,
    calls,
    chunk,
    finish,
    make,
    native,
    places,
    play,
    segments,
    sse,
    text,
    told,
    whatwg,
)
from tests.core.odd import Odd

settings.register_profile(
    "core",
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("core")  # until the end of this module

# --- streams -------------------------------------------------------------------------------------

_ids = picking("a", "b", "0", "", "null", None)
_names = picking("f", "g", "_h", "", None)
_pieces = picking("", "{", "}", "{}", '"x"', None)
_indexes = picking(0, 1, None, -1, "0")
_choices = picking(0, 0, 0, 1)
_reasons = picking(None, None, None, "stop", "tool_calls", "length", "error", "")


def _entry(choices: Choices) -> Json:
    return call(_indexes(choices), _ids(choices), _names(choices), _pieces(choices))


def _executed(choices: Choices) -> Json:
    index, output = choices.pick([0, 1]), choices.pick([None, "o"])
    return {"executed_tools": [{"index": index, "type": "s", "output": output}]}


_deltas = either(
    lambda choices: {"tool_calls": [_entry(choices) for _ in range(choices.below(3))]},
    lambda choices: {"tool_calls": [_entry(choices)]},
    lambda choices: {"role": "tool", "tool_call_id": _ids(choices), "content": "r"},
    _executed,
    lambda choices: {"tool_outputs": [{"id": _ids(choices)}]},
    picking({"function_call": {"name": "f", "arguments": "{"}}),
    picking({"content": "hello"}, {"content": "é\u2028"}, {}),
)


def _chunk(choices: Choices) -> bytes:
    delta, reason, choice = _deltas(choices), _reasons(choices), _choices(choices)
    return chunk(delta, finish=reason, choice=choice, id=choices.pick(["c1", "c2"]))


def _text(choices: Choices) -> bytes:
    return text(choices.text('ab é\n"\\\u2028', 8))


def _native(choices: Choices) -> bytes:
    status = choices.pick(["running", "completed", "failed", "odd"])
    call_id = choices.pick(["a", "b", "0", "", None])
    return native(status, call_id, tool=choices.pick(["f", "_h", ""]))


_errors = picking(sse({"error": {"message": "x"}}), sse({"error": "x"}), sse("oops", "error"))
_quiet = picking(
    b": ping\n\n",
    b"data:\n\n",
    sse({"choices": [], "usage": {}}),
    b"id: 7\nretry: 3\n\n",
    b"event: chunk\n" + text(),
    sse("{broken"),
    b"data: {\ndata: }\n\n",
    b"\n",
    b"\r\n",
    b"foo\n\n",
)
_events = either(_chunk, _chunk, _text, _quiet, _errors)
_ends = picking(DONE, DONE, b"data:[DONE]\n\n", DONE[:-2], b"", b"data: {", b"\xff")
_sizes = either(
    picking(WHOLE),
    picking(BYTEWISE),
    lambda choices: tuple(1 + choices.below(60) for _ in range(1 + choices.below(6))),
)
Sizes = tuple[int, ...]
_WIDTH = 16  # bytes of choices for one event


def streams(events: Make[bytes] = _events) -> Make[bytes]:
    """Chunks of calls in any order, with noise between, in one kind of line end."""

    def stream(choices: Choices) -> bytes:
        mark = choices.pick([b"", b"", b"\xef\xbb\xbf"])
        line_end = choices.pick([b"\n", b"\n", b"\r\n", b"\r"])
        end = _ends(choices)
        body = b"".join(choices.several(events, 12, _WIDTH)) + end
        return mark + body.replace(b"\n", line_end)

    return stream


def _without_blank_lines(pieces: list[bytes]) -> bytes:
    return b"".join(piece.rstrip(b"\r\n") + b"\n" for piece in pieces)


def unclosed_streams(choices: Choices) -> bytes:
    """Nothing between the lines."""
    return _without_blank_lines([*choices.several(either(_chunk, _text), 8, _WIDTH), DONE])


_scraps = either(
    picking(b"data", b"data: ", b"event", b"id", b"x", b":", b" ", b"\x00", b"\xef\xbb\xbf"),
    picking(b"[DONE]", b"{", b"}", b"\n", b"\r", b"\r\n", b"\n\n"),
    picking(calls(call(0, "a", "f", "{}"))),
)


def garbage(choices: Choices) -> bytes:
    return b"".join(choices.several(_scraps, 30, 2))


_streams = streams()
_native_streams = streams(either(_events, _native))
_aborts = picking(None, "timeout")

# --- the laws ------------------------------------------------------------------------------------


@given(made_all(_sizes, either(_streams, garbage, unclosed_streams, lambda c: c.raw(60))))
def test_the_output_without_our_frames_is_the_input(case: tuple[Sizes, bytes]) -> None:
    sizes, body = case
    places(play(body, sizes), body)


@given(made_all(_sizes, either(_streams, garbage, unclosed_streams)))
def test_an_abort_loses_no_byte(case: tuple[Sizes, bytes]) -> None:
    sizes, body = case
    places(play(body, sizes, abort="timeout"), body)


@given(made_all(_sizes, _sizes, either(_native_streams, garbage, unclosed_streams)))
def test_the_events_do_not_depend_on_the_segmentation(case: tuple[Sizes, Sizes, bytes]) -> None:
    sizes, others, body = case
    one, other = play(body, sizes), play(body, others)
    assert one.told == other.told
    assert [e.label for e in one.events] == [e.label for e in other.events]
    assert one.counts == other.counts


@given(made_all(_sizes, _aborts, _native_streams))
def test_every_running_has_one_completed_behind_it(case: tuple[Sizes, str | None, bytes]) -> None:
    sizes, abort, body = case
    assert_paired(play(body, sizes, abort=abort).events)


@given(made_all(_sizes, _streams))
def test_nothing_is_open_where_clients_stop_reading(case: tuple[Sizes, bytes]) -> None:
    sizes, body = case
    played = play(body, sizes)
    is_open: set[bytes] = set()
    over = False
    for name, data in whatwg(played.data):
        if name == b"ours":
            assert not over
            _, status, call_id, *_ = data.split(b" ")
            (is_open.add if status == b"running" else is_open.discard)(call_id)
        elif data.strip() == b"[DONE]" or name == b"error" or data.startswith(b'{"error"'):
            assert not is_open
            over = over or data.strip() == b"[DONE]"
    assert not is_open


@given(made_all(_sizes, _streams))
def test_a_standard_client_sees_the_upstreams_events_unchanged(case: tuple[Sizes, bytes]) -> None:
    sizes, body = case
    played = play(body, sizes)
    seen = whatwg(played.data)
    upstream, theirs = whatwg(body), [event for event in seen if event[0] != b"ours"]
    assert len(seen) - len(theirs) == len(played.frames)
    # A frame behind an unclosed event closes it.
    assert theirs[: len(upstream)] == upstream
    assert len(theirs) - len(upstream) <= (bool(played.frames) and not body.endswith(b"\n\n"))


@given(made_all(_sizes, unclosed_streams))
def test_a_client_that_reads_lines_sees_the_upstreams_lines_unchanged(
    case: tuple[Sizes, bytes],
) -> None:
    sizes, body = case
    played = play(body, sizes)
    added = [line for frame in played.frames for line in frame.split(b"\n") if line]
    seen = [line for line in played.data.split(b"\n") if line]
    assert [line for line in seen if line not in added] == [*filter(None, body.split(b"\n"))]
    assert [line for line in seen if line in added] == added


def remembered(body: bytes) -> list[list[bytes]]:
    """The events of a reader as openai-python has one: an id makes each blank line an event."""
    events, lines, has_id = [], [], False
    for line in re.split(rb"\r\n|\n|\r", body.removeprefix(b"\xef\xbb\xbf")):
        if line and not line.startswith(b":"):
            lines.append(line)
            has_id = has_id or line.startswith(b"id")
        elif not line and (lines or has_id):
            events.append(lines)
            lines = []
    return events


@given(made_all(_sizes, _streams))
def test_comments_are_no_events_for_readers_that_remember_ids(case: tuple[Sizes, bytes]) -> None:
    sizes, body = case
    assume(body.endswith((b"\n\n", b"\r\r", b"\r\n\r\n")))
    played = play(body, sizes, dialect=DIALECTS["comment"])
    assert remembered(played.data) == remembered(body)


@given(made(lambda choices: choices.several(either(_text, picking(b": ping\n\n")), 8, _WIDTH)))
def test_whole_text_events_come_back_as_the_same_objects(pieces: list[bytes]) -> None:
    pipeline = make(Frames())
    for piece in pieces:
        assert pipeline.feed(piece, 0.0).data is piece


@given(made_all(lambda choices: choices.several(_chunk, 4, _WIDTH), _text))
def test_a_text_event_that_needs_no_frame_is_the_same_object_while_a_call_is_open(
    case: tuple[list[bytes], bytes],
) -> None:
    before, piece = case
    frames = Frames()
    pipeline = make(frames)
    pipeline.feed(b"".join(before), 0.0)
    told = len(frames.written)
    step = pipeline.feed(piece, 0.0)
    assert step.data is piece or len(frames.written) > told


_line = either(
    picking(b"data", b"data:", b"event: x", b"event:", b"event", b": c", b":", b"id: 1"),
    picking(b"", b"", b"retry: 5", b"foo: data", b" data: x", b"data:  y", b"\xef\xbb\xbf"),
    lambda choices: b"data: " + choices.text("ab: {}é\u2028\x85", 6).encode(),
)
_line_ends = picking(b"\n", b"\r\n", b"\r")


def _any_lines(choices: Choices) -> bytes:
    lines = choices.several(lambda own: _line(own) + _line_ends(own), 20, 10)
    return choices.flag() * b"\xef\xbb\xbf" + b"".join(lines)


@given(made_all(_sizes, _any_lines))
@example((BYTEWISE, b"data: a\r\r"))
def test_the_parser_agrees_with_the_standard(case: tuple[Sizes, bytes]) -> None:
    sizes, body = case
    parser = Parser(1 << 20)
    events = [event for piece in segments(body, sizes) for event in parser.feed(piece)]
    events += parser.eof()
    assert b"".join(event.raw for event in events) == body
    seen = [(e.name, e.data) for e in events if e.closed and e.data is not None]
    assert seen == whatwg(body)


@given(made_all(_sizes, lambda choices: choices.below(256) + choices.below(45), _streams))
def test_with_any_limit_no_byte_is_lost(case: tuple[Sizes, int, bytes]) -> None:
    sizes, limit, body = case
    played = play(body, sizes, max_event_bytes=limit)
    places(played, body)
    assert_paired(played.events)


# --- input of any kind ---------------------------------------------------------------------------

_KEYS = (
    *("choices", "delta", "message", "index", "id", "name", "role", "type", "function", "custom"),
    *("arguments", "input", "tool_calls", "function_call", "finish_reason", "executed_tools"),
    *("output", "outputs", "result", "tool_outputs", "tool_call_id", "call_id", "content", "error"),
    *("provider_specific_fields", "mcp_call_results", "mcp_tool_calls", "is_error", "status"),
    *("usage", "created", "model", "toolCallId", "tool", "label", "emoji", "isError", "command"),
    *("path", "offset", "limit", "todos", "action", "query", "goal", "tasks"),
)
_WORDS = (
    *("tool", "f", "a", "stop", "running", "completed", "null", "", "ping", "terminal", "\ud800"),
    *("todo", "memory", "read_file", "process"),
)
_spans = picking("call", "execution")
_flags = picking(False, True)
_odd = Odd([*_WORDS, *_KEYS], _KEYS, items=3, fields=6, depth=3)
_json = _odd.value


def _encoded(choices: Choices) -> str:
    return json.dumps(_odd.object(choices))


def _some(**fields: Make[Any]) -> Make[Any]:
    return either(lambda choices: choices.some(fields), lambda c: c.some(fields), _json)


def _many(inner: Make[Any]) -> Make[Any]:
    def entries(choices: Choices) -> list[Any]:
        return [inner(choices) for _ in range(choices.below(4))]

    return either(entries, entries, _json)


_odd_function = _some(name=either(_names, _json), arguments=either(_encoded, _json), output=_json)
_odd_call = _some(
    index=either(_indexes, _json),
    id=either(_ids, _json),
    function=_odd_function,
    custom=_odd_function,
    type=_json,
    f=_odd_function,
    output=_json,
)
_odd_result = _some(tool_call_id=_ids, id=_ids, output=_json, status=_json)
_odd_executed = _some(index=_json, type=_names, arguments=_json, output=_json)
_odd_delta = _some(
    role=picking("tool", "assistant", 1),
    tool_calls=_many(_odd_call),
    function_call=_odd_function,
    executed_tools=_many(_odd_executed),
    tool_outputs=_many(_odd_result),
    mcp_call_results=_many(_odd_result),
    provider_specific_fields=_some(
        mcp_call_results=_many(_odd_result), mcp_tool_calls=_many(_odd_call)
    ),
    tool_call_id=_json,
    content=_json,
)
_odd_choice = _some(
    index=either(lambda choices: choices.below(3), _json),
    delta=_odd_delta,
    message=_odd_delta,
    finish_reason=either(_reasons, _json),
    tool_outputs=_many(_odd_result),
)
_odd_chunk = _some(
    choices=_many(_odd_choice),
    id=_json,
    created=_json,
    model=_json,
    tool_outputs=_many(_odd_result),
    usage=_json,
)
_odd_native = _some(
    toolCallId=_ids,
    tool=_json,
    label=_json,
    emoji=_json,
    isError=_json,
    status=picking("running", "completed", "failed", 1),
)
_odd_events = either(
    lambda choices: sse(choices.pick([_odd_chunk, _odd_chunk, _json])(choices)),
    lambda choices: sse(_odd_native(choices), "hermes.tool.progress"),
    lambda choices: b"data: " + choices.raw(20) + b"\n\n",
)


def odd_streams(choices: Choices) -> bytes:
    """Events with anything in any place."""
    return b"".join(choices.several(_odd_events, 6, 160))


def _any_options(choices: Choices) -> dict[str, Any]:
    switches = {"infer": choices.flag(), "merge_rounds": choices.flag()}
    return {
        "dialect": DIALECTS[choices.pick(sorted(DIALECTS))],
        "span": _spans(choices),
        **switches,
    }


@settings(max_examples=300)
@given(made_all(_sizes, _any_options, odd_streams, size=1024))
def test_no_input_makes_it_fail(case: tuple[Sizes, dict[str, Any], bytes]) -> None:
    sizes, options, body = case
    played = play(body, sizes, presenter=Labels(), result_preview=9, **options)
    assert played.counts.failure is None
    assert played.counts.observer_failures == 0
    assert_paired(played.events, closed=options["span"] == "call")


class Thorough(ChatObserver):
    """Decodes every chunk."""

    def skim(self, raw: bytes) -> bool:
        return False


_MORE: list[Callable[[str], bytes]] = [
    lambda piece: calls(call(0, None, None, piece)),
    lambda piece: calls(call(0, None, None, piece)),
    lambda piece: calls(call(1, None, None, piece)),
    lambda piece: calls(call(0, None, None, piece), choice=1),
    text,
    lambda piece: chunk({"reasoning_content": piece, "content": "x"}),
]
_heads = picking(*(calls(call(i, *own)) for i in (0, 1) for own in ("af", "bg")))
_others = picking(
    *(calls(call(0, None, "f")), calls(call(0, "a", "f"), choice=1), finish(), DONE),
    *(native("running", "a"), native("completed", "a")),
    chunk({"role": "tool", "tool_call_id": "a"}),
    calls(call(None, None, None, "-")),
)


def repetitive_streams(choices: Choices) -> list[bytes]:
    """Runs of chunks that differ in one string, as in real streams, with changes between."""
    head, kinds = _heads(choices), choices.several(picking(*_MORE), 2, 1, least=1)
    runs = choices.several(lambda own: _run(own, own.pick(kinds)), 4, 40, least=2)
    return [head, *itertools.chain(*runs)]


def _run(choices: Choices, write: Callable[[str], bytes]) -> list[bytes]:
    changes = choices.several(either(_heads, _others), 2, 2, least=1)
    strings = choices.several(lambda own: own.text('ab{}",: \\\x7f\u2028', 6), 4, 7, least=1)
    return [*map(write, strings), *changes]


# --- dialects that write text --------------------------------------------------------------------

WRITING = ("quote", "reasoning")


def _frames(pipeline: Pipeline, body: bytes, sizes: tuple[int, ...], abort: str | None) -> Any:
    """The output, and in it what was added."""
    steps = [pipeline.feed(piece, 0.0) for piece in segments(body, sizes)]
    steps.append(pipeline.eof(0.0) if abort is None else pipeline.abort(abort, 0.0))
    assert pipeline.counts.failure is None
    data = b"".join(step.data for step in steps)
    added = [step.data[start:stop] for step in steps for start, stop in step.added]
    return data, added, [event for step in steps for event in step.events]


def _said(frames: Iterable[bytes], kind: str) -> dict[int, str]:
    """What a page puts together of such frames, choice by choice."""
    said: dict[int, str] = {}
    for frame in frames:
        for _, data in whatwg(frame):
            try:
                found = json.loads(data) if data.startswith(b"{") else {}
            except ValueError:
                continue
            for entry in found.get("choices", ()):
                text_of = entry["delta"].get(kind) or ""
                said[entry["index"]] = said.get(entry["index"], "") + text_of
    return said


_text_streams = streams(either(_chunk, _chunk, _text, _native, _quiet))


@pytest.mark.parametrize("name", WRITING)
@given(case=made_all(_sizes, _aborts, _text_streams))
def test_a_dialect_of_text_tells_each_call_once_however_the_stream_is_cut(
    name: str, case: tuple[Sizes, str | None, bytes]
) -> None:
    sizes, abort, body = case
    _, added, events = _frames(make(DIALECTS[name]), body, sizes, abort)
    assert_paired(events)
    once = _frames(make(DIALECTS[name]), body, WHOLE, abort)
    assert (added, [told(e) for e in events]) == (once[1], [told(e) for e in once[2]])
    shown = _said(added, "content" if name == "quote" else "reasoning_content")
    for event in events:
        assert f" {event.tool}" in shown[event.choice]
    ends = sum(isinstance(event, ToolCompleted) for event in events)
    assert sum(len(re.findall("[✓✗] [0-9.]+ s", one)) for one in shown.values()) == ends


@given(made_all(_sizes, _aborts, _text_streams))
def test_quote_leaves_the_text_as_the_model_wrote_it(
    case: tuple[Sizes, str | None, bytes],
) -> None:
    sizes, abort, body = case
    data, added, _ = _frames(make(DIALECTS["quote"]), body, sizes, abort)
    theirs = data
    for frame in added:
        theirs = theirs.replace(frame, b"", 1)
    for choice, said in _said([data], "content").items():
        left = json.loads(without_lines(json.dumps(said).encode()))
        assert left == _said([theirs], "content").get(choice, "")


@settings(max_examples=300)
@given(made_all(picking(None, WHOLE, (7,)), repetitive_streams))
def test_the_quick_look_sees_what_the_thorough_one_sees(
    case: tuple[Sizes | None, list[bytes]],
) -> None:
    sizes, pieces = case
    fed: Any = pieces if sizes is None else b"".join(pieces)
    observers: tuple[GivenObserver, ...] = ("chat", Thorough)
    quick, thorough = (play(fed, sizes or WHOLE, observer=o) for o in observers)
    assert quick == thorough


# --- the state machine alone ---------------------------------------------------------------------


def _keys(choices: Choices) -> int:
    return 1 + choices.below(5)


_outcomes = picking(*Outcome)


def _call_delta(choices: Choices, grown: dict[int, Arguments]) -> Observation:
    key, choice = _keys(choices), _choices(choices)
    call_id, name = _ids(choices), _names(choices)
    arguments = grown.setdefault(key, Arguments())
    arguments.append(choices.pick(["", "{", "}"]))
    flags = [choices.flag() for _ in range(3)]  # settled, hosted, reused
    return CallDelta(key, choice, call_id or None, name or None, arguments, *flags)


def _native_progress(choices: Choices) -> Observation:
    call_id = choices.pick(["a", "b", "0"])
    outcome = _outcomes(choices) if choices.flag() else None
    return NativeProgress(call_id, "f", None, None, outcome)


_other_observations = either(
    lambda choices: CallResult(_keys(choices), _outcomes(choices), choices.pick([None, "o"])),
    lambda choices: CallWritten(_keys(choices)),
    lambda choices: Text(_choices(choices)),
    lambda choices: UnknownResult(),
    _native_progress,
    lambda choices: ChoiceFinished(_choices(choices), choices.pick(["stop", "length", "error"])),
    picking(ACTIVITY),
    picking(UPSTREAM_ERROR, StreamEnded(), StreamEnded("x", Outcome.CUT)),
)


def observations(choices: Choices) -> list[Observation]:
    """Anything an observer could say, and much that none would."""
    grown: dict[int, Arguments] = {}

    def one(own: Choices) -> Observation:
        is_delta = own.below(10) < 2
        return _call_delta(own, grown) if is_delta else _other_observations(own)

    return choices.several(one, 25, 10)


def _fed(
    seen: list[Observation], span: Span = "call", *, infer: bool = False, whole: bool = False
) -> Iterator[LifecycleEvent]:
    numbers = iter(range(1000))
    played = Played(b"", [], play(b"").counts, [])
    lifecycle = Lifecycle(
        presenter=Presenter(),
        make_id=lambda: f"made_{next(numbers)}",
        internal_prefix="_",
        counts=played.counts,
        context=StreamContext(span=span),
        infer=infer,
        whole_arguments=whole,
    )
    for now, observation in enumerate(seen):
        yield from lifecycle.feed(observation, now)


@settings(max_examples=400)
@given(made_all(_spans, _flags, _flags, observations, size=256))
def test_the_state_machine_pairs_whatever_it_is_told(
    case: tuple[Span, bool, bool, list[Observation]],
) -> None:
    span, infer, whole, seen = case
    assert_paired(_fed(seen, span, infer=infer, whole=whole), closed=False)


@settings(max_examples=400)
@given(made_all(picking(UPSTREAM_ERROR, StreamEnded()), _flags, _flags, observations))
def test_the_state_machine_leaves_nothing_open(
    case: tuple[StreamEnded, bool, bool, list[Observation]],
) -> None:
    end, infer, whole, seen = case
    assert_paired(_fed([*seen, end], infer=infer, whole=whole))


_NATIVE = -1


def _without_shared_ids(seen: list[Observation]) -> Iterator[Observation]:
    """One answer, in which each id has one source: a call, or native events.

    One id for two calls at the same time is one call, but two where the first is over.
    """
    keys: dict[str, int] = {}
    for one in itertools.takewhile(lambda one: not isinstance(one, StreamEnded), seen):
        key = _NATIVE if isinstance(one, NativeProgress) else getattr(one, "key", _NATIVE)
        call_id = getattr(one, "id", None)
        if call_id and keys.setdefault(call_id, key) != key:
            continue
        yield one


@given(made(observations))
@example([*(CallDelta(key, 0, "a", "f", Arguments()) for key in (1, 2)), CallResult(1)])
def test_waiting_for_arguments_changes_when_a_call_is_told_and_no_more(
    seen: list[Observation],
) -> None:
    """There are as many calls in each choice. Whoever waits may learn of another name or id."""
    seen = [*_without_shared_ids(seen), UPSTREAM_ERROR]
    ended = [
        [event.choice for event in _fed(seen, whole=whole) if isinstance(event, ToolCompleted)]
        for whole in (False, True)
    ]
    assert sorted(ended[0]) == sorted(ended[1])


settings.load_profile("patient")
