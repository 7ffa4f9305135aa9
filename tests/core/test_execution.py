"""Span ``execution``: a pair embraces the running of a tool, wherever its result comes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.events import (
    DelegatedCall,
    Envelope,
    LifecycleEvent,
    Outcome,
    ToolCompleted,
    ToolRunning,
)
from lifecycle_proxy.core.labels import Labels
from lifecycle_proxy.core.output import Step
from lifecycle_proxy.core.pipeline import Pipeline

from tests.core import (
    BYTEWISE,
    DONE,
    WHOLE,
    Frames,
    Played,
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
)

HEAD = calls(call(0, "a", "f"))
REST = calls(call(0, None, None, '{"q":1}'))
CALL = calls(call(0, "a", "f", "{}"))
OTHER = calls(call(1, "b", "g", "{}"))
RESULT = chunk({"role": "tool", "tool_call_id": "a", "content": "sunny"})
ERROR = sse({"error": {"message": "x"}})
EXECUTED = chunk({"executed_tools": [{"index": 0, "type": "s", "arguments": "{}"}]})
_SIZES = [WHOLE, (7,), BYTEWISE]


@dataclass
class Shared:
    """What several streams know of the calls that clients run."""

    calls: dict[tuple[str, int], DelegatedCall] = field(default_factory=dict)

    def put(self, call: DelegatedCall) -> None:
        self.calls[call.announced.id, call.announced.choice] = call

    def maybe_take(self, call_id: str, choice: int) -> DelegatedCall | None:
        return self.calls.pop((call_id, choice), None)

    @property
    def waiting(self) -> list[str]:
        return [told(call.announced) for call in self.calls.values()]


def run(body: bytes, sizes: Sequence[int] = WHOLE, **options: Any) -> Played:
    played = play(body, sizes, span="execution", **options)
    assert played.counts.failure is None
    return played


def delegated(call_id: str = "a", choice: int = 0, started: float = -5.0) -> DelegatedCall:
    return DelegatedCall(ToolRunning(call_id, choice, "old", "old label", "o"), started)


def completed(call_id: str = "a", duration_ms: int = 7) -> ToolCompleted:
    return ToolCompleted(call_id, 0, "old", "old label", "o", Outcome.OK, duration_ms)


# --- running ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    ("events", "at"),
    [
        pytest.param([HEAD, REST, text(), finish(), DONE], 2, id="text"),
        pytest.param([HEAD, REST, chunk({"reasoning": "hm"}), DONE], 2, id="thoughts"),
        pytest.param([HEAD, REST, OTHER, finish(), DONE], 3, id="the next call"),
        pytest.param([HEAD, REST, calls(call(0, "b", "g")), DONE], 3, id="its slot is used again"),
        pytest.param([HEAD, REST, text(choice=1), finish(), DONE], 4, id="its finish"),
        pytest.param([HEAD, REST, chunk({"content": ""}), DONE], 3, id="the end"),
        pytest.param([HEAD, REST[:-2] + b"\n\n", DONE], 2, id="nothing else"),
    ],
)
def test_running_waits_for_the_last_argument(
    events: list[bytes], at: int, sizes: tuple[int, ...]
) -> None:
    body = b"".join(events)
    played = run(body, sizes)
    assert places(played, body)[0] == len(b"".join(events[:at]))
    assert played.told[0] == "running a f"
    assert played.events[0].label == '{"q":1}'


@pytest.mark.parametrize("sizes", _SIZES)
def test_what_follows_unfinished_arguments_does_not_tell_them(sizes: tuple[int, ...]) -> None:
    head = HEAD + calls(call(0, None, None, "{")) + OTHER
    played = run(head + text() + finish() + DONE, sizes)
    at = places(played, head + text() + finish() + DONE)
    assert at == [len(head), *[len(head + text() + finish())] * 2]
    ended = "completed a f cut:incomplete_arguments"
    assert played.told == ["running b g", "running a f", ended]


@pytest.mark.parametrize("sizes", _SIZES)
def test_a_placeholder_is_waited_behind(sizes: tuple[int, ...]) -> None:
    """Converters of Anthropic's form put an empty object in front of the arguments."""
    body = CALL + OTHER + REST + finish() + DONE
    assert [e.label for e in run(body, sizes).events] == ['{"q":1}', "{}"]


# --- the finish ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
def test_words_behind_a_finish_mean_that_the_tool_has_run(sizes: tuple[int, ...]) -> None:
    shared = Shared()
    body = HEAD + REST + finish() + text("Done.") + finish("stop") + DONE
    played = run(body, sizes, pending=shared)
    assert played.told == ["running a f", "completed a f unknown"]
    assert places(played, body)[1] == len(HEAD + REST + finish())
    assert not shared.calls


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    "ending", [DONE, b"", sse({"choices": [], "usage": {}}) + DONE, finish() + DONE, DONE[:-2]]
)
@pytest.mark.parametrize("reason", ["tool_calls", "stop", "function_call"])
def test_a_finished_call_is_the_clients_to_run(
    reason: str, ending: bytes, sizes: tuple[int, ...]
) -> None:
    shared = Shared()
    body = HEAD + REST + finish(reason) + ending
    played = run(body, sizes, pending=shared)
    assert places(played, body) == [len(HEAD + REST + finish(reason))]
    assert played.told == shared.waiting == ["running a f"]
    assert shared.calls["a", 0].announced.label == '{"q":1}'


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    ("reason", "arguments", "ending"),
    [
        ("length", "{", "cut:length"),
        ("length", "{}", "ok:length"),
        ("content_filter", "{}", "cancelled:content_filter"),
        ("error", "{}", "failed:error"),
    ],
)
def test_a_call_that_nobody_can_run_is_completed(
    reason: str, arguments: str, ending: str, sizes: tuple[int, ...]
) -> None:
    shared = Shared()
    body = calls(call(0, "a", "f", arguments)) + finish(reason) + DONE
    assert run(body, sizes, pending=shared).told == ["running a f", f"completed a f {ending}"]
    assert not shared.calls


@pytest.mark.parametrize("sizes", _SIZES)
def test_a_result_in_the_stream_completes_a_call_that_was_handed_over(
    sizes: tuple[int, ...],
) -> None:
    shared = Shared()
    body = CALL + finish() + RESULT + RESULT + text() + DONE
    played = run(body, sizes, pending=shared)
    assert played.told == ["running a f", "completed a f ok"]
    assert places(played, body) == [len(CALL + finish())] * 2
    assert not shared.calls
    assert played.counts.dropped == 1


def test_a_result_before_the_finish_completes_a_call_that_was_not_told() -> None:
    assert run(CALL + RESULT + finish() + DONE).told == ["running a f", "completed a f ok"]


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("other", [native(call_id="a"), native("completed", "a"), None])
def test_a_call_that_the_upstream_runs_after_its_finish_is_not_handed_over(
    other: bytes | None, sizes: tuple[int, ...]
) -> None:
    shared = Shared()
    between = other or b""
    body = CALL + finish() + between + native("completed", "a") + DONE
    played = run(body, sizes, pending=shared)
    assert played.told == ["running a f", "completed a f unknown"]
    assert not shared.calls


def test_a_call_whose_result_has_come_is_not_announced_again_by_the_upstream() -> None:
    shared, frames = Shared(), Frames()
    pipeline = make(frames, span="execution", pending=shared)
    pipeline.feed(CALL + finish(), 0.0)
    shared.calls.clear()
    step = pipeline.feed(native(call_id="a") + native("completed", "a") + DONE, 0.0)
    assert step == Step(DONE)


def test_choices_are_handed_over_each_by_itself() -> None:
    shared = Shared()
    body = CALL + calls(call(0, "a", "f", "{}"), choice=1) + finish(choice=1)
    played = run(body + finish("length") + DONE, pending=shared)
    assert played.told == ["running a/1 f", "running a f", "completed a f ok:length"]
    assert shared.waiting == ["running a/1 f"]


# --- other ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    ("body", "lines", "waiting"),
    [
        (CALL + DONE, ["running a f"], ["running a f"]),
        (HEAD + DONE, ["running a f"], ["running a f"]),
        (
            calls(call(0, "a", "f", '{"q')) + DONE,
            ["running a f", "completed a f cut:no_finish"],
            [],
        ),
        (CALL, ["running a f", "completed a f cut:upstream_eof"], []),
        (CALL + text(), ["running a f", "completed a f cut:upstream_eof"], []),
        (CALL + ERROR + DONE, ["running a f", "completed a f failed:upstream_error"], []),
    ],
)
def test_an_end_without_a_finish(
    body: bytes, lines: list[str], waiting: list[str], sizes: tuple[int, ...]
) -> None:
    shared = Shared()
    assert run(body, sizes, pending=shared).told == lines
    assert shared.waiting == waiting


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("sizes", _SIZES)
def test_an_error_behind_the_finish_completes_what_has_no_result_yet(
    sizes: tuple[int, ...], elsewhere: bool
) -> None:
    shared, frames = Shared(), Frames()
    pipeline = make(frames, span="execution", pending=shared)
    for piece in segments(CALL + OTHER + finish(), sizes):
        pipeline.feed(piece, 0.0)
    if elsewhere:
        shared.maybe_take("a", 0)
    steps = [pipeline.feed(piece, 1.0) for piece in segments(ERROR + DONE, sizes)]
    ends = ["completed a f failed:upstream_error", "completed b g failed:upstream_error"]
    assert [told(event) for step in steps for event in step.events] == ends[elsewhere:]
    assert b"".join(s.data for s in steps) == b"".join(frames.written[2:]) + ERROR + DONE
    assert not shared.calls


@pytest.mark.parametrize(
    ("body", "beats", "lines", "waiting"),
    [
        (CALL, True, ["running a f", "completed a f failed:x"], []),
        (CALL, False, ["running a f", "completed a f failed:x"], []),
        (CALL + finish(), True, ["running a f", "completed a f failed:x"], []),
        (CALL + finish(), False, ["running a f"], ["running a f"]),
        (CALL + finish() + DONE, True, ["running a f"], ["running a f"]),
        (CALL + finish("length"), False, ["running a f", "completed a f ok:length"], []),
        (
            CALL + finish() + calls(call(0, "b", "g", "{}"), id="chatcmpl-2"),
            False,
            ["running a f", "running b g", "completed b g failed:x"],
            ["running a f"],
        ),
    ],
)
def test_a_stream_that_breaks_off(
    body: bytes, beats: bool, lines: list[str], waiting: list[str]
) -> None:
    shared = Shared()
    pipeline = make(Frames(), span="execution", pending=shared)
    steps = [pipeline.feed(body, 0.0), pipeline.abort("x", 1.0, beats_finish=beats)]
    assert [told(event) for step in steps for event in step.events] == lines
    assert shared.waiting == waiting


# --- calls that no client can answer --------------------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    ("body", "lines"),
    [
        pytest.param(
            calls(call(0, None, "f", "{}")) + finish() + text() + DONE,
            ["running made_1 f", "completed made_1 f ok"],
            id="no id",
        ),
        pytest.param(
            calls(call(0, None, "f", "{}")) + DONE,
            ["running made_1 f", "completed made_1 f unknown"],
            id="neither id nor finish",
        ),
        pytest.param(
            chunk({"function_call": {"name": "f", "arguments": "{}"}}) + finish() + DONE,
            ["running made_1 f", "completed made_1 f ok"],
            id="legacy",
        ),
        pytest.param(
            EXECUTED + text() + finish() + DONE,
            ["running made_1 s", "completed made_1 s ok"],
            id="hosted, without a result",
        ),
        pytest.param(
            EXECUTED + EXECUTED.replace(b'"s"', b'"s","output":"o"') + finish() + DONE,
            ["running made_1 s", "completed made_1 s ok"],
            id="hosted",
        ),
        pytest.param(
            native() + text() + native("completed") + DONE,
            ["running call_n terminal", "completed call_n terminal unknown"],
            id="the upstream's own",
        ),
        pytest.param(
            native() + DONE, ["running call_n terminal", "completed call_n terminal unknown"]
        ),
    ],
)
def test_what_runs_behind_the_upstream_completes_in_the_stream(
    body: bytes, lines: list[str], sizes: tuple[int, ...]
) -> None:
    shared = Shared()
    assert run(body, sizes, pending=shared).told == lines
    assert not shared.calls


def test_a_hosted_call_is_announced_at_its_head() -> None:
    played = run(EXECUTED + text() + DONE)
    assert places(played, EXECUTED + text() + DONE)[0] == len(EXECUTED)
    assert played.events[0].hosted
    assert played.events[1].hosted


def test_arguments_of_a_hosted_call_that_are_nested_beyond_reason_are_not_shown() -> None:
    deep = '{"a":' * 300 + "1" + "}" * 300
    entry = {"index": 0, "type": "s", "arguments": deep}
    played = run(chunk({"executed_tools": [entry]}) + DONE, presenter=Labels())
    assert [e.arguments for e in played.events if isinstance(e, ToolRunning)] == [""]


# --- ids that come again --------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
def test_an_id_announced_again_in_the_stream_supersedes_the_earlier(sizes: tuple[int, ...]) -> None:
    shared = Shared()
    again = calls(call(0, "a", "g", "{}"), id="chatcmpl-2")
    played = run(CALL + finish() + again + finish() + DONE, sizes, pending=shared)
    assert played.told == ["running a f", "completed a f unknown:superseded", "running a g"]
    assert [getattr(event, "repeat", None) for event in played.events] == [0, 0, 1]
    assert shared.waiting == ["running a g"]


def test_an_id_announced_again_whose_result_came_elsewhere() -> None:
    shared = Shared()
    pipeline = make(Frames(), span="execution", pending=shared)
    pipeline.feed(CALL + finish(), 0.0)
    shared.calls.clear()
    again = calls(call(0, "a", "g", "{}"), id="chatcmpl-2")
    step = pipeline.feed(again + finish() + DONE, 0.0)
    assert [told(event) for event in step.events] == ["running a g"]


@pytest.mark.parametrize("name", ["f", "_internal"])
@pytest.mark.parametrize("sizes", _SIZES)
def test_an_id_of_an_earlier_stream_announced_again_supersedes_it(
    sizes: tuple[int, ...], name: str
) -> None:
    shared = Shared()
    shared.put(delegated())
    shared.put(delegated(choice=1))
    body = calls(call(0, "a", name, "{}")) + finish() + DONE
    played = run(body, sizes, pending=shared)
    first = played.events[0]
    assert isinstance(first, ToolCompleted)
    assert (first.tool, first.label, first.reason) == ("old", "old label", "superseded")
    assert first.duration_ms >= 5000
    assert played.told[1:] == (["running a f"] if name == "f" else [])
    assert ("a", 1) in shared.calls


def test_the_same_id_while_it_is_being_written_is_told_once() -> None:
    body = calls(call(0, "a", "f", "{}"), call(1, "a", "f", "{}")) + finish() + DONE
    assert run(body).told == ["running a f"]


# --- what earlier streams left open -----------------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("merge_rounds", [False, True])
@pytest.mark.parametrize(
    ("head", "rest"),
    [
        pytest.param(b"", text() + DONE, id="text"),
        pytest.param(b"", CALL + finish() + DONE, id="a call"),
        pytest.param(b": ping\n\n", text() + DONE, id="behind a comment"),
        pytest.param(b": ping\n\nid: 7\n\n", DONE, id="only the end"),
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b": ping\n\n", b"", id="only a comment"),
        pytest.param(b"", ERROR + DONE, id="an error"),
        pytest.param(b"", b"data: {broken\n\n" + DONE, id="no JSON"),
        pytest.param(b"", text()[:-2], id="unclosed"),
        pytest.param(b"", text()[:-1] + text()[:-1] + DONE[:-1], id="by line"),
        pytest.param(b"", text().replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(b"\xef\xbb\xbf", text() + DONE, id="a byte order mark"),
        pytest.param(b"", b"data:\n\n" + text(), id="empty data"),
        pytest.param(b"", finish() + DONE, id="a finish"),
    ],
)
def test_resumed_calls_are_told_once_before_anything_that_is_said(
    head: bytes, rest: bytes, sizes: tuple[int, ...], merge_rounds: bool
) -> None:
    ends = [completed("x", 9), completed("y", 8)]
    played = run(head + rest, sizes, carried_over=ends, merge_rounds=merge_rounds)
    assert played.events[:2] == ends
    frames = b"".join(played.frames[:2])
    assert played.data.startswith(head + frames)
    assert played.data.count(frames) == 1
    assert len(places(played, head + rest)) == len(played.events)


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("native_first", [native(), native("completed"), native("completed", "q")])
def test_resumed_calls_are_told_before_the_upstreams_own(
    native_first: bytes, sizes: tuple[int, ...]
) -> None:
    played = run(native_first + text() + DONE, sizes, carried_over=[completed("x")])
    assert played.told[0] == "completed x old ok"
    assert played.data.startswith(played.frames[0])


@pytest.mark.parametrize("data", [b"", b": ping\n\n", text()[:9]])
def test_resumed_calls_are_told_if_the_stream_breaks_off_at_once(data: bytes) -> None:
    frames = Frames()
    pipeline = make(frames, span="execution", carried_over=[completed("x")])
    first = pipeline.feed(data, 0.0)
    step = pipeline.abort("timeout", 1.0, error=ERROR)
    held = b"" if data.startswith(b":") else data
    assert (
        first.data + step.data == data[: len(data) - len(held)] + frames.written[0] + ERROR + held
    )
    assert step.events == (completed("x"),)


@pytest.mark.parametrize("sizes", _SIZES)
def test_resumed_calls_are_events_where_no_frames_are_wanted(sizes: tuple[int, ...]) -> None:
    for body in (text() + DONE, b"\xef\xbb\xbf" + text() + DONE):
        played = run(body, sizes, dialect=DIALECTS["off"], carried_over=[completed("x")])
        assert played.told == ["completed x old ok"]
        assert played.data == body


@pytest.mark.parametrize("sizes", _SIZES)
def test_a_resumed_frame_copies_the_envelope_of_the_first_chunk(sizes: tuple[int, ...]) -> None:
    seen: list[tuple[str, int, str]] = []

    def dialect(event: LifecycleEvent, envelope: Envelope) -> bytes:
        seen.append((envelope.id, envelope.created, envelope.model))
        return b""

    run(b": ping\n\n" + text() + DONE, sizes, dialect=dialect, carried_over=[completed("x")])
    assert seen == [("chatcmpl-1", 7, "m")]


@pytest.mark.parametrize("sizes", _SIZES)
def test_resumed_calls_are_told_before_a_failure_of_ours(
    sizes: tuple[int, ...],
) -> None:
    class Failing:
        def __init__(self, counts: object) -> None: ...

        def skim(self, raw: bytes) -> bool:
            return False

        def observe(self, event: object) -> Sequence[Any]:
            raise ZeroDivisionError

        def update(self, envelope: Envelope) -> None: ...

    body = text() + DONE
    played = play(body, sizes, observer=Failing, span="execution", carried_over=[completed("x")])
    assert played.data == played.frames[0] + body
    assert played.counts.observer_failures == 1


# --- the laws -------------------------------------------------------------------------------------

_ids = st.sampled_from(["a", "b", "", None])
_deltas = st.one_of(
    st.builds(
        lambda *entry: {"tool_calls": [call(*entry)]},
        st.sampled_from([0, 1, None]),
        _ids,
        st.sampled_from(["f", "g", "_h", None]),
        st.sampled_from(["", "{", "}", "{}"]),
    ),
    st.builds(lambda i: {"role": "tool", "tool_call_id": i, "content": "r"}, _ids),
    st.sampled_from([{"content": "hello"}, {}]),
)
_chunks = st.builds(
    lambda delta, reason, choice, chunk_id: chunk(delta, finish=reason, choice=choice, id=chunk_id),
    _deltas,
    st.sampled_from([None, None, "stop", "tool_calls", "length"]),
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from(["c1", "c2"]),
)
_natives = st.builds(native, st.sampled_from(["running", "completed"]), st.sampled_from(["a", "b"]))
_others = st.sampled_from([text(), b": ping\n\n", ERROR, CALL, CALL, OTHER, finish(), finish()])
_bodies = st.builds(
    lambda events, end: b"".join(events) + end,
    st.lists(st.one_of(_chunks, _chunks, _others, _natives), max_size=10),
    st.sampled_from([DONE, DONE, DONE, b"", b"data: {"]),
)
_sizes = st.sampled_from([WHOLE, BYTEWISE, (7,), (40, 3)])
_aborts = st.sampled_from([None, None, True, False])
_streams = st.lists(st.tuples(_bodies, _aborts), min_size=1, max_size=3)


def _chain(
    streams: list[tuple[bytes, bool | None]], sizes: Sequence[int], **options: Any
) -> tuple[list[LifecycleEvent], Shared]:
    """Streams that share their registry, each begun with some of the results that waited."""
    shared, events = Shared(), list[LifecycleEvent]()
    for number, (body, beats) in enumerate(streams):
        taken = [shared.maybe_take(*key) for key in list(shared.calls)[: number % 2]]
        carried_over = [one.completed(0.0) for one in taken if one is not None]
        frames = Frames()
        pipeline: Pipeline = make(
            frames, span="execution", pending=shared, carried_over=carried_over, **options
        )
        steps = [pipeline.feed(piece, 0.0) for piece in segments(body, sizes)]
        if beats is None:
            steps.append(pipeline.eof(0.0))
        else:
            steps.append(pipeline.abort("x", 0.0, beats_finish=beats))
        assert pipeline.counts.failure is None
        events += [event for step in steps for event in step.events]
    return events, shared


@settings(max_examples=300)
@given(_streams, _sizes, st.booleans())
def test_what_is_open_at_the_end_is_what_the_registry_holds(
    streams: list[tuple[bytes, bool | None]], sizes: tuple[int, ...], infer: bool
) -> None:
    events, shared = _chain(streams, sizes, infer=infer)
    assert_paired(events, closed=False)
    last = {(event.id, event.choice): event for event in events}
    running = {key for key, event in last.items() if isinstance(event, ToolRunning)}
    assert running == set(shared.calls)


@given(_streams, _sizes)
def test_the_events_do_not_depend_on_the_segmentation(
    streams: list[tuple[bytes, bool | None]], sizes: tuple[int, ...]
) -> None:
    whole, cut = _chain(streams, WHOLE), _chain(streams, sizes)
    assert [told(event) for event in whole[0]] == [told(event) for event in cut[0]]
    assert [event.label for event in whole[0]] == [event.label for event in cut[0]]
    assert whole[1].waiting == cut[1].waiting


@given(_bodies, _sizes)
def test_the_output_without_our_frames_is_the_input(body: bytes, sizes: tuple[int, ...]) -> None:
    played = run(
        body.replace(b"event: hermes", b"event: other"), sizes, carried_over=[completed("x")]
    )
    places(played, body.replace(b"event: hermes", b"event: other"))


def test_a_call_without_a_name_is_not_delegated_at_the_end() -> None:
    assert play([calls(call(0, "a", None, "{}")), DONE], span="execution").told == []
