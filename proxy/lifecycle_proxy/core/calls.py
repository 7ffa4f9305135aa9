"""The state of one tool call.

Transitions are defined in ``TABLE`` alone; ``Call.move`` rejects all others.
"""

import enum
from typing import Final

from msgspec import Struct

from lifecycle_proxy.core.arguments import Arguments
from lifecycle_proxy.core.events import Outcome, ToolRunning


class State(enum.Enum):
    """Where a call stands."""

    __hash__ = object.__hash__  # enum's own is written in Python, and each move asks for it

    NEW = "new"  # id or name missing
    RUNNING = "running"  # announced
    FINISHING = "finishing"  # written by the model; no activity followed yet
    DELEGATED = "delegated"  # the client runs it (span execution)
    DONE = "done"  # completed
    SUPPRESSED = "suppressed"  # an internal tool, or a second announcement of a call: no events


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


class Call(Struct):
    """One tool call, as the lifecycle knows it."""

    choice: int
    arguments: Arguments
    id: str = ""
    name: str = ""
    state: State = State.NEW
    hosted: bool = False
    repeat: int = 0
    has_made_id: bool = False  # the id is made up: no client can answer it
    native: bool = False  # announced by the upstream's own lifecycle event
    label: str | None = None
    emoji: str | None = None
    presented: tuple[str, str] = ("", "")  # label and emoji, as announced last
    presented_of: str = ""  # the arguments by then
    started: float = 0.0
    reason: str | None = None  # of the finish
    outcome: Outcome = Outcome.UNKNOWN
    key: int = 0  # of its observer
    position: int = 0  # in the order of appearance

    def move(self, signal: Signal) -> bool:
        """Follow the table; False where it has no such move."""
        target = TABLE.get((self.state, signal))
        if target is None:
            return False
        self.state = target
        return True

    def announcement(self) -> ToolRunning:
        """How it was announced."""
        return ToolRunning(self.id, self.choice, self.name, *self.presented, repeat=self.repeat)
