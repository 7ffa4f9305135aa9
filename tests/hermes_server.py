"""A scripted Hermes API server: its runs, their events, approvals and stops, as 0.19 does it.

The last line of an input says what to do: ``play NAME`` says what a real server said
(``tests/upstream/hermes_runs``; it waits where that one was answered or stopped); else each line is
a step: see ``_STEPS``. An approval is given to the oldest request of the run that is open; what a
step executes is in ``executed``.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Self

from aiohttp import web

_RECORDED: Final = Path(__file__).parent / "upstream" / "hermes_runs"
KEY: Final = "loopback-test-key"


class HermesRun:
    """One run."""

    def __init__(self, number: int, body: dict[str, Any]) -> None:
        self.id = f"run_{number:032x}"
        self.body = body
        self.events: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.open: list[asyncio.Future[str]] = []
        self.stopped = asyncio.Event()
        self.stopped_at = 0.0
        self.task: asyncio.Task[None] | None = None

    def say(self, kind: str, **fields: Any) -> None:
        event = {"event": kind, "run_id": self.id, "timestamp": 1.5, **fields}
        self.events.put_nowait(f"data: {json.dumps(event)}\n\n".encode())

    async def asked(self, command: str, why: str = "", timeout_s: float = 60) -> str:
        """Ask for an approval; the choice."""
        decision: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.open.append(decision)
        choices = ["once", "session", "always", "deny"]
        self.say("approval.request", command=command, description=why, choices=choices)
        stopped = asyncio.create_task(self.stopped.wait())
        await asyncio.wait((decision, stopped), timeout=timeout_s, return_when="FIRST_COMPLETED")
        stopped.cancel()
        if decision in self.open:
            self.open.remove(decision)
        return decision.result() if decision.done() else "deny"


class HermesServer:
    """The server: ``async with HermesServer() as server``.

    Attributes:
        origin: its URL.
        runs: all runs so far.
        executed: what was executed.
        chats: bodies of chat completions.
        answers: choices that were given, in order, with the id of their run.
        refusal: status and body of the next runs, instead of a start.
        start_s: how long the start of a run takes.
        run_id: that is given for all runs, instead of their own.

    Args:
        is_open: whether no key is needed.
    """

    def __init__(self, *, is_open: bool = False) -> None:
        self._is_open = is_open
        self.origin = ""
        self.runs: list[HermesRun] = []
        self.executed: list[str] = []
        self.chats: list[bytes] = []
        self.answers: list[tuple[str, str]] = []
        self.refusal: tuple[int, bytes] | None = None
        self.start_s = 0.0
        self.run_id = ""
        self._transports: set[Any] = set()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/runs", self._start)
        app.router.add_get("/v1/runs/{id}/events", self._events)
        app.router.add_post("/v1/runs/{id}/approval", self._approval)
        app.router.add_post("/v1/runs/{id}/stop", self._stop)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.origin = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for run in self.runs:
            if run.task is not None:
                run.task.cancel()
        assert self._runner is not None
        self.kill()
        await self._runner.cleanup()

    def kill(self) -> None:
        """Break all streams off."""
        for transport in tuple(self._transports):
            transport.abort()

    @property
    def open_streams(self) -> int:
        """Those whose client is still there."""
        return sum(not one.is_closing() for one in self._transports)

    # --- endpoints -------------------------------------------------------------------------------

    def _run(self, request: web.Request) -> HermesRun:
        if not self._is_open and request.headers.get("Authorization") != f"Bearer {KEY}":
            raise web.HTTPUnauthorized(text='{"error": {"message": "Invalid API key"}}')
        own = request.match_info.get("id")
        found = [run for run in self.runs if run.id == own]
        if own is not None and not found:
            raise web.HTTPNotFound(text='{"error": {"message": "Run not found"}}')
        return found[0] if found else HermesRun(0, {})

    async def _start(self, request: web.Request) -> web.Response:
        self._run(request)
        body = await request.json()
        if self.refusal is not None:
            status, data = self.refusal
            return web.Response(status=status, body=data, content_type="application/json")
        run = HermesRun(len(self.runs) + 1, body)
        self.runs.append(run)
        run.task = asyncio.create_task(self._work(run))
        await asyncio.sleep(self.start_s)
        own = self.run_id or run.id
        return web.json_response({"run_id": own, "status": "started"}, status=202)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        run = self._run(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        transport = request.transport
        self._transports.add(transport)
        try:
            while (data := await run.events.get()) is not None:
                if data == b"die":
                    assert transport is not None
                    transport.abort()
                    break
                await response.write(data)
            else:
                await response.write(b": stream closed\n\n")
        except ConnectionError:
            pass
        finally:
            self._transports.discard(transport)
        return response

    async def _approval(self, request: web.Request) -> web.Response:
        run, body = self._run(request), await request.json()
        self.answers.append((run.id, body["choice"]))
        if not run.open:
            return web.json_response({"error": {"code": "approval_not_pending"}}, status=409)
        resolved = list(run.open) if body.get("all") else run.open[:1]
        for one in resolved:
            run.open.remove(one)
            one.set_result(body["choice"])
        run.say("approval.responded", choice=body["choice"], resolved=len(resolved))
        return web.json_response({"choice": body["choice"], "resolved": len(resolved)})

    async def _stop(self, request: web.Request) -> web.Response:
        run = self._run(request)
        run.stopped_at = asyncio.get_running_loop().time()
        run.stopped.set()
        return web.json_response({"run_id": run.id, "status": "stopping"})

    async def _chat(self, request: web.Request) -> web.Response:
        self.chats.append(await request.read())
        return web.json_response({"object": "chat.completion", "choices": []})

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "hermes-agent"}]})

    # --- what runs do ----------------------------------------------------------------------------

    async def _work(self, run: HermesRun) -> None:
        text = str(run.body["input"])
        try:
            if text.startswith("play "):
                await self._play(run, text.removeprefix("play "))
            else:
                for line in text.split("\n"):
                    word, _, rest = line.partition(" ")
                    step = _STEPS.get(word)
                    if step is not None and not run.stopped.is_set():
                        await step(self, run, rest)
                    await asyncio.sleep(0)
                usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
                over = "run.cancelled" if run.stopped.is_set() else "run.completed"
                run.say(over, output="", usage=usage)
        finally:
            run.events.put_nowait(None)

    async def _play(self, run: HermesRun, name: str) -> None:
        """Say what a real server said; wait where a client had to speak."""
        recorded = (_RECORDED / f"{name}.sse").read_text("utf-8").split("\n\n")
        is_stopped = any("run.cancelled" in one for one in recorded)
        for block in recorded:
            if not block.startswith("data: "):
                continue
            event = json.loads(block.removeprefix("data: "))
            kind = event["event"]
            if kind == "approval.request":
                choice = await run.asked(event["command"], event["description"])
                if choice == "once":
                    self.executed.append(event["command"])
            elif kind != "approval.responded":
                run.events.put_nowait(f"{block}\n\n".encode())
            if is_stopped and kind == "tool.started":
                await run.stopped.wait()


async def _say(server: HermesServer, run: HermesRun, rest: str) -> None:
    run.say("message.delta", delta=rest)


async def _tool(server: HermesServer, run: HermesRun, rest: str) -> None:
    """NAME ok|failed PREVIEW: a whole call."""
    name, status, preview = rest.split(" ", 2)
    run.say("tool.started", tool=name, preview=preview)
    run.say("tool.completed", tool=name, duration=0.5, error=status == "failed")


async def _open(server: HermesServer, run: HermesRun, rest: str) -> None:
    run.say("tool.started", tool=rest, preview="so")


async def _ask(server: HermesServer, run: HermesRun, rest: str) -> None:
    """COMMAND: a call that needs an approval."""
    run.say("tool.started", tool="terminal", preview=rest)
    choice = await run.asked(rest)
    if choice == "once" and not run.stopped.is_set():
        server.executed.append(rest)
    # Whatever Hermes says of what was denied, it failed.
    run.say("tool.completed", tool="terminal", duration=0.1, error=False)


async def _two(server: HermesServer, run: HermesRun, rest: str) -> None:
    """SECONDS COMMAND COMMAND: two calls that ask, one so much later than the other."""
    later_s, *commands = rest.split(" ")

    async def one(command: str, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        if await run.asked(command) == "once":
            server.executed.append(command)

    await asyncio.gather(one(commands[0], 0), one(commands[1], float(later_s)))


async def _impatient(server: HermesServer, run: HermesRun, rest: str) -> None:
    """COMMAND: as ``ask``; Hermes' own limit is over at once."""
    run.say("tool.started", tool="terminal", preview=rest)
    if await run.asked(rest, timeout_s=0.3) == "once":
        server.executed.append(rest)
    run.say("tool.completed", tool="terminal", duration=0.3, error=True)


async def _elsewhere(server: HermesServer, run: HermesRun, rest: str) -> None:
    """COMMAND: as ``ask``; another client of Hermes says yes."""
    run.say("tool.started", tool="terminal", preview=rest)
    asked = asyncio.create_task(run.asked(rest))
    await asyncio.sleep(0.2)
    run.open.pop().set_result("once")
    run.say("approval.responded", choice="once", resolved=1)
    await asked
    run.say("tool.completed", tool="terminal", duration=0.2, error=False)


async def _raw(server: HermesServer, run: HermesRun, rest: str) -> None:
    """Bytes of the stream, as a Python literal without quotes."""
    run.events.put_nowait(rest.encode().decode("unicode_escape").encode("latin-1"))


async def _big(server: HermesServer, run: HermesRun, rest: str) -> None:
    """BYTES: one event of so many."""
    run.events.put_nowait(b'data: {"event": "x", "y": "' + b"x" * int(rest) + b'"}\n\n')


async def _tiny(server: HermesServer, run: HermesRun, rest: str) -> None:
    """N events that say next to nothing, in one write."""
    run.events.put_nowait(b'data: {"event":"message.delta","delta":"x"}\n\n' * int(rest))


async def _flood(server: HermesServer, run: HermesRun, rest: str) -> None:
    for _ in range(int(rest)):
        run.say("message.delta", delta="x" * 1000)


async def _die(server: HermesServer, run: HermesRun, rest: str) -> None:
    run.events.put_nowait(b"die")
    await asyncio.Event().wait()


async def _end(server: HermesServer, run: HermesRun, rest: str) -> None:
    """The stream ends, and the run does not."""
    run.events.put_nowait(None)
    await asyncio.Event().wait()


async def _wait(server: HermesServer, run: HermesRun, rest: str) -> None:
    await run.stopped.wait()


async def _hang(server: HermesServer, run: HermesRun, rest: str) -> None:
    await asyncio.Event().wait()


async def _fail(server: HermesServer, run: HermesRun, rest: str) -> None:
    run.say("run.failed", error=rest)


Step = Callable[[HermesServer, HermesRun, str], Awaitable[None]]
_STEPS: Final[dict[str, Step]] = {
    "say": _say,
    "tool": _tool,
    "open": _open,
    "ask": _ask,
    "two": _two,
    "impatient": _impatient,
    "elsewhere": _elsewhere,
    "raw": _raw,
    "big": _big,
    "tiny": _tiny,
    "flood": _flood,
    "die": _die,
    "end": _end,
    "wait": _wait,
    "hang": _hang,
    "fail": _fail,
}
