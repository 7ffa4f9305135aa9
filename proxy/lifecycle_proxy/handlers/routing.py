"""Where a request goes, where there are several upstreams: what decides it is collected here.

Most requests are chats that name a model and nothing else that counts: they are routed without a
second look at them.
"""

from functools import partial
from typing import Final
from urllib.parse import unquote

from msgspec.structs import replace
from multidict import istr

from lifecycle_proxy.exchange import routes
from lifecycle_proxy.exchange.client_scope import scope_of, tenant_of
from lifecycle_proxy.exchange.content_coding import coding
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.exchange.ports import UpstreamRequest
from lifecycle_proxy.handlers import body_facts
from lifecycle_proxy.handlers.body_facts import ABSENT, BodyFacts
from lifecycle_proxy.state.made_ids import MadeIds
from lifecycle_proxy.upstream.choice import RequestFacts, RouteChoice
from lifecycle_proxy.upstream.failover import RoutedUpstream
from lifecycle_proxy.upstream.pool import UpstreamPool
from lifecycle_proxy.upstream.pooled_response import HEADER

_MAX_SEGMENTS: Final = 12  # of a path that may be ids
# Nothing that is made there can be asked for again.
_MAKES_NOTHING: Final = ("chat", "messages")
_CONVERSATIONS: Final = "conversations"  # no hash of a credential
_CODING: Final = istr("Content-Encoding")


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
        if ids.is_shared:
            pool.on_moved = self._moved

    async def route(
        self, request: ClientRequest, wanted: UpstreamRequest
    ) -> tuple[RoutedUpstream, UpstreamRequest]:
        """Decide where a request goes.

        Args:
            request: the client's.
            wanted: what the upstream is to get.

        Returns:
            What sends it, and the request, with its body as bytes if it had to be read.

        Raises:
            ProxyError: nowhere.
        """
        exchange = request.exchange
        asked = request.headers[HEADER].strip() if HEADER in request.headers else ""
        if not asked and exchange.target.startswith(routes.OWN_PREFIX):
            asked = routes.split_prefixes(exchange.target).upstream or ""
        model: str | None = exchange.model or None  # of a chat it has been read already
        conversation = b""
        choice: RouteChoice | None = None
        is_chat = exchange.route in _MAKES_NOTHING
        if is_chat and model is not None and not asked:
            choice = self._pool.table.maybe_by_model(model)
        if choice is None or choice.has_equals:
            tenant = tenant_of(request.headers) if self._needs_tenant or self._ids else ""
            wanted, said = await body_facts.read(request, wanted, is_named=bool(asked))
            model = self._model(exchange, said, tenant)
            made_by = "" if is_chat else await self._maker(tenant, exchange.path, said)
            facts = RequestFacts(model, asked, made_by)
            choice = await self._pool.choose(facts, wanted.headers, tenant)
            if choice.has_equals and said is not None:
                conversation = body_facts.conversation_of(scope_of(request.headers), said)
                await self._recall(conversation)
            if wanted.model_at is not None and choice.only is None:
                wanted = await body_facts.repeatable(wanted)
        if _CODING in wanted.headers:
            wanted = await _readable(wanted, choice, model)
        made = None
        if not is_chat and exchange.method == "POST":
            made = partial(self._note, request)
        routed = RoutedUpstream(
            self._pool, exchange, choice, model=model or "", conversation=conversation, made=made
        )
        return routed, wanted

    def _moved(self, conversation: bytes, upstream: str) -> None:
        self._ids.add(_CONVERSATIONS, conversation.hex(), upstream)

    async def _recall(self, conversation: bytes) -> None:
        """Learn from other processes where a conversation is that is new here."""
        if conversation and self._ids.is_shared and not self._pool.place_of(conversation):
            place = await self._ids.find(_CONVERSATIONS, [conversation.hex()])
            if place in self._pool.members:
                self._pool.remember(conversation, place)

    def _note(self, request: ClientRequest, upstream: str, made: str) -> None:
        self._ids.add(tenant_of(request.headers), made, upstream)

    def _model(self, exchange: Exchange, said: BodyFacts | None, tenant: str) -> str | None:
        """The value of ``model``; None where there is none.

        Raises:
            ProxyError: ``bad_request``: it is no text.
        """
        if said is None:
            is_socket = exchange.route == "websocket"
            model = routes.maybe_model(exchange.target) if is_socket else None
            exchange.model = model or ""
            return model
        if said.model == ABSENT:
            return None
        value = body_facts.text_of(said.model)
        if value is None:
            known = self._pool.known_names("", tenant)
            raise ProxyError("bad_request", f"model must be a text in quotes; {known}", "model")
        exchange.model = value
        return value

    async def _maker(self, tenant: str, path: str, said: BodyFacts | None) -> str:
        """The upstream that made an id in the path or in the body; "" if that is not known."""
        if not self._ids:
            return ""
        ids = [unquote(part) for part in path.split("/")[-_MAX_SEGMENTS:]]
        if said is not None:
            ids += body_facts.ids_in(said)
        made_by = await self._ids.find(tenant, ids)
        return made_by if made_by in self._pool.members else ""  # it was there before a reload


async def _readable(
    wanted: UpstreamRequest, choice: RouteChoice, model: str | None
) -> UpstreamRequest:
    """A request uncompressed, if the name of its model is to be replaced and it can be read."""
    if not coding(wanted.headers) or not choice.renames(model):
        return wanted
    clear = await body_facts.maybe_clear(wanted)
    if clear is None:
        return wanted
    wanted.headers.popall(_CODING, None)
    return replace(wanted, body=clear)
