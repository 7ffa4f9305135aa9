"""Which store holds what outlives a request: this process's memory, or Redis."""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.shared_store import without_secrets
from lifecycle_proxy.config.streams import StreamSettings
from lifecycle_proxy.state.event_log import EventLog
from lifecycle_proxy.state.health import StoreHealth
from lifecycle_proxy.state.made_ids import MadeIds
from lifecycle_proxy.state.memory_event_log import MemoryEventLog
from lifecycle_proxy.state.pending_calls import MemoryStore, Store
from lifecycle_proxy.state.redis_calls import RedisCalls
from lifecycle_proxy.state.redis_ids import RedisIds
from lifecycle_proxy.state.redis_link import RedisLink, client
from lifecycle_proxy.state.redis_log import RedisLog
from lifecycle_proxy.state.shared_calls import SharedCalls
from lifecycle_proxy.state.shared_event_log import SharedEventLog
from lifecycle_proxy.state.shared_ids import SharedIds
from lifecycle_proxy.state.stream_records import LogLimits
from lifecycle_proxy.state.wire import WireLink
from lifecycle_proxy.state.wire_tables import WireCalls, WireIds, WireLog
from lifecycle_proxy.telemetry.metrics import Metrics

_PATIENCE_S: Final = 0.5


def limits_of(own: StreamSettings) -> LogLimits:
    """How much is kept of streams, by the settings."""
    return LogLimits(
        events=own.max_events,
        bytes=own.max_bytes,
        streams=own.max_streams,
        total_bytes=own.max_total_bytes,
        resume_bytes=own.resume_max_bytes,
        resume_total_bytes=own.resume_total_bytes,
        keep_s=own.keep_s,
    )


class SharedState:
    """The stores of one process.

    Args:
        settings: ``[streams]``, and how long calls wait.
        metrics: counts calls that nobody ended, and failures of the store.
    """

    calls: Store
    events: EventLog
    ids: MadeIds

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        ttl_s, own = settings.lifecycle.registry_ttl_s, settings.streams
        self.events = events = MemoryEventLog(limits_of(own))
        self._works: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._wire: WireLink | None = None
        if own.store == "memory":
            self.ids = MadeIds()
            self.calls = MemoryStore(ttl_s, metrics.completed)
            self._works.append(self.calls.run)
            return
        if own.store.startswith("unix:"):  # of the supervisor: see ``store_process``
            health = StoreHealth("of the workers", metrics.store_failed)
            self._wire = wire = WireLink(own.store[5:], health)
            self.calls = SharedCalls(WireCalls(wire), ttl_s, metrics.completed)
            self.ids = SharedIds(WireIds(wire))
            self.events = SharedEventLog(events, WireLog(wire))
            self._works += [wire.run, self.calls.run]
            return
        health = StoreHealth(without_secrets(own.store), metrics.store_failed)
        link = RedisLink(client(own.store, _PATIENCE_S), health)
        self.calls = SharedCalls(RedisCalls(link, own.prefix), ttl_s, metrics.completed)
        self.ids = SharedIds(RedisIds(link, own.prefix))
        log = RedisLog(link, own.prefix, limits_of(own))
        self.events = SharedEventLog(events, log)
        self._works += [link.run, log.run, self.calls.run]

    def works(self) -> list[Coroutine[Any, Any, None]]:
        """What runs in the background while the proxy does, besides ``events``."""
        return [work() for work in self._works]

    @property
    def link(self) -> WireLink | None:
        """The line to the process that workers share; None where there is none."""
        return self._wire

    async def ready(self) -> None:
        """Once ``works`` run: wait for the first connection, or its failure.

        A request that came before would be answered as if there were no other workers.
        """
        if self._wire is not None:
            await self._wire.tried.wait()
