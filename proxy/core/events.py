"""The vocabulary: what an observer saw (observations) and what a client is told (lifecycle events).

An observer turns one upstream event into observations. The lifecycle turns observations into
``ToolRunning`` and ``ToolCompleted``. A dialect turns those into bytes. Nothing else passes between
the three.
"""

import enum
from dataclasses import dataclass, field
from typing import ClassVar, Final

import orjson


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


_CLOSING: Final = ("}", "]", "")


class Arguments:
    """The arguments of one call, as they grow. Above ``LIMIT`` characters only the head is kept."""

    LIMIT: Final = 1 << 20
    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._size = 0

    def append(self, piece: str) -> None:
        if self._size < self.LIMIT:
            self._pieces.append(piece[: self.LIMIT - self._size])
        self._size += len(piece)

    def clear(self) -> None:
        """They begin anew."""
        self._pieces.clear()
        self._size = 0

    def __str__(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    @property
    def may_end(self) -> bool:
        """Whether a closer look may find them complete."""
        return bool(self._pieces) and self._pieces[-1].rstrip()[-1:] in _CLOSING

    def __len__(self) -> int:
        return self._size

    @property
    def complete(self) -> bool:
        """Whether they are a whole JSON object or array: nothing may follow."""
        if not self.may_end:
            return False
        text = str(self).strip()
        if self._size > self.LIMIT or not text.endswith(("}", "]")):
            return False
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError:
            return False
        return True


# --- observations -------------------------------------------------------------------------------
# ``before`` says where the lifecycle events that follow from an observation stand: in front of the
# upstream event that was observed (clients stop reading at an error or at [DONE]), or behind it.


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of a tool call. ``key`` tells the calls of one stream apart; ``id`` need not.

    Attributes:
        settled: no more of its identity will come; without an id there will never be one.
        hosted: it runs behind the upstream; nobody asks the client to run it.
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


@dataclass(frozen=True, slots=True)
class CallWritten:
    """One call is written, whatever the others do: vocabularies that end each call by itself."""

    key: int
    before: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class CallResult:
    """The result of a call, seen in the stream: the tool ran behind the upstream."""

    key: int
    outcome: Outcome = Outcome.OK
    output: str | None = None
    before: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class UnknownResult:
    """A result of a call that was never announced."""

    before: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class NativeProgress:
    """The upstream's own lifecycle event. It stands in the place of the original."""

    id: str
    tool: str
    label: str | None
    emoji: str | None
    outcome: Outcome | None  # None: running
    before: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class ChoiceFinished:
    """A choice has its ``finish_reason``. Its calls are written; what runs them may still run."""

    choice: int
    reason: str
    before: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Substance:
    """Something that is no usage, comment or ping: what was finished before it is over."""

    before: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Text:
    """The model goes on with words, or thoughts: the calls before them are written."""

    choice: int
    before: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The end of all calls.

    Attributes:
        reason: None at a proper end (``[DONE]``).
        beats_finish: what was finished, but not yet told, ends for this reason too.
    """

    reason: str | None = None
    outcome: Outcome = Outcome.UNKNOWN
    beats_finish: bool = False
    before: ClassVar[bool] = True


Observation = (
    CallDelta
    | CallWritten
    | CallResult
    | UnknownResult
    | NativeProgress
    | ChoiceFinished
    | Substance
    | Text
    | StreamEnded
)

SUBSTANCE: Final = Substance()
NOTHING: Final[tuple[Observation, ...]] = ()
JUST_SUBSTANCE: Final[tuple[Observation, ...]] = (SUBSTANCE,)
JUST_TEXT: Final[tuple[Observation, ...]] = (Text(0),)
DONE: Final[tuple[Observation, ...]] = (StreamEnded(),)
UPSTREAM_ERROR: Final = StreamEnded("upstream_error", Outcome.FAILED, beats_finish=True)


# --- lifecycle events ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolRunning:
    """A tool call has begun.

    Attributes:
        hosted: it runs behind the upstream; nobody asks the client to run it.
        repeat: how often its id was told before in this choice: ids may come again.
        arguments: JSON, redacted; "" where they are not known by then, or not wanted.
    """

    id: str
    choice: int
    tool: str
    label: str
    emoji: str
    hosted: bool = False
    repeat: int = 0
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class ToolCompleted:
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


@dataclass(frozen=True, slots=True)
class Handed:
    """A call that the client runs now: its result comes with a later request.

    Attributes:
        told: how it was announced.
        started: when, in seconds on the clock that the lifecycle was fed with.
    """

    told: ToolRunning
    started: float

    def completed(
        self, now: float, *, outcome: Outcome = Outcome.UNKNOWN, reason: str | None = None
    ) -> ToolCompleted:
        """The end of it."""
        told = self.told
        duration_ms = round((now - self.started) * 1000)
        return ToolCompleted(
            told.id,
            told.choice,
            told.tool,
            told.label,
            told.emoji,
            outcome,
            duration_ms,
            reason,
            repeat=told.repeat,
        )


@dataclass(slots=True)
class Envelope:
    """What a frame of ours copies from the upstream's chunks.

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


@dataclass(slots=True)
class Counts:
    """What an observer and the lifecycle passed over in one stream."""

    undecodable: int = 0  # data that is no JSON
    dropped: int = 0  # results of unknown ids, second results, repeated events
    observer_failures: int = 0
    failure: BaseException | None = field(default=None, repr=False)
