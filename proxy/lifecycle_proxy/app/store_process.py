"""The process that holds what workers share, where no Redis does. The supervisor starts it."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from lifecycle_proxy.app.shared_state import limits_of
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.state.wire_server import StoreServer

# Not "lifecycle-proxy": for ps and top. Linux takes 15 characters.
NAME: Final = "lifecycle-store"
_LAST_WORDS_S: Final = 5.0


def for_workers(settings: Settings, path: str) -> Settings:
    """The settings of workers that share a store.

    Args:
        settings: of the whole proxy.
        path: of the store's socket.
    """
    if settings.streams.store != "memory":
        return settings  # changed meanwhile: it takes effect with a restart
    streams = msgspec.structs.replace(settings.streams, store=f"unix:{path}")
    return msgspec.structs.replace(settings, streams=streams)


def _prepare(path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # workers need the store until they have ended
    with suppress(OSError):
        Path("/proc/self/comm").write_text(NAME)
    path.unlink(missing_ok=True)  # of one that died


async def hold(settings: Settings, path: str, line: int) -> None:
    """Hold the store until the supervisor is gone, or says so, and no worker is left.

    Args:
        settings: ``[streams]``, and how long workers take to end.
        path: of the socket, in a folder that is nobody else's.
        line: a socket to the supervisor: a byte is sent once workers may connect.
    """
    _prepare(Path(path))
    server, ended = StoreServer(limits_of(settings.streams)), asyncio.Event()
    await server.start(path)
    asyncio.get_running_loop().add_reader(line, ended.set)
    os.write(line, b"r")
    work = asyncio.create_task(server.run())
    await ended.wait()
    asyncio.get_running_loop().remove_reader(line)
    with suppress(TimeoutError):
        async with asyncio.timeout(settings.server.drain_timeout_s + _LAST_WORDS_S):
            await server.empty.wait()
    work.cancel()
    with suppress(asyncio.CancelledError):
        await work
    await server.close()
