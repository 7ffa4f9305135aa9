"""What upstreams sent, recorded through the proxy and played again: is it the same, and on time?

    python bench/roundtrip.py tests/corpus                       (folders of *.sse; some seconds)
    python bench/roundtrip.py FOLDER ... --streams 20 --seed 2

A scripted upstream serves each file in pieces of random sizes at random times, cut anywhere. The
proxy records. Then ``replay`` plays both sides: heads, bytes, the pieces and the end must be those
of the live run; the drift is how much later than recorded each piece came. A line for each file
that differs; the exit code is 1 then. ``expected.json`` beside the files may say how one is served
(``http``: status, content_type, headers, framing, abort). Loopback only.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lifecycle_proxy.core import sse
from lifecycle_proxy.exchange.model import SideName
from lifecycle_proxy.recording.cassette import RecordedExchange, load
from running import Running, command, listening, proxy

_PAD: Final = re.compile(rb"@@PAD:(\d+)@@")  # the corpus' way to write a large line
_MOST_PIECES: Final = 40
_MOST_GAP_S: Final = 0.02
_BIG: Final = 1 << 30
_SIDES: Final[tuple[SideName, ...]] = ("upstream", "client")


@dataclass(frozen=True)
class Stream:
    """What the upstream sends for one file, and how."""

    name: str
    number: str
    body: bytes
    http: dict[str, Any]
    seed: int

    @property
    def request(self) -> bytes:
        told = {"model": self.number, "stream": True, "messages": []}
        body = json.dumps(told).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
        return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    def pieces(self) -> list[bytes]:
        chance = random.Random(f"{self.seed} {self.name}")  # noqa: S311  no secret
        count = min(chance.randint(0, _MOST_PIECES), len(self.body) - 1)
        cuts = sorted(chance.sample(range(1, len(self.body)), max(0, count)))
        return [self.body[a:b] for a, b in zip([0, *cuts], [*cuts, len(self.body)], strict=True)]

    @property
    def framing(self) -> str:
        return str(self.http.get("framing", "chunked"))

    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.http.get('status', 200)} OK"]
        lines.append(f"Content-Type: {self.http.get('content_type', 'text/event-stream')}")
        lines += [f"{k}: {v}" for k, v in self.http.get("headers", {}).items()]
        framing = {
            "chunked": "Transfer-Encoding: chunked",
            "length": f"Content-Length: {len(self.body)}",
            "close": "Connection: close",
        }
        return "\r\n".join((*lines, framing[self.framing], "", "")).encode()


@dataclass
class Answer:
    """What a client got. ``times`` are milliseconds since it asked."""

    head: bytes = b""
    pieces: list[bytes] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    end: str = "eof"

    def same(self, other: "Answer") -> str:
        """What differs; "" for nothing."""
        pairs = {
            "head": (self.head, other.head),
            "bytes": (b"".join(self.pieces), b"".join(other.pieces)),
            "frames": (_frames(self.pieces), _frames(other.pieces)),
            "end": (self.end, other.end),
        }
        return ", ".join(name for name, (mine, theirs) in pairs.items() if mine != theirs)


def _frames(pieces: list[bytes]) -> list[sse.Event]:
    parser = sse.Parser(_BIG)
    return [event for piece in pieces for event in parser.feed(piece)] + parser.eof()


def streams(folders: list[Path], seed: int) -> list[Stream]:
    found: list[Stream] = []
    for folder in folders:
        told = folder / "expected.json"
        spec = json.loads(told.read_text("utf-8"))["files"] if told.is_file() else {}
        for path in sorted(folder.glob("*.sse")):
            body = _PAD.sub(lambda m: b"x" * int(m[1]), path.read_bytes())
            http = spec.get(path.stem, {}).get("http", {})
            if body and not http.get("gzip"):
                name, number = f"{folder.name}/{path.stem}", f"stream {len(found)}"
                found.append(Stream(name, number, body, http, seed))
    return found


# --- both ends ------------------------------------------------------------------------------------


def _upstream(all_streams: list[Stream]) -> AbstractAsyncContextManager[int]:
    """Serves the stream whose number is the request's model; its port."""
    known = {stream.number: stream for stream in all_streams}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1]) if length else 0)
        await _give(known[json.loads(body)["model"]], writer)

    return listening(serve)


async def _give(stream: Stream, writer: asyncio.StreamWriter) -> None:
    chance = random.Random(stream.seed)  # noqa: S311  no secret
    writer.write(stream.head())
    for piece in stream.pieces():
        await asyncio.sleep(chance.random() * _MOST_GAP_S)
        chunked = stream.framing == "chunked"
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        await writer.drain()
    if stream.http.get("abort"):
        writer.transport.abort()
    elif stream.framing == "chunked":
        writer.write(b"0\r\n\r\n")


async def _ask(running: Running, stream: Stream) -> Answer:
    """One stream, as it comes. Pieces are HTTP chunks, where there are such, else reads."""
    answer = Answer()
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1 << 26)
    began = time.perf_counter()
    writer.write(stream.request)
    try:
        answer.head = await reader.readuntil(b"\r\n\r\n")
        async for piece in _pieces(reader, answer.head.lower()):
            answer.times.append((time.perf_counter() - began) * 1000)
            answer.pieces.append(piece)
    except asyncio.IncompleteReadError:
        answer.end = "cut"
    except ConnectionError:
        answer.end = "reset"
    finally:
        writer.close()
    return answer


async def _pieces(reader: asyncio.StreamReader, head: bytes) -> AsyncIterator[bytes]:
    if b"transfer-encoding: chunked" in head:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return
    length = re.search(rb"content-length: (\d+)", head)
    left = int(length[1]) if length else _BIG
    while left and (piece := await reader.read(min(left, 1 << 16))):
        left -= len(piece)
        yield piece
    if length and left:
        raise asyncio.IncompleteReadError(b"", left)


async def _all(running: Running, asked: list[Stream], at_once: int) -> dict[str, Answer]:
    turn = asyncio.Semaphore(at_once)

    async def one(stream: Stream) -> tuple[str, Answer]:
        async with turn:
            return stream.number, await _ask(running, stream)

    return dict(await asyncio.gather(*(one(stream) for stream in asked)))


# --- the rounds -----------------------------------------------------------------------------------


async def _record(asked: list[Stream], folder: Path, at_once: int) -> dict[str, Answer]:
    async with _upstream(asked) as port:
        own = {"recording__mode": "record", "recording__path": folder}
        with proxy(f"http://127.0.0.1:{port}/v1", **own) as running:
            return await _all(running, asked, at_once)


def _expected(stream: Stream, one: RecordedExchange, live: Answer, side: SideName) -> Answer:
    """What playing a side must give: live bytes in the recorded pieces."""
    if side == "client":
        return live
    kept = one.side("upstream")
    whole = Answer(stream.head(), [stream.body])
    whole.end = {"eof": "eof", "reset": "cut"}.get(kept.end, kept.end)
    return whole


async def run(folders: list[Path], seed: int, at_once: int) -> int:
    """How many files differ."""
    asked = streams(folders, seed)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "recorded"
        live = await _record(asked, folder, at_once)
        known = {json.loads(one.request.body or b"{}")["model"]: one for one in load(folder)}
        print(f"{len(asked)} streams, {at_once} at once, seed {seed}; {len(known)} recorded")
        for side in _SIDES:
            with command("replay", str(folder), "--side", side) as running:
                played = await _all(running, asked, at_once)
            drift: list[float] = []
            for stream in asked:
                one, answer = known[stream.number], played[stream.number]
                pieces = [piece for piece in one.side(side).pieces if piece.data]
                differs = answer.same(_expected(stream, one, live[stream.number], side))
                if b"chunked" in answer.head and answer.pieces != [p.data for p in pieces]:
                    differs = f"{differs}, pieces".strip(", ")
                if differs:
                    wrong.append(f"{stream.name}: {side}: {differs}")
                if len(answer.times) == len(pieces):
                    due = [piece.ms for piece in pieces]
                    drift += [came - ms for came, ms in zip(answer.times, due, strict=True)]
            _print(side, drift)
    for line in wrong:
        print(f"DIFFERS {line}")
    return len(wrong)


def _print(side: str, drift: list[float]) -> None:
    drift.sort()
    p99 = drift[int(len(drift) * 0.99)]
    print(
        f"{side:<9} {len(drift)} pieces; drift ms: p50 {statistics.median(drift):.2f}, "
        f"p99 {p99:.2f}, max {drift[-1]:.2f}"
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders of *.sse")
    parser.add_argument("--streams", type=int, default=4, help="at once (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the cuts (default: %(default)s)")
    own = parser.parse_args()
    return 1 if asyncio.run(run(own.folders, own.seed, own.streams)) else 0


if __name__ == "__main__":
    sys.exit(main())
