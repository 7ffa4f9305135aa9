"""Requests that are passed on as they are: everything but conversations, and WebSockets."""

from typing import Final

from aiohttp import web

from lifecycle_proxy.exchange import request_body, responses
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.ports import UpstreamResponse
from lifecycle_proxy.handlers.sending import Sender
from lifecycle_proxy.relay import websocket
from lifecycle_proxy.relay.body import PlainBody
from lifecycle_proxy.relay.relay import Relay

_CAPABILITIES: Final = "/v1/capabilities"


class Passthrough:
    """Streams both ways; nothing is added, nothing is parsed.

    Args:
        sender: sends requests to the upstream.
        websocket_idle_s: seconds of silence after which a tunnel is closed; 0 for never.
    """

    def __init__(self, sender: Sender, websocket_idle_s: float) -> None:
        self._sender = sender
        self._idle_s = websocket_idle_s

    async def handle(self, request: ClientRequest, path: str, dialect: str) -> web.StreamResponse:
        """Any request.

        Args:
            request: the client's.
            path: its target, without a dialect profile.
            dialect: what ``/v1/capabilities`` says if the upstream has none.
        """
        data = await request_body.small_or_streamed(request)
        sent = self._sender.headers(request, data)
        upstream = await self._sender.open(request, path, sent, data)
        is_capabilities = request.method == "GET" and path.partition("?")[0] == _CAPABILITIES
        if is_capabilities and upstream.status == 404:
            upstream.close()
            return responses.capabilities(dialect, request.exchange.request_id)
        return await self._sender.relay(plain(request, upstream))

    async def websocket(self, request: ClientRequest, path: str) -> web.StreamResponse:
        """A tunnel, if the upstream agrees; else its refusal, as it is.

        Args:
            request: the client's, with ``Upgrade: websocket``.
            path: its target, without a dialect profile.
        """
        sent = self._sender.headers(request, None)
        websocket.ask(sent)
        upstream = await self._sender.open(request, path, sent, None)
        if upstream.status != 101:
            return await self._sender.relay(plain(request, upstream))
        head = responses.switching_protocols(upstream)
        return await self._sender.relay(websocket.Tunnel(request, upstream, head, self._idle_s))


def plain(
    request: ClientRequest,
    upstream: UpstreamResponse,
    start: bytes = b"",
    body: PlainBody | None = None,
) -> Relay:
    """Relays a response unchanged.

    Args:
        request: the client's.
        upstream: the response.
        start: what was read of its body.
        body: looks on; None where nothing does.
    """
    head = responses.copy_head(upstream)
    return Relay(request, upstream, start, head, PlainBody() if body is None else body)
