"""A response that is written here, piece by piece: the port ``UpstreamResponse``."""

import asyncio
from collections.abc import Callable
from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.exchange.ports import BodySink

_HIGH_BYTES: Final = 1 << 18  # held back for a client that is behind, before the agent has to wait


class WrittenResponse:
    """A response with a body that is still being written.

    Args:
        content_type: of the body.
        on_close: called when nobody wants the rest.
        on_pressure: called with True when the reader is behind, with False when it is not any more.
    """

    def __init__(
        self,
        content_type: str,
        *,
        on_close: Callable[[], None] = lambda: None,
        on_pressure: Callable[[bool], None] = lambda is_behind: None,
    ) -> None:
        self.status, self.reason = 200, "OK"
        self.raw_headers: Headers = (("Content-Type", content_type),)
        self.headers: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict(self.raw_headers))
        self.was_reset = False
        self._on_close = on_close
        self._on_pressure = on_pressure
        self._sink: BodySink | None = None
        self._kept: list[bytes] = []
        self._size = 0
        self._is_paused = False
        self._has_pressure = False
        self._end: tuple[ProxyError | None] | None = None
        self._is_closed = False
        self._timer: asyncio.Handle | None = None

    def write(self, data: bytes) -> None:
        """More of the body."""
        if self._is_closed or self._end is not None or not data:
            return
        if self._sink is not None and not self._is_paused and not self._kept:
            self._sink.data_received(data)
            return
        self._kept.append(data)
        self._size += len(data)
        if self._size > _HIGH_BYTES and not self._has_pressure:
            self._has_pressure = True
            self._on_pressure(True)

    def finish(self, failure: ProxyError | None = None) -> None:
        """The end of the body, proper or as a failure."""
        if self._end is None:
            self._end = (failure,)
            self._schedule()

    def maybe_upgraded(self) -> None:
        """See ``UpstreamResponse``. Agents have no WebSockets."""

    def attach(self, sink: BodySink) -> None:
        """See ``UpstreamResponse``."""
        self._sink = sink
        self._schedule()

    def detach(self) -> None:
        """See ``UpstreamResponse``."""
        self._sink = None

    def pause(self) -> None:
        """See ``UpstreamResponse``."""
        self._is_paused = True

    def resume(self) -> None:
        """See ``UpstreamResponse``."""
        self._is_paused = False
        self._schedule()

    def close(self) -> None:
        """See ``UpstreamResponse``."""
        if self._is_closed:
            return
        self._is_closed = True
        self._kept.clear()
        self._on_close()

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._timer = None
        if self._is_paused or (sink := self._sink) is None:
            return
        if self._kept:
            data = b"".join(self._kept)
            self._kept.clear()
            self._size = 0
            sink.data_received(data)
        if self._has_pressure and not self._is_paused:
            self._has_pressure = False
            self._on_pressure(False)
        if self._end is not None and self._sink is sink and not self._kept:
            self._sink = None
            sink.ended(self._end[0])


def stored(body: bytes) -> WrittenResponse:
    """A whole JSON response."""
    response = WrittenResponse("application/json")
    response.raw_headers = (*response.raw_headers, ("Content-Length", str(len(body))))
    response.headers = CIMultiDictProxy(CIMultiDict(response.raw_headers))
    response.write(body)
    response.finish()
    return response
