"""The status line and headers of a response: parsed by llhttp, refused where they are not clear.

llhttp (by httptools) is strict: control characters, blanks before a colon, folded lines, two
lengths, a length beside a transfer coding. A line may end without CR (RFC 9112 section 2.2): small
servers that somebody wrote by hand do that. What else must not be sent on is refused here: a
client's parser may read it differently.
"""

from typing import Final

import httptools
from msgspec import Struct

from lifecycle_proxy.exchange.model import Headers

# Status line and headers, and those of interim responses. Real ones have less than 10 KiB.
MAX_BYTES: Final = 262_144
TOO_LARGE: Final = "its headers are too large"
_MAX_HEADERS: Final = 1024
_TOO_MANY: Final = "too many headers"

_LENGTH: Final = b"content-length"
_CODING: Final = b"transfer-encoding"
_LENGTH_SIZE: Final = len(_LENGTH)
_CODING_SIZE: Final = len(_CODING)
_CONNECTION: Final = b"connection"
_CONNECTION_SIZE: Final = len(_CONNECTION)
_CONTROL: Final = bytes({*range(0x20), 0x7F} - {*b"\t"})
_BODILESS: Final = (204, 304)


class InvalidHeadError(Exception):
    """The status line or a header is not valid.

    Args:
        reason: why, without a byte of it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ResponseHead(Struct, frozen=True):
    """Status line and headers.

    Attributes:
        status, reason: of the status line.
        headers: in order, with duplicates, in their case. Bytes that are not UTF-8 are surrogates.
        is_chunked: the body comes in chunks.
        length: of the body, by ``Content-Length``; None without one.
        keeps: the connection may serve another request, by what is said here.
    """

    status: int
    reason: str
    headers: Headers
    is_chunked: bool
    length: int | None
    keeps: bool

    @property
    def is_interim(self) -> bool:
        """Another one follows (RFC 9110 section 15.2)."""
        return self.status < 200 and self.status != 101

    @property
    def has_no_body(self) -> bool:
        """By its status (RFC 9112 section 6.3)."""
        return self.status < 200 or self.status in _BODILESS

    @property
    def announces_body(self) -> bool:
        return self.is_chunked or bool(self.length)


class _Collected(list[tuple[bytes, bytes]]):
    """What llhttp found: the headers, and the reason phrase."""

    __slots__ = ("is_whole", "reason")

    def __init__(self) -> None:
        self.reason = b""
        self.is_whole = False

    def on_status(self, reason: bytes) -> None:
        self.reason = reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self) == _MAX_HEADERS:
            raise ValueError(_TOO_MANY)  # llhttp stops here
        self.append((name, value))

    def on_headers_complete(self) -> None:
        self.is_whole = True


def end_of_head(data: bytes | bytearray, start: int = 0) -> int:
    """Where the empty line behind the headers ends; -1 if it has not come.

    Args:
        data: line ends in front are skipped already.
        start: where to begin to look.
    """
    at = data.find(b"\n\r\n", start)
    bare = data.find(b"\n\n", start, len(data) if at < 0 else at + 1)
    if bare >= 0:
        return bare + 2
    return at + 3 if at >= 0 else -1


def parse_head(data: bytes) -> ResponseHead:
    """Parse what ``end_of_head`` has found.

    Args:
        data: from the status line to the empty line.

    Raises:
        InvalidHeadError: it must not be sent on.
    """
    found = _Collected()
    parser = httptools.HttpResponseParser(found)
    parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)
    try:
        parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        if not found.is_whole:  # behind a 101 llhttp stops
            reason = f"a status line or headers that cannot be read ({error})"
            raise InvalidHeadError(reason) from None
    status = parser.get_status_code()
    is_old = not data.startswith(b"HTTP/1.1 ")
    if status < 100 or (is_old and not data.startswith(b"HTTP/1.0 ")):
        raise InvalidHeadError("a status line that cannot be read")
    if found.reason.translate(None, _CONTROL) != found.reason:
        raise InvalidHeadError("a control character in the status line")
    length, is_chunked, connection = _framing(found)
    # RFC 9112 sections 9.3 and 6.1: chunks are not known to HTTP/1.0.
    keeps = b"keep-alive" in connection and not is_chunked if is_old else True
    return ResponseHead(
        status,
        found.reason.decode("utf-8", "surrogateescape"),
        _decoded(found, is_ascii=data.isascii()),
        is_chunked,
        length,
        keeps and b"close" not in connection,
    )


def _decoded(headers: list[tuple[bytes, bytes]], *, is_ascii: bool) -> Headers:
    """Names are ASCII anyway. To decode ASCII takes half as long."""
    if is_ascii:
        return tuple([(name.decode(), value.rstrip(b" \t").decode()) for name, value in headers])
    return tuple(
        (name.decode(), value.rstrip(b" \t").decode("utf-8", "surrogateescape"))
        for name, value in headers
    )


def _framing(headers: list[tuple[bytes, bytes]]) -> tuple[int | None, bool, list[bytes]]:
    """The length of the body, whether it comes in chunks, and the options of ``Connection``."""
    length: int | None = None
    connection: list[bytes] = []
    is_chunked = False
    for name, value in headers:
        size = len(name)
        if size == _LENGTH_SIZE and name.lower() == _LENGTH:
            length = int(value)  # llhttp has seen digits only, and this header once
        elif size == _CODING_SIZE and name.lower() == _CODING:
            # Other codings were not asked for: no TE is sent. Some have no end (RFC 9112 section 7)
            if is_chunked or value.strip(b" \t").lower() != b"chunked":
                raise InvalidHeadError("a transfer coding other than chunked")
            is_chunked = True
        elif size == _CONNECTION_SIZE and name.lower() == _CONNECTION:
            connection += (option.strip(b" \t") for option in value.lower().split(b","))
    if is_chunked and length is not None:
        raise InvalidHeadError("both a length and a transfer coding")
    return length, is_chunked, connection
