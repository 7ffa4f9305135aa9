"""How much memory the proxy takes where a careless one would take the whole body.

    python bench/memory.py

A 50 MB upload to an upstream that reads slowly, the same as a chat completion, and a stream of
100 MB to a client that does not read. Printed: the peak of the proxy's memory over what it takes
when idle, and how much of the body had left the sender. Loopback only; Linux.
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from running import Running, proxy

_MB: Final = 1_000_000
_UPLOAD_BYTES: Final = 50 * _MB
_STREAM_BYTES: Final = 100 * _MB
_WAIT_S: Final = 4.0
_BOUND_BYTES: Final = 16 * _MB
_EVENT: Final = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 940)
_BOUNDARY: Final = b"\r\n\r\n"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Slow:
    """An upstream: counts what it takes and gives."""

    def __init__(self) -> None:
        self.taken = self.given = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A body that is long is read slowly; a short one is answered by a long stream."""
        try:
            head = await reader.readuntil(_BOUNDARY)
            found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            length = int(found[1]) if found else 0
            if length > _MB:
                await self._take(reader, length)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            else:
                await self._give(writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _take(self, reader: asyncio.StreamReader, length: int) -> None:
        await asyncio.sleep(_WAIT_S)
        while self.taken < length:
            self.taken += len(await reader.read(1 << 16))
            await asyncio.sleep(0.0005)

    async def _give(self, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
        while self.given < _STREAM_BYTES:
            writer.write(b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT))
            self.given += len(_EVENT)
            await writer.drain()
        writer.write(b"0\r\n\r\n")


@asynccontextmanager
async def _listening(serve: Serve) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _upload(running: Running, path: str) -> int:
    """Send 50 MB, and wait for the answer; its status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {_UPLOAD_BYTES}\r\n\r\n"
    writer.write(head.encode())
    for _ in range(_UPLOAD_BYTES // _MB):
        writer.write(b" " * _MB)
        await writer.drain()
    answer = await reader.readuntil(_BOUNDARY)
    writer.close()
    return int(answer.split(b" ", 2)[1])


async def _deaf(running: Running) -> int:
    """Ask for a stream, and read nothing of it for a while; then how many bytes there were."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1 << 16)
    body = b'{"model":"m","stream":true,"messages":[]}'
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    await asyncio.sleep(_WAIT_S)
    total = 0
    while piece := await reader.read(1 << 20):
        total += len(piece)
    writer.close()
    return total


async def _measured(what: str, work: Callable[[Running], Awaitable[int]]) -> bool:
    """Do it with a fresh proxy; whether its memory stayed within bounds."""
    slow = Slow()
    async with _listening(slow.serve) as port:
        with proxy(f"http://127.0.0.1:{port}/v1", server__access_log=False) as running:
            idle = running.rss_bytes
            running.forget_peak()
            task = asyncio.ensure_future(work(running))
            await asyncio.sleep(_WAIT_S - 0.5)
            early = slow.given
            result = await task
            over = running.peak_rss_bytes - idle
    moved = slow.taken or slow.given
    waiting = f", {early / _MB:.1f} MB given while nobody read" if early else ""
    print(
        f"{what:<44} peak {over / _MB:5.1f} MB over idle ({idle / _MB:.1f} MB); "
        f"{moved / _MB:.1f} MB moved, result {result}{waiting}",
        flush=True,
    )
    return over < _BOUND_BYTES


async def main() -> int:
    """Run all three. 0 if each stayed below 16 MB over idle."""
    good = [
        await _measured("50 MB upload, slow upstream", lambda r: _upload(r, "/v1/files")),
        await _measured(
            "50 MB chat completion, slow upstream", lambda r: _upload(r, "/v1/chat/completions")
        ),
        await _measured("100 MB stream, client that does not read", _deaf),
    ]
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
