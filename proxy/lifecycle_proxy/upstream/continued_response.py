"""A response that another upstream goes on with if the first one breaks off within the stream."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from multidict import CIMultiDictProxy

from lifecycle_proxy.core.continuation import Continuation
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.exchange.ports import BodySink, UpstreamResponse

log = logging.getLogger("proxy.upstream")

# Asks the next target for what follows behind this answer; None if none can.
GoOn = Callable[[Continuation], Awaitable[UpstreamResponse | None]]


class ContinuedResponse:
    """The port ``UpstreamResponse`` around one after another.

    Args:
        first: an event stream of chat completions; nobody is attached to it.
        go_on: gets the next one.
    """

    def __init__(self, first: UpstreamResponse, go_on: GoOn) -> None:
        self.status = first.status
        self.reason = first.reason
        self._first = self._inner = first
        self._go_on = go_on
        self._answer = Continuation()
        self._sink: BodySink | None = None
        self._is_paused = False
        self._is_attached = False  # to the one that sends now
        self._task: asyncio.Task[None] | None = None

    @property
    def headers(self) -> "CIMultiDictProxy[str]":
        return self._first.headers

    @property
    def raw_headers(self) -> Headers:
        return self._first.raw_headers

    @property
    def was_reset(self) -> bool:
        return self._inner.was_reset

    def attach(self, sink: BodySink) -> None:
        """See ``UpstreamResponse``."""
        self._sink = sink
        if self._task is None:
            self._is_attached = True
            self._inner.attach(self)

    def detach(self) -> None:
        """See ``UpstreamResponse``."""
        self._sink = None
        self._is_attached = False
        self._inner.detach()

    def pause(self) -> None:
        """See ``UpstreamResponse``."""
        self._is_paused = True
        self._inner.pause()

    def resume(self) -> None:
        """See ``UpstreamResponse``."""
        self._is_paused = False
        if self._is_attached:
            self._inner.resume()

    def close(self) -> None:
        """See ``UpstreamResponse``."""
        self._sink = None
        if self._task is not None:
            self._task.cancel()
        self._inner.close()

    def maybe_upgraded(self) -> Any:
        """See ``UpstreamResponse``. An event stream is no tunnel."""

    # --- from the upstream ----------------------------------------------------------------------

    def data_received(self, data: bytes, framed: bytes = b"") -> None:
        """See ``BodySink``."""
        out = self._answer.feed(data)
        if out and self._sink is not None:
            self._sink.data_received(out, framed if out is data else b"")

    def ended(self, failure: ProxyError | None) -> None:
        """See ``BodySink``. An end without the answer's own end is a failure, too."""
        self._is_attached = False
        if self._answer.is_over or self._answer.is_lost:
            self._end(failure)
        else:
            self._task = asyncio.ensure_future(self._continue(failure))

    async def _continue(self, failure: ProxyError | None) -> None:
        broken = self._inner
        try:
            following = await self._go_on(self._answer)
        except ProxyError:
            following = None
        except Exception:  # the stream must end all the same
            log.exception("a bug in the proxy")
            following = None
        self._task = None
        if following is None:
            self._end(failure)
            return
        broken.close()
        self._inner = following
        if self._is_paused:
            following.pause()
        if self._sink is not None:
            self._is_attached = True
            following.attach(self)

    def _end(self, failure: ProxyError | None) -> None:
        sink, rest = self._sink, self._answer.rest()
        if sink is None:
            return
        if rest and failure is None:  # else it is a part of an event, of no use to anybody
            sink.data_received(rest)
        sink.ended(failure)
