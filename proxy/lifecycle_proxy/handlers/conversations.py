"""Requests whose response may be an event stream that frames are added to."""

import secrets
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Any

from aiohttp import web

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.core import followup
from lifecycle_proxy.core.apis import CHAT, Api
from lifecycle_proxy.core.context import PipelineOptions, StreamContext
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.events import ToolCompleted
from lifecycle_proxy.core.labels import Labels
from lifecycle_proxy.core.pipeline import Pipeline
from lifecycle_proxy.exchange import request_body, responses, routes
from lifecycle_proxy.exchange.client_scope import maybe_scope
from lifecycle_proxy.exchange.content_coding import coding
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.headers import prefers_async
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.handlers import dialect_selection, progress
from lifecycle_proxy.handlers.detached import DetachedStreams
from lifecycle_proxy.handlers.embed import EmbedPages
from lifecycle_proxy.handlers.passthrough import plain
from lifecycle_proxy.handlers.sending import Sender
from lifecycle_proxy.handlers.stream_opening import StreamOpener, maybe_keeper
from lifecycle_proxy.handlers.stream_resuming import StreamKeeper
from lifecycle_proxy.relay import detect, early_response, whole_answer
from lifecycle_proxy.relay.detect import Begun
from lifecycle_proxy.relay.keeping import outlasting
from lifecycle_proxy.relay.relay import Relay
from lifecycle_proxy.relay.sse import StreamBody
from lifecycle_proxy.state.pending_calls import ConversationCalls, Store


class Conversations:
    """Chat completions, Responses and Messages.

    Args:
        settings: ``[lifecycle]``, and the limits of time.
        sender: sends requests to the upstream.
        selector: chooses the dialect.
        store: calls that clients run.
        streams: begins what is kept of a stream.
        embeds: what clients that can are to show in the message; None for nothing.
    """

    def __init__(
        self,
        settings: Settings,
        sender: Sender,
        selector: dialect_selection.DialectSelector,
        store: Store,
        streams: StreamOpener,
        *,
        embeds: EmbedPages | None = None,
    ) -> None:
        self._embeds = embeds
        own = settings.lifecycle
        self._settings = settings
        self._sender = sender
        self._detached = DetachedStreams(settings, sender, streams)
        self._progress = progress.ProgressStreams(settings, sender)
        self._selector = selector
        self._store = store
        self._streams = streams
        server = settings.server
        self._early_s = server.heartbeat_s if server.heartbeat_before_first_byte else 0.0
        self._merge = own.merge_rounds
        self._page_events = own.page_events
        self._own_pages = routes.approvals_url(settings.server.public_url)
        self._options = PipelineOptions(
            presenter=Labels(max_length=own.label_max, redacted=own.redact, emoji=own.emoji),
            make_id=lambda: f"call_{secrets.token_hex(12)}",
            internal_prefix=own.internal_prefix,
            translate=own.native == "translate",
            max_event_bytes=own.max_event_bytes,
            result_preview=own.result_preview,
            infer=own.infer_completion,
        )

    async def handle(
        self, request: ClientRequest, path: str, profile: str | None, api: Api
    ) -> web.StreamResponse:
        """A request to one of the three APIs.

        Args:
            request: the client's.
            path: its target, without a dialect profile.
            profile: the dialect that the path asked for, if it did.
            api: that is asked for.
        """
        exchange = request.exchange
        span = dialect_selection.span(request.headers, self._settings.lifecycle.span)
        asked = await request_body.read_request(request)
        dialect = self._selector.choose(request.headers, profile, api, asked.user)
        exchange.model, exchange.dialect = asked.model, dialect
        exchange.body_rewritten = asked.data is not asked.original
        if self._streams.has_wishes(request, asked):
            continued = await self._streams.maybe_resumed(request, asked)
            if continued is not None:
                return continued
        conversation: ConversationCalls | None = None
        is_followed = api.spans_requests and span == "execution"
        if is_followed and (scope := maybe_scope(request.headers)) is not None:
            seen = followup.last_calls(asked.messages)
            conversation = ConversationCalls(self._store, scope, seen)
        if prefers_async(request.headers) or progress.is_asked(request, api, asked):
            other = await self._maybe_other(request, path, asked, api, conversation)
            if other is not None:
                del asked  # see below
                return await other
        # A 200 that is sent early cannot be taken back: not on a guess.
        keeper = maybe_keeper(request)
        may_be_early = asked.stream and not asked.is_unread and keeper is None
        head = responses.early_head(request) if may_be_early and self._early_s else None
        begun = await self._wait(request, self._open(request, path, asked), keeper, head)
        tools, tail = asked.tools, asked.tail
        del asked  # it may be large, and the stream long
        if begun is None:
            assert head is not None
            return head
        resumed = []
        if conversation is not None and begun.answer.status == 200:
            resumed = await self._resumed(conversation, exchange, begun)
        if not begun.is_writable:
            exchange.tools += resumed
            return await self._not_a_stream(request, begun, head)
        tools = request_body.tools_in(tail) if tools is None else tools
        pipeline = self._pipeline(request, api, conversation, resumed, tools)
        return await self._stream(request, begun, head, pipeline, api)

    async def _maybe_other(
        self,
        request: ClientRequest,
        path: str,
        asked: request_body.ParsedBody,
        api: Api,
        conversation: ConversationCalls | None,
    ) -> Awaitable[web.StreamResponse] | None:
        """The response to a request that asks for another form than the API's, from its beginning
        on."""
        exchange = request.exchange
        dialect, exchange.dialect = exchange.dialect, progress.DIALECT
        make = partial(self._resumed_pipeline, request, api, conversation)
        started = await self._detached.maybe_start(request, path, asked, api, make)
        if started is not None:
            return progress.given(started)
        if (wanted := await progress.maybe_asked(request, api, asked)) is not None:
            await self._streams.begin(request)
            return await self._progress.begin(request, path, wanted, make)
        exchange.dialect = dialect
        return None

    # --- getting the response -------------------------------------------------------------------

    async def _open(
        self, request: ClientRequest, path: str, asked: request_body.ParsedBody
    ) -> Begun:
        sent = self._sender.headers(request, asked.data)
        if request.exchange.body_rewritten:
            sent.popall("Content-Encoding", None)  # it was undone to look inside
        if asked.stream:
            sent["Accept-Encoding"] = "identity"  # nothing can be written into a compressed body
        opening = self._sender.open(request, path, sent, asked.data, original=asked.original)
        answer, patience_s = await opening, self._settings.upstream.stall_timeout_s
        begun = detect.maybe_begun(answer, asked=asked.stream)
        return begun or await detect.begun(answer, patience_s)

    def _wait(
        self,
        request: ClientRequest,
        opening: Coroutine[Any, Any, Begun],
        keeper: StreamKeeper | None,
        head: web.StreamResponse | None,
    ) -> Awaitable[Begun | None]:
        """Wait for the response; meanwhile send heartbeats, if there are headers for them.

        Returns:
            The response; None if the client has got an error behind these headers.
        """
        if head is not None:
            form = early_response.form_of(request.exchange)
            return early_response.open_with_heartbeats(request, opening, head, self._early_s, form)
        return opening if keeper is None else outlasting(request, opening, keeper)

    # --- passing it on --------------------------------------------------------------------------

    async def _resumed(
        self, conversation: ConversationCalls, exchange: Exchange, begun: Begun
    ) -> list[ToolCompleted]:
        """The calls of earlier streams that this request ends."""
        try:
            return await conversation.resume(exchange.started)
        except BaseException:  # the client left meanwhile, or a bug: nobody will read the answer
            begun.answer.close()
            raise

    def _not_a_stream(
        self, request: ClientRequest, begun: Begun, head: web.StreamResponse | None
    ) -> Awaitable[web.StreamResponse]:
        if head is not None and head.prepared:
            patience_s = self._settings.upstream.stall_timeout_s
            form = early_response.form_of(request.exchange)
            return early_response.send_upstream_error(request, head, begun, patience_s, form)
        if self._page_events != "all" and DIALECTS[request.exchange.dialect].runs_page_events:
            detect.refuse_unread_stream(begun.answer)
        body = whole_answer.body_for(request.exchange, begun.answer)
        return self._sender.relay(plain(request, begun.answer, begun.start, body))

    async def _stream(
        self,
        request: ClientRequest,
        begun: Begun,
        head: web.StreamResponse | None,
        pipeline: Pipeline,
        api: Api,
    ) -> web.StreamResponse:
        answer, exchange = begun.answer, request.exchange
        await self._streams.begin(request)
        if head is None or not head.prepared:
            head = responses.stream_head(request, answer)
        is_compressed = coding(answer.headers) != ""
        body = StreamBody(exchange, pipeline, api, is_compressed=is_compressed)
        relay = Relay(request, answer, begun.start, head, body, keeper=maybe_keeper(request))
        return await self._sender.relay(relay)

    async def _resumed_pipeline(
        self,
        request: ClientRequest,
        api: Api,
        conversation: ConversationCalls | None,
        begun: Begun,
    ) -> Pipeline:
        """The pipeline of a stream that begins now."""
        resumed: list[ToolCompleted] = []
        if conversation is not None:
            resumed = await self._resumed(conversation, request.exchange, begun)
        return self._pipeline(request, api, conversation, resumed, None)

    def _pipeline(
        self,
        request: ClientRequest,
        api: Api,
        conversation: ConversationCalls | None,
        resumed: list[ToolCompleted],
        tools: frozenset[str] | None,
    ) -> Pipeline:
        exchange = request.exchange
        dialect = DIALECTS[exchange.dialect]
        is_merged = dialect.merges_rounds if self._merge == "auto" else self._merge
        is_merged = is_merged and api.merges_rounds
        embeds = self._embeds if dialect.draws_embeds and api is CHAT else None
        return Pipeline(
            api,
            dialect,
            exchange.envelope(),
            self._options,
            context=StreamContext(
                "call" if conversation is None else "execution",
                conversation,
                resumed,
                tools if is_merged and dialect.merges_rounds else None,
                is_merged,
                self._page_events,
                self._own_pages,
                self._streams.keeps_arguments(request),
                "" if embeds is None else embeds.url(request),
            ),
        )
