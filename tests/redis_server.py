"""A Redis of the tests: a process on a port of its own that keeps nothing on disk."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

_BINARY = shutil.which("redis-server")


class RedisServer:
    """``redis-server``, which can be killed, stopped and started again on the same port."""

    def __init__(self, folder: Path, *arguments: str, tls: tuple[str, ...] = ()) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._folder = folder
        self.arguments = arguments
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}/0"

    async def start(self) -> Self:
        """Start it, and wait until it takes connections."""
        self._process = self._started()
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return self

    def _started(self) -> "subprocess.Popen[bytes]":
        assert _BINARY is not None
        options = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
        port = str(self.port)
        ports = ("--port", "0", "--tls-port", port, *self._tls) if self._tls else ("--port", port)
        command = (_BINARY, *ports, *options, *self.arguments)
        with (self._folder / "redis.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=subprocess.STDOUT)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """kill -9, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def needed() -> None:
    """Skip the test where there is no Redis."""
    if _BINARY is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that is not started yet."""
    needed()
    server = RedisServer(tmp_path)
    yield server
    server.kill()
