"""A response of an HTTP server, pushed to a sink as it comes (aiohttp's client).

A read that is one whole HTTP chunk goes from the connection to the sink directly, see
``connection``. Everything else comes through aiohttp's reader, which holds what nobody has taken.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, cast

import aiohttp
from aiohttp.http import StreamWriter

from lifecycle_proxy.exchange import headers
from lifecycle_proxy.exchange.errors import ProxyError, cause_of
from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.exchange.ports import BodySink
from lifecycle_proxy.upstream.connection import StreamingProtocol
from lifecycle_proxy.upstream.errors import BROKE, TRANSPORT_ERRORS, map_body_exception


class Upgraded(NamedTuple):
    """The upstream's side of a tunnel.

    Attributes:
        writer: writes to it, and waits until it has room.
        set_parser: hands over what takes the bytes that come (``feed_data``, ``feed_eof``).
        transport: to pause reading, and to close.
    """

    writer: StreamWriter
    set_parser: Callable[..., None]
    transport: asyncio.Transport


class HttpResponse:
    """The port ``UpstreamResponse`` over an aiohttp response.

    Args:
        answer: its headers have come.
        carrier: the connection they came on. If all has come, it may serve another request by now.
    """

    def __init__(
        self, answer: aiohttp.ClientResponse, carrier: StreamingProtocol | None = None
    ) -> None:
        self.status = answer.status
        self.reason = answer.reason or ""
        self.headers = answer.headers
        self.was_reset = False
        self._answer = answer
        self._carrier = carrier
        self._content = answer.content
        self._sink: BodySink | None = None
        self._protocol: StreamingProtocol | None = None
        self._is_paused = False

    @property
    def raw_headers(self) -> Headers:
        return headers.raw(self._answer.raw_headers)

    def attach(self, sink: BodySink) -> None:
        """See ``UpstreamResponse``."""
        self._sink = sink
        connection = self._answer.connection
        protocol = connection.protocol if connection is not None else None
        if isinstance(protocol, StreamingProtocol):
            self._protocol = protocol
            protocol.subscribe(self._arrived, sink.data_received)
        self._arrived()  # what came with the headers, which may be all

    def detach(self) -> None:
        """See ``UpstreamResponse``. The connection may serve another request from now on."""
        self._sink = None
        if self._protocol is not None:
            self.was_reset = self.was_reset or self._protocol.was_reset
            self._protocol.unsubscribe()
            self._protocol.release()
            self._protocol = None

    def pause(self) -> None:
        """See ``UpstreamResponse``."""
        self._is_paused = True
        if self._protocol is not None:
            self._protocol.hold()

    def resume(self) -> None:
        """See ``UpstreamResponse``."""
        self._is_paused = False
        if self._protocol is not None:
            self._protocol.release()
        self._arrived()

    def close(self) -> None:
        """See ``UpstreamResponse``. A connection with a rest of the body on it is closed."""
        self.detach()
        self._answer.close()

    def maybe_upgraded(self) -> Upgraded | None:
        """The connection behind a 101; None if it is gone."""
        connection = self._answer.connection
        protocol = connection.protocol if connection is not None else None
        transport = protocol.transport if protocol is not None else None
        if protocol is None or not isinstance(transport, asyncio.Transport):
            return None
        writer = StreamWriter(protocol, asyncio.get_running_loop())
        return Upgraded(writer, protocol.set_parser, transport)

    def _arrived(self) -> None:
        """The reader has something, or the connection is gone."""
        sink, content = self._sink, self._content
        if sink is None:
            return
        try:
            # More than once: the parser keeps the rest of a large read until there is room for it.
            while not self._is_paused and (data := content.read_nowait()):
                sink.data_received(data)
                if self._sink is not sink:
                    return
            if content.is_eof():
                if rest := content.read_nowait():
                    sink.data_received(rest)
                self._end(self._maybe_reset())
            elif not self._is_paused and self._protocol is not None and self._protocol.was_lost:
                # At a bad chunk size aiohttp drops the connection without an exception.
                message = "the upstream's response is not valid HTTP"
                self._end(ProxyError("upstream_protocol", message, cause="a chunk was expected"))
        except TRANSPORT_ERRORS as error:
            if rest := _rest(content):
                sink.data_received(rest)
            self._end(map_body_exception(error))

    def _maybe_reset(self) -> ProxyError | None:
        """Where the end of the connection is the end of the body, a reset means that a part of it
        is missing."""
        carrier = self._carrier
        if carrier is None or carrier.reset_body is not self._content:
            return None
        self.was_reset = True
        return ProxyError("upstream_unreachable", BROKE, cause=cause_of(carrier.loss))

    def _end(self, failure: ProxyError | None) -> None:
        sink = self._sink
        self.detach()
        if sink is not None:
            sink.ended(failure)


def _rest(content: aiohttp.StreamReader) -> bytes:
    """What had come before the connection broke. aiohttp's reader would raise instead."""
    content.set_exception(cast("BaseException", None))
    return content.read_nowait()
