"""What the proxy costs beside a plain aiohttp proxy, and beside nginx where that is installed.

    make bench                                    (a minute; Linux)
    python bench/compare.py --rounds 8 --seconds 2
    python bench/compare.py --tree OTHER          a checkout to compare with

Each proxy is a process of its own in front of the same scripted upstream, metrics and access log
on. They take turns in short rounds, so that a busy moment of the machine hits all of them, and
for each figure the quietest round of each counts. Given is processor time of the proxy, as a ratio
to the plain aiohttp proxy (below 1 is cheaper):

step  32 streams of text; a chunk is sent when the client has the one before, so none are joined
mix   the same with a role, two tool calls, a finish reason and usage: lifecycle events are added
json  plain requests on 32 connections

Also given is the time to the first chunk of a stream, one at a time, above that without a proxy.
"""

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
_STREAMS: Final = 32
_CHUNKS: Final = 100
_START_S: Final = 15.0
_LAST_S: Final = 0.2
_BOUNDARY: Final = b"\r\n\r\n"
_PLAIN: Final = "plain aiohttp"
_NGINX: Final = """
worker_processes 1; daemon off; pid {run}/pid; error_log {run}/error.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {run}/a; proxy_temp_path {run}/b; fastcgi_temp_path {run}/c;
  uwsgi_temp_path {run}/d; scgi_temp_path {run}/e;
  upstream backend {{ server {up}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


def _event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1700000000}
    chunk |= {"model": "bench", "choices": [choice]}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def _call(index: int) -> Iterator[bytes]:
    function: dict[str, str] = {"name": "search", "arguments": '{"q": "'}
    head = {"index": index, "id": f"call_{index}", "type": "function", "function": function}
    yield _event({"tool_calls": [head]})
    for piece in [*(["word "] * (_CHUNKS // 4)), '"}']:
        yield _event({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})


_TEXT: Final = [_event({"role": "assistant", "content": ""})] + [
    _event({"content": f"word{number} "}) for number in range(_CHUNKS)
]
_USAGE: Final = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","choices":[],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}\n\n'
)
_MIX: Final = [
    *_TEXT[: _CHUNKS // 2],
    *_call(0),
    *_call(1),
    _event({}, "tool_calls"),
    _USAGE,
]
_DONE: Final = b"data: [DONE]\n\n"
_ANSWER: Final = json.dumps({"id": "chatcmpl-bench", "choices": [], "filler": "x" * 600}).encode()


def _request(kind: str) -> bytes:
    asked = {"model": kind, "stream": kind != "json", "messages": [{"role": "user"}]}
    body = json.dumps(asked).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer key\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


class Backend:
    """Upstream and clients in one process: a chunk is sent when the one before has arrived."""

    def __init__(self) -> None:
        self._turns: dict[bytes, asyncio.Event] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        while (head := await _head(reader)) is not None:
            asked = json.loads(await reader.readexactly(_length(head)))
            if asked["model"] == "json":
                length = b"Content-Length: %d" % len(_ANSWER)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                writer.write(length + _BOUNDARY + _ANSWER)
                continue
            turn = self._turns[_header(head, b"x-request-id:")]
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            for event in [*(_MIX if asked["model"] == "mix" else _TEXT), _DONE]:
                writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                await turn.wait()
                turn.clear()
            writer.write(b"0\r\n\r\n")

    async def stream(self, port: int, kind: str, deadline: float) -> tuple[int, list[float]]:
        """Ask for streams on one connection until it is time.

        Returns:
            How many chunks the upstream sent, and the time to the first of each stream in seconds.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        name = b"%x" % id(writer)
        turn = self._turns[name] = asyncio.Event()
        asked = _request(kind).replace(b"\r\nHost", b"\r\nX-Request-Id: %b\r\nHost" % name, 1)
        count, firsts = 0, list[float]()
        while time.monotonic() < deadline:
            turn.clear()
            start = time.perf_counter()
            writer.write(asked)
            head = await _head(reader) or b""
            assert b" 200 " in head, head
            is_first = True
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
                if is_first:
                    firsts.append(time.perf_counter() - start)
                is_first = False
                turn.set()
            await reader.readline()
            count += len(_MIX if kind == "mix" else _TEXT) + 1
        writer.close()
        return count, firsts

    async def ask(self, port: int, kind: str, deadline: float) -> tuple[int, list[float]]:
        """Ask for whole answers on one connection until it is time.

        Returns:
            How many came, and nothing.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        asked, count = _request(kind), 0
        while time.monotonic() < deadline:
            writer.write(asked)
            head = await _head(reader) or b""
            assert b" 200 " in head, head
            await reader.readexactly(_length(head))
            count += 1
        writer.close()
        return count, []

    async def load(
        self, port: int, kind: str, seconds: float, clients: int
    ) -> tuple[int, list[float]]:
        """Many clients at once.

        Returns:
            All that ``stream`` or ``ask`` gave them.
        """
        deadline = time.monotonic() + seconds
        one = self.ask if kind == "json" else self.stream
        found = await asyncio.gather(*(one(port, kind, deadline) for _ in range(clients)))
        return sum(count for count, _ in found), [first for _, some in found for first in some]


async def _head(reader: asyncio.StreamReader) -> bytes | None:
    try:
        return (await reader.readuntil(_BOUNDARY)).lower()
    except asyncio.IncompleteReadError:
        return None


def _header(head: bytes, name: bytes) -> bytes:
    return head.partition(b"\r\n" + name)[2].partition(b"\r\n")[0].strip()


def _length(head: bytes) -> int:
    return int(_header(head, b"content-length:"))


@dataclass(slots=True)
class Contestant:
    """One proxy.

    Attributes:
        pids: its processes.
        costs: by figure, microseconds of processor time a chunk or request, one a round.
        firsts: medians of the time to the first chunk, in milliseconds, one a round.
    """

    name: str
    port: int
    pids: list[int] = field(default_factory=list)
    costs: dict[str, list[float]] = field(default_factory=dict)
    firsts: list[float] = field(default_factory=list)

    def cpu_s(self) -> float:
        ticks = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def _started(name: str, port: int, command: list[str], **env: str) -> Iterator[Contestant]:
    """A proxy in a process of its own, when it takes connections."""
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(  # noqa: S603  our own commands
        command, cwd=ROOT, env=os.environ | env, stdout=nothing, stderr=nothing
    )
    try:
        end = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > end or process.poll() is not None:
                    raise RuntimeError(f"{name} does not start: {' '.join(command)}") from None
                time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("ascii")
        yield Contestant(name, port, [process.pid, *map(int, children.split())])
    finally:
        process.terminate()
        process.wait(_START_S)


def _proxy(name: str, tree: Path, up: str) -> AbstractContextManager[Contestant]:
    port = _free_port()
    command = [sys.executable, "-m", "lifecycle_proxy", "serve", "--upstream", f"http://{up}/v1"]
    command += ["--listen", f"127.0.0.1:{port}"]
    return _started(name, port, command, PYTHONPATH=str(tree / "proxy"))


def _all(up: str, trees: list[Path], run: Path) -> Iterator[AbstractContextManager[Contestant]]:
    port = _free_port()
    plain = [sys.executable, str(ROOT / "bench" / "plain_proxy.py"), str(port), up]
    yield _started(_PLAIN, port, plain)
    yield _proxy("lifecycle-proxy", ROOT, up)
    for tree in trees:
        yield _proxy(tree.name, tree, up)
    if nginx := shutil.which("nginx"):
        port = _free_port()
        config = run / "nginx.conf"
        config.write_text(_NGINX.format(run=run, up=up, port=port), "utf-8")
        yield _started("nginx", port, [nginx, "-p", str(run), "-c", str(config)])


async def _measure(asked: argparse.Namespace) -> list[Contestant]:
    backend = Backend()
    server = await asyncio.start_server(backend.serve, "127.0.0.1", 0)
    up = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with ExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        everyone = [stack.enter_context(one) for one in _all(up, asked.tree, run)]
        direct = Contestant("none", int(up.rpartition(":")[2]))
        for one in everyone:
            await backend.load(one.port, "step", 0.5, _STREAMS)  # warm
        for number in range(asked.rounds):
            print(f"round {number + 1} of {asked.rounds}", file=sys.stderr)
            for kind in ("step", "mix", "json"):
                for one in everyone:
                    before = one.cpu_s()
                    count, _ = await backend.load(one.port, kind, asked.seconds, _STREAMS)
                    cost_us = (one.cpu_s() - before) * 1e6 / max(count, 1)
                    one.costs.setdefault(kind, []).append(cost_us)
            for one in (direct, *everyone):
                _, firsts = await backend.load(one.port, "step", asked.seconds / 2, 1)
                one.firsts.append(statistics.median(firsts) * 1000)
    server.close()
    await asyncio.sleep(_LAST_S)  # the backend sees that all connections are closed
    return [direct, *everyone]


def _table(direct: Contestant, *everyone: Contestant) -> Iterator[str]:
    plain = next(one for one in everyone if one.name == _PLAIN)
    yield "| | step | mix | json | us a chunk: step | mix | us a request: json | first chunk, ms |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for one in everyone:
        least = {kind: min(costs) for kind, costs in one.costs.items()}
        ratios = [f"{least[kind] / min(plain.costs[kind]):.2f}" for kind in least]
        costs = [f"{least[kind]:.1f}" for kind in least]
        first = f"+{min(one.firsts) - min(direct.firsts):.2f}"
        yield f"| {' | '.join((one.name, *ratios, *costs, first))} |"


def main() -> int:
    parser = argparse.ArgumentParser(description="What the proxy costs beside others.")
    parser.add_argument("--rounds", type=int, default=5, help="in turns (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="for a figure (default: 1)")
    help_ = "another checkout, to compare with; may be given more than once"
    parser.add_argument("--tree", type=Path, action="append", default=[], help=help_)
    asked = parser.parse_args()
    if not Path("/proc/self/stat").exists():
        print("processor time is read from /proc, which is not here (Linux only)", file=sys.stderr)
        return 1
    print("\n".join(_table(*asyncio.run(_measure(asked)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
