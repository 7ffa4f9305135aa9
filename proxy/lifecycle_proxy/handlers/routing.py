"""What a request says about where it is to go, where there are several upstreams."""

import asyncio
import hashlib
from typing import Final, NamedTuple
from urllib.parse import unquote

import msgspec
import orjson
from aiohttp import web

from lifecycle_proxy.core import model_field
from lifecycle_proxy.core.apis import APIS
from lifecycle_proxy.exchange import request_body, routes
from lifecycle_proxy.exchange.client_scope import scope_of, tenant_of
from lifecycle_proxy.exchange.content_coding import coding, maybe_decoded
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import EXCHANGE, Exchange
from lifecycle_proxy.exchange.ports import RequestBody, UpstreamRequest
from lifecycle_proxy.state.made_ids import MadeIds
from lifecycle_proxy.upstream.choice import RequestFacts, RouteChoice
from lifecycle_proxy.upstream.failover import RoutedUpstream
from lifecycle_proxy.upstream.pool import UpstreamPool
from lifecycle_proxy.upstream.pooled_response import HEADER

_WHOLE_BYTES: Final = 32 << 20  # a JSON body whose model is looked for
_DECODED_BYTES: Final = 8 << 20  # decoded where others wait; a larger one in a thread
_ABSENT: Final = msgspec.Raw(b"null")
_MAX_SEGMENTS: Final = 12  # of a path that may be ids


class _Said(msgspec.Struct):
    """The fields of a body that decide where it goes. All others are skipped."""

    model: msgspec.Raw = _ABSENT
    messages: msgspec.Raw = _ABSENT
    input: msgspec.Raw = _ABSENT
    previous_response_id: msgspec.Raw = _ABSENT
    conversation: msgspec.Raw = _ABSENT
    input_file_id: msgspec.Raw = _ABSENT
    training_file: msgspec.Raw = _ABSENT
    assistant_id: msgspec.Raw = _ABSENT
    file_id: msgspec.Raw = _ABSENT


class _Message(msgspec.Struct):
    role: msgspec.Raw = _ABSENT


_SAID: Final = msgspec.json.Decoder(_Said)
_MESSAGES: Final = msgspec.json.Decoder(list[msgspec.Raw])
_MESSAGE: Final = msgspec.json.Decoder(_Message)
_IDS: Final = (
    *("previous_response_id", "conversation", "input_file_id", "training_file"),
    *("assistant_id", "file_id"),
)
_BEGINNING: Final = 16  # messages that are looked through for the first of the user
_LONGEST_TEXT: Final = 4096
_MAX_COMMAS: Final = 250_000


class Routed(NamedTuple):
    """A request that was routed.

    Attributes:
        upstream: sends it.
        request: with its body as bytes, if it had to be read.
    """

    upstream: RoutedUpstream
    request: UpstreamRequest


class Router:
    """Routes requests.

    Args:
        pool: all upstreams.
        ids: which upstream made which id.
    """

    def __init__(self, pool: UpstreamPool, ids: MadeIds) -> None:
        self._pool = pool
        self._ids = ids
        # A hash for each request, where nothing depends on it, is left out.
        self._needs_tenant = any(one.passes for one in pool.members.values())
        self._has_equals = any(
            len(group) > 1 for groups in pool.table.aliases.values() for group in groups
        )

    async def route(self, request: web.Request, wanted: UpstreamRequest) -> Routed:
        """Decide where a request goes.

        Args:
            request: the client's.
            wanted: what the upstream is to get.

        Raises:
            ProxyError: nowhere.
        """
        exchange = request[EXCHANGE]
        tenant = tenant_of(request.headers) if self._needs_tenant or len(self._ids) else ""
        asked = request.headers.get(HEADER, "").strip()
        if not asked and exchange.target.startswith(routes.OWN_PREFIX):
            asked = routes.split_prefixes(exchange.target).upstream or ""
        said: _Said | None = None
        model: str | None = exchange.model or None
        if model is None or self._has_equals or len(self._ids):  # else it has been read already
            wanted, said = await self._read(request, wanted, is_named=bool(asked))
            model = self._model(exchange, said, tenant)
        facts = RequestFacts(model, asked, self._maker(tenant, exchange.path, said))
        choice = await self._pool.choose(facts, wanted.headers, tenant)
        if is_renamed(choice, model) and coding(wanted.headers):
            clear = await _maybe_clear(wanted)
            if clear is not None:
                wanted.headers.popall("Content-Encoding", None)
                wanted = wanted._replace(body=clear)
        conversation = b""
        if self._has_equals and said is not None:
            conversation = _conversation(scope_of(request.headers), said)

        def made(upstream: str, one: str) -> None:
            self._ids.add(tenant_of(request.headers), one, upstream)

        routed = RoutedUpstream(
            self._pool, exchange, choice, model=model or "", conversation=conversation, made=made
        )
        return Routed(routed, wanted)

    async def _read(
        self, request: web.Request, wanted: UpstreamRequest, *, is_named: bool
    ) -> tuple[UpstreamRequest, _Said | None]:
        """Read the body, if it may say something of where it goes."""
        if wanted.body is None or not _may_be_json(request):
            return wanted, None
        if not isinstance(wanted.body, bytes):
            wanted = wanted._replace(body=await _whole(wanted.body, is_named=is_named))
        clear = await _maybe_clear(wanted)
        return wanted, None if clear is None else await _maybe_said(clear)

    def _model(self, exchange: Exchange, said: _Said | None, tenant: str) -> str | None:
        """The value of ``model``; None where there is none.

        Raises:
            ProxyError: ``bad_request``: it is no text.
        """
        if said is None:
            is_socket = exchange.route == "websocket"
            model = routes.maybe_model(exchange.target) if is_socket else None
            exchange.model = model or ""
            return model
        if said.model == _ABSENT:
            return None
        value = _text(said.model)
        if value is None:
            known = self._pool.known_names("", tenant)
            raise ProxyError("bad_request", f"model must be a text in quotes; {known}", "model")
        exchange.model = value
        return value

    def _maker(self, tenant: str, path: str, said: _Said | None) -> str:
        """The upstream that made an id in the path or in the body; "" if that is not known."""
        if not len(self._ids):
            return ""
        ids = [unquote(part) for part in path.split("/")[-_MAX_SEGMENTS:]]
        if said is not None:
            fields = (getattr(said, name) for name in _IDS)
            ids += filter(None, (_text(raw) for raw in fields if raw != _ABSENT))
        return next(filter(None, (self._ids.maybe(tenant, one) for one in ids)), "")


def is_renamed(choice: RouteChoice, model: str | None) -> bool:
    """Whether a target knows the model by another name than the request.

    Args:
        choice: the targets.
        model: as the request names it; None without one.
    """
    return any(target.model not in ("", model) for group in choice.groups for target in group)


def _may_be_json(request: web.Request) -> bool:
    if request[EXCHANGE].route in APIS:
        return True
    return request.content_type == "application/json" or request.content_type.endswith("+json")


async def _whole(body: RequestBody, *, is_named: bool) -> RequestBody:
    """A body as bytes: its model may stand anywhere in it.

    Args:
        body: perhaps streamed.
        is_named: the upstream is known without the model.

    Raises:
        ProxyError: ``request_too_large``.
    """
    body = await request_body.whole(body, _WHOLE_BYTES)
    if body is None or isinstance(body, bytes) or is_named:
        return body
    text = f"a JSON body of more than {_WHOLE_BYTES >> 20} MiB: its model is not looked for"
    raise ProxyError("request_too_large", f"{text}; name the upstream with {HEADER}")


async def _maybe_clear(wanted: UpstreamRequest) -> bytes | None:
    """The body uncompressed; None if it cannot be read."""
    body = wanted.body
    if not isinstance(body, bytes):
        return None
    if name := coding(wanted.headers):
        return await asyncio.to_thread(maybe_decoded, body, name, _DECODED_BYTES)
    return body


async def _maybe_said(data: bytes) -> _Said | None:
    """What a body says; None if it is not a JSON object. The upstream decides about such a one."""
    if len(data) > _DECODED_BYTES:
        found = await asyncio.to_thread(model_field.spans, data)
        if not found:
            return None if found is None else _Said()
        return _Said(model=msgspec.Raw(data[slice(*found[-1])]))
    try:
        return _SAID.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None


def _text(raw: msgspec.Raw) -> str | None:
    """A value that is a text, or an object with an ``id`` that is one; None for any other."""
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


def _conversation(scope: str, said: _Said) -> bytes:
    """What is the same for all requests of one conversation: all up to the user's first message."""
    raw = bytes(said.messages if said.messages != _ABSENT else said.input)
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
