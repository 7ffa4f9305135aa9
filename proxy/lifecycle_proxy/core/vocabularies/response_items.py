"""The items of a response: see ``openai_responses``."""

from collections.abc import Mapping
from typing import Any, Final

_MAX_CHARACTERS: Final = 1 << 20  # of all items of a response
_MAX_ITEMS: Final = 4096
_SERVER: Final = "upstream"


class TextItem:
    """A ``message``, or ``reasoning``, with one part.

    Attributes:
        place: of its events.
        traits: what else they have.
        pieces: of the text.

    Args:
        item_id: of the item.
        index: in the response's output.
        is_reasoning: which of the two.
    """

    def __init__(self, item_id: str, index: int, *, is_reasoning: bool) -> None:
        self.index = index
        self.is_reasoning = is_reasoning
        self.name = "reasoning_text" if is_reasoning else "output_text"
        self.place = {"item_id": item_id, "output_index": index, "content_index": 0}
        self.traits: dict[str, Any] = {} if is_reasoning else {"logprobs": []}
        self.pieces: list[str] = []

    def part(self) -> dict[str, Any]:
        """The text so far."""
        part: dict[str, Any] = {"type": self.name, "text": "".join(self.pieces)}
        if not self.is_reasoning:
            part["annotations"] = []
        return part

    def value(self, status: str) -> dict[str, Any]:
        """The item.

        Args:
            status: of it; ``in_progress`` has no content yet.
        """
        content = [] if status == "in_progress" else [self.part()]
        own: dict[str, Any] = {"id": self.place["item_id"], "status": status, "content": content}
        if self.is_reasoning:
            return {"type": "reasoning", "summary": [], **own}
        return {"type": "message", "role": "assistant", **own}


class CallItem:
    """An ``mcp_call`` or a ``function_call``.

    Attributes:
        place: of its events.
        traits: what else the last one of its arguments has.
        pieces: of the arguments.

    Args:
        call_id: of the call.
        index: in the response's output.
        data: of ``tool.running``.
    """

    def __init__(self, call_id: str, index: int, data: Mapping[str, Any]) -> None:
        self.index = index
        self.tool = str(data.get("tool", ""))
        self.is_hosted = bool(data.get("hosted"))
        self.name = "mcp_call" if self.is_hosted else "function_call"
        self.place = {"item_id": f"item_{call_id}", "output_index": index}
        self.traits = {} if self.is_hosted else {"name": self.tool}
        self.pieces: list[str] = []
        self._call_id = call_id

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)

    def value(
        self, status: str = "", *, result: str = "", is_error: bool = False
    ) -> dict[str, Any]:
        """The item.

        Args:
            status: ``in_progress``; "" for the end.
            result: what came of it, or why it failed.
            is_error: whether it failed.
        """
        arguments = "" if status == "in_progress" else self.arguments
        own = {"type": self.name, "id": self.place["item_id"], "name": self.tool}
        if not self.is_hosted:
            end = status or ("incomplete" if is_error else "completed")
            return {**own, "call_id": self._call_id, "arguments": arguments, "status": end}
        end = status or ("failed" if is_error else "completed")
        output = None if status or is_error else result
        error = {"type": "mcp_tool_execution_error", "content": result} if is_error else None
        more = {"server_label": _SERVER, "output": output, "error": error, "status": end}
        return {**own, "arguments": arguments, **more}


class Kept:
    """What is kept for the response at the end."""

    def __init__(self) -> None:
        self._items: dict[int, dict[str, Any]] = {}
        self._left = _MAX_CHARACTERS

    @property
    def items(self) -> list[dict[str, Any]]:
        """Those that have ended, in the order in which they began."""
        return [self._items[index] for index in sorted(self._items)]

    def take(self, item: CallItem | TextItem, piece: str) -> None:
        """Add to an item's text, as far as there is room.

        Args:
            item: that goes on.
            piece: of its text, or of its arguments.
        """
        item.pieces.append(self.cut(piece))

    def cut(self, text: str) -> str:
        """As much of a text as there is room for."""
        kept = text[: self._left]
        self._left -= len(kept)
        return kept

    def add(self, index: int, item: dict[str, Any]) -> None:
        """Keep an item that has ended.

        Args:
            index: in the output.
            item: as it is.
        """
        if len(self._items) < _MAX_ITEMS:
            self._items[index] = item
