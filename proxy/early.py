"""Signs of life before the upstream has answered (``server.heartbeat_before_first_byte``).

The status 200 is then sent early, so an upstream's error can only follow as an error frame.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import aiohttp
import orjson
from aiohttp import web

from proxy.errors import ProxyError
from proxy.relay import break_connection
from proxy.stream import HEARTBEAT

_ERROR_BODY_BYTES: Final = 1 << 16


async def open_with_heartbeats(
    request: web.Request,
    opening: Coroutine[Any, Any, aiohttp.ClientResponse],
    head: web.StreamResponse,
    interval_s: float,
) -> aiohttp.ClientResponse | None:
    """Wait for the upstream's head; after each interval of silence send the client a comment.

    Args:
        head: sent with the first comment.
        interval_s: seconds of silence.

    Returns:
        The answer, or None where it failed behind the head; the client has been told then.

    Raises:
        ProxyError: it failed before the head went out.
    """
    task = asyncio.ensure_future(opening)
    try:
        while not (await asyncio.wait({task}, timeout=interval_s))[0]:
            if not head.prepared:
                await head.prepare(request)
            await head.write(HEARTBEAT)
        return task.result()
    except ProxyError as failure:
        if not head.prepared:
            raise
        await _tell(request, head, failure.frame())
        return None
    finally:
        task.cancel()


async def tell_refusal(
    request: web.Request, head: web.StreamResponse, answer: aiohttp.ClientResponse
) -> None:
    """The upstream refused, but a 200 is out: its error object as a frame, and a broken end."""
    try:
        body = await answer.content.read(_ERROR_BODY_BYTES)
    except (aiohttp.ClientError, OSError):
        body = b""
    finally:
        answer.close()
    await _tell(request, head, _refusal(answer.status, body))


def _refusal(status: int, body: bytes) -> bytes:
    try:
        error = orjson.loads(body).get("error")
    except (orjson.JSONDecodeError, AttributeError):
        error = None
    if not error:
        message = f"the upstream answered with status {status} and no event stream"
        return ProxyError("upstream_protocol", message).frame(status=status)
    told = error if isinstance(error, dict) else {"message": str(error)}
    return b"data: " + orjson.dumps({"error": {**told, "status": status}}) + b"\n\n"


async def _tell(request: web.Request, head: web.StreamResponse, frame: bytes) -> None:
    await head.write(frame)
    break_connection(request, delimited=request.version >= aiohttp.HttpVersion11)
