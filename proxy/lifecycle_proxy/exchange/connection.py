"""The client's connection: the two ways to end a response whose upstream failed."""

import socket
import struct
from contextlib import suppress

from aiohttp import web

from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.model import Headers


def head_of(response: web.StreamResponse) -> tuple[int, str, Headers]:
    """Status, reason and headers as they are sent to the client."""
    return response.status, response.reason or "", tuple(response.headers.items())


async def end_properly(request: ClientRequest, response: web.StreamResponse) -> None:
    """End the message as HTTP requires, although the upstream's was cut off.

    Args:
        request: of the client.
        response: has begun.
    """
    exchange = request.exchange
    exchange.listeners.on_side_end(exchange, "client", "eof")
    if response.prepared:
        with suppress(ConnectionError):  # the client is gone
            await response.write_eof()


def break_connection(request: ClientRequest, *, delimited: bool) -> None:
    """Close the connection after what has been written, without the end of the message.

    Args:
        request: of the client.
        delimited: the body is chunked or has a length, so the client sees that it is incomplete.
            If not, the end of the connection is the end of the body, and only a reset shows that
            something is missing (RFC 9112 section 8).
    """
    transport, exchange = request.transport, request.exchange
    exchange.listeners.on_side_end(exchange, "client", "cut" if delimited else "reset")
    if transport is None:
        return
    if not delimited and (sock := transport.get_extra_info("socket")) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.close()
