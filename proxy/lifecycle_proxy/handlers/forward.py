"""Every request: what is asked, of whom, and in which form the answer goes back."""

import asyncio
import itertools
import re
import secrets
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, Protocol

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.core import followup
from lifecycle_proxy.core.calls import Terms
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.events import ToolCompleted
from lifecycle_proxy.core.labels import Labels
from lifecycle_proxy.core.pipeline import Options, Pipeline
from lifecycle_proxy.exchange import headers, request_body, responses, routes
from lifecycle_proxy.exchange.client_scope import scope_of
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import EXCHANGE, Exchange, Vocabulary
from lifecycle_proxy.faults.live import PLAN, response_of
from lifecycle_proxy.faults.plan import FaultPolicy
from lifecycle_proxy.handlers import dialect_selection
from lifecycle_proxy.middleware.auth import ApiKeys
from lifecycle_proxy.relay import detect, early_response, websocket
from lifecycle_proxy.relay.detect import Begun
from lifecycle_proxy.relay.relay import Relay
from lifecycle_proxy.relay.sse import StreamRelay
from lifecycle_proxy.relay.watchdog import StreamWatchdog
from lifecycle_proxy.state.pending_calls import ConversationCalls, Store
from lifecycle_proxy.upstream.client import Upstream

_Data = bytes | AsyncIterator[bytes] | None
_CAPABILITIES: Final = "/v1/capabilities"


class Recordings(Protocol):
    """What keeps exchanges, and plays those that were kept."""

    def begin(self, request: web.Request, data: _Data, sent: CIMultiDict[str]) -> None:
        """Keep this exchange, if that is wanted; ``sent`` are the headers for the upstream."""
        ...

    async def maybe_replay(
        self, request: web.Request, path: str, sent: CIMultiDict[str], data: _Data
    ) -> aiohttp.ClientResponse | None:
        """A recording's answer, if the upstream is not to be asked."""
        ...


class Handlers:
    """The proxy's request handlers.

    Args:
        settings: everything.
        upstream: where requests go.
        watch: looks after the open streams.
        keys: puts the upstream's key into requests.
        store: calls that clients run.
        recordings: keeps what it is asked to, and may answer in the upstream's place.
    """

    def __init__(  # noqa: PLR0917  what it stands between
        self,
        settings: Settings,
        upstream: Upstream,
        watch: StreamWatchdog,
        keys: ApiKeys,
        store: Store,
        recordings: Recordings,
    ) -> None:
        self._recordings = recordings
        self._faults = FaultPolicy(settings.faults.rules, settings.faults.seed)
        self._numbers = itertools.count(1)
        own = settings.lifecycle
        self._settings = settings
        self._upstream = upstream
        self._watch = watch
        self._keys = keys
        self._store = store
        self._selector = dialect_selection.DialectSelector(
            own.clients, own.dialect, builtin=own.builtin_clients
        )
        self._options = Options(
            presenter=Labels(max_length=own.label_max, redacted=own.redact, emoji=own.emoji),
            mint=lambda: f"call_{secrets.token_hex(12)}",
            internal_prefix=own.internal_prefix,
            translate=own.native == "translate",
            max_event_bytes=own.max_event_bytes,
            result_preview=own.result_preview,
            infer=own.infer_completion,
        )
        self._merge = own.merge_rounds

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Everything else belongs to the upstream."""
        profile, path = routes.split_profile(_target(request))
        route = request[EXCHANGE].route
        if self._settings.faults.rules and (answer := await self._maybe_fault(request)):
            return answer
        match route:
            case "chat" | "responses" | "messages" as vocabulary:
                return await self._talk(request, path, profile, vocabulary)
            case "websocket":
                self._selector.choose(request.headers, profile)
                return await self._websocket(request, path)
            case _:
                dialect = self._selector.choose(request.headers, profile)
                return await self._plain(request, path, dialect)

    async def _maybe_fault(self, request: web.Request) -> web.Response | None:
        """The faults that hit a request; an answer, where the upstream is not to be asked."""
        plan = request[PLAN] = self._faults.pick(next(self._numbers))
        if plan.latency_ms:
            await asyncio.sleep(plan.latency_ms / 1000)
        if plan.answer is None:
            return None
        return response_of(plan.answer)

    async def _plain(self, request: web.Request, path: str, dialect: str) -> web.StreamResponse:
        """Streamed both ways, nothing added, nothing looked at."""
        data = await request_body.small_or_streamed(request)
        sent = self._headers(request, data)
        answer = await self._open(request, path, sent, data)
        if (
            answer.status == 404
            and request.method == "GET"
            and path.partition("?")[0] == _CAPABILITIES
        ):
            answer.close()
            return responses.capabilities(dialect, request[EXCHANGE].request_id)
        return await self._watched(Relay(request, Begun(answer), responses.same(answer)))

    async def _websocket(self, request: web.Request, path: str) -> web.StreamResponse:
        """A tunnel, if the upstream agrees; else its refusal, as it is."""
        sent = self._headers(request, None)
        websocket.ask(sent)
        answer = await self._open(request, path, sent, None)
        if answer.status != 101:
            return await self._watched(Relay(request, Begun(answer), responses.same(answer)))
        idle_s = self._settings.upstream.websocket_idle_s
        head = responses.switched(answer)
        return await self._watched(websocket.Tunnel(request, answer, head, idle_s))

    async def _talk(
        self, request: web.Request, path: str, profile: str | None, vocabulary: Vocabulary
    ) -> web.StreamResponse:
        """A conversation; frames are added if the answer turns out to be an event stream."""
        exchange = request[EXCHANGE]
        span = dialect_selection.span(request.headers, self._settings.lifecycle.span)
        asked = await request_body.look(request)
        dialect = self._selector.choose(request.headers, profile, vocabulary, asked.user)
        exchange.model, exchange.dialect = asked.model, dialect
        exchange.is_cleaned = asked.data is not asked.original
        conversation: ConversationCalls | None = None
        if vocabulary == "chat" and span == "execution":
            seen = followup.last_calls(asked.messages)
            conversation = ConversationCalls(self._store, scope_of(request.headers), seen)
        sent = self._headers(request, asked.data)
        if exchange.is_cleaned:
            sent.popall("Content-Encoding", None)  # it was undone to look inside
        if asked.stream:
            sent["Accept-Encoding"] = "identity"  # nothing can be written into a compressed body
        opening = self._begun(request, path, sent, asked)
        # A 200 that is sent early cannot be taken back: not on a guess.
        early_head = asked.stream and not asked.is_unread
        tools, tail = asked.tools, asked.tail
        del asked  # it may be large, and the stream long
        begun, head = await self._begin(request, opening, may_be_early=early_head)
        if begun is None:
            assert head is not None
            return head
        answer = begun.answer
        resumed = []
        if conversation is not None and answer.status == 200:
            resumed = conversation.resume(exchange.started)
        if not begun.is_writable:
            exchange.tools += resumed
            if head is not None and head.prepared:
                patience_s = self._settings.upstream.stall_timeout_s
                await early_response.tell_refusal(request, head, begun, patience_s)
                return head
            return await self._watched(Relay(request, begun, responses.same(answer)))
        if head is None or not head.prepared:
            head = responses.stream(request, answer, _stream_id(request))
        tools = request_body.tools_in(tail) if tools is None else tools
        pipeline = self._pipeline(exchange, vocabulary, conversation, resumed, tools)
        return await self._watched(StreamRelay(request, begun, head, pipeline, vocabulary))

    def _pipeline(
        self,
        exchange: Exchange,
        vocabulary: Vocabulary,
        conversation: ConversationCalls | None,
        resumed: list[ToolCompleted],
        tools: frozenset[str] | None,
    ) -> Pipeline:
        dialect = DIALECTS[exchange.dialect]
        is_merged = dialect.merges_rounds if self._merge == "auto" else self._merge
        is_merged = is_merged and vocabulary == "chat"
        return Pipeline(
            vocabulary,
            dialect,
            exchange.envelope(),
            self._options,
            terms=Terms(
                "call" if conversation is None else "execution",
                conversation,
                resumed,
                tools if is_merged and dialect.merges_rounds else None,
                is_merged,
            ),
        )

    async def _begin(
        self,
        request: web.Request,
        opening: Coroutine[Any, Any, Begun],
        *,
        may_be_early: bool,
    ) -> tuple[Begun | None, web.StreamResponse | None]:
        """Wait for the answer; meanwhile, where that is asked for, send signs of life.

        Returns:
            The answer, and a head of ours, if one may have been sent. Without an answer the client
            has been told already.
        """
        own = self._settings.server
        if not (may_be_early and own.heartbeat_before_first_byte and own.heartbeat_s):
            return await opening, None
        head = responses.early(request, _stream_id(request))
        return await early_response.open_with_heartbeats(
            request, opening, head, own.heartbeat_s
        ), head

    async def _begun(
        self, request: web.Request, path: str, sent: CIMultiDict[str], asked: request_body.Body
    ) -> Begun:
        answer = await self._open(request, path, sent, asked.data, asked.original)
        patience_s = self._settings.upstream.stall_timeout_s
        return await detect.begun(answer, asked=asked.stream, patience_s=patience_s)

    async def _open(
        self,
        request: web.Request,
        path: str,
        sent: CIMultiDict[str],
        data: bytes | AsyncIterator[bytes] | None,
        original: bytes | AsyncIterator[bytes] | None = None,
    ) -> aiohttp.ClientResponse:
        if (played := await self._recordings.maybe_replay(request, path, sent, data)) is not None:
            return played
        url, exchange = self._upstream.url(path), request[EXCHANGE]
        self._recordings.begin(request, data if original is None else original, sent)
        listeners = exchange.listeners
        if not listeners.follow_bytes:
            return await self._upstream.open(request.method, url, sent, data, exchange)
        changed = data if isinstance(data, bytes) and exchange.is_cleaned else None
        listeners.on_forwarded(exchange, url.raw_path_qs, tuple(sent.items()), changed)
        answer = await self._upstream.open(request.method, url, sent, data, exchange)
        reason, own = answer.reason or "", headers.raw(answer.raw_headers)
        listeners.on_head(exchange, "upstream", answer.status, reason, own)
        return answer

    def _headers(
        self, request: web.Request, data: bytes | AsyncIterator[bytes] | None
    ) -> CIMultiDict[str]:
        """The request's headers for the upstream."""
        kept = headers.for_upstream(request.headers)
        length = request.headers.get("Content-Length")
        if length is not None and data is not None and not isinstance(data, bytes):
            kept["Content-Length"] = length  # streamed on as it comes, still of this length
        self._keys.exchange(kept)
        return kept

    async def _watched(self, relay: Relay | websocket.Tunnel) -> web.StreamResponse:
        self._watch.add(relay)
        try:
            return await relay.run()
        finally:
            self._watch.discard(relay)


def _stream_id(request: web.Request) -> str:
    return f"st_{request[EXCHANGE].token}"


def _target(request: web.Request) -> str:
    """Raw path and query of the request line.

    Raises:
        ProxyError: ``bad_request`` for a target that this proxy must not forward.
    """
    target = request.raw_path
    if request.method == "CONNECT":
        raise ProxyError(
            "bad_request", "CONNECT is not supported: the proxy forwards to its upstream only"
        )
    if target.startswith(("http://", "https://")):
        host = re.split("[/?]", target.partition("://")[2], maxsplit=1)[0]
        if host.lower() != request.headers.get("Host", "").lower():
            raise ProxyError(
                "bad_request", "the request line names another host than the Host header"
            )
        target = target[target.index("://") + 3 + len(host) :]
        target = target if target.startswith("/") else "/" + target
    if not target.startswith("/") or not target.isascii() or not target.isprintable():
        raise ProxyError("bad_request", "the request line has no path that can be forwarded")
    return target
