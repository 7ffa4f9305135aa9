"""The upstream's response, as it is written to the client's connection."""

import asyncio
import time
from email.utils import formatdate
from typing import Final

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from lifecycle_proxy.exchange.handler import ClientRequest

# RFC 9112 section 6.3: these end with their headers, whatever the headers say.
_NO_BODY: Final = frozenset((*range(100, 200), 204, 304))


class _Clock:
    """The ``Date`` of now. It is the same for a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def text(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True)
        return self._text


_date = _Clock().text


class ForwardedResponse(web.StreamResponse):
    """A response of the upstream's: its status and headers, in the framing of this connection.

    In place of aiohttp's way to write one: that adds headers that the upstream did not send, loses
    bytes that are not UTF-8, and takes three times as long. The headers wait for the body, or for
    ``begin``: a system call less for each short response.

    Args:
        status: the code.
        reason: of the status line.
        own: the headers, without those of the other connection; they are changed.

    Attributes:
        is_chunked: whether the body is sent in chunks. Known once it is prepared.
    """

    def __init__(self, status: int, reason: str, own: CIMultiDict[str]) -> None:
        super().__init__(status=status, reason=reason, headers=own)
        self.is_chunked = False
        self._stays: bool | None = None
        self._writer: AbstractStreamWriter | None = None
        # Not the request: its task holds this response, and only the garbage collector would
        # find the circle.
        self._transport: asyncio.Transport | None = None
        self._head = b""  # until it is sent
        self._is_over = False

    @property
    def prepared(self) -> bool:
        return self._is_over or self._writer is not None

    @property
    def keep_alive(self) -> bool | None:
        return self._stays

    def force_close(self) -> None:
        self._stays = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """As ``make_head``."""
        if not self.prepared:
            assert isinstance(request, ClientRequest)
            self.make_head(request)
        return self._writer

    def make_head(self, request: ClientRequest) -> None:
        """Make the headers. They are sent by ``begin``, or with the body.

        Args:
            request: of the client.

        Raises:
            ValueError: a header holds a line break.
        """
        own, version = self.headers, request.version
        if self.status in _NO_BODY:
            own.popall("Content-Length", None)
        elif "Content-Length" not in own and version >= HttpVersion11 and request.method != "HEAD":
            own["Transfer-Encoding"] = "chunked"
            self.is_chunked = True
        if version < HttpVersion11 and "Content-Length" not in own:
            # Only the end of the connection ends the body, even if the client asked to keep it.
            self._stays = False
        if "Date" not in own:
            own["Date"] = _date()
        if self._stays is None:
            self._stays = request.keep_alive
        if "Connection" not in own and self._stays is (version == HttpVersion10):
            own["Connection"] = "keep-alive" if self._stays else "close"
        if request.finish_headers is not None:
            request.finish_headers(request, self)
        lines = [f"HTTP/{version[0]}.{version[1]} {self.status} {self.reason}"]
        lines += map(": ".join, own.copy().items())  # a walk makes 100 bytes of each name
        lines += ("", "")
        text = "\r\n".join(lines)
        if text.count("\n") + text.count("\r") != 2 * len(lines) - 2:
            raise ValueError("a line break in a header")
        self._head = text.encode("utf-8", "surrogateescape")
        self._transport, self._writer = request.transport, request.writer

    def begin(self, data: bytes = b"") -> None:
        """Send the headers, if they have not been sent.

        Args:
            data: the first bytes of the body, or none.

        Raises:
            ConnectionError: the client is gone.
        """
        if self._head or data:
            self._send(self._framed(data))

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        self._send(self._framed(bytes(data)))
        await self._drain()

    async def write_eof(self, data: bytes = b"") -> None:
        if not self._is_over:
            self.finish(data)
            await self._drain()

    def finish(self, data: bytes = b"") -> None:
        """End the message.

        Args:
            data: the last bytes of the body, or none.

        Raises:
            ConnectionError: the client is gone.
        """
        end = b"0\r\n\r\n" if self.is_chunked else b""
        if self._head or data or end:
            self._send(self._framed(data) + end)
        self._is_over = True

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if data and self.is_chunked else data

    def _send(self, data: bytes) -> None:
        assert self._writer is not None, "prepared"
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(self._head + data if self._head else data)
        self._head = b""
        self._writer.output_size += len(data) or 1  # the response has begun

    async def _drain(self) -> None:
        if self._writer is not None:
            await self._writer.drain()
