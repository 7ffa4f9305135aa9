"""aiohttp's server protocol: limits for slow clients, errors in the proxy's form.

Of aiohttp's private names three are used: ``_parser``, which is wrapped, and the two flags that say
whether reading is held.
"""

import asyncio
import logging
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.http_exceptions import LineTooLong

from lifecycle_proxy.config.model import Server
from lifecycle_proxy.exchange import responses
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.server.patience import Part, RequestTimeout, WatchedParser

log = logging.getLogger("proxy.http")

_FOR_EVER_S = 10.0 * 365 * 24 * 3600


class Protocol(web.RequestHandler):
    """One client connection.

    Args:
        manager: aiohttp's server.
        own: the limits of ``[server]``.
        more: as aiohttp's.
    """

    __slots__ = ("_deadline", "_own", "_part", "_timer", "_watched")

    def __init__(self, manager: web.Server, own: Server, **more: Any) -> None:
        super().__init__(manager, keepalive_timeout=own.keep_alive_s or _FOR_EVER_S, **more)
        self._own = own
        self._watched = WatchedParser(self._parser, own.max_head_bytes)
        self._parser = self._watched  # type: ignore[assignment]  # it does what the parser does
        self._part: Part = ""
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    # --- time ---------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._watched.has_failed:
            return
        super().data_received(data)
        if self._watched.has_failed and not self._watched.payload.is_eof():
            # aiohttp answers with an error behind the response, for which the body is waited for.
            self._break_body(ProxyError("bad_request", "the body is not valid HTTP"))
            return
        if not data:  # aiohttp calls with nothing where it reads on
            return
        before, self._part = self._part, self._watched.part
        if self._part == "body":
            if self._watched.is_overfull and not self._is_held:
                message = "too much beside the data in a chunked body"
                self._break_body(ProxyError("bad_request", message))
                return
            self._expect(self._own.body_idle_s)
        elif self._part != before:  # all headers together have one limit
            self._expect(self._own.head_timeout_s if self._part else 0)

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp does so for each piece of a body that is read. Behind its end there is nothing to
        # parse: 9 us of each request.
        if self._is_held or not self._watched.payload.is_eof():
            super().resume_reading(resume_parser)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().connection_lost(exc)
        self._watched.release()

    @property
    def _is_held(self) -> bool:
        """Whether the client is not read just now, so that nothing can come."""
        return self._reading_paused or self._buffer_paused

    def _expect(self, within_s: float) -> None:
        """More is to come within this time; 0 for any."""
        if not within_s:
            self._deadline = None
            return
        self._deadline = self._loop.time() + within_s
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._look)

    def _look(self) -> None:
        """The time may be over. It is not set anew with all that comes: that would cost more."""
        self._timer = None
        if self._deadline is None or self.transport is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look)
        elif self._part == "headers":
            self._watched.fail(RequestTimeout("the headers did not come in time"))
            super().data_received(b"")
        elif self._is_held:
            self._expect(self._own.body_idle_s)
        else:
            message = "the body did not come in time"
            self._break_body(ProxyError("request_timeout", message))

    def _break_body(self, failure: ProxyError) -> None:
        """The reader of the body gets the error. The response to it ends the connection."""
        self._deadline = None
        self._watched.payload.set_exception(failure)
        self._watched.payload.feed_eof()
        self.close()

    # --- errors -------------------------------------------------------------------------------

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is not HTTP that this proxy would forward."""
        log.info("refused a request from %s: %s", request.remote, type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("a response has begun; an error response cannot follow")
        response = responses.error_response(_refusal(status, exc, message))
        assert isinstance(request, ClientRequest)
        responses.as_http11(request)
        response.force_close()  # where the next request begins is anybody's guess
        return response


def _refusal(status: int, exc: BaseException | None, message: str | None) -> ProxyError:
    if isinstance(exc, RequestTimeout):
        return ProxyError("request_timeout", "the headers did not come in time")
    if isinstance(exc, LineTooLong) or (message and "headers" in message):
        return ProxyError("header_too_large", "the headers, or the request line, are too long")
    if isinstance(exc, HttpProcessingError) or status < 500:
        return ProxyError("bad_request", "malformed HTTP request")
    return ProxyError("internal", "the proxy failed; its log says why")
