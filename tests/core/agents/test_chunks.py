"""Pieces as chunks, and as one completion: what the proxy's own pipeline makes of them."""

import json
from typing import Any

import pytest
from lifecycle_proxy.core.agents.chunks import (
    ChunkWriter,
    Transcript,
    finish_reason,
    maybe_usage,
)
from lifecycle_proxy.core.agents.pieces import CallBegun, CallEnded, Piece, Said, Thought
from lifecycle_proxy.core.apis import CHAT
from lifecycle_proxy.core.context import PipelineOptions
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.events import Envelope, Outcome, ToolCompleted, ToolRunning
from lifecycle_proxy.core.labels import Labels
from lifecycle_proxy.core.pipeline import Pipeline

ENVELOPE = Envelope("chatcmpl-1", 7, "coder")


def observed(data: bytes, dialect: str = "chunk", preview: int = 0) -> list[Any]:
    options = PipelineOptions(presenter=Labels(), make_id=lambda: "made", result_preview=preview)
    pipeline = Pipeline(CHAT, DIALECTS[dialect], ENVELOPE, options)
    return [*pipeline.feed(data, 0.0).events, *pipeline.eof(1.0).events]


@pytest.mark.parametrize("dialect", ["chunk", "openwebui", "quote", "off"])
@pytest.mark.parametrize(
    "outcome", [Outcome.OK, Outcome.FAILED, Outcome.CANCELLED, Outcome.UNKNOWN]
)
def test_the_pipeline_sees_one_pair_with_the_outcome(dialect: str, outcome: Outcome) -> None:
    writer = ChunkWriter(ENVELOPE, result_preview=3)
    pieces: list[Piece] = [
        Thought("hm"),
        Said("a"),
        CallBegun("c1", "bash", '{"command": "ls"}'),
        Said("b"),
        CallEnded("c1", outcome, "output"),
        Said("c"),
    ]
    data = writer.begin() + b"".join(map(writer.write, pieces)) + writer.end("stop", None)
    running, completed = observed(data, dialect, 10)
    assert isinstance(running, ToolRunning)
    assert isinstance(completed, ToolCompleted)
    assert (running.id, running.tool, running.label) == ("c1", "bash", "ls")
    assert running.hosted
    assert completed.outcome is (Outcome.OK if outcome is Outcome.UNKNOWN else outcome)
    assert completed.output == "out"


def test_a_result_is_sent_only_as_far_as_it_may() -> None:
    data = ChunkWriter(ENVELOPE).write(CallEnded("c1", Outcome.OK, "secret"))
    assert b"secret" not in data


def test_usage_is_sent_where_it_was_asked_for() -> None:
    usage = {"total_tokens": 3}
    assert b"usage" not in ChunkWriter(ENVELOPE).end("stop", usage)
    assert b"usage" not in ChunkWriter(ENVELOPE, has_usage=True).end("stop", None)
    data = ChunkWriter(ENVELOPE, has_usage=True).end("stop", usage)
    finish, last, done = data.decode().strip().split("\n\n")
    assert json.loads(finish[6:])["choices"][0]["finish_reason"] == "stop"
    assert json.loads(last[6:])["usage"] == usage
    assert json.loads(last[6:])["choices"] == []
    assert done == "data: [DONE]"


def test_a_chunk_with_more() -> None:
    data = ChunkWriter(ENVELOPE).chunk({"content": "x"}, {"approval": {"id": "t"}}, "named")
    name, line = data.decode().strip().split("\n")
    assert name == "event: named"
    assert json.loads(line[6:])["approval"] == {"id": "t"}
    assert ChunkWriter(ENVELOPE).chunk({}, {}).startswith(b"data: ")


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("end_turn", "stop"),
        ("cancelled", "stop"),
        ("max_tokens", "length"),
        ("max_turn_requests", "length"),
        ("refusal", "content_filter"),
        (None, "stop"),
        ({}, "stop"),
    ],
)
def test_finish_reasons(stop: Any, reason: str) -> None:
    assert finish_reason(stop) == reason


@pytest.mark.parametrize(
    ("given", "usage"),
    [
        (None, None),
        ({}, None),
        ({"inputTokens": "x"}, None),
        (
            {"inputTokens": 1, "outputTokens": 2},
            {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        ),
        (
            {"input_tokens": 1, "output_tokens": 2, "thoughtTokens": 3, "cachedReadTokens": 4},
            {
                "prompt_tokens": 1,
                "completion_tokens": 2,
                "total_tokens": 3,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
        ),
    ],
)
def test_usages(given: Any, usage: Any) -> None:
    assert maybe_usage(given) == usage


def test_a_completion() -> None:
    transcript = Transcript()
    for piece in (Thought("hm"), Said("a"), CallBegun("c", "t", "{}"), Said("b")):
        transcript.add(piece)
    whole = json.loads(transcript.completion(ENVELOPE, "stop", {"total_tokens": 3}))
    assert whole["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "ab", "reasoning_content": "hm"},
        "finish_reason": "stop",
    }
    assert whole["usage"] == {"total_tokens": 3}
    empty = json.loads(Transcript().completion(ENVELOPE, "stop", None))
    assert empty["choices"][0]["message"] == {"role": "assistant", "content": ""}
    assert empty["usage"]["total_tokens"] == 0


def test_an_answer_has_a_bound() -> None:
    transcript = Transcript()
    for _ in range(18):
        transcript.add(Said("x" * (1 << 20)))
    assert len(transcript.content) == 16 << 20
