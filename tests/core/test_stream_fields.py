"""The data of a stream's events, and how a stream ended."""

from typing import Any

import pytest
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.events import Outcome, ToolCompleted, ToolRunning
from lifecycle_proxy.core.finish import judge_stream
from lifecycle_proxy.core.stream_fields import tool_fields, usage_fields

_CALL = {"tool": "f", "emoji": "*", "label": "l", "toolCallId": "a"}


def test_a_call_that_begins() -> None:
    running = ToolRunning("a", 0, "f", "l", "*")
    assert tool_fields(running) == {**_CALL, "status": "running"}
    hosted = ToolRunning("a", 2, "f", "l", "*", hosted=True, arguments='{"a": 1}')
    more = {"status": "running", "choice": 2, "hosted": True, "arguments": '{"a": 1}'}
    assert tool_fields(hosted) == {**_CALL, **more}
    large = ToolRunning("a", 0, "f", "l", "*", arguments='"' + "x" * (1 << 16) + '"')
    assert tool_fields(large) == {**_CALL, "status": "running"}


def test_a_call_that_ends() -> None:
    failed = ToolCompleted("a", 0, "f", "l", "*", Outcome.CUT, 7, "length", "x" * 70_000)
    fields = tool_fields(failed)
    assert len(fields.pop("result")) == 1 << 16
    more = {"status": "completed", "durationMs": 7, "isError": True, "reason": "length"}
    assert fields == {**_CALL, **more, "outcome": "cut"}
    ended = ToolCompleted("a", 0, "f", "l", "*", Outcome.OK, 7)
    assert tool_fields(ended) == {
        **_CALL,
        "status": "completed",
        "durationMs": 7,
        "outcome": "ok",
    }


@pytest.mark.parametrize(
    ("usage", "fields"),
    [
        (
            {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 4},
            {"inputTokens": 1, "outputTokens": 2, "totalTokens": 4},
        ),
        (
            {"input_tokens": 1, "output_tokens": 2},
            {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3},
        ),
        ({"output_tokens": 2}, {"outputTokens": 2}),
        ({"prompt_tokens": "1", "completion_tokens": -1, "total_tokens": True}, {}),
        ({}, {}),
    ],
)
def test_usage(usage: dict[str, Any], fields: dict[str, int]) -> None:
    assert usage_fields(usage) == fields


@pytest.mark.parametrize(
    ("word", "status", "reason"),
    [
        ("", "completed", ""),
        ("stop", "completed", ""),
        ("END_TURN", "completed", ""),
        ("length", "incomplete", "length"),
        ("refusal", "incomplete", "refusal"),
        ("incomplete", "incomplete", "incomplete"),
        ("some_new_word", "completed", "some_new_word"),
        ("cancelled", "cancelled", "cancelled"),
        ("upstream_error", "failed", "upstream_error"),
        ("Error", "failed", "Error"),
        ("x" * 200, "completed", "x" * 100),
    ],
)
def test_how_a_stream_ended(word: str, status: str, reason: str) -> None:
    assert judge_stream(word) == (status, reason)


def test_what_the_upstream_says_of_itself() -> None:
    counts = Counts()
    said: tuple[object, ...] = ({"input_tokens": 1}, None, [], {"output_tokens": 2})
    for usage in said:
        counts.add_usage(usage)
    assert counts.usage == {"input_tokens": 1, "output_tokens": 2}
    for reason in ("stop", None, "length"):
        counts.note_end(reason)
    assert counts.end_reason == "length"
    counts.note_end("upstream_error")
    counts.note_end("stop")  # an error beats all
    assert counts.end_reason == "upstream_error"
