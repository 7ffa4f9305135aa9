"""Upstream bytes in, client bytes out, with lifecycle frames between the upstream's events.

Strategy: the upstream's bytes are passed on as they came, and only looked at. ``sse.Parser`` cuts
them into events and keeps the raw bytes of each; ``Tracker`` says which frames follow from an event
(observer, lifecycle, dialect); ``Rewriter`` takes out what a client must not see; ``Output`` puts
all of it together. This module decides where a frame may stand, and what has to wait for it.

Rules:

1. What comes out, less the frames that were added, is byte for byte what went in, but for what
   ``Rewriter`` takes out and for lifecycle events of the upstream's own (rule 4).
2. A frame stands only between events, and where clients still read: in front of an error, of
   ``[DONE]`` and of the end of an answer. Each observation says on which side of its event
   (``before``).
3. Bytes are held back only where a frame may have to go in front of them: an unfinished event while
   a call is open, since it may turn out to be ``[DONE]`` or an error; or one that may turn out to
   be a lifecycle event of the upstream's own. All else leaves with the read that it came in.
4. One pair of events for each call. Where the upstream has lifecycle events itself (Hermes Agent's
   ``hermes.tool.progress``), each is replaced by the dialect's, or passed and nothing is added.
5. The chat goes on whatever fails here. An observer, dialect or presenter that raises is switched
   off for this stream, what is open is completed, and the bytes pass untouched from then on.

Warnings:

- The events do not depend on how the bytes were cut into reads (``tests/core/test_laws.py``); which
  bytes are in one ``Step`` does.
- Nearly every chunk takes the way of ``skim``: a property or a call more there can be measured.
"""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.apis import Api
from lifecycle_proxy.core.context import DEFAULT_CONTEXT, PipelineOptions, StreamContext
from lifecycle_proxy.core.dialects import Dialect
from lifecycle_proxy.core.events import Envelope, NativeProgress, Outcome, StreamEnded
from lifecycle_proxy.core.observers import hermes
from lifecycle_proxy.core.output import Output, Step, gap_after
from lifecycle_proxy.core.rewriter import Rewriter
from lifecycle_proxy.core.tracker import Tracker, leading

_BOM: Final = b"\xef\xbb\xbf"
_BLANK_BYTES: Final = len(b"\r\n\r\n")


def never(chunk: bytes) -> bool:
    """A ``skim`` that takes nothing."""
    return False


class Pipeline:
    """One upstream event stream on its way to one client.

    Attributes:
        skim: whether a read is one event that needs no frame and says nothing of a call. If so it
            has been taken in, and is to be passed on as it is, as nearly every chunk is. Else
            ``decode`` takes it. Which function this is changes with each ``decode``: to ask here
            whether an event is unfinished would be a call more for each chunk.
        counts: what was ignored.

    Args:
        api: of the stream.
        dialect: in which the client gets lifecycle events.
        envelope: stands for the upstream's id, created and model until its first chunk has come.
        options: those of the proxy.
        context: what is known of this stream.
    """

    def __init__(
        self,
        api: Api,
        dialect: Dialect,
        envelope: Envelope,
        options: PipelineOptions,
        *,
        context: StreamContext = DEFAULT_CONTEXT,
    ) -> None:
        writer = api.writer(dialect)
        self._parser = sse.Parser(options.max_event_bytes)
        self._output = Output()
        self._rewriter = Rewriter(
            context,
            hides_results=writer.hides_results,
            page_events=context.page_events if dialect.runs_page_events else "all",
        )
        self._rewrites = self._rewriter.is_active
        self._tracker = Tracker(
            api, writer, envelope, options, context, output=self._output, rewriter=self._rewriter
        )
        self.skim: Callable[[bytes], bool] = self._tracker.skim
        self._skim = self._tracker.skim
        self.counts = self._tracker.counts
        self._is_silent = dialect.is_silent
        keeps_native = dialect.keeps_native or not options.translate
        self._keeps_native = keeps_native and not dialect.drops_native
        self._drops_native = dialect.drops_native
        self._passed = 0  # bytes of the parser's tail that the client already has
        self._is_due = False  # the current event has still to be passed on

    @property
    def between_events(self) -> bool:
        """Whether a comment may be written now: not inside an event, nor behind ``[DONE]``."""
        return not self._output.gap and not self._tracker.is_done

    @property
    def is_done(self) -> bool:
        """Whether the upstream has ended its last answer, by ``[DONE]`` or the API's own word."""
        return self._tracker.is_done or self._tracker.has_ended

    @property
    def envelope(self) -> Envelope:
        """What the upstream's latest chunk says of its answer."""
        return self._tracker.envelope

    @property
    def oversized(self) -> int:
        """How many events were too large to be looked at."""
        return self._parser.oversized

    def comment(self, frame: bytes) -> bytes:
        """A comment, as this stream takes it: see ``Output.comment``."""
        return self._output.comment(frame)

    # --- inputs ---------------------------------------------------------------------------------

    def feed(self, chunk: bytes, now: float) -> Step:
        """Take what one read gave.

        Args:
            chunk: bytes after transfer decoding.
            now: seconds on a monotonic clock.
        """
        return Step(chunk) if self.skim(chunk) else self.decode(chunk, now)

    def decode(self, chunk: bytes, now: float) -> Step:
        """Take a read that ``skim`` did not take.

        Args:
            chunk: bytes after transfer decoding.
            now: seconds on a monotonic clock.
        """
        parser = self._parser
        held = len(parser.tail) - self._passed
        for event in parser.feed(chunk):
            if event.raw != chunk and self._skim(event.raw):
                self._pass_raw(event, is_skimmed=True)
            else:
                self._pass_on(event, now)
        tail = parser.tail
        if self._passed != len(tail) and not self._must_hold(tail):
            stop = max(self._passed, len(tail) - parser.undecided)
            # No more than half a blank line is a tail of line ends alone.
            is_blank = len(tail) < _BLANK_BYTES and not tail.strip(b"\r\n")
            gap = b"" if is_blank else gap_after(tail)
            self._output.pass_on(bytes(tail[self._passed : stop]), gap)
            self._passed = stop
        self.skim = never if tail or self._output.gap else self._skim
        is_whole = not held and self._passed == len(tail)
        return self._output.take(chunk if is_whole else None)

    def eof(self, now: float) -> Step:
        """The upstream ended its answer, properly by the rules of HTTP."""
        for event in self._parser.eof():
            self._pass_on(event, now)
        self._tracker.close(StreamEnded("upstream_eof", Outcome.CUT), now)
        self._output.write(self._rewriter.left_out())
        self._release()
        return self._output.take()

    def abort(
        self,
        reason: str,
        now: float,
        *,
        outcome: Outcome = Outcome.FAILED,
        error: bytes = b"",
        beats_finish: bool = True,
    ) -> Step:
        """The stream breaks here: the upstream died, a limit was reached, or we must stop.

        What is open is completed, then the error is written. An unfinished event that was held back
        follows behind: it was never whole, clients drop it.

        Args:
            reason: of each completed.
            now: seconds on a monotonic clock.
            outcome: of what is still open.
            error: an event to write behind the completions.
            beats_finish: see ``StreamEnded``.
        """
        self._tracker.close(StreamEnded(reason, outcome, beats_finish=beats_finish), now)
        self._release()
        if not self._tracker.is_done:
            self._output.write(error)
        rest = bytes(self._parser.tail[self._passed :])
        self._output.pass_on(self._rewriter.unfinished(rest), self._output.gap)
        self._passed = len(self._parser.tail)
        return self._output.take()

    def _release(self) -> None:
        """Pass on what the rewriter keeps back."""
        if raw := self._rewriter.release():
            self._output.rewrite(raw)

    # --- one event ------------------------------------------------------------------------------

    def _pass_on(self, event: sse.Event, now: float) -> None:
        """Pass on an event, with the frames that belong in front of it and behind it."""
        if self._rewrites and self._rewriter.takes_out(event, self.counts):
            self._passed = max(0, self._passed - len(event.raw))
            self._output.take_out(is_whole=event.parsed)
            return
        self._is_due = True
        tracker = self._tracker
        if tracker.carried_over and event.data is not None and event.raw.startswith(_BOM):
            event = self._behind_mark(event)
        if not (event.data is None or tracker.is_off or tracker.is_done):
            try:
                self._pass_observed(event, now)
            except Exception as failure:  # rule 5
                tracker.switch_off(failure, now)
        if self._is_due:
            self._pass_raw(event)

    def _behind_mark(self, event: sse.Event) -> sse.Event:
        """A byte order mark stays at the very start; frames go behind it."""
        if self._passed:
            return event
        self._output.pass_on(_BOM, self._output.gap)
        return replace(event, raw=event.raw.removeprefix(_BOM))

    def _pass_observed(self, event: sse.Event, now: float) -> None:
        tracker = self._tracker
        seen = tracker.maybe_observe(event)
        if seen is None:
            return
        if seen and isinstance(seen[0], NativeProgress):
            self._replace_native(event, seen[0], now)
            tracker.decide_skim()
            return
        # Of an event that is partly with the client nothing can come in front any more.
        split = 0 if self._passed else leading(seen)
        if split:
            tracker.apply(seen[:split], now)
        if not self._passed:
            tracker.write_before(seen)
        self._pass_raw(event)
        if behind := seen[split:]:
            tracker.apply(behind, now)
        tracker.decide_skim()

    def _pass_raw(self, event: sse.Event, *, is_skimmed: bool = False) -> None:
        self._is_due = False
        passed, output = self._passed, self._output
        if event.has_id:
            output.has_ids = True
        if self._drops_native and event.name == hermes.EVENT_NAME and not passed:
            output.changed = True
            return
        raw = event.raw
        if passed:
            self._passed = max(0, passed - len(raw))  # pieces of a large event overlap
            raw = raw[passed:]
        elif self._rewrites and not is_skimmed:
            raw = self._rewriter.edit(event)
            if not raw.endswith(event.raw):
                output.rewrite(raw)
                return
            output.changed |= len(raw) != len(event.raw)
        output.pieces.append(raw)  # nearly every event passes here, so no call of ``pass_on``
        output.gap = b"" if event.closed else gap_after(event.raw)

    def _replace_native(self, event: sse.Event, native: NativeProgress, now: float) -> None:
        """Write a frame in the place of the upstream's own lifecycle event, or pass it (rule 4)."""
        events, is_known = self._tracker.apply_native(native, now)
        if self._passed or (self._keeps_native and (self._is_silent or not is_known)):
            self._output.events += events
            self._pass_raw(event)
            return
        self._output.changed, self._is_due = True, False
        self._tracker.write(events)

    def _must_hold(self, tail: bytearray) -> bool:
        """Whether an unfinished event has to stay here (rule 3)."""
        if self._parser.skipping:
            return self._rewriter.is_cutting
        if self._rewrites:
            return True
        if self._is_silent:
            return not self._keeps_native and hermes.may_begin(tail)
        tracker = self._tracker
        return bool(tracker.carried_over) or tracker.has_open_calls or hermes.may_begin(tail)
