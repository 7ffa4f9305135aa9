"""The far end, scripted: what agent servers send, a request log, and relays that keep what passes.

The model that is asked for names the script. ``/MODELS/v1`` is a base URL that offers the models
named in it, with commas between them. ``Relay`` stands between two ends and records both ways.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import aiohttp
from aiohttp import web

Json = dict[str, Any]
Edit = Callable[[Json], Json]
PAUSE_S: Final = 3.0  # for as long a tool "runs"
_NOT_PASSED_ON: Final = ("host", "content-length", "transfer-encoding", "connection")


def chunk(delta: Json, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    kind = {"object": "chat.completion.chunk", "created": 1_700_000_000, "model": "scripted"}
    return (
        b"data: " + json.dumps({"id": "chatcmpl-1", **kind, "choices": [choice]}).encode() + b"\n\n"
    )


def call(call_id: str, name: str, arguments: str) -> bytes:
    function = {"name": name, "arguments": arguments}
    entry = {"index": 0, "id": call_id, "type": "function", "function": function}
    return chunk({"tool_calls": [entry]})


def progress(tool: str, call_id: str, status: str, label: str) -> bytes:
    event = {"tool": tool, "emoji": "💻", "label": label, "toolCallId": call_id, "status": status}
    return b"event: hermes.tool.progress\ndata: " + json.dumps(event).encode() + b"\n\n"


def results(messages: list[Json]) -> list[str]:
    """What tools have said since the user spoke last."""
    told: list[str] = []
    for message in messages:
        if message["role"] == "user":
            told = []
        elif message["role"] == "tool":
            told.append(message["content"])
    return told


async def agent(asked: Json) -> AsyncIterator[bytes]:
    """An agent server that runs its tools itself and tells of them by named events (Hermes)."""
    yield chunk({"role": "assistant"})
    yield chunk({"content": "Let me check. "})
    yield progress("terminal", "call_1", "running", "ls -la")
    await asyncio.sleep(PAUSE_S)
    yield progress("terminal", "call_1", "completed", "ls -la")
    yield chunk({"content": "Done: 42 files."})
    yield chunk({}, "stop") + b"data: [DONE]\n\n"


async def mcp(asked: Json) -> AsyncIterator[bytes]:
    """A gateway that runs the calls of its model in mid-stream: two answers in one (LiteLLM)."""
    offered = {"type": "function", "function": {"name": "wx-get_weather", "parameters": {}}}
    function = {"name": "wx-get_weather", "arguments": '{"city": "Oslo"}'}
    made = {"id": "call_1", "type": "function", "function": function}
    got = {"tool_call_id": "call_1", "name": "wx-get_weather", "result": "sunny in Oslo"}
    listed: Json = {"mcp_list_tools": [offered]}
    yield chunk({"role": "assistant", "content": "", "provider_specific_fields": listed})
    if results(asked["messages"]):  # of a client that has run the call, too; once is enough
        yield chunk({"content": "It is sunny."})
        yield chunk({}, "stop") + b"data: [DONE]\n\n"
        return
    yield chunk({"content": "Let me look. "})
    yield call("call_1", "wx-get_weather", '{"city": "Oslo"}')
    await asyncio.sleep(PAUSE_S)
    told = {**listed, "mcp_tool_calls": [made], "mcp_call_results": [got]}
    yield chunk({"provider_specific_fields": told}, "tool_calls")
    yield chunk({"role": "assistant", "content": ""})
    yield chunk({"content": "It is sunny."})
    yield chunk({}, "stop") + b"data: [DONE]\n\n"


async def native(asked: Json) -> AsyncIterator[bytes]:
    """A plain model that calls one of Open WebUI's own tools, which Open WebUI runs."""
    yield chunk({"role": "assistant", "content": ""})
    if told := results(asked["messages"]):
        yield chunk({"content": f"The clock says {json.loads(told[-1])['current_timestamp']}."})
        yield chunk({}, "stop") + b"data: [DONE]\n\n"
        return
    yield chunk({"content": "Let me look at the clock. "})
    yield call(f"call_{len(asked['messages'])}", "get_current_timestamp", "{}")
    await asyncio.sleep(PAUSE_S)
    yield chunk({}, "tool_calls") + b"data: [DONE]\n\n"


async def parallel(asked: Json) -> AsyncIterator[bytes]:
    """A backend that streams the calls of its own tools and runs them; one of three fails."""
    yield chunk({"role": "assistant", "content": ""})
    yield chunk({"content": "Let me check three things. "})
    for index, (name, arguments) in enumerate(_THREE):
        function = {"name": name, "arguments": ""}
        entry = {"index": index, "id": f"call_{name}", "type": "function", "function": function}
        yield chunk({"tool_calls": [entry]})
        yield chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})
    for name, result in (("read_file", "Error: no such file"), ("terminal", "/dev/vda1 61%")):
        await asyncio.sleep(PAUSE_S)
        yield result_of(name, result)
    await asyncio.sleep(PAUSE_S / 3)
    yield result_of("web_search", "rain, 12 °C")
    yield chunk({}, "tool_calls")
    yield chunk({"content": "It will rain in Oslo. The disk is 61 % full. There is no such file."})
    yield chunk({}, "stop") + b"data: [DONE]\n\n"


_THREE: Final = (
    ("web_search", '{"query": "weather in Oslo"}'),
    ("terminal", '{"command": "df -h /"}'),
    ("read_file", '{"path": "/tmp/notes.txt"}'),
)


def result_of(name: str, content: str) -> bytes:
    told: Json = {"role": "tool", "tool_call_id": f"call_{name}", "content": content}
    return chunk(told | ({"is_error": True} if content.startswith("Error") else {}))


async def diebefore(asked: Json) -> AsyncIterator[bytes]:
    """Dies before it has answered: see ``Backend.handle``."""
    raise ConnectionResetError
    yield b""


async def diestart(asked: Json) -> AsyncIterator[bytes]:
    """Dies behind its headers, before the first byte of the body."""
    await asyncio.sleep(1)
    raise ConnectionResetError
    yield b""


async def dietext(asked: Json) -> AsyncIterator[bytes]:
    """Dies in its text."""
    yield chunk({"role": "assistant", "content": ""})
    yield chunk({"content": "It is sunny in "})
    await asyncio.sleep(1)
    raise ConnectionResetError


async def diecall(asked: Json) -> AsyncIterator[bytes]:
    """Dies while it writes the call of a tool of its own."""
    yield chunk({"role": "assistant", "content": ""})
    yield chunk({"content": "Let me look. "})
    yield call("call_1", "terminal", '{"command": "sle')
    await asyncio.sleep(PAUSE_S)
    raise ConnectionResetError


async def dierun(asked: Json) -> AsyncIterator[bytes]:
    """Dies while it runs a tool whose call it has streamed."""
    yield chunk({"role": "assistant", "content": ""})
    yield chunk({"content": "Let me look. "})
    yield call("call_1", "terminal", '{"command": "sleep 60"}')
    await asyncio.sleep(PAUSE_S)
    raise ConnectionResetError


async def dieagent(asked: Json) -> AsyncIterator[bytes]:
    """An agent server that dies while its tool runs."""
    yield chunk({"role": "assistant"})
    yield chunk({"content": "Let me check. "})
    yield progress("terminal", "call_1", "running", "sleep 60")
    await asyncio.sleep(PAUSE_S)
    raise ConnectionResetError


async def dieafter(asked: Json) -> AsyncIterator[bytes]:
    """Dies behind a call, its result and a few words."""
    yield chunk({"role": "assistant", "content": ""})
    yield call("call_1", "terminal", '{"command": "df -h /"}')
    await asyncio.sleep(PAUSE_S)
    yield result_of("terminal", "61 %")
    yield chunk({}, "tool_calls")
    yield chunk({"content": "The disk is "})
    await asyncio.sleep(1)
    raise ConnectionResetError


async def diefinish(asked: Json) -> AsyncIterator[bytes]:
    """Dies behind its finish, before the end of the stream."""
    yield chunk({"role": "assistant", "content": ""})
    yield chunk({"content": "It is sunny."})
    yield chunk({}, "stop")
    await asyncio.sleep(1)
    raise ConnectionResetError


async def dieown(asked: Json) -> AsyncIterator[bytes]:
    """Dies while it writes a call of one of Open WebUI's own tools; well when it is asked again."""
    yield chunk({"role": "assistant", "content": ""})
    if results(asked["messages"]):
        yield chunk({"content": "I could not look at the clock."})
        yield chunk({}, "stop") + b"data: [DONE]\n\n"
        return
    yield chunk({"content": "Let me look at the clock. "})
    yield call("call_1", "get_current_timestamp", '{"zo')
    await asyncio.sleep(PAUSE_S)
    raise ConnectionResetError


_ACT: Final = "document.documentElement.dataset.acted = localStorage.token ? 'token' : 'yes'"
_PAGE_EVENTS: Final = (
    {"type": "status", "data": {"description": "Looking around", "done": True}},
    {"type": "execute", "data": {"code": _ACT}},
    {"type": "confirmation", "data": {"title": "Log in again", "message": "Type your password"}},
    {"type": "input", "data": {"title": "Log in again", "message": "Your password?"}},
    {"type": "embeds", "data": {"embeds": [f"<script>parent.{_ACT}</script>"]}},
    {"type": "chat:message:embeds", "data": {"embeds": ["<p>a frame</p>"]}},
    {"type": "replace", "data": {"content": "Nothing here. "}},
)


async def hostile(asked: Json) -> AsyncIterator[bytes]:
    """Sends events for the page: one that draws, one that writes text, and others that act."""
    yield chunk({"role": "assistant", "content": "Hello. "})
    for number, page_event in enumerate(_PAGE_EVENTS):
        data = json.dumps({"event": page_event})
        if number % 2:
            data = data.replace('"event"', r'"\u0065vent"', 1)
        yield f"data: {data}\n\n".encode()
        await asyncio.sleep(0.2)
    yield chunk({"content": "All is well."})
    yield chunk({}, "stop") + b"data: [DONE]\n\n"


SCRIPTS: Final = {
    script.__name__: script
    for script in (
        *(agent, mcp, native, parallel, diebefore, diestart, dietext, diecall, dierun, dieagent),
        *(dieafter, diefinish, dieown, hostile),
    )
}


class Backend:
    """Scripted models. ``log`` holds what was asked; ``real``: models that others play."""

    def __init__(self) -> None:
        self.log: list[Json] = []
        self.real: dict[str, Relay] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/models"):
            names = request.path.split("/")[1].split(",")
            models = [{"id": name, "object": "model", "owned_by": "test"} for name in names]
            return web.json_response({"object": "list", "data": models})
        asked = await request.json()
        self.log.append(asked)
        name = asked["model"].partition("-")[0]
        if name in self.real:
            return await self.real[name].handle(request)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            if name != "diebefore":
                await answer.prepare(request)
            async for piece in SCRIPTS[name](asked):
                await answer.write(piece)
        except ConnectionResetError:
            if request.transport is not None:
                request.transport.abort()
        return answer


class Relay:
    """Passes requests on to ``base``; ``sent`` holds the bytes of each answer that came back.

    ``base`` may be another from one request to the next.
    """

    def __init__(self, base: str, *, key: str = "", edit: Edit | None = None) -> None:
        self.sent: list[bytes] = []
        self.base = base
        self._key = key
        self._edit = edit

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _NOT_PASSED_ON]
        if self._key:
            headers = [(k, v) for k, v in headers if k.lower() != "authorization"]
            headers.append(("Authorization", f"Bearer {self._key}"))
        body = await request.read()
        if self._edit is not None:
            body = json.dumps(self._edit(json.loads(body))).encode()
        url = f"{self.base}/{request.path.partition('/v1/')[2]}"
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, url, headers=headers, data=body) as got,
        ):
            kept = {k: v for k, v in got.headers.items() if k.lower() not in _NOT_PASSED_ON}
            answer = web.StreamResponse(status=got.status, headers=kept)
            await answer.prepare(request)
            at = len(self.sent)
            self.sent.append(b"")
            try:
                async for piece in got.content.iter_any():
                    self.sent[at] += piece
                    await answer.write(piece)
            except (aiohttp.ClientPayloadError, ConnectionError):
                if request.transport is not None:
                    request.transport.close()  # broken off here as it was there
        return answer


async def serve(handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> str:
    """Serve on a free port; return the origin."""
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    return f"http://127.0.0.1:{port}"
