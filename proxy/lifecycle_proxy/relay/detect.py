"""Whether frames can be added to an answer: what its headers say, or else its first bytes.

Some servers label an event stream ``text/plain`` or ``application/json``, or not at all, and SDKs
do not mind. So where a stream was asked for, the headers of any other answer wait for the first
bytes of its body: six are enough, and JSON is known by its first.
"""

import asyncio
from typing import Final

from msgspec import Struct

from lifecycle_proxy.core.sse import begins_stream
from lifecycle_proxy.exchange.content_coding import CODINGS, coding, maybe_beginning
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.media_type import EVENT_STREAM, is_event_stream
from lifecycle_proxy.exchange.ports import UpstreamResponse
from lifecycle_proxy.upstream.collect import collect

_LOOK_BYTES: Final = 1 << 12  # a compressed body may begin with a header of some length


class Begun(Struct, frozen=True):
    """An answer that has begun.

    Attributes:
        answer: its headers have come.
        is_writable: it is an event stream, and frames can be added.
        start: what was read of its body.
    """

    answer: UpstreamResponse
    is_writable: bool = False
    start: bytes = b""


def maybe_begun(answer: UpstreamResponse, *, asked: bool) -> Begun | None:
    """What an answer is by its headers; None where the first bytes of its body decide.

    Args:
        answer: its headers have come.
        asked: whether the request may have asked for a stream.
    """
    headers = answer.headers
    content_coding = coding(headers)
    if answer.status != 200 or not (content_coding == "" or content_coding in CODINGS):
        return Begun(answer)
    is_labelled = is_event_stream(headers.get("Content-Type", ""))
    return Begun(answer, is_labelled) if is_labelled or not asked else None


async def begun(answer: UpstreamResponse, patience_s: float) -> Begun:
    """What an answer is that ``maybe_begun`` does not know.

    Args:
        answer: as few bytes of its body are read as it takes.
        patience_s: seconds that they may take to come; 0 for no limit.

    Raises:
        ProxyError: ``upstream_timeout``.
    """
    try:
        async with asyncio.timeout(patience_s or None):
            return await _look(answer, is_coded=bool(coding(answer.headers)))
    except TimeoutError:
        answer.close()
        message = "the upstream sent headers and no body"
        raise ProxyError("upstream_timeout", message) from None
    except BaseException:  # the client is gone, or the proxy ends
        answer.close()
        raise


def refuse_unread_stream(answer: UpstreamResponse) -> None:
    """Refuse what Open WebUI would read as an event stream although this proxy does not.

    It looks for the words anywhere in the content type, takes any status below 400, and decodes
    more content codings. No backend sends such an answer, but one that wants its events to pass.

    Raises:
        ProxyError: ``upstream_protocol``.
    """
    if answer.status < 400 and EVENT_STREAM in answer.headers.get("Content-Type", "").lower():
        answer.close()
        message = "the upstream sent an event stream that cannot be looked into"
        cause = f"status {answer.status}, content coding {coding(answer.headers) or 'none'!r}"
        raise ProxyError("upstream_protocol", message, "lifecycle.page_events", cause=cause)


async def _look(answer: UpstreamResponse, *, is_coded: bool) -> Begun:
    is_stream: bool | None = None

    def is_known(start: bytearray) -> bool:
        nonlocal is_stream
        head = bytes(start[:_LOOK_BYTES])
        clear = maybe_beginning(head) if is_coded else head
        is_stream = None if clear is None else begins_stream(clear)
        return is_stream is not None or len(start) >= _LOOK_BYTES

    start = (await collect(answer, is_known)).data  # of its end the relay hears again
    return Begun(answer, bool(is_stream), start)
