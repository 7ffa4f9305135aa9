"""A recorded answer played to a client: the same bytes, at the same times, to the same end.

The head is written to the connection as it was recorded, in order, with duplicates, in its case:
aiohttp would add to it and change it. Each recorded read is one write (asyncio has TCP_NODELAY set)
and, where the body is chunked, one chunk. All times are measured from when the request came, so
that no delay adds to the next.
"""

import asyncio
import contextlib
import fcntl
import re
import socket
import struct
import sys
import termios
import time
from typing import Final

from aiohttp import HttpVersion11, web

from lifecycle_proxy.replay.schedule import BODILESS, Schedule

_EARLY_S: Final = 0.0005  # timers are this coarse; who waits for less is as late afterwards
_POLL_S: Final = 0.005
_FLUSH_S: Final = 5.0
_BREAKS: Final = re.compile(r"[\r\n\0]+")


class Sent(web.StreamResponse):
    """Tells aiohttp that an answer has been sent, and whether the connection can go on."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._goes_on = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._goes_on

    async def prepare(self, request: web.BaseRequest) -> None:
        """The head has gone out."""

    async def write_eof(self, data: bytes = b"") -> None:
        """So has the body."""


class Player:
    """Plays one schedule to one client.

    Args:
        request: the client's, its body read.
        plan: what is sent when.
        start: when the request came, by ``time.perf_counter()``.
        hold_s: how long a client is left waiting where the recording ran into a timeout.
    """

    def __init__(self, request: web.Request, plan: Schedule, start: float, hold_s: float) -> None:
        self._request = request
        self._transport = request.transport  # aiohttp forgets it when the server is stopping
        self._plan = plan
        self._start = start
        self._hold_s = hold_s
        is_modern = request.version >= HttpVersion11
        codings = plan.header("Transfer-Encoding").lower().replace(" ", "").split(",")
        self._drops_coding = codings[-1] == "chunked" and not is_modern
        self._is_chunked = codings[-1] == "chunked" and is_modern
        self._has_body = request.method != "HEAD" and plan.status not in (0, *BODILESS)
        self._keeps = is_modern and bool(request.keep_alive) and self._is_delimited()

    async def run(self) -> web.StreamResponse:
        """Play to the end.

        Raises:
            asyncio.CancelledError: the client is gone, or the server is stopping.
        """
        plan = self._plan
        try:
            if plan.status:
                await self._send(plan.head_ms, self._head())
            for ms, data in plan.pieces if self._has_body else ():
                if data:  # an empty chunk would be the last
                    chunk = b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data
                    await self._send(ms, chunk)
            await self._until(plan.end_ms)
            return await self._end()
        except ConnectionError:
            return Sent(keep_alive=False)  # the client is gone
        except asyncio.CancelledError:
            self._reset()  # what is not whole must not look it
            raise

    # --- what is sent ---------------------------------------------------------------------------

    def _head(self) -> bytes:
        plan = self._plan
        lines = [f"HTTP/1.1 {plan.status} {plan.reason}"]
        for name, value in plan.headers:
            if not (self._drops_coding and name.lower() == "transfer-encoding"):
                lines.append(f"{name}: {value}")
        text = "\r\n".join(_BREAKS.sub(" ", line) for line in lines)
        return text.encode("utf-8", "surrogateescape") + b"\r\n\r\n"

    async def _end(self) -> web.StreamResponse:
        match self._plan.end:
            case "eof":
                if self._is_chunked and self._has_body:
                    await self._send(0, b"0\r\n\r\n")
                return Sent(keep_alive=self._keeps)
            case "cut" if not self._has_body or self._is_framed:
                return Sent(keep_alive=False)
            case "timeout":
                await asyncio.sleep(self._hold_s)
            case "cut" | "reset" | "gone":
                pass
        await self._flushed()
        self._reset()
        return Sent(keep_alive=False)

    @property
    def _is_framed(self) -> bool:
        """Whether chunks or a length tell the client that something is missing."""
        return self._is_chunked or bool(self._plan.header("Content-Length"))

    def _is_delimited(self) -> bool:
        """Whether the client can tell where the answer ends, and another can follow."""
        plan = self._plan
        if not plan.status or "close" in plan.header("Connection").lower():
            return False
        if not self._has_body or self._is_chunked:
            return True
        size = sum(len(data) for _, data in plan.pieces)
        return plan.header("Content-Length").strip() == str(size)

    # --- when -----------------------------------------------------------------------------------

    async def _until(self, ms: float) -> None:
        due = self._start + ms / 1000
        while (left_s := due - time.perf_counter()) > _EARLY_S:  # noqa: ASYNC110  time is awaited
            await asyncio.sleep(left_s)

    async def _send(self, ms: float, data: bytes) -> None:
        """One write, when it is due and the client has room for it."""
        await self._until(ms)
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(data)
        await asyncio.sleep(0)  # uvloop would join it with the next
        await self._request.writer.drain()

    # --- broken ends ----------------------------------------------------------------------------

    async def _flushed(self) -> None:
        """Wait until the client's machine has all bytes: a reset destroys those under way."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                while _unacknowledged(self._transport):  # noqa: ASYNC110  no event tells
                    await asyncio.sleep(_POLL_S)

    def _reset(self) -> None:
        transport = self._transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            linger = struct.pack("ii", 1, 0)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()


def _unacknowledged(transport: asyncio.Transport | None) -> int:
    """Bytes on their way to the client; 0 where the system does not tell."""
    if transport is None or transport.is_closing():
        return 0
    waiting = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if waiting or sock is None:
        return waiting
    try:
        told = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except OSError:
        return 0
    return int.from_bytes(told, sys.byteorder)
