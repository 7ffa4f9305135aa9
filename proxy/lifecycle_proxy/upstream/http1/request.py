"""The request line and headers, as they are written to the upstream."""

from collections.abc import AsyncIterator
from typing import Final

from msgspec import Struct
from multidict import CIMultiDict

from lifecycle_proxy.exchange.ports import OnInterim, RequestBody, Upgraded, UpstreamRequest

# In one piece a larger one would stop the event loop.
_LARGE_BYTES: Final = 1 << 18
_SLICE_BYTES: Final = 1 << 16
# Methods whose requests usually have no body. Others say that theirs is empty (RFC 9110 8.6).
_BODILESS: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"))
_FRAMING: Final = ("Content-Length", "Transfer-Encoding")


class Outgoing(Struct, frozen=True):
    """A request that is ready to be sent.

    Attributes:
        method: of the request line.
        head: request line, headers and the empty line, and a small body right behind it.
        pieces: a body that is sent as it comes; None without one.
        length: how long that is; None if it is sent in chunks.
        may_switch: it asks for another protocol, or for a tunnel.
        on_interim: called for each 102, 103 and the like that comes before the response.
    """

    method: str
    head: bytes
    pieces: AsyncIterator[bytes] | None = None
    length: int | None = None
    may_switch: bool = False
    on_interim: OnInterim | None = None


class RequestWriter:
    """Writes requests for one origin.

    Args:
        host: for ``Host``.
        prefix: in front of the target: the origin, where a proxy is asked for it (RFC 9112 3.2.2).
        more: header lines of the proxy's own.
    """

    def __init__(
        self, host: str, *, prefix: str = "", more: CIMultiDict[str] | None = None
    ) -> None:
        self._host = host
        self._prefix = prefix
        self._more = more or CIMultiDict()

    def write(self, request: UpstreamRequest, target: str) -> Outgoing:
        """A request as bytes.

        Args:
            request: what is wanted.
            target: raw path and query.

        Raises:
            ValueError: a header holds a line end.
        """
        method, headers, body, asked_by = (
            request.method,
            request.headers,
            request.body,
            request.asked_by,
        )
        lines = [f"{method} {self._prefix}{target} HTTP/1.1"]
        if "Host" not in headers:
            lines.append(f"Host: {self._host}")
        pieces, length = _framed(method, headers, body)
        lines += map(": ".join, headers.items())
        lines += map(": ".join, self._more.items())
        lines += ("", "")
        head = "\r\n".join(lines).encode("utf-8", "surrogateescape")
        if head.count(b"\n") + head.count(b"\r") != 2 * len(lines) - 2:
            raise ValueError("a header of a request must not hold a line end")
        if pieces is None and isinstance(body, bytes):
            head += body
        on_interim = None if asked_by is None else asked_by.on_interim
        return Outgoing(method, head, pieces, length, "Upgrade" in headers, on_interim)


def _framed(
    method: str, headers: CIMultiDict[str], body: RequestBody
) -> tuple[AsyncIterator[bytes] | None, int | None]:
    """Set the header that says where the body ends. A body that is sent as it comes is returned,
    with its length."""
    if body is None or isinstance(body, bytes):
        for name in _FRAMING:
            headers.popall(name, None)
        if body or method not in _BODILESS:
            headers["Content-Length"] = str(len(body or b""))
        if body is None or len(body) <= _LARGE_BYTES:
            return None, None
        return _sliced(body), len(body)
    length = headers.get("Content-Length")
    if length is None:
        headers["Transfer-Encoding"] = "chunked"
        return body, None
    return body, int(length)


async def _sliced(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _SLICE_BYTES):
        yield body[start : start + _SLICE_BYTES]


async def send_pieces(to: Upgraded, pieces: AsyncIterator[bytes], length: int | None) -> int:
    """Send a body as it comes. Returns its length; more than was announced is not sent.

    Args:
        to: the connection, behind the headers.
        pieces: the body.
        length: as announced; None to send it in chunks.
    """
    sent = 0
    async for piece in pieces:
        sent += len(piece)
        if length is None:
            if piece:  # an empty one would be the last chunk
                to.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        elif sent > length:
            break
        else:
            to.write(piece)
        await to.drain()
    if length is None:
        to.write(b"0\r\n\r\n")
        await to.drain()
    return sent
