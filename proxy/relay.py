"""From the upstream's answer to the client, chunk by chunk.

The loop has no opinions: what a chunk becomes is decided in ``_take``, when to give up in the
watch. It reads what has arrived and writes it at once. Reading is one call (``readany``) and
writing another, so an upstream that pushes can take the place of this one without touching either
side.
"""

import asyncio
import socket
import struct
import time
from typing import Final, cast

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from proxy.errors import ProxyError

# Behind this much unsent the client is waited for, and so is the upstream.
_BUFFER_BYTES: Final = 1 << 16


class Relay:
    """One answer on its way to one client, as it is.

    Args:
        request: the client's.
        upstream: the answer, its head already read.
        response: for the client; prepared by ``run`` if it is not yet.
    """

    def __init__(
        self,
        request: web.Request,
        upstream: aiohttp.ClientResponse,
        response: web.StreamResponse,
    ) -> None:
        self.last_read = self.last_write = time.monotonic()
        self._request = request
        self._upstream = upstream
        self._response = response
        self._transport: asyncio.Transport | None = None
        self._chunked = False
        self._reading = False

    async def run(self) -> web.StreamResponse:
        """Relay until the end, whatever the end.

        Raises:
            asyncio.CancelledError: the client is gone, and so is the request to the upstream.
        """
        try:
            writer = await self._response.prepare(self._request)
            self._transport = self._request.transport
            if writer is None or self._transport is None:
                raise ConnectionResetError("the client is gone")
            self._chunked = "chunked" in self._response.headers.get("Transfer-Encoding", "")
            failure = await self._pump(writer, self._transport)
            if failure is None:
                self._send(self._end())
                await self._response.write_eof()
            else:
                self._send(self._broken(failure))
                delimited = self._chunked or self._response.content_length is not None
                break_connection(self._request, delimited=delimited)
        except asyncio.CancelledError:
            self._client_gone()
            raise
        except ConnectionError:
            self._client_gone()
        finally:
            self._upstream.close()
        return self._response

    # --- for the watch --------------------------------------------------------------------------

    def stall(self) -> None:
        """Make the read fail, if it is the upstream that we are waiting for."""
        if self._reading:
            self.fail(ProxyError("upstream_timeout", "the upstream fell silent in mid-stream"))

    def is_lost(self) -> bool:
        """A bad chunk size makes aiohttp drop the connection without a word to the reader."""
        content, connection = self._upstream.content, self._upstream.connection
        if not self._reading or content.is_eof() or content.exception() or connection is None:
            return False
        return connection.transport is None or connection.transport.is_closing()

    def beat(self, now: float) -> None:
        """Nothing can be written into a body that passes as it is."""

    def fail(self, failure: ProxyError) -> None:
        """End as broken, from outside."""
        self._upstream.content.set_exception(failure)

    # --- the loop -------------------------------------------------------------------------------

    async def _pump(
        self, writer: AbstractStreamWriter, transport: asyncio.Transport
    ) -> ProxyError | None:
        """Pass everything on; return why it broke, or None at a proper end."""
        read, take, send, now = (
            self._upstream.content.readany,
            self._take,
            self._send,
            time.monotonic,
        )
        behind = transport.get_write_buffer_size
        while True:
            self._reading = True
            try:
                chunk = await read()
            except (aiohttp.ClientError, OSError, ProxyError) as error:
                self._send(self._take(_rest(self._upstream.content), now()))
                return _why(error)
            self._reading = False
            if not chunk:
                return None
            self.last_read = self.last_write = time_s = now()
            try:
                data = take(chunk, time_s)
            except ProxyError as error:
                return error
            if data:
                send(data)
                if behind() > _BUFFER_BYTES:
                    await writer.drain()

    def _send(self, data: bytes) -> None:
        """Write now, in one piece. (Through aiohttp's writer the same costs a tenth more.)"""
        if data and self._transport is not None:
            if self._chunked:
                data = b"%x\r\n%b\r\n" % (len(data), data)
            self._transport.write(data)

    # --- what becomes of the bytes --------------------------------------------------------------

    def _take(self, chunk: bytes, now: float) -> bytes:
        """What the client gets for a chunk. Raises ProxyError where it cannot go on."""
        return chunk

    def _end(self) -> bytes:
        """What the client gets at a proper end."""
        return b""

    def _broken(self, failure: ProxyError) -> bytes:
        """What the client gets before the connection breaks."""
        return b""

    def _client_gone(self) -> None:
        """Nobody is left to get anything."""


def break_connection(request: web.Request, *, delimited: bool) -> None:
    """Close behind what has been written, without the end of the message.

    Args:
        delimited: chunks or a length tell the client that something is missing. Where the end of
            the connection is the end of the body, only a reset can be told from a proper one.
    """
    transport = request.transport
    if transport is None:
        return
    if not delimited and (sock := transport.get_extra_info("socket")) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.close()


def _rest(content: aiohttp.StreamReader) -> bytes:
    """What had arrived before the break. aiohttp's reader would rather lose it."""
    content.set_exception(cast("BaseException", None))
    return content.read_nowait()


def _why(error: Exception) -> ProxyError:
    if isinstance(error, ProxyError):
        return error
    if isinstance(error, aiohttp.ClientPayloadError):
        return ProxyError("upstream_protocol", "the upstream's answer broke off before its end")
    return ProxyError("upstream_unreachable", "the connection to the upstream broke in mid-stream")
