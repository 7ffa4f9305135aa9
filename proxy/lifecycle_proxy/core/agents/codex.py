"""Codex' app-server: its items as pieces.

Names and arguments are those of kilroy (``ParseCodexAppServerToolLifecycle``), with the items that
are newer. Output comes twice: in deltas, of which the first may be missing, and as a whole at the
end. The whole counts; deltas only where there is none.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from lifecycle_proxy.core.agents.pieces import CallLog, Piece, Said, Thought, begin, end
from lifecycle_proxy.core.agents.quirks import at
from lifecycle_proxy.core.events import Outcome

_Fields = Mapping[str, Any]
_FAILED: Final = frozenset(
    ("failed", "declined", "denied", "error", "canceled", "cancelled", "interrupted")
)
_DELTAS: Final = {
    "item/commandExecution/outputDelta": "delta",
    "item/fileChange/outputDelta": "delta",
    "item/mcpToolCall/progress": "message",
}
_THOUGHTS: Final = ("item/reasoning/textDelta", "item/reasoning/summaryTextDelta")


def _picked(*keys: str) -> Callable[[_Fields], dict[str, Any]]:
    return lambda item: {key: item[key] for key in keys if item.get(key) is not None}


def _collab(item: _Fields) -> dict[str, Any]:
    names = {"tool": "tool", "senderThreadId": "sender_thread_id"}
    names["receiverThreadIds"] = "receiver_thread_ids"
    return {own: item[key] for key, own in names.items() if item.get(key) is not None}


def _changes(item: _Fields) -> dict[str, Any]:
    changes = item.get("changes")
    own = {"change_count": len(changes)} if isinstance(changes, list) else {}
    path = at(changes[0], ("path",)) if isinstance(changes, list) and changes else None
    return own | ({"path": path} if isinstance(path, str) else {})


# By type of item: the name of the tool, or the key that has it and a name else; its arguments.
_TOOLS: Final[dict[str, tuple[str, str, Callable[[_Fields], dict[str, Any]]]]] = {
    "commandExecution": ("", "exec_command", _picked("command", "cwd")),
    "fileChange": ("", "apply_patch", _changes),
    "mcpToolCall": ("tool", "mcp_tool_call", _picked("server", "tool", "arguments")),
    "dynamicToolCall": ("tool", "dynamic_tool_call", _picked("namespace", "tool", "arguments")),
    "collabToolCall": ("tool", "collab_tool_call", _collab),
    "collabAgentToolCall": ("tool", "collab_tool_call", _collab),
    "webSearch": ("", "web_search", _picked("query")),
    "imageView": ("", "view_image", _picked("path")),
    "imageGeneration": ("", "image_generation", _picked("prompt")),
    "sleep": ("", "sleep", _picked("durationMs")),
}


class CodexReader:
    """The notifications of one turn.

    Attributes:
        error: that the turn fails with, whatever else is said of its end; "" for none.
        usage: of the thread, as it was last reported.
    """

    def __init__(self) -> None:
        self.error = ""
        self.usage: Any = None
        self._calls = CallLog()
        self._streamed: set[str] = set()  # messages whose text has come in deltas

    def read(self, method: str, params: Any) -> Iterator[Piece]:
        """The pieces of a notification.

        Args:
            method: of it.
            params: its parameters.
        """
        if method in ("item/started", "item/completed"):
            yield from self._item(at(params, ("item",)), is_over=method == "item/completed")
        elif method == "item/agentMessage/delta":
            self._streamed.add(str(at(params, ("itemId",))))
            yield from _text(at(params, ("delta",)), Said)
        elif method in _THOUGHTS:
            yield from _text(at(params, ("delta",)), Thought)
        elif method in _DELTAS:
            call, text = self._maybe_call(params), at(params, (_DELTAS[method],))
            if call is not None and isinstance(text, str):
                call.add_output(text)
        elif method == "thread/tokenUsage/updated":
            self.usage = at(params, ("tokenUsage", "last"))
        elif method == "error" and at(params, ("willRetry",)) is not True:
            self.error = _message(at(params, ("error",))) or "an error without a message"

    def asked(self, params: Any) -> tuple[str, dict[str, Any]]:
        """The name and the arguments of the call that a request for an approval is for."""
        call = self._maybe_call(params)
        item = call.fields if call is not None and call.fields else {"type": "commandExecution"}
        more = {key: value for key, value in dict(params).items() if key in ("command", "cwd")}
        return _name(item), _arguments({**item, **more})

    def denied(self, params: Any) -> None:
        """A call was not allowed."""
        if (call := self._maybe_call(params)) is not None:
            call.was_denied = True

    def finish(self, outcome: Outcome) -> Iterator[Piece]:
        """The turn is over: the end of every call that is open. What comes later is not read.

        Args:
            outcome: of those.
        """
        for call in self._calls.open():
            yield from end(call, outcome, None)

    def _item(self, item: Any, *, is_over: bool) -> Iterator[Piece]:
        kind = at(item, ("type",))
        if kind == "agentMessage" and is_over and item.get("id") not in self._streamed:
            yield from _text(item.get("text"), Said)
        if not (isinstance(kind, str) and kind in _TOOLS):
            return
        call = self._maybe_call(item)
        if call is None:
            return
        call.fields = dict(item)
        yield from begin(call, _name(item), _arguments(item))
        if is_over:
            outcome = Outcome.FAILED if _has_failed(item) else Outcome.OK
            yield from end(call, outcome, _output(item) or "".join(call.output) or None)

    def _maybe_call(self, fields: Any) -> Any:
        found = (at(fields, (key,)) for key in ("id", "itemId", "item_id"))
        return self._calls.maybe_call(next((one for one in found if isinstance(one, str)), None))


def _text(text: Any, kind: type[Said] | type[Thought]) -> Iterator[Piece]:
    if isinstance(text, str) and text:
        yield kind(text)


def _name(item: _Fields) -> str:
    key, usual, _ = _TOOLS[item["type"]]
    own = item.get(key) if key else None
    return own if isinstance(own, str) and own else usual


def _arguments(item: _Fields) -> dict[str, Any]:
    return _TOOLS[item["type"]][2](item)


def _has_failed(item: _Fields) -> bool:
    status, error = item.get("status"), item.get("error")
    is_empty = error in (None, {}) or (isinstance(error, str) and not error.strip())
    return not is_empty or (isinstance(status, str) and status.lower() in _FAILED)


def _output(item: _Fields) -> str:
    """All of a call's output, in the order of kilroy's precedence."""
    for key in ("aggregatedOutput", "aggregated_output"):
        if isinstance(item.get(key), str) and item[key].strip():
            return str(item[key])
    streams = (item.get(key) for key in ("stdout", "stderr"))
    parts = dict.fromkeys(
        text.strip() for text in streams if isinstance(text, str) and text.strip()
    )
    if not parts:
        for key in ("output", "result", "response", "value", "error"):
            if item.get(key) not in (None, "", {}):
                parts[_whole(item[key])] = None
                break
    return "\n\n".join(parts) or _message(item)


def _whole(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    blocks = at(value, ("content",))
    texts = [at(one, ("text",)) for one in blocks] if isinstance(blocks, list) else []
    found = [text for text in texts if isinstance(text, str)]
    return "\n".join(found) if found else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _message(holder: Any) -> str:
    text = at(holder, ("message",))
    return text if isinstance(text, str) else ""
