"""Anthropic Messages streams: content blocks that are tool calls, and blocks that are results.

The events are those of anthropic-sdk-python 2.11 (``types.RawMessageStreamEvent`` and its beta
sister). ``tool_use`` is run by the client and over when its block is; ``server_tool_use`` and
``mcp_tool_use`` run behind the upstream until a ``*_tool_result`` block names them. How a message
ends is said once, by the ``stop_reason`` of ``message_delta``, behind the last block: a block that
broke off is closed like any other, so incomplete arguments wait for that word.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Final

from proxy.core import sse
from proxy.core.events import (
    DONE,
    JUST_SUBSTANCE,
    JUST_TEXT,
    NOTHING,
    SUBSTANCE,
    CallDelta,
    CallResult,
    CallWritten,
    Counts,
    Envelope,
    Observation,
    Outcome,
    StreamEnded,
    UnknownResult,
)
from proxy.core.observers.json import dumps
from proxy.core.observers.typed import (
    FAILED,
    Json,
    Retold,
    Seen,
    maybe_payload,
    maybe_text,
    read,
    text_of,
)

_HOSTED: Final = {"tool_use": False, "server_tool_use": True, "mcp_tool_use": True}
# What these words leave unfinished was never written to its end.
_CUT: Final = {
    "max_tokens": Outcome.CUT,
    "model_context_window_exceeded": Outcome.CUT,
    "refusal": Outcome.CANCELLED,
}
# The model has said its last word: nothing will answer a tool of the server any more. Behind others
# (``pause_turn``) the next request may go on with it.
_FINAL: Final = ("end_turn", "stop_sequence")


@dataclass(slots=True, eq=False)
class _Call:
    key: int
    hosted: bool
    arguments: Retold = field(default_factory=Retold)
    is_over: bool = False


class MessagesObserver:
    """Observes one Messages stream."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._message: Json = {}
        self._keys = 0
        self._blocks: dict[int | None, _Call] = {}  # by index, while they are written
        self._by_id: dict[str, _Call] = {}
        self._open: dict[int, _Call] = {}  # by key, until they are written or answered

    def skim(self, raw: bytes) -> bool:
        """Whether the event is a piece of a block. It has been taken in then."""
        payload = maybe_payload(raw)
        if payload is None or payload.get("type") != "content_block_delta":
            return False
        self._piece(payload)
        return True

    def observe(self, event: sse.Event) -> Seen:
        """What one event of the stream says."""
        return read(event, self._counts, self._react)

    def update(self, envelope: Envelope) -> None:
        """Copy id and model of the message."""
        envelope.id = maybe_text(self._message.get("id")) or envelope.id
        envelope.model = maybe_text(self._message.get("model")) or envelope.model

    def _react(self, kind: str, payload: Json) -> Seen:
        reaction = self._REACTIONS.get(kind)
        return JUST_SUBSTANCE if reaction is None else reaction(self, payload)

    def _begin(self, payload: Json) -> Seen:
        message = payload.get("message")
        if isinstance(message, dict):
            self._message = {key: message.get(key) for key in ("id", "model")}
        return JUST_SUBSTANCE

    def _start(self, payload: Json) -> Seen:
        block, index = payload.get("content_block"), _index(payload)
        self._blocks.pop(index, None)
        kind = block.get("type") if isinstance(block, dict) else None
        if not (isinstance(block, dict) and isinstance(kind, str)):
            return JUST_SUBSTANCE
        if kind in _HOSTED:
            return self._call(block, index, hosted=_HOSTED[kind])
        return self._result(block) if kind.endswith("tool_result") else JUST_SUBSTANCE

    def _call(self, block: Json, index: int | None, *, hosted: bool) -> Seen:
        call_id = maybe_text(block.get("id"))
        call = self._by_id.get(call_id or "")
        if call is None or call.is_over:  # ids may come again
            self._keys += 1
            call = self._open[self._keys] = _Call(self._keys, hosted)
        self._blocks[index] = call
        if call_id is not None:
            self._by_id[call_id] = call
        given = block.get("input")
        if given:
            call.arguments.whole(given if isinstance(given, str) else dumps(given))
        name = maybe_text(block.get("name"))
        return (CallDelta(call.key, 0, call_id, name, call.arguments, True, call.hosted),)

    def _result(self, block: Json) -> Seen:
        call = self._by_id.get(maybe_text(block.get("tool_use_id")) or "")
        if call is None:
            return (UnknownResult(),)
        self._close(call)
        content = block.get("content")
        parts = content if isinstance(content, list) else [content]
        failed = block.get("is_error") is True or any(map(_is_error, parts))
        outcome = Outcome.FAILED if failed else Outcome.OK
        return (CallResult(call.key, outcome, text_of(content)),)

    def _piece(self, payload: Json) -> Seen:
        delta = payload.get("delta")
        if not isinstance(delta, dict):
            return JUST_SUBSTANCE
        piece = delta.get("partial_json")
        if isinstance(piece, str):
            if call := self._blocks.get(_index(payload)):
                call.arguments.piece(piece)
            return NOTHING
        return (
            JUST_TEXT if delta.get("type") in ("text_delta", "thinking_delta") else JUST_SUBSTANCE
        )

    def _stop(self, payload: Json) -> Seen:
        call = self._blocks.pop(_index(payload), None)
        if call is None or call.hosted or (call.arguments and not call.arguments.complete):
            return NOTHING
        self._close(call)
        return (CallWritten(call.key),)

    def _finish(self, payload: Json) -> Seen:
        delta = payload.get("delta")
        reason = delta.get("stop_reason") if isinstance(delta, dict) else None
        if not (isinstance(reason, str) and reason):
            return JUST_SUBSTANCE
        if reason in _CUT:
            return (StreamEnded(reason, _CUT[reason]),)
        seen: list[Observation] = [SUBSTANCE]
        for call in tuple(self._open.values()):
            if not call.hosted:
                self._close(call)
                seen.append(CallWritten(call.key))
            elif reason in _FINAL:
                self._close(call)
                seen.append(CallResult(call.key, Outcome.FAILED))
        return seen

    def _close(self, call: _Call) -> None:
        call.is_over = True
        self._open.pop(call.key, None)

    _REACTIONS: ClassVar[dict[str, Callable[["MessagesObserver", Json], Seen]]] = {
        "message_start": _begin,
        "content_block_start": _start,
        "content_block_delta": _piece,
        "content_block_stop": _stop,
        "message_delta": _finish,
        "message_stop": lambda *_: DONE,
        "ping": lambda *_: NOTHING,
        "error": lambda *_: FAILED,
    }


def _index(payload: Json) -> int | None:
    index = payload.get("index")
    return index if type(index) is int else None


def _is_error(part: object) -> bool:
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and kind.endswith("_error")
