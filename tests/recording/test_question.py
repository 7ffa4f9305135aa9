"""What a request was, in a line."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.recording import cassette, question
from lifecycle_proxy.recording.cassette import RecordedExchange

from tests.recording.build import Tape, write

USER = {"role": "user", "content": "List my files"}
CALL = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "terminal"}}]}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "a"}
CLAUDE = {"role": "user", "content": [{"type": "tool_result", "content": "a"}] * 2}
ITEMS = [{"type": "function_call", "name": "x"}, {"type": "function_call_output", "output": "a"}]


def recorded(tmp_path: Path, *tapes: Tape) -> list[RecordedExchange]:
    return cassette.load(write(tmp_path / "one.jsonl", *tapes))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": [USER]}, "List my files"),
        ({"messages": [{"role": "system", "content": "s"}, USER, CALL]}, "List my files"),
        ({"messages": [USER, CALL, RESULT]}, "1 tool result for: List my files"),
        ({"messages": [USER, CALL, RESULT, RESULT]}, "2 tool results for: List my files"),
        ({"messages": [USER, CALL, RESULT, USER]}, "List my files"),
        ({"messages": [USER, CLAUDE]}, "2 tool results for: List my files"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, "a"),
        ({"messages": [RESULT]}, "1 tool result"),
        ({"messages": "x"}, "x"),
        ({"messages": [1, {"role": "user"}]}, ""),
        ({"input": "a \n\t b"}, "a b"),
        ({"input": ["a", "b"]}, "a"),
        ({"input": [{"role": "user", "content": "a"}, *ITEMS]}, "1 tool result for: a"),
        ({"input": ITEMS}, "1 tool result"),
        ({"prompt": "a"}, "a"),
        ({"prompt": [[1, 2]]}, ""),
        ({"messages": [{"role": "user", "content": "a" * 999}]}, "a" * 300),
        ({}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_what_was_asked(tmp_path: Path, body: Any, words: str) -> None:
    (one,) = recorded(tmp_path, Tape().request(json.dumps(body).encode()))
    assert question.asked(one) == words


def test_a_body_that_cannot_be_read(tmp_path: Path) -> None:
    nested = b"[" * 900 + b'"a"' + b"]" * 900
    deep = b'{"messages": [{"role": "user", "content": [{"text": "a"}, ' + nested + b"]}]}"
    (one, other, deeper) = recorded(
        tmp_path,
        Tape("a").request(b"\xff"),
        Tape("b").request(None, omitted="large"),
        Tape("c").request(deep),
    )
    assert question.line(one) == question.line(other) == "chat"
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(700)  # other tests raise it
    try:
        assert question.line(deeper) == "chat"
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    ("route", "target", "body", "line"),
    [
        (
            "chat",
            "/v1/chat/completions",
            {"model": "m", "messages": [USER]},
            "m: List my files",
        ),
        ("responses", "/v1/responses", {"model": "m", "input": "a"}, "responses m: a"),
        ("other", "/v1/embeddings", {"model": "m", "input": "a"}, "POST /v1/embeddings m: a"),
        ("other", "/v1/models", {"model": 1}, "POST /v1/models"),
    ],
)
def test_the_line(tmp_path: Path, route: str, target: str, body: Any, line: str) -> None:
    tape = Tape().request(json.dumps(body).encode(), target=target, route=route)
    assert question.line(recorded(tmp_path, tape)[0]) == line


def test_what_went_wrong(tmp_path: Path) -> None:
    json_head = [["Content-Type", "application/json"]]
    good, refused, broken, cut, gone = recorded(
        tmp_path,
        Tape("a").request().head(1).end(),
        Tape("b").request().head(1, json_head, status=400).end(),
        Tape("c").request().head(1).end(error="upstream_protocol"),
        Tape("d").request().head(1),
        Tape("e").request().head(1).end("client_gone"),
    )
    assert [question.is_bad(one) for one in (good, refused, broken, cut, gone)] == [
        *(False, True, True, True, True)
    ]
