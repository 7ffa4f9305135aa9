"""Claims in the memory of one process: see ``EventLog.claim``."""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from lifecycle_proxy.state.stream_records import Claim

_MAX_CLAIMS: Final = 10_000


class MemoryClaims:
    """Who holds which name, and until when.

    Args:
        clock: the monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held: OrderedDict[tuple[str, str], tuple[float, Claim]] = OrderedDict()

    def claim(self, owner: str, name: str, claim: Claim, ttl_s: float) -> Claim:
        """See ``EventLog``."""
        now, at = self._clock(), (owner, name)
        deadline, held = self._held.get(at, (-math.inf, claim))
        if deadline > now and held != claim:
            return held
        self._held[at] = (now + ttl_s, claim)
        self._held.move_to_end(at)
        if len(self._held) > _MAX_CLAIMS:
            self._held.popitem(last=False)
        return claim

    def release(self, owner: str, name: str, claim: Claim) -> None:
        """See ``EventLog``."""
        held = self._held.get((owner, name))
        if held is not None and held[1] == claim:
            del self._held[owner, name]

    def sweep(self) -> None:
        """Forget what is held no longer."""
        now = self._clock()
        for name in [name for name, (deadline, _) in self._held.items() if deadline <= now]:
            del self._held[name]
