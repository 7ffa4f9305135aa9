"""The command ``demo``: a scripted upstream, the proxy, and one conversation.

The client reads the stream with a few lines of its own, not with the proxy's parser: what it prints
has really arrived. Afterwards the proxy keeps running for other clients.
"""

import asyncio
import errno
import functools
import io
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from multidict import CIMultiDict

from lifecycle_proxy.app import serve
from lifecycle_proxy.app.banner import coloured, in_force
from lifecycle_proxy.cli.demo_upstream import ANSWER, QUESTION, upstream
from lifecycle_proxy.config import model as config
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.ports import UpstreamRequest
from lifecycle_proxy.upstream.client import HttpUpstream
from lifecycle_proxy.upstream.collect import collect

_END_S: Final = 1.0
_EVENT: Final = "hermes.tool.progress"
_GREEN: Final = "32"
_YELLOW: Final = "33"
_RED: Final = "31"
_NEXT: Final = """
The demo stays up: open one of these, and ask anything. Ctrl-C ends it.
The model is called "demo"; {key}.

  Open WebUI   Admin Settings > Connections > OpenAI API
               URL  {base}/v1
  LobeChat     Settings > AI Service Provider > New API
               API proxy URL  {base}/v1
  OpenAI SDK   OpenAI(base_url="{base}/v1", api_key="{sdk_key}")
  curl         {curl}

  In a container 127.0.0.1 is the container itself. Start the demo with
  --listen 0.0.0.0:{port}, and use http://host.docker.internal:{port}/v1 there.
  Then other machines can reach the demo, too.

In front of your own backend:
  {command} serve --upstream http://127.0.0.1:11434/v1
"""
_NEXT_SOCKET: Final = """
The demo stays up: try this, and ask anything. Ctrl-C ends it.

  {curl}
"""
_BODY: Final = """'{"stream":true,"messages":[{"role":"user","content":"Hi"}]}'"""
_Json = dict[str, Any]
_say: Final = functools.partial(print, end="", flush=True)


async def run(loaded: config.Loaded, *, once: bool, any_port: bool, pace: float = 1.0) -> int:
    """Run the conversation; unless ``once``, keep running for other clients.

    Args:
        loaded: the settings, but for the upstream and the access log, which is off.
        once: end after the conversation.
        any_port: use another port if the one of ``server.listen`` is in use.
        pace: all pauses of the upstream are multiplied by this.

    Returns:
        0 after a signal to stop, or with ``once`` if the client got what it should; else 1.

    Raises:
        OSError: the address cannot be bound, or a part of the proxy does not start.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not all encodings have emojis
    try:
        async with upstream(pace) as backend, _proxy(loaded, backend, any_port=any_port) as url:
            settings = loaded.settings
            _say(_heading(loaded, backend, url))
            if fault := await _converse(url, settings):
                print(f"lifecycle-proxy: demo: {fault}", file=sys.stderr)
            if once or fault:
                return int(bool(fault))
            _say(_invitation(url, settings))
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        _say("\n")  # a signal
    return int(once)  # the conversation was interrupted


@asynccontextmanager
async def _proxy(loaded: config.Loaded, backend: str, *, any_port: bool) -> AsyncIterator[str]:
    """Run the proxy in front of the scripted upstream; yields its URL."""
    replace, settings = msgspec.structs.replace, loaded.settings
    settings = replace(
        settings,
        server=replace(settings.server, access_log=False),
        upstream=replace(settings.upstream, url=backend, use_proxy_env=False),
    )
    try:
        runner, url = await serve.start(settings)
    except OSError as error:
        if not any_port or error.errno != errno.EADDRINUSE:
            raise
        host, port = settings.address
        _say(f"Port {port} is taken, so the demo uses another one (--listen chooses it).\n\n")
        listen = f"{host}:0"
        settings = replace(settings, server=replace(settings.server, listen=listen))
        runner, url = await serve.start(settings)
    try:
        yield url
    finally:
        await serve.stop(runner, _END_S)


# --- what is printed ----------------------------------------------------------------------------


def _heading(loaded: config.Loaded, backend: str, url: str) -> str:
    lines = [
        "lifecycle-proxy demo: a scripted backend, the proxy, and one client.",
        "",
        f"  backend    {backend}",
        f"  proxy      {_base(url)}{'' if _socket(url) else '/v1'}",
        *in_force(loaded, sys.stdout),
        "",
        f"you   {QUESTION}",
    ]
    return "\n".join(lines) + "\n\ndemo  "


def _invitation(url: str, settings: config.Settings) -> str:
    socket, base = _socket(url), _base(url)
    options = f" --unix-socket {socket}" if socket else ""
    options += " -k" if settings.server.tls_cert else ""
    options += " -H 'Authorization: Bearer KEY'" if settings.server.api_keys else ""
    where = "http://demo" if socket else base
    indent = " " * 4 if socket else " " * 15
    curl = f"curl -N{options} {where}/v1/chat/completions \\\n{indent}-d {_BODY}"
    if socket:
        return _NEXT_SOCKET.format(curl=curl)
    sdk_key, key = "any", "any API key will do"
    if settings.server.api_keys:
        sdk_key, key = "KEY", "KEY is one of server.api_keys"
    started = sys.argv[0]  # in a clone the command is not on the PATH
    command = started if started.endswith("/lifecycle-proxy") else "lifecycle-proxy"
    port = urlsplit(url).port
    return _NEXT.format(key=key, sdk_key=sdk_key, base=base, curl=curl, port=port, command=command)


def _base(url: str) -> str:
    """A URL that a client can use: "all addresses" become that of this machine."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _socket(url: str) -> str:
    """The path of the unix socket, or ""."""
    return url.removeprefix("unix:") if url.startswith("unix:") else ""


def _card(frame: _Json) -> str:
    """A line for a lifecycle frame."""
    tool, label = frame["tool"], frame.get("label", "")
    name = f"{frame.get('emoji', '  ')} {tool:<12}"
    seconds = f"{frame['durationMs'] / 1000:.1f} s" if "durationMs" in frame else ""
    if frame["status"] == "running":
        status = _painted("… running", _YELLOW)
    elif frame.get("isError"):
        status = _painted(f"✗ failed after {seconds}", _RED)
    else:
        status = _painted(f"✓ completed in {seconds}" if seconds else "✓ completed", _GREEN)
    return f"  {name}  {'' if label == tool else label:<27}  {status}\n"


def _painted(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if coloured(sys.stdout) else text


# --- the client ---------------------------------------------------------------------------------


async def _converse(url: str, settings: config.Settings) -> str:
    """Ask, and print the response as it arrives. Return what was wrong, or ""."""
    text, line_break = "", ""
    seen: dict[str, list[str]] = {}
    try:
        async for data in _events(url, settings):
            if "toolCallId" in data:
                seen.setdefault(data["toolCallId"], []).append(data["status"])
                _say(("" if line_break else "\n\n") + _card(data))
                line_break = "\n      "
            if piece := _piece(data):
                text += piece
                _say(line_break + piece)
                line_break = ""
    except (ProxyError, ValueError) as error:
        return f"the stream broke: {error}"
    _say("\n")
    pairs = list(seen.values())
    if ANSWER in text and all(one == ["running", "completed"] for one in pairs):
        return ""
    return f"the client got the text {text!r} and the events {seen}"


def _piece(data: _Json) -> str:
    """The text of a chunk: content, or the reasoning before it."""
    for choice in data.get("choices") or ():
        delta = choice.get("delta") or {}
        return str(delta.get("content") or delta.get("reasoning_content") or "")
    return ""


async def _events(url: str, settings: config.Settings) -> AsyncIterator[_Json]:
    """The data of each event up to ``[DONE]``, and of lifecycle events in comments.

    Raises:
        ProxyError: there is no response, or it breaks off.
        ValueError: it is an error, or ends too early.
    """
    body = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    # A user agent of its own, so that no rule for other clients matches.
    headers = {"User-Agent": "lifecycle-proxy-demo"}
    if settings.server.api_keys:
        headers["Authorization"] = f"Bearer {settings.server.api_keys[0]}"
    # The certificate may be valid only for the name that other machines use.
    own = config.UpstreamSettings(url=f"{_base(url)}", verify_tls=False)
    client = HttpUpstream(config.Settings(upstream=own))
    await client.start()
    try:
        data, rest = json.dumps(body).encode(), b""
        request = UpstreamRequest("POST", "/v1/chat/completions", CIMultiDict(headers), data)
        response = await client.open(request, lambda: None)
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        while True:
            read = await collect(response, lambda data: b"\n" in data)
            *lines, rest = (rest + read.data).split(b"\n")
            for line in lines:
                text = line.decode().strip().removeprefix(f": {_EVENT} ").removeprefix("data: ")
                if text == "[DONE]":
                    return
                if text.startswith("{"):
                    yield json.loads(text)
            if read.failure is not None or read.is_complete:
                raise read.failure or ValueError("it ended without [DONE]")
    finally:
        await client.close()
