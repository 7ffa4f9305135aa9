"""The state machine of the tool calls of one stream: observations in, lifecycle events out.

This module decides what an observation means for each call. ``calls`` holds the states and the
table of their transitions; ``announcer`` moves calls through it and makes the events.

Strategy: a choice's ``finish_reason`` is where a tool starts as often as where it ends, since an
agent runs it between the finish and its next chunk. So a finished call is only ``FINISHING``. It is
completed by what follows: text, another call, an end; not by usage or a ping.

What the pair of events stands for depends on the span. ``call``: the writing of the call, from its
name to its finish. ``execution``: the running of the tool, from the last argument to the result.
Where the client runs it, the result comes with its next request. The call is ``DELEGATED`` until
then, and outlives the stream.

Rules:

1. For each choice and id: ``running completed running completed ...``, at most one open.
2. Behind the end of the stream nothing is open but, in the span ``execution``, what is pending.
3. The first completion of a call counts. An error beats a finish for what is still open.
4. Results of unknown ids and second results are counted, and have no events.

Warning: while ``needs_full_parse`` is False, text does not come here.
"""

from collections.abc import Callable
from typing import assert_never

from lifecycle_proxy.core.announcer import Announcer
from lifecycle_proxy.core.calls import AFFECTED_BY_TEXT, ENDED, Call, Signal, State
from lifecycle_proxy.core.context import DEFAULT_CONTEXT, Presenter, StreamContext, StreamPending
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.events import (
    Activity,
    CallDelta,
    CallResult,
    CallResumed,
    CallWritten,
    ChoiceFinished,
    ChoiceFinishing,
    LifecycleEvent,
    NativeProgress,
    Observation,
    Outcome,
    StreamEnded,
    Text,
    UnknownResult,
)
from lifecycle_proxy.core.finish import judge_finish
from lifecycle_proxy.core.open_calls import OpenCalls, in_order


class Lifecycle:
    """All calls of one stream.

    Args:
        presenter: labels and emojis.
        make_id: makes an id, unique beyond this stream, for a call that never gets one.
        internal_prefix: tools whose names start so have no events (Hermes' rule); "" for none.
        counts: where dropped input is counted.
        infer: what follows a call in its choice ends it: for agents that say no more of it.
        whole_arguments: a call is announced when its arguments are complete, or must not be waited
            for any longer.
        context: what is known of this stream.
    """

    def __init__(
        self,
        *,
        presenter: Presenter,
        make_id: Callable[[], str],
        internal_prefix: str,
        counts: Counts,
        infer: bool = False,
        whole_arguments: bool = False,
        context: StreamContext = DEFAULT_CONTEXT,
    ) -> None:
        self._counts = counts
        self._calls = OpenCalls(counts)
        self._open, self._finishing = self._calls.by_key, self._calls.finishing
        self._delegates = context.span == "execution"
        self._infer = infer
        self._waits_for_arguments = whole_arguments
        waiting = (State.NEW,) * whole_arguments
        self._affected_by_text = AFFECTED_BY_TEXT if self._delegates or infer else waiting
        self._client_tools = context.client_tools
        pending = StreamPending() if context.pending is None else context.pending
        self._announcer = Announcer(
            presenter=presenter,
            make_id=make_id,
            internal_prefix=internal_prefix,
            pending=pending if self._delegates else None,
            calls=self._calls,
            follows_arguments=context.follows_arguments,
        )
        self._cut: dict[int, list[Call]] = {}  # by choice: a finish cut them, as it seemed
        self._native_key = 0

    @property
    def open(self) -> bool:
        """Whether there may still have to be a completed, or both events, of a call."""
        return self._calls.named > 0

    @property
    def needs_full_parse(self) -> bool:
        """Whether the next text may change something: then every event has to be decoded."""
        if not self._open or self._finishing:
            return bool(self._open)
        affected = self._affected_by_text
        return bool(affected) and self._calls.are_in(affected)

    def freeze_labels(self) -> None:
        """Ask the presenter no more. Nothing is announced now; what was is completed as shown."""
        self._announcer.freeze_labels()

    def announced_from_deltas(self, call_id: str) -> bool:
        """Whether a call of this id was announced from the stream's own deltas."""
        call = self._announcer.maybe_announced(0, call_id)
        return call is not None and not call.native

    def feed(self, seen: Observation, now: float) -> list[LifecycleEvent]:  # noqa: C901
        """Take one observation; return the events that follow from it, in order.

        Args:
            seen: the observation.
            now: seconds on any clock that does not jump.
        """
        match seen:
            case Activity():
                return self._complete_finished(now) if self._finishing else []
            case Text(choice):
                return self._text(choice, now) if self._open else []
            case CallWritten(key, reason):
                return self._written(key, reason, now)
            case CallDelta():
                return self._delta(seen, now)
            case CallResult(key):
                return self._result(self._open.get(key), seen, now)
            case CallResumed(key):
                return self._resume(key)
            case NativeProgress():
                return self._native(seen, now)
            case ChoiceFinishing(choice):
                return self._stop_waiting(choice, now)
            case ChoiceFinished(choice, reason):
                return self._finish(choice, reason, now)
            case StreamEnded():
                return self._end(seen, now)
            case UnknownResult():
                return self._result(None, None, now)
            case _:
                assert_never(seen)

    def _text(self, choice: int, now: float) -> list[LifecycleEvent]:
        events = self._complete_finished(now)
        if self._delegates:
            events += self._complete_server_run(choice, now)
        events += self._close_written(choice, now, infer=self._infer)
        return events + self._stop_waiting(choice, now)

    def _delta(self, seen: CallDelta, now: float) -> list[LifecycleEvent]:
        if seen.key in self._calls.ended:
            return []
        events: list[LifecycleEvent] = []
        call = self._open.get(seen.key)
        if call is None:
            infer = self._infer and seen.reused
            events = self._close_written(seen.choice, now, infer=infer, by_call=True)
            name = seen.name or ""
            call = Call(seen.choice, seen.arguments, seen.id or "", name, hosted=seen.hosted)
            if not self._calls.add(seen.key, call):
                return events
        if call.state is State.NEW:
            call.id = call.id or seen.id or ""
            if seen.name and not call.name:
                call.name = seen.name
                self._calls.identify(call)
            waits = self._waits(call)
            if (call.id or call.arguments or seen.settled) and not waits:
                events += self._announcer.start(call, now)
            elif call.name and self._delegates:
                self._calls.look_again(call)
        return events

    def _waits(self, call: Call) -> bool:
        """Whether a new call is announced only when more of its arguments have come."""
        if call.name and self._client_tools is not None and call.name not in self._client_tools:
            call.hosted = True
            return not call.arguments.are_settled  # its card shows them
        if self._delegates and not call.hosted:
            return True  # the tool starts behind the last of them
        return self._waits_for_arguments and not call.arguments.are_settled

    def _complete_server_run(self, choice: int, now: float) -> list[LifecycleEvent]:
        """Text behind a finish means that the upstream ran the choice's tools, not the client."""
        events: list[LifecycleEvent] = []
        for call in self._calls.in_state(choice, State.DELEGATED):
            call.outcome, call.reason = Outcome.UNKNOWN, None
            events += self._announcer.complete(call, now)
        return events

    def _close_written(
        self, choice: int, now: float, *, infer: bool, by_call: bool = False
    ) -> list[LifecycleEvent]:
        """The choice goes on with something else, maybe a call: what it had begun is written."""
        if infer:
            events: list[LifecycleEvent] = []
            calls = self._calls.in_state(choice, State.NEW)
            for call in in_order(calls + self._calls.in_state(choice, State.RUNNING)):
                events += self._announcer.start(call, now)
                call.outcome, call.reason = Outcome.UNKNOWN, "inferred"
                events += self._announcer.complete(call, now)
            return events
        written = self._calls.written(choice, by_call=by_call) if self._delegates else []
        return [event for call in written for event in self._announcer.start(call, now)]

    def _stop_waiting(self, choice: int, now: float) -> list[LifecycleEvent]:
        """The choice goes on with text: no more arguments will come, whatever they look like."""
        return self._start_all(choice, now) if self._waits_for_arguments else []

    def _start_all(self, choice: int, now: float) -> list[LifecycleEvent]:
        calls = self._calls.in_state(choice, State.NEW)
        return [event for call in calls for event in self._announcer.start(call, now)]

    def _result(
        self, call: Call | None, seen: CallResult | None, now: float
    ) -> list[LifecycleEvent]:
        if call is None or seen is None or call.state in ENDED:
            self._counts.dropped += 1
            return []
        call.outcome, call.reason = seen.outcome, seen.reason
        events = self._announcer.start(call, now)
        return events + self._announcer.complete(call, now, seen.output)

    def _resume(self, key: int) -> list[LifecycleEvent]:
        """Arguments that a finish cut, as it seemed, go on; so may those of other calls."""
        if resumed := self._open.get(key):
            for call in self._cut.pop(resumed.choice, []):
                self._announcer.move(call, Signal.RESUME)
        return []

    def _native(self, seen: NativeProgress, now: float) -> list[LifecycleEvent]:
        call = self._announcer.maybe_announced(0, seen.id)
        if seen.outcome is not None:
            return self._result(call, CallResult(0, seen.outcome), now)
        if call is not None and not (call.native and call.state is State.DONE):
            # Announced already, from its deltas: one pair. But now it really runs.
            self._counts.dropped += 1
            self._announcer.take_back(call)
            return []
        self._native_key -= 1
        call = self._announcer.native_call(seen)
        if not (self._counts.may_follow() and self._calls.add(self._native_key, call)):
            return []
        return self._announcer.start(call, now)

    def _finish(self, choice: int, reason: str, now: float) -> list[LifecycleEvent]:
        events = self._start_all(choice, now)
        for call in self._calls.in_state(choice, State.RUNNING):
            self._end_writing(call, reason)
        return events

    def _written(self, key: int, reason: str, now: float) -> list[LifecycleEvent]:
        call = self._open.get(key)
        if call is None:
            return []
        events = self._announcer.start(call, now)
        self._end_writing(call, reason)
        return events

    def _end_writing(self, call: Call, word: str) -> None:
        outcome, reason = judge_finish(word, call.arguments)
        self._announcer.end_writing(call, outcome, reason)
        if outcome is Outcome.CUT:
            self._cut.setdefault(call.choice, []).append(call)

    def _complete_finished(self, now: float) -> list[LifecycleEvent]:
        finished = self._calls.all_finishing()
        self._cut.clear()
        return [event for call in finished for event in self._announcer.complete(call, now)]

    def _end(self, seen: StreamEnded, now: float) -> list[LifecycleEvent]:
        events = [] if seen.beats_finish else self._complete_finished(now)
        calls = list(self._open.values())
        for call in calls:
            events += self._announcer.start(call, now)
        for call in calls:
            if call.state is State.DELEGATED and not seen.beats_finish:
                continue
            call.outcome, call.reason = seen.outcome, seen.reason
            if seen.reason is None:
                if call.arguments.unfinished:
                    call.outcome, call.reason = Outcome.CUT, "no_finish"
                else:
                    self._announcer.end_writing(call, seen.outcome, None)
            if call.state is not State.DELEGATED or seen.reason is not None:
                events += self._announcer.complete(call, now)
        self._calls.clear()
        self._cut.clear()
        return events
