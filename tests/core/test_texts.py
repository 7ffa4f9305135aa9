"""The text of the three APIs' streams, for readers beside them."""

import json
from typing import Any

import pytest
from lifecycle_proxy.core.texts import TextPiece, TextReader

_MAX = 1 << 16


def sse(payload: Any, name: str = "") -> bytes:
    line = f"event: {name}\n" if name else ""
    return f"{line}data: {json.dumps(payload)}\n\n".encode()


def chunk(*deltas: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": at, "delta": delta} for at, delta in enumerate(deltas)]}


_ROWS: list[tuple[Any, list[TextPiece]]] = [
    (chunk({"content": "a"}), [TextPiece("text", 0, "a")]),
    (chunk({"content": ""}, {"content": "b"}), [TextPiece("text", 1, "b")]),
    (chunk({"refusal": "no"}), [TextPiece("text", 0, "no")]),
    (
        chunk({"reasoning_content": "r", "reasoning": "r", "content": "t"}),
        [TextPiece("reasoning", 0, "r"), TextPiece("text", 0, "t")],
    ),
    (chunk({"role": "tool", "content": "a result"}), []),
    (chunk({"reasoning": "r"}), [TextPiece("reasoning", 0, "r")]),
    ({"choices": [None, {"delta": None}, {"index": "x", "delta": {"content": "a"}}]}, [
        TextPiece("text", 0, "a")
    ]),
    ({"type": "response.output_text.delta", "delta": "a"}, [TextPiece("text", 0, "a")]),
    ({"type": "response.refusal.delta", "delta": "a"}, [TextPiece("text", 0, "a")]),
    ({"type": "response.reasoning_text.delta", "delta": "a"}, [TextPiece("reasoning", 0, "a")]),
    ({"type": "response.output_text.delta", "delta": {}}, []),
    ({"type": "response.function_call_arguments.delta", "delta": "{"}, []),
    (
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
        [TextPiece("text", 0, "a")],
    ),
    (
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "a"}},
        [TextPiece("reasoning", 0, "a")],
    ),
    ({"type": "content_block_delta", "delta": {"type": "input_json_delta", "text": "a"}}, []),
    ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": 1}}, []),
    ({"type": 1}, []),
    ([], []),
    (1, []),
]  # fmt: skip


@pytest.mark.parametrize(("payload", "pieces"), _ROWS)
def test_what_an_event_says(payload: Any, pieces: list[TextPiece]) -> None:
    assert TextReader(_MAX).feed(sse(payload)) == pieces


def test_however_the_bytes_are_cut() -> None:
    data = b": ping\n\n" + b"".join(sse(payload, "x") for payload, _ in _ROWS)
    data += b"data: {broken\n\ndata: [DONE]\n\n"
    whole = TextReader(_MAX).feed(data)
    reader = TextReader(_MAX)
    assert [one for at in range(len(data)) for one in reader.feed(data[at : at + 1])] == whole
    assert whole == [one for _, pieces in _ROWS for one in pieces]


def test_events_that_are_too_large_are_not_looked_at() -> None:
    assert TextReader(100).feed(sse(chunk({"content": "a" * 200}))) == []
