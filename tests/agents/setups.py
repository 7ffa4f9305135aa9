"""How each real agent is started against a scripted model, and what that model says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

_Json = dict[str, Any]
Started = tuple[list[str], dict[str, str]]  # a command, and variables of its environment
KEY: Final = "loopback-test-key-0123456789abcdef"  # of Hermes' API server


def _opencode(root: Path, home: Path, work: Path, port: int) -> Started:
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


def _hermes(root: Path, home: Path, work: Path, port: int) -> Started:
    (home / "h").mkdir(exist_ok=True)
    (work / "zz").mkdir(exist_ok=True)
    (home / "h/config.yaml").write_text(
        "model: {default: fake-model, provider: custom, "
        f"base_url: http://127.0.0.1:{port}/v1, api_key: sk-fake, context_length: 200000}}\n"
        f"terminal: {{backend: local, cwd: {work}, timeout: 60}}\nagent: {{max_turns: 12}}\n",
        "utf-8",
    )
    return [str(root / "venv/bin/hermes"), "acp"], {"HERMES_HOME": str(home / "h")}


def _hermes_server(root: Path, home: Path, work: Path, port: int) -> Started:
    """Its own port is the model's, and one."""
    _, env = _hermes(root, home, work, port)
    own = {"ENABLED": "true", "HOST": "127.0.0.1", "PORT": str(port + 1), "KEY": KEY}
    lines = "".join(f"API_SERVER_{key}={value}\n" for key, value in own.items())
    (home / "h/.env").write_text(lines, "utf-8")
    return [str(root / "venv/bin/hermes"), "gateway", "run"], env


def _codex(root: Path, home: Path, work: Path, port: int) -> Started:
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


def _claude(root: Path, home: Path, work: Path, port: int) -> Started:
    (home / "c").mkdir(exist_ok=True)
    env = {"CLAUDE_CONFIG_DIR": str(home / "c"), "ANTHROPIC_MODEL": "claude-sonnet-4-5"}
    env |= {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}", "ANTHROPIC_API_KEY": "sk-fake"}
    switches = ("DISABLE_TELEMETRY", "DISABLE_ERROR_REPORTING", "DISABLE_AUTOUPDATER", "IS_SANDBOX")
    env |= dict.fromkeys((*switches, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"), "1")
    return [str(root / "node_modules/.bin/claude-agent-acp")], env


def _gemini(root: Path, home: Path, work: Path, port: int) -> Started:
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


def _codex_native(root: Path, home: Path, work: Path, port: int) -> Started:
    _, env = _codex(root, home, work, port)
    return [str(root / "node_modules/.bin/codex"), "app-server"], env


def _claude_native(root: Path, home: Path, work: Path, port: int) -> Started:
    _, env = _claude(root, home, work, port)
    packages = root / "node_modules/@anthropic-ai"
    return [str(next(packages.glob("claude-agent-sdk-*/claude")))], env


class Tools(NamedTuple):
    """What an agent calls its tools, and their arguments.

    Attributes:
        asks: a command that needs a permission; WORK is the folder.
        shown: the name of the tool that reads, as clients get it.
        more: arguments of a command that asks.
    """

    shell: str
    command: str
    read: str
    path: str
    asks: str = "echo danger"
    shown: str = ""
    more: _Json = {}  # noqa: RUF012  nobody changes it


class RealAgent(NamedTuple):
    """One row.

    Attributes:
        start: takes the installation, a home, a folder to work in, the model's port.
        kind: ``upstream.kind``.
        model: the fake one.
        knows_exit: failed commands are known as such.
        asks: it asks for permissions.
        stops: a command that is stopped, with its arguments.
    """

    start: Callable[[Path, Path, Path, int], Started]
    tools: Tools
    kind: str = "auto"
    model: str = "fake_model.py"
    knows_exit: bool = True
    asks: bool = True
    stops: _Json = {}  # noqa: RUF012  nobody changes it


_HERMES: Final = Tools("terminal", "command", "read_file", "path", "rm -rf WORK/zz", "read")
_CODEX: Final = Tools(
    *("exec_command", "cmd", "", "", "touch WORK/../zz"),
    more={"sandbox_permissions": "require_escalated", "justification": "test"},
)
_CLAUDE: Final = Tools("Bash", "command", "Read", "file_path", "touch WORK/zzfile")
AGENTS: Final = {
    "opencode": RealAgent(_opencode, Tools("bash", "command", "read", "filePath")),
    "codex": RealAgent(_codex, _CODEX, asks=False, stops={"yield_time_ms": 30000}),
    "claude": RealAgent(_claude, _CLAUDE),
    "hermes": RealAgent(_hermes, _HERMES),
    "gemini": RealAgent(
        _gemini,
        Tools("run_shell_command", "command", "read_file", "file_path", "touch WORK/zzfile"),
        model="fake_gemini.py",
        knows_exit=False,
    ),
    "codex-native": RealAgent(
        _codex_native, _CODEX, kind="codex-app-server", stops={"yield_time_ms": 30000}
    ),
    "claude-native": RealAgent(_claude_native, _CLAUDE, kind="claude-stream-json"),
    # Not started by the proxy: an API server, by its runs.
    "hermes-runs": RealAgent(_hermes_server, _HERMES._replace(shown="read_file"), kind="runs"),
}


def script(agent: RealAgent, work: Path, *, is_stopped: bool) -> _Json:
    """What the model says: one round for each column of the matrix, or one command to be stopped.

    Args:
        agent: that executes it.
        work: where it works.
        is_stopped: the latter.
    """
    tools = agent.tools

    def shell(name: str, command: str, **more: Any) -> _Json:
        arguments = {tools.command: command, "description": name, **more}
        if tools.command == "cmd":
            del arguments["description"]
        return {"call": tools.shell, "args": arguments, "id": f"call_{name}"}

    def read(name: str, path: str) -> _Json:
        if not tools.read:
            return shell(name, f"cat {work}/{path}")
        return {"call": tools.read, "args": {tools.path: f"{work}/{path}"}, "id": f"call_{name}"}

    if is_stopped:
        long = shell("long", "sleep 20; echo end", **agent.stops)
        return {"steps": [[{"text": "Long."}, long], [{"text": "after"}]]}
    asks = tools.asks.replace("WORK", str(work))
    return {
        "steps": [
            [{"text": "I will look."}, shell("ok", "echo line1; sleep 0.5; echo line2")],
            [shell("exit", "echo oops >&2; exit 3")],
            [read("missing", "nonexistent.txt")],
            [read("a", "first.txt"), read("b", "second.txt")],
            [shell("asks", asks, **tools.more)],
            [{"text": "All done."}],
        ]
    }
