"""Request bodies: streamed on, and looked at only where an event stream may follow."""

from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import orjson
from aiohttp import web

# Larger bodies just pass: nobody waits for them to be whole, and memory stays flat.
PEEK_BYTES: Final = 1 << 20


class Body(NamedTuple):
    """A request body, as far as it was looked at.

    Attributes:
        data: the whole of it, or an iterator over it, or None where there is none.
        stream: whether an event stream may be asked for.
        model: as asked; "" where that is not known.
    """

    data: bytes | AsyncIterator[bytes] | None
    stream: bool = False
    model: str = ""


async def look(request: web.Request) -> Body:
    """Read a body of ordinary size; hand on a larger one unread.

    What is no JSON object is the upstream's to judge.
    """
    if not request.can_read_body:
        return Body(None)
    pieces: list[bytes] = []
    size = 0
    while size <= PEEK_BYTES:
        piece = await request.content.readany()
        if not piece:
            return _read(b"".join(pieces))
        pieces.append(piece)
        size += len(piece)
    return Body(_chain(pieces, request), stream=True)


async def small_or_streamed(request: web.Request) -> bytes | AsyncIterator[bytes] | None:
    """A small JSON body whole, so that it can be sent again; anything else as it comes."""
    if not request.can_read_body:
        return None
    size = request.content_length
    if size is None or size > PEEK_BYTES or request.content_type != "application/json":
        return request.content.iter_any()
    pieces = [piece async for piece in request.content.iter_any()]
    return b"".join(pieces)


def _read(data: bytes) -> Body:
    try:
        asked = orjson.loads(data)
    except orjson.JSONDecodeError:
        return Body(data)
    if not isinstance(asked, dict):
        return Body(data)
    model = asked.get("model")
    return Body(data, bool(asked.get("stream")), model if isinstance(model, str) else "")


async def _chain(pieces: list[bytes], request: web.Request) -> AsyncIterator[bytes]:
    pieces.reverse()
    while pieces:
        yield pieces.pop()
    async for piece in request.content.iter_any():
        yield piece
