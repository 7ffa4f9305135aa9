"""Try the proxy with a real LobeChat in a real browser. See the README beside this file."""

import argparse
import asyncio
import json
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

from aiohttp import web

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from lifecycle_proxy.app import serve  # noqa: E402
from lifecycle_proxy.config import model as config  # noqa: E402

from tests.open_webui.backend import PAUSE_S, call, chunk, progress  # noqa: E402

Json = dict[str, Any]
Script = Callable[[], AsyncIterator[bytes]]
_DRIVE_S: Final = 1800.0
_MARK: Final = "\u2063"
_END: Final = chunk({}, "stop") + b"data: [DONE]\n\n"
_RESULT: Final = {"role": "tool", "tool_call_id": "call_1", "content": "/dev/sda1 42%"}


class DiesError(Exception):
    """The backend's connection breaks."""


def run(tool: str = "terminal", call_id: str = "call_1", label: str = "df -h /") -> bytes:
    return progress(tool, call_id, "running", label)


def over(tool: str = "terminal", call_id: str = "call_1") -> bytes:
    return progress(tool, call_id, "completed", "")


async def one() -> AsyncIterator[bytes]:
    """An agent that tells of its tools by named events (Hermes)."""
    yield chunk({"role": "assistant"}) + chunk({"content": "Let me check."})
    yield run()
    await asyncio.sleep(PAUSE_S)
    yield over() + chunk({"content": "Done: 42 files."}) + _END


async def again() -> AsyncIterator[bytes]:
    """A second tool behind text."""
    yield chunk({"role": "assistant"}) + chunk({"content": "Let me check."})
    yield run()
    await asyncio.sleep(PAUSE_S)
    yield over() + chunk({"content": "# Half full\n\n- one\n- two\n\nNow the web."})
    yield run("web_search", "call_2", "what *is* `df`?")
    await asyncio.sleep(PAUSE_S)
    yield over("web_search", "call_2") + chunk({"content": "It is a command."}) + _END


async def parallel() -> AsyncIterator[bytes]:
    """Three tools at once."""
    tools = [("terminal", "a", "df"), ("read_file", "b", "x.txt"), ("web_search", "c", "df")]
    yield chunk({"role": "assistant"}) + chunk({"content": "All at once:"})
    for each in tools:
        yield run(*each)
    for tool, call_id, _ in tools:
        await asyncio.sleep(PAUSE_S / 2)
        yield over(tool, call_id)
    yield chunk({"content": "Done."}) + _END


async def calls() -> AsyncIterator[bytes]:
    """A backend that shows its calls, runs them, and shows their results (LiteLLM with MCP)."""
    yield chunk({"role": "assistant"}) + chunk({"content": "Let me check."})
    yield call("call_1", "terminal", '{"command": "df')
    yield call("call_1", "terminal", ' -h /"}')
    await asyncio.sleep(PAUSE_S)
    yield chunk(_RESULT) + chunk({"content": "Half full."}) + _END


async def thinks() -> AsyncIterator[bytes]:
    """A model that thinks in between."""
    yield chunk({"role": "assistant"}) + chunk({"reasoning_content": "They want the disk."})
    yield run()
    await asyncio.sleep(PAUSE_S)
    yield over() + chunk({"reasoning_content": "Half full, then."})
    yield chunk({"content": "Half full."}) + _END


async def last() -> AsyncIterator[bytes]:
    """No text behind the tool."""
    yield chunk({"role": "assistant"})
    yield run()
    await asyncio.sleep(PAUSE_S)
    yield over() + _END


async def diesbefore() -> AsyncIterator[bytes]:
    """The backend dies before any tool."""
    yield chunk({"role": "assistant"}) + chunk({"content": "Let me check."})
    await asyncio.sleep(PAUSE_S)
    raise DiesError


async def diesin() -> AsyncIterator[bytes]:
    """It dies while a tool runs."""
    yield chunk({"role": "assistant"})
    yield run()
    await asyncio.sleep(PAUSE_S)
    raise DiesError


async def diesbehind() -> AsyncIterator[bytes]:
    """It dies when a tool has ended."""
    yield chunk({"role": "assistant"})
    yield run()
    await asyncio.sleep(PAUSE_S)
    yield over()
    await asyncio.sleep(0.5)
    raise DiesError


async def noend() -> AsyncIterator[bytes]:
    """Its stream ends in a tool, without [DONE]."""
    yield chunk({"role": "assistant"})
    yield run()
    await asyncio.sleep(PAUSE_S)


_ALL: Final = (one, again, parallel, calls, thinks, last, diesbefore, diesin, diesbehind, noend)
_SCRIPTS: Final[dict[str, Script]] = {script.__name__: script for script in _ALL}
_SECOND_TURN: Final = ("one", "again", "parallel", "calls")


class Backend:
    """Plays the script that the latest word of the user names. ``log``: what was asked."""

    def __init__(self) -> None:
        self.log: list[Json] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/models"):
            return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})
        asked = await request.json()
        self.log.append({"headers": dict(request.headers), "body": asked})
        said = [m["content"] for m in asked["messages"] if m["role"] == "user"]
        words = said[-1].split() if isinstance(said[-1], str) else []
        script = _SCRIPTS.get(words[0] if words else "", _title)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        try:
            async for piece in script():
                await answer.write(piece)
        except DiesError:
            if request.transport is not None:
                request.transport.abort()
        return answer


async def _title() -> AsyncIterator[bytes]:
    yield chunk({"content": "A title"}) + _END


class Bench:
    """What was asked of the page, and what did not hold."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.backend = Backend()
        self.failures = 0

    def check(self, holds: object, what: str) -> None:
        print(f"  {'ok  ' if holds else 'FAIL'} {what}", flush=True)
        self.failures += not holds

    async def drive(self, dialect: str, names: list[str]) -> dict[str, list[Json]]:
        """Talk to each script, to some two turns."""
        talks = [[n, *((f"{n} please", f"{n} again") if n in _SECOND_TURN else (f"{n} please",))]
                 for n in names]  # fmt: skip
        job = {"url": self.args.url, "out": f"{self.args.out}/{dialect}", "talks": talks}
        job |= {"playwright": self.args.playwright, "chromium": self.args.chromium}
        job |= {"running": "…|Deep Thinking", "provider": self.args.provider}
        command = [*shlex.split(self.args.driver), json.dumps(job)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await asyncio.wait_for(process.communicate(), _DRIVE_S)
        found: dict[str, list[Json]] = json.loads(out)
        (Path(self.args.out) / f"{dialect}.json").write_text(
            json.dumps({"seen": found, "asked": self.backend.log}, indent=1, ensure_ascii=False)
        )
        return found


async def play(bench: Bench, dialect: str, names: list[str]) -> None:
    """One dialect, in front of the page that is already there."""
    rules = [{"header": "user-agent", "match": "*", "dialect": dialect}]
    backend = web.AppRunner(_app(bench.backend))
    await backend.setup()
    site = web.TCPSite(backend, "127.0.0.1", 0)
    await site.start()
    port = backend.addresses[0][1]
    flags: Json = {
        "server.listen": bench.args.listen,
        "upstream.url": f"http://127.0.0.1:{port}/v1",
    }
    if dialect != "quote":  # that is what LobeChat gets by itself
        flags["lifecycle.clients"] = rules
    runner, _ = await serve.start(config.load(environ={}, flags=flags))
    try:
        bench.backend.log.clear()
        found = await bench.drive(dialect, names)
    finally:
        await serve.stop(runner, 0)
        await backend.cleanup()
    judge(bench, dialect, found)


def judge(bench: Bench, dialect: str, found: dict[str, list[Json]]) -> None:
    """What must hold on the page, and of what the backend was sent."""
    for name, turns in found.items():
        print(f"{dialect}, {name}: {_SCRIPTS[name].__doc__}")
        for turn in turns:
            print(f"    running: {turn.get('running')}\n    done:    {turn.get('done')}")
            bench.check("error" not in turn, f"driven {turn.get('error', '')}")
            bench.check(not turn.get("shimmers"), "nothing shimmers at the end")
            if dialect == "quote" and name != "diesbefore":
                bench.check("…" in turn.get("running", ""), "a line while a tool runs")
                ends = turn["done"].count("✓") + turn["done"].count("✗")
                # LobeChat draws text slowly, and drops what waits for that when an error comes.
                bench.check(ends or name == "diesin", f"{ends} ended")
            bench.check("42%" not in turn.get("done", ""), "no result in the answer")
    asked = json.dumps([one["body"] for one in bench.backend.log], ensure_ascii=False)
    bench.check(_MARK not in asked, f"no mark in {len(bench.backend.log)} requests")
    bench.check("💻" not in asked and "✓" not in asked, "no line in them either")


def _app(backend: Backend) -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", backend.handle)
    return app


async def _run(args: argparse.Namespace) -> int:
    bench = Bench(args)
    for dialect in args.dialects.split(","):
        await play(bench, dialect, args.cases or list(_SCRIPTS))
    print(f"{bench.failures} failed; screenshots and requests are in {args.out}")
    return int(bool(bench.failures))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(_SCRIPTS)}")
    parser.add_argument("--url", default="http://localhost:3010", help="LobeChat; %(default)s")
    parser.add_argument(
        "--listen",
        default="127.0.0.1:18712",
        help="of the proxy, as LobeChat knows it; %(default)s",
    )
    parser.add_argument("--dialects", default="quote,reasoning", help="default: %(default)s")
    parser.add_argument(
        "--provider", default="newapi", help="whose code on the server is used; %(default)s"
    )
    parser.add_argument("--driver", default=f"node {HERE / 'drive.mjs'}")
    parser.add_argument("--playwright", default=".", help="where node_modules/playwright-core lies")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser")
    parser.add_argument("--out", required=True, help="folder for screenshots and requests")
    args = parser.parse_args()
    unknown = set(args.cases) - set(_SCRIPTS)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    Path(args.out).mkdir(parents=True, exist_ok=True)
    return asyncio.run(_run(args))


if __name__ == "__main__":
    sys.exit(main())
