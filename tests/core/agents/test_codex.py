"""Codex' app-server items as pieces; kilroy's mapping has the expected values."""

from typing import Any

import pytest
from lifecycle_proxy.core.agents.codex import CodexReader
from lifecycle_proxy.core.agents.pieces import CallBegun, CallEnded, Piece, Said, Thought
from lifecycle_proxy.core.events import Outcome


def read(*messages: tuple[str, Any]) -> list[Piece]:
    reader = CodexReader()
    return [piece for method, params in messages for piece in reader.read(method, params)]


def started(**item: Any) -> tuple[str, Any]:
    return "item/started", {"item": item}


def completed(**item: Any) -> tuple[str, Any]:
    return "item/completed", {"item": item}


@pytest.mark.parametrize(
    ("item", "name", "arguments"),
    [
        (
            {"type": "commandExecution", "command": "ls", "cwd": "/w", "status": "inProgress"},
            "exec_command",
            '{"command": "ls", "cwd": "/w"}',
        ),
        (
            {"type": "fileChange", "changes": [{"path": "/x"}, {"path": "/y"}]},
            "apply_patch",
            '{"change_count": 2, "path": "/x"}',
        ),
        ({"type": "fileChange", "changes": []}, "apply_patch", '{"change_count": 0}'),
        ({"type": "fileChange"}, "apply_patch", "{}"),
        (
            {"type": "mcpToolCall", "server": "echo", "tool": "say", "arguments": {"a": 1}},
            "say",
            '{"server": "echo", "tool": "say", "arguments": {"a": 1}}',
        ),
        ({"type": "mcpToolCall", "server": "echo"}, "mcp_tool_call", '{"server": "echo"}'),
        (
            {"type": "collabAgentToolCall", "tool": "spawn", "senderThreadId": "t"},
            "spawn",
            '{"tool": "spawn", "sender_thread_id": "t"}',
        ),
        ({"type": "collabToolCall"}, "collab_tool_call", "{}"),
        ({"type": "dynamicToolCall", "tool": "do"}, "do", '{"tool": "do"}'),
        ({"type": "webSearch", "query": "q"}, "web_search", '{"query": "q"}'),
        ({"type": "imageView", "path": "/p"}, "view_image", '{"path": "/p"}'),
        ({"type": "sleep", "durationMs": 5}, "sleep", '{"durationMs": 5}'),
    ],
)
def test_items(item: dict[str, Any], name: str, arguments: str) -> None:
    assert read(started(id="i", **item)) == [CallBegun("i", name, arguments)]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "userMessage", "id": "i"},
        {"type": "commandExecution"},
        {"type": "commandExecution", "id": ""},
        {"type": 3, "id": "i"},
        {"id": "i"},
    ],
)
def test_what_is_no_tool_has_no_pieces(item: dict[str, Any]) -> None:
    assert read(started(**item), ("item/started", None), ("turn/started", {})) == []


@pytest.mark.parametrize(
    ("fields", "outcome", "output"),
    [
        ({"status": "completed", "aggregatedOutput": "all\n"}, Outcome.OK, "all\n"),
        ({"status": "completed", "aggregated_output": "all"}, Outcome.OK, "all"),
        ({"status": "failed", "stdout": " a ", "stderr": "b"}, Outcome.FAILED, "a\n\nb"),
        ({"status": "completed", "stdout": "a", "stderr": "a"}, Outcome.OK, "a"),
        ({"status": "Declined"}, Outcome.FAILED, None),
        ({"status": "interrupted"}, Outcome.FAILED, None),
        ({"status": "completed", "error": {"message": "no"}}, Outcome.FAILED, '{"message": "no"}'),
        ({"status": "completed", "error": {}}, Outcome.OK, None),
        ({"status": "completed", "error": "  "}, Outcome.OK, None),
        ({"status": "completed", "output": "o", "result": "r"}, Outcome.OK, "o"),
        (
            {"status": "completed", "result": {"content": [{"text": "x"}, {"text": "y"}]}},
            Outcome.OK,
            "x\ny",
        ),
        ({"status": "completed", "result": {"b": 1, "a": 2}}, Outcome.OK, '{"a": 2, "b": 1}'),
        ({"status": "completed", "message": "m"}, Outcome.OK, "m"),
        ({"status": None}, Outcome.OK, None),
    ],
)
def test_ends(fields: dict[str, Any], outcome: Outcome, output: str | None) -> None:
    item = {"type": "commandExecution", "id": "i", "command": "ls"}
    pieces = read(started(**item), completed(**item, **fields), completed(**item, **fields))
    assert pieces[1:] == [CallEnded("i", outcome, output)]


def test_the_whole_output_beats_its_pieces() -> None:
    """The first piece is lost; so are all where there is nothing else."""
    item = {"type": "commandExecution", "id": "i"}
    piece = ("item/commandExecution/outputDelta", {"itemId": "i", "delta": "line 2\n"})
    whole = read(started(**item), piece, completed(**item, aggregatedOutput="line 1\nline 2\n"))
    assert whole[-1] == CallEnded("i", Outcome.OK, "line 1\nline 2\n")
    pieces = read(started(**item), piece, piece, completed(**item))
    assert pieces[-1] == CallEnded("i", Outcome.OK, "line 2\nline 2\n")
    nothing = ("item/mcpToolCall/progress", {"itemId": "i", "message": 3})
    assert read(started(**item), nothing, (nothing[0], {}), completed(**item))[-1] == CallEnded(
        "i", Outcome.OK, None
    )


def test_text_comes_once() -> None:
    message = {"type": "agentMessage", "id": "m"}
    delta = ("item/agentMessage/delta", {"itemId": "m", "delta": "hel"})
    assert read(delta, completed(**message, text="hello")) == [Said("hel")]
    assert read(completed(**message, text="hello")) == [Said("hello")]
    assert read(started(**message, text="")) == []
    thought = ("item/reasoning/summaryTextDelta", {"delta": "hm"})
    assert read(thought, (thought[0], {"delta": ""})) == [Thought("hm")]


def test_errors_and_usage() -> None:
    reader = CodexReader()
    for error, is_retried in (({"message": "again"}, True), ({"message": "no credit"}, False)):
        assert list(reader.read("error", {"error": error, "willRetry": is_retried})) == []
        assert reader.error == ("" if is_retried else "no credit")
    list(reader.read("error", {}))
    assert reader.error == "an error without a message"
    usage = {"tokenUsage": {"last": {"inputTokens": 1}}}
    list(reader.read("thread/tokenUsage/updated", usage))
    assert reader.usage == {"inputTokens": 1}


def test_approvals() -> None:
    reader = CodexReader()
    list(reader.read(*started(type="fileChange", id="i", changes=[{"path": "/x"}])))
    assert reader.asked({"itemId": "i"}) == ("apply_patch", {"change_count": 1, "path": "/x"})
    assert reader.asked({"itemId": "j", "command": "ls"}) == ("exec_command", {"command": "ls"})
    assert reader.asked({}) == ("exec_command", {})
    reader.denied({"itemId": "i"})
    reader.denied({})
    item = {"type": "fileChange", "id": "i", "status": "completed"}
    assert list(reader.read(*completed(**item)))[-1] == CallEnded("i", Outcome.FAILED, None)


def test_the_end_of_the_turn_ends_what_is_open() -> None:
    reader = CodexReader()
    list(reader.read(*started(type="sleep", id="i")))
    assert list(reader.finish(Outcome.CANCELLED)) == [CallEnded("i", Outcome.CANCELLED, None)]
    assert list(reader.read(*completed(type="sleep", id="i"))) == []
