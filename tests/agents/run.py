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

from tests.agents.matrix import MODES, Case, Tool, converse, say_matrix
from tests.agents.setups import AGENTS, KEY, script

_Json = dict[str, Any]
_QUIET: Final = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1,localhost"}


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


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
            "upstream.start_timeout_s": 300,
            **upstream,
            **more,
        },
    )
    runner, url = await server.start(settings)
    try:
        yield url
    finally:
        await server.stop(runner, 2)


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
    port, tool = _port(), Tool(lambda: _works(folder), lambda: _kill(folder))
    try:
        with _model(own, name, mode, port, folder):
            async with (
                _upstream(own, name, mode, port, folder) as upstream,
                _proxy(upstream) as url,
            ):
                started = time.monotonic()
                async with asyncio.timeout(240):
                    await converse(case, url, [{"role": "user", "content": "go"}], tool)
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


async def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("agents", nargs="*", help=f"of {', '.join(AGENTS)}; without one, all")
    parser.add_argument("--shared", type=Path, required=True, help="the folder with fake_model.py")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("AGENTS", "/tmp/agents")))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--dialects", nargs="+", default=["chunk", "openwebui"])
    parser.add_argument("--serve", type=int, metavar="PORT", help="only serve the first one")
    parser.add_argument("--timeout", type=float, default=120, help="of approvals, in seconds")
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="write down what they say")
    parser.add_argument("--keep", action="store_true", help="keep their folders")
    own = parser.parse_args()
    own.shared, own.agents = own.shared.resolve(), own.agents or list(AGENTS)
    if unknown := set(own.agents) - set(AGENTS):
        parser.error(f"unknown: {', '.join(unknown)}")
    if own.serve is not None:
        return await _serve(own)
    cases = [
        await _case(own, name, mode, dialect)
        for name in own.agents
        for mode in own.modes
        for dialect in own.dialects
    ]
    say_matrix(cases)
    return int(any(case.problems for case in cases))


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
