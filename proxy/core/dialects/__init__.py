"""Writers of client vocabularies: a function each, chosen by name.

A dialect turns one lifecycle event into the bytes of one frame, or of none. Which client gets which
is decided in ``proxy.clients``; why each form is as it is, in ``docs/dialects.md``.
"""

from collections.abc import Callable
from typing import Final

from proxy.core.dialects.bare import bare
from proxy.core.dialects.chunk import chunk, plain
from proxy.core.dialects.comment import comment
from proxy.core.dialects.openwebui import openwebui, openwebui_status
from proxy.core.dialects.reasoning import reasoning
from proxy.core.dialects.typed import messages, responses, responses_plain
from proxy.core.events import Envelope, LifecycleEvent

Dialect = Callable[[LifecycleEvent, Envelope], bytes]


def off(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """Nothing."""
    return b""


DIALECTS: Final[dict[str, Dialect]] = {
    "chunk": chunk,
    "plain": plain,
    "bare": bare,
    "openwebui": openwebui,
    "openwebui-status": openwebui_status,
    "reasoning": reasoning,
    "comment": comment,
    "off": off,
}


def _forms(default: Dialect, **others: Dialect) -> dict[str, Dialect]:
    """A form for each name; only a few differ where nothing is drawn."""
    return dict.fromkeys(DIALECTS, default) | others


# By what the stream speaks, then by name.
FORMS: Final[dict[str, dict[str, Dialect]]] = {
    "chat": DIALECTS,
    "responses": _forms(responses, plain=responses_plain, bare=bare, comment=comment, off=off),
    "messages": _forms(messages, bare=bare, comment=comment, off=off),
}
