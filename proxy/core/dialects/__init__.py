"""Writers of client vocabularies: a function each, chosen by name.

A dialect turns one lifecycle event into the bytes of one frame, or of none. Which client gets which
is decided in ``proxy.clients``; why each form is as it is, in ``docs/dialects.md``.
"""

from collections.abc import Callable
from typing import Final

from proxy.core.dialects.bare import bare
from proxy.core.dialects.chunk import chunk, plain
from proxy.core.dialects.comment import comment
from proxy.core.events import Envelope, LifecycleEvent

Dialect = Callable[[LifecycleEvent, Envelope], bytes]


def off(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """Nothing."""
    return b""


DIALECTS: Final[dict[str, Dialect]] = {
    "chunk": chunk,
    "plain": plain,
    "bare": bare,
    "comment": comment,
    "off": off,
}
