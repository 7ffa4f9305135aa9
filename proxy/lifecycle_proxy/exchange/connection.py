"""The client's connection: what went out, and the two ways to end a response that broke."""

import socket
import struct
from contextlib import suppress

from aiohttp import web

from lifecycle_proxy.exchange.model import EXCHANGE, Headers


def head_of(response: web.StreamResponse) -> tuple[int, str, Headers]:
    """Status, reason and headers, as they go out."""
    return response.status, response.reason or "", tuple(response.headers.items())


async def end_properly(request: web.Request, response: web.StreamResponse) -> None:
    """End the message as HTTP wants it, though the upstream's was broken."""
    exchange = request[EXCHANGE]
    exchange.listeners.on_side_end(exchange, "client", "eof")
    with suppress(ConnectionError):  # the client is gone: nobody is left to see an end
        await response.write_eof()


def break_connection(request: web.Request, *, delimited: bool) -> None:
    """Close behind what has been written, without the end of the message.

    Args:
        delimited: chunks or a length tell the client that something is missing. Where the end of
            the connection is the end of the body, only a reset can be told from a proper one.
    """
    transport, exchange = request.transport, request[EXCHANGE]
    exchange.listeners.on_side_end(exchange, "client", "cut" if delimited else "reset")
    if transport is None:
        return
    if not delimited and (sock := transport.get_extra_info("socket")) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.close()
