"""Reading a stream's events over HTTP, until it ends: what ``watch`` does."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple, TextIO
from urllib.parse import urlsplit

import aiohttp
import orjson

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.printable import printable, wants_colour
from lifecycle_proxy.core.stream_events import FINAL_TYPE
from lifecycle_proxy.inspect.terminal import Paper
from lifecycle_proxy.inspect.watching import WatchLines

_TRIES: Final = 5  # in a row, without an event
_WAIT_S: Final = 2.0
_CONNECT_S: Final = 10.0
_SILENCE_S: Final = 60.0  # a comment comes every 10 s
_MAX_EVENT_BYTES: Final = 8 << 20
_MESSAGE_LENGTH: Final = 300
_FAILED, _USAGE = 1, 2


class _RefusedError(Exception):
    """The proxy does not give the stream, and will not."""


class _BusyError(Exception):
    """The stream cannot be read now."""


class _Event(NamedTuple):
    number: int
    type: str
    data: dict[str, Any]


async def watch(
    url: str, key: str, after: int = 0, *, stream: TextIO | None = None, wait_s: float = _WAIT_S
) -> int:
    """Print a stream's events until it ends.

    Args:
        url: of its events.
        key: as bearer token; "" for none.
        after: the number of the last event that is known.
        stream: standard output, if not given.
        wait_s: how long to wait before connecting anew, in seconds.

    Returns:
        The exit code.
    """
    out = sys.stdout if stream is None else stream
    width = shutil.get_terminal_size((100, 24)).columns
    lines = WatchLines(Paper(width, wants_colour(out.isatty(), os.environ)))
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
    tries = 0
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        while tries < _TRIES:
            why = "the connection ended before the stream"
            try:
                async for event in _events(session, url, after):
                    tries, after = 0, event.number or after
                    if event.type == "closed":
                        why = str(event.data.get("message"))
                        continue
                    for line in lines.of(event.type, event.data):
                        print(line, file=out, flush=True)
                    if event.type == FINAL_TYPE:
                        return 0 if event.data.get("status") == "completed" else _FAILED
            except _RefusedError as refused:
                print(f"lifecycle-proxy: {printable(str(refused))}", file=sys.stderr)
                return _USAGE
            except (aiohttp.ClientError, TimeoutError, _BusyError) as failure:
                why = _words(failure)
            tries += 1
            print(lines.note(f"connecting anew: {why}"), file=sys.stderr, flush=True)
            await asyncio.sleep(wait_s)
    parts = urlsplit(url)
    at = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    message = f"the stream cannot be read: is the proxy at {at}? If not, name its URL with --proxy"
    print(f"lifecycle-proxy: {printable(message)}", file=sys.stderr)
    return _FAILED


async def _events(session: aiohttp.ClientSession, url: str, after: int) -> AsyncIterator[_Event]:
    """The events behind a number, on one connection.

    Raises:
        _RefusedError: there is nothing to read there.
        _BusyError: it cannot be read now.
    """
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": str(after)} if after else {})}
    async with session.get(url, headers=headers) as response:
        if response.status == 204:
            raise _RefusedError("the stream has ended, and nothing came behind that event")
        if response.status in (503, 502, 504):
            raise _BusyError(f"{_message(await response.read())} (status {response.status})")
        if response.status != 200 or response.content_type != "text/event-stream":
            raise _RefusedError(f"{_message(await response.read())} (status {response.status})")
        parser = sse.Parser(_MAX_EVENT_BYTES)
        async for data in response.content.iter_any():
            for event in parser.feed(data):
                if event.data and (found := _maybe_event(event)) is not None:
                    yield found


def _words(failure: Exception) -> str:
    """Why there is no connection, or no more of it."""
    match failure:
        case _BusyError():
            return str(failure)
        case aiohttp.ConnectionTimeoutError():
            return f"nobody took the connection in {_CONNECT_S:.0f} s"
        case TimeoutError():
            return f"nothing came for {_SILENCE_S:.0f} s"
        case aiohttp.ClientConnectorDNSError():
            return f"no address is known for the name {failure.host}"
        case aiohttp.ClientSSLError():
            certificate = getattr(failure, "certificate_error", None)
            reason = getattr(certificate, "verify_message", "") or "the handshake failed"
            return f"TLS with {failure.host} failed: {reason}"
        case aiohttp.ClientConnectorError():
            return f"cannot connect to {failure.host}:{failure.port}: {_reason(failure.os_error)}"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed without a response"
        case OSError():
            return f"the connection broke: {_reason(failure)}"
        case aiohttp.ClientPayloadError():
            return "the connection broke"
        case _:
            return "what answers is not HTTP"


def _reason(failure: OSError) -> str:
    """The system's words; asyncio puts others around them."""
    return os.strerror(failure.errno) if failure.errno else "the system says no more"


def _maybe_event(event: sse.Event) -> _Event | None:
    try:
        data = orjson.loads(event.data or b"")
    except orjson.JSONDecodeError:
        return None
    if not isinstance(data, dict):
        return None
    number = data.get("seq")
    name = event.name.decode("utf-8", "replace")
    return _Event(number if type(number) is int else 0, name, data)


def _message(body: bytes) -> str:
    """What an error says."""
    try:
        return str(orjson.loads(body)["error"]["message"])[:_MESSAGE_LENGTH]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "no stream is there"
