"""What passes between the parts: observations (of an observer) and lifecycle events (for clients).

An observer turns one upstream event into observations. The lifecycle turns observations into
``ToolRunning`` and ``ToolCompleted``. A dialect turns those into bytes. Nothing else passes between
the three.
"""

import enum
from typing import ClassVar, Final

from msgspec import Struct

from lifecycle_proxy.core.arguments import Arguments


class Outcome(enum.Enum):
    """How a tool call ended, as honestly as the stream lets us know."""

    OK = "ok"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CUT = "cut"
    UNKNOWN = "unknown"

    @property
    def is_error(self) -> bool:
        return self in (Outcome.FAILED, Outcome.CANCELLED, Outcome.CUT)


# --- observations -------------------------------------------------------------------------------
# ``before`` says where the lifecycle events that follow from an observation stand: in front of the
# upstream event that was observed (clients stop reading at an error or at [DONE]), or behind it.


class CallDelta(Struct, frozen=True):
    """A piece of a tool call. ``key`` identifies it in its stream; ``id`` need not.

    Attributes:
        settled: no more of its identity will come; without an id there will never be one.
        hosted: it runs behind the upstream, not in the client.
        reused: its place in the stream was an earlier call's, so that one is written.
    """

    key: int
    choice: int
    id: str | None
    name: str | None
    arguments: Arguments
    settled: bool = False
    hosted: bool = False
    reused: bool = False
    before: ClassVar[bool] = False


class CallWritten(Struct, frozen=True):
    """One call is written, whatever the others do: APIs that end each call by itself.

    Attributes:
        reason: the upstream's word for the end.
    """

    key: int
    reason: str = "completed"
    before: ClassVar[bool] = False


class CallResult(Struct, frozen=True):
    """The end of one call, seen in the stream: mostly its result, the tool ran upstream.

    Attributes:
        reason: why it ended, where that is no result.
        before: its place, as of all observations. A call that was written is over by now.
    """

    key: int
    outcome: Outcome = Outcome.OK
    output: str | None = None
    reason: str | None = None
    before: bool = True


class CallResumed(Struct, frozen=True):
    """More arguments of a call behind a finish that cut them: there was no finish."""

    key: int
    before: ClassVar[bool] = True


class UnknownResult(Struct, frozen=True):
    """A result of a call that was never announced."""

    before: ClassVar[bool] = False


class NativeProgress(Struct, frozen=True):
    """The upstream's own lifecycle event. It stands in the place of the original."""

    id: str
    tool: str
    label: str | None
    emoji: str | None
    outcome: Outcome | None  # None: running
    before: ClassVar[bool] = False


class ChoiceFinishing(Struct, frozen=True):
    """A choice's ``finish_reason`` comes: no more arguments do."""

    choice: int
    before: ClassVar[bool] = True


class ChoiceFinished(Struct, frozen=True):
    """A choice has its ``finish_reason``. Its calls are written; what runs them may still run."""

    choice: int
    reason: str
    before: ClassVar[bool] = False


class Activity(Struct, frozen=True):
    """Something that is no usage, comment or ping: what was finished before it is over."""

    before: ClassVar[bool] = True


class Text(Struct, frozen=True):
    """The model goes on with text, or reasoning: the calls before them are written."""

    choice: int
    before: ClassVar[bool] = True


class StreamEnded(Struct, frozen=True):
    """The end of all calls that are open. Another answer may follow in the same stream.

    Attributes:
        reason: None at a proper end.
        beats_finish: what was finished, but not yet completed, ends for this reason too.
        is_last: nothing follows that a client would read: ``[DONE]``.
    """

    reason: str | None = None
    outcome: Outcome = Outcome.UNKNOWN
    beats_finish: bool = False
    is_last: bool = False
    before: ClassVar[bool] = True


Observation = (
    CallDelta
    | CallWritten
    | CallResult
    | CallResumed
    | UnknownResult
    | NativeProgress
    | ChoiceFinishing
    | ChoiceFinished
    | Activity
    | Text
    | StreamEnded
)

# What says that the upstream is alive, and nothing of a call.
ACTIVITY_TYPES: Final = (Activity, Text)
ACTIVITY: Final = Activity()
NOTHING: Final[tuple[Observation, ...]] = ()
ACTIVITY_ONLY: Final[tuple[Observation, ...]] = (ACTIVITY,)
TEXT_ONLY: Final[tuple[Observation, ...]] = (Text(0),)
DONE: Final[tuple[Observation, ...]] = (StreamEnded(is_last=True),)
ANSWERED: Final[tuple[Observation, ...]] = (StreamEnded(),)
UPSTREAM_ERROR: Final = StreamEnded("upstream_error", Outcome.FAILED, beats_finish=True)


# --- lifecycle events ---------------------------------------------------------------------------


class ToolRunning(Struct, frozen=True):
    """A tool call has begun.

    Attributes:
        hosted: it runs behind the upstream, not in the client.
        repeat: how often its id was announced before in this choice: ids may come again.
        arguments: JSON, redacted; "" where they are not known by then, or not wanted.
        written: its arguments, as they grow; None where nobody follows them. They may be large, and
            hold secrets: an event that is kept is kept without them.
    """

    id: str
    choice: int
    tool: str
    label: str
    emoji: str
    hosted: bool = False
    repeat: int = 0
    arguments: str = ""
    written: Arguments | None = None


class ToolCompleted(Struct, frozen=True):
    """A tool call is over, whatever its outcome.

    Attributes:
        reason: why it ended, where that is not the ordinary end: a ``finish_reason`` such as
            ``length``, or ``upstream_error``, ``upstream_eof``, ``client_disconnected``, ...
        duration_ms: from running to completed, in milliseconds.
        output: the tool's result, where the stream held it.
        hosted: as it was announced.
        repeat: as it was announced.
    """

    id: str
    choice: int
    tool: str
    label: str
    emoji: str
    outcome: Outcome
    duration_ms: int
    reason: str | None = None
    output: str | None = None
    hosted: bool = False
    repeat: int = 0


LifecycleEvent = ToolRunning | ToolCompleted


class DelegatedCall(Struct, frozen=True):
    """A call that the client runs now: its result comes with a later request.

    Attributes:
        announced: how.
        started: when, in seconds on the clock that the lifecycle was fed with.
        content: a ``followup.fingerprint``, for clients that rewrite ids.
    """

    announced: ToolRunning
    started: float
    content: str = ""

    def completed(
        self, now: float, *, outcome: Outcome = Outcome.UNKNOWN, reason: str | None = None
    ) -> ToolCompleted:
        """The end of it.

        Args:
            now: seconds on the clock of ``started``.
            outcome: of the call.
            reason: why it ended, where that is not its result.
        """
        announced = self.announced
        duration_ms = round((now - self.started) * 1000)
        return ToolCompleted(
            announced.id,
            announced.choice,
            announced.tool,
            announced.label,
            announced.emoji,
            outcome,
            duration_ms,
            reason,
            repeat=announced.repeat,
        )


class Envelope(Struct):
    """What a added frame copies from the upstream's chunks.

    Attributes:
        created: Unix time in seconds.
        system_fingerprint: None where the upstream sends none.
        sequence_number: of the latest event of a Responses stream.
    """

    id: str
    created: int
    model: str
    system_fingerprint: str | None = None
    sequence_number: int = 0
