"""The state machine of the tool calls of one stream.

Per call there is one ``running`` and at most one ``completed`` after it, whatever the upstream
repeats, reorders or forgets. The states of a call are in ``calls``.

A choice's ``finish_reason`` is where a tool starts as often as where it ends: an agent runs it
between the finish and its next chunk. So a finished call is only ``FINISHING`` until something of
substance follows.

What a call's time is depends on the span. ``call`` is the writing of it: from its name to its
finish. ``execution`` is the running of it: from its last argument to its result. Where the client
runs the tool, the result comes with its next request; the call is ``DELEGATED`` until then, and
outlives the stream.
"""

from collections.abc import Callable
from typing import assert_never

from lifecycle_proxy.core.arguments import Arguments
from lifecycle_proxy.core.calls import (
    AFFECTED_BY_TEXT,
    BEING_WRITTEN,
    DEFAULT_CONTEXT,
    ENDED,
    Call,
    Presenter,
    Signal,
    State,
    StreamContext,
    StreamPending,
)
from lifecycle_proxy.core.events import (
    Activity,
    CallDelta,
    CallResult,
    CallResumed,
    CallWritten,
    ChoiceFinished,
    ChoiceFinishing,
    Counts,
    DelegatedCall,
    LifecycleEvent,
    NativeProgress,
    Observation,
    Outcome,
    StreamEnded,
    Text,
    ToolCompleted,
    ToolRunning,
    UnknownResult,
)
from lifecycle_proxy.core.finish import judge_finish
from lifecycle_proxy.core.followup import fingerprint


class Lifecycle:
    """All calls of one stream.

    Args:
        presenter: labels and emojis.
        make_id: makes an id, unique beyond this stream, for a call that never gets one.
        internal_prefix: tools whose names start so are never told (Hermes' rule); "" for none.
        counts: where dropped input is counted.
        infer: what follows a call in its choice ends it: for agents that say no more of it.
        whole_arguments: a call is announced when its arguments are complete, or must not be waited
            for any longer.
        context: what this stream has of its own.
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
        self._presenter = presenter
        self._mint = make_id
        self._internal_prefix = internal_prefix
        self._counts = counts
        self._delegates = context.span == "execution"
        self._infer = infer
        self._waits_for_arguments = whole_arguments
        self._affected_by_text = (
            AFFECTED_BY_TEXT if self._delegates or infer else (State.NEW,) * whole_arguments
        )
        self._client_tools = context.client_tools
        self._pending = StreamPending() if context.pending is None else context.pending
        self._calls: dict[int, Call] = {}  # by key, in order of appearance, until they have ended
        self._ended: set[int] = set()
        self._ids: dict[tuple[int, str], Call] = {}  # the latest told call of a choice and id
        self._finishing = 0
        self._stale = False  # a call in _calls has ended
        self._native_key = 0
        self._presents = True

    @property
    def open(self) -> bool:
        """Whether a completed, or both, may still have to be told."""
        return any(call.name for call in self._calls.values())

    def freeze_labels(self) -> None:
        """Ask the presenter no more. Nothing is announced now; what was is completed as shown."""
        self._presents = False

    def announced_from_deltas(self, call_id: str) -> bool:
        """Whether a call of this id was announced from the stream's own deltas."""
        call = self._ids.get((0, call_id))
        return call is not None and not call.native

    @property
    def needs_full_parse(self) -> bool:
        """Whether the next text may change something: then every event has to be looked at."""
        if self._finishing:
            return True
        if not (self._calls and self._affected_by_text):
            return False
        return any(call.state in self._affected_by_text for call in self._calls.values())

    def feed(  # noqa: C901, PLR0912  one arm for each observation
        self, seen: Observation, now: float
    ) -> list[LifecycleEvent]:
        """Take one observation; return what clients are to be told, in order.

        Args:
            seen: the observation.
            now: seconds on any clock that does not jump.
        """
        match seen:
            case Activity():
                if not self._finishing:
                    return []
                told = self._flush(now)
            case Text(choice):
                told = self._flush(now) + self._complete_server_run(choice, now)
                told += self._close_written(choice, now, infer=self._infer)
                told += self._stop_waiting(choice, now)
            case CallWritten(key, reason):
                told = self._written(key, reason, now)
            case CallDelta():
                told = self._delta(seen, now)
            case CallResult(key):
                told = self._result(self._calls.get(key), seen, now)
            case CallResumed(key):
                told = self._resume(key)
            case NativeProgress():
                told = self._native(seen, now)
            case ChoiceFinishing(choice):
                told = self._stop_waiting(choice, now)
            case ChoiceFinished(choice, reason):
                told = self._finish(choice, reason, now)
            case StreamEnded():
                told = self._end(seen, now)
            case UnknownResult():
                told = self._result(None, None, now)
            case _:
                assert_never(seen)
        if self._stale:
            self._forget_ended()
        return told

    # --- inputs ---------------------------------------------------------------------------------

    def _delta(self, seen: CallDelta, now: float) -> list[LifecycleEvent]:
        if seen.key in self._ended:
            return []
        told: list[LifecycleEvent] = []
        call = self._calls.get(seen.key)
        if call is None:
            infer = self._infer and seen.reused
            told = self._close_written(seen.choice, now, infer=infer, by_call=True)
            call = Call(seen.choice, seen.arguments, hosted=seen.hosted)
            self._calls[seen.key] = call
        if call.state is State.NEW:
            call.id = call.id or seen.id or ""
            call.name = call.name or seen.name or ""
            if call.name and self._client_tools is not None and call.name not in self._client_tools:
                call.hosted = True
                waits = not call.arguments.are_settled  # its card shows them
            else:
                waits = self._delegates and not call.hosted  # for the last of its arguments
                waits = waits or (self._waits_for_arguments and not call.arguments.are_settled)
            if (call.id or call.arguments or seen.settled) and not waits:
                told += self._start(call, now)
        return told

    def _complete_server_run(self, choice: int, now: float) -> list[LifecycleEvent]:
        """Words behind a finish: the upstream ran the choice's tools after all, not the client."""
        told: list[LifecycleEvent] = []
        for call in self._calls.values():
            if call.choice == choice and call.state is State.DELEGATED:
                call.outcome, call.reason = Outcome.UNKNOWN, None
                told += self._complete(call, now)
        return told

    def _close_written(
        self,
        choice: int,
        now: float,
        *,
        infer: bool,
        by_call: bool = False,
    ) -> list[LifecycleEvent]:
        """The choice goes on with something else: what it had begun is written.

        Args:
            by_call: with another call; an empty object may then still be a placeholder.
        """
        told: list[LifecycleEvent] = []
        if not (self._delegates or infer):
            return told
        for call in self._calls.values():
            if call.choice != choice or call.state not in BEING_WRITTEN or call.native:
                continue
            is_written = call.arguments.are_settled if by_call else call.arguments.complete
            if infer or is_written:
                told += self._start(call, now)
            if infer:
                call.outcome, call.reason = Outcome.UNKNOWN, "inferred"
                told += self._complete(call, now)
        return told

    def _stop_waiting(self, choice: int, now: float) -> list[LifecycleEvent]:
        """The choice goes on with words: no more arguments will come, whatever they look like."""
        told: list[LifecycleEvent] = []
        for call in self._calls.values() if self._waits_for_arguments else ():
            if call.choice == choice:
                told += self._start(call, now)
        return told

    def _result(
        self, call: Call | None, seen: CallResult | None, now: float
    ) -> list[LifecycleEvent]:
        if call is None or seen is None or call.state in ENDED:
            self._counts.dropped += 1
            return []
        call.outcome, call.reason = seen.outcome, seen.reason
        return self._start(call, now) + self._complete(call, now, seen.output)

    def _resume(self, key: int) -> list[LifecycleEvent]:
        """Arguments that a finish cut, as it seemed, go on; so may those of other calls."""
        if resumed := self._calls.get(key):
            for call in self._calls.values():
                if call.choice == resumed.choice and call.outcome is Outcome.CUT:
                    self._move(call, Signal.RESUME)
        return []

    def _native(self, seen: NativeProgress, now: float) -> list[LifecycleEvent]:
        call = self._ids.get((0, seen.id))
        if seen.outcome is not None:
            return self._result(call, CallResult(0, seen.outcome), now)
        if call is not None and not (call.native and call.state is State.DONE):
            # Told already, from its deltas: one pair. But now it really runs.
            self._counts.dropped += 1
            self._take_back(call)
            return []
        self._native_key -= 1
        call = Call(0, Arguments(), seen.id, seen.tool, hosted=True, native=True)
        # Hermes redacts nothing, and its labels may be of any length.
        call.label = self._presenter.shown(seen.label) if seen.label else None
        call.emoji = seen.emoji
        self._calls[self._native_key] = call
        return self._start(call, now)

    def _take_back(self, call: Call) -> None:
        """The upstream runs a finished call: no client does, unless its result is known already."""
        handed = call.state is State.DELEGATED
        is_over = handed and self._pending.maybe_take(call.id, call.choice) is None
        self._move(call, Signal.END if is_over else Signal.RESUME)

    def _finish(self, choice: int, reason: str, now: float) -> list[LifecycleEvent]:
        told: list[LifecycleEvent] = []
        for call in self._calls.values():
            if call.choice == choice:
                told += self._start(call, now)
        for call in self._calls.values():
            if call.choice == choice and not call.native:
                self._end_writing(call, *judge_finish(reason, call.arguments))
        return told

    def _end_writing(self, call: Call, outcome: Outcome, reason: str | None) -> None:
        """The call is finished. If all is well with it, somebody runs it now."""
        hands = self._delegates and not (call.hosted or call.generated_id) and reason is None
        if self._move(call, Signal.DELEGATE if hands else Signal.FINISH):
            call.outcome, call.reason = outcome, reason
            if hands:
                content = fingerprint(call.name, str(call.arguments))
                self._pending.put(DelegatedCall(call.told(), call.started, content))

    def _written(self, key: int, reason: str, now: float) -> list[LifecycleEvent]:
        call = self._calls.get(key)
        if call is None:
            return []
        told = self._start(call, now)
        self._end_writing(call, *judge_finish(reason, call.arguments))
        return told

    def _flush(self, now: float) -> list[LifecycleEvent]:
        told: list[LifecycleEvent] = []
        for call in self._calls.values():
            if call.state is State.FINISHING:
                told += self._complete(call, now)
        return told

    def _end(self, seen: StreamEnded, now: float) -> list[LifecycleEvent]:
        told = [] if seen.beats_finish else self._flush(now)
        for call in self._calls.values():
            told += self._start(call, now)
        for call in self._calls.values():
            if call.state is State.DELEGATED and not seen.beats_finish:
                continue
            call.outcome, call.reason = seen.outcome, seen.reason
            if seen.reason is None:
                if call.arguments.unfinished:
                    call.outcome, call.reason = Outcome.CUT, "no_finish"
                else:
                    self._end_writing(call, seen.outcome, None)
            if call.state is not State.DELEGATED or seen.reason is not None:
                told += self._complete(call, now)
        self._ended.update(self._calls)  # those that never had a name, too
        self._calls.clear()
        return told

    # --- what is told ---------------------------------------------------------------------------

    def _start(self, call: Call, now: float) -> list[LifecycleEvent]:
        if call.state is not State.NEW or not call.name or not self._presents:
            return []
        if not call.id:
            call.id, call.generated_id = self._mint(), True
        twin = self._ids.get((call.choice, call.id))
        told = self._supersede(call, twin, now) if self._delegates else []
        if twin is not None and twin.state is State.FINISHING and twin.native == call.native:
            told += self._complete(twin, now)  # one id for two calls, one behind the other
        if self._is_internal(call.name) or (twin is not None and not _may_follow(call, twin)):
            self._move(call, Signal.SUPPRESS)
            return told
        label, emoji = self._present(call)
        self._move(call, Signal.START)
        self._ids[call.choice, call.id] = call
        call.repeat = 0 if twin is None else twin.repeat + 1
        call.started = now
        shown = self._presenter.arguments(str(call.arguments)) if call.hosted else ""
        running = ToolRunning(
            call.id, call.choice, call.name, label, emoji, call.hosted, call.repeat, shown
        )
        return [*told, running]

    def _supersede(self, call: Call, twin: Call | None, now: float) -> list[LifecycleEvent]:
        """An id is announced again while its call, of this stream or an earlier, is handed over."""
        earlier = self._pending.maybe_take(call.id, call.choice)
        if twin is not None and twin.state is State.DELEGATED:
            self._move(twin, Signal.END)
        return [] if earlier is None else [earlier.completed(now, reason="superseded")]

    def _complete(self, call: Call, now: float, output: str | None = None) -> list[LifecycleEvent]:
        handed = call.state is State.DELEGATED
        if not self._move(call, Signal.END):
            return []
        if handed and self._pending.maybe_take(call.id, call.choice) is None:
            return []  # its end has been told elsewhere
        label, emoji = self._present(call)
        duration_ms = round((now - call.started) * 1000)
        return [
            ToolCompleted(
                call.id,
                call.choice,
                call.name,
                label,
                emoji,
                call.outcome,
                duration_ms,
                call.reason,
                output,
                call.hosted,
                call.repeat,
            )
        ]

    def _present(self, call: Call) -> tuple[str, str]:
        if self._presents:
            label = call.label or self._presenter.label(call.name, str(call.arguments))
            call.shown = label, call.emoji or self._presenter.emoji(call.name)
        return call.shown

    def _is_internal(self, name: str) -> bool:
        return bool(self._internal_prefix) and name.startswith(self._internal_prefix)

    def _move(self, call: Call, signal: Signal) -> bool:
        """Follow the table, and keep count."""
        before = call.state
        if not call.move(signal):
            return False
        self._finishing += (call.state is State.FINISHING) - (before is State.FINISHING)
        self._stale = self._stale or call.state in ENDED
        return True

    def _forget_ended(self) -> None:
        self._stale = False
        for key in [k for k, c in self._calls.items() if c.state in ENDED]:
            del self._calls[key]
            self._ended.add(key)


def _may_follow(call: Call, earlier: Call) -> bool:
    """Whether a call may be told although its id was told before in this choice.

    Ids repeat over the rounds of an agent (Kimi, TGI's "0"): a new pair, once the old is closed.
    But a call that the upstream told natively and sends as deltas too is one call.
    """
    return earlier.state is State.DONE and earlier.native == call.native
