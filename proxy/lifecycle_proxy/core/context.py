"""What a pipeline needs besides the stream: the proxy's options, and what is known of this stream.

The two protocols are implemented outside: labels in ``core.labels``, pending calls in ``state``.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol

from msgspec import Struct

from lifecycle_proxy.core.events import DelegatedCall, ToolCompleted
from lifecycle_proxy.core.page_events import PageEvents

# Which part of a call's life the events stand for: the writing of it, or the running of its tool.
Span = Literal["call", "execution"]


class Presenter(Protocol):
    """How a call is shown to people. Pure: the same answer for the same call."""

    def label(self, tool: str, arguments: str) -> str:
        """One line that says what a call does.

        Args:
            tool: its name.
            arguments: as far as they have come; "" where there are none.
        """
        ...

    def shown(self, text: str) -> str:
        """Any text as a label may show it."""
        ...

    def emoji(self, tool: str) -> str:
        """The emoji of a tool."""
        ...

    def arguments(self, text: str) -> str:
        """The arguments as people may see them: JSON; "" where they are none."""
        ...


class PendingCalls(Protocol):
    """The calls that clients run, of this stream and of earlier ones."""

    def put(self, call: DelegatedCall) -> None:
        """A client runs it now."""
        ...

    def maybe_take(self, call_id: str, choice: int) -> DelegatedCall | None:
        """The call of this id, if its result has not come yet. What takes it announces its end.

        Args:
            call_id: as it was announced.
            choice: the index of its choice.
        """
        ...


class StreamPending:
    """Pending calls of one stream, where no other stream is to know of them."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, int], DelegatedCall] = {}

    def put(self, call: DelegatedCall) -> None:
        self._calls[call.announced.id, call.announced.choice] = call

    def maybe_take(self, call_id: str, choice: int) -> DelegatedCall | None:
        """See ``PendingCalls``.

        Args:
            call_id: as it was announced.
            choice: the index of its choice.
        """
        return self._calls.pop((call_id, choice), None)


class StreamContext(Struct, frozen=True):
    """What is known of one stream before it begins.

    Attributes:
        span: which part of a call's life the events stand for.
        pending: the calls that clients run; None where no other stream is to know of them.
        carried_over: ends of earlier streams' calls, to be written at the head of this one.
        client_tools: the tools that the client can run, where that is known: others are hosted.
        merge_rounds: leave out a finish behind which its choice goes on.
        page_events: which of the upstream's a page may get, where the dialect's clients have one
            that acts on them.
        own_pages: what the URLs of pages begin with that the proxy itself embeds there; "" for
            none.
        follows_arguments: running events have the arguments that grow.
        embed: the URL of a page of the proxy's own with this stream's tools, for a client that
            draws it in front of the first one; "" for none.
    """

    span: Span = "call"
    pending: PendingCalls | None = None
    carried_over: Sequence[ToolCompleted] = ()
    client_tools: frozenset[str] | None = None
    merge_rounds: bool = False
    page_events: PageEvents = "safe"
    own_pages: str = ""
    follows_arguments: bool = False
    embed: str = ""


DEFAULT_CONTEXT: Final = StreamContext()


class PipelineOptions(Struct, frozen=True):
    """What all pipelines of a proxy have in common.

    Attributes:
        presenter: labels and emojis.
        make_id: makes ids for calls that have none, unique beyond their stream.
        internal_prefix: tools whose names start so have no events; "" for none.
        translate: replace the upstream's own lifecycle events by the dialect's; False passes them.
        max_event_bytes: larger events pass unparsed.
        result_preview: how many characters of a result are written; 0 for none.
        infer: what follows a call ends it.
    """

    presenter: Presenter
    make_id: Callable[[], str]
    internal_prefix: str = "_"
    translate: bool = True
    max_event_bytes: int = 8 << 20
    result_preview: int = 0
    infer: bool = False
