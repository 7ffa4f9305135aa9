"""Many streams for a long time over real sockets, with everything going wrong that can.

    python bench/soak.py --seconds 600 --streams 200 --report soak.md

An upstream that resets, cuts, stalls, compresses and sends garbage; clients of which a third leave
at random; and between them the proxy, in a process of its own. Whole streams are compared byte for
byte after our frames are taken out, broken ones must be a beginning of what the upstream sent, and
every running must have its completed. Memory, descriptors and open exchanges are looked at every
five seconds. Exit code 0 if all held and memory was flat, else 1. Loopback only; Linux.
"""

import argparse
import asyncio
import json
import random
import re
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from running import Running, proxy
from scripts import BREAKING, DONE, REFUSING, Script, script

_ABOUT: Final = "Many streams for a long time, with everything going wrong that can."
_SAMPLE_S: Final = 5.0
_HANG_S: Final = 30.0
_SETTLE_S: Final = 30.0
_FAULTS_SHOWN: Final = 20
_MIB: Final = 1 << 20
_OURS: Final = re.compile(
    rb"event: hermes\.tool\.progress\ndata: ([^\n]*)\n\n"
    rb"|: keep-alive\n\n?"
    rb'|data: \{"error": [^\n]*"type": "proxy_error"[^\n]*\}\n\n'
)
_CALLS_OPEN: Final = 'lifecycle_proxy_exchanges_open{route="chat"}'
_POOL: Final = "lifecycle_proxy_upstream_connections"

End = Literal["clean", "broken", "left"]


class WrongError(Exception):
    """What must hold did not."""


@dataclass(frozen=True)
class Sample:
    """One look at the proxy."""

    at_s: float
    rss_bytes: int
    fds: int
    exchanges: int
    pool: int
    sockets: int
    done: int


@dataclass
class Tally:
    """What came of it all."""

    done: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    pairs: int = 0
    wrong: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


# --- one client ----------------------------------------------------------------------------------


class Client:
    """One stream after another; the connection is kept while it can be."""

    def __init__(self, port: int, tally: Tally) -> None:
        self._port = port
        self._tally = tally
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def play(self, seed: int) -> None:
        """One stream, judged."""
        wanted, rng = script(seed), random.Random(f"client {seed}")  # noqa: S311
        patience = rng.randrange(len(wanted.body)) if rng.random() < 1 / 3 else None
        try:
            async with asyncio.timeout(_HANG_S):
                end, status, data = await self._stream(seed, patience)
            if end != "left":
                self._tally.pairs += judge(wanted, end, status, data)
        except TimeoutError:
            end = "broken"
            self._note(seed, wanted, f"nothing for {_HANG_S:g} s: a hang")
        except WrongError as wrong:
            self._note(seed, wanted, str(wrong))
        self._tally.done += 1
        self._tally.ends[f"{wanted.fault}: {end}"] += 1
        if end != "clean" or rng.random() < 1 / 4:
            self.close(reset=end == "left" and rng.random() < 1 / 2)

    def _note(self, seed: int, wanted: Script, problem: str) -> None:
        self._tally.wrong.append(f"--only {seed} ({wanted.fault}): {problem}")

    async def _stream(self, seed: int, patience: int | None) -> tuple[End, int, bytes]:
        """Ask, and read up to the end; with ``patience`` no more than so many bytes."""
        body = json.dumps({"model": "soak", "stream": True, "messages": [], "seed": seed}).encode()
        for fresh in (False, True):
            if self._writer is None:
                await self._connect()
            assert self._writer is not None
            self._writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: soak\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            if patience is not None and patience % 10 == 0:
                await asyncio.sleep(patience % 7 / 100)  # gone before there is a head
                return "left", 0, b""
            try:
                status, length = await self._head()
                break
            except (asyncio.IncompleteReadError, ConnectionError):
                self.close()
                if fresh:
                    raise WrongError("no answer on a fresh connection") from None
        return await self._body(status, length, patience)

    async def _connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def _head(self) -> tuple[int, int | None]:
        assert self._reader is not None
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\nContent-Length: *(\d+)", head, re.IGNORECASE)
        return int(head.split(b" ", 2)[1]), int(length[1]) if length else None

    async def _body(
        self, status: int, length: int | None, patience: int | None
    ) -> tuple[End, int, bytes]:
        assert self._reader is not None
        if length is not None:
            return "clean", status, await self._reader.readexactly(length)
        data = bytearray()
        try:
            while patience is None or len(data) < patience:
                size = int(await self._reader.readline() or b"?", 16)
                data += (await self._reader.readexactly(size + 2))[:-2]
                if not size:
                    return "clean", status, bytes(data)
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            return "broken", status, bytes(data)
        return "left", status, bytes(data)

    def close(self, *, reset: bool = False) -> None:
        if self._writer is None:
            return
        if reset:
            sock = self._writer.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        self._writer.close()
        self._reader = self._writer = None


# --- judging -------------------------------------------------------------------------------------


def judge(wanted: Script, end: End, status: int, data: bytes) -> int:
    """What must hold of one stream that was read to its end.

    Returns:
        How many calls were told.

    Raises:
        WrongError: it does not.
    """
    if wanted.fault in REFUSING:
        if (status, end) != (REFUSING[wanted.fault], "clean"):
            raise WrongError(f"status {status}, {end}")
        return 0
    if wanted.fault == "framing" and status == 502 and b"upstream_protocol" in data:
        return 0  # it came in one read with the head
    if status != 200:
        raise WrongError(f"status {status}: {data[:200]!r}")
    if (end == "broken") is not (wanted.fault in BREAKING):
        raise WrongError(f"the end was {end}")
    _check_bytes(wanted, data, whole=end == "clean")
    told = _check_pairs(data)
    if end == "clean" and wanted.fault != "no_finish" and told != set(wanted.calls):
        raise WrongError(f"told of {sorted(told)} and not of {sorted(wanted.calls)}")
    if end == "broken" and DONE not in wanted.sent and b'"proxy_error"' not in data:
        raise WrongError("no error frame")
    return len(told)


def _check_bytes(wanted: Script, data: bytes, *, whole: bool) -> None:
    """Less our frames it is what was sent; in front of a frame an event may have been closed."""
    *kept, last = [data[a:b] for a, b in _between(data)]
    places = {0}
    for piece in kept:
        forms = {piece, *(piece.removesuffix(gap) for gap in (b"\n\n", b"\n"))}
        places = {at + len(f) for at in places for f in forms if wanted.sent.startswith(f, at)}
    rests = [wanted.sent[at:] for at in places]
    good = last in rests if whole else any(rest.startswith(last) for rest in rests)
    if not good:
        raise WrongError("these are not the upstream's bytes")


def _between(data: bytes) -> list[tuple[int, int]]:
    """Where the pieces between our frames begin and end."""
    spans = [match.span() for match in _OURS.finditer(data)]
    starts = [0, *(end for _, end in spans)]
    return list(zip(starts, [*(start for start, _ in spans), len(data)], strict=True))


def _check_pairs(data: bytes) -> set[str]:
    frames = [json.loads(m[1]) for m in _OURS.finditer(data) if m[1]]
    told: dict[str, list[str]] = {}
    for frame in frames:
        told.setdefault(frame["toolCallId"], []).append(frame["status"])
    for call_id, statuses in told.items():
        if statuses != ["running", "completed"]:
            raise WrongError(f"{call_id} was told as {statuses}")
    return set(told)


# --- the whole -----------------------------------------------------------------------------------


async def _drive(running: Running, upstream: int, asked: argparse.Namespace) -> Tally:
    tally, end = Tally(), time.monotonic() + asked.seconds
    seeds = iter([asked.only] if asked.only is not None else range(asked.seed, 1 << 60))

    async def one() -> None:
        client = Client(running.port, tally)
        for seed in seeds:
            await client.play(seed)
            if time.monotonic() > end:
                break
        client.close()

    watching = asyncio.create_task(_watch(running, upstream, tally))
    players = 1 if asked.only is not None else asked.streams
    await asyncio.gather(*(one() for _ in range(players)))
    watching.cancel()
    return tally


async def _watch(running: Running, upstream: int, tally: Tally) -> None:
    began = time.monotonic()
    print(_ROW.format("s", "RSS MiB", "fds", "open", "pool", "sockets", "streams"), flush=True)
    while True:
        await asyncio.sleep(_SAMPLE_S - (time.monotonic() - began) % _SAMPLE_S)
        tally.samples.append(await _look(running, upstream, time.monotonic() - began, tally.done))
        print(_row(tally.samples[-1]), flush=True)


async def _look(running: Running, upstream: int, at_s: float, done: int) -> Sample:
    numbers = await asyncio.to_thread(running.metrics)
    return Sample(
        at_s,
        running.rss_bytes,
        running.fds,
        int(numbers.get(_CALLS_OPEN, 0)),
        int(numbers.get(_POOL, -1)),
        running.sockets_to(upstream),
        done,
    )


async def _settled(running: Running, upstream: int, done: int) -> Sample:
    """How it looks when all are gone and idle connections were let go."""
    began = time.monotonic()
    while True:
        sample = await _look(running, upstream, 0, done)
        quiet = not (sample.exchanges or sample.sockets)
        if quiet or time.monotonic() - began > _SETTLE_S:
            return sample
        await asyncio.sleep(0.5)


_ROW: Final = "{:>6} {:>9} {:>6} {:>6} {:>6} {:>8} {:>9}"


def _row(sample: Sample) -> str:
    rss = f"{sample.rss_bytes / _MIB:.1f}"
    numbers = (sample.fds, sample.exchanges, sample.pool, sample.sockets, sample.done)
    return _ROW.format(round(sample.at_s), rss, *numbers)


def _thirds(samples: list[Sample]) -> tuple[float, float]:
    """The median RSS of the middle third, and of the last."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    return _median(middle), _median(last)


def _median(samples: list[Sample]) -> float:
    return statistics.median(sample.rss_bytes for sample in samples)


def _verdict(tally: Tally, idle: Sample, after: Sample, complaints: list[str]) -> list[str]:
    """What did not hold."""
    problems = tally.wrong[:_FAULTS_SHOWN]
    if len(tally.samples) >= 3:
        middle, last = _thirds(tally.samples)
        if last > middle * 1.1 + 5 * _MIB:
            problems.append(f"memory grew: {middle / _MIB:.1f} MiB, then {last / _MIB:.1f} MiB")
    if after.exchanges:
        problems.append(f"{after.exchanges} exchanges are still open")
    if after.sockets:
        problems.append(f"{after.sockets} connections to the upstream are still open")
    if after.fds > idle.fds + 2:
        problems.append(f"{after.fds} descriptors are open, {idle.fds} were")
    logged = Counter(_gist(line) for line in complaints)
    problems += [f"the proxy logged {n} times: {gist}" for gist, n in logged.most_common()]
    return problems


def _gist(line: str) -> str:
    """A log record without what differs from one to the next."""
    try:
        record = json.loads(line)
    except ValueError:
        record = {"message": line.strip()}
    trace = [part.strip() for part in record.get("exception", "").splitlines()[-3:]]
    return re.sub(r"0x[0-9a-f]+|req_\w+", "...", " | ".join([record["message"], *trace]))[:500]


def _report(tally: Tally, idle: Sample, after: Sample, problems: list[str]) -> str:
    lines = [_ROW.format("s", "RSS MiB", "fds", "open", "pool", "sockets", "streams")]
    lines += [_row(sample) for sample in (idle, *tally.samples, after)]
    lines += ["", "fault: end"]
    lines += [f"{number:>9}  {name}" for name, number in sorted(tally.ends.items())]
    lines += ["", f"{tally.done} streams, {tally.pairs} calls told of, {len(tally.wrong)} wrong"]
    if len(tally.samples) >= 3:
        middle, last = _thirds(tally.samples)
        lines.append(f"median RSS: middle third {middle / _MIB:.1f}, last {last / _MIB:.1f} MiB")
    lines += [f"FAILED: {problem}" for problem in problems] or ["verdict: all held, memory flat"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run it. 0 if all held."""
    parser = argparse.ArgumentParser(description=_ABOUT)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--streams", type=int, default=100, help="at a time (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="of the first stream (default: 1)")
    parser.add_argument("--only", type=int, metavar="SEED", help="play this one stream")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the table here, too")
    asked = parser.parse_args()
    command = [sys.executable, str(Path(__file__).with_name("faulty.py"))]
    with subprocess.Popen(  # noqa: S603  our own command
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as upstream:
        assert upstream.stdout is not None
        port = int(upstream.stdout.readline())
        with proxy(
            f"http://127.0.0.1:{port}/v1",
            server__access_log=False,
            server__log_format="json",
            server__heartbeat_s=0.2,
            upstream__stall_timeout_s=2,
        ) as running:
            text, problems = asyncio.run(_soaked(running, port, asked))
        upstream.terminate()
    print(text)
    if asked.report:
        asked.report.write_text(text, encoding="utf-8")
    return int(bool(problems))


async def _soaked(
    running: Running, upstream: int, asked: argparse.Namespace
) -> tuple[str, list[str]]:
    idle = await _look(running, upstream, 0, 0)
    tally = await _drive(running, upstream, asked)
    after = await _settled(running, upstream, tally.done)
    # What the upstream does wrong is logged with its cause: here it does so on purpose.
    complaints = [line for line in running.complaints() if '"cause":' not in line]
    problems = _verdict(tally, idle, after, complaints)
    return _report(tally, idle, after, problems), problems


if __name__ == "__main__":
    sys.exit(main())
