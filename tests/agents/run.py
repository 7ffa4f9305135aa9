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

_Json = dict[str, Any]
_MODES: Final = ("allow", "deny", "leave", "kill", "again")
_QUIET: Final = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1,localhost"}


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _opencode(root: Path, home: Path, work: Path, port: int) -> tuple[list[str], dict[str, str]]:
    models = {
        "fake-model": {
            "name": "Fake",
            "tool_call": True,
            "limit": {"context": 100000, "output": 8000},
        }
    }
    options = {"baseURL": f"http://127.0.0.1:{port}/v1", "apiKey": "x"}
    provider = {"npm": "@ai-sdk/openai-compatible", "name": "Fake", "options": options}
    settings = {
        "model": "fake/fake-model",
        "small_model": "fake/fake-model",
        "autoupdate": False,
        "share": "disabled",
        "permission": {"bash": "ask"},
        "provider": {"fake": {**provider, "models": models}},
    }
    (work / "opencode.json").write_text(json.dumps(settings), "utf-8")
    names = ("DATA", "CONFIG", "STATE", "CACHE")
    env = {f"XDG_{name}_HOME": str(home / name.lower()) for name in names}
    switches = ("AUTOUPDATE", "MODELS_FETCH", "DEFAULT_PLUGINS")
    env |= {f"OPENCODE_DISABLE_{name}": "1" for name in switches}
    return [str(root / "node_modules/.bin/opencode"), "acp", "--cwd", str(work)], env


def _hermes(root: Path, home: Path, work: Path, port: int) -> tuple[list[str], dict[str, str]]:
    (home / "h").mkdir(exist_ok=True)
    (work / "zz").mkdir(exist_ok=True)
    (home / "h/config.yaml").write_text(
        "model: {default: fake-model, provider: custom, "
        f"base_url: http://127.0.0.1:{port}/v1, api_key: sk-fake, context_length: 200000}}\n"
        f"terminal: {{backend: local, cwd: {work}, timeout: 60}}\nagent: {{max_turns: 12}}\n",
        "utf-8",
    )
    return [str(root / "venv/bin/hermes"), "acp"], {"HERMES_HOME": str(home / "h")}


def _codex(root: Path, home: Path, work: Path, port: int) -> tuple[list[str], dict[str, str]]:
    (home / "codex").mkdir(exist_ok=True)
    (home / "codex/config.toml").write_text(
        'model = "fake-model"\nmodel_provider = "fake"\napproval_policy = "on-request"\n'
        'sandbox_mode = "workspace-write"\n[model_providers.fake]\nname = "Fake"\n'
        f'base_url = "http://127.0.0.1:{port}/v1"\nwire_api = "responses"\n'
        "request_max_retries = 0\nstream_max_retries = 0\n"
        f'[projects."{work}"]\ntrust_level = "trusted"\n',
        "utf-8",
    )
    env = {"CODEX_HOME": str(home / "codex"), "OPENAI_API_KEY": "sk-x", "CODEX_API_KEY": "sk-x"}
    return [str(root / "node_modules/.bin/codex-acp")], env


def _claude(root: Path, home: Path, work: Path, port: int) -> tuple[list[str], dict[str, str]]:
    (home / "c").mkdir(exist_ok=True)
    env = {"CLAUDE_CONFIG_DIR": str(home / "c"), "ANTHROPIC_MODEL": "claude-sonnet-4-5"}
    env |= {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}", "ANTHROPIC_API_KEY": "sk-fake"}
    switches = ("DISABLE_TELEMETRY", "DISABLE_ERROR_REPORTING", "DISABLE_AUTOUPDATER", "IS_SANDBOX")
    env |= dict.fromkeys((*switches, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"), "1")
    return [str(root / "node_modules/.bin/claude-agent-acp")], env


def _gemini(root: Path, home: Path, work: Path, port: int) -> tuple[list[str], dict[str, str]]:
    (home / ".gemini").mkdir(exist_ok=True)
    settings = {
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "general": {"disableAutoUpdate": True},
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
    }
    (home / ".gemini/settings.json").write_text(json.dumps(settings), "utf-8")
    env = {"GEMINI_API_KEY": "fake", "GOOGLE_GEMINI_BASE_URL": f"http://127.0.0.1:{port}"}
    command = [str(root / "node_modules/.bin/gemini"), "--acp", "-m", "gemini-2.5-flash"]
    return command, {**env, "GEMINI_CLI_TRUST_WORKSPACE": "true"}


def _codex_native(
    root: Path, home: Path, work: Path, port: int
) -> tuple[list[str], dict[str, str]]:
    _, env = _codex(root, home, work, port)
    return [str(root / "node_modules/.bin/codex"), "app-server"], env


def _claude_native(
    root: Path, home: Path, work: Path, port: int
) -> tuple[list[str], dict[str, str]]:
    _, env = _claude(root, home, work, port)
    packages = root / "node_modules/@anthropic-ai"
    return [str(next(packages.glob("claude-agent-sdk-*/claude")))], env


_NATIVE: Final = {"codex-native": "codex-app-server", "claude-native": "claude-stream-json"}
_AGENTS: Final = {
    "codex-native": _codex_native,
    "claude-native": _claude_native,
    "opencode": _opencode,
    "hermes": _hermes,
    "codex": _codex,
    "claude": _claude,
    "gemini": _gemini,
}


class Case:
    """One agent in one mode."""

    def __init__(self, agent: str, mode: str) -> None:
        self.name = f"{agent} {mode}"
        self.mode = mode
        self.frames: list[_Json] = []
        self.text = ""
        self.end = ""
        self.problems: list[str] = []

    def judge(self) -> None:
        """One beginning and one end for each call, in this order."""
        seen: dict[str, list[str]] = {}
        for frame in self.frames:
            seen.setdefault(frame["toolCallId"], []).append(frame["status"])
        if not seen:
            self.problems.append("no tool at all")
        for call_id, statuses in seen.items():
            if statuses != ["running", "completed"] and self.mode != "leave":
                self.problems.append(f"{call_id}: {statuses}")
        if self.mode in ("allow", "deny", "again") and self.end != "[DONE]":
            self.problems.append(f"ended by {self.end or 'nothing'}")
        if self.mode == "kill" and self.end == "[DONE]":
            self.problems.append("a killed agent ended its stream properly")

    def say(self) -> None:
        """Print what came."""
        print(f"== {self.name}: {'; '.join(self.problems) or 'ok'}")
        for frame in self.frames:
            error = " isError" if frame.get("isError") else ""
            reason = f" {frame['reason']}" if "reason" in frame else ""
            took = f" {frame['durationMs']} ms" if "durationMs" in frame else ""
            what = (frame["toolCallId"], frame["tool"], frame["label"], frame["status"])
            print("  ", *what, f"{took}{error}{reason}")
        print(f"   {self.text!r} {self.end}")


@contextlib.contextmanager
def _model(shared: Path, agent: str, mode: str, port: int, folder: Path) -> Iterator[None]:
    agent = agent.removesuffix("-native")
    kind = "cancel" if mode in ("leave", "kill") else "script"
    fake = "fake_gemini.py" if agent == "gemini" else "fake_model.py"
    script = shared / "logs" / f"{agent}_{kind}.json"
    text = script.read_text("utf-8").replace("/workspace", str(folder / "work"))
    (folder / "script.json").write_text(text, "utf-8")
    files = (str(folder / "script.json"), str(folder / "requests"))
    with subprocess.Popen([sys.executable, shared / fake, str(port), *files]) as process:
        try:
            yield
        finally:
            process.terminate()


@contextlib.asynccontextmanager
async def _proxy(
    root: Path, agent: str, port: int, folder: Path, mode: str, **more: Any
) -> AsyncIterator[str]:
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    command, env = _AGENTS[agent](root, home, work, port)
    path = f"{root / 'venv/bin'}:{os.environ['PATH']}"
    settings = config.load(
        environ={},
        flags={
            "server.listen": "127.0.0.1:0",
            "server.access_log": False,
            "upstream.agent": command,
            "upstream.kind": _NATIVE.get(agent, "auto"),
            "upstream.cwd": str(work),
            "upstream.env": {**env, **_QUIET, "HOME": str(home), "PATH": path},
            "upstream.permissions": "deny" if mode == "deny" else "ask",
            "upstream.start_timeout_s": 120,
            **more,
        },
    )
    runner, url = await server.start(settings)
    try:
        yield url
    finally:
        await server.stop(runner, 2)


async def _ask(case: Case, url: str, messages: list[_Json], dialect: str, folder: Path) -> None:
    body = {"model": "agent", "stream": True, "messages": messages}
    headers = {"X-Lifecycle-Events": dialect, "X-Session-Id": "one"}
    chat = f"{url}/v1/chat/completions"
    async with (
        aiohttp.ClientSession() as http,
        http.post(chat, json=body, headers=headers) as response,
    ):
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
    if case.mode != "again" or len(messages) > 1:
        return
    more = [{"role": "assistant", "content": case.text}, {"role": "user", "content": "again"}]
    await _ask(case, url, [*messages, *more], dialect, folder)


async def _take(case: Case, chunk: _Json, http: aiohttp.ClientSession, url: str) -> None:
    if "toolCallId" in chunk:
        case.frames.append(chunk)
    if "error" in chunk:
        case.end = f"error {chunk['error']['code']}"
    for choice in chunk.get("choices", ()):
        case.text += choice["delta"].get("content") or ""
    if "approval" in chunk:
        page = f"{url}/-/approvals/{chunk['approval']['id']}"
        async with http.post(page, json={"decision": "once"}):
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


async def _case(root: Path, shared: Path, agent: str, mode: str, dialect: str) -> Case:
    case = Case(agent, mode)
    folder = Path(tempfile.mkdtemp(prefix=f"agents-{agent}-"))
    port = _port()
    try:
        with _model(shared, agent, mode, port, folder):
            async with _proxy(root, agent, port, folder, mode) as url:
                started = time.monotonic()
                await _ask(case, url, [{"role": "user", "content": "go"}], dialect, folder)
                print(f"   {time.monotonic() - started:.1f} s")
            limit = time.monotonic() + 10
            while (left := _processes(folder)) and time.monotonic() < limit:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            if left:
                case.problems.append(f"processes are left: {left}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    case.judge()
    case.say()
    return case


async def _serve(own: argparse.Namespace) -> int:
    """Serve one agent, for a browser: see owui.mjs."""
    agent, folder = own.agents[0], Path(tempfile.mkdtemp(prefix="agents-serve-"))
    port, mode = _port(), own.modes[0]
    with _model(own.shared.resolve(), agent, mode, port, folder):
        more = {
            "server.listen": f"127.0.0.1:{own.serve}",
            "server.public_url": f"http://127.0.0.1:{own.serve}",
            "approvals.timeout_s": own.timeout,
        }
        async with _proxy(own.root, agent, port, folder, mode, **more) as url:
            print(f"serving {agent} at {url}/v1", flush=True)
            await asyncio.Event().wait()
    return 0


async def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("agents", nargs="+", choices=sorted(_AGENTS))
    parser.add_argument("--shared", type=Path, required=True, help="the folder with fake_model.py")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("AGENTS", "/tmp/agents")))
    parser.add_argument("--modes", nargs="+", choices=_MODES, default=list(_MODES))
    parser.add_argument("--dialect", default="chunk")
    parser.add_argument("--serve", type=int, metavar="PORT", help="only serve the first one")
    parser.add_argument("--timeout", type=float, default=120, help="of approvals, in seconds")
    own = parser.parse_args()
    if own.serve is not None:
        return await _serve(own)
    cases = [
        await _case(own.root, own.shared.resolve(), agent, mode, own.dialect)
        for agent in own.agents
        for mode in own.modes
    ]
    return int(any(case.problems for case in cases))


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
