"""The relay of an event stream that frames are added to."""

import time
from dataclasses import replace
from typing import Final

from aiohttp import web

from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.events import Outcome, ToolCompleted
from lifecycle_proxy.core.pipeline import Pipeline, Step
from lifecycle_proxy.exchange.content_coding import Decompressor, coding
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import Vocabulary
from lifecycle_proxy.relay.detect import Begun
from lifecycle_proxy.relay.relay import Relay

HEARTBEAT: Final = b": keep-alive\n\n"  # never ": ping": Continue stops reading there
_REASONS: Final = {"draining": "drained", "upstream_timeout": "upstream_timeout"}


class StreamRelay(Relay):
    """One event stream on its way to one client, through the core.

    Args:
        request: the client's.
        begun: the answer.
        response: for the client.
        pipeline: what becomes of the bytes.
        vocabulary: what the stream speaks.
    """

    def __init__(
        self,
        request: web.Request,
        begun: Begun,
        response: web.StreamResponse,
        pipeline: Pipeline,
        vocabulary: Vocabulary,
    ) -> None:
        super().__init__(request, begun, response)
        self._vocabulary = vocabulary
        self._pipeline = pipeline
        self._skim = pipeline.skim
        self._ends_after_error = DIALECTS[self._exchange.dialect].ends_after_error
        self._exchange.stream = True
        self._exchange.counts = pipeline.counts
        # Compressed though asked for plain: it is sent on in clear.
        self._inflate = Decompressor() if coding(begun.answer.headers) else None

    def beat(self, now: float) -> None:
        """A comment, between events only, and not to a client that is behind."""
        transport = self._transport
        if transport is None or transport.get_write_buffer_size():
            return
        if self._pipeline.between_events:
            self._send(self._pipeline.comment(HEARTBEAT))
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
        if not self._pipeline.is_done:
            self._exchange.ended = "eof"
        return self._last(self._pipeline.eof(time.monotonic()))

    def _broken(self, failure: ProxyError) -> bytes:
        reason = _REASONS.get(failure.code, "upstream_error")
        envelope, own_id = self._pipeline.envelope, self._exchange.envelope().id
        if self._pipeline.is_done:
            envelope = replace(envelope, id=own_id)  # that answer stays a whole one
        is_first = envelope.id == own_id
        error = failure.frame(self._vocabulary, envelope, is_first=is_first)
        now = time.monotonic()
        return self._last(self._pipeline.abort(reason, now, outcome=Outcome.CUT, error=error))

    def _client_gone(self) -> None:
        gone, now = Outcome.CANCELLED, time.monotonic()
        # What it has the finish of it may well run, and send the result.
        step = self._pipeline.abort("client_disconnected", now, outcome=gone, beats_finish=False)
        if self._pipeline.is_done:
            self._exchange.ended = "done"  # SDKs leave at [DONE], before the body ends
        self._last(step._replace(data=b"", added=(), frames=0))  # nobody gets it

    def _last(self, step: Step) -> bytes:
        self._note(step)
        self._added = step.added
        self._exchange.oversized = self._pipeline.oversized
        self._exchange.sent_bytes += len(step.data)
        return step.data

    def _note(self, step: Step) -> None:
        """What metrics and the log want to know of the calls."""
        self._exchange.frames += step.frames
        if step.events:
            self._listeners.on_lifecycle(self._exchange, step.events)
        self._exchange.tools += [e for e in step.events if isinstance(e, ToolCompleted)]
