"""Readers that wait for streams which have not begun, in the memory of one process."""

import asyncio
from collections.abc import Container
from typing import Final

from lifecycle_proxy.state.stream_records import StreamKey

_MAX_WAITING: Final = 1_000


class ExpectedStreams:
    """Who waits for which stream.

    Args:
        streams: those that have begun.
    """

    def __init__(self, streams: Container[StreamKey]) -> None:
        self._streams = streams
        self._expected: dict[StreamKey, list[asyncio.Future[None]]] = {}
        self._waiting = 0

    def begun(self, key: StreamKey) -> None:
        """A stream has begun."""
        for waiting in self._expected.pop(key, ()):
            if not waiting.done():
                waiting.set_result(None)

    async def wait_for(self, key: StreamKey, wait_s: float) -> bool:
        """See ``EventLog``."""
        if key in self._streams:
            return True
        if self._waiting >= _MAX_WAITING:
            return False
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._expected.setdefault(key, []).append(begun)
        self._waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                await begun
        except TimeoutError:
            return key in self._streams
        finally:
            self._waiting -= 1
            if (others := self._expected.get(key)) is not None and begun in others:
                others.remove(begun)
                if not others:
                    del self._expected[key]
        return True
