"""Every request: what is asked, of whom, and in which form the answer goes back."""

import logging
import secrets
import time
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from multidict import CIMultiDict

from proxy import body, clients, early, headers, responses
from proxy.config import Settings
from proxy.core.dialects import DIALECTS
from proxy.core.events import Envelope
from proxy.core.labels import Labels
from proxy.core.pipeline import Options, Pipeline
from proxy.errors import ProxyError
from proxy.relay import Relay
from proxy.stream import StreamRelay
from proxy.upstream import Upstream
from proxy.watch import Watch

log = logging.getLogger("proxy")

_CHAT_SUFFIX: Final = "/chat/completions"
_CLEAR: Final = ("", "identity")
_INFLATABLE: Final = ("gzip", "x-gzip", "deflate")


class Handlers:
    """The proxy's request handlers.

    Args:
        settings: everything.
        upstream: where requests go.
        watch: looks after the open streams.
    """

    def __init__(self, settings: Settings, upstream: Upstream, watch: Watch) -> None:
        own = settings.lifecycle
        self._settings = settings
        self._upstream = upstream
        self._watch = watch
        self._chooser = clients.Chooser(own.clients, own.dialect)
        self._options = Options(
            presenter=Labels(max_length=own.label_max, redacted=own.redact, emoji=own.emoji),
            mint=lambda: f"call_{secrets.token_hex(12)}",
            internal_prefix=own.internal_prefix,
            translate=own.native == "translate",
            max_event_bytes=own.max_event_bytes,
            result_preview=own.result_preview,
        )

    async def healthy(self, request: web.Request) -> web.StreamResponse:
        """``/-/healthy``: the process answers."""
        return web.json_response({"status": "ok"})

    async def own(self, request: web.Request) -> web.StreamResponse:
        """Any other path under ``/-/``."""
        message = f"the proxy has nothing at {request.path}"
        return responses.error(ProxyError("not_found", message))

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Everything else belongs to the upstream."""
        try:
            profile, path = clients.split_profile(_target(request))
            dialect = self._chooser.choose(request.headers, profile)
            if request.method == "POST" and path.partition("?")[0].endswith(_CHAT_SUFFIX):
                return await self._chat(request, path, dialect)
            return await self._plain(request, path)
        except ProxyError as failure:
            return responses.error(failure)

    async def _plain(self, request: web.Request, path: str) -> web.StreamResponse:
        """Streamed both ways, nothing added, nothing looked at."""
        data = request.content.iter_any() if request.can_read_body else None
        sent = _request_headers(request, data)
        answer = await self._upstream.open(request.method, self._upstream.url(path), sent, data)
        return await self._relay(Relay(request, answer, responses.same(answer)))

    async def _chat(self, request: web.Request, path: str, dialect: str) -> web.StreamResponse:
        """A chat completion; frames are added if it turns out to be an event stream."""
        asked = await body.look(request)
        sent = _request_headers(request, asked.data)
        if asked.stream:
            sent["Accept-Encoding"] = "identity"  # nothing can be written into a compressed body
        stream_id = secrets.token_hex(8)
        opening = self._upstream.open(request.method, self._upstream.url(path), sent, asked.data)
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
        if not writable or coding not in (*_CLEAR, *_INFLATABLE):
            if head is not None and head.prepared:
                await early.tell_refusal(request, head, answer)
                return head
            return await self._relay(Relay(request, answer, responses.same(answer)))
        if head is None or not head.prepared:
            head = responses.stream(request, answer, stream_id)
        pipeline = self._pipeline(dialect, stream_id, asked.model)
        compressed = coding not in _CLEAR
        relay = StreamRelay(request, answer, head, pipeline, compressed=compressed)
        return await self._relay(relay, pipeline)

    def _pipeline(self, dialect: str, stream_id: str, model: str) -> Pipeline:
        envelope = Envelope(f"chatcmpl-{stream_id}", int(time.time()), model)
        return Pipeline("chat", DIALECTS[dialect], envelope, self._options)

    async def _relay(self, relay: Relay, pipeline: Pipeline | None = None) -> web.StreamResponse:
        self._watch.add(relay)
        try:
            return await relay.run()
        finally:
            self._watch.discard(relay)
            if pipeline is not None and (failure := pipeline.counts.failure) is not None:
                log.error("the observer failed; the stream went on without it", exc_info=failure)


def _target(request: web.Request) -> str:
    """Raw path and query of the request line.

    Raises:
        ProxyError: ``bad_request`` for a target that this proxy must not forward.
    """
    target = request.raw_path
    if target.startswith(("http://", "https://")):
        url = urlsplit(target)
        if url.netloc.lower() != request.host.lower():
            raise ProxyError(
                "bad_request", "the request line names another host: no open proxy here"
            )
        target = target[target.index(url.netloc) + len(url.netloc) :] or "/"
        if target.startswith("?"):
            target = "/" + target
    if not target.startswith("/") or not target.isascii() or not target.isprintable():
        raise ProxyError("bad_request", "the request line holds no path that can be forwarded")
    return target


def _request_headers(
    request: web.Request, data: bytes | AsyncIterator[bytes] | None
) -> CIMultiDict[str]:
    kept = headers.for_upstream(request.headers)
    length = request.headers.get("Content-Length")
    if length is not None and data is not None and not isinstance(data, bytes):
        kept["Content-Length"] = length  # streamed on as it comes, still of this length
    return kept
