"""The calls of a chat completions stream, as ``identity`` remembers them."""

from collections import deque

from msgspec import Struct, field

from lifecycle_proxy.core.arguments import Arguments

# A label, not a position. Calls that come under a key of their own have slots of their own.
Index = int | str | tuple[str, int]


class Delta(Struct, frozen=True):
    """What a delta says of its call. Absent parts (null, "", "null", no such key) are None."""

    slot: Index | None
    id: str | None
    name: str | None
    arguments: str
    chunk_id: str | None
    whole: bool = False  # of a message that sums up what was streamed
    is_free_form: bool = False  # the arguments are a text of any kind


class ChatCall(Struct, eq=False):
    """One tool call, as the observer knows it."""

    key: int
    choice: int
    chunk_id: str | None
    id: str | None = None
    name: str | None = None
    arguments: Arguments = field(default_factory=Arguments)
    finished: bool = False  # its choice has had a finish_reason
    answered: bool = False  # its result was in the stream
    reused: bool = False  # its slot was an earlier call's
    shares_id: bool = False  # its id is that of another call that is open, too
    ends: "ChatCall | None" = None  # that other call, if it is written by now
    resumed: bool = False  # its arguments go on behind a finish

    @property
    def over(self) -> bool:
        return self.finished or self.answered

    @property
    def is_cut(self) -> bool:
        """Whether a finish came in the middle of its arguments. They may go on all the same."""
        return self.finished and not self.answered and self.arguments.unfinished


class Echo(Struct, frozen=True):
    """A head under a known id and name, in a place of its own.

    It may be the known call again (LocalAI), or another one (gateways that give all calls of an
    answer one id). Its arguments decide, once they are whole.
    """

    call: ChatCall
    arguments: Arguments


class Choice(Struct):
    """The calls of one choice."""

    index: int
    position: int  # in the order of appearance
    by_id: dict[str, ChatCall] = field(default_factory=dict)
    twins: dict[str, deque[ChatCall]] = field(default_factory=dict)  # more calls of an id
    slots: dict[Index, ChatCall] = field(default_factory=dict)
    echoes: dict[Index, Echo] = field(default_factory=dict)
    touched: ChatCall | None = None
    calls: list[ChatCall] = field(default_factory=list)  # since the last finish


def maybe_id(chunk: object) -> str | None:
    """The id of a chunk."""
    chunk_id = chunk.get("id") if isinstance(chunk, dict) else None
    return chunk_id if isinstance(chunk_id, str) else None
