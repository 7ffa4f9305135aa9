"""What routing costs: processor time of the proxy for a request, with one and with three upstreams.

    python bench/routing.py

Each proxy is a process of its own; client and backend are in this one. They take turns in many
short rounds, so that what else runs on the machine is the same for all; the last column is the
median of the rounds' ratios. ``name`` also replaces the name of the model in the body. Linux only.
"""

import argparse
import asyncio
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from running import Running, command, listening

_EVENT: Final = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
_CHUNK: Final = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_JSON: Final = (
    b'{"id":"c","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}]}'
)


async def backend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers at once: JSON, or a stream of 100 events, each in a write of its own."""
    while not reader.at_eof():
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        body = await reader.readexactly(length)
        if b'"stream":true' in body:
            kind = b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked"
            writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % kind)
            for _ in range(100):
                writer.write(_CHUNK)
                await asyncio.sleep(0)
            writer.write(b"0\r\n\r\n")
        else:
            kind = b"Content-Type: application/json\r\nContent-Length: %d" % len(_JSON)
            writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (kind, _JSON))
        await writer.drain()


async def ask(port: int, body: bytes, count: int) -> None:
    """So many requests, one after another, on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    request = b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
    for _ in range(count):
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in answer[:16]:
            raise RuntimeError(answer.decode())
        if b"chunked" in answer:
            await reader.readuntil(b"0\r\n\r\n")
        else:
            await reader.readexactly(len(_JSON))
    writer.close()


async def measured(running: Running, body: bytes, count: int) -> float:
    """Processor time of the proxy for each request, in microseconds."""
    before = running.run_ns
    await asyncio.gather(*(ask(running.port, body, count // 4) for _ in range(4)))
    return (running.run_ns - before) / count / 1e3


async def run(rounds: int, count: int) -> None:
    """Measure, and print a table."""
    prompt = b'"messages":[{"role":"user","content":"%b"}]' % (b"How full is the disk? " * 40)
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        async with listening(backend) as port:
            url = f"http://127.0.0.1:{port}/v1"
            tables = "".join(
                f'[[upstreams]]\nname = "{name}"\nurl = "{url}"\nmodels = ["{name}-*"]\n'
                for name in ("a", "b", "c")
            )
            file = _written(folder, f'{tables}[models]\n"fast" = ["c/c-1", "a/a-1"]\n')
            one = stack.enter_context(command("serve", "--upstream", url))
            three = stack.enter_context(command("serve", "--config", str(file)))
            lanes = {
                "one upstream": (one, b"c-1"),
                "three": (three, b"c-1"),
                "three, name": (three, b"fast"),
            }
            for kind, more, number in (
                ("json", b"", count),
                ("stream", b',"stream":true', count // 8),
            ):
                spent: dict[str, list[float]] = {name: [] for name in lanes}
                for turn in range(rounds + 1):
                    order = [*lanes] if turn % 2 else [*reversed(lanes)]
                    for name in order:
                        running, model = lanes[name]
                        body = b'{"model":"%b",%b%b}' % (model, prompt, more)
                        spent[name].append(await measured(running, body, number))
                first = spent["one upstream"][1:]  # the first round warms up
                for name, each in spent.items():
                    ratio = median(a / b for a, b in zip(each[1:], first, strict=True))
                    print(
                        f"{kind:7} {name:14} {median(each[1:]):8.0f} us  {ratio:6.3f}", flush=True
                    )


def _written(folder: str, text: str) -> Path:
    file = Path(folder, "config.toml")
    file.write_text(text)
    return file


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description="What routing costs.")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--count", type=int, default=400, help="JSON requests in a round")
    asked = parser.parse_args()
    asyncio.run(run(asked.rounds, asked.count))
    return 0


if __name__ == "__main__":
    sys.exit(main())
