"""Which response headers are accepted from an upstream, and after which its connection is closed.

aiohttp parses responses leniently. What it lets through and this proxy must not send on is refused
here, with status 502: a client's parser may read it differently from aiohttp's. A response whose
framing is ambiguous, but readable, is passed on, and its connection is not used again: what it
calls its end may not be what the upstream calls so, and the rest would be the next client's
response.
"""

import re
from typing import Final, NamedTuple

from aiohttp.http import HttpVersion11
from aiohttp.http_parser import RawResponseMessage

# Of all headers of a response. Real ones have less than 10 KiB.
MAX_BYTES: Final = 262_144
TOO_LARGE: Final = "its headers are too large"
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
# RFC 9110 section 5.5. CR and LF are looked at apart.
_CONTROL: Final = bytes({*range(0x20), 0x7F} - {*b"\t\r\n"})
_BLANK_FIRST: Final = re.compile(rb"[^\n]*\n[ \t]")  # RFC 9112 section 2.2
_LENGTH: Final = b"content-length"
_CODING: Final = b"transfer-encoding"
_LENGTH_SIZE: Final = len(_LENGTH)
_CODING_SIZE: Final = len(_CODING)
_MOST_NAMES: Final = 1024
_ENDS: Final = (b"\n\r\n", b"\n\n")
_LINE_ENDS: Final = b"\r\n"
_BODILESS: Final = (204, 304)


class HeadBytes:
    """Status line and headers as they come. Line ends in front of them are skipped.

    Attributes:
        raw: what has come.
        is_whole: the empty line at their end has come, too.
    """

    def __init__(self) -> None:
        self.raw = bytearray()
        self.is_whole = False

    def split(self, read: bytes) -> tuple[bytes, bytes]:
        """The part of a read that belongs to them, and what is behind their end."""
        if self.is_whole:  # of an interim response; this is the next
            self.raw.clear()
            self.is_whole = False
        start = max(0, len(self.raw) - 2)
        self.raw += read if self.raw else read.lstrip(_LINE_ENDS)
        places = [(at, len(end)) for end in _ENDS if (at := self.raw.find(end, start)) >= 0]
        if not places:
            return read, b""
        self.is_whole = True
        end = sum(min(places))
        size = len(read) - (len(self.raw) - end)
        del self.raw[end:]
        return read[:size], read[size:]


class Framing(NamedTuple):
    """What the headers of a response say of the length of its body.

    Attributes:
        lengths: the values of ``Content-Length``.
        codings: the values of ``Transfer-Encoding``.
    """

    lengths: list[bytes]
    codings: list[bytes]


def framing_of(message: RawResponseMessage) -> Framing:
    """Headers are walked over once for all that is asked about them."""
    framing = Framing([], [])
    for name, value in message.raw_headers:
        if len(name) == _LENGTH_SIZE and name.lower() == _LENGTH:
            framing.lengths.append(value.strip())
        elif len(name) == _CODING_SIZE and name.lower() == _CODING:
            framing.codings.append(value.strip())
    return framing


def maybe_invalid(message: RawResponseMessage, head: HeadBytes, framing: Framing) -> str:
    """Why a response must not be sent on; "" where it may.

    Args:
        message: status line and headers, as aiohttp parsed them.
        head: the same, as they came.
        framing: what they say of the body.
    """
    if not head.is_whole or message.code < 100:
        return "a status line or headers that cannot be read"
    if len(head.raw) > MAX_BYTES:
        return TOO_LARGE
    if len(head.raw.translate(None, _CONTROL)) < len(head.raw):
        return "a control character in the status line or a header"
    if head.raw.count(b"\r") > head.raw.count(b"\r\n"):  # RFC 9112 section 2.2
        return "a CR without LF in the status line or a header"
    if _BLANK_FIRST.match(head.raw):
        return "a blank before the first header"
    # A blank before the colon, too: RFC 9112 section 5.1
    if not all(_is_token(name) for name, _ in message.raw_headers):
        return "a header name that is not a token"
    codings = framing.codings
    # RFC 9112 section 7. Other codings were not asked for: no TE is sent. Some have no end.
    if codings and ([coding.lower() for coding in codings] != [b"chunked"] or not message.chunked):
        return "a transfer coding other than chunked"
    return ""


def is_ambiguous(message: RawResponseMessage, framing: Framing, *, is_head: bool) -> bool:
    """Whether bytes may follow that belong to this response by somebody's reading.

    Args:
        message: status line and headers, as aiohttp parsed them.
        framing: what they say of the body.
        is_head: the request was a HEAD.
    """
    lengths, codings = framing
    if len(lengths) + len(codings) > 1 or message.code == 101:
        return True
    if codings and message.version < HttpVersion11:  # RFC 9112 section 6.1
        return True
    has_body = any(length != b"0" for length in lengths) or bool(codings)
    return has_body and (is_head or _has_no_body(message))


def maybe_length(message: RawResponseMessage, framing: Framing, *, is_head: bool) -> int | None:
    """How long the body is, by ``Content-Length``; None where something else says that.

    Args:
        message: status line and headers, as aiohttp parsed them.
        framing: what they say of the body.
        is_head: the request was a HEAD.
    """
    lengths = framing.lengths
    if message.chunked or is_head or _has_no_body(message) or not lengths or not lengths[0]:
        return None
    return int(lengths[0])


def _has_no_body(message: RawResponseMessage) -> bool:
    return message.code < 200 or message.code in _BODILESS


_tokens: set[bytes] = set()  # names that were seen, a bounded number of them


def _is_token(name: bytes) -> bool:
    if name in _tokens:
        return True
    if not _NAME.fullmatch(name):
        return False
    if len(_tokens) < _MOST_NAMES:
        _tokens.add(name)
    return True
