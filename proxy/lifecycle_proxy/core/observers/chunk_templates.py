"""Recognises chunks that equal an earlier one but for one string, without decoding them whole.

A stream is a few chunks of structure and thousands that differ from the one before only in a piece
of text, or of arguments. Decoding each of them is most of what looking inside costs.

Strategy: a template is made from a chunk that was decoded, by cutting its bytes into what stands
before the value of one string (``head``) and behind it (``tail``). Bytes that begin and end so,
with the inside of exactly one JSON string between, are a chunk of the same structure.

Rules:

- A template is proved when it is made: another string is put in, the result is decoded, and must be
  the chunk with that one value changed. Nothing is guessed from the look of the bytes.
- The part between is still decoded, so a quotation mark that ends the string early is noticed.
- A template for arguments holds only as long as ``Identities.version`` is the same: after that the
  same bytes may belong to another call.
- Streams whose chunks are never alike (a counter in each, say) give up learning after some tries.

Warning: the order of the checks in ``ChatObserver.skim`` is the hot path of the whole proxy.
Measure before changing it.
"""

from collections.abc import Callable
from typing import Any, Final

import orjson
from msgspec import Struct

from lifecycle_proxy.core.observers.chat_calls import ChatCall, Choice
from lifecycle_proxy.core.observers.chat_fields import Json, maybe_index

_MAX_BYTES: Final = 4096
_MAX_TEMPLATES: Final = 8
_TRIES: Final = 16
_PROBE: Final = "\x7fprobe"
_PROBE_JSON: Final = orjson.dumps(_PROBE)

# Finds the object in a chunk that holds the string.
Holder = Callable[[Any], Json]


class ArgumentTarget(Struct, frozen=True):
    """The call whose arguments the string is a piece of, at one version of the identities."""

    call: ChatCall
    choice: Choice
    version: int


class ChunkTemplate:
    """``head`` ends with the opening quote of the string, ``tail`` begins with the closing one.

    Args:
        head: the bytes before the string.
        tail: the bytes behind it.
        chunk: as decoded, with the string of the chunk that it was made from.
        target: whose arguments the string is a piece of; None for text.
    """

    __slots__ = (
        *("chunk", "head", "head_stop", "is_used", "start", "stop"),
        *("tail", "tail_start", "target"),
    )

    def __init__(self, head: bytes, tail: bytes, chunk: Any, target: ArgumentTarget | None) -> None:
        self.head = head
        self.tail = tail
        self.head_stop = len(head)
        self.tail_start = -len(tail)
        self.start = len(head) - 1
        self.stop = 1 - len(tail) or None
        self.chunk = chunk
        self.target = target
        self.is_used = False


class ChunkTemplates:
    """The templates of one stream.

    Attributes:
        known: the newest first.
    """

    def __init__(self) -> None:
        self.known: list[ChunkTemplate] = []
        self._tries_left = _TRIES

    @property
    def were_used(self) -> bool:
        """Whether any chunk was like an earlier one."""
        return any(template.is_used for template in self.known)

    def learn_text(self, raw: bytes, chunk: Json) -> None:
        """Make a template for the next pieces of text, or of reasoning.

        Args:
            raw: the event.
            chunk: its decoded data, with one choice.
        """
        delta = _delta_of(chunk)
        texts = [key for key in delta if type(delta[key]) is str and delta[key] and key != "role"]
        if texts:
            key = max(texts, key=lambda key: len(delta[key]))
            self._learn(raw, chunk, (_delta_of, key))

    def learn_arguments(self, raw: bytes, chunk: Json, choice: Choice, version: int) -> None:
        """Make a template for the next pieces of the arguments of the choice's latest call.

        Args:
            raw: the event.
            chunk: its decoded data, with one choice that has one piece of a call.
            choice: that one.
            version: of the identities.
        """
        call = choice.touched
        if call is None or not (call.name and (call.id or call.arguments)):
            return
        try:
            entry = chunk["choices"][0]["delta"]["tool_calls"][0]
            arguments = entry["function"]["arguments"]
        except (LookupError, TypeError):
            return
        slot = maybe_index(entry)
        if slot is not None and choice.slots.get(slot) is call and type(arguments) is str:
            target = ArgumentTarget(call, choice, version)
            self._learn(raw, chunk, (_function_of, "arguments"), target)

    def _learn(
        self,
        raw: bytes,
        chunk: Json,
        where: tuple[Holder, str],
        target: ArgumentTarget | None = None,
    ) -> None:
        if self.known and not self.known[0].is_used:
            self._tries_left -= 1  # the last one was of no use: some chunks are never alike
            if self._tries_left <= 0:
                return
        else:
            self._tries_left = _TRIES
        if len(raw) > _MAX_BYTES or not raw.startswith(b"data: ") or not raw.endswith(b"\n\n"):
            return
        holder, key = where
        quoted = orjson.dumps(holder(chunk)[key])
        at = raw.find(quoted)
        if at < 0:
            return
        head, tail = raw[: at + 1], raw[at + len(quoted) - 1 :]
        if _is_proved(head, tail, where):
            self.known.insert(0, ChunkTemplate(head, tail, chunk, target))
            del self.known[_MAX_TEMPLATES:]


def _is_proved(head: bytes, tail: bytes, where: tuple[Holder, str]) -> bool:
    """Whether the string is the one that is meant.

    Then it is the only thing that changes: all other bytes are the same.
    """
    holder, key = where
    try:
        probed = orjson.loads(head[len(b"data: ") :] + _PROBE_JSON[1:-1] + tail)
        return bool(holder(probed)[key] == _PROBE)
    except (orjson.JSONDecodeError, LookupError, TypeError, RecursionError):
        return False


def _delta_of(chunk: Any) -> Json:
    delta: Json = chunk["choices"][0]["delta"]
    return delta


def _function_of(chunk: Any) -> Json:
    function: Json = chunk["choices"][0]["delta"]["tool_calls"][0]["function"]
    return function
