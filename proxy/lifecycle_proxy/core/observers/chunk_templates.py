"""Reading a chunk by its shape: the same bytes as an earlier one, but for one string.

A stream is a few chunks of structure and thousands that differ from the one before in a piece of
text, or of arguments. Decoding each of those to learn that it says nothing new is most of what
looking inside costs. A shape is a chunk that was decoded once, with one of its strings left open.
Bytes that begin and end as the shape does, with nothing but the inside of one JSON string between,
are a chunk of the same structure; that is proved when the shape is made, not guessed.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import orjson

from lifecycle_proxy.core.observers.identity import ChatCall, Choice

_MAX_BYTES: Final = 4096
_MAX_SHAPES: Final = 8
_PATIENCE: Final = 16
_PROBE: Final = "\x7fprobe"
_PROBE_JSON: Final = orjson.dumps(_PROBE)

Holder = Callable[[Any], dict[str, Any]]


class ArgumentTarget(NamedTuple):
    """Whose arguments an open string is a piece of, as long as the identities stay as they are."""

    call: ChatCall
    choice: Choice
    version: int


class ChunkTemplate:
    """``head`` ends with the opening quote of the string, ``tail`` begins with the closing one."""

    __slots__ = ("chunk", "head", "hits", "owner", "start", "stop", "tail")

    def __init__(self, head: bytes, tail: bytes, chunk: Any, owner: ArgumentTarget | None) -> None:
        self.head = head
        self.tail = tail
        self.start = len(head) - 1
        self.stop = 1 - len(tail) or None
        self.chunk = chunk
        self.owner = owner
        self.hits = 0


class ChunkTemplates:
    """The shapes of one stream.

    Attributes:
        known: the newest first.
    """

    def __init__(self) -> None:
        self.known: list[ChunkTemplate] = []
        self._patience = _PATIENCE

    def learn(
        self,
        raw: bytes,
        chunk: Any,
        where: tuple[Holder, str],
        owner: ArgumentTarget | None = None,
    ) -> None:
        """Try to make a shape of an event that was decoded.

        Args:
            raw: a whole event of a single line.
            chunk: its decoded data.
            where: how to find the object that holds the string to leave open, and its key there.
            owner: whose arguments that string is a piece of.
        """
        if self.known and not self.known[0].hits:
            self._patience -= 1  # the last one was of no use: some chunks are never alike
            if self._patience <= 0:
                return
        else:
            self._patience = _PATIENCE
        if len(raw) > _MAX_BYTES or not raw.startswith(b"data: ") or not raw.endswith(b"\n\n"):
            return
        holder, key = where
        quoted = orjson.dumps(holder(chunk)[key])
        at = raw.find(quoted)
        if at < 0:
            return
        head, tail = raw[: at + 1], raw[at + len(quoted) - 1 :]
        if _is_proved(head, tail, chunk, where):
            self.known.insert(0, ChunkTemplate(head, tail, chunk, owner))
            del self.known[_MAX_SHAPES:]


def _is_proved(head: bytes, tail: bytes, chunk: Any, where: tuple[Holder, str]) -> bool:
    """Whether the open string is the one that is meant, and the only thing that changes."""
    holder, key = where
    try:
        probed = orjson.loads(head[len(b"data: ") :] + _PROBE_JSON[1:-1] + tail)
        inside = holder(probed)
        if inside[key] != _PROBE:
            return False
        inside[key] = holder(chunk)[key]
        return bool(probed == chunk)
    except (orjson.JSONDecodeError, LookupError, TypeError, RecursionError):
        return False
