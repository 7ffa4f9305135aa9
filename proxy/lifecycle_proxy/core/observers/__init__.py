"""Readers of upstream event streams: one module for each API. ``core.apis`` lists them."""

from collections.abc import Sequence
from typing import Protocol

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.events import Envelope, Observation


class Observer(Protocol):
    """Turns the events of one upstream stream into observations, keeping what it needs to do so."""

    def observe(self, event: sse.Event) -> Sequence[Observation]:
        """What one event says. Never raises for anything an upstream can send."""
        ...

    def skim(self, raw: bytes) -> bool:
        """Whether one whole event holds text or known arguments only, without decoding all of it.

        If so it has been taken in; ``observe`` would have reported activity and nothing else.
        """
        ...

    def update(self, envelope: Envelope) -> None:
        """Copy what added frames must carry from the latest chunk."""
        ...
