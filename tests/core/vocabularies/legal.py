"""Streams as a log may hold them, and readers as they may read it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hypothesis import strategies as st
from lifecycle_proxy.core.stream_events import EventType, StreamEvent
from lifecycle_proxy.core.vocabularies import VOCABULARIES

from tests.choices import Choices, Make, made, picking

AT = 1700000000.0
_TEXT = picking("", "a", "Hé 💻", '"\\\n\n', "data: x\n\n")
_IDS = picking("a", "b", "c")
_CHOICES = picking(0, 0, 1, 2)
_STATUS = picking("completed", "failed", "cancelled", "incomplete")
_CURSORS = (0, 0, 1, 3, 6, 99)
Data = dict[str, Any]


def call_data(call_id: str, choice: int) -> Data:
    data: Data = {"tool": "ls", "emoji": "💻", "label": "ls", "toolCallId": call_id}
    return {**data, "choice": choice} if choice else data


Rows = list[tuple[EventType, Data]]


def _stream(choices: Choices) -> list[StreamEvent]:
    """One stream: a call is running once at a time; some end that began in an earlier stream."""
    rows: Rows = [("stream.started", {"model": "m", "api": "chat", "requestId": "r"})]
    if choices.flag():
        done = {"status": _STATUS(choices), "durationMs": 5, "calls": 1}
        rows.append(("stream.done", choices.pick([done, {**done, "reason": "why"}])))
    running: dict[tuple[str, int], Data] = {}
    rows[1:1] = choices.several(lambda own: _row(own, running), 14, 8)
    return [StreamEvent(seq, AT + seq, *row) for seq, row in enumerate(rows, 1)]


def _row(choices: Choices, running: dict[tuple[str, int], Data]) -> tuple[EventType, Data]:
    kind = choices.pick(["text", "tool", "tool", "tool", "arguments", "more"])
    if kind == "text":
        what = choices.pick(["text", "reasoning"])
        return "text", {"text": _TEXT(choices), "kind": what, "choice": _CHOICES(choices)}
    if kind == "tool":
        key = (_IDS(choices), _CHOICES(choices))
        if choices.below(6) == 5 or key in running:
            begun = running.pop(key, call_data(*key))
            return "tool.completed", {**begun, **_end(choices)}
        running[key] = {**call_data(*key), **choices.some(_BEGINNING), "status": "running"}
        return "tool.running", running[key]
    if kind == "arguments":
        own = call_data(_IDS(choices), _CHOICES(choices))
        place: Data = {name: own[name] for name in ("toolCallId", "choice") if name in own}
        return "tool.arguments", {**place, "delta": _TEXT(choices)}
    return choices.pick(_MORE)


_MORE: Rows = [
    ("usage", {"totalTokens": 3}),
    ("llm_failover", {"from_provider": "a", "to_provider": "b", "reason": "503"}),
    ("approval.request", {"id": "0", "tool": "bash", "label": "ls", "options": ["once"]}),
]
_BEGINNING: dict[str, Make[Any]] = {
    "arguments": picking('{"x": 1}', "{oh"),
    "hosted": picking(True),
}


def _end(choices: Choices) -> Data:
    result = choices.some({"result": _TEXT})
    outcome = choices.pick(["ok", "failed", "unknown"])
    if outcome == "failed":
        more = {"isError": True, **choices.some({"reason": picking("length")})}
    else:
        more = choices.some({"hosted": picking(True)}) if outcome == "unknown" else {}
    return {"outcome": outcome, **result, **more}


@dataclass(frozen=True)
class Plan:
    """How one reader reads.

    Attributes:
        cursor: the number of the event that it knows already; beyond the end is of no stream.
        lost: events that are not kept any more by the time that it would get them.
        silences: numbers of events in front of which nothing came for a while.
        is_closed: its connection ends before the stream.
    """

    cursor: int = 0
    lost: frozenset[int] = field(default_factory=frozenset)
    silences: frozenset[int] = field(default_factory=frozenset)
    is_closed: bool = False


def _plan(choices: Choices) -> Plan:
    cursor, lost, silences = choices.pick(_CURSORS), _numbers(choices), _numbers(choices)
    return Plan(cursor, lost, silences, choices.flag())


def _numbers(choices: Choices) -> frozenset[int]:
    return frozenset(choices.several(lambda own: 1 + own.below(16), 5, 1))


class Reading(NamedTuple):
    """One reader of one stream."""

    events: list[StreamEvent]
    plan: Plan


def readings() -> st.SearchStrategy[Reading]:
    return made(
        lambda choices: Reading(plan=_plan(choices), events=_stream(choices)), 14 + 4 + 14 * 8
    )


def read(name: str, events: Sequence[StreamEvent], plan: Plan) -> bytes:
    """What a reader gets, as ``handlers.stream_reader`` calls its vocabulary."""
    vocabulary, at = VOCABULARIES[name]("st_1"), plan.cursor
    pieces = [vocabulary.begin()]
    if at > len(events):
        pieces.append(vocabulary.reset(at))
        at = 0
    elif vocabulary.needs_history:
        for event in events[:at]:
            vocabulary.render(event)
    while at < len(events):
        event = events[at]
        if at in plan.silences:
            pieces.append(vocabulary.keep_alive(event.at))
        first = at + 1
        while first in plan.lost and first < len(events):
            first += 1
        if first > at + 1:
            pieces.append(vocabulary.gap(at + 1, first, open_calls(events[: first - 1])))
        pieces.append(vocabulary.render(events[first - 1]))
        at = first
    if plan.is_closed and events[-1].type != "stream.done":
        pieces.append(vocabulary.closed("streams_unavailable", "it cannot be read now"))
    if events[-1].type == "stream.done":
        pieces.append(vocabulary.done())
    return b"".join(pieces)


def open_calls(events: Sequence[StreamEvent]) -> list[Data]:
    """Data of the calls that are open behind these events."""
    found: dict[tuple[str, int], Data] = {}
    for event in events:
        key = (event.data.get("toolCallId", ""), event.data.get("choice", 0))
        if event.type == "tool.running":
            found[key] = event.data
        elif event.type == "tool.completed":
            found.pop(key, None)
    return list(found.values())
