"""The relay of an event stream that frames are added to."""

import time
import zlib
from typing import Final

import aiohttp
from aiohttp import web

from proxy.core.events import Outcome
from proxy.core.pipeline import Pipeline
from proxy.errors import ProxyError
from proxy.relay import Relay

HEARTBEAT: Final = b": keep-alive\n\n"  # never ": ping": Continue stops reading there
# No honest upstream packs more into one read; a zip bomb does.
_INFLATED_BYTES: Final = 32 << 20


class StreamRelay(Relay):
    """One event stream on its way to one client, through the core.

    Args:
        request: the client's.
        upstream: the answer, its head already read.
        response: for the client.
        pipeline: what becomes of the bytes.
        compressed: the stream is gzip or deflate, though asked for plain: it is sent on in clear.
    """

    def __init__(
        self,
        request: web.Request,
        upstream: aiohttp.ClientResponse,
        response: web.StreamResponse,
        pipeline: Pipeline,
        *,
        compressed: bool,
    ) -> None:
        super().__init__(request, upstream, response)
        self._pipeline = pipeline
        self._inflater = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS) if compressed else None

    def beat(self, now: float) -> None:
        """A comment, between events only, and not to a client that is behind."""
        transport = self._transport
        if transport is None or transport.get_write_buffer_size():
            return
        if self._pipeline.between_events:
            self._send(HEARTBEAT)
            self.last_write = now

    def _take(self, chunk: bytes, now: float) -> bytes:
        if self._inflater is not None:
            chunk = self._inflate(chunk)
        return self._pipeline.feed(chunk, now).data

    def _end(self) -> bytes:
        return self._pipeline.eof(time.monotonic()).data

    def _broken(self, failure: ProxyError) -> bytes:
        reason = "drained" if failure.code == "draining" else "upstream_error"
        return self._pipeline.abort(reason, time.monotonic(), error=failure.frame()).data

    def _client_gone(self) -> None:
        self._pipeline.abort("client_disconnected", time.monotonic(), outcome=Outcome.CANCELLED)

    def _inflate(self, data: bytes) -> bytes:
        assert self._inflater is not None
        try:
            clear = self._inflater.decompress(data, _INFLATED_BYTES)
        except zlib.error as error:
            message = f"the upstream's compression is broken: {error}"
            raise ProxyError("upstream_protocol", message) from None
        if self._inflater.unconsumed_tail:
            raise ProxyError("upstream_protocol", "the upstream's compression is a bomb")
        return clear
