"""What readers beside streams cost: processor time, memory, and the chat's latency.

    python bench/readers.py

Streams with tool calls, paced by the upstream; the same with a reader each, with many readers of
one, and with readers that take nothing. Each chunk holds the time when the upstream wrote it, so
the client sees how long it took. At last ten thousand short streams, for what is kept of them.
Upstream, clients and readers share the other processor, so differences count, not the numbers.
Loopback only; Linux.
"""

import argparse
import asyncio
import json
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from running import Running, proxy

_CHUNKS: Final = 60
_EVERY_S: Final = 0.03
_CALLS_EVERY: Final = 6
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_STAMP: Final = re.compile(rb"t=(\d+)")
_MANY: Final = 10_000
_AT_ONCE: Final = 200


def _event(delta: dict[str, object], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    data = b"data: %b\n\n" % json.dumps({**chunk, "choices": [choice]}).encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def _call(number: int) -> bytes:
    function = {"name": "terminal", "arguments": '{"command": "ls"}'}
    return _event({"tool_calls": [{"index": number, "id": f"c{number}", "function": function}]})


async def _upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(found[1])) if found else b""
            writer.write(_HEAD)
            is_short = b'"short"' in body
            for number in range(2 if is_short else _CHUNKS):
                if number % _CALLS_EVERY == 1:
                    writer.write(_call(number // _CALLS_EVERY))
                writer.write(_event({"content": f"t={time.monotonic_ns()}"}))
                if not is_short:
                    await asyncio.sleep(_EVERY_S)
            done = b"data: [DONE]\n\n"
            writer.write(_event({}, "tool_calls") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(done), done))
            await writer.drain()


class Load:
    """Clients and readers of one proxy.

    Args:
        port: the proxy's.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.delays_ms: list[float] = []
        self.read_bytes = 0

    async def chat(self, stream_id: str, model: str = "m") -> None:
        """One stream, to its end."""
        body = json.dumps({"model": model, "messages": [], "stream": True}).encode()
        lines = (
            "POST /v1/chat/completions HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"X-Event-Stream-Id: {stream_id}",
            "X-Lifecycle-Text: off",
            "Connection: close",
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write("\r\n".join((*lines, "", "")).encode() + body)
        while data := await reader.read(1 << 16):
            now = time.monotonic_ns()
            self.delays_ms += [(now - int(one)) / 1e6 for one in _STAMP.findall(data)]
        writer.close()

    async def read(self, stream_id: str, *, is_dead: bool = False) -> None:
        """One reader, to its stream's end; a dead one takes nothing."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 10)
        line = f"GET /-/streams/{stream_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        writer.write(f"{line}Connection: close\r\n\r\n".encode())
        if is_dead:
            writer.transport.pause_reading()
            await asyncio.sleep(_CHUNKS * _EVERY_S * 1.5)
        else:
            while data := await reader.read(1 << 16):
                self.read_bytes += len(data)
        writer.close()


async def _measured(
    running: Running, name: str, streams: int, readers: Sequence[int], *, are_dead: bool = False
) -> None:
    """Run some streams, stream ``n`` with ``readers[n]`` readers, and print what it cost."""
    load, mark = Load(running.port), f"{time.monotonic_ns():x}"
    ids = [f"bench-{mark}-{number}" for number in range(streams)]
    idle = running.rss_bytes
    running.forget_peak()
    own = [
        asyncio.create_task(load.read(one, is_dead=are_dead))
        for one, count in zip(ids, readers, strict=False)
        for _ in range(count)
    ]
    await asyncio.sleep(1)
    cpu_s = running.cpu_s
    await asyncio.gather(*(load.chat(one) for one in ids))
    cpu_s = running.cpu_s - cpu_s
    await asyncio.gather(*own)
    delays = sorted(load.delays_ms)
    print(
        f"{name:44} {cpu_s:7.2f} s CPU  {(running.peak_rss_bytes - idle) / 1e6:6.1f} MB  "
        f"latency {delays[len(delays) // 2]:5.1f} ms median, {delays[-len(delays) // 100]:6.1f} ms "
        f"99 %  {load.read_bytes / 1e6:6.1f} MB read"
    )


async def _many(running: Running, streams: int) -> None:
    """Short streams, one after the other on many connections: what is kept of them."""
    load, before = Load(running.port), running.rss_bytes
    left = iter(range(streams))

    async def work() -> None:
        for number in left:
            await load.chat(f"many-{number:08}", "short")

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    grown = (running.rss_bytes - before) / 1e6
    print(f"{streams} streams, all kept: {grown:.1f} MB more")


async def _main(streams: int, many: int) -> None:
    server = await asyncio.start_server(_upstream, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with proxy(f"http://127.0.0.1:{port}/v1") as running:
        await _measured(running, "warm up", 20, ())
        await _measured(running, f"{streams} streams, no readers", streams, ())
        await _measured(running, f"{streams} streams, a reader each", streams, [1] * streams)
        await _measured(running, "1 stream, no readers", 1, ())
        await _measured(running, f"1 stream, {streams} readers", 1, [streams])
        await _measured(running, "20 streams, no readers", 20, ())
        each = [streams // 20] * 20
        name = f"20 streams, {streams} readers that take nothing"
        await _measured(running, name, 20, each, are_dead=True)
        await _many(running, many)
        await _many(running, many)
    server.close()
    await asyncio.sleep(0.5)  # the connections of the proxy, which has ended


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--many", type=int, default=_MANY)
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.streams, arguments.many))
