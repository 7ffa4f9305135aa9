"""What all forwarded requests share: headers for the upstream, recording, faults, the watchdog."""

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol, TypeVar

from aiohttp import web
from msgspec.structs import replace
from multidict import CIMultiDict

from lifecycle_proxy.exchange import headers, responses, streamed_body
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.hops import HEADER as HOPS
from lifecycle_proxy.exchange.model import Exchange, Headers
from lifecycle_proxy.exchange.ports import (
    RequestBody,
    UpstreamClient,
    UpstreamRequest,
    UpstreamResponse,
)
from lifecycle_proxy.faults.live import PLAN, FaultyResponse
from lifecycle_proxy.faults.plan import FaultPlan
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

    def open(
        self,
        request: ClientRequest,
        path: str,
        sent: CIMultiDict[str],
        body: RequestBody,
        *,
        original: RequestBody = None,
    ) -> Awaitable[UpstreamResponse]:
        """Get the upstream's response, or a recording's.

        Args:
            request: the client's.
            path: its target, without a dialect profile.
            sent: the headers for the upstream.
            body: what the upstream is sent.
            original: the body as the client sent it; None if it is the same.

        Raises:
            ProxyError: see ``UpstreamClient.open``.
        """
        wanted = UpstreamRequest(request.method, path, sent, body, _Asker(request))
        response: Awaitable[UpstreamResponse]
        if self._recordings.concerns(request):
            response = self._recorded(request, wanted, original)
        else:
            response = self._ask(request, wanted)
        plan = request.get(PLAN) if self._has_faults else None
        return _faulty(response, plan) if plan else response

    def _ask(self, request: ClientRequest, wanted: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        if self._router is not None:
            return self._routed(self._router, request, wanted)
        return self._send(request.exchange, self._upstream, wanted)

    async def _routed(
        self, router: Router, request: ClientRequest, wanted: UpstreamRequest
    ) -> UpstreamResponse:
        upstream, wanted = await router.route(request, wanted)
        return await self._send(request.exchange, upstream, wanted)

    async def _recorded(
        self, request: ClientRequest, wanted: UpstreamRequest, original: RequestBody
    ) -> UpstreamResponse:
        is_unchanged = original is None or original is wanted.body
        wanted = replace(wanted, body=await self._recordings.whole(request, wanted.body))
        response = await self._recordings.maybe_replay(request, wanted)
        if response is None:
            body = wanted.body if is_unchanged else original
            self._recordings.begin(request, body, wanted.headers)
            response = await self._ask(request, wanted)
        return response

    def _send(
        self,
        exchange: Exchange,
        upstream: RoutedUpstream | UpstreamClient,
        wanted: UpstreamRequest,
    ) -> Awaitable[UpstreamResponse]:
        is_followed = exchange.listeners.follow_bytes
        if is_followed:
            wanted = _reported(exchange, upstream, wanted)
        wanted.headers[HOPS] = exchange.hops  # of this run of this process: it is not recorded
        response = upstream.open(wanted, exchange.retried)
        return _followed(exchange, response) if is_followed else response

    def relay(self, relay: Relay | Tunnel) -> Awaitable[web.StreamResponse]:
        """Run a relay under the watchdog's eyes."""
        return self.watched(relay, relay.run())

    async def watched(self, stream: Watched, running: Awaitable[_Result]) -> _Result:
        """Run a stream under the watchdog's eyes.

        Args:
            stream: to look after.
            running: until its end.
        """
        self._watchdog.add(stream)
        try:
            return await running
        finally:
            self._watchdog.discard(stream)


class _Asker:
    """A client, for the upstream: ``AskedBy``.

    Args:
        request: the client's.
    """

    __slots__ = ("_request",)

    def __init__(self, request: ClientRequest) -> None:
        self._request = request

    @property
    def headers(self) -> Mapping[str, str]:
        return self._request.headers

    @property
    def address(self) -> str:
        return self._request.exchange.client

    @property
    def dialect(self) -> str:
        return self._request.exchange.dialect

    def on_approval(self, fields: Mapping[str, Any]) -> None:
        """See ``AskedBy``."""
        exchange = self._request.exchange
        exchange.listeners.on_approval(exchange, fields)

    def on_interim(self, status: int, reason: str, headers: Headers) -> None:
        """See ``AskedBy``."""
        responses.forward_interim(self._request, status, reason, headers)


def _reported(
    exchange: Exchange, upstream: RoutedUpstream | UpstreamClient, wanted: UpstreamRequest
) -> UpstreamRequest:
    """What is sent, reported to listeners: a streamed body as it passes."""
    body = wanted.body
    if not (body is None or isinstance(body, bytes)):
        wanted = replace(wanted, body=streamed_body.followed(body, exchange))
    changed = body if isinstance(body, bytes) and exchange.body_rewritten else None
    target = upstream.target(wanted.path)
    exchange.listeners.on_forwarded(exchange, target, tuple(wanted.headers.items()), changed)
    return wanted


async def _followed(exchange: Exchange, response: Awaitable[UpstreamResponse]) -> UpstreamResponse:
    """A response, whose headers are reported to listeners."""
    answer = await response
    own = answer.raw_headers
    exchange.listeners.on_head(exchange, "upstream", answer.status, answer.reason, own)
    return answer


async def _faulty(response: Awaitable[UpstreamResponse], plan: FaultPlan) -> UpstreamResponse:
    return FaultyResponse(await response, plan)
