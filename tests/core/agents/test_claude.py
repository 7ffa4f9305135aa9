"""Claude Code's lines as pieces, as they were seen to be."""

from typing import Any

import pytest
from lifecycle_proxy.core.agents.claude import ClaudeReader
from lifecycle_proxy.core.agents.pieces import CallBegun, CallEnded, Piece, Said, Thought
from lifecycle_proxy.core.events import Outcome


def read(*lines: Any) -> list[Piece]:
    reader = ClaudeReader()
    return [piece for line in lines for piece in reader.read(line)]


def assistant(*blocks: Any, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": list(blocks), "model": more.pop("model", "claude")}
    return {"type": "assistant", "message": message, "parent_tool_use_id": None, **more}


def user(*blocks: Any) -> dict[str, Any]:
    return {"type": "user", "message": {"role": "user", "content": list(blocks)}}


def use(call_id: str = "t", name: str = "Bash", **more: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": {"command": "ls"}, **more}


def result(content: Any, call_id: str = "t", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


BEGUN = CallBegun("t", "Bash", '{"command": "ls"}')


@pytest.mark.parametrize(
    ("block", "outcome", "output"),
    [
        (result("one\ntwo", is_error=False), Outcome.OK, "one\ntwo"),
        (result("Exit code 3", is_error=True), Outcome.FAILED, "Exit code 3"),
        (result([text("a"), text("b"), {"type": "image"}]), Outcome.OK, "a\nb"),
        (result(None), Outcome.OK, None),
        ({**result([text("x")]), "type": "mcp_tool_result"}, Outcome.OK, "x"),
        (
            {**result({"type": "web_search_tool_result_error"}), "type": "web_search_tool_result"},
            Outcome.FAILED,
            None,
        ),
    ],
)
def test_a_call_and_its_result(block: Any, outcome: Outcome, output: str | None) -> None:
    assert read(assistant(use()), user(block), user(block)) == [
        BEGUN,
        CallEnded("t", outcome, output),
    ]


def test_a_result_inside_the_answer() -> None:
    block = {**result([text("x")], "s"), "type": "web_search_tool_result"}
    call = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": None}
    assert read(assistant(call), assistant(block)) == [
        CallBegun("s", "web_search", "{}"),
        CallEnded("s", Outcome.OK, "x"),
    ]


def test_text_and_reasoning() -> None:
    lines = assistant({"type": "thinking", "thinking": "hm"}), assistant(text("a"))
    assert read(*lines) == [Thought("hm"), Said("a")]


def test_partial_messages_are_not_taken_twice() -> None:
    def event(**fields: Any) -> dict[str, Any]:
        return {"type": "stream_event", "event": fields, "parent_tool_use_id": None}

    def delta(**fields: Any) -> dict[str, Any]:
        return event(type="content_block_delta", delta=fields)

    lines = (
        *(event(type="message_start"), delta(type="text_delta", text="a")),
        *(delta(type="thinking_delta", thinking="hm"), delta(type="input_json_delta")),
        *(assistant(text("a")), assistant(use())),
        *(event(type="message_start"), assistant(text("whole"))),
    )
    assert read(*lines) == [Said("a"), Thought("hm"), BEGUN, Said("whole")]


def test_other_agents_inside_say_nothing_but_run_tools() -> None:
    inner = {"parent_tool_use_id": "toolu_task"}
    event = {"type": "stream_event", "event": {"delta": {"text": "x"}}, **inner}
    lines = assistant(text("inner"), **inner), event, assistant(use(), **inner)
    assert read(*lines) == [BEGUN]


@pytest.mark.parametrize(
    "line",
    [
        None,
        {},
        {"type": "system", "subtype": "init"},
        assistant(text("API Error"), model="<synthetic>"),
        user(text("[Request interrupted by user]")),
        {"type": "assistant", "message": {"content": "x"}},
        assistant(None, 3, {}, text("")),
        user(result("x", "")),
    ],
)
def test_what_says_nothing(line: Any) -> None:
    assert read(line) == []


def test_calls_without_a_name_or_a_beginning() -> None:
    assert read(assistant({"type": "tool_use", "id": "t"})) == [CallBegun("t", "tool", "{}")]
    assert read(assistant({"type": "tool_use"})) == []
    assert read(user(result("x"))) == [
        CallBegun("t", "tool", "{}"),
        CallEnded("t", Outcome.OK, "x"),
    ]


def test_permissions_and_the_end() -> None:
    reader = ClaudeReader()
    assert list(reader.begin("t", "Bash", {"command": "ls"})) == [BEGUN]
    assert list(reader.read(assistant(use()))) == []
    reader.denied("t")
    reader.denied(None)
    assert list(reader.read(user(result("x")))) == [CallEnded("t", Outcome.FAILED, "x")]
    list(reader.begin("u", "Read", None))
    assert list(reader.finish(Outcome.CANCELLED)) == [CallEnded("u", Outcome.CANCELLED, None)]
    assert reader.result is None
    list(reader.read({"type": "result", "is_error": False}))
    assert reader.result == {"type": "result", "is_error": False}
