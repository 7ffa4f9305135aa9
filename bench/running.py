"""A proxy in a process of its own, and what the kernel says of it. Linux, loopback only."""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO, Final
from urllib.request import urlopen

ROOT: Final = Path(__file__).resolve().parent.parent
_LISTENS: Final = re.compile(r"(?:listening|replaying \d+ exchanges) on http://[^ ]*:(\d+)\b")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_START_S: Final = 15.0
_STOP_S: Final = 15.0


class Running:
    """One proxy.

    Attributes:
        port: where it listens, on 127.0.0.1.
        pid: its process id.
    """

    def __init__(self, process: subprocess.Popen[str], port: int, log: IO[str]) -> None:
        self.port = port
        self.pid = process.pid
        self._process = process
        self._log = log

    @property
    def rss_bytes(self) -> int:
        return self._status("VmRSS")

    @property
    def peak_rss_bytes(self) -> int:
        """The most since the start, or since ``forget_peak``."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", encoding="ascii")  # see proc(5)

    @property
    def cpu_s(self) -> float:
        """Processor time so far, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def run_ns(self) -> int:
        """The same in nanoseconds, of all its threads that still run: for short rounds."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(one.read_text("ascii").split()[0]) for one in tasks)

    @property
    def fds(self) -> int:
        """File descriptors that are open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208  only their number

    def sockets_to(self, port: int) -> int:
        """Connections to a port of 127.0.0.1 that the kernel calls established."""
        with Path(f"/proc/{self.pid}/net/tcp").open(encoding="ascii") as lines:
            rows = [line.split() for line in lines]
        remote = f"0100007F:{port:04X}"
        return sum(row[2] == remote and row[3] == "01" for row in rows)

    def metrics(self) -> dict[str, float]:
        """All samples by name and labels, as they are written."""
        with urlopen(f"http://127.0.0.1:{self.port}/-/metrics", timeout=10) as answer:
            text = answer.read().decode()
        rows = (line.rpartition(" ") for line in text.splitlines() if line[:1] != "#")
        return {name: float(value) for name, _, value in rows}

    def complaints(self) -> list[str]:
        """What it logged as a warning or worse."""
        self._log.seek(0)
        return [line for line in self._log if '"level":"INFO"' not in line]

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self._process.terminate()
        try:
            return self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _status(self, key: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text("ascii").splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return int(value.split()[0]) * 1024
        raise KeyError(key)


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    """A server on a free port, which it gives; connections are closed behind ``serve``."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled at the end: asyncio's server would log it as a failure.
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextmanager
def proxy(upstream: str, **settings: object) -> Iterator[Running]:
    """Run a proxy.

    Args:
        upstream: its URL.
        settings: by name, such as ``upstream__stall_timeout_s``.

    Raises:
        RuntimeError: it does not listen in time.
    """
    with command("serve", "--upstream", upstream, **settings) as running:
        yield running


@contextmanager
def command(name: str, *arguments: str, **settings: object) -> Iterator[Running]:
    """Run a command that listens: ``serve`` or ``replay``."""
    own = {f"LIFECYCLE_PROXY_{k.upper()}": str(v) for k, v in settings.items()}
    others = {k: v for k, v in os.environ.items() if not k.startswith("LIFECYCLE_PROXY_")}
    line = [sys.executable, "-m", "lifecycle_proxy", name, "--listen", "127.0.0.1:0", *arguments]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(  # noqa: S603  our own command
            line, cwd=ROOT, env=others | own, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            yield Running(process, _port(process, log), log)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[str], log: IO[str]) -> int:
    """Where it listens: its first line says."""
    assert process.stdout is not None
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        line = process.stdout.readline()
        if found := _LISTENS.match(line):
            return int(found[1])
    log.seek(0)
    raise RuntimeError(f"the proxy does not listen: {log.read()[-2000:]}")
