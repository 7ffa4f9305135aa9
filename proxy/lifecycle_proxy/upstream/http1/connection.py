"""One connection to an upstream.

It does no more than it must for a read: what comes is parsed and pushed to the response's sink
before the event loop goes on. There is no task, no future and no queue for a chunk; a read that is
whole HTTP chunks skips the parser, and is passed on unchanged.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from lifecycle_proxy.exchange.errors import ProxyError, cause_of
from lifecycle_proxy.exchange.ports import OnInterim
from lifecycle_proxy.upstream import errors
from lifecycle_proxy.upstream.http1.byte_stream import PART_BYTES, ByteStream
from lifecycle_proxy.upstream.http1.chunks import whole_chunks
from lifecycle_proxy.upstream.http1.failures import (
    DisconnectedError,
    InvalidResponseError,
    ResponseTimedOutError,
)
from lifecycle_proxy.upstream.http1.head import ResponseHead
from lifecycle_proxy.upstream.http1.parser import (
    BodyEnd,
    BodyPart,
    Event,
    Invalid,
    ResponseParser,
    Truncated,
)
from lifecycle_proxy.upstream.http1.request import Outgoing, send_pieces
from lifecycle_proxy.upstream.http1.response import HttpResponse

# A used connection that ends so soon behind a request was closed before the request came
# (RFC 9110 section 9.2.2). One that ends later may have been worked on.
_STALE_S: Final = 0.5


class HttpConnection(ByteStream):
    """Carries one request after another.

    Args:
        loop: the running one.

    Attributes:
        idle_since: when it became idle, on the loop's clock.
        on_free: called when it may serve another request (True), or cannot be used any more.
    """

    __slots__ = (
        *("_arrived", "_direct", "_is_tunnel", "_on_interim", "_parser", "_response"),
        *("_sent_at", "_timer", "_upload", "_was_used", "idle_since", "on_free"),
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.on_free: Callable[[HttpConnection, bool], None] | None = None
        self.idle_since = 0.0
        self._parser: ResponseParser | None = None  # of the response that is expected
        self._arrived: asyncio.Future[HttpResponse] | None = None
        self._response: HttpResponse | None = None
        self._direct: Callable[[bytes, bytes], None] | None = None
        self._upload: asyncio.Task[None] | None = None
        self._on_interim: OnInterim | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sent_at = 0.0
        self._was_used = False
        self._is_tunnel = False

    # --- a request --------------------------------------------------------------------------------

    async def send(self, request: Outgoing, first_byte_s: float | None) -> HttpResponse:
        """Send a request, and wait for the headers of its response.

        Args:
            request: to send.
            first_byte_s: seconds that these may take behind the end of the request; None for no
                limit.

        Raises:
            TransportError: there is none.
            ProxyError: the request's body failed.
        """
        if not self.is_usable:  # it ended as soon as it was made
            self.close()
            raise DisconnectedError(None, in_headers=False, is_stale=False)
        arrived: asyncio.Future[HttpResponse] = self._loop.create_future()
        self._arrived = arrived
        self._parser = ResponseParser(request.method, may_switch=request.may_switch)
        self._on_interim = request.on_interim
        self._sent_at = self._loop.time()
        self.transport.write(request.head)
        if request.pieces is None:
            self._expect(first_byte_s)
        else:
            upload = self._send_body(request.pieces, request.length, first_byte_s)
            self._upload = self._loop.create_task(upload)
        try:
            return await arrived
        except BaseException:
            if self._arrived is arrived:
                self.close()
            elif not arrived.cancelled() and arrived.exception() is None:
                # It came as this task was cancelled. Not self: that may serve another by now.
                arrived.result().close()
            raise

    async def _send_body(
        self, pieces: AsyncIterator[bytes], length: int | None, first_byte_s: float | None
    ) -> None:
        """Send a body as it comes."""
        failure: ProxyError | None = None
        try:
            sent = await send_pieces(self, pieces, length)
            if length is not None and sent != length:
                message = "the request's body is not as long as its Content-Length"
                failure = ProxyError("bad_request", message)
        except ProxyError as error:
            failure = error
        except Exception as error:  # the client's connection makes the body, and may raise anything
            message = "the request's body could not be read"
            failure = ProxyError("bad_request", message, cause=cause_of(error))
        self._upload = None
        if failure is not None:
            self._fail(failure)
            return
        self._sent_at = self._loop.time()
        self._expect(first_byte_s)

    def _expect(self, within_s: float | None) -> None:
        """The headers of the response are to come within this time."""
        if within_s is not None and self._arrived is not None:
            self._timer = self._loop.call_later(within_s, self._fail, ResponseTimedOutError())

    # --- what comes -------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._direct is not None and (chunk := whole_chunks(data)):
            self._direct(chunk, data)
        elif len(data) <= PART_BYTES and not self._rest:
            self.take(data)
        else:
            self.take_in_parts(data)

    def take(self, data: bytes) -> None:
        if self._parser is None:  # nobody has asked for anything
            self.close()
        else:
            for event in self._parser.receive_data(data):
                self._happened(event)
            self.update()

    def _happened(self, event: Event) -> None:
        response = self._response
        match event:
            case BodyPart(data, framed):
                if response is not None:
                    response.push(data, framed)
            case BodyEnd(keeps):
                if response is not None:
                    self._end(response, None, keeps=keeps)
            case ResponseHead():
                self._head_came(event)
            case Invalid(why):
                if response is None:
                    self._fail(InvalidResponseError(why))
                else:
                    self._end(response, errors.invalid_body(why))
            case Truncated():
                pass  # see _lose

    def _head_came(self, head: ResponseHead) -> None:
        if self._arrived is None or self._arrived.done():
            return  # nobody waits any more
        if head.is_interim:
            if self._on_interim is not None and head.status != 100:  # has been said
                self._on_interim(head.status, head.reason, head.headers)
            return
        self._response = HttpResponse(self, head)
        self._is_tunnel = head.status == 101
        self._stop_waiting()
        self._arrived.set_result(self._response)
        self._arrived = None

    def _stop_waiting(self) -> None:
        self._on_interim = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, failure: Exception) -> None:
        """There will be no response, or it cannot be read to its end."""
        arrived, response = self._arrived, self._response
        self._forget()
        if arrived is not None and not arrived.done():
            arrived.set_exception(failure)
        elif response is not None:
            own = failure if isinstance(failure, ProxyError) else errors.cut(failure)
            response.end(own)
        self._drop()

    def _end(
        self, response: HttpResponse, failure: ProxyError | None, *, keeps: bool = False
    ) -> None:
        """The body has ended."""
        keeps = keeps and self._upload is None and not self.has_rest and self.is_usable
        self._forget()
        if keeps:
            self._was_used = True
            self.resume()
            if self.on_free is not None:
                self.on_free(self, True)
        else:
            self._drop()
        response.end(failure)

    def _forget(self) -> None:
        """The current request is over."""
        self._stop_waiting()
        self._parser = self._arrived = self._response = self._direct = None

    def update(self) -> None:
        """Who takes the next read has changed."""
        sink = None
        if self._response is not None and self._parser is not None:
            sink = self._response.direct if self._parser.is_between_chunks else None
        self._direct = None if sink is None else sink.data_received

    # --- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Nobody wants what may still come."""
        self._forget()
        self._drop()

    def _drop(self) -> None:
        """Close, and tell the pool."""
        self.drop_rest()
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.cancel()
        on_free, self.on_free = self.on_free, None
        if self.is_usable:
            # The last words of a tunnel still arrive. A request that is not wanted any more need
            # not, and an upstream that does not read would keep it for ever.
            if self._is_tunnel or not self.transport.get_write_buffer_size():
                self.transport.close()
            else:
                self.transport.abort()
        if on_free is not None:
            on_free(self, False)

    def eof_received(self) -> None:
        self._lose(None)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lose(exc)

    def _lose(self, reset: Exception | None) -> None:
        """The upstream has closed the connection, or it was reset."""
        if rest := self.drop_rest():
            self.take(rest)
        parser, response = self._parser, self._response
        if parser is None:
            self._drop()
        elif response is None:
            self._fail(self._disconnected(parser, reset))
        elif reset is not None:
            response.was_reset = True
            delimited = parser.is_delimited
            self._end(response, errors.cut(reset) if delimited else errors.broke(reset))
        elif isinstance(end := parser.receive_eof(), Truncated):
            self._end(response, errors.cut(end.why))
        else:
            self._end(response, None)

    def _disconnected(self, parser: ResponseParser, reset: Exception | None) -> DisconnectedError:
        is_early = self._loop.time() - self._sent_at <= _STALE_S
        end = parser.receive_eof()
        return DisconnectedError(
            reset,
            in_headers=isinstance(end, Truncated) and bool(end.why),
            is_stale=self._was_used and is_early and not parser.has_begun,
        )
