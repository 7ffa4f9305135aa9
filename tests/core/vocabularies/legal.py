"""Streams as a log may hold them, and readers as they may read it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from lifecycle_proxy.core.stream_events import EventType, StreamEvent
from lifecycle_proxy.core.vocabularies import VOCABULARIES

AT = 1700000000.0
_TEXT = st.sampled_from(["", "a", "Hé 💻", '"\\\n\n', "data: x\n\n"])
_IDS = st.sampled_from(["a", "b", "c"])
_CHOICES = st.sampled_from([0, 0, 1, 2])
_STATUS = st.sampled_from(["completed", "failed", "cancelled", "incomplete"])
Data = dict[str, Any]


def call_data(call_id: str, choice: int) -> Data:
    data: Data = {"tool": "ls", "emoji": "💻", "label": "ls", "toolCallId": call_id}
    return {**data, "choice": choice} if choice else data


@st.composite
def streams(draw: st.DrawFn) -> list[StreamEvent]:
    """One stream: a call is running once at a time; some end that began in an earlier stream."""
    rows: list[tuple[EventType, Data]] = [
        ("stream.started", {"model": "m", "api": "chat", "requestId": "r"})
    ]
    running: dict[tuple[str, int], Data] = {}
    for _ in range(draw(st.integers(0, 14))):
        kind = draw(st.sampled_from(["text", "tool", "tool", "tool", "arguments", "more"]))
        if kind == "text":
            what = draw(st.sampled_from(["text", "reasoning"]))
            rows.append(("text", {"text": draw(_TEXT), "kind": what, "choice": draw(_CHOICES)}))
        elif kind == "tool":
            key = (draw(_IDS), draw(_CHOICES))
            if key in running or draw(st.integers(0, 5)) == 0:
                begun = running.pop(key, call_data(*key))
                rows.append(("tool.completed", {**begun, **draw(_ends())}))
            else:
                running[key] = {**call_data(*key), **draw(_beginnings()), "status": "running"}
                rows.append(("tool.running", running[key]))
        elif kind == "arguments":
            own = call_data(draw(_IDS), draw(_CHOICES))
            place: Data = {name: own[name] for name in ("toolCallId", "choice") if name in own}
            rows.append(("tool.arguments", {**place, "delta": draw(_TEXT)}))
        else:
            failover = {"from_provider": "a", "to_provider": "b", "reason": "503"}
            rows.append(draw(st.sampled_from([("usage", {"totalTokens": 3}), *_more(failover)])))
    if draw(st.booleans()):
        done = {"status": draw(_STATUS), "durationMs": 5, "calls": 1}
        rows.append(("stream.done", draw(st.sampled_from([done, {**done, "reason": "why"}]))))
    return [StreamEvent(seq, AT + seq, *row) for seq, row in enumerate(rows, 1)]


def _more(data: Data) -> Iterator[tuple[EventType, Data]]:
    yield "llm_failover", data
    yield "approval.request", {"id": "0", "tool": "bash", "label": "ls", "options": ["once"]}


def _beginnings() -> st.SearchStrategy[Data]:
    return st.fixed_dictionaries(
        {}, optional={"arguments": st.sampled_from(['{"x": 1}', "{oh"]), "hosted": st.just(True)}
    )


def _ends() -> st.SearchStrategy[Data]:
    good = st.fixed_dictionaries({"outcome": st.just("ok")}, optional={"result": _TEXT})
    bad = st.fixed_dictionaries(
        {"outcome": st.just("failed"), "isError": st.just(True)},
        optional={"result": _TEXT, "reason": st.just("length")},
    )
    unknown = st.fixed_dictionaries(
        {"outcome": st.just("unknown")}, optional={"result": _TEXT, "hosted": st.just(True)}
    )
    return st.one_of(good, bad, unknown)


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


def plans() -> st.SearchStrategy[Plan]:
    numbers = st.frozensets(st.integers(1, 16), max_size=5)
    return st.builds(Plan, st.sampled_from([0, 0, 1, 3, 6, 99]), numbers, numbers, st.booleans())


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
