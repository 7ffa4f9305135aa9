"""ACP updates as pieces: what agents send and leave out, as they were seen to."""

from typing import Any

import pytest
from lifecycle_proxy.core.agents.acp import AcpReader
from lifecycle_proxy.core.agents.pieces import (
    AgentCall,
    CallBegun,
    CallEnded,
    CallLog,
    Piece,
    Said,
    Thought,
    begin,
    end,
)
from lifecycle_proxy.core.agents.quirks import KINDS, quirks_of
from lifecycle_proxy.core.events import Outcome


def read(kind: str, *updates: Any) -> list[Piece]:
    reader = AcpReader(quirks_of(kind))
    return [piece for update in updates for piece in reader.read(update)]


def call(call_id: str = "c1", **fields: Any) -> dict[str, Any]:
    return {"sessionUpdate": "tool_call", "toolCallId": call_id, **fields}


def more(call_id: str = "c1", **fields: Any) -> dict[str, Any]:
    return {"sessionUpdate": "tool_call_update", "toolCallId": call_id, **fields}


def said(text: str, kind: str = "agent_message_chunk") -> dict[str, Any]:
    return {"sessionUpdate": kind, "content": {"type": "text", "text": text}}


def test_text_and_reasoning() -> None:
    assert read("auto", said("a"), said("b", "agent_thought_chunk")) == [Said("a"), Thought("b")]


@pytest.mark.parametrize(
    "update",
    [
        None,
        [],
        {},
        {"sessionUpdate": 1},
        {"sessionUpdate": "plan", "entries": []},
        said(""),
        {"sessionUpdate": "agent_message_chunk"},
        {"sessionUpdate": "agent_message_chunk", "content": {"type": "image"}},
        {"sessionUpdate": "tool_call"},
        call(""),
        {"sessionUpdate": "tool_call", "toolCallId": 3},
    ],
)
def test_what_says_nothing_is_ignored(update: Any) -> None:
    assert read("auto", update) == []


@pytest.mark.parametrize(
    ("kind", "first", "name", "arguments"),
    [
        ("claude", {"name": "Bash", "rawInput": {"command": "ls"}}, "Bash", '{"command": "ls"}'),
        (
            "claude",
            {"_meta": {"claudeCode": {"toolName": "Read"}}, "kind": "read", "title": "Read /x"},
            "Read",
            '{"path": "Read /x"}',
        ),
        (
            "hermes",
            {"title": "sh: ls -la", "kind": "execute"},
            "sh",
            '{"command": "ls -la"}',
        ),
        (
            "hermes",
            {"title": "read: /x", "kind": "read", "locations": [{"path": "/x"}]},
            "read",
            '{"path": "/x"}',
        ),
        (
            "codex",
            {"kind": "execute", "title": "touch /x", "status": "in_progress"},
            "exec_command",
            '{"command": "touch /x"}',
        ),
        ("codex", {"kind": "other", "title": "x", "locations": []}, "other", '{"text": "x"}'),
        ("auto", {"title": "Run it now", "kind": "fetch"}, "fetch", '{"url": "Run it now"}'),
        ("auto", {"title": "bash", "kind": 7}, "bash", "{}"),
        ("auto", {"title": 3, "kind": "has blanks"}, "tool", "{}"),
        (
            "auto",
            {"name": "", "title": "a b", "kind": "search"},
            "search",
            '{"query": "a b"}',
        ),
        ("auto", {"rawInput": {"text": "x" * 70_000}, "title": "t"}, "t", "{}"),
    ],
)
def test_names_and_arguments(kind: str, first: dict[str, Any], name: str, arguments: str) -> None:
    assert read(kind, call(**first)) == [CallBegun("c1", name, arguments)]


@pytest.mark.parametrize(
    ("call_id", "name"),
    [
        ("run_shell_command__call_ok", "run_shell_command"),
        ("read_file-1764400000000", "read_file"),
        ("call_1", "execute"),
    ],
)
def test_a_name_in_the_id(call_id: str, name: str) -> None:
    (begun,) = read("gemini", call(call_id, kind="execute", title="ls"))
    assert isinstance(begun, CallBegun)
    assert begun.name == name


def test_a_call_waits_for_its_arguments() -> None:
    """OpenCode and Claude Code tell of a call before its arguments are there."""
    pieces = read(
        "opencode",
        call(title="bash", status="pending", rawInput={"cwd": "/w"}),
        more(title="echo 1", status="in_progress", rawInput={"command": "echo 1", "cwd": "/w"}),
        more(status="completed", rawOutput={"output": "1\n", "metadata": {"exit": 0}}),
    )
    assert pieces == [
        CallBegun("c1", "bash", '{"command": "echo 1", "cwd": "/w"}'),
        CallEnded("c1", Outcome.OK, "1\n"),
    ]


def test_a_call_waits_no_longer_than_to_the_next_text() -> None:
    pieces = read("opencode", call(title="bash", status="pending", rawInput={}), said("x"))
    assert pieces == [CallBegun("c1", "bash", "{}"), Said("x")]


@pytest.mark.parametrize(
    ("update", "outcome", "output"),
    [
        ({"status": "completed", "rawOutput": "x"}, Outcome.OK, "x"),
        ({"status": "failed", "rawOutput": {"error": "no"}}, Outcome.FAILED, "no"),
        ({"status": "cancelled"}, Outcome.CANCELLED, None),
        (
            {"status": "completed", "rawOutput": {"output": "o", "metadata": {"exit": 3}}},
            Outcome.FAILED,
            "o",
        ),
        ({"status": "completed", "rawOutput": {"metadata": {"exit": None}}}, Outcome.FAILED, None),
        (
            {"status": "completed", "_meta": {"terminal_exit": {"exit_code": 0}}},
            Outcome.OK,
            None,
        ),
        (
            {
                "status": "completed",
                "content": [{"content": {"text": "a"}}, {"content": {"text": "b"}}, 3],
            },
            Outcome.OK,
            "a\nb",
        ),
        ({"status": "completed", "content": 3}, Outcome.OK, None),
    ],
)
def test_ends(update: dict[str, Any], outcome: Outcome, output: str | None) -> None:
    pieces = read("auto", call(title="t"), more(**update))
    assert pieces[1:] == [CallEnded("c1", outcome, output)]


def test_pieces_of_output_are_joined() -> None:
    pieces = read(
        "codex",
        call(name="exec_command"),
        *(more(_meta={"terminal_output_delta": {"data": text}}) for text in ("a", "b")),
        more(status="failed"),
    )
    assert pieces[-1] == CallEnded("c1", Outcome.FAILED, "ab")


def test_output_has_a_bound() -> None:
    own = AgentCall("c1")
    for _ in range(3):
        own.add_output("x" * 40_000)
    assert len("".join(own.output)) == 1 << 16


def test_a_second_end_and_a_second_beginning_are_ignored() -> None:
    pieces = read(
        "auto",
        call(title="t"),
        call(title="t"),
        more(status="completed"),
        more(status="failed"),
        call(title="t", status="in_progress"),
    )
    assert [type(one) for one in pieces] == [CallBegun, CallEnded]


def test_an_end_without_a_beginning_has_one() -> None:
    pieces = read("gemini", more("read_file__1", status="completed", title="x"))
    assert [type(one) for one in pieces] == [CallBegun, CallEnded]


def test_pseudo_tools_are_left_out() -> None:
    assert read("codex", call("guardian_assessment:1", title="Guardian Review")) == []
    assert len(read("claude", call("guardian_assessment:1", title="x"))) == 1


def test_a_permission_request_begins_a_call() -> None:
    """Gemini CLI says nothing else of a call that asks."""
    reader = AcpReader(quirks_of("gemini"))
    asked = {"toolCallId": "run_shell_command__1", "title": "ls", "kind": "execute"}
    assert list(reader.asked(asked)) == [
        CallBegun("run_shell_command__1", "run_shell_command", '{"command": "ls"}')
    ]
    assert list(reader.asked(asked)) == []
    assert reader.name(asked) == "run_shell_command"
    assert reader.arguments(asked) == {"command": "ls"}
    for nothing in (None, {}, {"toolCallId": 1}):
        assert list(reader.asked(nothing)) == []
        assert reader.arguments(nothing) == {}
        assert reader.name(nothing) == "tool"
        reader.denied(nothing)


def test_hermes_asks_under_another_id() -> None:
    reader = AcpReader(quirks_of("hermes"))
    for own, command in (("tc-1", "ls"), ("tc-2", "rm x"), ("tc-3", "pwd")):
        list(reader.read(call(own, title=f"terminal: {command}", kind="execute")))
    asked = {"toolCallId": "perm-check-1", "kind": "execute", "rawInput": {"command": "rm x"}}
    assert list(reader.asked(asked)) == []
    assert reader.name(asked) == "terminal"
    assert reader.arguments(asked) == {"command": "rm x"}
    reader.denied(asked)
    ends = [
        piece for own in ("tc-1", "tc-2") for piece in reader.read(more(own, status="completed"))
    ]
    assert [one.outcome for one in ends if isinstance(one, CallEnded)] == [
        Outcome.OK,
        Outcome.FAILED,
    ]
    other = {"toolCallId": "perm-check-2", "rawInput": {"command": "unknown"}}
    assert reader.arguments(other) == {"command": "pwd"}  # the last that is open
    list(reader.finish(Outcome.OK))
    assert reader.arguments(other) == {}


def test_what_was_denied_failed() -> None:
    reader = AcpReader(quirks_of("auto"))
    asked = {"toolCallId": "c1", "title": "ls"}
    assert len(list(reader.asked(asked))) == 1
    reader.denied(asked)
    assert list(reader.read(more(status="completed"))) == [CallEnded("c1", Outcome.FAILED, None)]


def test_the_end_of_the_turn_ends_what_is_open() -> None:
    reader = AcpReader(quirks_of("auto"))
    for update in (
        call("c1", title="t"),
        call("c2", title="u", status="pending", rawInput={}),
        call("c3", title="v"),
        more("c3", status="completed"),
    ):
        list(reader.read(update))
    assert list(reader.finish(Outcome.CANCELLED)) == [
        CallBegun("c2", "u", "{}"),
        CallEnded("c1", Outcome.CANCELLED, None),
        CallEnded("c2", Outcome.CANCELLED, None),
    ]
    assert list(reader.finish(Outcome.CANCELLED)) == []


def test_only_so_many_calls_are_followed() -> None:
    log = CallLog()
    assert all(log.maybe_call(f"c{n}") for n in range(4096))
    assert log.maybe_call("one more") is None
    assert log.maybe_call("c7") is log.maybe_call("c7")


def test_a_call_that_has_ended_does_not_begin() -> None:
    own = AgentCall("c1", has_ended=True)
    assert list(begin(own, "t", {})) == []
    assert list(end(own, Outcome.OK, None)) == []


@pytest.mark.parametrize("kind", KINDS[:5])
def test_an_agent_is_known_by_its_name(kind: str) -> None:
    assert quirks_of("auto", f"@vendor/{kind.title()}-agent") == quirks_of(kind)


def test_an_unknown_agent_has_the_usual_form() -> None:
    assert quirks_of("auto", "goose") == quirks_of("auto")
