"""Try the proxy with a real Open WebUI in a real browser. See the README beside this file."""

import argparse
import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from tests.open_webui.backend import SCRIPTS, Backend, Relay, serve  # noqa: E402

Json = dict[str, Any]
_TIME: Final = re.compile(r"\b\d+\.\d s\b|[^|]*\b\d+:\d\d [AP]M$")
_START_S: Final = 600.0  # Open WebUI fills a new database first
_DRIVE_S: Final = 300.0
_ENV: Final = "LIFECYCLE_PROXY_"
# Of its script: to any other question it adds that it is one.
_DEMO_QUESTION: Final = "Can we have the party in the garden on Saturday?"
_SHOWN: Final = 500  # characters of a page
_OPEN_WEBUI_ENV: Final = {
    "WEBUI_SECRET_KEY": "local-test",
    "WEBUI_AUTH": "False",
    "ENABLE_API_KEYS": "true",
    "ENABLE_PERSISTENT_CONFIG": "false",
    "ENABLE_OLLAMA_API": "false",
    "ENABLE_OPENAI_API": "true",
    # Nothing is fetched.
    "OFFLINE_MODE": "true",
    "HF_HUB_OFFLINE": "1",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    "RAG_EMBEDDING_ENGINE": "openai",
    "RAG_EMBEDDING_MODEL": "none",
    "ENABLE_AUTOCOMPLETE_GENERATION": "false",
}
# What Open WebUI asks the model for behind our back.
_TASKS: Final = ("TITLE", "TAGS", "FOLLOW_UP")


class Bench:
    """Open WebUI -> relay -> proxy -> backend, with default settings; and the demo."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.url = ""
        self.backend = Backend()
        self.relays: dict[str, Relay] = {}  # by what is special about the proxy; "" for nothing
        self.recorder = AsyncExitStack()  # of the proxy that records
        self.cassette = Path(args.out) / "session.jsonl"
        self.failures = 0

    def keep(self, name: str, data: bytes) -> None:
        (Path(self.args.out) / name).write_bytes(data)

    def check(self, holds: object, what: str) -> None:
        print(f"  {'ok  ' if holds else 'FAIL'} {what}", flush=True)
        self.failures += not holds

    async def converse(self, model: str, *turns: str) -> tuple[list[Json], list[Json]]:
        """Talk to a model; return what the page showed in each turn, and what the backend got."""
        before = len(self.backend.log)
        seen = await self.drive(model, model, *turns)
        got = self.backend.log[before:]
        messages = [asked["messages"] for asked in got]
        kept = {"seen": seen, "requests": messages}
        self.keep(f"{model}.json", json.dumps(kept, indent=1, ensure_ascii=False).encode())
        special = model if model in self.relays else model.partition("-")[2]
        sent = self.relays[special].sent
        self.keep(f"{model}.sse", b"\n".join(sent[-len(turns) :]))
        self.check(seen.get("reloaded") == _last(seen), "the same page after it is loaded again")
        return seen["turns"], got

    async def drive(self, model: str, name: str, *turns: str, picture: bool = False) -> Json:
        """Talk to a model; return what the page showed."""
        job: Json = {"url": self.url, "model": model, "turns": turns, "picture": picture}
        job["out"] = f"{self.args.out}/{name}"
        job |= {"playwright": self.args.playwright, "chromium": self.args.chromium}
        command = [*shlex.split(self.args.driver), json.dumps(job)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:
            out, _ = await asyncio.wait_for(process.communicate(), _DRIVE_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        seen: Json = json.loads(out)
        if "error" in seen:
            self.check(False, f"driven: {seen['error']}")
        for number, turn in enumerate(seen["turns"], 1):
            for when in ("running", "done", "open"):
                print(f"  {number} {when}: {turn.get(when, '')[:_SHOWN]}")
            self.check(turn.get("ended"), f"turn {number} ended")
            self.check(not turn.get("spinners"), f"turn {number}: nothing spins at its end")
        return seen


def _last(seen: Json) -> str:
    """The last answer as it was at its end."""
    return str(seen["turns"][-1].get("done"))


def _history(asked: Json) -> list[Json]:
    return [message for message in asked["messages"] if message["role"] != "system"]


async def agent(bench: Bench) -> None:
    """Tools that run behind the proxy get cards, and the backend never sees those again."""
    turns, got = await bench.converse("agent", bench.args.prompt, "and again")
    said = turns[0]["done"]
    _spins(bench, turns[0])
    bench.check("Explored" in said or "View Result" in said, "the card is ticked")
    bench.check("Tool" not in turns[0]["open"], "Open WebUI has not run the tool")
    bench.check(len(got) == 2, f"one request for each turn ({len(got)})")
    roles = [message["role"] for message in _history(got[-1])]
    bench.check(roles == ["user", "assistant", "user"], f"the next turn's history: {roles}")
    bench.check("htp_" not in json.dumps(got), "no card in what the backend got")
    if "agent" not in bench.backend.real:
        answer = _history(got[-1])[1]["content"]
        bench.check("Let me check." in answer and "42 files." in answer, f"the text: {answer!r}")


async def native(bench: Bench) -> None:
    """Open WebUI's own tool: it draws its own card and runs it, whatever the proxy adds."""
    turns, got = await bench.converse("native", "what time is it", "and again")
    bench.check("The clock says" in turns[0]["done"], "the answer is whole")
    bench.check("current_timestamp" in turns[0]["open"], "the card holds the real result")
    bench.check(len(got) == 4, f"two requests for each turn ({len(got)})")
    for asked in (got[1], got[-1]):
        calls = [c["id"] for m in asked["messages"] for c in m.get("tool_calls") or ()]
        answered = [m["tool_call_id"] for m in asked["messages"] if m["role"] == "tool"]
        bench.check(calls and calls == answered, f"each call answered once: {answered}")


async def demo(bench: Bench) -> None:
    """``lifecycle-proxy demo``: two tools at once, of which one fails, and a third."""
    turns, _ = await bench.converse("demo", _DEMO_QUESTION, "and again")
    for turn in turns:
        _spins(bench, turn)
        _clean(bench, turn, "14 guests are coming", crosses=1)
        for card in ("weather in Oslo", "party/guests.txt", "search_files"):
            bench.check(card in turn["open"], f"a card: {card}")


async def parallel(bench: Bench) -> None:
    """Three tools at once, of which one fails; results that the answer must not show."""
    turns, got = await bench.converse("parallel", "Oslo, disk, notes?", "and again")
    for turn in turns:
        _spins(bench, turn)
        _clean(bench, turn, "It will rain in Oslo.", crosses=1)
        bench.check("Error: no such file" not in turn["done"], "no result in the answer")
    bench.check(len(got) == len(turns), f"one request for each turn ({len(got)})")


async def mcp(bench: Bench) -> None:
    """A gateway's tools, asked for in the open, and two answers in one stream: one card."""
    turns, got = await bench.converse("mcp", "weather?", "and again")
    for turn in turns:
        _spins(bench, turn)
        _clean(bench, turn, "It is sunny.")
    bench.check("htp_" not in json.dumps(got), "no card in what the backend got")
    bench.check(len(got) == len(turns), f"one request for each turn ({len(got)})")


def _spins(bench: Bench, turn: Json) -> None:
    """While a tool runs: one card, or a group of them."""
    is_drawn = re.search(r"Executing|Exploring", turn["running"])
    bench.check(is_drawn and turn["spinning"], "a card that spins while the tool runs")


def _clean(bench: Bench, turn: Json, said: str, *, crosses: int = 0) -> None:
    """The answer, once; no tool that Open WebUI tried to run."""
    bench.check(turn["done"].count(said) == 1, f"{said!r}, once")
    bench.check("not found" not in turn["open"], "Open WebUI has not run the tool")
    bench.check(turn["crosses"] == crosses, f"red crosses: {turn['crosses']}")


async def embed(bench: Bench) -> None:
    """``page.embed``: the proxy's own page with the tools, in a frame of the message, live."""
    turns, _ = await bench.converse("parallel-embedded", "Oslo, disk, notes?", "and again")
    for number, turn in enumerate(turns, 1):
        _spins(bench, turn)
        _clean(bench, turn, "It will rain in Oslo.", crosses=1)
        bench.check("running" in turn["framedRunning"][-1:][0], "the frame: a tool runs")
        bench.check(len(turn["framed"]) == number, f"a frame in each message ({number})")
        for framed in turn["framed"]:
            bench.check("3 tools · 1 failed" in framed, f"the frame at the end: {framed[:20]!r}")
        bench.check(turn["acted"] == "", "no code has run in Open WebUI's page")


async def hostile(bench: Bench) -> None:
    """A backend whose events would run code in the page; first, that they would."""
    seen = await bench.drive("hostile-open", "hostile-open", "hi")
    turn = seen["turns"][0]
    bench.check(turn["acted"] == "token", "page_events = all: the code reads the token")
    bench.check(turn["dialogs"], "page_events = all: a dialog in Open WebUI's name")
    turns, _ = await bench.converse("hostile", "hi", "and again")
    for turn in turns:
        bench.check(turn["acted"] == "", "no code has run")
        bench.check(turn["dialogs"] == 0, "no dialog")
        bench.check(turn["frames"] == 0, "no frame")
        bench.check("Looking around" in turn["done"], "what draws is there: the status line")
        bench.check("All is well." in turn["done"], "the answer")


_BROKE: Final = "the upstream's answer broke off before its end"


async def _dies(bench: Bench, model: str, said: str, card: str = "") -> None:
    """Two turns; the error is on the page, also when it is loaded again."""
    turns, got = await bench.converse(model, "hi", "and again")
    for turn in turns:
        _clean(bench, turn, said or _BROKE)
        bench.check(turn["done"].count(_BROKE) == 1, "the error, once")
        bench.check(card in turn["done"], f"a card: {card}")
    bench.check(len(got) == len(turns), f"one request for each turn ({len(got)})")
    bench.check("htp_" not in json.dumps(got), "no card in what the backend got")


async def diebefore(bench: Bench) -> None:
    """The backend dies before it has answered."""
    turns, _ = await bench.converse("diebefore", "hi", "and again")
    for turn in turns:
        bench.check("the upstream" in turn["done"], "the error")


async def diestart(bench: Bench) -> None:
    """The backend dies before the first byte of its body."""
    await _dies(bench, "diestart", "")


async def dietext(bench: Bench) -> None:
    """The backend dies in its text."""
    await _dies(bench, "dietext", "It is sunny in")


async def diecall(bench: Bench) -> None:
    """The backend dies in a call."""
    await _dies(bench, "diecall", "Let me look.", "View Result from terminal")


async def dierun(bench: Bench) -> None:
    """The backend dies while it runs a tool that it has asked for in the open."""
    await _dies(bench, "dierun", "Let me look.", "View Result from terminal")


async def dieagent(bench: Bench) -> None:
    """An agent server dies while its tool runs."""
    await _dies(bench, "dieagent", "Let me check.", "View Result from terminal")


async def dieafter(bench: Bench) -> None:
    """The backend dies behind a call."""
    await _dies(bench, "dieafter", "The disk is", "View Result from terminal")


async def diefinish(bench: Bench) -> None:
    """The backend dies behind its finish."""
    await _dies(bench, "diefinish", "It is sunny.")


async def dieown(bench: Bench) -> None:
    """It dies in a call of Open WebUI's own tool: that is run, fails, and it is asked again."""
    turns, got = await bench.converse("dieown", "what time is it")
    bench.check("I could not look at the clock." in turns[0]["done"], "it goes on")
    bench.check(len(got) == 2, f"two requests ({len(got)})")


async def api(bench: Bench) -> None:
    """Open WebUI's own API hands out what the proxy sent, byte by byte."""
    async with aiohttp.ClientSession(bench.url) as session:
        signin = {"email": "", "password": ""}
        async with session.post("/api/v1/auths/signin", json=signin) as answer:
            token = (await answer.json())["token"]
        asked = {"model": "agent", "stream": True}
        asked["messages"] = [{"role": "user", "content": bench.args.prompt}]
        headers = {"Authorization": f"Bearer {token}"}
        at = len(bench.relays[""].sent)
        async with session.post("/api/chat/completions", json=asked, headers=headers) as answer:
            got = await answer.read()
    sent = bench.relays[""].sent[at]
    bench.keep("api.sse", got)
    bench.keep("api-sent.sse", sent)
    bench.check(b"hermes.tool.progress" in sent, "the proxy has told of the tool")
    bench.check(got == sent, f"the same bytes ({len(got)}, {len(sent)})")


async def picture(bench: Bench) -> None:
    """The picture of the README: one tool has failed, one is done, one runs."""
    question = "Can we have the party in the garden on Saturday?"
    await bench.drive("demo", "readme", question, picture=True)


async def replayed(bench: Bench) -> None:
    """The same chat three times: live, and played, as the whole proxy and as what is behind it."""
    relay, model = (
        bench.relays["recorded"],
        "hermes-agent" if bench.args.hermes else "agent-recorded",
    )
    turns = (bench.args.prompt, bench.args.prompt)
    live = await bench.drive(model, "replayed-live", *turns)
    await bench.recorder.aclose()
    cassette = str(bench.cassette)
    for side, command, env in (
        ("client", ["replay", cassette, "--side", "client", "--strict"], {}),
        ("upstream", ["serve", "--upstream", "http://127.0.0.1:9/v1"], _played(cassette)),
    ):
        listen, name = f"127.0.0.1:{_free_port()}", f"replayed-{side}"
        log = Path(bench.args.out) / f"{name}.log"
        served = _proxy(command, listen, log, env)
        relay.base = f"http://{listen}/v1"
        async with served:
            seen = await bench.drive(model, name, *turns)
        for number, (was, now) in enumerate(zip(live["turns"], seen["turns"], strict=True), 1):
            bench.check(_shown(was) == _shown(now), f"{side}, turn {number}: the same page")
            bench.check("View Result" in now["open"], f"{side}, turn {number}: with cards")
        is_missed = re.search("no.recording", log.read_text())
        bench.check(not is_missed, f"{side}: a recording for each request")


def _played(cassette: str) -> dict[str, str]:
    return {f"{_ENV}RECORDING__MODE": "replay", f"{_ENV}RECORDING__PATH": cassette}


def _shown(turn: Json) -> list[str]:
    """What the page showed at the end, less when it was and how long tools took."""
    return [_TIME.sub("", turn[when]) for when in ("done", "open")]


_CASES: Final = {
    case.__name__: case
    for case in (
        *(demo, agent, parallel, native, mcp, diebefore, diestart, dietext, diecall, dierun),
        *(dieagent, dieafter, diefinish, dieown, embed, hostile, api, replayed, picture),
    )
}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def _running(
    command: Iterable[str], url: str, log: Path, env: dict[str, str]
) -> AsyncIterator[None]:
    """A server process; it is up when ``url`` answers."""
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **env}, stdout=file, stderr=file, start_new_session=True
        )
    try:
        async with asyncio.timeout(_START_S), aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(url):
                        break
                if process.returncode is not None:
                    raise SystemExit(f"it has ended; see {log}")
                await asyncio.sleep(0.5)
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 20)
        if process.returncode is None:
            process.kill()
            await process.wait()


def _proxy(
    command: Iterable[str], listen: str, log: Path, env: dict[str, str]
) -> AbstractAsyncContextManager[None]:
    whole = [sys.executable, "-m", "lifecycle_proxy", *command, "--listen", listen]
    return _running(whole, f"http://{listen}/-/healthy", log, {"PYTHONPATH": str(ROOT), **env})


def _proxies(
    args: argparse.Namespace, backend: str, cassette: Path
) -> dict[str, tuple[list[str], dict[str, str]]]:
    """The command and the environment of each, by what is special about it."""
    recorded = args.hermes or f"{backend}/agent-recorded/v1"
    return {
        "": (["serve", "--upstream", f"{backend}/{','.join(SCRIPTS)}/v1"], {}),
        "demo": (["demo"], {}),
        "recorded": (
            ["serve", "--upstream", recorded, "--record", str(cassette)],
            {f"{_ENV}UPSTREAM__API_KEY": args.hermes_key or "none"},
        ),
        "open": (
            ["serve", "--upstream", f"{backend}/hostile-open/v1"],
            {f"{_ENV}LIFECYCLE__PAGE_EVENTS": "all"},
        ),
        "embedded": (
            ["serve", "--upstream", f"{backend}/parallel-embedded/v1"],
            {
                f"{_ENV}PAGE__EMBED": "true",
                f"{_ENV}SERVER__PUBLIC_URL": "http://{listen}",
            },
        ),
    }


async def _run(args: argparse.Namespace) -> int:
    out = Path(args.out)
    bench = Bench(args)
    if args.hermes:
        bench.backend.real["agent"] = Relay(args.hermes, key=args.hermes_key)
    if args.litellm:
        bench.backend.real["mcp"] = Relay(args.litellm, key=args.litellm_key, edit=_with_mcp)
    backend = await serve(bench.backend.handle)
    bases = []
    async with AsyncExitStack() as stack:
        bench.cassette.unlink(missing_ok=True)
        await stack.enter_async_context(bench.recorder)
        for special, (command, env) in _proxies(args, backend, bench.cassette).items():
            listen = f"127.0.0.1:{_free_port()}"
            own = {name: value.replace("{listen}", listen) for name, value in env.items()}
            server = _proxy(command, listen, out / f"proxy-{special or 'plain'}.log", own)
            kept = bench.recorder if "--record" in command else stack
            await kept.enter_async_context(server)
            profile = f"/-/as/{args.dialect}" if args.dialect else ""
            relay = bench.relays[special] = Relay(f"http://{listen}{profile}/v1")
            bases.append(f"{await serve(relay.handle)}/v1")
        port = _free_port()
        bench.url = f"http://127.0.0.1:{port}"
        data = stack.enter_context(tempfile.TemporaryDirectory())
        env = {
            **_OPEN_WEBUI_ENV,
            "DATA_DIR": data,
            "OPENAI_API_BASE_URLS": ";".join(bases),
            "OPENAI_API_KEYS": ";".join("sk-test" for _ in bases),
            "ENABLE_FORWARD_USER_INFO_HEADERS": str(not args.no_user_info).lower(),
            **{f"ENABLE_{task}_GENERATION": str(args.tasks).lower() for task in _TASKS},
        }
        command = [
            *shlex.split(args.open_webui),
            "serve",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        log = out / "open-webui.log"
        await stack.enter_async_context(_running(command, f"{bench.url}/health", log, env))
        for name in args.cases or _CASES:
            print(f"{name}: {_CASES[name].__doc__}", flush=True)
            await _CASES[name](bench)
    print(f"{bench.failures} failed; screenshots, streams and requests are in {out}")
    return int(bool(bench.failures))


def _with_mcp(asked: Json) -> Json:
    """What makes LiteLLM offer its MCP tools and run them itself."""
    tool = {"type": "mcp", "server_label": "litellm", "server_url": "litellm_proxy"}
    tools = [*asked.get("tools", []), {**tool, "require_approval": "never"}]
    return {**asked, "model": "litellm-mcp", "tools": tools}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(_CASES)}")
    parser.add_argument(
        "--open-webui", default="open-webui", help="the command; default: %(default)s"
    )
    parser.add_argument(
        "--driver", default=f"node {HERE / 'drive.mjs'}", help="the browser's driver"
    )
    parser.add_argument("--playwright", default=".", help="where node_modules/playwright-core lies")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser")
    parser.add_argument("--out", required=True, help="folder for screenshots and logs")
    parser.add_argument("--no-user-info", action="store_true", help="known by its user agent only")
    parser.add_argument(
        "--tasks", action="store_true", help="titles, tags and follow-ups: for `replayed` only"
    )
    parser.add_argument("--dialect", default="", help="another than the one that it gets unasked")
    parser.add_argument("--prompt", default="hi", help="what the agent is asked first")
    parser.add_argument("--hermes", default="", help="base URL of a real Hermes: plays `agent`")
    parser.add_argument("--hermes-key", default="")
    parser.add_argument("--litellm", default="", help="base URL of a real LiteLLM: plays `mcp`")
    parser.add_argument("--litellm-key", default="")
    args = parser.parse_args()
    unknown = set(args.cases) - set(_CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    Path(args.out).mkdir(parents=True, exist_ok=True)
    return asyncio.run(_run(args))


if __name__ == "__main__":
    sys.exit(main())
