"""What Responses and Messages share: events that have their type in ``data``."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.arguments import Arguments
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.events import (
    ACTIVITY_ONLY,
    DONE,
    NOTHING,
    UPSTREAM_ERROR,
    Observation,
)
from lifecycle_proxy.core.observers import hermes
from lifecycle_proxy.core.observers.json import dumps, is_error, loads

Json = dict[str, Any]
Observations = Sequence[Observation]

FAILED: Final[Observations] = (UPSTREAM_ERROR,)
_USUAL: Final = re.compile(rb"(?:event: (?!error\n|hermes)[\w.]+\n)?data: (\{.*\})\n\n")
_CR: Final = 0x0D
_TEXT_PARTS: Final = ("text", "input_text", "output_text")


class ReplaceableArguments(Arguments):
    """Arguments that come in pieces and also as a whole. What came last counts."""

    __slots__ = ("_is_whole",)

    def __init__(self, *, is_free_form: bool = False) -> None:
        super().__init__(is_free_form=is_free_form)
        self._is_whole = False

    def piece(self, text: str) -> None:
        """Behind a whole the pieces begin anew: Kimi sends the input at the start and again."""
        if text:
            if self._is_whole:
                self.clear()
                self._is_whole = False
            self.take(text)

    def whole(self, text: str) -> None:
        """All of them, instead of what came before."""
        if text:
            self.clear()
            self._is_whole = True
            self.append(text)


def read(
    event: sse.Event, counts: Counts, react: Callable[[str, Json], Observations]
) -> Observations:
    """What an event says, whose type is in ``data.type``, else in its name.

    Args:
        event: any event.
        counts: where data that is not JSON is counted.
        react: says what a payload of this type means.
    """
    if event.data is None:
        return NOTHING
    if event.name == b"error":
        return FAILED
    data = event.data.strip()
    if not data:
        return NOTHING
    if data == b"[DONE]":
        return DONE  # bridges from chat completions
    try:
        payload = loads(data)
    except ValueError:
        counts.undecodable += 1
        return ACTIVITY_ONLY
    if event.name == hermes.EVENT_NAME and (progress := hermes.maybe_progress(payload)):
        return (progress,)
    if not isinstance(payload, dict):
        return ACTIVITY_ONLY
    kind = payload.get("type")
    if not isinstance(kind, str):
        kind = event.name.decode("utf-8", "replace")
    if is_error(payload) and not kind.startswith("response."):
        return FAILED  # in Responses, the error of one tool
    return react(kind, payload)


def maybe_payload(raw: bytes) -> Json | None:
    """The payload of an event in the usual form: one line of data, a name in front of it or none.

    None for unusual framing and for errors: ``read`` takes those. The JSON is always decoded: that
    is cheap compared with the rest, and bytes that were not decoded cannot be trusted.
    """
    found = _USUAL.fullmatch(raw)
    if found is None or _CR in raw:  # a line end for the one, white space for JSON
        return None
    try:
        payload: Json = orjson.loads(found[1])
    except orjson.JSONDecodeError:
        return None
    # Open WebUI acts on a field "event": what is behind this decides whether it may (page_events).
    return None if is_error(payload) or "event" in payload else payload


def maybe_text(value: object) -> str | None:
    """A text that says something."""
    return value if isinstance(value, str) and value else None


def text_of(value: object) -> str | None:
    """The output of a tool as text: parts of text are joined, other structures are JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(map(_is_text, value)):
        return "\n".join(part["text"] for part in value)
    return dumps(value)


def _is_text(part: object) -> bool:
    return (
        isinstance(part, dict)
        and part.get("type") in _TEXT_PARTS
        and isinstance(part.get("text"), str)
    )
