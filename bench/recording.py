"""What recording costs: CPU and latency per chunk, memory, and what a full disk does to it.

    python bench/recording.py                                (1 GB; some minutes)
    python bench/recording.py --megabytes 50 --chunks 4000 --rounds 3

Streams of many small chunks, the recorder on and off in turns: the proxy's CPU per chunk, and how
long a chunk takes from the upstream to the client, each as a ratio. The proxy's memory while one
long stream is recorded, as fast as it goes and then paced, and whether it was kept: what is faster
than the recorder is not. Exchanges into a small tmpfs until it is full and beyond: what was counted
as lost, and whether the chat went on (it has to be mounted, which takes root; else it is skipped).
Loopback only; Linux.
"""

import argparse
import asyncio
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from running import ROOT, Running, listening, proxy

_MB: Final = 1_000_000
_BOUNDARY: Final = b"\r\n\r\n"
_ASKED: Final = b'{"model":"m","stream":true,"messages":[]}'
_HEAD: Final = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,'
)
_STAMP: Final = (
    b'"model":"m","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
)
_DONE: Final = b"data: [DONE]\n\n"
_MARK: Final = b'"content":"'
_STAMP_BYTES: Final = 16
_STREAMS: Final = 8
_PAUSE_S: Final = 0.002
_LARGE: Final = _HEAD + _STAMP % (b"word " * 180)
_TMPFS_BYTES: Final = 10 << 20
_EXCHANGES: Final = 90  # of which the tmpfs takes about half

Give = Callable[[asyncio.StreamWriter], Awaitable[None]]


def _giving(give: Give) -> AbstractAsyncContextManager[int]:
    """An upstream that answers every request by one stream; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(_BOUNDARY)
        await reader.readexactly(len(_ASKED))
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        writer.write(head + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        await give(writer)
        _chunk(writer, _DONE)
        writer.write(b"0\r\n\r\n")

    return listening(serve)


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def _ask(running: Running, take: Callable[[bytes], None] | None = None) -> int:
    """One stream; how many bytes of it came, framing included."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1 << 20)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Authorization: Bearer sk-0123456789abcdef0123456789\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(_ASKED), _ASKED)
    )
    total = 0
    while piece := await reader.read(1 << 20):
        total += len(piece)
        if take is not None:
            take(piece)
    writer.close()
    return total


def _cpu_s(running: Running) -> float:
    fields = Path(f"/proc/{running.pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _recording(folder: Path | None) -> dict[str, object]:
    own: dict[str, object] = {"server__access_log": False}
    if folder is None:
        return own
    return {**own, "recording__mode": "record", "recording__path": folder}


# --- per chunk ------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """What a chunk cost: microseconds of CPU, and milliseconds on its way."""

    cpu_us: float
    median_ms: float
    p99_ms: float
    lost: float


async def _cost(chunks: int, folder: Path | None) -> Cost:
    async def give(writer: asyncio.StreamWriter) -> None:
        for _ in range(chunks // _STREAMS):
            stamp = struct.pack(">d", time.perf_counter()).hex().encode()
            _chunk(writer, _HEAD + _STAMP % stamp)
            await writer.drain()
            await asyncio.sleep(_PAUSE_S)

    took: list[float] = []

    def take(piece: bytes) -> None:
        now, at = time.perf_counter(), 0
        while (at := piece.find(_MARK, at) + len(_MARK)) >= len(_MARK):
            stamp = piece[at : at + _STAMP_BYTES]
            if len(stamp) == _STAMP_BYTES:
                took.append((now - struct.unpack(">d", bytes.fromhex(stamp.decode()))[0]) * 1000)

    async with _giving(give) as port:
        with proxy(f"http://127.0.0.1:{port}/v1", **_recording(folder)) as running:
            await _ask(running)
            await asyncio.sleep(0.3)  # what it does once is done
            took.clear()
            before = _cpu_s(running)
            await asyncio.gather(*(_ask(running, take) for _ in range(_STREAMS)))
            await asyncio.sleep(0.3)  # what waits for the disk belongs to it
            spent = _cpu_s(running) - before
            lost = running.metrics()["lifecycle_proxy_recording_lost_total"]
    took.sort()
    p99 = took[int(len(took) * 0.99)]
    return Cost(spent / chunks * 1e6, statistics.median(took), p99, lost)


async def _per_chunk(chunks: int, rounds: int, folder: Path) -> None:
    print(f"\n{_STREAMS} streams at once, {chunks} chunks of {len(_HEAD + _STAMP)} B, by turns")
    print(f"{'':<8}{'CPU us/chunk':>14}{'median ms':>12}{'p99 ms':>10}{'lost':>6}")
    runs: dict[str, list[Cost]] = {"off": [], "on": []}
    for number in range(rounds):
        for name in ("off", "on") if number % 2 else ("on", "off"):
            cost = await _cost(chunks, folder if name == "on" else None)
            runs[name].append(cost)
            print(
                f"{name:<8}{cost.cpu_us:>14.1f}{cost.median_ms:>12.3f}{cost.p99_ms:>10.3f}"
                f"{cost.lost:>6.0f}",
                flush=True,
            )
    off, on = (
        [statistics.median(column) for column in zip(*runs[name], strict=True)]
        for name in ("off", "on")
    )
    print(
        f"{'on/off':<8}{on[0] / off[0]:>14.2f}{on[1] / off[1]:>12.2f}{on[2] / off[2]:>10.2f}"
        f"   (+{on[0] - off[0]:.1f} us CPU, +{on[1] - off[1]:.3f} ms median)"
    )


# --- memory ---------------------------------------------------------------------------------------


async def _long(megabytes: int, folder: Path, pace: int) -> None:
    """One long stream, at so many megabytes a second; 0 for as fast as it goes."""
    sizes = [_MB, megabytes * _MB]

    async def give(writer: asyncio.StreamWriter) -> None:
        began, given = time.monotonic(), 0
        for _ in range(sizes.pop(0) // len(_LARGE)):
            _chunk(writer, _LARGE)
            given += len(_LARGE)
            await writer.drain()
            if pace and (early_s := given / pace / _MB - (time.monotonic() - began)) > 0.01:
                await asyncio.sleep(early_s)

    async with _giving(give) as port:
        with proxy(f"http://127.0.0.1:{port}/v1", **_recording(folder)) as running:
            await _ask(running)
            await asyncio.sleep(0.3)
            idle = running.rss_bytes
            running.forget_peak()
            began = time.monotonic()
            total = await _ask(running)
            took = time.monotonic() - began
            peak = running.peak_rss_bytes
            lost = running.metrics()["lifecycle_proxy_recording_lost_total"]
    size = sum(path.stat().st_size for path in _files(folder))
    way = f"at {pace} MB/s" if pace else "unpaced"
    print(
        f"\none stream of {total / _MB:.0f} MB, {way}, in {took:.1f} s "
        f"({total / took / _MB:.0f} MB/s): "
        f"peak {(peak - idle) / _MB:.1f} MB over {idle / _MB:.1f} MB; "
        f"{size / _MB:.0f} MB on the disk; lost exchanges: {lost:.0f} of 2"
    )


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


# --- a full disk ----------------------------------------------------------------------------------


@contextmanager
def _tmpfs(folder: Path) -> Iterator[bool]:
    """A small file system at a folder; False where that cannot be had."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_TMPFS_BYTES}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)  # noqa: S603  our own
    except OSError:
        yield False
        return
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", str(folder)], check=False)  # noqa: S603, S607  our own


async def _taken(running: Running) -> bool:
    """Whether a stream came whole."""
    pieces: list[bytes] = []
    await _ask(running, pieces.append)
    body, clear = b"".join(pieces).partition(_BOUNDARY)[2], b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        clear += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return clear == _LARGE * 200 + _DONE


async def _full(folder: Path) -> None:
    async def give(writer: asyncio.StreamWriter) -> None:
        for _ in range(200):
            _chunk(writer, _LARGE)

    with _tmpfs(folder) as is_there:
        if not is_there:
            print("\na full disk: skipped, no tmpfs could be mounted here")
            return
        async with _giving(give) as port:
            with proxy(f"http://127.0.0.1:{port}/v1", **_recording(folder)) as running:
                taken = [await _taken(running) for _ in range(_EXCHANGES)]
                await asyncio.sleep(2)  # for what waits to be written
                lost = running.metrics()["lifecycle_proxy_recording_lost_total"]
                complaints = len(running.complaints())
        sys.path.insert(0, str(ROOT))
        from lifecycle_proxy.recording.cassette import load  # noqa: PLC0415  needs the path

        found = [one for one in load(folder) if one.is_complete and not one.omitted]
        whole = sum(one.client.is_whole for one in found)
        print(
            f"\n{_EXCHANGES} exchanges of {200 * len(_LARGE) / _MB:.2f} MB "
            f"into {_TMPFS_BYTES / _MB:.1f} MB: {sum(taken)} reached the client whole; "
            f"{lost:.0f} lost, {whole} whole on the disk, {len(found) - whole} damaged; "
            f"{complaints} line in the log"
        )


async def main() -> int:
    """Run all three."""
    parser = argparse.ArgumentParser(description="What recording costs.")
    parser.add_argument("--megabytes", type=int, default=1000, help="of the long stream")
    parser.add_argument("--pace", type=int, default=10, help="MB/s of its second run")
    parser.add_argument("--chunks", type=int, default=8000, help="of a run")
    parser.add_argument("--rounds", type=int, default=5, help="runs on, and as many off")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="recording-bench-") as name:
        folder = Path(name)
        await _per_chunk(asked.chunks, asked.rounds, folder / "chunks")
        await _long(asked.megabytes, folder / "fast", 0)
        await _long(asked.megabytes, folder / "paced", asked.pace)
        await _full(folder / "full")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
