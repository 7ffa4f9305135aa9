"""The forms in which readers beside a stream get its events: ``?dialect=`` of a stream's URL.

One module each. A vocabulary is a class: one instance for each reader, made with the stream's id.
It is given the events in order and says which bytes the reader gets for them. It does no I/O and
reads no clock; what it has to remember of earlier events, it keeps.

What a reader gets, in this order::

    begin()                       once, at once, behind the response headers
    reset() or gap()              at most once, where the cursor is not in what is kept
    render(event), ...            for each event behind the cursor; may be b""
    keep_alive(at)                in between, in times of silence
    done()                        once, behind stream.done: then the response ends
    closed()                      instead of that, where the response ends before the stream

A reader that goes on behind event N (``Last-Event-ID``) gets a new instance. Where
``needs_history`` is set it is given the events up to N first, as far as they are kept, and what it
renders for those is dropped: so it knows which texts and calls are open.

A new one is one module, one row in ``VOCABULARIES`` and one in the table of
``tests/core/test_vocabularies.py``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol

from lifecycle_proxy.core.stream_events import ClosedReason, StreamEvent
from lifecycle_proxy.core.vocabularies.ag_ui import AgUi
from lifecycle_proxy.core.vocabularies.agentlang import Agentlang
from lifecycle_proxy.core.vocabularies.hermes import Hermes
from lifecycle_proxy.core.vocabularies.kilroy import Kilroy
from lifecycle_proxy.core.vocabularies.openai_responses import OpenAiResponses
from lifecycle_proxy.core.vocabularies.rdev import Rdev
from lifecycle_proxy.core.vocabularies.vercel_ui import VercelUi

__all__ = ("DEFAULT", "VOCABULARIES", "MakeVocabulary", "Vocabulary")


class Vocabulary(Protocol):
    """The bytes of one reader.

    Attributes:
        headers: of the response, besides ``Cache-Control: no-cache, no-transform`` and
            ``X-Accel-Buffering: no``; with ``Content-Type``.
        needs_history: see the module.
    """

    headers: ClassVar[Mapping[str, str]]
    needs_history: ClassVar[bool]

    def begin(self) -> bytes:
        """The first bytes, if there are any before the first event."""
        ...

    def render(self, event: StreamEvent) -> bytes:
        """The bytes of one event."""
        ...

    def gap(self, requested: int, first: int, open_calls: Sequence[Mapping[str, Any]]) -> bytes:
        """Events are missing: they are not kept any more.

        Args:
            requested: the number of the event that should have come next.
            first: that of the event that comes next.
            open_calls: data of the ``tool.running`` events among those that are missing whose calls
                had not ended in front of ``first``.
        """
        ...

    def reset(self, requested: int) -> bytes:
        """All events follow from the first one on: the reader's cursor belongs to no event.

        Args:
            requested: the cursor.
        """
        ...

    def keep_alive(self, at: float) -> bytes:
        """For a silent stream.

        Args:
            at: now, in seconds of Unix time.
        """
        ...

    def closed(self, reason: ClosedReason, message: str) -> bytes:
        """The last bytes, where the response ends before the stream has, or before it has begun.

        Args:
            reason: why, for programs.
            message: the same for people.
        """
        ...

    def done(self) -> bytes:
        """The last bytes, behind those for ``stream.done``."""
        ...


MakeVocabulary = Callable[[str], Vocabulary]  # of the stream with this id
DEFAULT: Final = "hermes"
# By the name that ``?dialect=`` has.
VOCABULARIES: Final[dict[str, MakeVocabulary]] = {
    DEFAULT: Hermes,
    "kilroy": Kilroy,
    "rdev": Rdev,
    "agentlang": Agentlang,
    "ag-ui": AgUi,
    "vercel-ui": VercelUi,
    "openai-responses": OpenAiResponses,
}
