"""Both ends of the proxy, over real sockets, with every byte in the hands of the test.

``Upstream`` runs a script per request: an async function that writes whatever it likes, down to a
wrong length or a reset. ``Client`` sends raw bytes and reads an answer to its end, whatever end
that is: ``clean``, ``cut`` (closed before the body was whole) or ``reset``.
"""

import asyncio
import json
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, Self, cast
from urllib.parse import urlsplit

from multidict import CIMultiDict

End = Literal["", "clean", "cut", "reset"]
_LIMIT_BYTES: Final = 1 << 22
_PATIENCE_S: Final = 20.0


class Wire(asyncio.Protocol):
    """One connection, from either end. ``gone`` is set when the other side has closed it."""

    def __init__(self, serve: Callable[["Wire"], Awaitable[None]] | None = None) -> None:
        self.reader = asyncio.StreamReader(limit=_LIMIT_BYTES)
        self.gone = asyncio.Event()
        self._serve = serve
        self._task: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None
        self._is_lost = False

    # --- what asyncio tells -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has other ancestors
        if self._serve is not None:
            self._task = asyncio.ensure_future(self._serve(self))

    def data_received(self, data: bytes) -> None:
        self.reader.feed_data(data)

    def eof_received(self) -> bool:
        self.reader.feed_eof()
        self.gone.set()
        # Our own side stays open, where there is such a thing: the script says when it ends.
        return self.transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if exc is not None:
            self.reader.set_exception(exc)
        elif not self.gone.is_set():
            self.reader.feed_eof()
        self.gone.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # --- what a script does -------------------------------------------------------------------

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None, "connected"
        return self._transport

    async def send(self, data: bytes) -> None:
        """These bytes, at once."""
        self.transport.write(data)
        await self._writable.wait()

    async def head(self, status: str = "200 OK", *lines: str, version: str = "1.1") -> None:
        """A status line and headers as given, and nothing else."""
        await self.send("\r\n".join((f"HTTP/{version} {status}", *lines, "", "")).encode("latin-1"))

    async def answer(self, body: bytes = b"{}", status: str = "200 OK", *lines: str) -> None:
        """A whole answer with a length."""
        await self.head(status, *lines, f"Content-Length: {len(body)}")
        await self.send(body)

    async def stream(self, *events: bytes) -> None:
        """The head of an event stream, and events in a chunk each."""
        await self.head("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
        for event in events:
            await self.chunk(event)

    async def chunk(self, data: bytes = b"") -> None:
        """One chunk; the last one if it is empty."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def left(self, within_s: float = _PATIENCE_S) -> None:
        """Wait until the other side has closed the connection.

        Raises:
            TimeoutError: it has not.
        """
        async with asyncio.timeout(within_s):
            await self.gone.wait()

    def close(self) -> None:
        """FIN, behind what has been written."""
        self.transport.close()

    def reset(self) -> None:
        """RST."""
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, linger
        )
        self.transport.abort()

    async def end(self) -> None:
        """Leave nothing behind."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if not self._is_lost:  # asyncio's transport cannot be aborted behind its end
            self.transport.abort()


class Request:
    """A request as the upstream got it: ``raw`` is its head to the byte."""

    def __init__(self, raw: bytes, wire: Wire) -> None:
        self.raw = raw
        line, _, rest = raw.decode("latin-1").partition("\r\n")
        self.method, self.target, self.version = line.split(" ")
        self.headers = _headers(rest)
        self.wire = wire
        self._pieces: list[bytes] = []

    @property
    def body(self) -> bytes:
        """What has come of it."""
        if len(self._pieces) > 1:  # joined once: a large body would be copied with every piece
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0] if self._pieces else b""

    async def pieces(self, *, keep: bool = True) -> AsyncIterator[bytes]:
        """The body as it comes."""
        async for piece in _body(self.wire.reader, self.headers, to_eof=False):
            if keep:
                self._pieces.append(piece)
            yield piece

    def json(self) -> Any:
        return json.loads(self.body)


Script = Callable[[Request, Wire], Awaitable[None]]


async def hello(request: Request, wire: Wire) -> None:
    """The script of an upstream that is well."""
    body = b"" if request.method == "HEAD" else b'{"ok": true}'
    await wire.answer(body, "200 OK", JSON)


class Upstream:
    """A scripted upstream.

    Attributes:
        script: runs for each request, when its body has been read.
        requests: all requests so far.
        wires: all connections so far.
        greeting: said to every connection, before any request.
        lazy: the script runs at once and reads the body itself, with ``request.pieces``.
        failures: what went wrong in scripts; the fixture raises it.
        origin: its URL, once it listens on a port.
    """

    def __init__(self) -> None:
        self.script: Script = hello
        self.requests: list[Request] = []
        self.wires: list[Wire] = []
        self.greeting = b""
        self.lazy = False
        self.failures: list[Exception] = []
        self._server: asyncio.Server | None = None
        self.origin = ""

    @property
    def request(self) -> Request:
        """The one request that came."""
        (request,) = self.requests
        return request

    async def start(
        self, sock: socket.socket | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """Listen: on a bound socket, if one is given, and with TLS, if that is."""
        loop = asyncio.get_running_loop()
        sock = sock or socket.create_server(("127.0.0.1", 0))
        if sock.family != socket.AF_UNIX:
            scheme = "http" if tls is None else "https"
            self.origin = f"{scheme}://localhost:{sock.getsockname()[1]}"
        if sock.family != socket.AF_UNIX:
            # asyncio does it only where the socket names its protocol: else each answer of two
            # writes takes 40 ms. Connections inherit it.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server = await loop.create_server(lambda: Wire(self._serve), sock=sock, ssl=tls)

    def refuse(self) -> None:
        """Take no more connections; those that are open stay."""
        assert self._server is not None, "started"
        self._server.close()

    async def stop(self) -> None:
        self.refuse()
        for wire in self.wires:
            await wire.end()

    async def _serve(self, wire: Wire) -> None:
        self.wires.append(wire)
        await wire.send(self.greeting)
        try:
            while True:
                request = Request(await wire.reader.readuntil(b"\r\n\r\n"), wire)
                self.requests.append(request)
                if not self.lazy:
                    async for _ in request.pieces():
                        pass
                await self.script(request, wire)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the proxy has closed the connection
        except Exception as failure:  # shown by the fixture: a task has nobody to tell
            self.failures.append(failure)
            wire.close()


class Answer:
    """An answer whose head has been read; ``body`` grows as it is read."""

    def __init__(self, raw: bytes, wire: Wire, *, bodiless: bool = False) -> None:
        self.raw = raw
        line, _, rest = raw.decode("latin-1").partition("\r\n")
        self.version, status, self.reason = line.split(" ", 2)
        self.status = int(status)
        self.headers = _headers(rest)
        self.body = b""
        self.end: End = ""
        empty = bodiless or self.status in (204, 304)
        self.pieces = _nothing() if empty else _body(wire.reader, self.headers, to_eof=True)

    async def read(self) -> Self:
        """All of the body, to whatever end."""
        await self._read_until(None)
        return self

    async def until(self, mark: bytes) -> Self:
        """The body as far as ``mark``.

        Raises:
            AssertionError: it ended without.
        """
        await self._read_until(mark)
        assert mark in self.body, self.body
        return self

    async def _read_until(self, mark: bytes | None) -> None:
        rest: list[bytes] = []  # joined once: a large body would be copied with every piece
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while mark is None:
                    rest.append(await anext(self.pieces))
                while mark not in self.body:
                    self.body += await anext(self.pieces)
        except StopAsyncIteration:
            self.end = self.end or "clean"
        except asyncio.IncompleteReadError:
            self.end = "cut"
        except ConnectionError:
            self.end = "reset"
        finally:
            self.body += b"".join(rest)

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A client of raw bytes: ``async with Client(url) as client``.

    Args:
        url: ``http://``, ``https://`` or ``unix:/path``.
        tls: what is trusted.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self.host = urlsplit(url).netloc or "localhost"
        self.wire = Wire()
        self.hints: list[bytes] = []
        self._url = url
        self._tls = tls

    async def __aenter__(self) -> Self:
        loop, url = asyncio.get_running_loop(), urlsplit(self._url)
        if url.scheme == "unix":
            await loop.create_unix_connection(lambda: self.wire, url.path)
        else:
            name, port = url.hostname or "", url.port or 0
            await loop.create_connection(lambda: self.wire, name, port, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.wire.end()

    async def send(
        self,
        method: str,
        target: str,
        *lines: str,
        body: bytes | None = None,
        version: str = "1.1",
    ) -> None:
        """A request with exactly these header lines, besides Host and the body's length."""
        head = [f"{method} {target} HTTP/{version}", f"Host: {self.host}", *lines]
        if body is not None:
            head.append(f"Content-Length: {len(body)}")
        await self.wire.send("\r\n".join((*head, "", "")).encode("latin-1") + (body or b""))

    async def head(self, *, bodiless: bool = False) -> Answer:
        """Read the head of the next answer; ``hints`` gets those of 102 and 103 in front of it."""
        async with asyncio.timeout(_PATIENCE_S):
            raw = await self.wire.reader.readuntil(b"\r\n\r\n")
            while raw.startswith((b"HTTP/1.1 102 ", b"HTTP/1.1 103 ")):
                self.hints.append(raw)
                raw = await self.wire.reader.readuntil(b"\r\n\r\n")
        return Answer(raw, self.wire, bodiless=bodiless)

    async def chat(self, *lines: str, version: str = "1.1", **more: Any) -> Answer:
        """Ask for a chat stream and read the head of its answer."""
        await self.ask_chat(*lines, version=version, **more)
        return await self.head()

    async def ask_chat(self, *lines: str, version: str = "1.1", **more: Any) -> None:
        """Ask for a chat stream."""
        body = json.dumps({"model": "m", "messages": [], "stream": True, **more}).encode()
        await self.send("POST", CHAT, JSON, *lines, body=body, version=version)


async def ask(
    url: str,
    method: str,
    target: str,
    *lines: str,
    body: bytes | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """One request on a connection of its own, read to the end."""
    async with Client(url, tls) as client:
        await client.send(method, target, *lines, body=body)
        return await (await client.head(bodiless=method == "HEAD")).read()


@asynccontextmanager
async def chatting(url: str, *lines: str, seen: bytes = b"", **more: Any) -> AsyncIterator[Answer]:
    """A chat stream on a connection of its own that has begun, read as far as ``seen``."""
    async with Client(url) as client:
        answer = await client.chat(*lines, **more)
        yield await answer.until(seen) if seen else answer


async def chat(url: str, *lines: str, **more: Any) -> Answer:
    """One chat stream on a connection of its own, read to the end."""
    async with Client(url) as client:
        return await (await client.chat(*lines, **more)).read()


def _headers(lines: str) -> CIMultiDict[str]:
    parts = (line.partition(":") for line in lines.split("\r\n") if line)
    return CIMultiDict((name, value.strip(" ")) for name, _, value in parts)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def _body(
    reader: asyncio.StreamReader, headers: CIMultiDict[str], *, to_eof: bool
) -> AsyncIterator[bytes]:
    """The pieces of a body, by its framing.

    Raises:
        asyncio.IncompleteReadError: it ended before it was whole.
    """
    if headers.get("Transfer-Encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers
    elif "Content-Length" in headers:
        left = int(headers["Content-Length"])
        while left:
            piece = await reader.read(min(left, 1 << 16))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece
    elif to_eof:
        while piece := await reader.read(1 << 16):
            yield piece


# --- chat streams -------------------------------------------------------------------------------

CHAT: Final = "/v1/chat/completions"
JSON: Final = "Content-Type: application/json"
DONE: Final = b"data: [DONE]\n\n"


def event(data: Any, name: str = "") -> bytes:
    """A server-sent event."""
    line = f"event: {name}\n" if name else ""
    return f"{line}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def delta(finish: str | None = None, **fields: Any) -> bytes:
    """A chunk of a chat stream with this delta."""
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    head = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 7, "model": "up"}
    return event({**head, "choices": [choice]})


def text(content: str) -> bytes:
    return delta(content=content)


def tool_call(call_id: str = "call_1", name: str = "terminal", arguments: str = "{}") -> bytes:
    """A whole tool call in one chunk."""
    function = {"name": name, "arguments": arguments}
    call = {"index": 0, "id": call_id, "type": "function", "function": function}
    return delta(tool_calls=[call])


def usage(total: int = 3) -> bytes:
    """The chunk of ``stream_options.include_usage``."""
    head = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 7, "model": "up"}
    told = {"prompt_tokens": 1, "completion_tokens": total - 1, "total_tokens": total}
    return event({**head, "choices": [], "usage": told})


def payloads(body: bytes) -> list[dict[str, Any]]:
    """The JSON payloads of a stream, in order, without ``[DONE]``."""
    lines = (line for line in body.decode().splitlines() if line.startswith("data: {"))
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def lifecycle(body: bytes) -> list[tuple[str, str, str | None]]:
    """``(toolCallId, status, reason)`` of the lifecycle frames in a stream, in order."""
    told = (payload for payload in payloads(body) if "toolCallId" in payload)
    return [(one["toolCallId"], one["status"], one.get("reason")) for one in told]


def without_frames(body: bytes) -> bytes:
    """A stream without the lifecycle frames and comments that were added."""
    return _ADDED.sub(b"", body)


# Where the upstream has used ids, comments end with one line end.
_ADDED: Final = re.compile(
    rb"event: hermes\.tool\.progress\n[^\n]*\n\n"
    rb"|(?m:^): (?:keep-alive|hermes\.tool\.progress [^\n]*)\n\n?"
)
