"""The client's side of a relay: HTTP framing, and whether the client is behind."""

import asyncio
from typing import Final

from aiohttp import web

from lifecycle_proxy.exchange.forwarded_response import ForwardedResponse
from lifecycle_proxy.exchange.handler import ClientRequest

# Behind this much unsent the client is waited for, and so is the upstream.
_BUFFER_BYTES: Final = 1 << 16


def _is_gone() -> bool:
    return True


class AbsentClient:
    """In the place of a client that left, whose stream goes on for others: takes everything."""

    is_chunked = True
    has_unsent = False

    @staticmethod
    def is_gone() -> bool:
        """See ``ClientWriter``."""
        return False

    def prepare(self) -> None:
        """See ``ClientWriter``."""

    def begin(self) -> None:
        """See ``ClientWriter``."""

    async def end(self) -> None:
        """See ``ClientWriter``."""

    def write(self, data: bytes, framed: bytes = b"") -> bool:
        """See ``ClientWriter``."""
        return False

    async def drain(self) -> None:
        """See ``ClientWriter``."""


class ClientWriter:
    """Writes a response to the client's connection.

    Chunks are framed here, in one write: through aiohttp's writer the same costs a tenth more of
    the whole relay (bench/run.py, ``step``). The headers leave in one write with what has come of
    the body by then: a system call less for each short response.

    Attributes:
        is_chunked: whether the body is sent in chunks.
        is_gone: tells whether nothing can be written any more. (uvloop raises on an attempt.)

    Args:
        request: the client's.
        response: the upstream's; or one that has begun before the upstream responded.
    """

    def __init__(self, request: ClientRequest, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        self._transport: asyncio.Transport | None = None
        self._first: list[bytes] | None = []  # of the body, until ``begin``
        self.is_chunked = False
        self.is_gone = _is_gone

    def prepare(self) -> None:
        """Make the headers. They are sent by ``begin``, or with the end.

        Raises:
            ConnectionError: the client is gone.
        """
        response, self._transport = self._response, self._request.transport
        if self._transport is None:
            raise ConnectionResetError("the client is gone")
        self.is_gone = self._transport.is_closing
        if isinstance(response, ForwardedResponse):
            response.make_head(self._request)
            self.is_chunked = response.is_chunked
        else:
            self.is_chunked = "chunked" in response.headers.get("Transfer-Encoding", "")

    def begin(self) -> None:
        """Send the headers, and what was written since they were made.

        Raises:
            ConnectionError: the client is gone.
        """
        first, self._first = self._first, None
        if isinstance(self._response, ForwardedResponse):
            self._response.begin(b"".join(first) if first else b"")
        elif first:
            self.write(b"".join(first))

    async def end(self) -> None:
        """End the message properly.

        Raises:
            ConnectionError: the client is gone.
        """
        first, self._first = self._first, None
        data, response = b"".join(first) if first else b"", self._response
        if isinstance(response, ForwardedResponse):
            response.finish(data)
        else:
            await response.write_eof(data)
        if self.has_unsent:
            await self.drain()

    @property
    def has_unsent(self) -> bool:
        """The client has not taken all yet."""
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def write(self, data: bytes, framed: bytes = b"") -> bool:
        """Write a part of the body. Never waits.

        Args:
            data: not empty.
            framed: the same as an HTTP chunk, if the upstream sent it as one.

        Returns:
            Whether the client is so far behind that it is to be waited for.
        """
        if self._first is not None:
            self._first.append(data)
            return False
        transport = self._transport
        assert transport is not None, "prepared"
        if not self.is_chunked:
            framed = data
        elif not framed:
            framed = b"%x\r\n%b\r\n" % (len(data), data)
        transport.write(framed)
        return transport.get_write_buffer_size() > _BUFFER_BYTES

    async def drain(self) -> None:
        """Wait until there is room.

        Raises:
            ConnectionError: the client is gone.
        """
        await self._request.writer.drain()
