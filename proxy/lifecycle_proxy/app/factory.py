"""The only place where the parts meet."""

import asyncio
import logging
import os
from collections.abc import Sized
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Final

from aiohttp import web

from lifecycle_proxy.app.recording_mode import RecordingMode
from lifecycle_proxy.app.shared_state import SharedState
from lifecycle_proxy.app.tracing import maybe_traces
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.exchange import responses
from lifecycle_proxy.exchange.model import Listener
from lifecycle_proxy.handlers.admin import AdminEndpoints
from lifecycle_proxy.handlers.approvals import ApprovalPages
from lifecycle_proxy.handlers.conversations import Conversations
from lifecycle_proxy.handlers.forward import Forwarder, selector
from lifecycle_proxy.handlers.models import ModelsEndpoint
from lifecycle_proxy.handlers.routing import Router
from lifecycle_proxy.handlers.sending import Sender
from lifecycle_proxy.handlers.stream_opening import StreamOpener
from lifecycle_proxy.handlers.stream_reading import stream_endpoints
from lifecycle_proxy.handlers.stream_replay import StreamReplay
from lifecycle_proxy.handlers.stream_resuming import Resuming
from lifecycle_proxy.middleware.auth import ApiKeys
from lifecycle_proxy.middleware.gateway import GatewayMiddleware
from lifecycle_proxy.relay.watchdog import StreamWatchdog
from lifecycle_proxy.server.service import Service
from lifecycle_proxy.state.event_log import EventLog
from lifecycle_proxy.state.made_ids import MadeIds
from lifecycle_proxy.state.pending_calls import Store
from lifecycle_proxy.telemetry.logs import AccessLog
from lifecycle_proxy.telemetry.metrics import Metrics
from lifecycle_proxy.upstream.agents.approvals import Approvals
from lifecycle_proxy.upstream.agents.client import CANCEL_S, AgentUpstream
from lifecycle_proxy.upstream.http1.pool import ConnectionPool
from lifecycle_proxy.upstream.pool import UpstreamPool

log = logging.getLogger("proxy.app")

_COUNT_S: Final = 5.0


class ProxyApp(Service):
    """The proxy: serve it with ``lifecycle_proxy.app.serve``.

    Attributes:
        watch: the watchdog of the open streams.
        gateway: what every request passes.
        recording_mode: what is recorded, and played.

    Args:
        settings: everything.
        store: where calls that clients run are kept; None for what the settings say.
        event_log: where what happens in streams is kept; None for what the settings say.
        agent_cancel_s: how long an agent may take to stop, in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store | None = None,
        event_log: EventLog | None = None,
        agent_cancel_s: float = CANCEL_S,
    ) -> None:
        own = settings.upstream
        # A pool adds the key of the upstream that it asks.
        own_key = "" if settings.is_routed else own.api_key
        keys = ApiKeys(settings.server.api_keys, own_key, own.api_key_header)
        self._metrics = metrics = Metrics()
        lost, omitted = metrics.recording_lost, metrics.recording_omitted
        self.recording_mode = RecordingMode(settings, lost, omitted)
        approvals = Approvals(settings.approvals.timeout_s)
        agent = partial(AgentUpstream, approvals=approvals, cancel_s=agent_cancel_s)
        self._upstream = self.recording_mode.upstream(agent)
        self.watch = StreamWatchdog(own.stall_timeout_s, settings.server.heartbeat_s)
        access_log = AccessLog(all_of_them=settings.server.access_log)
        self._traces = maybe_traces(settings, os.environ, metrics.spans_lost)
        listeners: list[Listener] = [metrics, access_log]
        if self._traces is not None:
            listeners.append(self._traces)
        self.gateway = GatewayMiddleware(settings, keys, listeners, _Failures(metrics))
        self._shared = SharedState(settings, metrics)
        store = self._shared.calls if store is None else store
        router = models = None
        if isinstance(self._upstream, UpstreamPool):
            router = Router(self._upstream, MadeIds())
            models = ModelsEndpoint(self._upstream)
        sender = Sender(
            self._upstream,
            self.recording_mode,
            keys,
            self.watch,
            adds_forwarded=settings.server.forwarded,
            router=router,
        )
        self._event_log = self._shared.events if event_log is None else event_log
        replay = StreamReplay(self._event_log)
        resuming = Resuming(settings, self._event_log, metrics.side, replay)
        opener = StreamOpener(settings, self._event_log, metrics.side, resuming)
        conversations = Conversations(settings, sender, selector(settings), store, opener)
        self._forward = Forwarder(settings, sender, conversations, models).handle
        streams = stream_endpoints(
            settings, self._event_log, metrics.side, lambda: self.gateway.draining, replay
        )
        own_paths = (self._upstream, self.gateway, metrics)
        pages = ApprovalPages(approvals)
        self._admin = AdminEndpoints(settings, *own_paths, streams=streams, pages=pages).handle
        self._parts = AsyncExitStack()

    async def start(self) -> None:
        """See ``Service``."""
        parts = self._parts
        self.recording_mode.start()
        if self._traces is not None:
            parts.push_async_callback(self._traces.close)
        parts.push_async_callback(self.recording_mode.close)
        await self._upstream.start()
        parts.push_async_callback(self._upstream.close)
        # Ended in the opposite order: the log has a last word for its store.
        works = (self.watch.run(), _count(self._metrics, self._event_log), self._event_log.run())
        for work in (*self._shared.works(), *works):
            parts.push_async_callback(_cancelled, asyncio.create_task(work))

    async def close(self) -> None:
        """See ``Service``."""
        await self._parts.aclose()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """See ``Service``."""
        return await self.gateway.dispatch(request, self._admin, self._forward)

    def finish_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """See ``Service``."""
        responses.strip_default_headers(request, response)
        self.gateway.finish_headers(request, response)


class _Failures:
    """Counts listeners that raised; the first of each kind is said in the log."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._said: set[str] = set()

    def __call__(self, listener: Listener, failure: Exception) -> None:
        name = type(listener).__name__
        self._metrics.listener_failed(name)
        if name not in self._said:
            self._said.add(name)
            log.error("%s failed; the traffic goes on (logged once)", name, exc_info=failure)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _count(metrics: Metrics, event_log: EventLog) -> None:
    """Other processes show this one's numbers, too, so they cannot wait until somebody asks."""
    while True:
        metrics.set_connections(ConnectionPool.open_connections())
        if isinstance(event_log, Sized):
            metrics.side.set_kept(len(event_log))
        await asyncio.sleep(_COUNT_S)
