"""A response, pushed to a sink as it comes: the port ``UpstreamResponse``."""

from typing import TYPE_CHECKING, Final

from multidict import CIMultiDict, CIMultiDictProxy

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.exchange.ports import BodySink, Upgraded
from lifecycle_proxy.upstream.http1.head import ResponseHead

if TYPE_CHECKING:
    from lifecycle_proxy.upstream.http1.connection import HttpConnection

# What nobody has taken yet. Behind this much no more is read.
_KEPT_BYTES: Final = 1 << 16


class HttpResponse:
    """One response. The connection tells it what comes; who has attached a sink gets that.

    Args:
        connection: the one that it comes on. It is let go at the end of the body.
        head: status line and headers.
    """

    __slots__ = (
        *("_connection", "_end", "_is_over", "_is_paused", "_kept", "_kept_bytes"),
        *("_sink", "headers", "raw_headers", "reason", "status", "was_reset"),
    )

    def __init__(self, connection: "HttpConnection", head: ResponseHead) -> None:
        self.status = head.status
        self.reason = head.reason
        self.raw_headers: Headers = head.headers
        self.was_reset = False
        self.headers = CIMultiDictProxy(CIMultiDict(head.headers))
        self._connection: HttpConnection | None = connection
        self._sink: BodySink | None = None
        self._is_paused = False
        self._kept: list[bytes] = []  # what nobody has taken
        self._kept_bytes = 0
        self._is_over = False
        self._end: ProxyError | None = None

    # --- for the relay ----------------------------------------------------------------------------

    def attach(self, sink: BodySink) -> None:
        """See ``UpstreamResponse``."""
        self._sink = sink
        self._push_kept()

    def detach(self) -> None:
        """See ``UpstreamResponse``."""
        self._sink = None
        self._update()

    def pause(self) -> None:
        """See ``UpstreamResponse``."""
        self._is_paused = True
        if self._connection is not None:
            self._connection.pause()
        self._update()

    def resume(self) -> None:
        """See ``UpstreamResponse``."""
        self._is_paused = False
        self._push_kept()

    def close(self) -> None:
        """See ``UpstreamResponse``. A connection with a rest of the body on it is closed."""
        self._sink = None
        self._kept.clear()
        self._kept_bytes = 0
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def maybe_upgraded(self) -> Upgraded | None:
        """See ``UpstreamResponse``."""
        return self._connection if self.status == 101 else None

    # --- for the connection -----------------------------------------------------------------------

    @property
    def direct(self) -> BodySink | None:
        """Who takes all that comes at once, if somebody does."""
        return None if self._is_paused or self._kept else self._sink

    def push(self, data: bytes, framed: bytes) -> None:
        """A part of the body has come.

        Args:
            data: not empty.
            framed: see ``BodySink``.
        """
        if (sink := self.direct) is not None:
            sink.data_received(data, framed)
            return
        self._kept.append(data)
        self._kept_bytes += len(data)
        if self._kept_bytes > _KEPT_BYTES and self._connection is not None:
            self._connection.pause()

    def end(self, failure: ProxyError | None) -> None:
        """Nothing follows. The connection is not this response's any more."""
        self._connection = None
        self._is_over, self._end = True, failure
        self._push_kept()

    def _push_kept(self) -> None:
        """Push what has come before, and its end, or read on."""
        sink = self._sink
        while self._kept and self._sink is sink and sink is not None and not self._is_paused:
            data = b"".join(self._kept) if len(self._kept) > 1 else self._kept[0]
            self._kept.clear()
            self._kept_bytes = 0
            sink.data_received(data)
        if self._sink is not sink or sink is None or self._kept:
            return
        if self._is_over:
            self._sink = None
            sink.ended(self._end)
        elif not self._is_paused:
            self._update()
            if self._connection is not None:
                self._connection.resume()

    def _update(self) -> None:
        if self._connection is not None:
            self._connection.update()
