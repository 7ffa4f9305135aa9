"""OpenAI Responses streams: every output item that is a tool call, hosted or the client's.

The events are those of openai-python 3.52 (``openai.types.responses``). A call is what
``response.output_item.added`` and ``.done`` say of its item; the finer events only have its
arguments, or how it goes on. A call that the client can answer (``function_call`` and the like) is
over when it is written. What runs behind the upstream is over when its result is known.

Gateways forward several answers in one stream, each with its own end; ids and places may begin
anew. The last event of an answer has all of its items once more; what was left out of the stream
is found there.

A new call does not end those written before it: agents announce all of a round's calls, then run
them, and send their outputs as items (Hermes Agent). Text, reasoning and other items do.
"""

from collections.abc import Callable
from typing import ClassVar, Final

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.events import (
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
from lifecycle_proxy.core.observers import responses_items as items
from lifecycle_proxy.core.observers.responses_calls import ResponsesCall, ResponsesCalls
from lifecycle_proxy.core.observers.snapshots import SnapshotItem, match
from lifecycle_proxy.core.observers.typed import (
    FAILED,
    Json,
    Observations,
    maybe_payload,
    maybe_text,
    read,
)

_PIECES: Final = frozenset(
    f"response.{part}.{event}"
    for part in (
        *("function_call_arguments", "mcp_call_arguments", "mcp_call.arguments"),
        *("custom_tool_call_input", "code_interpreter_call_code", "shell_call_command"),
    )
    for event in ("delta", "done")
)
_PINGS: Final = frozenset(("ping", "keepalive"))


class ResponsesObserver:
    """Observes one Responses stream."""

    def __init__(self, counts: Counts) -> None:
        self._sequence_number = 0  # the latest one
        self._counts = counts
        self._response: Json = {}
        self._calls = ResponsesCalls(counts)
        self._has_ended = False  # the latest answer

    def skim(self, raw: bytes) -> bool:
        """Whether the event is text, arguments or progress. If so it has been taken in."""
        payload = maybe_payload(raw)
        kind = payload.get("type") if payload is not None else None
        if payload is None or type(kind) is not str or kind in self._REACTIONS:
            return False
        self._number(payload)
        if kind in _PIECES:
            self._piece(kind, payload)
        return True

    def observe(self, event: sse.Event) -> Observations:
        """What one event of the stream says."""
        return read(event, self._counts, self._react)

    def update(self, envelope: Envelope) -> None:
        """Copy id, time and model of the response."""
        envelope.id = maybe_text(self._response.get("id")) or envelope.id
        envelope.model = maybe_text(self._response.get("model")) or envelope.model
        created = self._response.get("created_at")
        if type(created) is int or (isinstance(created, float) and created.is_integer()):
            envelope.created = int(created)  # a float in OpenAI's own types
        envelope.sequence_number = self._sequence_number

    def _react(self, kind: str, payload: Json) -> Observations:
        self._number(payload)
        if reaction := self._REACTIONS.get(kind):
            return reaction(self, kind, payload)
        if kind in _PIECES:
            return self._piece(kind, payload)
        if "_call" in kind or kind.endswith(".done") or kind in _PINGS:
            return NOTHING
        return TEXT_ONLY if kind.endswith(".delta") else ACTIVITY_ONLY

    def _number(self, payload: Json) -> None:
        number = payload.get("sequence_number")
        if type(number) is int:
            self._sequence_number = number

    def _state(self, kind: str, payload: Json) -> Observations:
        """The response itself: that it lives, or how it ended."""
        response = payload.get("response")
        response = response if isinstance(response, dict) else {}
        before = maybe_text(self._response.get("id"))
        if response:
            self._response = {key: response.get(key) for key in ("id", "model", "created_at")}
        state = kind.rpartition(".")[2]
        if state in ("completed", "done"):
            # Some servers always end with this event; how it really ended is in the status.
            status = response.get("status")
            state = status if isinstance(status, str) and status in _ENDS else "completed"
        if state == "created" and (self._has_ended or before not in (None, response.get("id"))):
            return self._begin_anew() or ACTIVITY_ONLY
        if state not in _ENDS:
            return NOTHING
        self._counts.add_usage(response.get("usage"))
        seen: Observations = NOTHING
        if not self._has_ended and state in _WITH_OUTPUT:
            seen = self._snapshot(response.get("output"))
        self._has_ended = True
        return [*seen, *_ENDS[state](response)] if seen else _ENDS[state](response)

    def _begin_anew(self) -> Observations:
        """Another answer begins. What the one before left unfinished broke off."""
        broken = self._calls.end_answer()
        if self._has_ended:
            broken.clear()  # they ended with it
        self._has_ended = False
        return [CallResult(call.key, Outcome.CUT, reason="restarted") for call in broken]

    def _snapshot(self, output: object) -> Observations:
        """The items of an answer, as its end has them."""
        found = [
            (place, item)
            for place, item in enumerate(output if isinstance(output, list) else ())
            if isinstance(item, dict) and isinstance(item.get("type"), str) and items.is_call(item)
        ]
        known = match(self._calls.current, [_snapshot_item(place, item) for place, item in found])
        seen: list[Observation] = []
        for (place, item), call in zip(found, known, strict=True):
            if call is not None or not self._calls.is_earlier(item):
                seen += self._call(call, item, place, done=True)
        return seen

    def _item(self, kind: str, payload: Json) -> Observations:
        item = payload.get("item")
        done = kind.endswith(".done")
        item_kind = item.get("type") if isinstance(item, dict) else None
        if isinstance(item, dict) and isinstance(item_kind, str):
            known = self._calls.maybe_known(item, _place(payload), done=done)
            if self._has_ended and not (done and known):
                self._begin_anew()
                known = None
            if items.is_call(item) or known:
                return self._call(known, item, _place(payload), done=done)
            if item_kind.endswith("_output"):
                return self._output(item, done=done)
        return NOTHING if done else ACTIVITY_ONLY

    def _call(
        self, call: ResponsesCall | None, item: Json, place: int | None, *, done: bool
    ) -> Observations:
        if call is not None and call.is_over:
            return NOTHING  # repeated
        call = call or self._calls.open(item, place, done=done)
        return NOTHING if call is None else self._observe_call(call, item, done=done)

    def _observe_call(self, call: ResponsesCall, item: Json, *, done: bool) -> Observations:
        """What an item says of its call, and whether it is the last word on it."""
        self._calls.register(call, item)
        call.arguments.whole(items.arguments(item))
        seen: list[Observation] = []
        if not call.is_announced:
            call.name = items.name(item)
            call.is_announced = call.name is not None
            call_id = None if call.shares_id else call.call_id or call.item_id
            arguments, hosted = call.arguments, call.hosted
            seen.append(CallDelta(call.key, 0, call_id, call.name, arguments, True, hosted))
        if done:
            call.is_written = True
            seen += _ending(call, item)
        return seen

    def _piece(self, kind: str, payload: Json) -> Observations:
        call = self._calls.maybe_growing(maybe_text(payload.get("item_id")), _place(payload))
        if call is None:
            return NOTHING
        if kind.endswith(".done"):
            call.arguments.whole(items.arguments(payload))
        elif isinstance(delta := payload.get("delta"), str):
            call.arguments.piece(delta)
        return NOTHING

    def _output(self, item: Json, *, done: bool) -> Observations:
        """The result of a call as an item of its own."""
        call = self._calls.maybe_answered(item)
        if call is None:
            return (UnknownResult(),) if done else NOTHING
        output = items.maybe_output(item)
        if not done and (not output or item.get("status") == "in_progress"):
            return NOTHING  # it grows
        if call.is_answered:
            return NOTHING if done else (UnknownResult(),)
        call.is_answered = True
        outcome = items.outcome(item)
        return (CallResult(call.key, outcome, output, before=not call.hosted),)

    _REACTIONS: ClassVar[dict[str, Callable[["ResponsesObserver", str, Json], Observations]]] = {
        "response.output_item.added": _item,
        "response.output_item.done": _item,
        "response.created": _state,
        "response.queued": _state,
        "response.in_progress": _state,
        "response.completed": _state,
        "response.done": _state,
        "response.failed": _state,
        "response.incomplete": _state,
        "response.cancelled": _state,
        "response.canceled": _state,
        "response.error": lambda *_: FAILED,
        "error": lambda *_: FAILED,
    }


def _incomplete(response: Json) -> Observations:
    details = response.get("incomplete_details")
    reason = maybe_text(details.get("reason")) if isinstance(details, dict) else None
    outcome = Outcome.CANCELLED if reason == "content_filter" else Outcome.CUT
    return (StreamEnded(reason or "incomplete", outcome),)


_CANCELLED: Final[Observations] = (StreamEnded("cancelled", Outcome.CANCELLED),)
_ENDS: Final[dict[str, Callable[[Json], Observations]]] = {
    "completed": lambda _: ANSWERED,
    "failed": lambda _: FAILED,
    "incomplete": _incomplete,
    "cancelled": lambda _: _CANCELLED,
    "canceled": lambda _: _CANCELLED,
}
# An error beats what the items say.
_WITH_OUTPUT: Final = ("completed", "incomplete")


def _place(payload: Json) -> int | None:
    place = payload.get("output_index")
    return place if type(place) is int else None


def _ending(call: ResponsesCall, item: Json) -> Observations:
    """What the last word on an item says of its call."""
    outcome, output = items.outcome(item), items.maybe_output(item)
    if outcome is Outcome.OK and output is None:
        if not call.hosted:
            return (CallWritten(call.key),)
        if call.kind in items.ANSWERED:
            return NOTHING  # its output item follows
    elif item.get("status") == "incomplete" and not call.hosted:
        return NOTHING  # the end of the response has the reason
    call.is_answered = True
    return (CallResult(call.key, outcome, output, before=not call.hosted),)


def _snapshot_item(place: int, item: Json) -> SnapshotItem:
    """A call in a snapshot."""
    ids = [name for key in ("call_id", "id") if (name := maybe_text(item.get(key)))]
    return SnapshotItem(item["type"], items.name(item), place, ids, items.arguments(item))
