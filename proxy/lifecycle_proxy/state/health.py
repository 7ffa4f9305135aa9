"""Whether the store outside of this process answers: counted, and said in the log once."""

import logging
import time
from collections.abc import Callable

log = logging.getLogger("proxy.state")


class StoreError(Exception):
    """The store is down, hangs, or answers what cannot be understood. The text says which."""


class StoreHealth:
    """What is known of a store.

    Attributes:
        is_down: it did not answer when it was asked last.
        up_at: since when it answers, in seconds on the monotonic clock.

    Args:
        name: of the store, for the log: no password.
        count: called once for each request that the store did not answer.
    """

    def __init__(self, name: str, count: Callable[[], None]) -> None:
        self.is_down = False
        self.up_at = time.monotonic()
        self._name = name
        self._count = count
        self._said: set[str] = set()

    def down(self, why: str) -> None:
        """It cannot be reached."""
        self._count()
        if not self.is_down:
            self.is_down = True
            log.error(
                "the store %s is down: %s. Chats go on; what other processes know is missing",
                *(self._name, why),
            )

    def up(self) -> None:
        """It answers."""
        if self.is_down:
            self.is_down = False
            self.up_at = time.monotonic()
            log.warning("the store %s answers again", self._name)

    def refused(self, why: str) -> StoreError:
        """It answers, but not as it should. Each kind of answer is logged once."""
        self._count()
        kind = why.partition(" ")[0]
        if kind not in self._said and len(self._said) < 10:
            self._said.add(kind)
            log.error("the store %s refuses a command (logged once): %s", self._name, why)
        return StoreError(why)
