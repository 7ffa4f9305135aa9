"""What a client may take its time with, and how much: its headers and its body.

aiohttp's parser takes headers of any number of bytes, and its connections wait for ever. The parser
is wrapped here: it counts what belongs to headers, and says whether a request is half read.
"""

from typing import Any, Literal

from aiohttp import EMPTY_PAYLOAD
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

# What is being read just now: nothing, headers, or a body.
Part = Literal["", "headers", "body"]


class RequestTimeout(BadHttpMessage):
    """The headers of a request did not come in time."""

    code = 408


class WatchedParser:
    """aiohttp's request parser, with a limit for all headers of a request together.

    Args:
        parser: aiohttp's.
        max_head_bytes: for the request line and the headers, or the trailers; 0 for no limit.

    Attributes:
        payload: of the last request.
        has_failed: nothing that follows can be read.
    """

    def __init__(self, parser: Any, max_head_bytes: int) -> None:
        self.has_failed = False
        self._parser = parser
        self._max_head_bytes = max_head_bytes
        self._head_bytes = 0
        self._body_bytes = 0  # of the payload, as far as it was seen to grow
        self._failure: Exception | None = None
        self.payload: Any = EMPTY_PAYLOAD

    def release(self) -> None:
        """The connection is gone. Parser and payload refer to it: a cycle would stay."""
        self._parser, self.payload, self.has_failed = None, EMPTY_PAYLOAD, True

    # The rest of the parser. Not by __getattr__: with that, every attribute of this object takes
    # ten times as long to find, and each request looks for twenty.

    def message_consumed(self) -> None:
        """As aiohttp's."""
        self._parser.message_consumed()

    def pause_reading(self) -> None:
        """As aiohttp's."""
        self._parser.pause_reading()

    def set_upgraded(self, value: bool) -> None:
        """As aiohttp's."""
        self._parser.set_upgraded(value)

    @property
    def part(self) -> Part:
        if not self.payload.is_eof():
            return "body"
        return "headers" if self._head_bytes else ""

    @property
    def is_overfull(self) -> bool:
        """Whether too much has come beside the body: trailers, or what stands between chunks."""
        return self._is_too_much(0)

    def fail(self, failure: Exception) -> None:
        """The next call raises."""
        self._failure = failure

    def feed_data(self, data: bytes) -> tuple[Any, bool, bytes]:
        """As aiohttp's.

        Raises:
            HttpProcessingError: this is not a request that can be read. Nothing behind it is.
        """
        if self._failure is not None:
            self.has_failed = True
            raise self._failure
        was_in_body = not self.payload.is_eof()
        try:
            fed: tuple[Any, bool, bytes] = self._parser.feed_data(data)
            if data or fed[0] or was_in_body:
                self._count(fed[0], data, was_in_body=was_in_body)
        except Exception:
            self.has_failed = True
            raise
        return fed

    def _count(self, messages: Any, data: bytes, *, was_in_body: bool) -> None:
        if messages:
            if 0 < self._max_head_bytes < self._head_bytes + len(data):
                self._measure(messages)
            self.payload = messages[-1][1]
            self._head_bytes = self._body_bytes = 0
        elif not was_in_body:
            if self._head_bytes or data.strip(b"\r\n"):  # old clients end a body with a line end
                self._head_bytes += len(data)
            self._limit()
        elif self.payload.is_eof() or self.payload.total_bytes > self._body_bytes:
            self._body_bytes, self._head_bytes = self.payload.total_bytes, 0
        else:
            self._head_bytes += len(data)

    def _measure(self, messages: Any) -> None:
        for message, _ in messages:
            headers = sum(len(name) + len(value) + 4 for name, value in message.raw_headers)
            self._head_bytes = len(message.path) + headers
            self._limit()

    def _limit(self) -> None:
        if self._is_too_much(0):
            raise LineTooLong(b"", str(self._max_head_bytes))

    def _is_too_much(self, more: int) -> bool:
        return 0 < self._max_head_bytes < self._head_bytes + more
