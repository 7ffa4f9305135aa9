"""The only place where the parts meet."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Sized
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from aiohttp import web

from lifecycle_proxy.app.front import Front, cancelled
from lifecycle_proxy.app.lasting import Lasting
from lifecycle_proxy.app.live import maybe_live
from lifecycle_proxy.app.recording_mode import RecordingMode
from lifecycle_proxy.app.shared_state import SharedState
from lifecycle_proxy.app.tracing import maybe_telemetry, urls
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.exchange import responses
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.model import Listener
from lifecycle_proxy.handlers.approvals import ApprovalPages
from lifecycle_proxy.handlers.stream_opening import StreamOpener
from lifecycle_proxy.handlers.stream_reading import stream_endpoints
from lifecycle_proxy.handlers.stream_replay import StreamReplay
from lifecycle_proxy.handlers.stream_resuming import Resuming
from lifecycle_proxy.middleware.gateway import GatewayMiddleware
from lifecycle_proxy.relay.watchdog import StreamWatchdog
from lifecycle_proxy.server.service import Service
from lifecycle_proxy.state.event_log import EventLog
from lifecycle_proxy.state.pending_calls import Store
from lifecycle_proxy.telemetry.metrics import Metrics
from lifecycle_proxy.upstream.agents.approvals import Approvals
from lifecycle_proxy.upstream.agents.client import CANCEL_S, AgentUpstream
from lifecycle_proxy.upstream.agents.runs import HermesRuns
from lifecycle_proxy.upstream.client import HttpUpstream
from lifecycle_proxy.upstream.http1.pool import ConnectionPool

log = logging.getLogger("proxy.app")

_COUNT_S: Final = 1.0


class ProxyApp(Service):
    """The proxy: serve it with ``lifecycle_proxy.app.serve``.

    What outlives a request, and a reload of the settings, is created here; all that follows from
    the settings alone is a ``Front``.

    Attributes:
        settings: in force for new requests.
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
        self.settings = settings
        self._is_ending = asyncio.Event()
        self._metrics = metrics = Metrics()
        live = maybe_live(settings)
        lost, omitted = metrics.recording_lost, metrics.recording_omitted
        tapes = None if live is None else live.tapes
        self.recording_mode = RecordingMode(settings, lost, omitted, tapes)
        self._otel = maybe_telemetry(settings, os.environ, metrics.spans_lost)
        self._shared = SharedState(settings, metrics)
        self._event_log = self._shared.events if event_log is None else event_log
        replay = StreamReplay(self._event_log)
        resuming = Resuming(settings, self._event_log, metrics.side, replay)
        approvals = Approvals(settings.approvals.timeout_s)
        self._lasting = Lasting(
            metrics=metrics,
            agent=partial(_agent, approvals=approvals, cancel_s=agent_cancel_s),
            pages=ApprovalPages(approvals),
            traces=() if self._otel is None else self._otel.listeners,
            live=live,
            recording_mode=self.recording_mode,
            store=self._shared.calls if store is None else store,
            ids=self._shared.ids,
            opener=StreamOpener(settings, self._event_log, metrics.side, resuming),
            streams=stream_endpoints(
                settings, self._event_log, metrics.side, self._is_ending, replay
            ),
            failed=_Failures(metrics),
        )
        self._front = Front(settings, self._lasting)
        self._fronts = [self._front]  # this one, and those whose last requests are open
        self._retiring: set[asyncio.Task[None]] = set()
        self._parts = AsyncExitStack()

    @property
    def gateway(self) -> GatewayMiddleware:
        """What every new request passes."""
        return self._front.gateway

    @property
    def watch(self) -> StreamWatchdog:
        """The watchdog of new streams."""
        return self._front.watch

    async def start(self) -> None:
        """See ``Service``."""
        parts = self._parts
        self.recording_mode.start()
        if self._otel is not None:
            self._otel.start()
            parts.push_async_callback(self._otel.close)
        parts.push_async_callback(self.recording_mode.close)
        parts.push_async_callback(self._close_fronts)
        await self._front.upstream.start()
        self._front.start()
        # Ended in the opposite order: the log has a last word for its store.
        works = [_count(self._metrics, self._event_log), self._event_log.run()]
        if self._lasting.live is not None:
            works += self._lasting.live.works(self._shared.link)
        for work in (*self._shared.works(), *works):
            parts.push_async_callback(cancelled, asyncio.create_task(work))
        await self._shared.ready()

    async def close(self) -> None:
        """See ``Service``."""
        await self._parts.aclose()

    def handle(self, request: ClientRequest) -> Awaitable[web.StreamResponse]:
        """See ``Service``."""
        front = self._front
        request.finish_headers = front.gateway.finish_headers
        return front.gateway.dispatch(request, front.admin, front.forward)

    def finish_headers(self, request: ClientRequest, response: web.StreamResponse) -> None:
        """See ``Service``."""
        responses.finish_own(request, response)
        finish = request.finish_headers or self._front.gateway.finish_headers
        finish(request, response)

    # --- other settings -------------------------------------------------------------------------

    async def reload(self, settings: Settings) -> None:
        """Use other settings for new requests. Those that are open go on as they began.

        Args:
            settings: those that a running proxy cannot change are as before: ``config.reloading``.

        Raises:
            OSError: a part does not start; the settings stay.
        """
        before = self._front
        # The same upstreams keep their connections, their health, their agents' sessions.
        same = before.upstream if _upstreams(settings) == _upstreams(self.settings) else None
        front = Front(settings, self._lasting, same)
        if same is None:
            try:
                await front.upstream.start()
            except BaseException:
                await front.upstream.close()
                raise
        front.start()
        if self._otel is not None:
            self._otel.set_upstreams(urls(settings))
        self._front, self.settings = front, settings
        self._fronts.append(front)
        task = asyncio.create_task(self._retire(before))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _retire(self, front: Front) -> None:
        """Close what no open request needs any more."""
        await front.gateway.drained(None)
        await self._close_front(front)

    async def _close_fronts(self) -> None:
        for task in tuple(self._retiring):
            await cancelled(task)
        for front in tuple(self._fronts):
            await self._close_front(front)

    async def _close_front(self, front: Front) -> None:
        """Close one, and its upstreams if no other has them."""
        self._fronts.remove(front)
        await front.close()
        if all(one.upstream is not front.upstream for one in self._fronts):
            await front.upstream.close()

    # --- the end --------------------------------------------------------------------------------

    async def drained(self, limit_s: float) -> bool:
        """Wait until the last request has been answered; False where the limit comes first.

        Args:
            limit_s: in seconds.
        """
        self._is_ending.set()
        ends = [front.gateway.drained(limit_s) for front in self._fronts]
        return all(await asyncio.gather(*ends))

    def give_up(self, failure: ProxyError) -> None:
        """Break off the open streams, and what still waits for the upstream.

        Args:
            failure: why.
        """
        for front in self._fronts:
            front.watch.fail_all(failure)
            front.gateway.cancel_pending()


def _agent(settings: Settings, *, approvals: Approvals, cancel_s: float) -> AgentUpstream:
    if settings.upstream.hermes_runs:
        return HermesRuns(settings, approvals, HttpUpstream(settings), cancel_s=cancel_s)
    return AgentUpstream(settings, approvals, cancel_s=cancel_s)


def _upstreams(settings: Settings) -> tuple[object, ...]:
    """All that upstreams are created from."""
    limit = settings.server.max_header_bytes
    own = (settings.upstream, settings.upstreams, settings.models, settings.failover)
    return (*own, limit, settings.streams)


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


async def _count(metrics: Metrics, event_log: EventLog) -> None:
    """Other processes show this one's numbers, too, so they cannot wait until somebody asks."""
    try:
        while True:
            metrics.set_connections(ConnectionPool.open_connections())
            if isinstance(event_log, Sized):
                metrics.side.set_kept(len(event_log))
            metrics.flush()
            await asyncio.sleep(_COUNT_S)
    finally:
        metrics.flush()
