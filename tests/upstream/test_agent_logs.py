"""What five real agents said, said again by a scripted one: what a client gets of it.

The logs lie beside the repository (``../shared/agents/logs``, or where AGENT_LOGS says: each
message of a run against a scripted model). Without them nothing is tested here.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.conftest import StartProxy
from tests.fakes import JSON, Answer, Client, ask
from tests.upstream.test_agents import chunks, pairs, says, settings

_BESIDE: Final = Path(__file__).parents[3] / "shared" / "agents" / "logs"
LOGS: Final = Path(os.environ.get("AGENT_LOGS", _BESIDE))
STREAM: Final = "replayed-stream-0123456789"
pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.skipif(not LOGS.exists(), reason="the agents' logs are not beside the repository"),
]


class Call(NamedTuple):
    """What is expected of one call: its id, name and failure, and what it does."""

    id: str
    tool: str
    failed: bool
    label: str
    asks: bool = False


# As they ended: exit 0, exit 3, parallel, a missing file, one that was allowed.
EXPECTED: Final[dict[str, tuple[Call, ...]]] = {
    "opencode": (
        Call("call_ok", "bash", False, "echo line1; sleep 0.5; echo line2", asks=True),
        Call("call_fail", "bash", True, "echo oops >&2; exit 3", asks=True),
        Call("call_pa", "bash", False, "sleep 0.3; echo a", asks=True),
        Call("call_pb", "read", True, "/nonexistent/x", asks=True),
    ),
    "codex": (
        Call("call_ok", "exec_command", False, "echo line1; sleep 0.5; echo line2"),
        Call("call_fail", "exec_command", True, "echo oops >&2; exit 3"),
        Call("call_pb", "exec_command", True, "/bin/bash -lc 'touch /etc/zz_probe'"),
        Call("call_pa", "exec_command", False, "sleep 0.3; echo a"),
    ),
    "claude": (
        Call("toolu_ok", "Bash", False, "echo line1; sleep 0.5; echo line2"),
        Call("toolu_fail", "Bash", True, "touch zzfile; echo oops >&2; exit 3", asks=True),
        Call("toolu_pa", "Bash", False, "sleep 0.3; echo a"),
        Call("toolu_pb", "Read", True, "/nonexistent/x", asks=True),
    ),
    "hermes": (
        Call("tc-abd720351fb4", "terminal", False, "echo line1 + 2 commands"),
        Call("tc-cf1a30722986", "terminal", True, "echo oops + 1 command"),
        Call("tc-c3b2cf4c8613", "read", True, "/nonexistent/x"),
        Call("tc-13b1495935df", "terminal", False, "rm -rf /workspace/zz", asks=True),
    ),
    "gemini": (
        Call("run_shell_command__call_ok", "run_shell_command", False, "echo line1", asks=True),
        # It says completed of exit 3, without any output: that is all that can be known.
        Call("run_shell_command__call_fail", "run_shell_command", False, "echo oops", asks=True),
        Call("read_file__call_pb", "read_file", True, "nonexistent.txt"),
    ),
}
agents = pytest.mark.parametrize("agent", EXPECTED)
dialects = pytest.mark.parametrize("dialect", ["chunk", "openwebui"])


def replayed(agent: str, mode: str, *until: str, **more: Any) -> dict[str, Any]:
    return settings("replay", str(LOGS / f"{agent}-{mode}.jsonl"), *until, **more)


async def answered(url: str, dialect: str, decide: dict[str, str] | None = None) -> Answer:
    """A whole stream; each approval is decided, by the tool's label, or else allowed."""
    async with Client(url) as client:
        answer = await client.chat(
            f"X-Lifecycle-Events: {dialect}",
            f"X-Event-Stream-Id: {STREAM}",
            messages=says("go"),
        )
        deciding = asyncio.create_task(_decide(url, answer, decide or {}))
        try:
            return await answer.read()
        finally:
            deciding.cancel()


async def _decide(url: str, answer: Answer, decide: dict[str, str]) -> None:
    """Follow the stream beside the chat, and answer what it asks."""
    async with Client(url) as client:
        await client.send("GET", f"/-/streams/{STREAM}/events")
        events, seen = await client.head(), 0
        while True:
            await events.until(b"event: approval.request\n" if not seen else b"\n\n")
            found = [
                json.loads(one.partition("data: ")[2])
                for one in events.body.decode().split("\n\n")[:-1]
                if "event: approval.request\n" in one
            ]
            for fields in found[seen:]:
                body = json.dumps({"decision": decide.get(fields["label"], "once")}).encode()
                await ask(url, "POST", f"/-/approvals/{fields['id']}", JSON, body=body)
            seen = len(found)
            events.body += await anext(events.pieces)


def assert_calls(answer: Answer, expected: tuple[Call, ...], *, failed: frozenset[str]) -> None:
    found = pairs(answer)
    for call in expected:
        own = [one for one in found if one[0] == call.id]
        is_failed = call.failed or call.id in failed
        assert own == [
            (call.id, call.tool, "running", False),
            (call.id, call.tool, "completed", is_failed),
        ]
        label = next(one["label"] for one in chunks(answer) if one.get("toolCallId") == call.id)
        assert label.startswith(call.label)
    assert len(found) == 2 * len(expected)


@dialects
@agents
async def test_calls_as_they_were(start_proxy: StartProxy, agent: str, dialect: str) -> None:
    """Exit 0, exit 3, a missing file, two at a time, and what was approved."""
    url = await start_proxy(replayed(agent, "allow"))
    answer = await answered(url, dialect)
    assert answer.end == "clean"
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert_calls(answer, EXPECTED[agent], failed=frozenset())


@dialects
@agents
async def test_what_was_denied_failed(start_proxy: StartProxy, agent: str, dialect: str) -> None:
    """Whatever the agent says of it: here, that it went well."""
    expected = EXPECTED[agent]
    denied = frozenset(one.id for one in expected if one.asks)
    url = await start_proxy(replayed(agent, "allow", permissions="deny"))
    answer = await answered(url, dialect)
    assert_calls(answer, expected, failed=denied)


def _running(path: Path) -> int:
    """The entry before which a first tool runs: behind the permission, or before the stop."""
    entries = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    spoken = [n for n, one in enumerate(entries) if one["dir"] == "out"]
    for number in spoken:
        if "method" not in entries[number]["msg"]:
            return number + 1
    return next(n for n in spoken if entries[n]["msg"]["method"] == "session/cancel")


@dialects
@agents
async def test_an_agent_that_is_killed(start_proxy: StartProxy, agent: str, dialect: str) -> None:
    until = _running(LOGS / f"{agent}-cancel.jsonl")
    url = await start_proxy(replayed(agent, "cancel", str(until)))
    answer = await answered(url, dialect)
    assert b"[DONE]" not in answer.body
    assert chunks(answer)[-1]["error"]["code"] == "upstream_unreachable"
    running, completed = pairs(answer)
    assert running[2:] == ("running", False)
    assert completed[2:] == ("completed", True)
    assert running[:2] == completed[:2]


@agents
async def test_a_client_that_leaves(start_proxy: StartProxy, agent: str) -> None:
    """Readers beside the stream see the end of the call; the agent is asked to stop."""
    url = await start_proxy(replayed(agent, "cancel"))
    async with Client(url) as client:
        answer = await client.chat(f"X-Event-Stream-Id: {STREAM}", messages=says("go"))
        deciding = asyncio.create_task(_decide(url, answer, {}))
        await answer.until(b'"status":"running"')
        if agent == "gemini":  # it went on with its tool, and was not stopped
            await answer.until(b'"status":"completed"')
        deciding.cancel()
    async with asyncio.timeout(20):
        events = await ask(url, "GET", f"/-/streams/{STREAM}/events")
    kinds = [line for line in events.body.decode().split("\n") if line.startswith("event: tool.")]
    assert kinds == ["event: tool.running", "event: tool.completed"]
