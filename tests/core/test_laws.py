"""What must hold for every stream there can be, however it is cut into pieces."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
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

from tests.core import (
    BYTEWISE,
    DONE,
    WHOLE,
    Frames,
    GivenObserver,
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

settings.register_profile(
    "core",
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("core")

# --- streams -------------------------------------------------------------------------------------

_ids = st.sampled_from(["a", "b", "0", "", "null", None])
_names = st.sampled_from(["f", "g", "_h", "", None])
_pieces = st.sampled_from(["", "{", "}", "{}", '"x"', None])
_indexes = st.sampled_from([0, 1, None, -1, "0"])
_choices = st.sampled_from([0, 0, 0, 1])
_reasons = st.sampled_from([None, None, None, "stop", "tool_calls", "length", "error", ""])

_entries = st.builds(call, _indexes, _ids, _names, _pieces)
_results = st.builds(lambda i: {"role": "tool", "tool_call_id": i, "content": "r"}, _ids)
_executed = st.builds(
    lambda i, out: {"executed_tools": [{"index": i, "type": "s", "output": out}]},
    st.sampled_from([0, 1]),
    st.sampled_from([None, "o"]),
)
_outputs = st.builds(lambda i: {"tool_outputs": [{"id": i}]}, _ids)
_deltas = st.one_of(
    st.builds(lambda e: {"tool_calls": e}, st.lists(_entries, max_size=2)),
    st.builds(lambda e: {"tool_calls": [e]}, _entries),
    _results,
    _executed,
    _outputs,
    st.just({"function_call": {"name": "f", "arguments": "{"}}),
    st.sampled_from([{"content": "hello"}, {"content": "é\u2028"}, {}]),
)
_chunks = st.builds(
    lambda delta, reason, choice, chunk_id: chunk(delta, finish=reason, choice=choice, id=chunk_id),
    _deltas,
    _reasons,
    _choices,
    st.sampled_from(["c1", "c2"]),
)
_texts = st.builds(text, st.text('ab é\n"\\\u2028', max_size=8))
_errors = st.sampled_from(
    [sse({"error": {"message": "x"}}), sse({"error": "x"}), sse("oops", "error")]
)
_quiet = st.sampled_from(
    [
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
    ]
)
_natives = st.builds(
    native,
    st.sampled_from(["running", "completed", "failed", "odd"]),
    st.sampled_from(["a", "b", "0", "", None]),
    tool=st.sampled_from(["f", "_h", ""]),
)
_events = st.one_of(_chunks, _chunks, _texts, _quiet, _errors)
_ends = st.sampled_from([DONE, DONE, b"data:[DONE]\n\n", DONE[:-2], b"", b"data: {", b"\xff"])
_sizes = st.one_of(
    st.just(WHOLE),
    st.just(BYTEWISE),
    st.lists(st.integers(1, 60), min_size=1, max_size=6).map(tuple),
)


@st.composite
def streams(draw: st.DrawFn, events: st.SearchStrategy[bytes] = _events) -> bytes:
    """Chunks of calls in any order, with noise between, in one kind of line end."""
    body = b"".join(draw(st.lists(events, max_size=12))) + draw(_ends)
    line_end = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]))
    return draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"])) + body.replace(b"\n", line_end)


def _without_blank_lines(pieces: list[bytes]) -> bytes:
    return b"".join(piece.rstrip(b"\r\n") + b"\n" for piece in pieces)


def unclosed_streams() -> st.SearchStrategy[bytes]:
    """Nothing between the lines."""
    lines = st.lists(st.one_of(_chunks, _texts), max_size=8)
    return lines.map(lambda rest: _without_blank_lines([*rest, DONE]))


garbage = st.lists(
    st.sampled_from(
        [b"data", b"data: ", b"event", b"id", b"x", b":", b" ", b"\x00", b"\xef\xbb\xbf"]
    )
    | st.sampled_from([b"[DONE]", b"{", b"}", b"\n", b"\r", b"\r\n", b"\n\n"])
    | st.just(calls(call(0, "a", "f", "{}"))),
    max_size=30,
).map(b"".join)

# --- the laws ------------------------------------------------------------------------------------


@given(st.one_of(streams(), garbage, unclosed_streams(), st.binary(max_size=60)), _sizes)
def test_the_output_without_our_frames_is_the_input(body: bytes, sizes: tuple[int, ...]) -> None:
    places(play(body, sizes), body)


@given(st.one_of(streams(), garbage, unclosed_streams()), _sizes)
def test_an_abort_loses_no_byte(body: bytes, sizes: tuple[int, ...]) -> None:
    places(play(body, sizes, abort="timeout"), body)


@given(
    st.one_of(streams(st.one_of(_events, _natives)), garbage, unclosed_streams()), _sizes, _sizes
)
def test_the_events_do_not_depend_on_the_segmentation(
    body: bytes, sizes: tuple[int, ...], others: tuple[int, ...]
) -> None:
    one, other = play(body, sizes), play(body, others)
    assert one.told == other.told
    assert [e.label for e in one.events] == [e.label for e in other.events]
    assert one.counts == other.counts


@given(streams(st.one_of(_events, _natives)), _sizes, st.sampled_from([None, "timeout"]))
def test_every_running_has_one_completed_behind_it(
    body: bytes, sizes: tuple[int, ...], abort: str | None
) -> None:
    assert_paired(play(body, sizes, abort=abort).events)


@given(streams(), _sizes)
def test_nothing_is_open_where_clients_stop_reading(body: bytes, sizes: tuple[int, ...]) -> None:
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


@given(streams(), _sizes)
def test_a_standard_client_sees_the_upstreams_events_unchanged(
    body: bytes, sizes: tuple[int, ...]
) -> None:
    played = play(body, sizes)
    seen = whatwg(played.data)
    upstream, theirs = whatwg(body), [event for event in seen if event[0] != b"ours"]
    assert len(seen) - len(theirs) == len(played.frames)
    # A frame behind an unclosed event closes it.
    assert theirs[: len(upstream)] == upstream
    assert len(theirs) - len(upstream) <= (bool(played.frames) and not body.endswith(b"\n\n"))


@given(unclosed_streams(), _sizes)
def test_a_client_that_reads_lines_sees_the_upstreams_lines_unchanged(
    body: bytes, sizes: tuple[int, ...]
) -> None:
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


@given(streams(), _sizes)
def test_comments_are_no_events_for_readers_that_remember_ids(
    body: bytes, sizes: tuple[int, ...]
) -> None:
    assume(body.endswith((b"\n\n", b"\r\r", b"\r\n\r\n")))
    played = play(body, sizes, dialect=DIALECTS["comment"])
    assert remembered(played.data) == remembered(body)


@given(st.lists(st.one_of(_texts, st.just(b": ping\n\n")), max_size=8))
def test_whole_text_events_come_back_as_the_same_objects(pieces: list[bytes]) -> None:
    pipeline = make(Frames())
    for piece in pieces:
        assert pipeline.feed(piece, 0.0).data is piece


@given(st.lists(_chunks, max_size=4), _texts)
def test_a_text_event_that_needs_no_frame_is_the_same_object_while_a_call_is_open(
    before: list[bytes], piece: bytes
) -> None:
    frames = Frames()
    pipeline = make(frames)
    pipeline.feed(b"".join(before), 0.0)
    told = len(frames.written)
    step = pipeline.feed(piece, 0.0)
    assert step.data is piece or len(frames.written) > told


_lines = st.one_of(
    st.sampled_from([b"data", b"data:", b"event: x", b"event:", b"event", b": c", b":", b"id: 1"]),
    st.sampled_from(
        [b"", b"", b"retry: 5", b"foo: data", b" data: x", b"data:  y", b"\xef\xbb\xbf"]
    ),
    st.text("ab: {}é\u2028\x85", max_size=6).map(lambda t: f"data: {t}".encode()),
)


@given(
    st.lists(st.tuples(_lines, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=20),
    st.booleans(),
    _sizes,
)
@example([(b"data: a", b"\r"), (b"", b"\r")], False, BYTEWISE)
def test_the_parser_agrees_with_the_standard(
    lines: list[tuple[bytes, bytes]], marked: bool, sizes: tuple[int, ...]
) -> None:
    body = marked * b"\xef\xbb\xbf" + b"".join(line + end for line, end in lines)
    parser = Parser(1 << 20)
    events = [event for piece in segments(body, sizes) for event in parser.feed(piece)]
    events += parser.eof()
    assert b"".join(event.raw for event in events) == body
    seen = [(e.name, e.data) for e in events if e.closed and e.data is not None]
    assert seen == whatwg(body)


@given(streams(), _sizes, st.integers(0, 300))
def test_with_any_limit_no_byte_is_lost(body: bytes, sizes: tuple[int, ...], limit: int) -> None:
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
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 3), st.floats(), st.sampled_from([*_WORDS, *_KEYS])
)
_json = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(_KEYS), inner, max_size=6),
    ),
    max_leaves=12,
)
_encoded = st.builds(json.dumps, st.dictionaries(st.sampled_from(_KEYS), _json, max_size=4))


def _some(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    return st.one_of(_json, *2 * [st.fixed_dictionaries({}, optional=fields)])


def _many(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(_json, *2 * [st.lists(inner, max_size=3)])


_odd_function = _some(
    {"name": st.one_of(_names, _json), "arguments": st.one_of(_encoded, _json), "output": _json}
)
_odd_call = _some(
    {
        "index": st.one_of(_indexes, _json),
        "id": st.one_of(_ids, _json),
        "function": _odd_function,
        "custom": _odd_function,
        "type": _json,
        "f": _odd_function,
        "output": _json,
    }
)
_odd_result = _some({"tool_call_id": _ids, "id": _ids, "output": _json, "status": _json})
_odd_executed = _some({"index": _json, "type": _names, "arguments": _json, "output": _json})
_odd_delta = _some(
    {
        "role": st.sampled_from(["tool", "assistant", 1]),
        "tool_calls": _many(_odd_call),
        "function_call": _odd_function,
        "executed_tools": _many(_odd_executed),
        "tool_outputs": _many(_odd_result),
        "mcp_call_results": _many(_odd_result),
        "provider_specific_fields": _some(
            {"mcp_call_results": _many(_odd_result), "mcp_tool_calls": _many(_odd_call)}
        ),
        "tool_call_id": _json,
        "content": _json,
    }
)
_odd_choice = _some(
    {
        "index": st.one_of(st.integers(0, 2), _json),
        "delta": _odd_delta,
        "message": _odd_delta,
        "finish_reason": st.one_of(_reasons, _json),
        "tool_outputs": _many(_odd_result),
    }
)
_odd_chunk = _some(
    {"id": _json, "created": _json, "model": _json, "choices": _many(_odd_choice)}
    | {"tool_outputs": _many(_odd_result), "usage": _json}
)
_odd_native = _some(
    {"toolCallId": _ids, "tool": _json, "label": _json, "emoji": _json, "isError": _json}
    | {"status": st.sampled_from(["running", "completed", "failed", 1])}
)
_odd_events = st.one_of(
    st.builds(sse, st.one_of(_odd_chunk, _odd_chunk, _json)),
    st.builds(lambda p: sse(p, "hermes.tool.progress"), _odd_native),
    st.binary(max_size=20).map(lambda raw: b"data: " + raw + b"\n\n"),
)


@st.composite
def odd_streams(draw: st.DrawFn) -> bytes:
    """Events with anything in any place."""
    return b"".join(draw(st.lists(_odd_events, max_size=6)))


_spans = st.sampled_from(["call", "execution"])
_switches = st.fixed_dictionaries({"infer": st.booleans(), "merge_rounds": st.booleans()})


@settings(max_examples=300)
@given(odd_streams(), _sizes, st.sampled_from(sorted(DIALECTS)), _spans, _switches)
def test_no_input_makes_it_fail(
    body: bytes, sizes: tuple[int, ...], name: str, span: Span, switches: dict[str, bool]
) -> None:
    dialect = DIALECTS[name]
    options: dict[str, Any] = {"presenter": Labels(), "result_preview": 9, "span": span, **switches}
    played = play(body, sizes, dialect=dialect, **options)
    assert played.counts.failure is None
    assert played.counts.observer_failures == 0
    assert_paired(played.events, closed=span == "call")


class Thorough(ChatObserver):
    """Decodes every chunk."""

    def skim(self, raw: bytes) -> bool:
        return False


_strings = st.text('ab{}",: \\\x7f\u2028', max_size=6)


@st.composite
def repetitive_streams(draw: st.DrawFn) -> list[bytes]:
    """Runs of chunks that differ in one string, as in real streams, with changes between."""
    more: list[Callable[[str], bytes]] = [
        lambda piece: calls(call(0, None, None, piece)),
        lambda piece: calls(call(0, None, None, piece)),
        lambda piece: calls(call(1, None, None, piece)),
        lambda piece: calls(call(0, None, None, piece), choice=1),
        text,
        lambda piece: chunk({"reasoning_content": piece, "content": "x"}),
    ]
    heads = [calls(call(i, call_id, name)) for i in (0, 1) for call_id, name in ("af", "bg")]
    others = [
        *(calls(call(0, None, "f")), calls(call(0, "a", "f"), choice=1), finish(), DONE),
        *(native("running", "a"), native("completed", "a")),
        chunk({"role": "tool", "tool_call_id": "a"}),
        calls(call(None, None, None, "-")),
    ]
    changes = st.lists(st.sampled_from(heads) | st.sampled_from(others), min_size=1, max_size=2)
    body: list[bytes] = [draw(st.sampled_from(heads))]
    kinds = draw(st.lists(st.sampled_from(more), min_size=1, max_size=2))
    for _ in range(draw(st.integers(2, 4))):
        write = draw(st.sampled_from(kinds))
        body += [write(piece) for piece in draw(st.lists(_strings, min_size=1, max_size=4))]
        body += draw(changes)
    return body


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


_text_streams = streams(st.one_of(_chunks, _chunks, _texts, _natives, _quiet))


@pytest.mark.parametrize("name", WRITING)
@given(body=_text_streams, sizes=_sizes, abort=st.sampled_from([None, "timeout"]))
def test_a_dialect_of_text_tells_each_call_once_however_the_stream_is_cut(
    name: str, body: bytes, sizes: tuple[int, ...], abort: str | None
) -> None:
    _, added, events = _frames(make(DIALECTS[name]), body, sizes, abort)
    assert_paired(events)
    once = _frames(make(DIALECTS[name]), body, WHOLE, abort)
    assert (added, [told(e) for e in events]) == (once[1], [told(e) for e in once[2]])
    shown = _said(added, "content" if name == "quote" else "reasoning_content")
    for event in events:
        assert f" {event.tool}" in shown[event.choice]
    ends = sum(isinstance(event, ToolCompleted) for event in events)
    assert sum(len(re.findall("[✓✗] [0-9.]+ s", one)) for one in shown.values()) == ends


@given(body=_text_streams, sizes=_sizes, abort=st.sampled_from([None, "timeout"]))
def test_quote_leaves_the_text_as_the_model_wrote_it(
    body: bytes, sizes: tuple[int, ...], abort: str | None
) -> None:
    data, added, _ = _frames(make(DIALECTS["quote"]), body, sizes, abort)
    theirs = data
    for frame in added:
        theirs = theirs.replace(frame, b"", 1)
    for choice, said in _said([data], "content").items():
        left = json.loads(without_lines(json.dumps(said).encode()))
        assert left == _said([theirs], "content").get(choice, "")


@settings(max_examples=300)
@given(repetitive_streams(), st.sampled_from([None, WHOLE, (7,)]))
def test_the_quick_look_sees_what_the_thorough_one_sees(
    pieces: list[bytes], sizes: tuple[int, ...] | None
) -> None:
    fed: Any = pieces if sizes is None else b"".join(pieces)
    observers: tuple[GivenObserver, ...] = ("chat", Thorough)
    quick, thorough = (play(fed, sizes or WHOLE, observer=o) for o in observers)
    assert quick == thorough


# --- the state machine alone ---------------------------------------------------------------------


@st.composite
def observations(draw: st.DrawFn) -> list[Observation]:
    """Anything an observer could say, and much that none would."""
    grown: dict[int, Arguments] = {}

    def delta(
        key: int, choice: int, call_id: str | None, name: str | None, piece: str
    ) -> CallDelta:
        arguments = grown.setdefault(key, Arguments())
        arguments.append(piece)
        flags = [draw(st.booleans()) for _ in range(3)]  # settled, hosted, reused
        return CallDelta(key, choice, call_id or None, name or None, arguments, *flags)

    outcomes = st.sampled_from(Outcome)
    keys = st.integers(1, 5)
    pieces = st.sampled_from(["", "{", "}"])
    one: st.SearchStrategy[Observation] = st.one_of(
        st.builds(delta, keys, _choices, _ids, _names, pieces),
        st.builds(delta, keys, _choices, _ids, _names, pieces),
        st.builds(CallResult, keys, outcomes, st.sampled_from([None, "o"])),
        st.builds(CallWritten, keys),
        st.builds(Text, _choices),
        st.builds(UnknownResult),
        st.builds(
            lambda i, o: NativeProgress(i, "f", None, None, o),
            st.sampled_from(["a", "b", "0"]),
            st.one_of(st.none(), outcomes),
        ),
        st.builds(ChoiceFinished, _choices, st.sampled_from(["stop", "length", "error"])),
        st.just(ACTIVITY),
        st.sampled_from([UPSTREAM_ERROR, StreamEnded(), StreamEnded("x", Outcome.CUT)]),
    )
    return draw(st.lists(one, max_size=25))


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
@given(observations(), _spans, st.booleans(), st.booleans())
def test_the_state_machine_pairs_whatever_it_is_told(
    seen: list[Observation], span: Span, infer: bool, whole: bool
) -> None:
    assert_paired(_fed(seen, span, infer=infer, whole=whole), closed=False)


@settings(max_examples=400)
@given(
    observations(),
    st.sampled_from([UPSTREAM_ERROR, StreamEnded()]),
    st.booleans(),
    st.booleans(),
)
def test_the_state_machine_leaves_nothing_open(
    seen: list[Observation], end: StreamEnded, infer: bool, whole: bool
) -> None:
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


@given(observations())
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
