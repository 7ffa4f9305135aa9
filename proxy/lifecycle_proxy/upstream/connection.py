"""Connections to the upstream that push what they receive, and count it.

aiohttp hands a body to a task that waits for it: a future, a wake-up and one more round of the
event loop for every chunk. Here the protocol calls back, and what came is on its way to the client
before the loop goes on. A read that is one whole HTTP chunk, as nearly all are while a model
writes, does not go through aiohttp's parser: that stands between two chunks before and after it.

And since aiohttp does not tell whether a byte of an answer had come before a connection broke, the
protocol counts them: a POST may be sent again if nobody has seen the first, and only then.

Of aiohttp's private names two are used: the connector's ``_factory``, and the reader's
``_http_chunk_splits`` (should that change, tests/upstream/test_connection.py says so).
"""

import asyncio
import functools
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ClassVar, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser, HttpResponseParserPy, RawResponseMessage
from aiohttp.streams import StreamReader

from lifecycle_proxy.upstream.response_head import (
    MAX_BYTES,
    TOO_LARGE,
    HeadBytes,
    framing_of,
    is_ambiguous,
    maybe_invalid,
    maybe_length,
)

# An event of a stream, and the end of its chunk. A line that holds a chunk's size ends otherwise:
# if the parser says that all data belongs to whole chunks, this is a place between two of them.
_CHUNK_END: Final = b"\n\n\r\n"
_SIZE_DIGITS: Final = 8
# Of one request. A backend that says 102 each minute stays below for an hour.
_MAX_INTERIM: Final = 64
# The parser in Python knows a chunk's end before the line end behind it has come.
_KNOWS_ENDS: Final = HttpResponseParser is not HttpResponseParserPy


class StreamingProtocol(ResponseHandler):
    """aiohttp's client protocol, which calls back for everything that happens to a body."""

    # uvloop calls no connection_lost for an attempt that was cancelled in time, so counting up and
    # down would drift.
    _all: ClassVar[weakref.WeakSet["StreamingProtocol"]] = weakref.WeakSet()

    received_bytes = 0
    _on_arrival: Callable[[], None] | None = None
    _on_chunk: Callable[[bytes, bytes], None] | None = None
    was_lost = False  # the transport is closing some time before
    was_reset = False  # where the end of the connection ends a body, this is no proper end
    loss: BaseException | None = None  # why
    _between_chunks = False
    _parser_stops = False
    _is_held = False
    _is_asked = False
    _is_head = False  # the request
    _interim = 0  # responses so far, for one request
    _head_bytes = 0
    _left: int | None = None  # of a body with a length
    _last_bytes = b""  # of a body in chunks
    reset_body: StreamReader | None = None  # was not at its end when the connection was reset

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._head = HeadBytes()

    def subscribe(
        self, on_arrival: Callable[[], None], on_chunk: Callable[[bytes, bytes], None]
    ) -> None:
        """Be called for the body of a response.

        Args:
            on_arrival: the reader has something, or the connection is gone.
            on_chunk: a read is one whole HTTP chunk, which the reader does not get: its data, and
                the read itself.
        """
        self._on_arrival, self._on_chunk = on_arrival, on_chunk

    def unsubscribe(self) -> None:
        """Be called no more: the connection may serve another request."""
        self._on_arrival = self._on_chunk = None

    def set_response_params(self, **params: Any) -> None:
        """A request goes out: one answer is expected, and nothing is left of the last."""
        self._is_asked = True
        self._is_head = bool(params.get("skip_payload"))
        self._interim = self._head_bytes = 0
        self._head = HeadBytes()
        self._left, self._last_bytes = None, b""
        self._between_chunks = self._parser_stops = False
        super().set_response_params(**params)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._all.add(self)
        super().connection_made(transport)

    @classmethod
    def open_connections(cls) -> int:
        """How many there are just now, in use or idle."""
        transports = (protocol.transport for protocol in cls._all)
        return sum(not (one is None or one.is_closing()) for one in transports)

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        on_chunk = self._on_chunk
        if self._between_chunks and on_chunk is not None and (chunk := whole_chunk(data)):
            on_chunk(chunk, data)
            return
        self._between_chunks = False
        if not data:  # so aiohttp calls while a body is read
            super().data_received(data)
            return
        rest = self._read_head(data) if self._is_asked else data
        if rest:
            self._read_body(rest)
        if (on_arrival := self._on_arrival) is not None:
            self._between_chunks = self._is_between_chunks(data)
            on_arrival()

    def _read_head(self, data: bytes) -> bytes:
        """Parse headers, those of interim responses, too. What is behind them is returned."""
        while data and self._awaits_head():
            part, data = self._head.split(data)
            self._head_bytes += len(part)
            super().data_received(part)
            if self._head_bytes > MAX_BYTES and self._awaits_head():
                self._refuse(TOO_LARGE)
        return data if self.exception() is None else b""

    def _awaits_head(self) -> bool:
        return self._is_asked and self.exception() is None

    def _read_body(self, data: bytes) -> None:
        """Parse a part of a body. What is behind its end belongs to no response."""
        body, extra = self._payload, b""
        if self._upgraded or body is None:
            super().data_received(data)
            return
        if body.is_eof():
            self._end_behind(body)
            return
        if self._left is not None:
            data, extra = data[: self._left], data[self._left :]
            self._left -= len(data)
        else:
            self._last_bytes = (self._last_bytes + data[-4:])[-4:]
        if data:
            super().data_received(data)
        # The last chunk ends with an empty line. It is a line end only if nothing follows.
        if extra or (self._left is None and body.is_eof() and self._last_bytes != b"\r\n\r\n"):
            self._end_behind(body)

    def _end_behind(self, body: StreamReader) -> None:
        """More came than was asked for: the next request must not get it."""
        self.force_close()
        if body.is_eof():  # else its rest is still with the parser
            self.close()

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """The headers of a response. One that nobody has asked for would be the next request's."""
        if not self._is_asked:
            self.close()
            return
        message = data[0]
        framing = framing_of(message)
        if is_ambiguous(message, framing, is_head=self._is_head):
            self.force_close()
        if invalid := maybe_invalid(message, self._head, framing):
            self._refuse(invalid)
        elif 100 <= message.code < 200 and message.code != 101:  # then another follows
            self._interim += 1
            self._head_bytes = 0
            if self._interim > _MAX_INTERIM:
                self._refuse("too many interim responses")
        else:
            self._is_asked = False
            self._left = maybe_length(message, framing, is_head=self._is_head)
            super().feed_data(data, size)

    def _refuse(self, why: str) -> None:
        """This is not a response that can be sent on. The request fails, the connection ends."""
        self._is_asked = False
        self.set_exception(HttpProcessingError(code=502, message=why))
        if self.transport is not None:
            self.transport.close()

    def _is_between_chunks(self, data: bytes) -> bool:
        """Whether aiohttp's parser has taken all, and waits for the size of the next chunk."""
        body = self._payload
        if body is None or body.is_eof() or not data.endswith(_CHUNK_END):
            return False
        if self._parser_stops or not _KNOWS_ENDS:
            return False
        ends = body._http_chunk_splits  # noqa: SLF001
        return ends is not None and bool(ends) and ends[-1] == body.total_bytes

    def connection_lost(self, exc: BaseException | None) -> None:
        self.was_lost, self.was_reset, self.loss = True, exc is not None, exc
        if exc is not None and self._payload is not None and not self._payload.is_eof():
            self.reset_body = self._payload
        super().connection_lost(exc)
        if self._on_arrival is not None:
            self._on_arrival()

    # --- flow control -----------------------------------------------------------------------------

    def hold(self) -> None:
        """Read no more until ``release``."""
        self._is_held = True
        self._pause_transport_reading()

    def release(self) -> None:
        """Read on, if reading is held."""
        if self._is_held:
            self._is_held = False
            self.resume_reading()
            self._resume_transport_reading()

    def pause_reading(self) -> None:
        """The reader is full. From now on the parser may stop in the middle of a read."""
        self._parser_stops = True
        self._between_chunks = False
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Asked for with every chunk that is read, paused or not.

        Each time the parser is fed with nothing and the transport called, so it is done only where
        the parser may have kept something.
        """
        if self._parser_stops:
            super().resume_reading(resume_parser)
            if self._is_held:
                self._pause_transport_reading()


def whole_chunk(read: bytes) -> bytes:
    """The data of one HTTP chunk, if a read is that and nothing else; else nothing.

    Sizes are taken as all known servers write them, without zeros in front and without extensions
    (RFC 9112, section 7.1).
    """
    size_end = read.find(b"\r\n", 1, _SIZE_DIGITS + 2)
    if size_end < 0 or not read.endswith(b"\r\n"):
        return b""
    if read[:size_end].lower() != b"%x" % (len(read) - size_end - 4):
        return b""
    return read[size_end + 2 : -2]


class Attempt:
    """One try at sending one request.

    Attributes:
        protocol: the connection it went out on.
    """

    def __init__(self) -> None:
        self.protocol: StreamingProtocol | None = None
        self._received_before = 0

    def sent_on(self, protocol: StreamingProtocol) -> None:
        self.protocol = protocol
        self._received_before = protocol.received_bytes

    @property
    def was_stale(self) -> bool:
        """Whether it went out on a used connection, and not a byte came back."""
        protocol = self.protocol
        return protocol is not None and 0 < self._received_before == protocol.received_bytes


ATTEMPT: ContextVar[Attempt] = ContextVar("attempt")


class TrackedRequest(aiohttp.ClientRequest):
    """Notes the connection that a request is sent on."""

    async def send(self, conn: Connection) -> Any:
        protocol = conn.protocol
        attempt = ATTEMPT.get(None)
        if attempt is not None and isinstance(protocol, StreamingProtocol):
            attempt.sent_on(protocol)
        return await super().send(conn)


def push(connector: aiohttp.BaseConnector) -> None:
    """Make a connector use the pushing protocol."""
    factory: Any = functools.partial(StreamingProtocol, loop=asyncio.get_running_loop())
    connector._factory = factory  # noqa: SLF001
