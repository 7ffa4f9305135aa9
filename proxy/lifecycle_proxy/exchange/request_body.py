"""Request bodies: streamed on, and looked at only where an event stream may follow."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import orjson
from aiohttp import web

from lifecycle_proxy.core.history import cleaned, may_be_cleaned
from lifecycle_proxy.exchange.content_coding import coding, maybe_decoded

# Larger bodies just pass: nobody waits for them to be whole, and memory stays flat. A conversation
# with a few pictures in it is still looked at.
_LOOK_BYTES: Final = 8 << 20
_KEEP_BYTES: Final = 1 << 20
_THREAD_BYTES: Final = 1 << 13
_DECODING_THREAD_BYTES: Final = 1 << 14  # it may be a thousand times as much when decoded
_TAIL_BYTES: Final = 1 << 18
_NO_TOOLS: Final = frozenset[str]()


class Body(NamedTuple):
    """A request body, as far as it was looked at.

    Attributes:
        data: the whole of it, or an iterator over it, or None where there is none. Not compressed
            any more, where something was taken out.
        stream: whether an event stream may be asked for.
        model: as asked; "" where that is not known.
        messages: the conversation, decoded, of whatever shape.
        tools: names of the tools that the client can run; None where that is not known.
        user: whom it names as its user; "" for nobody.
        original: as the client sent it, before anything was taken out.
        is_unread: ``stream`` is a guess.
        tail: the end of a body that is not looked at, growing as it passes.
    """

    data: bytes | AsyncIterator[bytes] | None
    stream: bool = False
    model: str = ""
    messages: object = None
    tools: frozenset[str] | None = None
    user: str = ""
    original: bytes | AsyncIterator[bytes] | None = None
    is_unread: bool = False
    tail: bytearray = bytearray()


async def read_request(request: web.Request) -> Body:
    """Read a body of ordinary size; hand on a larger one unread.

    What cannot be read, here or within these bounds, may ask for a stream; whether it is valid is
    the upstream's to judge. What this proxy drew and what comes back with the history is taken out:
    the one case in which a body is changed.
    """
    if not request.can_read_body:
        return Body(None, stream=request.method == "GET")  # asked for in the query: see routes
    pieces: list[bytes] = []
    size = 0
    while size <= _LOOK_BYTES:
        piece = await request.content.readany()
        if not piece:
            return await _read(b"".join(pieces), coding(request.headers))
        pieces.append(piece)
        size += len(piece)
    tail = bytearray()
    rest = _chain(pieces, request, tail)
    return Body(rest, stream=True, original=rest, is_unread=True, tail=tail)


async def _read(original: bytes, content_coding: str) -> Body:
    clear = await _maybe_clear(original, content_coding)
    if clear is None:
        return Body(original, stream=True, original=original, is_unread=True)
    left = await _cleaned(clear) if may_be_cleaned(clear) else clear
    data = original if left is clear else left
    try:
        asked = orjson.loads(left)
    except orjson.JSONDecodeError:  # others read more than strict JSON
        return Body(data, stream=True, original=original, is_unread=True)
    if not isinstance(asked, dict):
        return Body(data, original=original)
    model, user = (v if isinstance(v := asked.get(k), str) else "" for k in ("model", "user"))
    messages, tools = asked.get("messages"), _tools(asked)
    return Body(data, bool(asked.get("stream")), model, messages, tools, user, original)


async def _maybe_clear(data: bytes, content_coding: str) -> bytes | None:
    if not content_coding:
        return data
    if len(data) > _DECODING_THREAD_BYTES:
        return await asyncio.to_thread(maybe_decoded, data, content_coding, _LOOK_BYTES)
    return maybe_decoded(data, content_coding, _LOOK_BYTES)


async def _cleaned(data: bytes) -> bytes:
    """Without what we drew. In a thread where that may take a while: streams go on meanwhile."""
    if len(data) > _THREAD_BYTES:
        return await asyncio.to_thread(cleaned, data)
    return cleaned(data)


async def small_or_streamed(request: web.Request) -> bytes | AsyncIterator[bytes] | None:
    """A small JSON body whole, so that it can be sent again; anything else as it comes."""
    if not request.can_read_body:
        return None
    size = request.content_length
    if size is None or size > _KEEP_BYTES or request.content_type != "application/json":
        return request.content.iter_any()
    pieces = [piece async for piece in request.content.iter_any()]
    return b"".join(pieces)


def tools_in(tail: bytearray) -> frozenset[str] | None:
    """The tools that the end of a large body names; None where that is not known.

    Open WebUI puts them last. What makes a whole object behind one more brace is of the outermost
    object of the body.
    """
    at = tail.rfind(b'"tools"')
    try:
        return None if at < 0 else _tools(orjson.loads(b"{" + tail[at:]))
    except orjson.JSONDecodeError:
        return None


def _tools(asked: dict[str, Any]) -> frozenset[str]:
    """The names in ``tools``, and in ``functions``, the older form."""
    if not (asked.get("tools") or asked.get("functions")):
        return _NO_TOOLS
    listed = [asked.get("tools"), asked.get("functions")]
    entries = [entry for entries in listed if isinstance(entries, list) for entry in entries]
    tools = [entry for entry in entries if isinstance(entry, dict)]
    bodies = [body for tool in tools for body in (tool, tool.get("function"), tool.get("custom"))]
    names = [body.get("name") for body in bodies if isinstance(body, dict)]
    return frozenset(name for name in names if isinstance(name, str))


async def _chain(
    pieces: list[bytes], request: web.Request, tail: bytearray
) -> AsyncIterator[bytes]:
    pieces.reverse()
    while pieces:
        yield pieces.pop()
    async for piece in request.content.iter_any():
        tail += piece
        del tail[:-_TAIL_BYTES]
        yield piece
