"""From the upstream's answer to the client, chunk by chunk.

Nothing waits here. The upstream's connection tells the relay that something has come; what a chunk
becomes is decided in ``_take``, and it is written before the event loop goes on. A client that
falls behind stops the reading from the upstream. When to give up is decided in the watch.
"""

import asyncio
import logging
import time
from contextlib import suppress
from typing import Final, cast

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from lifecycle_proxy.exchange.connection import break_connection, end_properly, head_of
from lifecycle_proxy.exchange.errors import ProxyError, cause_of
from lifecycle_proxy.exchange.model import EXCHANGE, SideEnd
from lifecycle_proxy.faults.live import PLAN, FaultInjector
from lifecycle_proxy.relay.detect import Begun
from lifecycle_proxy.upstream.connection import StreamingProtocol

log = logging.getLogger("proxy")

# Behind this much unsent the client is waited for, and so is the upstream.
_BUFFER_BYTES: Final = 1 << 16
_BROKE: Final = "the connection to the upstream broke during the stream"


class Relay:
    """One answer on its way to one client, as it is.

    Args:
        request: the client's.
        begun: the answer.
        response: for the client; prepared by ``run`` if it is not yet.
    """

    def __init__(
        self,
        request: web.Request,
        begun: Begun,
        response: web.StreamResponse,
    ) -> None:
        self.last_read = self.last_write = time.monotonic()
        self._request = request
        self._upstream = begun.answer
        self._content = begun.answer.content
        self._response = response
        self._start = begun.start
        self._exchange = request[EXCHANGE]
        self._listeners = self._exchange.listeners
        self._added: tuple[tuple[int, int], ...] = ()  # where in what was taken last ours stands
        self._transport: asyncio.Transport | None = None
        self._writer: AbstractStreamWriter | None = None
        self._protocol: StreamingProtocol | None = None
        self._chunked = False
        self._was_reset = False
        self._received_bytes = 0
        self._ends_after_error = False  # see ``Dialect``
        self._catching_up: asyncio.Task[None] | None = None
        self._finished: asyncio.Future[ProxyError | None] = asyncio.Future()
        self._faults: FaultInjector | None = None
        if plan := request.get(PLAN):
            self._faults = FaultInjector(plan.live(), self._pass_on, self._complete, self._read_on)
            if plan.changes_size:
                response.headers.popall("Content-Length", None)

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
            self._writer = writer
            if self._listeners.follow_bytes:
                self._listeners.on_head(self._exchange, "client", *head_of(self._response))
            self._exchange.first_byte = self.last_read
            self._exchange.status = self._response.status
            self._chunked = "chunked" in self._response.headers.get("Transfer-Encoding", "")
            self._attach()
            failure = await self._finished
            if failure is None:
                await self._end_well()
            else:
                await self._break(failure)
        except asyncio.CancelledError:
            self._gone()
            raise
        except ConnectionError:
            self._gone()
        finally:
            self._exchange.last_byte = self.last_read
            self._detach()
            self._upstream.close()
        return self._response

    # --- for the watch --------------------------------------------------------------------------

    def stall(self) -> None:
        """Give up, if it is the upstream that we are waiting for."""
        if self._catching_up is None:
            cause = f"nothing came for {time.monotonic() - self.last_read:.1f} s"
            message = "the upstream stopped sending during the stream"
            self.fail(ProxyError("upstream_timeout", message, cause=cause))

    def beat(self, now: float) -> None:
        """Nothing can be written into a body that passes as it is."""

    def fail(self, failure: ProxyError) -> None:
        """End as broken, from outside or from inside."""
        self._finish(failure)

    # --- what comes -----------------------------------------------------------------------------

    def _attach(self) -> None:
        connection = self._upstream.connection
        protocol = connection.protocol if connection is not None else None
        if isinstance(protocol, StreamingProtocol):
            self._protocol = protocol
            protocol.sink = self
        start, self._start = self._start, b""
        self.passing(start, b"")
        if not self._finished.done():
            self.arrived()  # what came with the head, which may be all

    def _detach(self) -> None:
        if self._faults is not None:
            self._faults.close()
        self._let_go()

    def _let_go(self) -> None:
        """Hear no more of the upstream's connection: it may serve another request by now."""
        if self._protocol is not None:
            self._protocol.sink = None
            self._was_reset = self._protocol.was_reset
            self._protocol.release()
            self._protocol = None
        if self._catching_up is not None:
            self._catching_up.cancel()
            self._catching_up = None

    def _finish(self, failure: ProxyError | None) -> None:
        self._let_go()
        if not self._finished.done():
            self._finished.set_result(failure)

    def _complete(self, failure: ProxyError | None) -> None:
        """All that there will be has been passed on."""
        try:
            if failure is None:
                self._check_body()
        except ProxyError as broken:
            failure = broken
        self._finish(failure)

    def _over(self) -> None:
        if self._faults is None:
            self._complete(None)
        else:
            self._let_go()  # the end may be far off
            self._faults.eof()

    def _broke(self, rest: bytes, failure: ProxyError) -> None:
        if self._faults is not None:
            self._let_go()
            self._faults.broken(rest, failure)
            return
        with suppress(ProxyError):  # why it broke is known already
            self._pass_on(rest)
        self._finish(failure)

    def passing(self, chunk: bytes, framed: bytes) -> None:
        """See ``Sink``."""
        try:
            self._feed(chunk, framed)
        except Exception as failure:
            self._give_up(failure)

    def arrived(self) -> None:
        """See ``Sink``."""
        content = self._content
        try:
            # More than once: the parser keeps the rest of a large read until there is room for it.
            while chunk := content.read_nowait():
                self._feed(chunk)
                if self._catching_up is not None:
                    break
            if content.is_eof():
                self._feed(content.read_nowait())
                self._check_end()
                self._over()
            elif self._was_lost:
                # At a bad chunk size aiohttp drops the connection without a word.
                message, cause = "the upstream's response is not valid HTTP", "a chunk was expected"
                failure = ProxyError("upstream_protocol", message, cause=cause)
                self._broke(b"", failure)
        except Exception as failure:
            self._give_up(failure)

    @property
    def _was_lost(self) -> bool:
        protocol = self._protocol if self._catching_up is None else None
        return protocol is not None and protocol.was_lost

    def _feed(self, chunk: bytes, framed: bytes = b"") -> None:
        if self._faults is None:
            self._pass_on(chunk, framed)
        else:
            self._faults.feed(chunk)
            if self._faults.is_full and self._protocol is not None:
                self._protocol.hold()

    def _read_on(self) -> None:
        """The mischief has room again."""
        if self._protocol is not None and self._catching_up is None:
            self._protocol.release()
            self.arrived()

    def _give_up(self, failure: Exception) -> None:
        match failure:
            case ProxyError():
                self._broke(b"", failure)
            case aiohttp.ClientError() | OSError():
                self._broke(_rest(self._content), _why(failure))
            case _:  # aiohttp would take it for a fault of the upstream's
                self._finish(ProxyError("internal", f"the proxy failed: {type(failure).__name__}"))
                log.error("a bug in the proxy", exc_info=failure)

    def _pass_on(self, chunk: bytes, framed: bytes = b"") -> None:
        """Send on what has come.

        Args:
            framed: the same as an HTTP chunk, if it came as one: where nothing is changed, the
                client gets that.
        """
        transport = self._transport
        if not chunk or transport is None or transport.is_closing():
            return  # uvloop raises on writing to a client that is gone
        exchange, now = self._exchange, time.monotonic()
        gap_s = now - self.last_read
        if gap_s > exchange.longest_gap_s:  # noqa: PLR1730  a call of max costs more
            exchange.longest_gap_s = gap_s
        exchange.chunks += 1
        self._received_bytes += len(chunk)
        self.last_read = self.last_write = now
        data = self._take(chunk, now)
        if self._listeners.follow_bytes:
            self._listeners.on_chunk(exchange, chunk, data, self._added, now)
        if data:
            exchange.sent_bytes += len(data)
            if not self._chunked:
                framed = data
            elif data is not chunk or not framed:
                # In one piece; through aiohttp's writer the same costs a tenth more.
                framed = b"%x\r\n%b\r\n" % (len(data), data)
            transport.write(framed)
            if transport.get_write_buffer_size() > _BUFFER_BYTES:
                self._wait_for_client()

    def _wait_for_client(self) -> None:
        if self._catching_up is None and self._protocol is not None:
            self._protocol.hold()
            self._catching_up = asyncio.ensure_future(self._catch_up(self._protocol))

    async def _catch_up(self, protocol: StreamingProtocol) -> None:
        """Read on once the client has taken what there is."""
        assert self._writer is not None
        with suppress(ConnectionError):
            await self._writer.drain()
            self.last_read = time.monotonic()  # the silence was not the upstream's
            self._catching_up = None
            protocol.release()
            if not self._finished.done():
                self.arrived()

    def _send(self, data: bytes, added: tuple[tuple[int, int], ...] | None = None) -> None:
        """Write what follows from no read: a heartbeat, the last words.

        Args:
            added: which parts of it are frames of the proxy's own; None for all.
        """
        if data and self._transport is not None and not self._transport.is_closing():
            marks = ((0, len(data)),) if added is None else added
            self._listeners.on_write(self._exchange, data, marks)
            if self._chunked:
                data = b"%x\r\n%b\r\n" % (len(data), data)
            self._transport.write(data)

    # --- the end --------------------------------------------------------------------------------

    async def _end_well(self) -> None:
        self._exchange.ended = "done"
        self._send(self._end(), self._added)
        await self._response.write_eof()

    async def _break(self, failure: ProxyError) -> None:
        self._exchange.fail(failure.code, failure.for_log(self._progress()))
        if self._exchange.ended == "upstream_error":
            end: SideEnd = "reset" if self._was_reset else "cut"
            self._listeners.on_side_end(self._exchange, "upstream", end)
        self._send(self._broken(failure), self._added)
        if self._ends_after_error:
            self._upstream.close()  # not kept for as long as the client takes to read the rest
            await end_properly(self._request, self._response)
            return
        delimited = self._chunked or self._response.content_length is not None
        break_connection(self._request, delimited=delimited)

    def _progress(self) -> str:
        """How far the upstream came."""
        expected = self._upstream.headers.get("Content-Length")
        of = f" of {expected}" if expected else ""
        return f"after {self._received_bytes}{of} bytes of its body"

    def _gone(self) -> None:
        self._exchange.ended = "client_gone"
        self._client_gone()

    # --- what becomes of the bytes --------------------------------------------------------------

    def _take(self, chunk: bytes, now: float) -> bytes:
        """What the client gets for a chunk. Raises ProxyError where it cannot go on."""
        return chunk

    def _check_end(self) -> None:
        """Raises ProxyError where the end of the body is no proper one, whatever HTTP says."""
        if self._protocol is not None and self._protocol.was_reset:
            cause = cause_of(self._protocol.loss)
            raise ProxyError("upstream_unreachable", _BROKE, cause=cause)

    def _check_body(self) -> None:
        """Raises ProxyError where what has been passed on is no whole."""

    def _end(self) -> bytes:
        """What the client gets at a proper end."""
        return b""

    def _broken(self, failure: ProxyError) -> bytes:
        """What the client gets before the connection breaks."""
        return b""

    def _client_gone(self) -> None:
        """Nobody is left to get anything."""


def _rest(content: aiohttp.StreamReader) -> bytes:
    """What had come before the break. aiohttp's reader would rather lose it."""
    content.set_exception(cast("BaseException", None))
    return content.read_nowait()


def _why(error: aiohttp.ClientError | OSError) -> ProxyError:
    cause = cause_of(error)
    if isinstance(error, aiohttp.ClientPayloadError):
        message = "the upstream's answer broke off before its end"
        return ProxyError("upstream_protocol", message, cause=cause)
    return ProxyError("upstream_unreachable", _BROKE, cause=cause)
