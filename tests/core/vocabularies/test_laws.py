"""What readers of each system rely on, for any stream, from any place, with anything missing."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from lifecycle_proxy.core import sse
from lifecycle_proxy.core.stream_events import StreamEvent
from lifecycle_proxy.core.vocabularies import VOCABULARIES
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.core.vocabularies.legal import Data, Plan, Reading, read, readings
from tests.curve import assert_linear

_RESPONSES: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def payloads(body: bytes) -> list[Any]:
    """The data of all events; ``[DONE]`` is None."""
    events = [event.data for event in sse.Parser(1 << 20).feed(body) if event.data is not None]
    return [None if data == b"[DONE]" else json.loads(data) for data in events]


@pytest.mark.parametrize("name", VOCABULARIES)
@given(reading=readings())
@settings(max_examples=200)
def test_whole_events_of_json(name: str, reading: Reading) -> None:
    body = read(name, *reading)
    assert body == b"" or body.endswith(b"\n\n")
    assert all(isinstance(payload, dict | None) for payload in payloads(body))


@pytest.mark.parametrize("name", VOCABULARIES)
@given(reading=readings())
@settings(max_examples=200)
def test_the_end_is_there_if_the_stream_has_ended(name: str, reading: Reading) -> None:
    ends = {
        "hermes": b"event: stream.done",
        "kilroy": b"event: done",
        "rdev": b"event: done",
        "agentlang": b"event: result",
        "ag-ui": b'"RUN_FINISHED"',
        "vercel-ui": b"data: [DONE]",
        "openai-responses": b"event: response.completed",
    }
    bad_ends = {
        "agentlang": (b"event: error",),
        "ag-ui": (b'"RUN_ERROR"',),
        "openai-responses": (b"event: response.failed", b"event: response.incomplete"),
    }
    events, plan = reading
    body = read(name, events, plan)
    if plan.is_closed and events[-1].type != "stream.done":
        return  # some say that as an end
    has_ended = any(end in body for end in (ends[name], *bad_ends.get(name, ())))
    # A reader that knows the last event already is told nothing of it again.
    knows_it = plan.cursor == len(events) and name not in ("kilroy", "vercel-ui")
    assert has_ended is (events[-1].type == "stream.done" and not knows_it)


@given(readings())
@settings(max_examples=200)
def test_ag_ui(reading: Reading) -> None:
    check_ag_ui(payloads(read("ag-ui", *reading)))


def check_ag_ui(events: Sequence[Data]) -> None:
    """The rules of ``verifyEvents`` that these events could break."""
    assert events[0]["type"] == "RUN_STARTED"
    open_ids: set[tuple[str, str]] = set()
    for event in events[1:]:
        kind = event["type"]
        assert kind != "RUN_STARTED"
        own = (kind.rpartition("_")[0], event.get("messageId") or event.get("toolCallId", ""))
        if kind.endswith("_START"):
            assert own not in open_ids
            open_ids.add(own)
        elif kind.endswith(("_CONTENT", "_ARGS")):
            assert own in open_ids
            assert event["delta"] != ""
        elif kind.endswith("_END"):
            assert own in open_ids
            open_ids.remove(own)
        elif kind in ("RUN_FINISHED", "RUN_ERROR"):
            assert open_ids == set()
            assert event is events[-1]


@given(readings())
@settings(max_examples=200)
def test_vercel_ui(reading: Reading) -> None:
    events, plan = reading
    texts: set[str] = set()
    calls: dict[str, str] = {}
    for event in payloads(read("vercel-ui", events, plan)):
        kind, own = (event or {}).get("type", ""), (event or {}).get("id", "")
        call_id = (event or {}).get("toolCallId", "")
        if kind in ("text-start", "reasoning-start"):
            assert own not in texts
            texts.add(own)
        elif kind in ("text-delta", "reasoning-delta"):
            assert own in texts
        elif kind in ("text-end", "reasoning-end"):
            texts.remove(own)
        elif kind == "tool-input-start":
            calls[call_id] = "streaming"
        elif kind == "tool-input-delta":
            assert calls[call_id] == "streaming"
        elif kind == "tool-input-available":
            calls[call_id] = "available"
        elif kind in ("tool-output-available", "tool-output-error"):
            assert calls[call_id] == "available"
            calls[call_id] = "over"
        elif kind in ("finish", "error", "abort"):
            assert texts == set()
            is_over = events[-1].type == "stream.done" or plan.is_closed
            assert "streaming" not in calls.values() or is_over


@given(readings())
@settings(max_examples=200)
def test_openai_responses(reading: Reading) -> None:
    """Every event is one of the SDK's, and the items at the end are those that were streamed."""
    events, plan = reading
    body = payloads(read("openai-responses", events, plan))
    numbers = [payload["sequence_number"] for payload in body]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    ended: dict[int, Data] = {}
    for payload in body:
        if payload["type"] != "keepalive":
            _RESPONSES.validate_python(payload)
        if payload["type"] == "response.created":
            ended.clear()
        elif payload["type"] == "response.output_item.done":
            ended[payload["output_index"]] = payload["item"]
        elif payload["type"] in ("response.completed", "response.failed", "response.incomplete"):
            output = payload["response"]["output"]
            left = iter(output)  # an item that ended before the cursor may be equal to a later one
            assert all(ended[index] in left for index in sorted(ended))
            if plan.cursor in (0, 99):
                assert len(output) == len(ended)


@given(readings())
@settings(max_examples=200)
def test_kilroy(reading: Reading) -> None:
    """Each has the envelope, and the ids of two readers are the same for the same events."""
    events, plan = reading
    once, again = (payloads(read("kilroy", events, Plan(at))) for at in (0, min(2, len(events))))
    assert again == once[len(once) - len(again) :]
    seen: list[str] = []
    for payload in payloads(read("kilroy", events, plan)):
        if payload:
            assert {"id", "ts", "run_id", "node_id", "backend", "event"} <= payload.keys()
            seen.append(payload["id"])
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_reader_costs_no_more_than_a_mebibyte_of_text(name: str) -> None:
    """What is kept for the end is bounded, however long the stream."""
    vocabulary = VOCABULARIES[name]("st_1")
    text = {"text": "x" * (1 << 18), "kind": "text", "choice": 0}
    call: Data = {"tool": "t", "toolCallId": "a"}
    vocabulary.render(StreamEvent(1, 0.0, "tool.running", call))
    for seq in range(2, 12):
        piece = {"toolCallId": "a", "delta": "y" * (1 << 18)}
        assert vocabulary.render(StreamEvent(seq, 0.0, "tool.arguments", piece)) is not None
        vocabulary.render(StreamEvent(seq, 0.0, "text", text))
    done = StreamEvent(12, 0.0, "stream.done", {"status": "completed"})
    assert len(vocabulary.render(done)) < 5 << 20


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", VOCABULARIES)
@pytest.mark.parametrize("kind", ["text", "calls", "arguments", "choices"])
def test_the_work_is_linear(name: str, kind: str) -> None:
    def make(count: int) -> list[StreamEvent]:
        rows: list[Any] = []
        for number in range(count // 2):
            call = {"tool": "t", "toolCallId": f"c{number}"}
            if kind == "calls":
                rows += [("tool.running", call), ("tool.completed", call)]
            elif kind == "text":
                rows += [("text", {"text": "a", "kind": "text", "choice": 0})] * 2
            elif kind == "choices":
                rows += [("text", {"text": "a", "kind": "text", "choice": number})] * 2
            else:
                open_call = {"tool": "t", "toolCallId": f"c{number % 200}"}
                rows += [("tool.running", open_call), ("tool.arguments", {**call, "delta": "a"})]
        rows.append(("stream.done", {"status": "completed"}))
        return [StreamEvent(seq, 0.0, *row) for seq, row in enumerate(rows, 1)]

    def work(events: list[StreamEvent]) -> None:
        vocabulary = VOCABULARIES[name]("st_1")
        for event in events:
            vocabulary.render(event)

    assert_linear(make, work, 1000)
