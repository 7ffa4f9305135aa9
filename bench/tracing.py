"""What traces cost: processor time for a short stream, with them and without.

    python bench/tracing.py                       (two minutes; Linux)
    python bench/tracing.py --rounds 40 --streams 400 --sampler always_off

Two proxies, one with traces and metrics for a receiver, one without, in front of the same scripted
upstream: a role, five words, a tool call with its result, a finish reason, usage. They take turns
in short rounds; given is the processor time of the whole process for a stream, its threads included
and the receiver not, as the median of the rounds, and the median of the differences of two rounds
that follow one another.
"""

import argparse
import asyncio
import json
import os
import statistics
from pathlib import Path
from typing import Any, Final

from running import Running, listening, proxy

_CLIENTS: Final = 16
_IDLE_S: Final = 1.0


def _event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1700000000}
    return _data(chunk | {"model": "bench", "choices": [choice]})


def _data(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


_FUNCTION: Final = {"name": "search", "arguments": '{"q": "word"}'}
_CALL: Final = {"index": 0, "id": "call_0", "type": "function", "function": _FUNCTION}
_USAGE: Final = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
_EVENTS: Final = [
    _event({"role": "assistant", "content": ""}),
    *(_event({"content": f"word{number} "}) for number in range(5)),
    _event({"tool_calls": [_CALL]}),
    _event({}, "tool_calls"),
    _event({"role": "tool", "tool_call_id": "call_0", "content": "12 files"}),
    _event({"content": "done"}, "stop"),
    _data({"id": "chatcmpl-bench", "choices": [], "usage": _USAGE}),
    b"data: [DONE]\n\n",
]
_BODY: Final = json.dumps({"model": "bench", "stream": True, "messages": []}).encode()
_REQUEST: Final = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


async def _upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(_BODY))
        writer.write(_HEAD)
        for event in _EVENTS:
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await asyncio.sleep(0)  # a write of its own
        writer.write(b"0\r\n\r\n")


async def _receiver(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def _client(port: int, streams: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(streams):
        writer.write(_REQUEST)
        await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.close()


async def _round(running: Running, streams: int) -> float:
    """Microseconds of processor time for a stream, with what is done a little later."""
    before = _cpu_ns(running.pid)
    share = streams // _CLIENTS
    await asyncio.gather(*(_client(running.port, share) for _ in range(_CLIENTS)))
    await asyncio.sleep(_IDLE_S)
    return (_cpu_ns(running.pid) - before) / (share * _CLIENTS) / 1000


def _cpu_ns(pid: int) -> int:
    """Of all threads of a process, those that live; user and system."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text("ascii").split()[0]) for file in files)


async def _measure(rounds: int, streams: int) -> None:
    async with listening(_upstream) as upstream, listening(_receiver) as receiver:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{receiver}"
        os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "500"
        at = f"http://127.0.0.1:{upstream}/v1"
        with proxy(at, traces__enabled="false") as off, proxy(at, traces__enabled="true") as on:
            for one in (off, on):
                await _round(one, streams)
            pairs = []
            for number in range(rounds):
                first, second = (off, on) if number % 2 else (on, off)
                took = {one.pid: await _round(one, streams) for one in (first, second)}
                pairs.append((took[off.pid], took[on.pid]))
            _print(pairs, streams)
        await asyncio.sleep(_IDLE_S)  # the servers notice that their clients are gone


def _print(pairs: list[tuple[float, float]], streams: int) -> None:
    without, with_them = (statistics.median(column) for column in zip(*pairs, strict=True))
    more = statistics.median(on - off for off, on in pairs)
    share = statistics.median(on / off for off, on in pairs) - 1
    print(f"{len(pairs)} rounds of {streams} streams of {len(_EVENTS)} events, us of processor:")
    print(f"  off {without:.0f}   on {with_them:.0f}   more {more:.0f}   {share:+.1%}")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--streams", type=int, default=400)
    parser.add_argument("--sampler", default="", help="OTEL_TRACES_SAMPLER")
    arguments = parser.parse_args()
    if arguments.sampler:
        os.environ["OTEL_TRACES_SAMPLER"] = arguments.sampler
    asyncio.run(_measure(arguments.rounds, arguments.streams))


if __name__ == "__main__":
    main()
