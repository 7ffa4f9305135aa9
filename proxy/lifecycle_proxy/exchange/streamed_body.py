"""Request bodies that are streamed on, as iterators: followed, read, put together again."""

from collections.abc import AsyncIterator
from typing import Final

from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.exchange.ports import RequestBody

_ORDINARY_BYTES: Final = 8 << 20


async def followed(body: AsyncIterator[bytes], exchange: Exchange) -> AsyncIterator[bytes]:
    """A body on its way to the upstream; listeners get its pieces.

    Args:
        body: its pieces.
        exchange: whose body it is.
    """
    async for piece in body:
        if piece:  # an empty one would be the end
            exchange.listeners.on_request_body(exchange, piece)
        yield piece
    exchange.listeners.on_request_body(exchange, b"")


async def whole(body: RequestBody, most: int = _ORDINARY_BYTES) -> RequestBody:
    """A streamed body whole, if it is of ordinary size; else as it comes.

    Args:
        body: perhaps streamed.
        most: the largest that is ordinary, in bytes.
    """
    if body is None or isinstance(body, bytes):
        return body
    pieces: list[bytes] = []
    size = 0
    async for piece in body:
        pieces.append(piece)
        size += len(piece)
        if size > most:
            return rejoined(pieces, body)
    return b"".join(pieces)


async def rejoined(pieces: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A body that was read in part.

    Args:
        pieces: what was read. They are let go one by one.
        rest: what follows.
    """
    pieces.reverse()
    while pieces:
        yield pieces.pop()
    async for piece in rest:
        yield piece
