"""A ``CallTable`` in memory, for the process that has one for others."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

_MAX_VALUES: Final = 50_000
_MAX_BYTES: Final = 64 << 20


class MemoryTable:
    """Values by part and name. Above its bounds the oldest go.

    Args:
        clock: the monotonic clock, in seconds.
        max_values: how many are kept.
        max_bytes: of all of them.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        max_values: int = _MAX_VALUES,
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        self._clock = clock
        self._max_values = max_values
        self._max_bytes = max_bytes
        self._values: OrderedDict[tuple[str, str], tuple[float, bytes]] = OrderedDict()
        self._parts: dict[str, dict[str, None]] = {}
        self._bytes = 0

    def put(self, part: str, name: str, value: bytes, ttl_s: float) -> bytes | None:
        """See ``CallTable``."""
        earlier = self._maybe_pop(part, name)
        self._values[part, name] = (self._clock() + ttl_s, value)
        self._parts.setdefault(part, {})[name] = None
        self._bytes += len(value)
        while len(self._values) > self._max_values or self._bytes > self._max_bytes:
            self._maybe_pop(*next(iter(self._values)))
        return earlier

    def look(self, parts: Sequence[str]) -> list[list[bytes]]:
        """See ``CallTable``."""
        self._sweep()
        return [
            [self._values[part, name][1] for name in self._parts.get(part, ())] for part in parts
        ]

    def take(self, names: Sequence[tuple[str, str]]) -> list[bool]:
        """See ``CallTable``."""
        self._sweep()
        return [self._maybe_pop(part, name) is not None for part, name in names]

    def _sweep(self) -> None:
        """Forget what is too old, where all are kept for the same time."""
        now = self._clock()
        while self._values:
            key, (deadline, _) = next(iter(self._values.items()))
            if deadline > now:
                return
            self._maybe_pop(*key)

    def _maybe_pop(self, part: str, name: str) -> bytes | None:
        found = self._values.pop((part, name), None)
        if found is None:
            return None
        self._bytes -= len(found[1])
        names = self._parts[part]
        del names[name]
        if not names:
            del self._parts[part]
        return found[1]
