"""The text of a stream, for readers beside it. Only where somebody asked for it: it costs a parse.

Reads the three APIs' streams alike, by what their events are: ``choices`` of chunks, deltas of
Responses and of Messages.
"""

from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.observers.json import loads

Kind = Literal["text", "reasoning"]
# What backends call the reasoning in a delta of a chat stream.
_REASONING: Final = ("reasoning_content", "reasoning")
_TYPED: Final[dict[str, Kind]] = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "text",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning_summary_text.delta": "reasoning",
}
_BLOCKS: Final[dict[str, Kind]] = {"text_delta": "text", "thinking_delta": "reasoning"}


class TextPiece(NamedTuple):
    """Some text of one choice."""

    kind: Kind
    choice: int
    text: str


class TextReader:
    """Reads the text of one stream.

    Args:
        max_event_bytes: larger events are not looked at.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._parser = sse.Parser(max_event_bytes)

    def feed(self, data: bytes) -> list[TextPiece]:
        """The text in some bytes of the stream; what goes on in the next ones comes with those."""
        found: list[TextPiece] = []
        for event in self._parser.feed(data):
            if event.data and event.data != b"[DONE]":
                try:
                    payload = loads(event.data)
                except ValueError:
                    continue
                if isinstance(payload, dict):
                    found += _texts(payload)
        return found


def _texts(payload: dict[str, Any]) -> Iterator[TextPiece]:
    choices = payload.get("choices")
    if isinstance(choices, list):
        for entry in choices:
            if isinstance(entry, dict) and isinstance(delta := entry.get("delta"), dict):
                yield from _of_delta(delta, entry.get("index"))
        return
    kind, delta = payload.get("type"), payload.get("delta")
    if not isinstance(kind, str):
        return
    if isinstance(delta, str) and delta and kind in _TYPED:
        yield TextPiece(_TYPED[kind], 0, delta)
    elif kind == "content_block_delta" and isinstance(delta, dict):
        of = _BLOCKS.get(str(delta.get("type")))
        text = delta.get("text" if of == "text" else "thinking")
        if of is not None and isinstance(text, str) and text:
            yield TextPiece(of, 0, text)


def _of_delta(delta: dict[str, Any], index: object) -> Iterator[TextPiece]:
    if delta.get("role") == "tool":
        return  # a tool's result, of servers that run tools
    choice = index if type(index) is int else 0
    for name in _REASONING:
        text = delta.get(name)
        if isinstance(text, str) and text:
            yield TextPiece("reasoning", choice, text)
            break
    for name in ("content", "refusal"):
        text = delta.get(name)
        if isinstance(text, str) and text:
            yield TextPiece("text", choice, text)
