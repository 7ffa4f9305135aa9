"""Which response headers are accepted from an upstream, and after which its connection is closed.

aiohttp parses responses leniently. What it lets through and this proxy must not send on is refused
here, with status 502: a client's parser may read it differently from aiohttp's. A response whose
framing is ambiguous, but readable, is passed on, and its connection is not used again: what it
calls its end may not be what the upstream calls so, and the rest would be the next client's
response.
"""

import re
from typing import Final

from aiohttp.http_parser import RawResponseMessage

# Of all headers of a response. Real ones have less than 10 KiB.
MAX_BYTES: Final = 262_144
TOO_LARGE: Final = "its headers are too large"
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 section 5.5
_BODILESS: Final = (204, 304)


def maybe_invalid(message: RawResponseMessage) -> str:
    """Why a response must not be sent on; "" where it may.

    Args:
        message: status line and headers, as aiohttp parsed them.
    """
    if _CONTROL.search((message.reason or "").encode("utf-8", "surrogateescape")):
        return "a control character in the status line"
    size = 0
    for name, value in message.raw_headers:
        size += len(name) + len(value)
        if not _NAME.fullmatch(name):  # a blank before the colon, too: RFC 9112 section 5.1
            return "a header name that is not a token"
        if _CONTROL.search(value):
            return "a control character in a header"
    return TOO_LARGE if size > MAX_BYTES else ""


def is_ambiguous(message: RawResponseMessage, *, is_head: bool) -> bool:
    """Whether bytes may follow that belong to this response by somebody's reading.

    Args:
        message: status line and headers, as aiohttp parsed them.
        is_head: the request was a HEAD.
    """
    lengths = [value.strip() for name, value in message.raw_headers if _is(name, b"content-length")]
    codings = [value for name, value in message.raw_headers if _is(name, b"transfer-encoding")]
    if len(lengths) > 1 or len(codings) > 1 or (lengths and codings):
        return True
    if codings and codings[0].strip().lower() != b"chunked":
        return True
    has_body = any(length != b"0" for length in lengths) or bool(codings)
    return has_body and (is_head or message.code in _BODILESS or message.code < 200)


def _is(name: bytes, wanted: bytes) -> bool:
    return len(name) == len(wanted) and name.lower() == wanted
