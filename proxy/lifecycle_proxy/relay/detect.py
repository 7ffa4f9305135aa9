"""Whether frames can be added to an answer: what its headers say, or else its first bytes.

Some servers label an event stream ``text/plain`` or ``application/json``, or not at all, and SDKs
do not mind. So where a stream was asked for, the headers of any other answer wait for the first
bytes of its body: six are enough, and JSON is known by its first.
"""

import asyncio
from typing import Final, NamedTuple

import aiohttp

from lifecycle_proxy.core.sse import begins_stream
from lifecycle_proxy.exchange.content_coding import CODINGS, coding, maybe_beginning
from lifecycle_proxy.exchange.errors import ProxyError

_LOOK_BYTES: Final = 1 << 12  # a compressed body may begin with a header of some length


class Begun(NamedTuple):
    """An answer that has begun.

    Attributes:
        answer: its headers have come.
        is_writable: it is an event stream, and frames can be added.
        start: what was read of its body.
    """

    answer: aiohttp.ClientResponse
    is_writable: bool = False
    start: bytes = b""


async def begun(answer: aiohttp.ClientResponse, *, asked: bool, patience_s: float) -> Begun:
    """Find out what an answer is, with as few bytes of its body as that takes.

    Args:
        asked: whether the request may have asked for a stream.
        patience_s: seconds that the first bytes may take to come; 0 for no limit.

    Raises:
        ProxyError: ``upstream_timeout``.
    """
    content_coding = coding(answer.headers)
    if answer.status != 200 or not (content_coding == "" or content_coding in CODINGS):
        return Begun(answer)
    if _is_labelled(answer) or not asked:
        return Begun(answer, _is_labelled(answer))
    try:
        async with asyncio.timeout(patience_s or None):
            return await _look(answer, is_coded=bool(content_coding))
    except TimeoutError:
        answer.close()
        message = "the upstream sent headers and no body"
        raise ProxyError("upstream_timeout", message) from None
    except BaseException:  # the client is gone, or the proxy ends
        answer.close()
        raise


async def _look(answer: aiohttp.ClientResponse, *, is_coded: bool) -> Begun:
    start = b""
    try:
        while len(start) < _LOOK_BYTES and (more := await answer.content.readany()):
            start += more
            clear = maybe_beginning(start[:_LOOK_BYTES]) if is_coded else start
            is_stream = clear is not None and begins_stream(clear)
            if is_stream is not None:
                return Begun(answer, is_stream, start)
    except (aiohttp.ClientError, OSError):
        pass  # who reads on meets it again
    return Begun(answer, start=start)


def _is_labelled(answer: aiohttp.ClientResponse) -> bool:
    kind = answer.headers.get("Content-Type", "").partition(";")[0]
    return kind.strip().lower() == "text/event-stream"
