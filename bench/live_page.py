"""What the live page costs: processor time of the proxy, its memory, frames a second in Chromium.

    python bench/live_page.py --streams 500 --seconds 60

So many streams at once, without a page and then with one: reasoning, text, a tool, and again, each
until it is replaced by a new one. Upstream, clients and Chromium share the other processors, so
the frames say what this machine draws beside all of that; the work for a frame is processor time.
Loopback only; Linux; Chromium.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from running import Running, proxy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.inspect.chromium import BrowserPage, a_page

_EVERY_S: Final = 0.25
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_FRAMES: Final = """new Promise(done => { let count = 0; const until = performance.now() + 10000;
const next = now => { count++; now < until ? requestAnimationFrame(next) : done(count / 10) };
requestAnimationFrame(next); })"""
_HEAP: Final = "Math.round(performance.memory.usedJSHeapSize / 1e5) / 10"


def _event(delta: dict[str, object], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    data = b"data: %b\n\n" % json.dumps({**chunk, "choices": [choice]}).encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def _script(number: int) -> list[bytes]:
    """Some 30 s, a chunk each quarter of a second; no two streams end together."""
    function = {"name": f"tool_{number % 7}", "arguments": '{"command": "ls"}'}
    call = {"index": 0, "id": f"call_{number}", "function": function}
    return [
        *[_event({"reasoning_content": "let me think "})] * 20,
        *[_event({"content": "some words "})] * (30 + number % 40),
        _event({"tool_calls": [call]}),
        _event({}, "tool_calls"),
        *[b""] * 20,  # the tool runs: nothing comes
        _event({"role": "tool", "tool_call_id": f"call_{number}", "content": "a  b"}),
        *[_event({"content": "some words "})] * 30,
        _event({}, "stop") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
    ]


async def _upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    number = 0
    # Cancelled at the end: asyncio would log it as a failure.
    with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            number = json.loads(await reader.readexactly(length))["seed"]
            writer.write(_HEAD)
            for piece in _script(number):
                if piece:
                    writer.write(piece)
                await asyncio.sleep(_EVERY_S)


async def _client(port: int, number: int, count: list[int]) -> None:
    """One chat behind the other."""
    await asyncio.sleep(number % 100 * 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        question = {"role": "user", "content": f"Question {number} about the weather"}
        body = json.dumps({"stream": True, "model": f"model-{number % 5}", "seed": number})
        body = json.dumps({**json.loads(body), "messages": [question]})
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body.encode())
        )
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"0\r\n\r\n")
        count[0] += 1
        number += 1


async def _measured(running: Running, seconds: float) -> tuple[float, list[float]]:
    """The share of a processor, and the memory in MB each half minute."""
    cpu_s, began = running.cpu_s, time.monotonic()
    memory = [running.rss_bytes / 1e6]
    while (left := began + seconds - time.monotonic()) > 0:
        await asyncio.sleep(min(30, left))
        memory.append(running.rss_bytes / 1e6)
    return 100 * (running.cpu_s - cpu_s) / (time.monotonic() - began), memory


async def _busy_s(page: BrowserPage) -> float:
    """How long the page's thread has worked so far."""
    metrics = (await page.call("Performance.getMetrics"))["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


async def _drawn(page: BrowserPage, seconds: float) -> list[tuple[float, float, float]]:
    """Frames a second, milliseconds of work for each, the page's memory in MB; twice a minute."""
    await page.call("Performance.enable", timeDomain="threadTicks")
    rows, until = list[tuple[float, float, float]](), time.monotonic() + seconds - 12
    while time.monotonic() < until:
        busy_s = await _busy_s(page)
        frames = await page.run(_FRAMES)
        work_ms = 1000 * (await _busy_s(page) - busy_s) / (10 * max(frames, 1))
        rows.append((frames, work_ms, await page.run(_HEAP)))
        await asyncio.sleep(20)
    return rows


async def _run(streams: int, seconds: float) -> bytes:
    """The page at the end, as a PNG."""
    server = await asyncio.start_server(_upstream, "127.0.0.1", 0, backlog=1024)
    port, count = server.sockets[0].getsockname()[1], [0]
    with proxy(f"http://127.0.0.1:{port}/v1") as running:
        clients = [asyncio.create_task(_client(running.port, n, count)) for n in range(streams)]
        await asyncio.sleep(15)
        share, memory = await _measured(running, min(60, seconds))
        print(f"without a page: {share:.1f} % of a processor, {memory[-1]:.0f} MB", flush=True)
        async with a_page(f"http://127.0.0.1:{running.port}/-/") as page:
            await page.resize(1280, 900)
            await asyncio.sleep(15)
            (share, memory), rows = await asyncio.gather(
                _measured(running, seconds), _drawn(page, seconds)
            )
            print(f"with a page, {seconds:g} s: {share:.1f} % of a processor; {count[0]} chats")
            print("proxy, MB: ", *(f"{one:.0f}" for one in memory))
            for name, column in zip(
                ("frames / s:", "ms / frame:", "page, MB:  "), zip(*rows, strict=True), strict=True
            ):
                print(name, *(f"{one:.1f}" for one in column))
            print("summary:   ", await page.run("document.getElementById('summary').textContent"))
            shot = await page.picture()
            print("console:   ", page.said)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        print("proxy's complaints:", running.complaints()[:3])
    server.close()
    return shot


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--picture", default="", help="a PNG of the page at the end")
    args = parser.parse_args(argv)
    shot = asyncio.run(_run(args.streams, args.seconds))
    if args.picture:
        Path(args.picture).write_bytes(shot)


if __name__ == "__main__":
    main()
