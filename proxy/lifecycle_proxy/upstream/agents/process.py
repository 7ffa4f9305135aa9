"""An agent's process: lines in, lines out, and an end that nothing survives.

Bounds: a line, what waits to be written, what is logged of its standard error. The process is run
by ``guard``, in a process group of its own. No shell is involved, and of the proxy's own
environment only ``INHERITED`` is passed on.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from lifecycle_proxy.core.redact import redact
from lifecycle_proxy.exchange.errors import ProxyError

log = logging.getLogger("proxy.upstream")

INHERITED: Final = ("PATH", "HOME", "LANG")
MAX_LINE_BYTES: Final = 4 << 20
_READ_BYTES: Final = 1 << 16
_MAX_UNWRITTEN: Final = 32 << 20
_LOGGED_LINES: Final = 200
_LOGGED_CHARACTERS: Final = 500
_END_S: Final = 6.0  # the guard's own patience is 2 s, twice
_GUARD: Final = str(Path(__file__).with_name("guard.py"))


class AgentProcess:
    """One run of an agent.

    Args:
        name: of the upstream, for the log.
        on_line: called with each line of its output, without the line end.
        on_end: called once, when nothing more comes.
        max_line_bytes: a longer line is the end of the process.
    """

    def __init__(
        self,
        name: str,
        on_line: Callable[[bytes], None],
        on_end: Callable[[ProxyError], None],
        *,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        self._name = name
        self._on_line = on_line
        self._on_end = on_end
        self._max_line_bytes = max_line_bytes
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._starting: asyncio.Task[asyncio.subprocess.Process] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._readable = asyncio.Event()
        self._readable.set()
        self._failure: ProxyError | None = None
        self._has_reported = False

    @property
    def pid(self) -> int:
        """Of the guard, which is that of the process group; 0 before the start."""
        return self._process.pid if self._process else 0

    async def start(self, command: Sequence[str], cwd: str, env: Mapping[str, str]) -> None:
        """Start it.

        Args:
            command: the program and its arguments.
            cwd: its working directory.
            env: besides what is inherited.

        Raises:
            ProxyError: ``upstream_unreachable``.
        """
        environment = {key: os.environ[key] for key in INHERITED if key in os.environ} | dict(env)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._control = ours
        starting = self._starting = asyncio.create_task(
            asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", _GUARD, str(theirs.fileno()), *command),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=cwd,
                env=environment,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
                limit=_READ_BYTES,
            )
        )
        starting.add_done_callback(lambda _: theirs.close())
        try:
            # Not broken off in the middle: what has been started then would not be known.
            self._process = await asyncio.shield(starting)
        except OSError as error:
            ours.close()
            cause = error.strerror or str(error)
            raise ProxyError(
                "upstream_unreachable", "the agent cannot be started", cause=f"{cwd}: {cause}"
            ) from None
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._log())]

    def send(self, line: bytes) -> None:
        """Write a line. An agent that does not read has its process ended."""
        process = self._process
        if process is None or process.stdin is None or process.stdin.is_closing():
            return
        process.stdin.write(line)
        transport = process.stdin.transport
        if transport.get_write_buffer_size() > _MAX_UNWRITTEN:
            self.fail(ProxyError("upstream_protocol", "the agent does not read its input"))

    def pause(self) -> None:
        """Read nothing until ``resume``: the client is behind."""
        self._readable.clear()

    def resume(self) -> None:
        """Read on."""
        self._readable.set()

    def fail(self, failure: ProxyError) -> None:
        """End it at once, and say why."""
        if self._failure is None:
            self._failure = failure
            self._order_end()
            self.resume()
            self._report(failure)

    async def end(self) -> None:
        """End it with all that it has started, and wait until that is so."""
        self._order_end()
        self.resume()
        # Its output is read no longer: who waits for an answer would wait for ever.
        self._report(ProxyError("upstream_unreachable", "the agent was stopped"))
        if self._process is None and self._starting is not None:
            with suppress(OSError):
                self._process = await self._starting
        if (process := self._process) is None:
            if self._control is not None:
                self._control.close()
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(_END_S):
                await _drained(process)
        except TimeoutError:  # the guard itself was stopped, perhaps
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_S):
                    await _drained(process)
        if self._control is not None:
            self._control.close()

    def _order_end(self) -> None:
        if self._control is not None:
            with suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        reader, rest = self._process.stdout, bytearray()
        while self._failure is None:
            await self._readable.wait()
            data = await reader.read(_READ_BYTES)
            if not data:
                break
            *lines, last = data.split(b"\n")
            for line in lines:
                rest += line
                if rest:
                    self._take(bytes(rest))
                rest.clear()
            rest += last
            if len(rest) > self._max_line_bytes:
                text = f"the agent sent a line of more than {self._max_line_bytes} bytes"
                self.fail(ProxyError("upstream_protocol", text))
            await asyncio.sleep(0)  # others have their turn, however much it sends
        if self._failure is None:
            failure = await self._why()
            self._order_end()
            self._report(failure)

    def _report(self, failure: ProxyError) -> None:
        if not self._has_reported:
            self._has_reported = True
            self._on_end(failure)

    def _take(self, line: bytes) -> None:
        try:
            if self._failure is None:
                self._on_line(line)
        except Exception:
            log.exception("a bug in the proxy: agent %s", self._name)
            self.fail(ProxyError("internal", "the proxy failed; its log says why"))

    async def _why(self) -> ProxyError:
        """What became of it, as the guard says."""
        assert self._control is not None
        loop = asyncio.get_running_loop()
        report = b""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_END_S):
                report = await loop.sock_recv(self._control, 512)
        word, _, rest = report.decode("utf-8", "replace").strip().partition(" ")
        if word == "fail":
            text = "the agent cannot be started: its command is not there, or is not a program"
            return ProxyError("upstream_unreachable", text, cause=rest)
        how = f"exit code {rest}" if word == "exit" else "it closed its output"
        return ProxyError("upstream_unreachable", "the agent's process ended", cause=how)

    async def _log(self) -> None:
        """Its standard error, as far as that is bearable."""
        assert self._process is not None
        assert self._process.stderr is not None
        reader, said, rest = self._process.stderr, 0, b""
        while data := await reader.read(_READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[:_LOGGED_CHARACTERS]
            for line in lines[: _LOGGED_LINES - said]:
                text = redact(line[:_LOGGED_CHARACTERS].decode("utf-8", "replace")).strip()
                log.info("agent %s: %s", self._name, text)
            if said < _LOGGED_LINES <= said + len(lines):
                log.info("agent %s: what else it writes is not logged", self._name)
            said += len(lines)
            await asyncio.sleep(0)


async def _drained(process: asyncio.subprocess.Process) -> None:
    """Wait for the end of a process and of its pipes, which have to be read for that."""
    for pipe in (process.stdout, process.stderr):
        while pipe is not None and await pipe.read(_READ_BYTES):
            pass
    await process.wait()
