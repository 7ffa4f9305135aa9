"""From the upstream's answer to the client, chunk by chunk.

The loop has no opinions: what a chunk becomes is decided in the core, when to give up in the
watch. It reads what has arrived and writes it at once. Reading is one call (``readany``) and
writing another, so an upstream that pushes can take the place of this one without touching either
side.
"""

import asyncio
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Final, cast

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from proxy.core.events import Outcome
from proxy.core.pipeline import Pipeline, Step
from proxy.errors import ProxyError

HEARTBEAT: Final = b": keep-alive\n\n"
_HEARTBEAT_CHUNK: Final = b"%x\r\n%b\r\n" % (len(HEARTBEAT), HEARTBEAT)
_INFLATE_PIECE_BYTES: Final = 1 << 20


class Relay:
    """One answer on its way to one client.

    Args:
        request: the client's.
        upstream: the answer, its head already read.
        response: for the client; prepared by ``run`` if it is not yet.
        pipeline: for event streams that frames may be added to; None passes the bytes on.
        compressed: the stream is gzip or deflate, though asked for plain: it is sent on in clear.
    """

    def __init__(
        self,
        request: web.Request,
        upstream: aiohttp.ClientResponse,
        response: web.StreamResponse,
        pipeline: Pipeline | None = None,
        *,
        compressed: bool = False,
    ) -> None:
        self.last_read = self.last_write = time.monotonic()
        self._request = request
        self._upstream = upstream
        self._response = response
        self._pipeline = pipeline
        self._inflate = _Inflate() if compressed else None
        self._framed = request.version >= aiohttp.HttpVersion11
        self._reading = False
        self._writer: AbstractStreamWriter | None = None

    async def run(self) -> web.StreamResponse:
        """Relay until the end, whatever the end.

        Raises:
            asyncio.CancelledError: the client is gone, and so is the request to the upstream.
        """
        now = time.monotonic
        try:
            # The writer itself: StreamResponse.write checks on every chunk what is known here.
            writer = await self._response.prepare(self._request)
            self._writer = cast(AbstractStreamWriter, writer)
            failure = await self._pump()
            if failure is not None:
                await self._break_off(failure)
                return self._response
            if self._pipeline is not None:
                await self._write(self._pipeline.eof(now()))
            await self._response.write_eof()
            return self._response
        except (asyncio.CancelledError, ConnectionError):
            if self._pipeline is not None:
                self._pipeline.abort("client_disconnected", now(), outcome=Outcome.CANCELLED)
            raise
        finally:
            self._upstream.close()

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
        """A comment, between events only, and not to a client that is behind."""
        transport = self._request.transport
        if self._pipeline is None or not self._pipeline.between_events or transport is None:
            return
        if self._writer is not None and not transport.get_write_buffer_size():
            transport.write(_HEARTBEAT_CHUNK if self._framed else HEARTBEAT)
            self.last_write = now

    def fail(self, failure: ProxyError) -> None:
        """End the stream as broken, from outside."""
        self._upstream.content.set_exception(failure)

    # --- the loop -------------------------------------------------------------------------------

    async def _pump(self) -> ProxyError | None:
        """Pass everything on; return why it broke, or None at a proper end."""
        assert self._writer is not None
        read, write, now = self._upstream.content.readany, self._writer.write, time.monotonic
        pipeline, inflate = self._pipeline, self._inflate
        while True:
            self._reading = True
            try:
                chunk = await read()
            except (aiohttp.ClientError, OSError, ProxyError) as error:
                await self._pass_rest()
                return _why(error)
            self._reading = False
            if not chunk:
                return None
            self.last_read = self.last_write = now()
            if pipeline is None:
                await write(chunk)
            elif inflate is None:
                if data := pipeline.feed(chunk, self.last_read).data:
                    await write(data)
            else:
                try:
                    for piece in inflate.feed(chunk):
                        await self._write(pipeline.feed(piece, self.last_read))
                except zlib.error as error:
                    return ProxyError("upstream_protocol", f"the upstream's compression: {error}")

    async def _pass_rest(self) -> None:
        """What had arrived before the break. aiohttp's reader would rather lose it."""
        assert self._writer is not None
        content = self._upstream.content
        content.set_exception(cast(BaseException, None))
        rest = content.read_nowait()
        if rest and self._pipeline is None:
            await self._writer.write(rest)
        elif rest and self._pipeline is not None and self._inflate is None:
            await self._write(self._pipeline.feed(rest, time.monotonic()))

    async def _write(self, step: Step) -> None:
        if step.data and self._writer is not None:
            await self._writer.write(step.data)

    async def _break_off(self, failure: ProxyError) -> None:
        """Complete what is open, say why, and end so that the client can tell that it was no end.

        No ``[DONE]`` and no last HTTP chunk. Where the end of the connection is the end of the
        body, only a reset can be told from a proper one.
        """
        if self._pipeline is not None:
            reason = "upstream_error" if failure.code != "draining" else "drained"
            error = failure.frame()
            await self._write(self._pipeline.abort(reason, time.monotonic(), error=error))
        break_connection(self._request, self._framed or self._response.content_length is not None)


def break_connection(request: web.Request, framed: bool) -> None:
    """Close behind what has been written, without the end of the message."""
    transport = request.transport
    if transport is None:
        return
    if not framed and (sock := transport.get_extra_info("socket")) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.close()


def _why(error: Exception) -> ProxyError:
    if isinstance(error, ProxyError):
        return error
    if isinstance(error, aiohttp.ClientPayloadError):
        return ProxyError("upstream_protocol", "the upstream's answer broke off before its end")
    return ProxyError("upstream_unreachable", "the connection to the upstream broke in mid-stream")


class _Inflate:
    """gzip or zlib, in pieces of bounded size."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises ``zlib.error`` where it is neither."""
        while data:
            if piece := self._object.decompress(data, _INFLATE_PIECE_BYTES):
                yield piece
            data = self._object.unconsumed_tail
