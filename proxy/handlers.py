"""Every request: what is asked, of whom, and in which form the answer goes back."""

import re
import secrets
import time
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from proxy import body, clients, early, headers, inflate, responses, tunnel
from proxy.auth import Keys
from proxy.config import Settings
from proxy.core.dialects import DIALECTS
from proxy.core.events import Envelope
from proxy.core.labels import Labels
from proxy.core.pipeline import Options, Pipeline
from proxy.errors import ProxyError
from proxy.exchange import EXCHANGE
from proxy.relay import Relay
from proxy.stream import StreamRelay
from proxy.upstream import Upstream
from proxy.watch import Watch

_CLEAR: Final = ("", "identity")


class Handlers:
    """The proxy's request handlers.

    Args:
        settings: everything.
        upstream: where requests go.
        watch: looks after the open streams.
        keys: puts the upstream's key into requests.
    """

    def __init__(self, settings: Settings, upstream: Upstream, watch: Watch, keys: Keys) -> None:
        own = settings.lifecycle
        self._settings = settings
        self._upstream = upstream
        self._watch = watch
        self._keys = keys
        self._chooser = clients.Chooser(own.clients, own.dialect)
        self._options = Options(
            presenter=Labels(max_length=own.label_max, redacted=own.redact, emoji=own.emoji),
            mint=lambda: f"call_{secrets.token_hex(12)}",
            internal_prefix=own.internal_prefix,
            translate=own.native == "translate",
            max_event_bytes=own.max_event_bytes,
            result_preview=own.result_preview,
        )

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Everything else belongs to the upstream."""
        profile, path = clients.split_profile(_target(request))
        dialect = self._chooser.choose(request.headers, profile)
        match request[EXCHANGE].route:
            case "chat":
                return await self._chat(request, path, dialect)
            case "websocket":
                return await self._websocket(request, path)
            case _:
                return await self._plain(request, path)

    async def _plain(self, request: web.Request, path: str) -> web.StreamResponse:
        """Streamed both ways, nothing added, nothing looked at."""
        data = await body.small_or_streamed(request)
        sent = self._headers(request, data)
        answer = await self._open(request, path, sent, data)
        return await self._watched(Relay(request, answer, responses.same(answer)))

    async def _websocket(self, request: web.Request, path: str) -> web.StreamResponse:
        """A tunnel, if the upstream agrees; else its refusal, as it is."""
        sent = self._headers(request, None)
        tunnel.ask(sent)
        answer = await self._open(request, path, sent, None)
        if answer.status != 101:
            return await self._watched(Relay(request, answer, responses.same(answer)))
        idle_s = self._settings.upstream.websocket_idle_s
        head = responses.switched(answer)
        return await self._watched(tunnel.Tunnel(request, answer, head, idle_s))

    async def _chat(self, request: web.Request, path: str, dialect: str) -> web.StreamResponse:
        """A chat completion; frames are added if it turns out to be an event stream."""
        exchange = request[EXCHANGE]
        asked = await body.look(request)
        exchange.model, exchange.dialect = asked.model, dialect
        sent = self._headers(request, asked.data)
        if asked.stream:
            sent["Accept-Encoding"] = "identity"  # nothing can be written into a compressed body
        stream_id = f"st_{exchange.token}"
        opening = self._open(request, path, sent, asked.data)
        own = self._settings.server
        head: web.StreamResponse | None = None
        if asked.stream and own.heartbeat_before_first_byte and own.heartbeat_s:
            head = responses.early(request, stream_id)
            maybe = await early.open_with_heartbeats(request, opening, head, own.heartbeat_s)
            if maybe is None:
                return head
            answer = maybe
        else:
            answer = await opening
        coding = answer.headers.get("Content-Encoding", "").strip().lower()
        writable = answer.status == 200 and responses.is_event_stream(answer)
        if not writable or coding not in (*_CLEAR, *inflate.CODINGS):
            if head is not None and head.prepared:
                await early.tell_refusal(request, head, answer)
                return head
            return await self._watched(Relay(request, answer, responses.same(answer)))
        if head is None or not head.prepared:
            head = responses.stream(request, answer, stream_id)
        pipeline = self._pipeline(dialect, stream_id, asked.model)
        compressed = coding not in _CLEAR
        relay = StreamRelay(request, answer, head, pipeline, compressed=compressed)
        return await self._watched(relay)

    def _pipeline(self, dialect: str, stream_id: str, model: str) -> Pipeline:
        envelope = Envelope(f"chatcmpl-{stream_id}", int(time.time()), model)
        return Pipeline("chat", DIALECTS[dialect], envelope, self._options)

    async def _open(
        self,
        request: web.Request,
        path: str,
        sent: CIMultiDict[str],
        data: bytes | AsyncIterator[bytes] | None,
    ) -> aiohttp.ClientResponse:
        url, exchange = self._upstream.url(path), request[EXCHANGE]
        return await self._upstream.open(request.method, url, sent, data, exchange)

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

    async def _watched(self, relay: Relay | tunnel.Tunnel) -> web.StreamResponse:
        self._watch.add(relay)
        try:
            return await relay.run()
        finally:
            self._watch.discard(relay)


def _target(request: web.Request) -> str:
    """Raw path and query of the request line.

    Raises:
        ProxyError: ``bad_request`` for a target that this proxy must not forward.
    """
    target = request.raw_path
    if target.startswith(("http://", "https://")):
        host = re.split("[/?]", target.partition("://")[2], maxsplit=1)[0]
        if host.lower() != request.headers.get("Host", "").lower():
            raise ProxyError("bad_request", "the request line names another host: no open proxy")
        target = target[target.index("://") + 3 + len(host) :]
        target = target if target.startswith("/") else "/" + target
    if not target.startswith("/") or not target.isascii() or not target.isprintable():
        raise ProxyError("bad_request", "the request line holds no path that can be forwarded")
    return target
