"""One tool call: the states it goes through, and what a lifecycle needs to know of its world.

The table is the whole of it; ``Call.move`` is the one place that says no.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from lifecycle_proxy.core.arguments import Arguments
from lifecycle_proxy.core.events import DelegatedCall, Outcome, ToolCompleted, ToolRunning


class State(enum.Enum):
    """Where a call stands."""

    __hash__ = object.__hash__  # enum's own is written in Python, and each move asks for it

    NEW = "new"  # id or name missing
    RUNNING = "running"  # told
    FINISHING = "finishing"  # told; the model has written it, nothing of substance followed yet
    DELEGATED = "delegated"  # told; the client runs it (span execution)
    DONE = "done"  # told twice
    SUPPRESSED = "suppressed"  # an internal tool, or a second announcement of a call: never told


class Signal(enum.Enum):
    """What can happen to a call."""

    __hash__ = object.__hash__

    START = "start"  # its identity is known, or must not be waited for any longer
    SUPPRESS = "suppress"
    FINISH = "finish"
    DELEGATE = "delegate"
    RESUME = "resume"  # the upstream says that it runs, after its finish
    END = "end"


TABLE: Final[dict[tuple[State, Signal], State]] = {
    (State.NEW, Signal.START): State.RUNNING,
    (State.NEW, Signal.SUPPRESS): State.SUPPRESSED,
    (State.RUNNING, Signal.FINISH): State.FINISHING,
    (State.RUNNING, Signal.END): State.DONE,
    (State.RUNNING, Signal.DELEGATE): State.DELEGATED,
    (State.FINISHING, Signal.RESUME): State.RUNNING,
    (State.FINISHING, Signal.END): State.DONE,
    (State.DELEGATED, Signal.RESUME): State.RUNNING,
    (State.DELEGATED, Signal.END): State.DONE,
}
ENDED: Final = (State.DONE, State.SUPPRESSED)
BEING_WRITTEN: Final = (State.NEW, State.RUNNING)
# What follows in its choice may change where a call stands.
AFFECTED_BY_TEXT: Final = (*BEING_WRITTEN, State.DELEGATED)


Span = Literal["call", "execution"]


class Presenter(Protocol):
    """How a call is shown to people. Pure: the same answer for the same call."""

    def label(self, tool: str, arguments: str) -> str: ...

    def shown(self, text: str) -> str: ...

    def emoji(self, tool: str) -> str: ...

    def arguments(self, text: str) -> str:
        """The arguments as people may see them: JSON; "" where they are none."""
        ...


class Pending(Protocol):
    """The calls that clients run, of this stream and of earlier ones."""

    def put(self, call: DelegatedCall) -> None:
        """A client runs it now."""
        ...

    def maybe_take(self, call_id: str, choice: int) -> DelegatedCall | None:
        """The call of this id, if its result has not come yet. Whoever takes it tells its end."""
        ...


class StreamPending:
    """The calls of one stream, for those who look at no other."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, int], DelegatedCall] = {}

    def put(self, call: DelegatedCall) -> None:
        self._calls[call.told.id, call.told.choice] = call

    def maybe_take(self, call_id: str, choice: int) -> DelegatedCall | None:
        return self._calls.pop((call_id, choice), None)


@dataclass(frozen=True, slots=True)
class StreamContext:
    """What one stream has of its own.

    Attributes:
        span: which part of a call's life is told.
        pending: the calls that clients run; None where no other stream is to know of them.
        carried_over: ends of earlier streams' calls, to be told at the head of this one.
        client_tools: the tools that the client can run, where that is known: others are hosted.
        merge_rounds: leave out a finish behind which its choice goes on.
    """

    span: Span = "call"
    pending: Pending | None = None
    carried_over: Sequence[ToolCompleted] = ()
    client_tools: frozenset[str] | None = None
    merge_rounds: bool = False


DEFAULT_CONTEXT: Final = StreamContext()


@dataclass(slots=True)
class Call:
    choice: int
    arguments: Arguments
    id: str = ""
    name: str = ""
    state: State = State.NEW
    hosted: bool = False
    repeat: int = 0
    generated_id: bool = False  # the id is ours: no client can answer it
    native: bool = False  # announced by the upstream's own lifecycle event
    label: str | None = None
    emoji: str | None = None
    shown: tuple[str, str] = ("", "")  # label and emoji, as told last
    started: float = 0.0
    reason: str | None = None  # of the finish
    outcome: Outcome = Outcome.UNKNOWN

    def move(self, signal: Signal) -> bool:
        """Follow the table; False where it has no such move."""
        target = TABLE.get((self.state, signal))
        if target is None:
            return False
        self.state = target
        return True

    def told(self) -> ToolRunning:
        """How it was announced."""
        return ToolRunning(self.id, self.choice, self.name, *self.shown, repeat=self.repeat)
