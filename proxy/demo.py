"""See it work with no backend: a scripted upstream, the proxy, one conversation.

The upstream plays an agent server that runs its tools itself and tells their results in the stream,
so the calls stay open for as long as the tools "run". The client is a plain reader of the socket,
not the proxy's own parser: what it prints has really come through.
"""

import asyncio
import errno
import functools
import io
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
from aiohttp import web

from proxy import config, server

_END_S: Final = 1.0  # whoever ends a demo wants it to end
_QUESTION: Final = "Will it rain in Oslo tomorrow, and how full is the disk?"
_BEFORE: Final = "Let me check both. "
_AFTER: Final = "It will rain in Oslo tomorrow, at 12 °C. The disk is 61 % full."
_TOOLS: Final = {"call_demo_search": "web_search", "call_demo_disk": "terminal"}
_TURNS: Final = (("", ""), ('{"query": "weath', '{"command": '), ('er in Oslo"}', '"df -h /"}'))
_INVITATION: Final = """
The proxy stays up until Ctrl-C. Any client can talk to it (any key, model "demo"):

  base URL  {base}
  curl -N {base}/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model":"demo","stream":true,"messages":[{{"role":"user","content":"Oslo?"}}]}}'
"""
_Json = dict[str, Any]
_say: Final = functools.partial(print, end="", flush=True)


async def run(listen: str, *, once: bool) -> int:
    """Play the conversation with a proxy at ``listen``; unless ``once``, stay up for more clients.

    Returns:
        0 when asked to stop, or with ``once`` if the client saw what it should have; else 1.

    Raises:
        ConfigError: ``listen`` is no address.
        OSError: it cannot be bound.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an emoji is no reason to fail
    try:
        async with _backend() as backend, _proxy(listen, backend) as url:
            _say(f"scripted upstream  {backend}\nproxy              {url}/v1\n\n> {_QUESTION}\n\n")
            if fault := await _converse(f"{url}/v1"):
                print(f"lifecycle-proxy: demo: {fault}", file=sys.stderr)
            if once or fault:
                return int(bool(fault))
            _say(_INVITATION.format(base=f"{url}/v1"))
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        pass  # a signal
    return int(once)  # a conversation that was broken off has shown nothing


@asynccontextmanager
async def _proxy(listen: str, backend: str) -> AsyncIterator[str]:
    """The real proxy, with no access log in between; on another port if the default is taken."""
    flags = {"server.listen": listen, "upstream.url": backend, "server.access_log": False}
    try:
        runner, url = await server.start(config.load(environ={}, flags=flags))
    except OSError as error:
        if listen != "127.0.0.1:8787" or error.errno != errno.EADDRINUSE:
            raise
        _say("port 8787 is taken, so another one:\n\n")
        flags["server.listen"] = "127.0.0.1:0"
        runner, url = await server.start(config.load(environ={}, flags=flags))
    try:
        yield url
    finally:
        await server.stop(runner, _END_S)


@asynccontextmanager
async def _backend() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/v1/models", _models)
    app.router.add_post("/v1/chat/completions", _chat)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_END_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def _models(request: web.Request) -> web.StreamResponse:
    return web.json_response({"object": "list", "data": [{"id": "demo", "object": "model"}]})


async def _chat(request: web.Request) -> web.StreamResponse:
    """Streams the script; who asks for no stream (Open WebUI's titles) gets the answer whole."""
    asked = await request.json()
    head: _Json = {"id": "chatcmpl-demo", "created": 1700000000, "model": "demo"}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": _AFTER}
        head["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return web.json_response({**head, "object": "chat.completion"})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for pause_s, delta, finish in _script(asked.get("messages", [])):
        await asyncio.sleep(pause_s)
        head["choices"] = [{"index": 0, "delta": delta, "finish_reason": finish}]
        chunk = json.dumps({**head, "object": "chat.completion.chunk"})
        await response.write(f"data: {chunk}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


def _script(messages: list[_Json]) -> Iterator[tuple[float, _Json, str | None]]:
    """Pause in seconds, delta and finish reason of each chunk.

    A client that runs the calls itself, as Open WebUI does, comes back with their results: the same
    calls again would send it round and round.
    """
    search, disk = _TOOLS
    if not messages or messages[-1].get("role") != "tool":
        yield from ((0.08, {"content": word}, None) for word in re.findall(r"\S+\s*", _BEFORE))
        for turn in _TURNS:
            yield from ((0.1, {"tool_calls": [_piece(*p)]}, None) for p in enumerate(turn))
        yield 1.0, {"role": "tool", "tool_call_id": disk, "tool_result": "/dev/vda1 61%"}, None
        yield 0.9, {"role": "tool", "tool_call_id": search, "tool_result": "rain, 12 °C"}, None
        yield 0.1, {}, "tool_calls"
    yield from ((0.08, {"content": word}, None) for word in re.findall(r"\S+\s*", _AFTER))
    yield 0.0, {}, "stop"


def _piece(index: int, arguments: str) -> _Json:
    call_id, name = list(_TOOLS.items())[index]
    head = {} if arguments else {"id": call_id, "type": "function"}
    function = {"arguments": arguments} if arguments else {"name": name, "arguments": ""}
    return {"index": index, **head, "function": function}


async def _converse(base: str) -> str:
    """Ask, and show what comes as it comes; return what was wrong, or ""."""
    text = line_break = ""
    told: dict[str, list[str]] = {}
    try:
        async for event, chunk in _events(base):
            if event == "hermes.tool.progress":
                told.setdefault(chunk["toolCallId"], []).append(chunk["status"])
                _say(_card(chunk))
                line_break = "\n\n"
            elif piece := chunk["choices"][0]["delta"].get("content"):
                text += piece
                _say(line_break + piece)
                line_break = ""
    except aiohttp.ClientError as error:
        return f"the stream broke: {error}"
    _say("\n")
    good = text == _BEFORE + _AFTER and told == {key: ["running", "completed"] for key in _TOOLS}
    return "" if good else f"the client got the text {text!r} and the events {told}"


async def _events(base: str) -> AsyncIterator[tuple[str, _Json]]:
    """Name and data of each event, up to ``[DONE]``."""
    body = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": _QUESTION}]}
    async with (  # a user agent of its own: no rule for other clients is to match
        aiohttp.ClientSession(headers={"User-Agent": "lifecycle-proxy-demo"}) as session,
        session.post(f"{base}/chat/completions", json=body, raise_for_status=True) as response,
    ):
        event = ""
        async for line in response.content:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if value == "[DONE]":
                return
            if field == "data":
                yield event, json.loads(value)
            event = value if field == "event" else ""
    raise aiohttp.ClientPayloadError("it ended without [DONE]")


def _card(frame: _Json) -> str:
    """A line for a lifecycle frame. Until the arguments have come, the label is the tool's name."""
    label = "" if frame["label"] == frame["tool"] else frame["label"]
    took = f" in {frame['durationMs'] / 1000:.1f} s" if "durationMs" in frame else ""
    status = frame["status"] + took
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        status = f"\x1b[{32 if took else 33}m{status}\x1b[0m"  # green, yellow
    return f"\n  {frame['emoji']} {frame['tool']:<10}  {label:<25}  {status}"
