"""What takes a response's body, and whose failures end the response and nothing else."""

import asyncio
import logging
import time

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.exchange.ports import UpstreamResponse
from lifecycle_proxy.relay.body import Body

log = logging.getLogger("proxy.relay")


class BodyReceiver:
    """The sink of one upstream's body: a ``BodySink``.

    Args:
        exchange: to which it belongs.
        upstream: the response; nobody is attached to it.
        body: what becomes of the bytes.
        loop: the running one. To ask for it is a system call for each stream before Python 3.12.

    Attributes:
        exchange, last_read, last_write: for the watchdog.
    """

    def __init__(
        self,
        exchange: Exchange,
        upstream: UpstreamResponse,
        body: Body,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.exchange = exchange
        self.last_read = self.last_write = time.monotonic()
        self._upstream = upstream
        self._body = body
        self._finished: asyncio.Future[ProxyError | None] = loop.create_future()

    def data_received(self, data: bytes, framed: bytes = b"") -> None:
        """See ``BodySink``. What is raised in here goes to ``_failed``."""

    def _failed(self, failure: Exception) -> None:
        """What came cannot be passed on."""
        if isinstance(failure, ProxyError):
            self._finish(failure)
            return
        self._finish(ProxyError("internal", f"the proxy failed: {type(failure).__name__}"))
        log.error("a bug in the proxy", exc_info=failure)

    def ended(self, failure: ProxyError | None) -> None:
        """See ``BodySink``."""
        try:
            if failure is None:
                self._body.check_end()
        except ProxyError as truncated:
            failure = truncated
        self._finish(failure)

    def fail(self, failure: ProxyError) -> None:
        """End as broken."""
        self._finish(failure)

    def _finish(self, failure: ProxyError | None) -> None:
        """The upstream has nothing more to say, or is not to be heard any more."""
        self._detach()
        if not self._finished.done():
            self._finished.set_result(failure)

    def _detach(self) -> None:
        self._upstream.detach()
