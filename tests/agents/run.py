"""Real agents behind the proxy, against a scripted model: see README.md."""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lifecycle_proxy.app import serve as server
from lifecycle_proxy.config import model as config

from tests.agents.setups import AGENTS, KEY, script

_Json = dict[str, Any]
_MODES: Final = ("allow", "deny", "leave", "kill", "again")
_COLUMNS: Final = (
    *("ok", "exit 3", "missing file", "parallel", "denied", "approved", "cancelled", "killed"),
)
_STREAM: Final = "agents-run-0123456789"
_QUIET: Final = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1,localhost"}


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


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


@contextlib.contextmanager
def _process(command: list[str], **more: Any) -> Iterator[None]:
    with subprocess.Popen(command, **more) as process:
        try:
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def _model(
    own: argparse.Namespace, name: str, mode: str, port: int, folder: Path
) -> Iterator[None]:
    agent = AGENTS[name]
    says = script(agent, folder / "work", is_stopped=mode in ("leave", "kill"))
    (folder / "script.json").write_text(json.dumps(says), "utf-8")
    files = (str(folder / "script.json"), str(folder / "requests"))
    with _process([sys.executable, str(own.shared / agent.model), str(port), *files]):
        yield


@contextlib.asynccontextmanager
async def _upstream(
    own: argparse.Namespace, name: str, mode: str, port: int, folder: Path
) -> AsyncIterator[_Json]:
    """The settings with the agent. A server is started."""
    home, work, agent = folder / "home", folder / "work", AGENTS[name]
    for one in (home, work, work / "zz"):
        one.mkdir()
    for file in ("first.txt", "second.txt"):
        (work / file).write_text("one\n", "utf-8")
    command, more = agent.start(own.root, home, work, port)
    path = f"{own.root / 'venv/bin'}:{os.environ['PATH']}"
    env = {**more, **_QUIET, "HOME": str(home), "PATH": path}
    if agent.kind != "runs":
        if own.record is not None:
            tee = str(Path(__file__).with_name("tee.py"))
            record = own.record.resolve() / f"{name}-{mode}.jsonl"
            record.unlink(missing_ok=True)
            command = [sys.executable, tee, str(record), *command]
        start = {"agent": command, "kind": agent.kind, "cwd": str(work), "env": env}
        yield {f"upstream.{key}": value for key, value in start.items()}
        return
    with (
        (folder / "server.log").open("wb") as log,
        _process(command, env=env, cwd=work, stdout=log, stderr=log),
    ):
        url = f"http://127.0.0.1:{port + 1}"
        async with aiohttp.ClientSession() as http, asyncio.timeout(120):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"{url}/health"):
                        break
                await asyncio.sleep(0.2)
        yield {"upstream.url": f"{url}/v1", "upstream.hermes_runs": True, "upstream.api_key": KEY}


@contextlib.asynccontextmanager
async def _proxy(upstream: _Json, **more: Any) -> AsyncIterator[str]:
    settings = config.load(
        environ={},
        flags={
            "server.listen": "127.0.0.1:0",
            "server.access_log": False,
            "upstream.start_timeout_s": 120,
            **upstream,
            **more,
        },
    )
    runner, url = await server.start(settings)
    try:
        yield url
    finally:
        await server.stop(runner, 2)


async def _ask(case: Case, url: str, messages: list[_Json], folder: Path) -> None:
    body = {"model": "agent", "stream": True, "messages": messages}
    headers = {"X-Lifecycle-Events": case.dialect, "X-Session-Id": "one"}
    if case.mode == "leave":
        headers["X-Event-Stream-Id"] = _STREAM
    async with aiohttp.ClientSession() as http:
        await _follow(case, http, url, folder, json=body, headers=headers)
        if case.mode == "leave":
            left = time.monotonic()
            async with http.get(f"{url}/-/streams/{_STREAM}/events") as response:
                case.frames = _calls_of((await response.read()).decode())
            case.text += f" (stopped within {time.monotonic() - left:.2f} s)"
    if case.mode != "again" or len(messages) > 1:
        return
    more = [{"role": "assistant", "content": case.text}, {"role": "user", "content": "again"}]
    await _ask(case, url, [*messages, *more], folder)


async def _follow(
    case: Case, http: aiohttp.ClientSession, url: str, folder: Path, **asked: Any
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
                if running and case.mode in ("leave", "kill") and _works(folder):
                    if case.mode == "leave":
                        return
                    _kill(folder)


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


def _processes(folder: Path) -> dict[int, str]:
    """Command lines of the processes whose environment or directory names the folder."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (path / "environ").read_bytes():
                found[int(path.name)] = (path / "cmdline").read_text("utf-8", "replace")
    return found


def _works(folder: Path) -> bool:
    """Whether the tool (``sleep 20``) runs."""
    return any(line.startswith("sleep\0") for line in _processes(folder).values())


def _kill(folder: Path) -> None:
    """Kill the agent itself: all but the guard and the tool."""
    for pid, line in _processes(folder).items():
        if "guard.py" not in line and not line.startswith("sleep\0"):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


async def _case(own: argparse.Namespace, name: str, mode: str, dialect: str) -> Case:
    case = Case(name, mode, dialect)
    folder = Path(tempfile.mkdtemp(prefix=f"agents-{name}-"))
    port = _port()
    try:
        with _model(own, name, mode, port, folder):
            async with (
                _upstream(own, name, mode, port, folder) as upstream,
                _proxy(upstream) as url,
            ):
                started = time.monotonic()
                async with asyncio.timeout(240):
                    await _ask(case, url, [{"role": "user", "content": "go"}], folder)
                case.took_s = time.monotonic() - started
            limit = time.monotonic() + 10
            while (left := _processes(folder)) and time.monotonic() < limit:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            if left:
                case.problems.append(f"processes are left: {left}")
    except TimeoutError:
        case.problems.append("no end within 240 s")
    finally:
        if own.keep:
            print("   ", folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    case.judge()
    case.say()
    return case


async def _serve(own: argparse.Namespace) -> int:
    """Serve one agent, for a browser: see owui.mjs."""
    name, folder = own.agents[0], Path(tempfile.mkdtemp(prefix="agents-serve-"))
    port, mode = _port(), own.modes[0]
    with _model(own, name, mode, port, folder):
        more = {
            "server.listen": f"127.0.0.1:{own.serve}",
            "server.public_url": f"http://127.0.0.1:{own.serve}",
            "approvals.timeout_s": own.timeout,
        }
        async with (
            _upstream(own, name, mode, port, folder) as upstream,
            _proxy(upstream, **more) as url,
        ):
            print(f"serving {name} at {url}/v1", flush=True)
            await asyncio.Event().wait()
    return 0


def _say_matrix(cases: list[Case]) -> None:
    """One row for each agent and dialect."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for case in cases:
        rows.setdefault((case.name, case.dialect), {}).update(case.columns)
    print("agent          dialect    " + "  ".join(f"{one:12}" for one in _COLUMNS))
    for (name, dialect), found in rows.items():
        cells = (found[one] or "ok" if one in found else "" for one in _COLUMNS)
        print(f"{name:14} {dialect:10} " + "  ".join(f"{one:12}" for one in cells))
    print("- : it asks for nothing by itself")


async def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("agents", nargs="+", choices=sorted(AGENTS))
    parser.add_argument("--shared", type=Path, required=True, help="the folder with fake_model.py")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("AGENTS", "/tmp/agents")))
    parser.add_argument("--modes", nargs="+", choices=_MODES, default=list(_MODES))
    parser.add_argument("--dialects", nargs="+", default=["chunk", "openwebui"])
    parser.add_argument("--serve", type=int, metavar="PORT", help="only serve the first one")
    parser.add_argument("--timeout", type=float, default=120, help="of approvals, in seconds")
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="write down what they say")
    parser.add_argument("--keep", action="store_true", help="keep their folders")
    own = parser.parse_args()
    own.shared = own.shared.resolve()
    if own.serve is not None:
        return await _serve(own)
    cases = [
        await _case(own, name, mode, dialect)
        for name in own.agents
        for mode in own.modes
        for dialect in own.dialects
    ]
    _say_matrix(cases)
    return int(any(case.problems for case in cases))


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
