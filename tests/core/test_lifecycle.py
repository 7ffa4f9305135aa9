"""The state machine: what is told of a call, and what is not told twice."""

import itertools

import pytest
from lifecycle_proxy.core.arguments import Arguments
from lifecycle_proxy.core.calls import TABLE, Signal, State
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.events import (
    ACTIVITY,
    UPSTREAM_ERROR,
    CallDelta,
    CallResult,
    CallResumed,
    ChoiceFinished,
    LifecycleEvent,
    NativeProgress,
    Observation,
    Outcome,
    StreamEnded,
    ToolCompleted,
    ToolRunning,
    UnknownResult,
)
from lifecycle_proxy.core.lifecycle import Lifecycle

from tests.core import Presenter, told

DONE = StreamEnded()
CUT = StreamEnded("upstream_eof", Outcome.CUT)


def arguments(text: str) -> Arguments:
    made = Arguments()
    made.append(text)
    return made


def delta(
    key: int = 1,
    call_id: str | None = "a",
    name: str | None = "f",
    args: str = "",
    *,
    choice: int = 0,
    settled: bool = False,
) -> CallDelta:
    return CallDelta(key, choice, call_id, name, arguments(args), settled)


def native(
    call_id: str = "a", outcome: Outcome | None = None, tool: str = "f", label: str | None = None
) -> NativeProgress:
    return NativeProgress(call_id, tool, label, None, outcome)


class Stream:
    """One lifecycle, and what it told."""

    def __init__(self, prefix: str = "_") -> None:
        numbers = itertools.count(1)
        self.counts = Counts()
        self.lifecycle = Lifecycle(
            presenter=Presenter(),
            make_id=lambda: f"made_{next(numbers)}",
            internal_prefix=prefix,
            counts=self.counts,
        )
        self.events: list[LifecycleEvent] = []
        self.now = 0.0

    def feed(self, *seen: Observation) -> list[str]:
        """What these observations lead to."""
        new = [e for s in seen for e in self.lifecycle.feed(s, self.now)]
        self.events += new
        return [told(event) for event in new]


def test_a_call_runs_when_id_and_name_are_known_and_ends_behind_its_finish() -> None:
    stream = Stream()
    assert stream.feed(delta()) == ["running a f"]
    assert stream.feed(delta(name=None, args="{}"), ACTIVITY) == []
    assert stream.feed(ChoiceFinished(0, "tool_calls")) == []
    assert stream.lifecycle.open
    assert stream.feed(ACTIVITY) == ["completed a f ok"]
    assert not stream.lifecycle.open
    assert stream.feed(ACTIVITY, DONE) == []


def test_running_waits_for_the_name() -> None:
    stream = Stream()
    assert stream.feed(delta(name=None), delta(name=None, args="{")) == []
    assert stream.feed(delta(call_id=None)) == ["running a f"]


def test_running_waits_for_the_id_until_the_first_arguments() -> None:
    stream = Stream()
    assert stream.feed(delta(call_id=None)) == []
    assert stream.feed(delta(call_id="late", name=None)) == ["running late f"]


def test_without_an_id_one_is_made_with_the_first_arguments() -> None:
    stream = Stream()
    assert stream.feed(delta(call_id=None, args="{")) == ["running made_1 f"]
    assert stream.feed(delta(call_id="late")) == []
    assert stream.feed(DONE) == ["completed made_1 f cut:no_finish"]


def test_without_an_id_one_is_made_at_the_finish() -> None:
    stream = Stream()
    assert stream.feed(delta(call_id=None), ChoiceFinished(0, "stop")) == ["running made_1 f"]


def test_a_settled_call_needs_no_id() -> None:
    assert Stream().feed(delta(call_id=None, settled=True)) == ["running made_1 f"]


@pytest.mark.parametrize("end", [DONE, CUT, UPSTREAM_ERROR])
def test_a_call_without_a_name_is_never_told(end: StreamEnded) -> None:
    assert Stream().feed(delta(name=None, args="{}"), ChoiceFinished(0, "stop"), end) == []


def test_a_call_without_id_or_finish_is_told_at_the_end() -> None:
    assert Stream().feed(delta(call_id=None), DONE) == [
        "running made_1 f",
        "completed made_1 f unknown",
    ]


@pytest.mark.parametrize(
    ("reason", "args", "ending"),
    [
        ("tool_calls", "{}", "ok"),
        ("stop", "{", "cut:incomplete_arguments"),
        ("function_call", "", "ok"),
        ("length", "{", "cut:length"),
        ("length", "", "cut:length"),
        ("length", "{}", "ok:length"),
        ("content_filter", "{}", "cancelled:content_filter"),
        ("error", "{}", "failed:error"),
    ],
)
def test_a_finish_reason_says_how_a_call_ended(reason: str, args: str, ending: str) -> None:
    stream = Stream()
    stream.feed(delta(args=args), ChoiceFinished(0, reason))
    assert stream.feed(ACTIVITY) == [f"completed a f {ending}"]


@pytest.mark.parametrize(
    ("end", "ending"),
    [
        (DONE, "unknown"),
        (CUT, "cut:upstream_eof"),
        (UPSTREAM_ERROR, "failed:upstream_error"),
        (StreamEnded("client_disconnected", Outcome.CANCELLED), "cancelled:client_disconnected"),
    ],
)
@pytest.mark.parametrize("args", ["", "{}"])
def test_an_end_without_finish_closes_what_is_open(
    end: StreamEnded, ending: str, args: str
) -> None:
    assert Stream().feed(delta(args=args), end)[1:] == [f"completed a f {ending}"]


def test_done_in_the_middle_of_the_arguments_is_a_cut() -> None:
    assert Stream().feed(delta(args='{"a'), DONE)[1:] == ["completed a f cut:no_finish"]


def test_the_finish_stands_at_a_mere_end() -> None:
    stream = Stream()
    stream.feed(delta(), ChoiceFinished(0, "stop"), delta(2, "b"))
    assert stream.feed(CUT) == ["completed a f ok", "completed b f cut:upstream_eof"]


def test_an_error_beats_the_finish_of_what_is_not_told_yet() -> None:
    stream = Stream()
    stream.feed(delta(), ChoiceFinished(0, "stop"))
    assert stream.feed(UPSTREAM_ERROR) == ["completed a f failed:upstream_error"]


def test_an_error_never_rewrites_what_is_told() -> None:
    stream = Stream()
    stream.feed(delta(), ChoiceFinished(0, "stop"), ACTIVITY)
    assert stream.feed(UPSTREAM_ERROR) == []


def test_a_finish_ends_the_calls_of_its_choice_only() -> None:
    stream = Stream()
    stream.feed(delta(), delta(2, "a", choice=1))
    assert stream.feed(ChoiceFinished(1, "stop"), ACTIVITY) == ["completed a/1 f ok"]
    assert stream.feed(DONE) == ["completed a f unknown"]


def test_a_second_finish_changes_nothing() -> None:
    stream = Stream()
    stream.feed(delta(), ChoiceFinished(0, "stop"))
    assert stream.feed(ChoiceFinished(0, "error"), ACTIVITY) == ["completed a f ok"]


def test_a_result_completes_a_call_at_once() -> None:
    stream = Stream()
    stream.feed(delta())
    assert stream.feed(CallResult(1, Outcome.OK, "sunny")) == ["completed a f ok"]
    assert [e.output for e in stream.events if isinstance(e, ToolCompleted)] == ["sunny"]


def test_a_result_says_more_than_the_finish_before_it() -> None:
    stream = Stream()
    stream.feed(delta(args="{"), ChoiceFinished(0, "length"))
    assert stream.feed(CallResult(1, Outcome.FAILED)) == ["completed a f failed"]


def test_a_result_for_a_call_not_told_yet_tells_both() -> None:
    stream = Stream()
    stream.feed(delta(call_id=None))
    assert stream.feed(CallResult(1)) == ["running made_1 f", "completed made_1 f ok"]


def test_results_of_nobody_are_counted() -> None:
    stream = Stream()
    stream.feed(delta(), CallResult(1))
    assert stream.feed(CallResult(1), CallResult(7), UnknownResult()) == []
    assert stream.counts.dropped == 3


def test_deltas_of_an_ended_call_are_nothing() -> None:
    stream = Stream()
    stream.feed(delta(), CallResult(1))
    assert stream.feed(delta(), DONE) == []


def test_the_same_id_while_it_runs_is_the_same_call() -> None:
    assert Stream().feed(delta(), delta(2), DONE) == ["running a f", "completed a f unknown"]


def test_the_same_id_after_its_end_is_a_new_pair() -> None:
    stream = Stream()
    stream.feed(delta(), CallResult(1))
    assert stream.feed(delta(2), DONE) == ["running a f", "completed a f unknown"]


def test_the_same_id_in_two_choices_is_two_calls() -> None:
    assert Stream().feed(delta(), delta(2, choice=1)) == ["running a f", "running a/1 f"]


@pytest.mark.parametrize(("prefix", "tools"), [("_", ["f"]), ("", ["f", "_x"]), ("f", ["_x"])])
def test_internal_tools_are_never_told(prefix: str, tools: list[str]) -> None:
    stream = Stream(prefix)
    stream.feed(delta(), delta(2, "b", "_x"), CallResult(2), native("c", tool="_x"), DONE)
    assert [e.tool for e in stream.events if e.id != "c" and isinstance(e, ToolRunning)] == tools


def test_a_duration_is_from_running_to_completed_in_milliseconds() -> None:
    stream = Stream()
    stream.now = 10.0
    stream.feed(delta())
    stream.now = 11.25
    stream.feed(CallResult(1))
    assert [e.duration_ms for e in stream.events if isinstance(e, ToolCompleted)] == [1250]


def test_completed_shows_the_arguments_that_came_after_running() -> None:
    stream = Stream()
    seen = delta()
    stream.feed(seen)
    seen.arguments.append('{"q":1}')
    stream.feed(DONE)
    assert [event.label for event in stream.events] == ["f", '{"q":1}']


# --- the upstream's own events -------------------------------------------------------------------


def test_a_native_pair_is_told_with_its_own_label() -> None:
    stream = Stream()
    assert stream.feed(native(label="ls"), native(outcome=Outcome.UNKNOWN)) == [
        "running a f",
        "completed a f unknown",
    ]
    assert [event.label for event in stream.events] == ["ls", "ls"]


def test_a_native_completed_of_nobody_is_dropped() -> None:
    stream = Stream()
    assert stream.feed(native(outcome=Outcome.OK)) == []
    assert stream.counts.dropped == 1


def test_a_native_announcement_twice_is_one_pair() -> None:
    stream = Stream()
    assert stream.feed(native(), native(), native(outcome=Outcome.OK)) == [
        "running a f",
        "completed a f ok",
    ]
    assert stream.counts.dropped == 1


def test_a_native_id_may_come_back_after_its_end() -> None:
    stream = Stream()
    pair = (native(), native(outcome=Outcome.OK))
    assert stream.feed(*pair, *pair) == 2 * ["running a f", "completed a f ok"]


def test_deltas_of_a_native_call_tell_nothing() -> None:
    stream = Stream()
    assert stream.feed(native(), delta(), native(outcome=Outcome.OK)) == [
        "running a f",
        "completed a f ok",
    ]
    assert stream.feed(delta(2), DONE) == []


def test_a_call_told_from_its_deltas_is_ended_by_its_native_completed() -> None:
    stream = Stream()
    assert stream.feed(delta(), native()) == ["running a f"]
    assert stream.feed(native(outcome=Outcome.FAILED), DONE) == ["completed a f failed"]


def test_a_finished_call_that_is_announced_natively_really_runs() -> None:
    stream = Stream()
    stream.feed(delta(), ChoiceFinished(0, "stop"), native())
    assert not stream.lifecycle.needs_full_parse
    assert stream.feed(ACTIVITY) == []
    assert stream.feed(native(outcome=Outcome.OK)) == ["completed a f ok"]


def test_a_finish_does_not_end_a_native_call() -> None:
    stream = Stream()
    stream.feed(native())
    assert stream.feed(ChoiceFinished(0, "stop"), ACTIVITY) == []
    assert stream.feed(CUT) == ["completed a f cut:upstream_eof"]


def test_a_second_native_completed_is_counted() -> None:
    stream = Stream()
    stream.feed(native(), native(outcome=Outcome.OK), native(outcome=Outcome.OK))
    assert stream.counts.dropped == 1


# --- the vocabulary ------------------------------------------------------------------------------


def test_no_state_leads_back_from_the_end() -> None:
    assert not {State.DONE, State.SUPPRESSED} & {state for state, _ in TABLE}
    assert {state for (state, signal) in TABLE if signal is Signal.END} == {
        State.RUNNING,
        State.FINISHING,
        State.DELEGATED,
    }


@pytest.mark.parametrize("outcome", list(Outcome))
def test_failed_cancelled_and_cut_are_errors(outcome: Outcome) -> None:
    assert outcome.is_error is (outcome.value in {"failed", "cancelled", "cut"})


def test_a_call_that_has_ended_is_not_resumed() -> None:
    stream = Stream()
    stream.feed(delta(1, "a"), delta(2, "b", args="{"), CallResult(1), ChoiceFinished(0, "stop"))
    assert stream.feed(CallResumed(1), DONE) == ["completed b f cut:incomplete_arguments"]
