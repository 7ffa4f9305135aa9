"""Bytes both ways, with flow control: what a connection is below HTTP."""

import asyncio
from typing import Final, cast

# At most so much is taken at once. Event loops read up to 256 KiB, and what that can hold takes
# four times as long as anybody should wait for: 2,000 calls that all have to be announced.
READ_BYTES: Final = 1 << 16


class ByteStream(asyncio.BufferedProtocol):
    """A connection's transport. Implements ``Upgraded``.

    Args:
        loop: the running one.
        buffer: for reads. It may be shared by all connections of the loop: what is read is taken
            out before anybody else reads.
    """

    __slots__ = (
        *("_buffer", "_is_lost", "_is_paused", "_is_write_paused", "_loop", "_room", "_transport"),
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, buffer: memoryview) -> None:
        self._loop = loop
        self._buffer = buffer
        self._transport: asyncio.Transport | None = None
        self._room: asyncio.Future[None] | None = None
        self._is_lost = False
        self._is_paused = False
        self._is_write_paused = False

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None, "connected"
        return self._transport

    @property
    def is_usable(self) -> bool:
        return not (self._is_lost or self.transport.is_closing())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has other ancestors

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self.resume_writing()

    # --- writing ----------------------------------------------------------------------------------

    @property
    def unsent_bytes(self) -> int:
        return self.transport.get_write_buffer_size() if self.is_usable else 0

    def write(self, data: bytes) -> None:
        """See ``Upgraded``. That the connection is gone is said elsewhere."""
        if self.is_usable:
            self.transport.write(data)

    async def drain(self) -> None:
        """See ``Upgraded``."""
        while self._is_write_paused:
            self._room = self._loop.create_future()
            await self._room

    def pause_writing(self) -> None:
        self._is_write_paused = True

    def resume_writing(self) -> None:
        self._is_write_paused = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # --- reading ----------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def pause(self) -> None:
        """Read no more until ``resume``."""
        if not self._is_paused and self.is_usable:
            self._is_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on, if reading is paused."""
        if self._is_paused:
            self._is_paused = False
            if self.is_usable:
                self.transport.resume_reading()
