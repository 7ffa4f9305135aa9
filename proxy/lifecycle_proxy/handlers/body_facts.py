"""What the body of a request says about where it is to go.

JSON is read as a whole: its model may stand anywhere in it. A form (``multipart/form-data``) is
read as far as its field ``model``; what follows, such as a large file, is streamed on.
"""

import asyncio
import hashlib
import re
from email.message import Message
from typing import Final, NamedTuple

import msgspec
import orjson
from msgspec.structs import replace

from lifecycle_proxy.core import model_field
from lifecycle_proxy.core.apis import APIS
from lifecycle_proxy.core.form_field import FieldSearch
from lifecycle_proxy.exchange import streamed_body
from lifecycle_proxy.exchange.content_coding import coding, maybe_decoded
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.ports import RequestBody, UpstreamRequest
from lifecycle_proxy.upstream.pooled_response import HEADER

_WHOLE_BYTES: Final = 32 << 20  # of a body whose model is looked for
_DECODED_BYTES: Final = 8 << 20  # decoded where others wait; a larger one in a thread
ABSENT: Final = msgspec.Raw(b"null")
_FORM: Final = "multipart/form-data"
_LONGEST_BOUNDARY: Final = 200  # 70 by the standard
# Uploads that have no model.
_NO_MODEL: Final = re.compile(r"/(?:files|parts|skills|versions)\Z")


class BodyFacts(msgspec.Struct):
    """The fields of a body that decide where it goes. All others are skipped."""

    model: msgspec.Raw = ABSENT
    messages: msgspec.Raw = ABSENT
    input: msgspec.Raw = ABSENT
    previous_response_id: msgspec.Raw = ABSENT
    conversation: msgspec.Raw = ABSENT
    input_file_id: msgspec.Raw = ABSENT
    training_file: msgspec.Raw = ABSENT
    assistant_id: msgspec.Raw = ABSENT
    file_id: msgspec.Raw = ABSENT


class _Message(msgspec.Struct):
    role: msgspec.Raw = ABSENT


class _WithId(msgspec.Struct):
    id: msgspec.Raw = ABSENT


_WITH_ID: Final = msgspec.json.Decoder(_WithId)
_SAID: Final = msgspec.json.Decoder(BodyFacts)
_MESSAGES: Final = msgspec.json.Decoder(list[msgspec.Raw])
_MESSAGE: Final = msgspec.json.Decoder(_Message)
_IDS: Final = (
    *("previous_response_id", "conversation", "input_file_id", "training_file"),
    *("assistant_id", "file_id"),
)
_BEGINNING: Final = 16  # messages that are looked through for the first of the user
_LONGEST_TEXT: Final = 4096
_MAX_COMMAS: Final = 250_000


class ReadRequest(NamedTuple):
    """A request whose body was looked into.

    Attributes:
        request: with its body, as far as it was read, in front of what follows.
        said: what the body says; None if it says nothing that counts here.
    """

    request: UpstreamRequest
    said: BodyFacts | None = None


async def read(request: ClientRequest, wanted: UpstreamRequest, *, is_named: bool) -> ReadRequest:
    """Read the body, if it may say something of where it goes.

    Args:
        request: the client's.
        wanted: what the upstream is to get.
        is_named: the upstream is known without the model.

    Raises:
        ProxyError: ``request_too_large``.
    """
    if wanted.body is None:
        return ReadRequest(wanted)
    if request.content_type == _FORM and request.exchange.route not in APIS:
        if _NO_MODEL.search(request.exchange.path):
            return ReadRequest(wanted)
        return await _read_form(request, wanted, is_named=is_named)
    if not _may_be_json(request):
        return ReadRequest(wanted)
    body = await streamed_body.whole(wanted.body, _WHOLE_BYTES)
    if not (body is None or isinstance(body, bytes) or is_named):
        text = f"a JSON body of more than {_WHOLE_BYTES >> 20} MiB: its model is not looked for"
        raise ProxyError("request_too_large", f"{text}; name the upstream with {HEADER}")
    wanted = replace(wanted, body=body)
    clear = await maybe_clear(wanted)
    return ReadRequest(wanted, None if clear is None else await _maybe_said(clear))


async def repeatable(wanted: UpstreamRequest) -> UpstreamRequest:
    """A request with its body as bytes, unless it is too large, so that it can be sent again."""
    return replace(wanted, body=await streamed_body.whole(wanted.body, _WHOLE_BYTES))


def _may_be_json(request: ClientRequest) -> bool:
    if request.exchange.route in APIS:
        return True
    return request.content_type == "application/json" or request.content_type.endswith("+json")


async def _read_form(
    request: ClientRequest, wanted: UpstreamRequest, *, is_named: bool
) -> ReadRequest:
    """Read a form as far as its model.

    Raises:
        ProxyError: ``request_too_large``: it stands behind too much.
    """
    search = FieldSearch(_boundary(request.headers["Content-Type"]), b"model")
    if coding(wanted.headers):
        wanted = await repeatable(wanted)
        clear = await maybe_clear(wanted) or b""
        search.look(clear)
        return _found(wanted, clear, search)
    data, rest = bytearray(), wanted.body
    if isinstance(rest, bytes):
        data, rest = bytearray(rest), None
        search.look(data)
    while rest is not None and not search.is_over:
        piece = await anext(rest, None)
        if piece is None:
            rest = None
            break
        data += piece
        search.look(data)
        if len(data) > _WHOLE_BYTES and not search.is_over:
            if is_named:
                break
            text = f"the form's model does not come within {_WHOLE_BYTES >> 20} MiB"
            cure = f"send model in front of the file, or name the upstream with {HEADER}"
            raise ProxyError("request_too_large", f"{text}; {cure}", "model")
    body: RequestBody = bytes(data)
    if rest is not None and not request.content.at_eof():
        body = streamed_body.rejoined([bytes(data)], rest)
    return _found(replace(wanted, body=body), data, search)


def _found(wanted: UpstreamRequest, data: bytes | bytearray, search: FieldSearch) -> ReadRequest:
    span = search.span
    if span is None or span[0] == span[1]:
        return ReadRequest(wanted)
    value = bytes(data[slice(*span)]).decode("utf-8", "replace")
    said = BodyFacts(model=msgspec.Raw(orjson.dumps(value)))
    return ReadRequest(replace(wanted, model_at=span), said)


def _boundary(content_type: str) -> bytes:
    """The boundary of a form; empty without a valid one (RFC 2046, section 5.1.1)."""
    message = Message()
    message["Content-Type"] = content_type
    try:
        boundary = message.get_boundary("")
    except (ValueError, LookupError):
        return b""
    found = boundary.encode("utf-8", "surrogateescape")
    return found if len(found) <= _LONGEST_BOUNDARY else b""


async def maybe_clear(wanted: UpstreamRequest) -> bytes | None:
    """The body uncompressed; None if it cannot be read."""
    body = wanted.body
    if not isinstance(body, bytes):
        return None
    if name := coding(wanted.headers):
        return await asyncio.to_thread(maybe_decoded, body, name, _DECODED_BYTES)
    return body


async def _maybe_said(data: bytes) -> BodyFacts | None:
    """What a body says; None if it is not a JSON object. The upstream decides about such a one."""
    if len(data) > _DECODED_BYTES:
        found = await asyncio.to_thread(model_field.spans, data)
        if not found:
            return None if found is None else BodyFacts()
        return BodyFacts(model=msgspec.Raw(data[slice(*found[-1])]))
    try:
        return _SAID.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None


def ids_in(said: BodyFacts) -> list[str]:
    """Ids that an upstream may have made."""
    values = (getattr(said, name) for name in _IDS)
    return [one for raw in values if raw != ABSENT and (one := _id(bytes(raw)))]


def _id(raw: bytes) -> str | None:
    """A text, or the ``id`` of an object."""
    if raw[:1] != b"{":
        return text_of(msgspec.Raw(raw))
    try:
        return text_of(_WITH_ID.decode(raw).id)
    except (msgspec.DecodeError, RecursionError):
        return None


def text_of(raw: msgspec.Raw) -> str | None:
    """A value that is a text, "" if it is too long; None for any other."""
    data = bytes(raw)
    if len(data) > _LONGEST_TEXT:
        return "" if data[:1] == b'"' else None
    if data[:1] == b'"' and data.isascii() and b"\\" not in data:
        return data[1:-1].decode("ascii")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, str) else None


def conversation_of(scope: str, said: BodyFacts) -> bytes:
    """What is the same for all requests of one conversation: all up to the user's first message.

    Args:
        scope: of the client.
        said: what its body says.
    """
    raw = bytes(said.messages if said.messages != ABSENT else said.input)
    if raw == b"null" or raw.count(b",") > _MAX_COMMAS:
        return b""
    found = hashlib.sha256(scope.encode())
    if raw[:1] == b'"':
        found.update(raw)
        return found.digest()
    try:
        messages = _MESSAGES.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return b""
    for message in messages[:_BEGINNING]:
        found.update(message)
        try:
            if bytes(_MESSAGE.decode(message).role) == b'"user"':
                break
        except (msgspec.DecodeError, RecursionError):
            break
    return found.digest()
