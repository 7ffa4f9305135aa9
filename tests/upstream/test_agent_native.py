"""Agents by their own protocols: what real ones said, said again by a scripted one.

The captures lie beside the repository (``../shared/reference/captures``, or where AGENT_CAPTURES
says). Without them nothing is tested here.
"""

import asyncio
import os
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import StartProxy
from tests.fakes import JSON, Answer, Client, ask
from tests.handlers.test_approvals import page_in
from tests.upstream.test_agents import chunks, content, pairs, say, says, settings

_BESIDE: Final = Path(__file__).parents[3] / "shared" / "reference" / "captures"
CAPTURES: Final = Path(os.environ.get("AGENT_CAPTURES", _BESIDE))
pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.skipif(not CAPTURES.exists(), reason="no captures beside the repository"),
]


def codex(name: str, **more: Any) -> dict[str, Any]:
    path = str(CAPTURES / f"codex-appserver-{name}.jsonl")
    return settings("codex", path, kind="codex-app-server", **more)


def claude(name: str, **more: Any) -> dict[str, Any]:
    path = str(CAPTURES / f"claude-stream-json-{name}.jsonl")
    return settings("claude", path, kind="claude-stream-json", **more)


def calls(answer: Answer) -> list[tuple[str, str, bool]]:
    """Id, tool and failure of each call; each has one beginning and one end."""
    found = pairs(answer)
    begun = [(call_id, tool) for call_id, tool, status, _ in found if status == "running"]
    ended = {call_id: failed for call_id, _, status, failed in found if status == "completed"}
    assert len(found) == 2 * len(begun) == 2 * len(ended)
    return [(call_id, tool, ended[call_id]) for call_id, tool in begun]


async def test_codex(start_proxy: StartProxy) -> None:
    """kilroy's names; a call of an unknown tool is no item at all."""
    url = await start_proxy({**codex("ok"), "lifecycle.result_preview": 100})
    answer = await say(url, "go", stream_options={"include_usage": True})
    assert answer.body.endswith(b"data: [DONE]\n\n")
    found = {call_id: (tool, failed) for call_id, tool, failed in calls(answer)}
    assert found.pop("call_mcp") == ("echo", False)
    assert found.pop("call_patch") == ("apply_patch", False)
    assert found.pop("ws_1") == ("web_search", False)
    assert found.pop("call_ok") == ("exec_command", False)
    assert found.pop("call_fail") == ("exec_command", True)
    assert all(tool in ("exec_command", "boom") for tool, _ in found.values())
    results = {
        one["toolCallId"]: one.get("result") for one in chunks(answer) if "toolCallId" in one
    }
    assert results["call_ok"] == "line 1\nline 2\nline 3\n"  # of the deltas the first is missing
    assert results["call_mcp"] == "echo: hi"
    assert chunks(answer)[-1]["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("name", ["upstream-eof", "upstream-failed"])
async def test_an_error_beats_the_end(start_proxy: StartProxy, name: str) -> None:
    url = await start_proxy(codex(name))
    answer = await say(url, "go")
    assert b"[DONE]" not in answer.body
    assert "the agent failed" in chunks(answer)[-1]["error"]["message"]


@pytest.mark.parametrize("decision", ["deny", "once"])
async def test_codex_asks(start_proxy: StartProxy, decision: str) -> None:
    """The capture is of a call that was declined: so it is, whatever is answered here."""
    url = await start_proxy(codex("declined"))
    async with Client(url) as client:
        answer = await client.chat(messages=says("go"))
        await answer.until(b"needs your permission")
        body = f'{{"decision": "{decision}"}}'.encode()
        assert (await ask(url, "POST", page_in(answer), JSON, body=body)).status == 200
        await answer.read()
    assert calls(answer) == [("call_decl", "exec_command", True)]
    assert content(answer).endswith("ok then ") or content(answer).endswith("ok then")


@pytest.mark.parametrize("agent", [codex, claude])
async def test_a_turn_is_stopped(start_proxy: StartProxy, agent: Any) -> None:
    """The agent is asked to stop, and says that it did: then its place is free for another."""
    url = await start_proxy(agent("interrupt", max_sessions=1))
    async with Client(url) as client:
        answer = await client.chat(messages=says("go"))
        await answer.until(b'"status":"running"')
    async with asyncio.timeout(20):
        while not await _is_served(url):
            pass


async def _is_served(url: str) -> bool:
    async with Client(url) as client:
        answer = await client.chat("X-Session-Id: another", messages=says("go"))
        if answer.status == 429:
            return False
        await answer.until(b'"status":"running"')
        return True


async def test_claude(start_proxy: StartProxy) -> None:
    url = await start_proxy(claude("ok"))
    answer = await say(url, "go")
    assert calls(answer) == [
        ("toolu_ok", "Bash", False),
        ("toolu_fail", "Bash", True),
        ("toolu_pa", "Bash", False),
        ("toolu_pb", "Read", True),
        ("toolu_mcp", "mcp__echo__echo", False),
        ("toolu_boom", "mcp__echo__boom", True),
        ("toolu_unknown", "NoSuchTool", True),
    ]
    assert content(answer) == "I will run commands. All done. "
    again = await say(url, "go", content(answer), "go on")
    assert len(calls(again)) == 7


@pytest.mark.parametrize(
    ("name", "failed"),
    [
        ("partial-messages", None),
        ("permission-denied", True),
        ("server-tools", None),
        ("subagent", None),
    ],
)
async def test_claude_otherwise(start_proxy: StartProxy, name: str, *, failed: bool | None) -> None:
    url = await start_proxy(claude(name))
    answer = await say(url, "go")
    found = calls(answer)
    assert found
    if failed is not None:
        assert {one[2] for one in found} == {failed}


@pytest.mark.parametrize("name", ["upstream-error", "upstream-eof"])
async def test_claude_fails(start_proxy: StartProxy, name: str) -> None:
    """``success`` with ``is_error`` is a failure."""
    url = await start_proxy(claude(name))
    answer = await say(url, "go")
    last = (CAPTURES / f"claude-stream-json-{name}.jsonl").read_text("utf-8").splitlines()[-1]
    if '"is_error":true' in last:
        assert "the agent failed" in chunks(answer)[-1]["error"]["message"]
    else:
        assert answer.body.endswith(b"data: [DONE]\n\n")
