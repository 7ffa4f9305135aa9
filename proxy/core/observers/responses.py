"""OpenAI Responses streams: every output item that is a tool call, whoever runs it.

The events are those of openai-python 3.52 (``openai.types.responses``). A call is what
``response.output_item.added`` and ``.done`` say of its item; the finer events only tell its
arguments, or how it goes on. A call that the client can answer (``function_call`` and the like) is
over when it is written. What runs behind the upstream is over when its result is known.

A new call does not end those written before it: agents announce all of a round's calls, then run
them, and tell their outputs as items (Hermes Agent). Words, thoughts and other items do.
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
from proxy.core.observers import items
from proxy.core.observers.typed import (
    FAILED,
    Json,
    Retold,
    Seen,
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


@dataclass(slots=True, eq=False)
class _Call:
    """One call. ``place`` is its output index."""

    key: int
    kind: str
    place: int | None
    hosted: bool
    call_id: str | None = None
    is_told: bool = False  # its name, too
    is_written: bool = False
    is_answered: bool = False
    arguments: Retold = field(default_factory=Retold)

    @property
    def is_over(self) -> bool:
        return self.is_written or self.is_answered


class ResponsesObserver:
    """Observes one Responses stream."""

    def __init__(self, counts: Counts) -> None:
        self._sequence_number = 0  # the latest one
        self._counts = counts
        self._response: Json = {}
        self._keys = 0
        self._by_id: dict[str, _Call] = {}  # by call id and by item id
        self._by_place: dict[int, _Call] = {}

    def skim(self, raw: bytes) -> bool:
        """Whether the event is text, a piece of arguments or mere progress. It is taken in then."""
        payload = maybe_payload(raw)
        kind = payload.get("type") if payload is not None else None
        if payload is None or type(kind) is not str or kind in self._REACTIONS:
            return False
        self._number(payload)
        if kind in _PIECES:
            self._piece(kind, payload)
        return True

    def observe(self, event: sse.Event) -> Seen:
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

    def _react(self, kind: str, payload: Json) -> Seen:
        self._number(payload)
        if reaction := self._REACTIONS.get(kind):
            return reaction(self, kind, payload)
        if kind in _PIECES:
            return self._piece(kind, payload)
        if "_call" in kind or kind.endswith(".done") or kind in _PINGS:
            return NOTHING
        return JUST_TEXT if kind.endswith(".delta") else JUST_SUBSTANCE

    def _number(self, payload: Json) -> None:
        number = payload.get("sequence_number")
        if type(number) is int:
            self._sequence_number = number

    def _state(self, kind: str, payload: Json) -> Seen:
        """The response itself: that it lives, or how it ended."""
        response = payload.get("response")
        response = response if isinstance(response, dict) else {}
        if response:
            self._response = {key: response.get(key) for key in ("id", "model", "created_at")}
        state = kind.rpartition(".")[2]
        if state in ("completed", "done"):
            # Servers that know one way to end only tell in the status how it really was.
            status = response.get("status")
            state = status if isinstance(status, str) and status in _ENDS else "completed"
        return _ENDS[state](response) if state in _ENDS else NOTHING

    def _item(self, kind: str, payload: Json) -> Seen:
        item = payload.get("item")
        done = kind.endswith(".done")
        item_kind = item.get("type") if isinstance(item, dict) else None
        if isinstance(item, dict) and isinstance(item_kind, str):
            if item_kind.endswith("_call") or item_kind == "program":
                return self._call(item, _place(payload), done=done)
            if item_kind.endswith("_output"):
                return self._output(item, done=done)
        return NOTHING if done else JUST_SUBSTANCE

    def _call(self, item: Json, place: int | None, *, done: bool) -> Seen:
        call = self._known(item, place, done=done)
        if call is not None and call.is_over:
            return NOTHING  # told again
        if call is None:
            self._keys += 1
            call = _Call(self._keys, item["type"], place, items.is_hosted(item))
        self._register(call, item)
        call.arguments.whole(items.arguments(item))
        seen: list[Observation] = []
        if not call.is_told:
            name = items.name(item)
            call.is_told = name is not None
            told_id = call.call_id or maybe_text(item.get("id"))
            seen.append(CallDelta(call.key, 0, told_id, name, call.arguments, True, call.hosted))
        if done:
            call.is_written = True
            seen += _ending(call, item)
        return seen

    def _known(self, item: Json, place: int | None, *, done: bool) -> _Call | None:
        """The call that an item belongs to.

        GitHub Copilot gives an item another id in each event (vercel/ai#18548, litellm#30072); its
        call id and its place stay. Where call ids are told, they tell calls apart. Ids may come
        again, in another place, once their call is over.
        """
        call_id, item_id = maybe_text(item.get("call_id")), maybe_text(item.get("id"))
        call = self._by_id.get(call_id or "") or self._by_id.get(item_id or "")
        if call is None and done and place is not None:
            there = self._by_place.get(place)
            call = None if there is None or there.is_over else there
        if call is None or call.kind != item["type"]:
            return None
        if call_id and call.call_id and call_id != call.call_id:
            return None
        return None if call.is_over and call.place != place else call

    def _register(self, call: _Call, item: Json) -> None:
        call.call_id = call.call_id or maybe_text(item.get("call_id"))
        for name in (call.call_id, maybe_text(item.get("id"))):
            if name:
                self._by_id[name] = call
        if call.place is not None:
            self._by_place[call.place] = call

    def _piece(self, kind: str, payload: Json) -> Seen:
        call = self._by_id.get(maybe_text(payload.get("item_id")) or "")
        if call is None and (place := _place(payload)) is not None:
            call = self._by_place.get(place)
        if call is None or call.is_over:
            return NOTHING
        if kind.endswith(".done"):
            call.arguments.whole(items.arguments(payload))
        elif isinstance(delta := payload.get("delta"), str):
            call.arguments.piece(delta)
        return NOTHING

    def _output(self, item: Json, *, done: bool) -> Seen:
        """The result of a call as an item of its own."""
        call = self._asked(item)
        if call is None:
            return (UnknownResult(),) if done else NOTHING
        output = items.maybe_output(item)
        if not done and (not output or item.get("status") == "in_progress"):
            return NOTHING  # it grows
        if call.is_answered:
            return NOTHING if done else (UnknownResult(),)
        call.is_answered = True
        return (CallResult(call.key, items.outcome(item), output),)

    def _asked(self, item: Json) -> _Call | None:
        """Whose output it is. Tools that the server searches for have no call id."""
        if call_id := maybe_text(item.get("call_id")):
            return self._by_id.get(call_id)
        tool = items.tool(item["type"].removesuffix("_output"))
        waiting = (c for c in reversed(self._by_id.values()) if not c.is_answered)
        return next((call for call in waiting if items.tool(call.kind) == tool), None)

    _REACTIONS: ClassVar[dict[str, Callable[["ResponsesObserver", str, Json], Seen]]] = {
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


def _incomplete(response: Json) -> Seen:
    details = response.get("incomplete_details")
    reason = maybe_text(details.get("reason")) if isinstance(details, dict) else None
    outcome = Outcome.CANCELLED if reason == "content_filter" else Outcome.CUT
    return (StreamEnded(reason or "incomplete", outcome),)


_CANCELLED: Final[Seen] = (StreamEnded("cancelled", Outcome.CANCELLED),)
_ENDS: Final[dict[str, Callable[[Json], Seen]]] = {
    "completed": lambda _: DONE,
    "failed": lambda _: FAILED,
    "incomplete": _incomplete,
    "cancelled": lambda _: _CANCELLED,
    "canceled": lambda _: _CANCELLED,
}


def _place(payload: Json) -> int | None:
    place = payload.get("output_index")
    return place if type(place) is int else None


def _ending(call: _Call, item: Json) -> Seen:
    """What the last word on an item says of its call."""
    outcome, output = items.outcome(item), items.maybe_output(item)
    if outcome is Outcome.OK and output is None:
        if not call.hosted:
            return (CallWritten(call.key),)
        if call.kind in items.ANSWERED:
            return NOTHING  # its output item follows
    elif item.get("status") == "incomplete" and not call.hosted:
        return NOTHING  # how the response ends tells why
    call.is_answered = True
    return (CallResult(call.key, outcome, output),)
