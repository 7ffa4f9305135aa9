"""A response of HTTP/1.1, from bytes to events. No I/O.

``receive_data`` takes what came and returns what it means, in order: interim responses, the head,
parts of the body, its end. One parser reads one response. What must not be sent on is one event,
``Invalid``, and the last one.
"""

from typing import Final, Literal

from msgspec import Struct

from lifecycle_proxy.upstream.http1.chunks import ChunkedBody
from lifecycle_proxy.upstream.http1.head import (
    MAX_BYTES,
    TOO_LARGE,
    InvalidHeadError,
    ResponseHead,
    end_of_head,
    parse_head,
)

# Of one request. A backend that says 102 each minute stays below for an hour.
_MAX_INTERIM: Final = 64
_LINE_ENDS: Final = b"\r\n"
_NOT_ASKED: Final = "the upstream switched protocols without being asked"


class BodyPart(Struct, frozen=True):
    """A part of the body.

    Attributes:
        data: not empty.
        framed: the same as whole HTTP chunks, if it came so.
    """

    data: bytes
    framed: bytes = b""


class BodyEnd(Struct, frozen=True):
    """The body is whole.

    Attributes:
        keeps: the connection may serve another request.
    """

    keeps: bool


class Invalid(Struct, frozen=True):
    """The response is not one that can be sent on.

    Attributes:
        why: without a byte of it.
    """

    why: str


class Truncated(Struct, frozen=True):
    """The connection ended before the response did.

    Attributes:
        why: for the log.
    """

    why: str


Event = ResponseHead | BodyPart | BodyEnd | Invalid | Truncated


# The body of ``to_the_end`` ends with the connection.
_State = Literal["head", "length", "chunks", "to_the_end", "over"]


class ResponseParser:
    """Reads the response to one request.

    Args:
        method: of the request.
        may_switch: the request asked for another protocol, or for a tunnel.

    Attributes:
        is_between_chunks: the next read may be one whole chunk, which need not come here.
        has_begun: something of a response has come, if only of an interim one.
        is_delimited: where the body ends is known without the end of the connection.
    """

    __slots__ = (
        *("_buffer", "_chunks", "_head_bytes", "_interim", "_keeps", "_left", "_may_switch"),
        *("_method", "_state", "has_begun", "is_between_chunks"),
    )

    def __init__(self, method: str, *, may_switch: bool = False) -> None:
        self.is_between_chunks = False
        self.has_begun = False
        self._method = method
        self._may_switch = may_switch
        self._state: _State = "head"
        self._buffer: bytearray | None = None  # the beginning of a head
        self._chunks: ChunkedBody | None = None
        self._left = 0
        self._keeps = True
        self._interim = 0
        self._head_bytes = 0

    @property
    def is_delimited(self) -> bool:
        return self._state != "to_the_end"

    def receive_data(self, data: bytes) -> list[Event]:
        """What a read means.

        Args:
            data: not empty.
        """
        events: list[Event] = []
        while data and self._state == "head":
            data = self._read_head(data, events)
        if data:
            self._read_body(data, events)
        return events

    def receive_eof(self) -> Event | None:
        """The connection has ended; None if that says nothing new."""
        state, self._state = self._state, "over"
        match state:
            case "head":
                return Truncated("inside its headers" if self._buffer else "")
            case "length":
                return Truncated("the body is shorter than its content length")
            case "chunks":
                return Truncated("the last chunk of the transfer did not come")
            case "to_the_end":
                return BodyEnd(keeps=False)
            case "over":
                return None

    # --- the head ---------------------------------------------------------------------------------

    def _read_head(self, data: bytes, events: list[Event]) -> bytes:
        """Status line and headers, maybe of an interim response. What is behind is returned."""
        self.has_begun = True
        if self._buffer is None:
            data = data.lstrip(_LINE_ENDS)
            end = end_of_head(data)
            if end < 0 and data:
                self._buffer = bytearray(data)
        else:
            start = max(0, len(self._buffer) - 2)
            self._buffer += data
            end = end_of_head(self._buffer, start)
            if end >= 0:
                data = bytes(self._buffer)
        size = end if end >= 0 else len(self._buffer or b"")
        if self._head_bytes + size > MAX_BYTES:
            return self._refuse(TOO_LARGE, events)
        if end < 0:
            return b""
        self._buffer = None
        self._head_bytes += end
        try:
            head = parse_head(data[:end])
        except InvalidHeadError as error:
            return self._refuse(error.reason, events)
        if why := self._begin(head):
            return self._refuse(why, events)
        events.append(head)
        if self._state == "over":
            events.append(BodyEnd(self._keeps and end == len(data)))
            return b""
        return data[end:]

    def _begin(self, head: ResponseHead) -> str:
        """What follows this head. Returns why it must not be sent on, or ""."""
        if head.is_interim:
            self._interim += 1
            self._keeps &= not head.announces_body  # a contradiction
            return "too many interim responses" if self._interim > _MAX_INTERIM else ""
        if head.status == 101 or (self._method == "CONNECT" and head.status < 300):
            self._state, self._keeps = "to_the_end", False
            return "" if self._may_switch else _NOT_ASKED
        is_bodiless = head.has_no_body or self._method == "HEAD"
        # What is announced, and does not belong here, may come all the same, and would be taken for
        # the next response. That the response to a HEAD may announce it is not worth a connection.
        self._keeps &= head.keeps and not (is_bodiless and head.announces_body)
        if is_bodiless or head.length == 0:
            self._state = "over"
        elif head.is_chunked:
            self._state, self._chunks = "chunks", ChunkedBody()
            self.is_between_chunks = True
        elif head.length is not None:
            self._state, self._left = "length", head.length
        else:
            self._state = "to_the_end"
        return ""

    def _refuse(self, why: str, events: list[Event]) -> bytes:
        self._state = "over"
        self._buffer = None
        events.append(Invalid(why))
        return b""

    # --- the body ---------------------------------------------------------------------------------

    def _read_body(self, data: bytes, events: list[Event]) -> None:
        if self._state == "to_the_end":
            events.append(BodyPart(data))
        elif self._state == "chunks":
            assert self._chunks is not None
            self._read_chunks(self._chunks, data, events)
        elif self._state == "length":
            size = len(data)
            if size > self._left:  # more than was announced: nobody asked for the rest
                data, self._keeps = data[: self._left], False
            events.append(BodyPart(data))
            self._left -= len(data)
            if not self._left:
                self._state = "over"
                events.append(BodyEnd(self._keeps))

    def _read_chunks(self, chunks: ChunkedBody, data: bytes, events: list[Event]) -> None:
        data, framed = chunks.feed(data)
        self.is_between_chunks = chunks.is_between
        if data:
            events.append(BodyPart(data, framed))
        if chunks.failure:
            self._refuse(chunks.failure, events)
        elif chunks.is_over:
            self._state = "over"
            events.append(BodyEnd(self._keeps and not chunks.rest))
