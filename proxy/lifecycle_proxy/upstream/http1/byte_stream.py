"""Bytes both ways, with flow control: what a connection is below HTTP."""

import asyncio
from typing import Final, cast

# At most so much is looked at in one turn of the loop. Loops read up to 256 KiB, and what that can
# hold takes longer than others should wait: 2,000 calls that all have to be announced.
PART_BYTES: Final = 1 << 16


class ByteStream(asyncio.Protocol):
    """A connection's transport. Implements ``Upgraded``.

    Args:
        loop: the running one.
    """

    __slots__ = (
        *("_is_lost", "_is_paused", "_is_write_paused", "_loop", "_rest", "_room", "_transport"),
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._room: asyncio.Future[None] | None = None
        self._is_lost = False
        self._is_paused = False
        self._is_write_paused = False
        self._rest = b""  # of a large read, while its parts are taken

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None, "connected"
        return self._transport

    @property
    def is_usable(self) -> bool:
        return not (self._is_lost or self._transport is None or self._transport.is_closing())

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

    def take(self, data: bytes) -> None:
        """A read, or a part of one."""

    def take_in_parts(self, data: bytes) -> None:
        """Take a large read. Others have their turn between its parts."""
        was_waiting = bool(self._rest)
        self._rest += data
        if was_waiting:
            return
        if not self._is_paused:
            self.transport.pause_reading()
        self._take_part()

    def _take_part(self) -> None:
        part, self._rest = self._rest[:PART_BYTES], self._rest[PART_BYTES:]
        if part:
            self.take(part)
        if self._rest:
            self._loop.call_soon(self._take_part)
        elif part and not self._is_paused and self.is_usable:
            self.transport.resume_reading()

    @property
    def has_rest(self) -> bool:
        """Whether more has come than was taken."""
        return bool(self._rest)

    def drop_rest(self) -> bytes:
        """What has come and was not taken; it will not be."""
        rest, self._rest = self._rest, b""
        return rest

    def pause(self) -> None:
        """Read no more until ``resume``."""
        if not self._is_paused and self.is_usable:
            self._is_paused = True
            if not self._rest:
                self.transport.pause_reading()

    def resume(self) -> None:
        """Read on, if reading is paused."""
        if self._is_paused:
            self._is_paused = False
            if self.is_usable and not self._rest:
                self.transport.resume_reading()
