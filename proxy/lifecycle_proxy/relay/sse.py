"""An event stream that frames are added to: decompression and the core, as the stages of a body."""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from lifecycle_proxy.core.apis import Api
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.events import Outcome, ToolCompleted
from lifecycle_proxy.core.output import Step
from lifecycle_proxy.core.pipeline import Pipeline, never
from lifecycle_proxy.exchange.content_coding import Decompressor
from lifecycle_proxy.exchange.ends import ENDS, ended_by
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.failover import Failover
from lifecycle_proxy.exchange.model import Added, Exchange, Listener

HEARTBEAT: Final = b": keep-alive\n\n"  # never ": ping": Continue stops reading there


FAILOVER: Final = "failover"  # the reason of calls that an upstream left open


class StreamBody:
    """The body of one event stream.

    Args:
        exchange: what metrics and the log are to know is noted there.
        pipeline: adds the frames.
        api: of the stream.
        is_compressed: it came so though ``identity`` was asked for, and is sent on decompressed.
    """

    def __init__(
        self,
        exchange: Exchange,
        pipeline: Pipeline,
        api: Api,
        *,
        is_compressed: bool,
    ) -> None:
        self.added: Added = ()
        self.ends_after_error = DIALECTS[exchange.dialect].ends_after_error
        self._exchange = exchange
        self._pipeline = pipeline
        self.skim: Callable[[bytes], bool] = never if is_compressed else pipeline.skim
        self._is_continued = False  # the next read is another upstream's
        self._api = api
        self._decompressor = Decompressor() if is_compressed else None
        exchange.stream = True
        exchange.counts = pipeline.counts
        if exchange.upstream:
            exchange.listeners.add(_Continued(self))

    def feed(self, data: bytes, now: float) -> bytes:
        """See ``Body``."""
        if self._decompressor is not None:
            data = self._decompressor.feed(data)
            self.added = ()
            if not self._is_continued and self._pipeline.skim(data):
                return data
        decode = self._decode_continued if self._is_continued else self._pipeline.decode
        step = decode(data, now)
        if self._decompressor is None:
            self.skim = self._pipeline.skim
        self.added = step.added
        if step.events:
            self._note(step)
        return step.data

    def continues(self) -> None:
        """What comes next is of another upstream, which goes on with the answer."""
        self._is_continued, self.skim = True, never

    def _decode_continued(self, data: bytes, now: float) -> Step:
        """The first read of another upstream: calls that the one before left open end here."""
        self._is_continued = False
        ended = self._pipeline.abort(FAILOVER, now, outcome=Outcome.CUT)
        step, at = self._pipeline.decode(data, now), len(ended.data)
        return Step(
            ended.data + step.data,
            ended.events + step.events,
            (*ended.added, *((start + at, stop + at) for start, stop in step.added)),
            ended.frames + step.frames,
        )

    def check_end(self) -> None:
        """See ``Body``."""
        if self._decompressor is not None:
            self._decompressor.check_end()

    def eof(self, now: float) -> bytes:
        """See ``Body``."""
        if not self._pipeline.is_done:
            self._exchange.ended = "eof"
        return self._last(self._pipeline.eof(now))

    def abort(self, failure: ProxyError, now: float) -> bytes:
        """See ``Body``. Open calls are completed, then comes an error in the API's form."""
        reason = ENDS[ended_by(failure.code)].reason
        envelope, own_id = self._pipeline.envelope, self._exchange.envelope().id
        if self._pipeline.is_done:
            envelope = replace(envelope, id=own_id)  # that answer stays a whole one
        is_first = envelope.id == own_id
        error = failure.frame(self._api, envelope, is_first=is_first)
        return self._last(self._pipeline.abort(reason, now, outcome=Outcome.CUT, error=error))

    def client_gone(self, now: float) -> None:
        """See ``Body``."""
        reason = ENDS["client_gone"].reason
        # A client that has the finish reason may well run the calls, and send their results.
        step = self._pipeline.abort(reason, now, outcome=Outcome.CANCELLED, beats_finish=False)
        if self._pipeline.is_done:
            self._exchange.ended = "done"  # SDKs leave at [DONE], before the body ends
        self._last(replace(step, data=b"", added=(), frames=0))  # nobody gets it

    def heartbeat(self) -> bytes:
        """See ``Body``. Between events only."""
        return self._pipeline.comment(HEARTBEAT) if self._pipeline.between_events else b""

    def _last(self, step: Step) -> bytes:
        self._note(step)
        self.added = step.added
        self._exchange.oversized = self._pipeline.oversized
        self._exchange.answer = self._pipeline.envelope
        self._exchange.sent_bytes += len(step.data)
        return step.data

    def _note(self, step: Step) -> None:
        """What metrics and the log are to know of the calls."""
        self._exchange.frames += step.frames
        if step.events:
            self._exchange.listeners.on_lifecycle(self._exchange, step.events)
        self._exchange.tools += [e for e in step.events if isinstance(e, ToolCompleted)]


class _Continued(Listener):
    """Tells a body that another upstream goes on: there is a failover within its stream."""

    def __init__(self, body: StreamBody) -> None:
        self._body = body

    def on_failover(self, exchange: Exchange, failover: Failover) -> None:
        self._body.continues()
