"""The command ``demo``: a scripted upstream, the proxy, and one conversation.

The client reads the stream with a few lines of its own, not with the proxy's parser: what it prints
has really arrived. Afterwards the proxy keeps running for other clients.
"""

import asyncio
import errno
import functools
import io
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from lifecycle_proxy.app import serve
from lifecycle_proxy.app.banner import coloured, in_force
from lifecycle_proxy.cli import demo_agent
from lifecycle_proxy.cli.demo_client import allow, events, reachable
from lifecycle_proxy.cli.demo_upstream import ANSWER, QUESTION, upstream
from lifecycle_proxy.config import model as config
from lifecycle_proxy.config.page import is_on
from lifecycle_proxy.exchange.errors import ProxyError

_END_S: Final = 1.0
_GREEN: Final = "32"
_YELLOW: Final = "33"
_RED: Final = "31"
_NEXT: Final = """
The demo stays up: open one of these, and ask anything. Ctrl-C ends it.
The model is called "demo"; {key}.

{page}  Open WebUI   Admin Settings > Connections > OpenAI API
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


async def run(
    loaded: config.Loaded,
    *,
    once: bool,
    any_port: bool,
    agent: bool = False,
    pace: float = 1.0,
) -> int:
    """Run the conversation; unless ``once``, keep running for other clients.

    Args:
        loaded: the settings, but for the upstream and the access log, which is off.
        once: end after the conversation.
        any_port: use another port if the one of ``server.listen`` is in use.
        agent: an agent in the upstream's place, which asks for a permission.
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
        async with upstream(pace) as backend:
            settings = _behind(loaded.settings, backend, pace if agent else None)
            return await _demo(loaded, settings, once=once, any_port=any_port)
    except asyncio.CancelledError:
        _say("\n")  # a signal
    return int(once)  # the conversation was interrupted


async def _demo(
    loaded: config.Loaded, settings: config.Settings, *, once: bool, any_port: bool
) -> int:
    async with _proxy(settings, any_port=any_port) as url:
        _say(_heading(loaded, settings.shown_upstream, url))
        if fault := await _converse(url, settings):
            print(f"lifecycle-proxy: demo: {fault}", file=sys.stderr)
        if once or fault:
            return int(bool(fault))
        _say(_invitation(url, settings))
        await asyncio.Event().wait()
    return 0


def _behind(settings: config.Settings, backend: str, agent_pace: float | None) -> config.Settings:
    """The settings, with the demo's backend or its agent as the upstream."""
    replace, own = msgspec.structs.replace, settings.server
    upstream = replace(settings.upstream, url=backend, use_proxy_env=False)
    public_url = own.public_url
    if agent_pace is not None:
        command = [sys.executable, "-m", demo_agent.__name__, str(agent_pace)]
        paths = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        upstream = replace(upstream, agent=command, agent_name="demo", env=paths)
        if settings.listen_socket is None and not own.tls_cert and settings.address[1]:
            public_url = public_url or f"http://127.0.0.1:{settings.address[1]}"
    server = replace(own, access_log=False, public_url=public_url)
    return replace(settings, server=server, upstream=upstream, upstreams=[], models={})


@asynccontextmanager
async def _proxy(settings: config.Settings, *, any_port: bool) -> AsyncIterator[str]:
    """Run the proxy in front of the scripted upstream; yields its URL."""
    try:
        runner, url = await serve.start(settings)
    except OSError as error:
        if not any_port or error.errno != errno.EADDRINUSE:
            raise
        host, port = settings.address
        _say(f"Port {port} is taken, so the demo uses another one (--listen chooses it).\n\n")
        replace = msgspec.structs.replace
        server = replace(settings.server, listen=f"{host}:0", public_url="")
        runner, url = await serve.start(replace(settings, server=server))
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
        f"  proxy      {reachable(url)}{'' if _socket(url) else '/v1'}",
        *in_force(loaded, sys.stdout),
        "",
        f"you   {QUESTION}",
    ]
    return "\n".join(lines) + "\n\ndemo  "


def _invitation(url: str, settings: config.Settings) -> str:
    socket, base = _socket(url), reachable(url)
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
    page = f"  live page    {base}/-/\n" if is_on(settings) else ""
    return _NEXT.format(
        key=key, sdk_key=sdk_key, base=base, curl=curl, port=port, command=command, page=page
    )


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
        async for data in events(url, settings):
            if "toolCallId" in data:
                seen.setdefault(data["toolCallId"], []).append(data["status"])
                _say(("" if line_break else "\n\n") + _card(data))
                line_break = "\n      "
            if piece := _piece(data):
                text += piece
                _say(line_break + piece)
                line_break = ""
            if "approval" in data:
                _say("(In your chat you decide. Here the demo allows it.)\n\n      ")
                await allow(url, data["approval"]["id"])
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
