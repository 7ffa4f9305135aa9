"""Which store holds what outlives a request: this process's memory, or Redis."""

from collections.abc import Coroutine
from typing import Any, Final

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.shared_store import without_secrets
from lifecycle_proxy.state import redis_link
from lifecycle_proxy.state.health import StoreHealth
from lifecycle_proxy.state.pending_calls import MemoryStore, Store
from lifecycle_proxy.state.redis_calls import RedisCalls
from lifecycle_proxy.state.shared_calls import SharedCalls
from lifecycle_proxy.telemetry.metrics import Metrics

_PATIENCE_S: Final = 0.5


class SharedState:
    """The stores of one process.

    Args:
        settings: ``[streams]``, and how long calls wait.
        metrics: counts calls that nobody ended, and failures of the store.
    """

    calls: Store

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        ttl_s, own = settings.lifecycle.registry_ttl_s, settings.streams
        self._link: redis_link.RedisLink | None = None
        if own.store == "memory":
            self.calls = MemoryStore(ttl_s, metrics.completed)
            return
        health = StoreHealth(without_secrets(own.store), metrics.store_failed)
        self._link = redis_link.RedisLink(redis_link.client(own.store, _PATIENCE_S), health)
        table = RedisCalls(self._link, own.prefix)
        self.calls = SharedCalls(table, ttl_s, metrics.completed)

    def works(self) -> list[Coroutine[Any, Any, None]]:
        """What runs in the background while the proxy does."""
        works = [self.calls.run()]
        if self._link is not None:
            works.append(self._link.run())
        return works
