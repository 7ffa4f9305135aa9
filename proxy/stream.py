"""The relay of an event stream that frames are added to."""

import time
from typing import Final

import aiohttp
from aiohttp import web

from proxy.core.dialects import DIALECTS
from proxy.core.events import Outcome, ToolCompleted
from proxy.core.pipeline import Pipeline, Step
from proxy.errors import ProxyError
from proxy.exchange import Vocabulary
from proxy.inflate import Inflate, coding
from proxy.relay import Relay

HEARTBEAT: Final = b": keep-alive\n\n"  # never ": ping": Continue stops reading there
_REASONS: Final = {"draining": "drained", "upstream_timeout": "upstream_timeout"}


class StreamRelay(Relay):
    """One event stream on its way to one client, through the core.

    Args:
        request: the client's.
        upstream: the answer, its head already read.
        response: for the client.
        pipeline: what becomes of the bytes.
        vocabulary: what the stream speaks.
    """

    def __init__(
        self,
        request: web.Request,
        upstream: aiohttp.ClientResponse,
        response: web.StreamResponse,
        pipeline: Pipeline,
        vocabulary: Vocabulary,
    ) -> None:
        super().__init__(request, upstream, response)
        self._vocabulary = vocabulary
        self._pipeline = pipeline
        self._skim = pipeline.skim
        self._ends_after_error = DIALECTS[self._exchange.dialect].ends_after_error
        self._exchange.stream = True
        self._exchange.counts = pipeline.counts
        # Compressed though asked for plain: it is sent on in clear.
        self._inflate = Inflate() if coding(upstream) else None

    def beat(self, now: float) -> None:
        """A comment, between events only, and not to a client that is behind."""
        transport = self._transport
        if transport is None or transport.get_write_buffer_size():
            return
        if self._pipeline.between_events:
            self._send(HEARTBEAT)
            self.last_write = now

    def _take(self, chunk: bytes, now: float) -> bytes:
        if self._inflate is not None:
            chunk = self._inflate.feed(chunk)
            self._added = ()
        if self._skim(chunk):
            return chunk
        step = self._pipeline.decode(chunk, now)
        self._added = step.added
        if step.events:
            self._note(step)
        return step.data

    def _check_body(self) -> None:
        if self._inflate is not None:
            self._inflate.check_end()

    def _end(self) -> bytes:
        if self._pipeline.is_done:
            self._exchange.ended = "done"
        return self._last(self._pipeline.eof(time.monotonic()))

    def _broken(self, failure: ProxyError) -> bytes:
        reason = _REASONS.get(failure.code, "upstream_error")
        error = failure.frame(self._vocabulary)
        now = time.monotonic()
        return self._last(self._pipeline.abort(reason, now, outcome=Outcome.CUT, error=error))

    def _client_gone(self) -> None:
        gone, now = Outcome.CANCELLED, time.monotonic()
        # What it has the finish of it may well run, and send the result.
        step = self._pipeline.abort("client_disconnected", now, outcome=gone, beats_finish=False)
        if self._pipeline.is_done:
            self._exchange.ended = "done"  # SDKs leave at [DONE], before the body ends
        self._last(step)

    def _last(self, step: Step) -> bytes:
        self._note(step)
        self._added = step.added
        self._exchange.oversized = self._pipeline.oversized
        self._exchange.sent_bytes += len(step.data)
        return step.data

    def _note(self, step: Step) -> None:
        """What metrics and the log want to know of the calls."""
        self._exchange.frames += len(step.events)
        if self._tape is not None:
            self._exchange.told += step.events
        self._exchange.tools += [e for e in step.events if isinstance(e, ToolCompleted)]
