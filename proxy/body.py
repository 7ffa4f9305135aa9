"""Request bodies: streamed on, and looked at only where an event stream may follow."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import orjson
from aiohttp import web

from proxy.core.history import cleaned, may_be_cleaned

# Larger bodies just pass: nobody waits for them to be whole, and memory stays flat. A conversation
# with a few pictures in it is still looked at.
_LOOK_BYTES: Final = 8 << 20
_KEEP_BYTES: Final = 1 << 20
_THREAD_BYTES: Final = 1 << 13
_NO_TOOLS: Final = frozenset[str]()


class Body(NamedTuple):
    """A request body, as far as it was looked at.

    Attributes:
        data: the whole of it, or an iterator over it, or None where there is none.
        stream: whether an event stream may be asked for.
        model: as asked; "" where that is not known.
        messages: the conversation, decoded, of whatever shape.
        tools: names of the tools that the client can run.
        user: whom it names as its user; "" for nobody.
        original: as the client sent it, before anything was taken out.
    """

    data: bytes | AsyncIterator[bytes] | None
    stream: bool = False
    model: str = ""
    messages: object = None
    tools: frozenset[str] = frozenset()
    user: str = ""
    original: bytes | AsyncIterator[bytes] | None = None


async def look(request: web.Request) -> Body:
    """Read a body of ordinary size; hand on a larger one unread.

    What is no JSON object is the upstream's to judge. What this proxy drew and what comes back with
    the history is taken out: the one case in which a body is changed.
    """
    if not request.can_read_body:
        return Body(None)
    pieces: list[bytes] = []
    size = 0
    while size <= _LOOK_BYTES:
        piece = await request.content.readany()
        if not piece:
            original = b"".join(pieces)
            may_go = may_be_cleaned(original)
            return _read(await _cleaned(original) if may_go else original, original)
        pieces.append(piece)
        size += len(piece)
    rest = _chain(pieces, request)
    return Body(rest, stream=True, original=rest)


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


def _read(data: bytes, original: bytes) -> Body:
    try:
        asked = orjson.loads(data)
    except orjson.JSONDecodeError:
        return Body(data, original=original)
    if not isinstance(asked, dict):
        return Body(data, original=original)
    model, user = (v if isinstance(v := asked.get(k), str) else "" for k in ("model", "user"))
    messages, tools = asked.get("messages"), _tools(asked.get("tools"))
    return Body(data, bool(asked.get("stream")), model, messages, tools, user, original)


def _tools(tools: object) -> frozenset[str]:
    if not tools or not isinstance(tools, list):
        return _NO_TOOLS
    entries = [tool for tool in tools if isinstance(tool, dict)]
    bodies = [entry.get("function") or entry.get("custom") for entry in entries]
    names = [body.get("name") for body in bodies if isinstance(body, dict)]
    return frozenset(name for name in names if isinstance(name, str))


async def _chain(pieces: list[bytes], request: web.Request) -> AsyncIterator[bytes]:
    pieces.reverse()
    while pieces:
        yield pieces.pop()
    async for piece in request.content.iter_any():
        yield piece
