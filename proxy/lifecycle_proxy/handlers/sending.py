"""What all forwarded requests share: headers for the upstream, recording, faults, the watchdog."""

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Protocol, TypeVar

from aiohttp import web
from multidict import CIMultiDict

from lifecycle_proxy.exchange import headers, responses, streamed_body
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.hops import HEADER as HOPS
from lifecycle_proxy.exchange.ports import (
    AskedBy,
    RequestBody,
    UpstreamClient,
    UpstreamRequest,
    UpstreamResponse,
)
from lifecycle_proxy.faults.live import PLAN, FaultyResponse
from lifecycle_proxy.handlers.routing import Router
from lifecycle_proxy.middleware.auth import ApiKeys
from lifecycle_proxy.relay.relay import Relay
from lifecycle_proxy.relay.watchdog import StreamWatchdog, Watched
from lifecycle_proxy.relay.websocket import Tunnel
from lifecycle_proxy.upstream.failover import RoutedUpstream

_Result = TypeVar("_Result")


class Recordings(Protocol):
    """Records exchanges, and answers with recordings."""

    def concerns(self, request: ClientRequest) -> bool:
        """Whether this request may be recorded or answered. Most are neither, where it is off."""
        ...

    def begin(self, request: ClientRequest, data: RequestBody, sent: CIMultiDict[str]) -> None:
        """Record this exchange, if that is wanted.

        Args:
            request: the client's.
            data: its body, as it came.
            sent: the headers for the upstream, which may be changed.
        """
        ...

    async def whole(self, request: ClientRequest, data: RequestBody) -> RequestBody:
        """The body, read as a whole if that decides whether a recording answers.

        Args:
            request: the client's.
            data: its body.
        """
        ...

    async def maybe_replay(
        self, request: ClientRequest, wanted: UpstreamRequest
    ) -> UpstreamResponse | None:
        """A recording's response, if the upstream is not to be asked.

        Args:
            request: the client's.
            wanted: what the upstream would be sent.
        """
        ...


class Sender:
    """Sends requests to the upstream.

    Args:
        upstream: where requests go.
        recordings: keeps what it is asked to, and may answer in the upstream's place.
        keys: replaces the client's credentials with the upstream's.
        watchdog: looks after the open streams.
        has_faults: whether requests may have a plan of faults.
        adds_forwarded: whether the upstream gets X-Forwarded headers.
        router: decides which upstream is asked, where there are several.
    """

    def __init__(
        self,
        upstream: UpstreamClient,
        recordings: Recordings,
        keys: ApiKeys,
        watchdog: StreamWatchdog,
        *,
        has_faults: bool = False,
        adds_forwarded: bool = False,
        router: Router | None = None,
    ) -> None:
        self._upstream = upstream
        self._recordings = recordings
        self.keys = keys
        self._watchdog = watchdog
        self._has_faults = has_faults
        self._adds_forwarded = adds_forwarded
        self._router = router

    def headers(self, request: ClientRequest, data: RequestBody) -> CIMultiDict[str]:
        """The request's headers for the upstream.

        Args:
            request: the client's.
            data: the body that will be sent.
        """
        kept = headers.for_upstream(request.headers)
        length = request.headers.get("Content-Length")
        if length is not None and data is not None and not isinstance(data, bytes):
            kept["Content-Length"] = str(int(length))  # streamed on, still of this length
        if self._adds_forwarded:
            host = request.headers.get("Host", "")
            headers.add_forwarded(kept, request.remote or "", request.scheme, host)
        exchange = request.exchange
        if exchange.traceparent != request.headers.get("traceparent", ""):
            kept["traceparent"] = exchange.traceparent
        self.keys.exchange(kept, exchange.target)
        return kept

    async def open(
        self, request: ClientRequest, wanted: UpstreamRequest, original: RequestBody = None
    ) -> UpstreamResponse:
        """Get the upstream's response, or a recording's.

        Args:
            request: the client's.
            wanted: what the upstream is sent.
            original: the body as the client sent it; None if it is the same.

        Raises:
            ProxyError: see ``UpstreamClient.open``.
        """
        exchange = request.exchange
        on_approval = partial(exchange.listeners.on_approval, exchange)
        asked_by = AskedBy(request.headers, exchange.client, exchange.dialect, on_approval)
        on_interim = partial(responses.forward_interim, request)
        wanted = UpstreamRequest(*wanted[:4], on_interim, asked_by)
        if self._recordings.concerns(request):
            response = await self._recorded(request, wanted, original)
        else:
            response = await self._ask(request, wanted)
        if self._has_faults and (plan := request.get(PLAN)):
            return FaultyResponse(response, plan)
        return response

    async def _recorded(
        self, request: ClientRequest, wanted: UpstreamRequest, original: RequestBody
    ) -> UpstreamResponse:
        is_unchanged = original is None or original is wanted.body
        wanted = wanted._replace(body=await self._recordings.whole(request, wanted.body))
        response = await self._recordings.maybe_replay(request, wanted)
        if response is None:
            body = wanted.body if is_unchanged else original
            self._recordings.begin(request, body, wanted.headers)
            response = await self._ask(request, wanted)
        return response

    async def _ask(self, request: ClientRequest, wanted: UpstreamRequest) -> UpstreamResponse:
        exchange = request.exchange
        upstream: RoutedUpstream | UpstreamClient = self._upstream
        if self._router is not None:
            upstream, wanted = await self._router.route(request, wanted)

        def on_retry() -> None:
            exchange.retries += 1

        listeners, rewritten = exchange.listeners, exchange.body_rewritten
        if listeners.follow_bytes:
            body = wanted.body
            if not (body is None or isinstance(body, bytes)):
                wanted = wanted._replace(body=streamed_body.followed(body, exchange))
            changed = body if isinstance(body, bytes) and rewritten else None
            target = upstream.target(wanted.path)
            listeners.on_forwarded(exchange, target, tuple(wanted.headers.items()), changed)
        wanted.headers[HOPS] = exchange.hops  # of this run of this process: it is not recorded
        response = await upstream.open(wanted, on_retry)
        if listeners.follow_bytes:
            own = response.raw_headers
            listeners.on_head(exchange, "upstream", response.status, response.reason, own)
        return response

    async def relay(self, relay: Relay | Tunnel) -> web.StreamResponse:
        """Run a relay under the watchdog's eyes."""
        return await self.watched(relay, relay.run())

    async def watched(self, stream: Watched, running: Awaitable[_Result]) -> _Result:
        """Run a stream under the watchdog's eyes.

        Args:
            stream: to look after.
            running: until its end.
        """
        self._watchdog.add(stream, asyncio.current_task())
        try:
            return await running
        finally:
            self._watchdog.discard(stream)
