"""Readers of upstream vocabularies: one module each, chosen by the kind of stream."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.events import Counts, Envelope, Observation
from lifecycle_proxy.core.observers.chat import ChatObserver
from lifecycle_proxy.core.observers.messages import MessagesObserver
from lifecycle_proxy.core.observers.responses import ResponsesObserver


class Observer(Protocol):
    """Turns the events of one upstream stream into observations, keeping what it needs to do so."""

    def observe(self, event: sse.Event) -> Sequence[Observation]:
        """What one event says. Never raises for anything an upstream can send."""
        ...

    def skim(self, raw: bytes) -> bool:
        """A quicker look at one whole event: True where ``observe`` would find only substance."""
        ...

    def update(self, envelope: Envelope) -> None:
        """Copy what frames of ours must carry from the latest chunk."""
        ...


OBSERVERS: Final[dict[str, Callable[[Counts], Observer]]] = {
    "chat": ChatObserver,
    "messages": MessagesObserver,
    "responses": ResponsesObserver,
}
