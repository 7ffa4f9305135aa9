"""The state machine of the tool calls of one stream.

Per call there is one ``running`` and at most one ``completed`` after it, whatever the upstream
repeats, reorders or forgets. The table below is the whole of it; ``_move`` is the one place that
says no.

A choice's ``finish_reason`` is where a tool starts as often as where it ends: an agent runs it
between the finish and its next chunk. So a finished call is only ``FINISHING`` until something of
substance follows.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, assert_never

from proxy.core.events import (
    Arguments,
    CallDelta,
    CallResult,
    CallWritten,
    ChoiceFinished,
    Counts,
    LifecycleEvent,
    NativeProgress,
    Observation,
    Outcome,
    StreamEnded,
    Substance,
    Text,
    ToolCompleted,
    ToolRunning,
    UnknownResult,
)


class State(enum.Enum):
    """Where a call stands."""

    __hash__ = object.__hash__  # enum's own is written in Python, and each move asks for it

    NEW = "new"  # id or name missing
    RUNNING = "running"  # told
    FINISHING = "finishing"  # told; the model has written it, nothing of substance followed yet
    DONE = "done"  # told twice
    SILENT = "silent"  # an internal tool, or a second announcement of a call: never told


class Signal(enum.Enum):
    """What can happen to a call."""

    __hash__ = object.__hash__

    START = "start"  # its identity is known, or must not be waited for any longer
    HUSH = "hush"
    FINISH = "finish"
    RESUME = "resume"  # the upstream says that it runs, after its finish
    END = "end"


TABLE: Final[dict[tuple[State, Signal], State]] = {
    (State.NEW, Signal.START): State.RUNNING,
    (State.NEW, Signal.HUSH): State.SILENT,
    (State.RUNNING, Signal.FINISH): State.FINISHING,
    (State.RUNNING, Signal.END): State.DONE,
    (State.FINISHING, Signal.RESUME): State.RUNNING,
    (State.FINISHING, Signal.END): State.DONE,
}
_ENDED: Final = (State.DONE, State.SILENT)


class Presenter(Protocol):
    """How a call is shown to people. Pure: the same answer for the same call."""

    def label(self, tool: str, arguments: str) -> str: ...

    def shown(self, text: str) -> str: ...

    def emoji(self, tool: str) -> str: ...


@dataclass(slots=True)
class _Call:
    choice: int
    arguments: Arguments
    id: str = ""
    name: str = ""
    state: State = State.NEW
    native: bool = False  # announced by the upstream's own lifecycle event
    label: str | None = None
    emoji: str | None = None
    shown: tuple[str, str] = ("", "")  # label and emoji, as told last
    started: float = 0.0
    reason: str | None = None  # of the finish
    outcome: Outcome = Outcome.UNKNOWN


class Lifecycle:
    """All calls of one stream.

    Args:
        presenter: labels and emojis.
        mint: makes an id, unique beyond this stream, for a call that never gets one.
        internal_prefix: tools whose names start so are never told (Hermes' rule); "" for none.
        counts: where dropped input is counted.
    """

    def __init__(
        self,
        *,
        presenter: Presenter,
        mint: Callable[[], str],
        internal_prefix: str,
        counts: Counts,
    ) -> None:
        self._presenter = presenter
        self._mint = mint
        self._internal_prefix = internal_prefix
        self._counts = counts
        self._calls: dict[int, _Call] = {}  # by key, in order of appearance, until they have ended
        self._ended: set[int] = set()
        self._ids: dict[tuple[int, str], _Call] = {}  # the latest told call of a choice and id
        self._finishing = 0
        self._stale = False  # a call in _calls has ended
        self._native_key = 0
        self._presents = True

    @property
    def open(self) -> bool:
        """Whether a completed, or both, may still have to be told."""
        return any(call.name for call in self._calls.values())

    def present_plainly(self) -> None:
        """Ask the presenter no more. Nothing is announced now; what was is completed as shown."""
        self._presents = False

    def told_from_deltas(self, call_id: str) -> bool:
        """Whether a call of this id was announced from the stream's own deltas."""
        call = self._ids.get((0, call_id))
        return call is not None and not call.native

    @property
    def finishing(self) -> bool:
        """Whether a completed is due as soon as something of substance comes."""
        return self._finishing > 0

    def feed(self, seen: Observation, now: float) -> list[LifecycleEvent]:
        """Take one observation; return what clients are to be told, in order.

        Args:
            seen: the observation.
            now: seconds on any clock that does not jump.
        """
        match seen:
            case Substance():
                if not self._finishing:
                    return []
                told = self._flush(now)
            case Text():
                told = self._flush(now)
            case CallWritten(key):
                told = self._written(key, now)
            case CallDelta():
                told = self._delta(seen, now)
            case CallResult(key, outcome, output):
                told = self._result(self._calls.get(key), outcome, output, now)
            case NativeProgress():
                told = self._native(seen, now)
            case ChoiceFinished(choice, reason):
                told = self._finish(choice, reason, now)
            case StreamEnded():
                told = self._end(seen, now)
            case UnknownResult():
                told = self._result(None, Outcome.UNKNOWN, None, now)
            case _:
                assert_never(seen)
        if self._stale:
            self._forget_ended()
        return told

    # --- inputs ---------------------------------------------------------------------------------

    def _delta(self, seen: CallDelta, now: float) -> list[LifecycleEvent]:
        if seen.key in self._ended:
            return []
        call = self._calls.get(seen.key)
        if call is None:
            call = self._calls[seen.key] = _Call(seen.choice, seen.arguments)
        if call.state is State.NEW:
            call.id = call.id or seen.id or ""
            call.name = call.name or seen.name or ""
            if call.id or call.arguments or seen.settled:
                return self._start(call, now)
        return []

    def _result(
        self, call: _Call | None, outcome: Outcome, output: str | None, now: float
    ) -> list[LifecycleEvent]:
        if call is None or call.state in _ENDED:
            self._counts.dropped += 1
            return []
        call.outcome, call.reason = outcome, None
        return self._start(call, now) + self._complete(call, now, output)

    def _native(self, seen: NativeProgress, now: float) -> list[LifecycleEvent]:
        call = self._ids.get((0, seen.id))
        if seen.outcome is not None:
            return self._result(call, seen.outcome, None, now)
        if call is not None and not (call.native and call.state is State.DONE):
            # Told already, from its deltas: one pair. But now it really runs.
            self._counts.dropped += 1
            self._move(call, Signal.RESUME)
            return []
        self._native_key -= 1
        call = _Call(0, Arguments(), seen.id, seen.tool, native=True)
        # Hermes redacts nothing, and its labels may be of any length.
        call.label = self._presenter.shown(seen.label) if seen.label else None
        call.emoji = seen.emoji
        self._calls[self._native_key] = call
        return self._start(call, now)

    def _finish(self, choice: int, reason: str, now: float) -> list[LifecycleEvent]:
        told: list[LifecycleEvent] = []
        for call in self._calls.values():
            if call.choice == choice and not call.native:
                told += self._start(call, now)
                if self._move(call, Signal.FINISH):
                    call.outcome, call.reason = _judge_finish(reason, call.arguments)
        return told

    def _written(self, key: int, now: float) -> list[LifecycleEvent]:
        call = self._calls.get(key)
        if call is None:
            return []
        told = self._start(call, now)
        if self._move(call, Signal.FINISH):
            call.outcome, call.reason = Outcome.OK, None
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
            call.outcome, call.reason = seen.outcome, seen.reason
            if seen.reason is None and call.arguments and not call.arguments.complete:
                call.outcome, call.reason = Outcome.CUT, "no_finish"
            told += self._start(call, now) + self._complete(call, now)
        self._ended.update(self._calls)  # those that never had a name, too
        self._calls.clear()
        return told

    # --- what is told ---------------------------------------------------------------------------

    def _start(self, call: _Call, now: float) -> list[LifecycleEvent]:
        if call.state is not State.NEW or not call.name or not self._presents:
            return []
        call.id = call.id or self._mint()
        twin = self._ids.get((call.choice, call.id))
        if self._is_internal(call.name) or (twin is not None and not _may_follow(call, twin)):
            self._move(call, Signal.HUSH)
            return []
        label, emoji = self._present(call)
        self._move(call, Signal.START)
        self._ids[call.choice, call.id] = call
        call.started = now
        return [ToolRunning(call.id, call.choice, call.name, label, emoji)]

    def _complete(self, call: _Call, now: float, output: str | None = None) -> list[LifecycleEvent]:
        if not self._move(call, Signal.END):
            return []
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
            )
        ]

    def _present(self, call: _Call) -> tuple[str, str]:
        if self._presents:
            label = call.label or self._presenter.label(call.name, str(call.arguments))
            call.shown = label, call.emoji or self._presenter.emoji(call.name)
        return call.shown

    def _is_internal(self, name: str) -> bool:
        return bool(self._internal_prefix) and name.startswith(self._internal_prefix)

    def _move(self, call: _Call, signal: Signal) -> bool:
        """Follow the table; False where it has no such move."""
        target = TABLE.get((call.state, signal))
        if target is None:
            return False
        self._finishing += (target is State.FINISHING) - (call.state is State.FINISHING)
        call.state = target
        self._stale = self._stale or target in _ENDED
        return True

    def _forget_ended(self) -> None:
        self._stale = False
        for key in [k for k, c in self._calls.items() if c.state in _ENDED]:
            del self._calls[key]
            self._ended.add(key)


def _may_follow(call: _Call, earlier: _Call) -> bool:
    """Whether a call may be told although its id was told before in this choice.

    Ids repeat over the rounds of an agent (Kimi, TGI's "0"): a new pair, once the old is closed.
    But a call that the upstream told natively and sends as deltas too is one call.
    """
    return earlier.state is State.DONE and earlier.native == call.native


def _judge_finish(reason: str, arguments: Arguments) -> tuple[Outcome, str | None]:
    """What a ``finish_reason`` says of the calls it ends."""
    if reason in ("error", "content_filter"):
        return (Outcome.FAILED if reason == "error" else Outcome.CANCELLED), reason
    if reason == "length":
        return (Outcome.OK if arguments.complete else Outcome.CUT), reason
    return Outcome.OK, None
