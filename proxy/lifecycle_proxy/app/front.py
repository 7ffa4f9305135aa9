"""What follows from the settings alone: a reload makes another one, for new requests."""

import asyncio
from contextlib import suppress
from typing import Any

from lifecycle_proxy.app.lasting import Lasting
from lifecycle_proxy.app.live import maybe_embeds
from lifecycle_proxy.app.recording_mode import redaction_of
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.page import is_on
from lifecycle_proxy.exchange.errors import stopped
from lifecycle_proxy.exchange.handler import Handler
from lifecycle_proxy.exchange.model import Exchange, Listener
from lifecycle_proxy.exchange.ports import UpstreamClient
from lifecycle_proxy.handlers.admin import AdminEndpoints
from lifecycle_proxy.handlers.conversations import Conversations
from lifecycle_proxy.handlers.embed import FramedPages
from lifecycle_proxy.handlers.forward import Forwarder, selector
from lifecycle_proxy.handlers.models import ModelsEndpoint
from lifecycle_proxy.handlers.page import LivePage
from lifecycle_proxy.handlers.routing import Router
from lifecycle_proxy.handlers.sending import Sender
from lifecycle_proxy.middleware.auth import ApiKeys
from lifecycle_proxy.middleware.gateway import GatewayMiddleware
from lifecycle_proxy.relay.watchdog import StreamWatchdog
from lifecycle_proxy.telemetry.access_log import AccessLog
from lifecycle_proxy.upstream.pool import UpstreamPool


class Front:
    """Middleware, handlers and upstreams of one set of settings.

    Args:
        settings: everything.
        lasting: what is there before and after them.
        upstream: one that was created from the same settings; None for a new one.

    Attributes:
        upstream: it, which others may have, too.
        watch: the watchdog of its open streams.
        gateway: what its requests pass.
        forward: handles requests that an upstream answers.
        admin: handles those for the proxy's own paths.
    """

    def __init__(
        self, settings: Settings, lasting: Lasting, upstream: UpstreamClient | None = None
    ) -> None:
        own, metrics = settings.upstream, lasting.metrics
        # A pool adds the key of the upstream that it asks.
        own_key = "" if settings.is_routed else own.api_key
        keys = ApiKeys(settings.server.api_keys, own_key, own.api_key_header)
        if upstream is None:
            upstream = lasting.recording_mode.upstream(settings, lasting.agent)
        self.upstream = upstream
        self._shown_upstream = settings.shown_upstream
        self.watch = StreamWatchdog(own.stall_timeout_s, settings.server.heartbeat_s)
        access_log = AccessLog(all_of_them=settings.server.access_log)
        listeners: list[Listener] = [metrics, access_log, *lasting.traces]
        self.gateway = GatewayMiddleware(settings, keys, listeners, lasting.failed)
        router = models = None
        if isinstance(upstream, UpstreamPool):
            router = Router(upstream, lasting.ids)
            models = ModelsEndpoint(upstream, keys)
        sender = Sender(
            upstream,
            lasting.recording_mode,
            keys,
            self.watch,
            has_faults=bool(settings.faults.rules),
            adds_forwarded=settings.server.forwarded,
            router=router,
        )
        embeds = maybe_embeds(settings, lasting.streams)
        conversations = Conversations(
            settings, sender, selector(settings), lasting.store, lasting.opener, embeds=embeds
        )
        self.forward: Handler = Forwarder(settings, sender, conversations, models).handle
        own_paths = (upstream, self.gateway, metrics)
        self.admin = AdminEndpoints(
            settings,
            *own_paths,
            streams=lasting.streams,
            pages=FramedPages(lasting.pages, embeds),
            live=self._maybe_page(settings, lasting),
        ).handle
        self._work: asyncio.Task[None] | None = None

    def _maybe_page(self, settings: Settings, lasting: Lasting) -> LivePage | None:
        """The live page, if these settings let there be one."""
        if lasting.live is None or not is_on(settings):
            return None
        lasting.live.tapes.redaction = redaction_of(settings)
        has_keys = bool(settings.server.api_keys)
        self.forward = lasting.live.followed(self.forward, self._stop, has_keys=has_keys)
        return lasting.live.page(settings, lambda: self.gateway.draining, self._upstreams)

    def _upstreams(self) -> list[dict[str, Any]]:
        """How each upstream is. Of a single one the page itself sees how it answers."""
        if isinstance(self.upstream, UpstreamPool):
            return self.upstream.states()
        return [{"name": "", "url": self._shown_upstream}]

    def _stop(self, exchange: Exchange) -> bool:
        """End an exchange because a person wants it; whether that can be done."""
        return self.watch.fail_of(exchange, stopped()) or self.gateway.refuse(exchange, stopped())

    def start(self) -> None:
        """Begin to watch streams."""
        self._work = asyncio.create_task(self.watch.run())

    async def close(self) -> None:
        """End. No request is open."""
        if self._work is not None:
            await cancelled(self._work)


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait until it has ended."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
