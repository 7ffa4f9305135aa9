"""Claude Code's ``stream-json``: its lines as pieces.

A line holds one block of a message. With partial messages the same text comes before, in pieces:
then it is not taken a second time. Every call has its result before the end, also one that was
denied or interrupted; a call that is open at the end means that the process died.
"""

from collections.abc import Iterator
from typing import Any, Final

from lifecycle_proxy.core.agents.pieces import AgentCall, CallLog, Piece, Said, Thought, begin, end
from lifecycle_proxy.core.agents.quirks import at
from lifecycle_proxy.core.events import Outcome

_CALLS: Final = ("tool_use", "server_tool_use", "mcp_tool_use")
_SYNTHETIC: Final = "<synthetic>"  # the program's own words for an error of its API


class ClaudeReader:
    """The lines of one turn.

    Attributes:
        result: the last line; None while there is none.
    """

    def __init__(self) -> None:
        self.result: Any = None
        self._calls = CallLog()
        self._partial = False  # the text of the message has come in pieces

    def read(self, line: Any) -> Iterator[Piece]:
        """The pieces of a line."""
        is_inner = at(line, ("parent_tool_use_id",)) is not None  # of an agent that it started
        match at(line, ("type",)):
            case "assistant":
                if at(line, ("message", "model")) != _SYNTHETIC:
                    yield from self._blocks(line, is_inner=is_inner)
            case "user":
                yield from self._blocks(line, is_inner=True)
            case "stream_event":
                if not is_inner:
                    yield from self._event(at(line, ("event",)))
            case "result":
                self.result = line
            case _:
                pass  # beginnings, hooks, tasks

    def denied(self, call_id: Any) -> None:
        """A call was not allowed."""
        if (call := self._calls.maybe_call(call_id)) is not None:
            call.was_denied = True

    def begin(self, call_id: Any, name: str, arguments: Any) -> Iterator[Piece]:
        """A call that asks for a permission begins.

        Args:
            call_id: of the call.
            name: of the tool.
            arguments: of the call.
        """
        if (call := self._calls.maybe_call(call_id)) is not None:
            yield from begin(call, name, arguments if isinstance(arguments, dict) else {})

    def finish(self, outcome: Outcome) -> Iterator[Piece]:
        """The turn is over: the end of every call that is open.

        Args:
            outcome: of those.
        """
        for call in self._calls.open():
            yield from end(call, outcome, None)

    def _event(self, event: Any) -> Iterator[Piece]:
        if at(event, ("type",)) == "message_start":
            self._partial = False
        for key, kind in (("text", Said), ("thinking", Thought)):
            text = at(event, ("delta", key))
            if isinstance(text, str) and text:
                self._partial = True
                yield kind(text)

    def _blocks(self, line: Any, *, is_inner: bool) -> Iterator[Piece]:
        blocks = at(line, ("message", "content"))
        for block in blocks if isinstance(blocks, list) else []:
            kind = at(block, ("type",))
            if kind in _CALLS:
                name = block.get("name")
                name = name if isinstance(name, str) and name else "tool"
                yield from self.begin(block.get("id"), name, block.get("input"))
            elif isinstance(kind, str) and kind.endswith("tool_result"):
                yield from self._ended(block)
            elif not (is_inner or self._partial):
                yield from _text(block)

    def _ended(self, block: dict[str, Any]) -> Iterator[Piece]:
        call: AgentCall | None = self._calls.maybe_call(block.get("tool_use_id"))
        if call is None:
            return
        content = block.get("content")
        has_error = str(at(content, ("type",))).endswith("_error")
        is_failed = block.get("is_error") is True or has_error
        yield from begin(call, "tool", {})
        yield from end(call, Outcome.FAILED if is_failed else Outcome.OK, _output(content))


def _text(block: Any) -> Iterator[Piece]:
    for key, kind in (("text", Said), ("thinking", Thought)):
        text = at(block, (key,))
        if isinstance(text, str) and text:
            yield kind(text)


def _output(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = [text for one in blocks if isinstance(text := at(one, ("text",)), str)]
    return "\n".join(texts) if texts else None
