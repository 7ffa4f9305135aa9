"""The matrix of agents: what a client gets of one, and whether that is right."""

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import aiohttp

from tests.agents.setups import AGENTS

_Json = dict[str, Any]
MODES: Final = ("allow", "deny", "leave", "kill", "again")
_COLUMNS: Final = (
    *("ok", "exit 3", "missing file", "parallel", "denied", "approved", "cancelled", "killed"),
)
_STREAM: Final = "agents-run-0123456789"


class Tool(NamedTuple):
    """The command that is stopped.

    Attributes:
        runs: whether it runs by now.
        kill: kills the agent.
    """

    runs: Callable[[], bool]
    kill: Callable[[], None]


class Case:
    """One agent in one mode, for one dialect."""

    def __init__(self, name: str, mode: str, dialect: str) -> None:
        self.name = name
        self.agent = AGENTS[name]
        self.mode = mode
        self.dialect = dialect
        self.frames: list[_Json] = []
        self.asked: list[str] = []  # labels
        self.text = ""
        self.end = ""
        self.problems: list[str] = []
        self.columns: dict[str, str] = {}
        self.took_s = 0.0

    def judge(self) -> None:
        """One beginning and one end for each call, in this order; then column by column."""
        self._judge_stream()
        if self.mode == "allow":
            self._judge_allowed()
        elif self.mode == "deny" and not self.agent.asks:
            self._note("denied", "-")
        elif self.mode == "deny":
            self._note("denied", "" if self.asked else "it did not ask")
            for label in self.asked:
                self._column("denied", label, self.agent.tools.shell, failed=True)
        elif self.mode == "leave":
            self._column("cancelled", "sleep 20", self.agent.tools.shell, failed=None)
        elif self.mode == "kill":
            self._column("killed", "sleep 20", self.agent.tools.shell, failed=True)

    def _judge_stream(self) -> None:
        for call_id, frames in self._calls().items():
            statuses = [one["status"] for one in frames]
            if statuses != ["running", "completed"]:
                self.problems.append(f"{call_id}: {statuses}")
        if self.mode in ("allow", "deny", "again") and self.end != "[DONE]":
            self.problems.append(f"ended by {self.end or 'nothing'}")
        if self.mode == "kill" and not self.end.startswith("error upstream_"):
            self.problems.append(f"a killed agent ended its stream by {self.end or 'nothing'}")

    def _judge_allowed(self) -> None:
        tools, knows = self.agent.tools, self.agent.knows_exit
        read = tools.shown or tools.read or tools.shell
        self._column("ok", "line1", tools.shell, failed=False)
        self._column("exit 3", "oops", tools.shell, failed=knows)
        self._column("missing file", "nonexistent", read, failed=True)
        self._column("parallel", "first.txt", read, failed=False)
        self._column("parallel", "second.txt", read, failed=False)
        asks = tools.asks.partition(" WORK")[0]
        if any(asks in one for one in self.asked):
            self._column("approved", asks, tools.shell, failed=False)
        else:
            self._note("approved", "it did not ask" if self.agent.asks else "-")

    def _calls(self) -> dict[str, list[_Json]]:
        found: dict[str, list[_Json]] = {}
        for frame in self.frames:
            found.setdefault(frame["toolCallId"], []).append(frame)
        return found

    def _column(self, column: str, label: str, tool: str, *, failed: bool | None) -> None:
        """The call with this label: its name, and whether it failed; None for either."""
        calls = [one for one in self._calls().values() if label in one[0].get("label", "")]
        if len(calls) != 1:
            self._note(column, f"{len(calls)} calls with {label}")
            return
        first, *_, last = calls[0]
        found = (first["tool"], last.get("isError", False))
        expected = (tool, found[1] if failed is None else failed)
        self._note(column, "" if found == expected else f"{label}: {found} for {expected}")

    def _note(self, column: str, problem: str) -> None:
        if problem and problem != "-":
            self.problems.append(f"{column}: {problem}")
        worst = max(self.columns.get(column, ""), "FAILED" if problem not in ("", "-") else problem)
        self.columns[column] = worst

    def say(self) -> None:
        """Print what came."""
        title = f"{self.name} {self.mode} {self.dialect}, {self.took_s:.1f} s"
        print(f"== {title}: {'; '.join(self.problems) or 'ok'}")
        for frame in self.frames:
            error = " isError" if frame.get("isError") else ""
            reason = f" {frame['reason']}" if "reason" in frame else ""
            what = (frame["toolCallId"], frame["tool"], frame.get("label", ""), frame["status"])
            print("  ", *what, f"{error}{reason}")
        print(f"   {self.text!r} {self.end}", flush=True)


async def converse(case: Case, url: str, messages: list[_Json], tool: Tool) -> None:
    """One conversation, as the mode says.

    Args:
        case: gets what comes.
        url: of the proxy.
        messages: of the user.
        tool: that runs in the modes ``leave`` and ``kill``.
    """
    body = {"model": "agent", "stream": True, "messages": messages}
    headers = {"X-Lifecycle-Events": case.dialect, "X-Session-Id": "one"}
    if case.mode == "leave":
        headers["X-Event-Stream-Id"] = _STREAM
    async with aiohttp.ClientSession() as http:
        await _follow(case, http, url, tool, json=body, headers=headers)
        if case.mode == "leave":
            left = time.monotonic()
            async with http.get(f"{url}/-/streams/{_STREAM}/events") as response:
                case.frames = _calls_of((await response.read()).decode())
            case.text += f" (stopped within {time.monotonic() - left:.2f} s)"
    if case.mode != "again" or len(messages) > 1:
        return
    more = [{"role": "assistant", "content": case.text}, {"role": "user", "content": "again"}]
    await converse(case, url, [*messages, *more], tool)


async def _follow(
    case: Case, http: aiohttp.ClientSession, url: str, tool: Tool, **asked: Any
) -> None:
    async with http.post(f"{url}/v1/chat/completions", **asked) as response:
        if response.status != 200:
            case.end = f"status {response.status}: {(await response.text())[:300]}"
            return
        with contextlib.suppress(aiohttp.ClientPayloadError):
            async for line in response.content:
                data = line.decode().strip().removeprefix("data: ")
                if data == "[DONE]":
                    case.end = data
                if data.startswith("{"):
                    await _take(case, json.loads(data), http, url)
                running = case.frames and case.frames[-1]["status"] == "running"
                if running and case.mode in ("leave", "kill") and tool.runs():
                    if case.mode == "leave":
                        return
                    tool.kill()


def _calls_of(events: str) -> list[_Json]:
    """The frames of calls beside a stream."""
    lines = (one[6:] for one in events.split("\n") if one.startswith("data: {"))
    return [one for one in map(json.loads, lines) if "toolCallId" in one and "status" in one]


async def _take(case: Case, chunk: _Json, http: aiohttp.ClientSession, url: str) -> None:
    if "toolCallId" in chunk:
        case.frames.append(chunk)
    if "error" in chunk:
        case.end = f"error {chunk['error']['code']}"
    for choice in chunk.get("choices", ()):
        case.text += choice["delta"].get("content") or ""
    if "approval" in chunk:
        case.asked.append(chunk["approval"]["label"])
        page = f"{url}/-/approvals/{chunk['approval']['id']}"
        decision = "deny" if case.mode == "deny" else "once"
        async with http.post(page, json={"decision": decision}):
            pass


def say_matrix(cases: list[Case]) -> None:
    """One row for each agent and dialect."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for case in cases:
        rows.setdefault((case.name, case.dialect), {}).update(case.columns)
    print("agent          dialect    " + "  ".join(f"{one:12}" for one in _COLUMNS))
    for (name, dialect), found in rows.items():
        cells = (found[one] or "ok" if one in found else "" for one in _COLUMNS)
        print(f"{name:14} {dialect:10} " + "  ".join(f"{one:12}" for one in cells))
    print("- : it asks for nothing by itself")
