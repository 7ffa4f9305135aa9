"""One exchange of another tool's recording, and what one needs to read those."""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from lifecycle_proxy.exchange.content_coding import CODINGS, Decompressor
from lifecycle_proxy.exchange.ends import SideEnd
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import Headers, SideName
from lifecycle_proxy.recording.cassette import Json, Piece

_MAGIC: Final = {"gzip": b"\x1f\x8b", "x-gzip": b"\x1f\x8b"}


class Unreadable(Exception):  # noqa: N818  it is the file that is unreadable
    """A file, or an exchange in it, that cannot be imported. The text says why, and the cure."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an exchange ended, where the file says so.

    Attributes:
        ended: as in a cassette; None where that is not known, "" where the end was not recorded.
        sides: the status and the end of each side that is known; None for one that was not asked.
        tools: the lifecycle events.
    """

    ended: str | None = None
    error: str = ""
    sides: dict[SideName, tuple[int, SideEnd] | None] = field(default_factory=dict)
    tools: list[Json] = field(default_factory=list)


@dataclass(slots=True)
class Imported:
    """One exchange, whole.

    Attributes:
        ts: when it began; None where that is not known.
        url: absolute.
        status: 0 where there was no answer.
        body: of the answer, without content coding.
        pieces: the same as it came, where that is known.
        head_ms: milliseconds from the request to the head; 0 where that is not known.
        end_ms: to the end.
        omitted: why there is no body, where there should be one.
        request_omitted: the same of the request's.
        ending: how it ended.
    """

    method: str
    url: str
    request_headers: Headers = ()
    request_body: bytes = b""
    status: int = 0
    reason: str = ""
    headers: Headers = ()
    body: bytes = b""
    pieces: tuple[Piece, ...] = ()
    head_ms: float = 0.0
    end_ms: float = 0.0
    ts: datetime | None = None
    omitted: str = ""
    request_omitted: str = ""
    ending: Ending = field(default_factory=Ending)

    def end(self, side: SideName) -> SideEnd:
        """How a side ended. Another tool's answer is whole; no status stands for no answer."""
        told = self.ending.sides.get(side, (self.status, "eof" if self.status else ""))
        return told[1] if told is not None and told[0] in (0, self.status) else ""

    def is_answer_of(self, side: SideName) -> bool:
        """Whether the answer is also that of this side; one of the proxy's own is not."""
        told = self.ending.sides.get(side, (self.status, ""))
        return bool(self.status) and told is not None and told[0] == self.status

    @property
    def was_forwarded(self) -> bool:
        return self.ending.sides.get("upstream", ()) is not None


# What reading a document raises where it is not built as it should be.
MISBUILT: Final = (
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


def why(error: Exception) -> str:
    """What is wrong with a document."""
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)


def unbase64(text: str) -> bytes:
    """The bytes of base64, in which there may be spaces.

    Raises:
        Unreadable: it is not base64.
    """
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Unreadable("a body that should be base64 is not") from None


def unhex(text: str) -> bytes:
    """The bytes of hexadecimal digits.

    Raises:
        Unreadable: they are not.
    """
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise Unreadable("a body that should be hexadecimal is not") from None


def utf8(text: str) -> bytes:
    """As it was, if it was text; lone surrogates do no harm."""
    return text.encode("utf-8", "surrogatepass")


def moment(value: object) -> datetime | None:
    """A time in ISO 8601; None where it is not one, or says no zone."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    return value if isinstance(value, datetime) and value.tzinfo is not None else None


def with_host(pairs: Iterable[tuple[Any, Any]], url: str) -> Headers:
    """Headers as text, with a Host, which most tools leave out; without HTTP/2's own.

    Args:
        pairs: names and values.
        url: of the request.
    """
    headers = tuple((str(k), str(v)) for k, v in pairs if not str(k).startswith(":"))
    host = urlsplit(url).netloc.rpartition("@")[2]
    if not host or any(name.lower() == "host" for name, _ in headers):
        return headers
    return (("Host", host), *headers)


def in_clear(data: bytes, coding: str) -> bytes:
    """A body without its content coding. Some tools have undone it, and left the header.

    Args:
        data: the body.
        coding: as the header has it.

    Raises:
        Unreadable: a coding that is not known here, or a body that is broken.
    """
    coding = coding.strip().lower()
    if coding in ("", "identity") or not data or not data.startswith(_MAGIC.get(coding, b"")):
        return data
    if coding not in CODINGS:
        if _is_text(data):
            return data
        raise Unreadable(
            f"a body is compressed with {coding}; record it again with "
            "decode_compressed_response=True, or with Accept-Encoding: identity"
        )
    inflate = Decompressor()
    try:
        clear = inflate.feed(data)
        inflate.check_end()
    except ProxyError:
        if _is_text(data):
            return data  # deflate has no mark to tell it by
        raise Unreadable(f"a body that should be compressed with {coding} is not") from None
    return clear


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
