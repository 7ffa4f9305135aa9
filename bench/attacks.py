"""What one hostile request or response costs: memory and processor time.

    python bench/attacks.py

Each attack meets a fresh proxy. Printed, as a Markdown table: the peak of its memory over what it
takes when idle, and its processor time. How long such input holds the event loop is tested in
tests/relay/test_loop_time.py. Loopback only; Linux.
"""

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from running import Running, Serve, listening, proxy

_MB: Final = 1_000_000
_END: Final = b"\r\n\r\n"
_SSE: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
_PATIENCE_S: Final = 30.0
_ASKED: Final = b'{"model":"m","stream":true,"messages":[]}'


class Attack(NamedTuple):
    """One attack.

    Attributes:
        what: in the table.
        response: pieces that the upstream sends, headers included.
        body: of the client's request.
        head: more header lines of the client's request.
        unfinished: the headers have no end.
    """

    what: str
    response: Callable[[], list[bytes]] = lambda: [_SSE + b"\r\ndata: [DONE]\n\n"]
    body: bytes = _ASKED
    head: bytes = b""
    unfinished: bool = False


def _calls(number: int) -> bytes:
    call = {"index": number, "id": f"c{number}", "function": {"name": "f", "arguments": "{"}}
    chunk = {"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _interim() -> list[bytes]:
    return [b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5_000] * 100


def _many_calls() -> list[bytes]:
    return [_SSE + b"\r\n", *(_calls(number) for number in range(12_000))]


def _long_event() -> list[bytes]:
    return [_SSE + b"\r\ndata: ", *[b"x" * 65_536] * 600, b"\n\n"]


def _headers() -> list[bytes]:
    return [b"HTTP/1.1 200 OK\r\n", *[b"X-A: " + b"a" * 60_000 + b"\r\n"] * 1_000]


def _bomb() -> list[bytes]:
    packed = gzip.compress(b"\0" * (200 * _MB))
    return [_SSE + b"Content-Encoding: gzip\r\n\r\n", packed]


def _members() -> list[bytes]:
    return [_SSE + b"Content-Encoding: deflate\r\n\r\n", *[zlib.compress(b"") * 8_000] * 16]


def _complex_json() -> list[bytes]:
    return [_SSE + b'\r\ndata: {"a":[', b"[]," * 2_000_000, b"1]}\n\n"]


ATTACKS: Final = (
    Attack("nothing, to compare"),
    Attack(
        "60 MB of request headers that do not end", head=b"X: y\r\n" * 10_000_000, unfinished=True
    ),
    Attack(
        "a body of 8 MB of `[],`", body=b'{"stream":true,"messages":[' + b"[]," * 2_600_000 + b"1]}"
    ),
    Attack(
        "a body with 100,000 of our marks", body=b'{"messages":["' + b"htp_1 " * 100_000 + b'"]}'
    ),
    Attack(
        "a cookie of 3,500 values",
        head=b"Cookie: " + b"; ".join(b"k%d=v%d" % (n, n) for n in range(3_500)) + b"\r\n",
    ),
    Attack("500,000 interim responses", _interim),
    Attack("60 MB of response headers", _headers),
    Attack("12,000 open tool calls", _many_calls),
    Attack("one event of 39 MB", _long_event),
    Attack("an event of 6 MB of `[],`", _complex_json),
    Attack("200 MB of zeros in gzip", _bomb),
    Attack("128,000 empty members of zlib", _members),
)


def _serving(attack: Attack) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.LimitOverrunError):
            await reader.readuntil(_END)
            for piece in attack.response():
                writer.write(piece)
                await writer.drain()

    return serve


async def _attack(running: Running, attack: Attack) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    writer.write(head + attack.head)
    with suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            if not attack.unfinished:
                writer.write(b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(attack.body))
                writer.write(attack.body)
            await writer.drain()
            while await reader.read(1 << 20):
                pass
    writer.close()


async def _measure(attack: Attack) -> None:
    async with listening(_serving(attack)) as port:
        with proxy(f"http://127.0.0.1:{port}/v1", server__access_log=False) as running:
            idle, before = running.rss_bytes, running.cpu_s
            running.forget_peak()
            await _attack(running, attack)
            over = (running.peak_rss_bytes - idle) / _MB
            spent = running.cpu_s - before
            print(f"| {attack.what} | {over:.0f} | {spent:.1f} |")


async def main() -> None:
    """All of them, one after the other."""
    print("| attack | memory, MB | processor, s |")
    print("|---|---:|---:|")
    for attack in ATTACKS:
        await _measure(attack)


if __name__ == "__main__":
    asyncio.run(main())
