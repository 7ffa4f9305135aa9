"""Client vocabularies: one ``Dialect`` stateless, chosen by name.

A dialect says how lifecycle events are written, in each of the three APIs, and what else its
clients need. Which client gets which is decided in ``handlers.dialect_selection``; why each form is
as it is, in ``docs/dialects.md``.
"""

from dataclasses import dataclass
from typing import Final

from lifecycle_proxy.core.dialects.bare import bare
from lifecycle_proxy.core.dialects.chunk import chunk, plain
from lifecycle_proxy.core.dialects.comment import comment
from lifecycle_proxy.core.dialects.openwebui import openwebui, openwebui_status
from lifecycle_proxy.core.dialects.quote import Quote
from lifecycle_proxy.core.dialects.reasoning import Reasoning
from lifecycle_proxy.core.dialects.typed import messages, responses, responses_plain
from lifecycle_proxy.core.dialects.writer import Encoder, MakeWriter, stateless
from lifecycle_proxy.core.events import Envelope, LifecycleEvent

__all__ = ("DIALECTS", "Dialect", "Encoder", "stateless")


_RESPONSES: Final = stateless(responses)
_MESSAGES: Final = stateless(messages)


def nothing(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """No frame.

    Args:
        event: to write.
        envelope: as the upstream's latest chunk has it.
    """
    return b""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one kind of client gets. Further needs of a client are traits, never its name.

    Attributes:
        name: as in ``X-Lifecycle-Events``.
        chat: makes the writer of a chat completions stream.
        responses: that of a Responses stream.
        messages: that of a Messages stream.
        is_silent: nothing is ever added.
        keeps_native: lifecycle events of the upstream's own pass as they are.
        merges_rounds: its clients run every call that they see, so they are text_of only calls of
            tools that they can run, and several answers in one stream look like one
            (``lifecycle.merge_rounds``).
        ends_after_error: its clients throw a broken response away, error frame included. Theirs
            ends as HTTP wants it, without ``[DONE]``.
        drops_native: they are taken out, whatever ``lifecycle.native`` says.
        runs_page_events: its clients have a page that acts on events beside the choices, some of
            which run code (``lifecycle.page_events``).
        draws_embeds: its clients put a page into the message where a chunk says so.
        names_typed: its frames have an ``event:`` line in Responses streams.
    """

    name: str
    chat: MakeWriter
    responses: MakeWriter = _RESPONSES
    messages: MakeWriter = _MESSAGES
    is_silent: bool = False
    keeps_native: bool = False
    merges_rounds: bool = False
    ends_after_error: bool = False
    drops_native: bool = False
    runs_page_events: bool = False
    draws_embeds: bool = False
    names_typed: bool = True


def _alike(name: str, encode: Encoder, **traits: bool) -> Dialect:
    """A dialect that writes the same in every API."""
    make = stateless(encode)
    return Dialect(name, make, make, make, names_typed=False, **traits)


def _open_webui(name: str, encode: Encoder, *, draws_embeds: bool) -> Dialect:
    """A dialect of Open WebUI's."""
    return Dialect(
        name,
        stateless(encode),
        merges_rounds=True,
        ends_after_error=True,
        runs_page_events=True,
        draws_embeds=draws_embeds,
    )


_ALL: Final = (
    Dialect("chunk", stateless(chunk)),
    Dialect("plain", stateless(plain), stateless(responses_plain), names_typed=False),
    _alike("bare", bare, keeps_native=True),
    _open_webui("openwebui", openwebui, draws_embeds=True),
    _open_webui("openwebui-status", openwebui_status, draws_embeds=False),
    Dialect("quote", Quote),
    Dialect("reasoning", Reasoning),
    _alike("comment", comment),
    _alike("strip", nothing, is_silent=True, drops_native=True),
    _alike("off", nothing, is_silent=True, keeps_native=True),
)
DIALECTS: Final[dict[str, Dialect]] = {dialect.name: dialect for dialect in _ALL}
