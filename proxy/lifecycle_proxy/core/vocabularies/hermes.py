"""``hermes``: the proxy's own form of a stream's events, with ids for ``Last-Event-ID``."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from lifecycle_proxy.core.dialects.fields import dumps
from lifecycle_proxy.core.stream_events import ClosedReason, StreamEvent
from lifecycle_proxy.core.vocabularies.frames import EVENT_STREAM, KEEP_ALIVE, named

# Browsers reconnect after so long. A comment shows that the connection stands.
CONNECTED: Final = b"retry: 2000\n: connected\n\n"


class Hermes:
    """Each event as ``id``, ``event`` and JSON ``data``.

    Args:
        stream_id: of the stream, for ``streamId``.
    """

    headers: ClassVar[Mapping[str, str]] = EVENT_STREAM
    needs_history: ClassVar[bool] = False

    def __init__(self, stream_id: str) -> None:
        self._stream_id = stream_id

    def begin(self) -> bytes:
        return CONNECTED

    def render(self, event: StreamEvent) -> bytes:
        own = {"seq": event.seq, "ts": round(event.at, 3), "streamId": self._stream_id}
        lines = (event.seq, event.type.encode(), dumps({**event.data, **own}))
        return b"id: %d\nevent: %b\ndata: %b\n\n" % lines

    def gap(self, requested: int, first: int, open_calls: Sequence[Mapping[str, Any]]) -> bytes:
        """See ``Vocabulary``. Without an id: the cursor stays where it was."""
        data = {"requested": requested, "firstAvailable": first, "openCalls": list(open_calls)}
        return self._own("gap", data)

    def reset(self, requested: int) -> bytes:
        return self._own("reset", {"requested": requested})

    def keep_alive(self, at: float) -> bytes:
        return KEEP_ALIVE

    def closed(self, reason: ClosedReason, message: str) -> bytes:
        """See ``Vocabulary``."""
        return self._own("closed", {"reason": reason, "message": message})

    def done(self) -> bytes:
        return b""

    def _own(self, name: str, data: dict[str, Any]) -> bytes:
        return named(name, {**data, "streamId": self._stream_id})
