"""Anthropic Messages streams: content blocks that are tool calls, and blocks that are results.

The events are those of anthropic-sdk-python 2.11 (``types.RawMessageStreamEvent`` and its beta
sister). ``tool_use`` is run by the client and over when its block is; ``server_tool_use`` and
``mcp_tool_use`` run behind the upstream until a ``*_tool_result`` block names them. How a message
ends is said once, by the ``stop_reason`` of ``message_delta``, behind the last block: a block that
broke off is closed like any other, so incomplete arguments wait for that word.

Bridges send several messages in one stream, with an end each or with none. Some send a message
whole, as one event.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Final

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.events import (
    ACTIVITY,
    ACTIVITY_ONLY,
    ANSWERED,
    NOTHING,
    TEXT_ONLY,
    CallDelta,
    CallResult,
    CallWritten,
    Envelope,
    Observation,
    Outcome,
    StreamEnded,
    UnknownResult,
)
from lifecycle_proxy.core.finish import maybe_failure
from lifecycle_proxy.core.observers.json import dumps
from lifecycle_proxy.core.observers.snapshots import EARLIER, SnapshotItem, match
from lifecycle_proxy.core.observers.typed import (
    FAILED,
    Json,
    Observations,
    ReplaceableArguments,
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
# The model has ended its answer: no result of a hosted tool will come any more. Behind others
# (``pause_turn``) the next request may go on with it.
_FINAL: Final = ("end_turn", "stop_sequence")


@dataclass(slots=True, eq=False)
class _MessagesCall:
    """One call. ``place`` is the index of its block."""

    key: int
    kind: str
    name: str | None
    place: int | None
    ids: tuple[str, ...]
    hosted: bool
    arguments: ReplaceableArguments = field(default_factory=ReplaceableArguments)
    is_stopped: bool = False  # its block is
    is_over: bool = False


class MessagesObserver:
    """Observes one Messages stream."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._message: Json = {}
        self._keys = 0
        self._blocks: dict[int | None, _MessagesCall] = {}  # by index, while they are written
        self._by_id: dict[str, _MessagesCall] = {}
        # By key: the client's until they are written, hosted ones until they are answered.
        self._open: dict[int, _MessagesCall] = {}
        self._hosted: dict[int, _MessagesCall] = {}
        self._begun: dict[int, _MessagesCall] = {}  # those with a block in this message
        self._told: list[_MessagesCall] = []

    def skim(self, raw: bytes) -> bool:
        """Whether the event is a piece of a block. If so it has been taken in."""
        payload = maybe_payload(raw)
        if payload is None or payload.get("type") != "content_block_delta":
            return False
        self._piece(payload)
        return True

    def observe(self, event: sse.Event) -> Observations:
        """What one event of the stream says."""
        return read(event, self._counts, self._react)

    def update(self, envelope: Envelope) -> None:
        """Copy id and model of the message."""
        envelope.id = maybe_text(self._message.get("id")) or envelope.id
        envelope.model = maybe_text(self._message.get("model")) or envelope.model

    def _react(self, kind: str, payload: Json) -> Observations:
        reaction = self._REACTIONS.get(kind)
        return ACTIVITY_ONLY if reaction is None else reaction(self, payload)

    def _begin(self, payload: Json) -> Observations:
        """A message begins. What the one before left unfinished broke off: a retry upstream."""
        message = payload.get("message")
        if isinstance(message, dict):
            self._message = {key: message.get(key) for key in ("id", "model")}
            self._counts.add_usage(message.get("usage"))
        self._blocks.clear()
        for call in self._told:
            call.place = EARLIER
        self._told.clear()
        open_calls = [c for c in self._begun.values() if c.key in self._open]
        broken = [call for call in open_calls if not call.arguments.complete]
        self._begun.clear()
        for call in broken:
            self._close(call)
        seen = [CallResult(call.key, Outcome.CUT, reason="restarted") for call in broken]
        return [*seen, ACTIVITY] if seen else ACTIVITY_ONLY

    def _end(self, payload: Json) -> Observations:
        """A message is over. Another may follow, and begin with the same ids and indexes."""
        self._close_all()
        self._blocks.clear()
        return ANSWERED

    def _whole(self, payload: Json) -> Observations:
        """A message as one event: what was streamed of it adds nothing but its end."""
        content = payload.get("content")
        blocks = [
            (place, block)
            for place, block in enumerate(content if isinstance(content, list) else ())
            if isinstance(block, dict) and isinstance(block.get("type"), str)
        ]
        calls = [(place, block) for place, block in blocks if block["type"] in _HOSTED]
        known = match(self._told, [_item(place, block) for place, block in calls])
        seen: list[Observation] = []
        for (place, block), call in zip(calls, known, strict=True):
            if call is None and not self._is_earlier(block):
                seen += self._call(block, place, hosted=_HOSTED[block["type"]])
            elif call is not None and not call.is_over:
                call.arguments.whole(_input(block))
        for _, block in blocks:
            if block["type"].endswith("tool_result"):
                seen += self._result(block)
        reason = maybe_text(payload.get("stop_reason")) or "tool_use"
        return [*seen, *self._finish({"delta": {"stop_reason": reason}})]

    def _is_earlier(self, block: Json) -> bool:
        """Whether a block belongs to an earlier message of the stream, by its id."""
        call = self._by_id.get(maybe_text(block.get("id")) or "")
        return call is not None and call.place == EARLIER

    def _start(self, payload: Json) -> Observations:
        block, index = payload.get("content_block"), _index(payload)
        self._blocks.pop(index, None)
        kind = block.get("type") if isinstance(block, dict) else None
        if not (isinstance(block, dict) and isinstance(kind, str)):
            return ACTIVITY_ONLY
        if kind in _HOSTED:
            return self._call(block, index, hosted=_HOSTED[kind])
        return self._result(block) if kind.endswith("tool_result") else ACTIVITY_ONLY

    def _call(self, block: Json, index: int | None, *, hosted: bool) -> Observations:
        call_id, name = maybe_text(block.get("id")), maybe_text(block.get("name"))
        call = self._by_id.get(call_id or "")
        shares_id = call is not None and _is_other(call, index, name)
        if call is None or call.is_over or shares_id:  # ids may come again
            if not self._counts.may_follow():
                return NOTHING
            self._keys += 1
            call = _MessagesCall(self._keys, block["type"], name, index, _ids(call_id), hosted)
            (self._hosted if hosted else self._open)[call.key] = call
            self._told.append(call)
        self._blocks[index] = call
        self._begun[call.key] = call
        call.arguments.whole(_input(block))
        if shares_id:
            call_id = None
        elif call_id is not None:
            self._by_id[call_id] = call
        return (CallDelta(call.key, 0, call_id, name, call.arguments, True, call.hosted),)

    def _result(self, block: Json) -> Observations:
        call = self._by_id.get(maybe_text(block.get("tool_use_id")) or "")
        if call is None:
            return (UnknownResult(),)
        self._close(call)
        content = block.get("content")
        parts = content if isinstance(content, list) else [content]
        failed = block.get("is_error") is True or any(map(_is_error, parts))
        outcome = Outcome.FAILED if failed else Outcome.OK
        output = text_of(content)
        return (CallResult(call.key, outcome, output, before=not call.hosted),)

    def _piece(self, payload: Json) -> Observations:
        delta = payload.get("delta")
        if not isinstance(delta, dict):
            return ACTIVITY_ONLY
        piece = delta.get("partial_json")
        if isinstance(piece, str):
            if call := self._blocks.get(_index(payload)):
                call.arguments.piece(piece)
            return NOTHING
        return TEXT_ONLY if delta.get("type") in ("text_delta", "thinking_delta") else ACTIVITY_ONLY

    def _stop(self, payload: Json) -> Observations:
        call = self._blocks.pop(_index(payload), None)
        if call is None:
            return NOTHING
        call.is_stopped = True
        if call.hosted or (call.arguments and not call.arguments.complete):
            return NOTHING
        self._close(call)
        return (CallWritten(call.key),)

    def _finish(self, payload: Json) -> Observations:
        self._counts.add_usage(payload.get("usage"))
        delta = payload.get("delta")
        reason = delta.get("stop_reason") if isinstance(delta, dict) else None
        if not (isinstance(reason, str) and reason):
            return ACTIVITY_ONLY
        if reason in _CUT:
            return self._cut(StreamEnded(reason, _CUT[reason]))
        if failure := maybe_failure(reason):
            return self._cut(StreamEnded(failure[1], failure[0], beats_finish=True))
        seen: list[Observation] = [ACTIVITY]
        ended = [*self._open.values(), *(self._hosted.values() if reason in _FINAL else ())]
        for call in sorted(ended, key=lambda call: call.key):
            self._close(call)
            is_lost = CallResult(call.key, Outcome.FAILED)
            seen.append(is_lost if call.hosted else CallWritten(call.key, reason))
        return seen

    def _cut(self, ended: StreamEnded) -> Observations:
        self._close_all()
        return (ended,)

    def _close(self, call: _MessagesCall) -> None:
        call.is_over = True
        (self._hosted if call.hosted else self._open).pop(call.key, None)

    def _close_all(self) -> None:
        for call in (*self._open.values(), *self._hosted.values()):
            self._close(call)

    _REACTIONS: ClassVar[dict[str, Callable[["MessagesObserver", Json], Observations]]] = {
        "message_start": _begin,
        "content_block_start": _start,
        "content_block_delta": _piece,
        "content_block_stop": _stop,
        "message_delta": _finish,
        "message_stop": _end,
        "message": _whole,
        "ping": lambda *_: NOTHING,
        "error": lambda *_: FAILED,
    }


def _index(payload: Json) -> int | None:
    index = payload.get("index")
    return index if type(index) is int else None


def _is_error(part: object) -> bool:
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and kind.endswith("_error")


def _is_other(call: _MessagesCall, index: int | None, name: str | None) -> bool:
    """Whether a block is another call than the open one that has its id (Kimi for coding)."""
    if call.is_over or call.place == index:
        return False
    return call.is_stopped or call.arguments.complete or name not in (None, call.name)


def _input(block: Json) -> str:
    given = block.get("input")
    return given if isinstance(given, str) else dumps(given) if given else ""


def _item(place: int, block: Json) -> SnapshotItem:
    ids = _ids(maybe_text(block.get("id")))
    return SnapshotItem(block["type"], maybe_text(block.get("name")), place, ids, _input(block))


def _ids(call_id: str | None) -> tuple[str, ...]:
    return () if call_id is None else (call_id,)
