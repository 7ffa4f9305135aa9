"""A stream that nobody is sent: it goes on without its client, for readers beside it.

It passes the same stages as one that a client reads, so what listeners get of it is the same.
"""

import asyncio
import time

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.exchange.ports import UpstreamResponse
from lifecycle_proxy.relay.body import Body
from lifecycle_proxy.relay.receiver import BodyReceiver


class DetachedStream(BodyReceiver):
    """One response without a client. It is the sink of the upstream's body.

    Args:
        exchange: its request has been answered already.
        upstream: the response; nobody is attached to it.
        start: what was read of its body.
        body: what becomes of the bytes.
    """

    def __init__(
        self, exchange: Exchange, upstream: UpstreamResponse, start: bytes, body: Body
    ) -> None:
        super().__init__(exchange, upstream, body, asyncio.get_running_loop())
        self._start = start

    async def run(self) -> None:
        """Read until the end, whatever the end."""
        exchange, listeners = self.exchange, self.exchange.listeners
        try:
            if listeners.follow_bytes:
                answer = self._upstream
                listeners.on_head(exchange, "client", answer.status, "", answer.raw_headers)
            exchange.first_byte = self.last_read
            if self._start:
                self.data_received(self._start)
            if not self._finished.done():
                self._upstream.attach(self)
            failure = await self._finished
        finally:
            self._detach()
            self._upstream.close()
        self._end(failure)

    def _end(self, failure: ProxyError | None) -> None:
        exchange, now = self.exchange, time.monotonic()
        if failure is None:
            exchange.ended = "done"
            data = self._body.eof(now)
        else:
            exchange.fail(failure.code, failure.for_log())
            data = self._body.abort(failure, now)
        exchange.last_byte = self.last_read
        if data:
            exchange.listeners.on_write(exchange, data, self._body.added)

    # --- for the watchdog -----------------------------------------------------------------------

    def stall(self) -> None:
        """See ``Watched``."""
        cause = f"nothing came for {time.monotonic() - self.last_read:.1f} s"
        message = "the upstream stopped sending during the stream"
        self.fail(ProxyError("upstream_timeout", message, cause=cause))

    def beat(self, now: float) -> None:
        """See ``Watched``. Nobody waits for a sign of life."""
        self.last_write = now

    # --- what comes from the upstream -----------------------------------------------------------

    def data_received(self, data: bytes, framed: bytes = b"") -> None:
        """See ``BodySink``."""
        exchange, self.last_read = self.exchange, time.monotonic()
        exchange.chunks += 1
        try:
            body = self._body
            out = data if body.skim(data) else body.feed(data, self.last_read)
            if exchange.listeners.follow_bytes:
                exchange.listeners.on_chunk(exchange, data, out, body.added, self.last_read)
        except Exception as failure:
            self._failed(failure)
