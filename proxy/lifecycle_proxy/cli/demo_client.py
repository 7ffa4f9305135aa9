"""The client of the demo: it asks the one question, and reads the stream line by line."""

import json
from collections.abc import AsyncIterator
from typing import Any, Final

from multidict import CIMultiDict

from lifecycle_proxy.cli.demo_upstream import QUESTION
from lifecycle_proxy.config import model as config
from lifecycle_proxy.exchange.ports import UpstreamRequest
from lifecycle_proxy.exchange.routes import APPROVALS_PREFIX
from lifecycle_proxy.upstream.client import HttpUpstream
from lifecycle_proxy.upstream.collect import collect

_EVENT: Final = "hermes.tool.progress"
_Json = dict[str, Any]


def reachable(url: str) -> str:
    """A URL that a client can use: "all addresses" become that of this machine."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _client(url: str) -> HttpUpstream:
    # The certificate may be valid only for the name that other machines use.
    own = config.UpstreamSettings(url=f"{reachable(url)}", verify_tls=False)
    return HttpUpstream(config.Settings(upstream=own))


async def allow(url: str, token: str) -> None:
    """Answer the agent's question, as a click on the page does.

    Args:
        url: of the proxy.
        token: of the question.
    """
    headers = CIMultiDict({"Content-Type": "application/json"})
    path, client = f"{APPROVALS_PREFIX}{token}", _client(url)
    await client.start()
    try:
        request = UpstreamRequest("POST", path, headers, b'{"decision": "once"}')
        (await client.open(request, lambda: None)).close()
    finally:
        await client.close()


async def events(url: str, settings: config.Settings) -> AsyncIterator[_Json]:
    """The data of each event up to ``[DONE]``, and of lifecycle events in comments.

    Args:
        url: of the proxy.
        settings: of the proxy: its keys.

    Raises:
        ProxyError: there is no response, or it breaks off.
        ValueError: it is an error, or ends too early.
    """
    body = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    # A user agent of its own, so that no rule for other clients matches.
    headers = {"User-Agent": "lifecycle-proxy-demo"}
    if settings.server.api_keys:
        headers["Authorization"] = f"Bearer {settings.server.api_keys[0]}"
    client = _client(url)
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
