"""kilroy's contract, line by line, as far as it is the vocabulary's: see docs/vocabularies.md.

That text is collected for 100 ms, and flushed in front of a tool event and the end, is the log's:
``tests/handlers/test_compat.py``.
"""

import json
from typing import Any

import pytest
from lifecycle_proxy.core.stream_events import EventType, StreamEvent
from lifecycle_proxy.core.vocabularies.kilroy import Kilroy

AT = 1700000000.0
CALL: dict[str, Any] = {"tool": "exec_command", "toolCallId": "cmd_1"}


def one(frame: bytes) -> dict[str, Any]:
    (payload,) = many(frame)
    return payload


def many(frames: bytes) -> list[dict[str, Any]]:
    blocks = frames.decode().split("\n\n")[:-1]
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


class Run:
    """A reader of one run."""

    def __init__(self) -> None:
        self.own = Kilroy("run_1")
        self.seq = 0
        self.event("stream.started", model="m", api="chat")

    def event(self, type_: EventType, at: float = AT, **data: Any) -> bytes:
        self.seq += 1
        return self.own.render(StreamEvent(self.seq, at, type_, data))


def test_the_envelope() -> None:
    """``id`` (8 hex digits), ``ts`` (RFC3339Nano, UTC), ``run_id``, ``node_id``, ``backend``."""
    payload = one(Run().event("text", AT + 0.25, text="a", kind="text"))
    assert payload == {
        "id": "00000004",
        "ts": "2023-11-14T22:13:20.25Z",
        "run_id": "run_1",
        "node_id": "m",
        "backend": "api",
        "event": "llm_text_delta",
        "delta": "a",
    }


def test_a_node_has_the_api_s_name_where_no_model_is_known() -> None:
    own = Kilroy("run_1")
    own.render(StreamEvent(1, AT, "stream.started", {"model": "", "api": "messages"}))
    payload = one(own.render(StreamEvent(2, AT, "text", {"text": "a", "kind": "text"})))
    assert payload["node_id"] == "messages"


def test_calls() -> None:
    run = Run()
    start = one(run.event("tool.running", **CALL))
    assert (start["event"], start["tool_name"], start["call_id"]) == (
        "llm_tool_call_start",
        "exec_command",
        "cmd_1",
    )
    end = one(run.event("tool.completed", **CALL))
    assert (end["event"], end["is_error"]) == ("llm_tool_call_end", False)
    assert one(run.event("tool.completed", **CALL, isError=True))["is_error"] is True


def test_the_turn_ends_with_the_length_of_its_text_and_the_number_of_its_calls() -> None:
    run = Run()
    run.event("text", text="a😀b", kind="text")
    run.event("text", text="not of the answer", kind="reasoning")
    run.event("tool.running", **CALL)
    turn, end = many(run.event("stream.done", status="completed", calls=1))
    assert (turn["event"], turn["text_length"], turn["tool_call_count"]) == ("llm_turn_end", 6, 1)
    assert (end["event"], end["status"]) == ("run_completed", "success")
    assert run.own.done() == b"event: done\ndata: {}\n\n"


def test_the_turn_s_calls_are_those_of_the_whole_stream() -> None:
    """A reader may have missed some."""
    turn, _ = many(Run().event("stream.done", status="completed", calls=3))
    assert turn["tool_call_count"] == 3


@pytest.mark.parametrize(("status", "word"), [("failed", "fail"), ("cancelled", "canceled")])
def test_an_error_wins_and_there_is_no_turn(status: str, word: str) -> None:
    run = Run()
    run.event("text", text="a", kind="text")
    end = one(run.event("stream.done", status=status, reason="upstream_error"))
    assert (end["event"], end["status"], end["reason"]) == ("run_failed", word, "upstream_error")


def test_failover() -> None:
    data: dict[str, Any] = {
        "from_provider": "a",
        "from_model": "m",
        "to_provider": "b",
        "to_model": "n",
    }
    payload = one(Run().event("llm_failover", **data, reason="503"))
    assert {key: payload[key] for key in data} == data
    assert (payload["event"], payload["reason"]) == ("llm_failover", "503")


def test_heartbeats() -> None:
    run = Run()
    run.event("text", AT + 2, text="a", kind="text")
    first, second = (one(run.own.keep_alive(AT + at)) for at in (17.9, 33))
    assert (first["event"], first["node_id"]) == ("stage_heartbeat", "m")
    assert (first["elapsed_s"], first["event_count"], first["since_last_output_s"]) == (17, 2, 15)
    assert (second["elapsed_s"], second["since_last_output_s"]) == (33, 31)
    assert first["id"] != second["id"]


def test_there_is_no_heartbeat_before_a_stage() -> None:
    assert Kilroy("run_1").keep_alive(AT) == b": keep-alive\n\n"


def test_a_reader_that_comes_again_gets_the_same_ids() -> None:
    def read() -> list[str]:
        run = Run()
        frames = run.event("text", text="a", kind="text") + run.event("tool.running", **CALL)
        frames += run.event("stream.done", status="completed")
        return [payload["id"] for payload in many(frames)]

    assert read() == read()
    assert len(set(read())) == 4
