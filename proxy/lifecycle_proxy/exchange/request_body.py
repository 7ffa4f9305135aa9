"""Request bodies: forwarded as a stream, and read only if an event stream may follow."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import orjson
from aiohttp import web

from lifecycle_proxy.core.complexity import MAX_VALUES, count_values, is_too_complex
from lifecycle_proxy.core.history import may_hold_own_output, without_own_output
from lifecycle_proxy.exchange.content_coding import coding, maybe_decoded

# Larger bodies are forwarded without being read: memory stays bounded and nothing has to wait for
# their end. A conversation with a few pictures is smaller.
_LOOK_BYTES: Final = 8 << 20
_KEEP_BYTES: Final = 1 << 20
_THREAD_BYTES: Final = 1 << 13
_DECODING_THREAD_BYTES: Final = 1 << 14  # decompressed it may be a thousand times as large
_TAIL_BYTES: Final = 1 << 18
_Data = bytes | AsyncIterator[bytes] | None
_NO_TOOLS: Final = frozenset[str]()
_ABSENT: Final = msgspec.Raw(b"null")
_MAX_MESSAGES: Final = 4096  # of the end of a conversation
_MAX_COMMAS: Final = 250_000  # a list of more values is not split into them


class _Fields(msgspec.Struct):
    """The fields of a body that are read. All others are skipped, not decoded."""

    model: msgspec.Raw = _ABSENT
    stream: msgspec.Raw = _ABSENT
    user: msgspec.Raw = _ABSENT
    tools: msgspec.Raw = _ABSENT
    functions: msgspec.Raw = _ABSENT
    messages: msgspec.Raw = _ABSENT


_FIELDS: Final = msgspec.json.Decoder(_Fields)
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANYTHING: Final = msgspec.json.Decoder(msgspec.Raw)
_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])


class ParsedBody(msgspec.Struct, frozen=True):
    """A request body, as far as it was read.

    Attributes:
        data: all of it, or an iterator over it, or None if there is none. Decompressed if something
            was removed from it.
        stream: whether an event stream may be requested.
        model: as requested; "" if that is not known.
        raw_messages: the value of ``messages``, as it was sent.
        tools: names of the tools that the client can run; None if that is not known.
        user: the value of ``user``; "" without one.
        original: as the client sent it, before anything was removed.
        is_unread: ``stream`` is a guess.
        tail: the end of a body that is forwarded unread; it grows while that happens.
    """

    data: bytes | AsyncIterator[bytes] | None
    stream: bool = False
    model: str = ""
    raw_messages: bytes = b""
    tools: frozenset[str] | None = None
    user: str = ""
    original: bytes | AsyncIterator[bytes] | None = None
    is_unread: bool = False
    tail: bytearray = bytearray()

    @property
    def messages(self) -> list[Any]:
        """The last messages, not validated: as many as are decoded in no time; maybe none."""
        return _last_messages(self.raw_messages)


async def read_request(request: web.Request) -> ParsedBody:
    """Read a body of ordinary size; a larger one is only forwarded.

    A body that is too large or cannot be parsed counts as one that may request a stream; the
    upstream decides whether it is valid. Tool cards that this proxy added to earlier responses and
    that come back with the history are removed: the only case in which a body is changed.
    """
    if not request.can_read_body:
        return ParsedBody(
            None, stream=request.method == "GET"
        )  # requested in the query: see routes
    content = request.content
    if content.is_eof():  # it came with the headers, as most do
        original = content.read_nowait()
    else:
        pieces: list[bytes] = []
        size = 0
        while piece := await content.readany():
            pieces.append(piece)
            size += len(piece)
            if size > _LOOK_BYTES:
                tail = bytearray()
                rest = _chain(pieces, request, tail)
                return ParsedBody(rest, stream=True, original=rest, is_unread=True, tail=tail)
        original = b"".join(pieces)
    content_coding, clear = coding(request.headers), original
    if content_coding:
        decoded = await _maybe_clear(original, content_coding)
        if decoded is None:
            return ParsedBody(original, stream=True, original=original, is_unread=True)
        clear = decoded
    left = await _without_own_output(clear) if may_hold_own_output(clear) else clear
    return _parsed(original, left, is_whole=left is clear)


def _parsed(original: bytes, left: bytes, *, is_whole: bool) -> ParsedBody:
    """What a body asks for.

    Args:
        original: as the client sent it.
        left: decompressed, without the proxy's own output.
        is_whole: there was none of that.
    """
    data = original if is_whole else left
    try:
        asked = _FIELDS.decode(left)
    except msgspec.ValidationError:
        is_json = _is_json(left)  # but no object
        return ParsedBody(data, stream=not is_json, original=original, is_unread=not is_json)
    except (msgspec.DecodeError, RecursionError):  # the upstream may accept more than strict JSON
        return ParsedBody(data, stream=True, original=original, is_unread=True)
    return ParsedBody(
        data,
        bool(_value(asked.stream, unread=True)),
        _text(asked.model),
        bytes(asked.messages),
        _tools(asked),
        _text(asked.user),
        original,
    )


async def maybe_streaming(request: web.Request, asked: ParsedBody) -> bytes | None:
    """The body, decompressed, with ``stream: true`` and a usage chunk at the end of the stream.

    Args:
        request: the client's.
        asked: its body. What else is in there stays, to the byte.

    Returns:
        None if it was not read, or is not a JSON object.
    """
    if asked.is_unread or not isinstance(asked.data, bytes):
        return None
    is_clear = asked.data is not asked.original
    clear = asked.data if is_clear else await _maybe_clear(asked.data, coding(request.headers))
    try:
        fields = _OBJECT.decode(clear or b"")
    except (msgspec.DecodeError, RecursionError):
        return None
    options = _value(fields.get("stream_options", _ABSENT))
    options = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    fields |= {"stream": msgspec.Raw(b"true"), "stream_options": msgspec.Raw(orjson.dumps(options))}
    return msgspec.json.encode(fields)


async def _maybe_clear(data: bytes, content_coding: str) -> bytes | None:
    if not content_coding:
        return data
    if len(data) > _DECODING_THREAD_BYTES:
        return await asyncio.to_thread(maybe_decoded, data, content_coding, _LOOK_BYTES)
    return maybe_decoded(data, content_coding, _LOOK_BYTES)


async def _without_own_output(data: bytes) -> bytes:
    """Remove tool cards. A large body in a thread, so that it does not delay streams."""
    if len(data) > _THREAD_BYTES:
        return await asyncio.to_thread(without_own_output, data)
    return without_own_output(data)


async def small_or_streamed(request: web.Request) -> bytes | AsyncIterator[bytes] | None:
    """A small JSON body as bytes, so that it can be sent again; any other as an iterator."""
    if not request.can_read_body:
        return None
    size = request.content_length
    if size is None or size > _KEEP_BYTES or request.content_type != "application/json":
        return request.content.iter_any()
    pieces = [piece async for piece in request.content.iter_any()]
    return b"".join(pieces)


def tools_in(tail: bytearray) -> frozenset[str] | None:
    """The tools that the end of a large body names; None if that is not known.

    Open WebUI puts them last. If the rest from ``"tools"`` on is a valid object after ``{`` is put
    in front, then it belongs to the outermost object of the body, not to an inner one.
    """
    at = tail.rfind(b'"tools"')
    try:
        return None if at < 0 else _tools(_FIELDS.decode(b"{" + tail[at:]))
    except (msgspec.DecodeError, RecursionError):
        return None


def _tools(asked: _Fields) -> frozenset[str] | None:
    """The names in ``tools``, and in ``functions``, the older form; None if it is too much."""
    if asked.tools is _ABSENT and asked.functions is _ABSENT:
        return _NO_TOOLS
    if is_too_complex(bytes(asked.tools)) or is_too_complex(bytes(asked.functions)):
        return None
    listed = [_value(asked.tools), _value(asked.functions)]
    entries = [entry for entries in listed if isinstance(entries, list) for entry in entries]
    tools = [entry for entry in entries if isinstance(entry, dict)]
    bodies = [body for tool in tools for body in (tool, tool.get("function"), tool.get("custom"))]
    names = [body.get("name") for body in bodies if isinstance(body, dict)]
    return frozenset(name for name in names if isinstance(name, str))


def _is_json(data: bytes) -> bool:
    try:
        _ANYTHING.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _value(raw: msgspec.Raw, *, unread: Any = None) -> Any:
    """Decoded.

    Args:
        raw: as it was sent.
        unread: what to return where decoding fails, or would take too long.
    """
    if raw is _ABSENT:
        return None
    data = bytes(raw)
    try:
        return unread if is_too_complex(data) else orjson.loads(data)
    except orjson.JSONDecodeError:
        return unread


def _text(raw: msgspec.Raw) -> str:
    if raw is _ABSENT:
        return ""
    value = _value(raw)
    return value if isinstance(value, str) else ""


def _last_messages(raw: bytes) -> list[Any]:
    if raw.count(b",") > _MAX_COMMAS:
        return []
    try:
        elements = _LIST.decode(raw)[-_MAX_MESSAGES:]
    except (msgspec.DecodeError, RecursionError):
        return []
    last: list[bytes] = []
    left = MAX_VALUES
    while elements and (left := left - count_values(element := bytes(elements.pop()))) >= 0:
        last.append(element)
    try:
        decoded: list[Any] = orjson.loads(b"[%b]" % b",".join(reversed(last)))
    except orjson.JSONDecodeError:
        return []
    return decoded


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
