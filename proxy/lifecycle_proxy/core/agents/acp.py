"""ACP (Agent Client Protocol, version 1): the updates of one prompt as pieces.

Strategy: fields of a call are collected as they come, in whichever message. A call begins with the
first message that shows what it does. It ends with its status, or with the turn. What an agent does
in a way of its own is in ``quirks``.

Agents leave out a lot: names, ``in_progress``, starts (Gemini CLI: only the permission request has
it), ends (Codex and Hermes, when they are cancelled). Nothing here raises for what they send.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from lifecycle_proxy.core.agents.pieces import (
    AgentCall,
    CallLog,
    Piece,
    Said,
    Thought,
    begin,
    end,
)
from lifecycle_proxy.core.agents.quirks import Quirks, at, has_failed_exit
from lifecycle_proxy.core.events import Outcome

_ENDED: Final = {
    "completed": Outcome.OK,
    "failed": Outcome.FAILED,
    "cancelled": Outcome.CANCELLED,
}
# The argument that a title stands for, where an agent sends no arguments.
_ARGUMENT: Final = {
    **dict.fromkeys(("read", "edit", "delete", "move"), "path"),
    "execute": "command",
    "search": "query",
    "fetch": "url",
}
_UNTELLING: Final = frozenset(("cwd",))


class AcpReader:
    """The updates of one prompt.

    Args:
        quirks: of the agent.
    """

    def __init__(self, quirks: Quirks) -> None:
        self._quirks = quirks
        self._calls = CallLog()
        self._waiting: dict[str, AgentCall] = {}  # for their arguments

    def read(self, update: Any) -> Iterator[Piece]:
        """The pieces of a ``session/update``."""
        match at(update, ("sessionUpdate",)):
            case "agent_message_chunk":
                yield from self._text(update, Said)
            case "agent_thought_chunk":
                yield from self._text(update, Thought)
            case "tool_call" | "tool_call_update":
                yield from self._call(update)
            case _:
                pass  # plans, commands, titles, usage so far

    def asked(self, tool_call: Any) -> Iterator[Piece]:
        """The pieces of a permission request: the call begins, though nothing runs yet.

        Args:
            tool_call: of the request.
        """
        call = self._maybe_asking(tool_call)
        if call is not None and at(tool_call, ("toolCallId",)) == call.id:
            _merge(call, tool_call)
            yield from self._begin(call)

    def name(self, tool_call: Any) -> str:
        """The name of the tool that a permission request is for."""
        call = self._maybe_asking(tool_call)
        fields = tool_call if isinstance(tool_call, dict) else {}
        return self._name(AgentCall("", dict(fields)) if call is None else call)

    def arguments(self, tool_call: Any) -> Mapping[str, Any]:
        """The arguments of the call that a permission request is for."""
        call = self._maybe_asking(tool_call)
        return {} if call is None else self._arguments(call)

    def denied(self, tool_call: Any) -> None:
        """A call was not allowed: whatever the agent says of its end, it failed."""
        if (call := self._maybe_asking(tool_call)) is not None:
            call.was_denied = True

    def finish(self, outcome: Outcome) -> Iterator[Piece]:
        """The turn is over: the end of every call that is open.

        Args:
            outcome: of those.
        """
        yield from self._begin_waiting()
        for call in self._calls.open():
            yield from end(call, outcome, None)

    def _text(self, update: Any, kind: type[Said] | type[Thought]) -> Iterator[Piece]:
        text = at(update, ("content", "text"))
        if isinstance(text, str) and text:
            yield from self._begin_waiting()
            yield kind(text)

    def _begin_waiting(self) -> Iterator[Piece]:
        for call in tuple(self._waiting.values()):
            yield from self._begin(call)

    def _call(self, update: Any) -> Iterator[Piece]:
        call = self._maybe_call(update)
        if call is None or call.has_ended:
            return
        is_first = not call.fields
        _merge(call, update)
        status = call.fields.get("status")
        if is_first and status in (None, "pending") and _is_bare(update):
            self._waiting[call.id] = call
        else:
            yield from self._begin(call)
        if isinstance(status, str) and status in _ENDED:
            outcome = _ENDED[status]
            if outcome is Outcome.OK and has_failed_exit(call.fields):
                outcome = Outcome.FAILED
            yield from end(call, outcome, _output(call))

    def _maybe_call(self, fields: Any) -> AgentCall | None:
        call_id = at(fields, ("toolCallId",))
        pseudo = self._quirks.pseudo
        if pseudo and isinstance(call_id, str) and call_id.startswith(pseudo):
            return None
        return self._calls.maybe_call(call_id)

    def _maybe_asking(self, tool_call: Any) -> AgentCall | None:
        """The call that a permission request is for."""
        call_id, apart = at(tool_call, ("toolCallId",)), self._quirks.asks_apart
        if not (apart and isinstance(call_id, str) and call_id.startswith(apart)):
            return self._maybe_call(tool_call)
        command = at(tool_call, ("rawInput", "command"))
        open_ones = list(self._calls.open())
        same = [one for one in open_ones if self._arguments(one).get("command") == command]
        return next(reversed(same or open_ones), None)

    def _begin(self, call: AgentCall) -> Iterator[Piece]:
        self._waiting.pop(call.id, None)
        return begin(call, self._name(call), self._arguments(call))

    def _name(self, call: AgentCall) -> str:
        return self._quirks.name(call.id, call.fields, _text_of(call, "first_title"))

    def _arguments(self, call: AgentCall) -> dict[str, Any]:
        given = call.fields.get("rawInput")
        if isinstance(given, dict) and not _UNTELLING.issuperset(given):
            return given
        kind = _text_of(call, "kind")
        key = _ARGUMENT.get(kind, "text")
        locations = call.fields.get("locations")
        path = at(locations[0], ("path",)) if isinstance(locations, list) and locations else None
        if key == "path" and isinstance(path, str):
            return {key: path}
        title = _text_of(call, "title")
        name = self._name(call)
        title = title.removeprefix(f"{name}:").strip()
        return {key: title} if title and title != name else {}


def _merge(call: AgentCall, update: dict[str, Any]) -> None:
    """Take in what a message says of a call. What it leaves out stays as it was."""
    if isinstance(update.get("title"), str):
        call.fields.setdefault("first_title", update["title"])
    for key, value in update.items():
        if value is not None and key not in ("first_title", "sessionUpdate"):
            call.fields[key] = value
    piece = at(update, ("_meta", "terminal_output_delta", "data"))  # Codex
    if isinstance(piece, str):
        call.add_output(piece)
    call.fields.setdefault("toolCallId", call.id)


def _is_bare(update: dict[str, Any]) -> bool:
    """Whether the arguments are still to come: those that are there say nothing."""
    given = update.get("rawInput")
    return isinstance(given, dict) and _UNTELLING.issuperset(given)


def _text_of(call: AgentCall, key: str) -> str:
    value = call.fields.get(key)
    return value if isinstance(value, str) else ""


def _output(call: AgentCall) -> str | None:
    raw = call.fields.get("rawOutput")
    for value in (raw, at(raw, ("output",)), at(raw, ("error",))):
        if isinstance(value, str):
            return value
    if call.output:
        return "".join(call.output)
    blocks = call.fields.get("content")
    blocks = blocks if isinstance(blocks, list) else []
    texts = [text for one in blocks if isinstance(text := at(one, ("content", "text")), str)]
    return "\n".join(texts) if texts else None
