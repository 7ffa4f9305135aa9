"""Client vocabularies: one ``Dialect`` each, chosen by name.

A dialect says how a lifecycle event is written, in each of the three APIs, and what else its
clients need. Which client gets which is decided in ``proxy.clients``; why each form is as it is, in
``docs/dialects.md``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy.core.dialects.bare import bare
from proxy.core.dialects.chunk import chunk, plain
from proxy.core.dialects.comment import comment
from proxy.core.dialects.openwebui import openwebui, openwebui_status
from proxy.core.dialects.reasoning import reasoning
from proxy.core.dialects.typed import messages, responses, responses_plain
from proxy.core.events import Envelope, LifecycleEvent

# Turns one lifecycle event into the bytes of one frame, or of none.
Encoder = Callable[[LifecycleEvent, Envelope], bytes]


def nothing(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """No frame."""
    return b""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one kind of client gets. Further needs of a client are traits, never its name.

    Attributes:
        name: as in ``X-Lifecycle-Events``.
        chat: writes the frames of a chat completions stream.
        responses: those of a Responses stream.
        messages: those of a Messages stream.
        is_silent: nothing is ever added.
        keeps_native: lifecycle events of the upstream's own pass as they are.
        merges_rounds: its clients run every call that they see, so they are shown only calls of
            tools that they can run, and several answers in one stream look like one
            (``lifecycle.merge_rounds``).
        ends_after_error: its clients throw a broken response away, error frame included. Theirs
            ends as HTTP wants it, without ``[DONE]``.
    """

    name: str
    chat: Encoder
    responses: Encoder = responses
    messages: Encoder = messages
    is_silent: bool = False
    keeps_native: bool = False
    merges_rounds: bool = False
    ends_after_error: bool = False

    def encoder(self, api: str) -> Encoder:
        """The writer for a stream of this API: ``responses``, ``messages``, else chat."""
        return {"responses": self.responses, "messages": self.messages}.get(api, self.chat)


_ALL: Final = (
    Dialect("chunk", chunk),
    Dialect("plain", plain, responses_plain),
    Dialect("bare", bare, bare, bare, keeps_native=True),
    Dialect("openwebui", openwebui, merges_rounds=True, ends_after_error=True),
    Dialect("openwebui-status", openwebui_status),
    Dialect("reasoning", reasoning),
    Dialect("comment", comment, comment, comment),
    Dialect("off", nothing, nothing, nothing, is_silent=True, keeps_native=True),
)
DIALECTS: Final[dict[str, Dialect]] = {dialect.name: dialect for dialect in _ALL}
