"""Joins parser, observer, lifecycle and dialect: upstream bytes in, client bytes out.

What comes out, less the frames that were added, is byte for byte what went in (but for what
``rounds`` and ``hosted_calls`` leave out). Frames stand only between events. Bytes are held back
only where a frame may have to go in front of them: an unfinished event while a call is open (it may
turn out to be ``[DONE]`` or an error, where clients stop reading), or one that may turn out to be a
lifecycle event of the upstream's own.
"""

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.apis import Api
from lifecycle_proxy.core.calls import DEFAULT_CONTEXT, Presenter, StreamContext
from lifecycle_proxy.core.dialects import Dialect
from lifecycle_proxy.core.events import (
    ACTIVITY_TYPES,
    Counts,
    Envelope,
    LifecycleEvent,
    NativeProgress,
    Observation,
    Outcome,
    StreamEnded,
    ToolCompleted,
)
from lifecycle_proxy.core.hosted_calls import HostedCallFilter, without_results
from lifecycle_proxy.core.lifecycle import Lifecycle
from lifecycle_proxy.core.observers import hermes
from lifecycle_proxy.core.rounds import FinishMerger

_NATIVE_START: Final = b"event"
_BOM: Final = b"\xef\xbb\xbf"
_BLANK_LINES: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")


class Step(NamedTuple):
    """What follows from one input.

    Attributes:
        data: the bytes to send to the client now, maybe none.
        events: the lifecycle events that became known, in order, for all other listeners.
        added: where in ``data`` frames of ours stand, as (start, stop).
        frames: how many of them are lifecycle frames. A dialect may write none for an event.
    """

    data: bytes
    events: tuple[LifecycleEvent, ...] = ()
    added: tuple[tuple[int, int], ...] = ()
    frames: int = 0


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """What all pipelines of a proxy have in common.

    Attributes:
        presenter: labels and emojis.
        make_id: makes ids for calls that have none, unique beyond their stream.
        internal_prefix: tools whose names start so have no events; "" for none.
        translate: replace the upstream's own lifecycle events by the dialect's; False passes them.
        max_event_bytes: larger events pass unparsed.
        result_preview: how many characters of a result are told; 0 for none.
        infer: what follows a call ends it.
    """

    presenter: Presenter
    make_id: Callable[[], str]
    internal_prefix: str = "_"
    translate: bool = True
    max_event_bytes: int = 8 << 20
    result_preview: int = 0
    infer: bool = False


class Pipeline:
    """One upstream event stream on its way to one client.

    Args:
        api: of the stream.
        dialect: how the client is told.
        envelope: stands for the upstream's id, created and model until its first chunk has come.
        options: the rest.
        context: what this stream has of its own.
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
        self.counts = Counts()
        self._parser = sse.Parser(options.max_event_bytes)
        self._observer = api.observer(self.counts)
        self._writer = api.writer(dialect)
        self._lifecycle = Lifecycle(
            presenter=options.presenter,
            make_id=options.make_id,
            internal_prefix=options.internal_prefix,
            counts=self.counts,
            infer=options.infer,
            whole_arguments=self._writer.whole_arguments,
            context=context,
        )
        self._carried_over = context.carried_over
        self._rounds = FinishMerger() if context.merge_rounds else None
        self._hosted_calls = (
            None if context.client_tools is None else HostedCallFilter(context.client_tools)
        )
        self._edits = self._rounds is not None or self._writer.hides_results
        self._silent = dialect.is_silent
        keeps_native = dialect.keeps_native or not options.translate
        self._keep_native = keeps_native and not dialect.drops_native
        self._drop_native = dialect.drops_native
        self._envelope = envelope
        self._result_preview = options.result_preview
        self._max_event_bytes = options.max_event_bytes
        self._passed = 0  # bytes of the parser's tail that the client already has
        self._gap = b""  # what must be written to end the client's last event
        self._observer_off = False
        self._is_done = False  # behind [DONE]
        self._has_ended = False  # behind the end of an answer; another may follow
        self._has_ids = False
        self._skims = not self._writer.needs_full_parse  # see _may_skim

    @property
    def between_events(self) -> bool:
        """Whether a comment may be written now: not inside an event, nor behind ``[DONE]``."""
        return not self._gap and not self._is_done

    @property
    def is_done(self) -> bool:
        """Whether the upstream has ended its last answer, by ``[DONE]`` or the API's own word."""
        return self._is_done or self._has_ended

    @property
    def envelope(self) -> Envelope:
        """What the upstream's latest chunk says of its answer."""
        self._observer.update(self._envelope)
        return self._envelope

    @property
    def oversized(self) -> int:
        """How many events were too large to be looked at."""
        return self._parser.oversized

    def comment(self, frame: bytes) -> bytes:
        """A comment of ours, with a blank line behind it, as this stream takes it.

        Behind an ``id`` the blank line would be an event without data for readers that remember
        ids: openai-python fails to decode it as JSON. In a stream without ids it stays, for readers
        that split at blank lines and look at the first line only.
        """
        return frame.removesuffix(b"\n") if self._has_ids else frame

    # --- inputs ---------------------------------------------------------------------------------

    def skim(self, chunk: bytes) -> bool:
        """Whether a read gave one event that needs no frame and tells nothing: pass it as it is.

        That is nearly every chunk there is. It has been taken in then; else ``decode`` takes it.
        """
        if self._parser.tail or not self._skim(chunk):
            return False
        self._gap = b""
        return True

    def feed(self, chunk: bytes, now: float) -> Step:
        """Take what one read gave.

        Args:
            chunk: bytes after transfer decoding.
            now: seconds on a monotonic clock.
        """
        return Step(chunk) if self.skim(chunk) else self.decode(chunk, now)

    def decode(self, chunk: bytes, now: float) -> Step:
        """Take a read that ``skim`` did not take."""
        parser = self._parser
        held = len(parser.tail) - self._passed
        out = _Output()
        for event in parser.feed(chunk):
            if event.raw != chunk and self._skim(event.raw):
                self._pass_raw(event, out, is_skimmed=True)
            else:
                self._pass_on(event, out, now)
        tail = parser.tail
        if self._passed != len(tail) and not self._must_hold(tail):
            stop = max(self._passed, len(tail) - parser.undecided)
            out.pieces.append(bytes(tail[self._passed : stop]))
            self._passed = stop
            self._gap = b"" if not tail.strip(b"\r\n") else _gap_after(tail)
        if not out.changed and not held and self._passed == len(tail):
            return Step(chunk, tuple(out.told))
        return out.step()

    def eof(self, now: float) -> Step:
        """The upstream ended its answer, properly by the rules of HTTP."""
        out = _Output()
        for event in self._parser.eof():
            self._pass_on(event, out, now)
        self._close(StreamEnded("upstream_eof", Outcome.CUT), out, now)
        self._release(out, ended=True)
        return out.step()

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

        What is open is completed, then the error is told. An unfinished event that was held back
        follows behind: it was never whole, clients drop it.

        Args:
            reason: told with each completed.
            now: seconds on a monotonic clock.
            outcome: of what is still open.
            error: an event to write behind the completions.
            beats_finish: see ``StreamEnded``.
        """
        out = _Output()
        self._close(StreamEnded(reason, outcome, beats_finish=beats_finish), out, now)
        self._release(out)
        if not self._is_done:
            self._write(error, out)
        out.pieces.append(self._unfinished())
        self._passed = len(self._parser.tail)
        return out.step()

    def _unfinished(self) -> bytes:
        """What was held back of an event that never ended.

        Clients that read by line take a whole line of it, without a blank line, for an event: a
        call in it could be one that they are not to see.
        """
        rest = bytes(self._parser.tail[self._passed :])
        return b"" if self._hosted_calls is not None and b"tool" in rest else rest

    def _close(self, ended: StreamEnded, out: "_Output", now: float) -> None:
        """Complete what is open. Behind ``[DONE]`` nothing is."""
        try:
            self._resume(out)
            if not self._is_done:
                self._tell((ended,), out, now)
                self._lead((ended,), out)
        except Exception as failure:  # see _pass_on
            self._switch_off(failure, out, now)

    # --- one event ------------------------------------------------------------------------------

    def _pass_on(self, event: sse.Event, out: "_Output", now: float) -> None:
        """The event itself, with what must stand in front of it and behind it."""
        out.raw_due = True
        if self._carried_over and event.data is not None and event.raw.startswith(_BOM):
            event = self._behind_mark(event, out)
        if not (event.data is None or self._observer_off or self._is_done):
            try:
                self._look(event, out, now)
            except Exception as failure:  # the main path waits for nobody's bugs
                self._switch_off(failure, out, now)
            self._skims = self._may_skim()
        if out.raw_due:
            self._pass_raw(event, out)

    def _behind_mark(self, event: sse.Event, out: "_Output") -> sse.Event:
        """What stands in front of the first event stands behind the mark at the very start."""
        if self._passed:
            return event
        out.pieces.append(_BOM)
        return event._replace(raw=event.raw.removeprefix(_BOM))

    def _look(self, event: sse.Event, out: "_Output", now: float) -> None:
        seen = self._observer.observe(event)
        if seen:
            last = seen[-1]
            self._has_ended = isinstance(last, StreamEnded) and last.reason is None
            self._is_done = isinstance(last, StreamEnded) and last.is_last
        if self._carried_over:
            self._resume(out)
        is_plain = len(seen) == 1 and isinstance(seen[0], ACTIVITY_TYPES)
        if is_plain and not (self._lifecycle.open or self._writer.needs_full_parse):
            return
        if seen and isinstance(seen[0], NativeProgress):
            self._replace(event, seen[0], out, now)
            return
        # Of an event that is partly with the client nothing can come in front any more.
        split = 0 if self._passed else _leading(seen)
        self._tell(seen[:split], out, now)
        if not self._passed:
            self._lead(seen, out)
        self._pass_raw(event, out)
        self._tell(seen[split:], out, now)

    def _pass_raw(self, event: sse.Event, out: "_Output", *, is_skimmed: bool = False) -> None:
        out.raw_due = False
        if event.has_id:
            self._has_ids = True
        if self._drop_native and event.name == hermes.EVENT_NAME and not self._passed:
            out.changed = True
            return
        raw = event.raw[self._passed :]
        gap = b"" if event.closed else _gap_after(event.raw)
        if self._edits and not (self._passed or is_skimmed):
            raw = self._edited(event)
            if raw is not event.raw:
                out.changed = True
                gap = gap if raw.endswith(event.raw) else self._gap_behind(raw)
        out.pieces.append(raw)
        self._passed = max(0, self._passed - len(event.raw))  # pieces of a large event overlap
        self._gap = gap

    def _edited(self, event: sse.Event) -> bytes:
        """What is left of an event, behind what had been kept back for it."""
        left = without_results(event) if self._writer.hides_results else event
        if left is not None and self._hosted_calls is not None:
            left = self._hosted_calls.strip(left)
        if self._rounds is None:
            return b"" if left is None else left.raw
        if left is None:
            return self._rounds.pass_on(event).removesuffix(event.raw)
        return self._rounds.pass_on(left)

    def _replace(
        self, event: sse.Event, native: NativeProgress, out: "_Output", now: float
    ) -> None:
        """Answer the upstream's own lifecycle event in its place, or pass it: one pair in all."""
        told = self._lifecycle.feed(native, now)
        ours = self._lifecycle.announced_from_deltas(native.id)
        if self._passed or (self._keep_native and (self._silent or not ours)):
            out.told += told
            self._pass_raw(event, out)
            return
        out.changed, out.raw_due = True, False
        self._encode(told, out)

    def _skim(self, raw: bytes) -> bool:
        if not self._skims or self._lifecycle.needs_full_parse:
            return False
        if self._rounds is not None and self._is_merging(self._rounds):
            return False
        if len(raw) > self._max_event_bytes:
            return False
        try:
            return self._observer.skim(raw)
        except Exception as failure:  # a full look may do better
            self.counts.observer_failures += 1
            self.counts.failure = failure
            return False

    def _may_skim(self) -> bool:
        """Whether an event that tells nothing may pass without a look, as far as is known here."""
        is_over = self._observer_off or self._is_done or self._has_ended
        return not (is_over or self._writer.needs_full_parse)

    def _is_merging(self, rounds: FinishMerger) -> bool:
        return rounds.holds or (self._hosted_calls is not None and self._hosted_calls.is_active)

    def _switch_off(self, failure: Exception, out: "_Output", now: float) -> None:
        """The chat goes on without the observer; nothing may stay running for ever."""
        self._observer_off = True
        self.counts.observer_failures += 1
        self.counts.failure = failure
        self._lifecycle.freeze_labels()
        with suppress(Exception):  # whatever broke may well break again
            self._resume(out)
            self._tell((StreamEnded("proxy_error", beats_finish=True),), out, now)

    # --- frames of ours -------------------------------------------------------------------------

    def _tell(self, seen: Sequence[Observation], out: "_Output", now: float) -> None:
        for observation in seen:
            if told := self._lifecycle.feed(observation, now):
                self._encode(told, out)

    def _lead(self, seen: Sequence[Observation], out: "_Output") -> None:
        """What the dialect must have in front of what comes."""
        if self._writer.needs_full_parse:
            self._observer.update(self._envelope)
            self._write(self._writer.before(seen, self._envelope), out)

    def _resume(self, out: "_Output") -> None:
        """What earlier streams left open is told before anything else."""
        carried_over, self._carried_over = self._carried_over, ()
        if carried_over:
            self._encode(carried_over, out)

    def _release(self, out: "_Output", *, ended: bool = False) -> None:
        if self._rounds is None:
            return
        if ended:
            self._write(self._rounds.left_out(), out)
        if raw := self._rounds.release():
            out.changed = True
            out.pieces.append(raw)
            self._gap = self._gap_behind(raw)

    def _gap_behind(self, raw: bytes) -> bytes:
        """What is missing behind whole events, written together, to write another."""
        if not raw:
            return self._gap
        return b"" if raw.endswith(_BLANK_LINES) else _gap_after(raw)

    def _encode(self, told: Sequence[LifecycleEvent], out: "_Output") -> None:
        self._observer.update(self._envelope)
        for full in told:
            event = full
            if isinstance(event, ToolCompleted) and event.output is not None:
                event = replace(event, output=event.output[: self._result_preview] or None)
            out.told.append(event)
            frame = self._writer.write(event, self._envelope)
            out.frames += bool(frame)
            self._write(self.comment(frame) if frame.startswith(b":") else frame, out)

    def _write(self, frame: bytes, out: "_Output") -> None:
        if frame:
            out.changed = True
            out.ours.append(len(out.pieces))
            out.pieces.append(self._gap + frame)
            self._gap = b""

    def _must_hold(self, tail: bytearray) -> bool:
        if self._parser.skipping:
            return False
        if self._edits:
            return True
        if self._silent:
            return not self._keep_native and _may_be_native(tail)
        return bool(self._carried_over) or self._lifecycle.open or _may_be_native(tail)


class _Output:
    """What one input leads to, as it grows."""

    __slots__ = ("changed", "frames", "ours", "pieces", "raw_due", "told")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ours: list[int] = []  # which of them are frames
        self.told: list[LifecycleEvent] = []
        self.frames = 0  # those that tell of a call
        self.changed = False  # something was added or taken away
        self.raw_due = False  # the event itself has still to be passed on

    def step(self) -> Step:
        offsets = [0, *itertools.accumulate(map(len, self.pieces))] if self.ours else []
        added = [(offsets[number], offsets[number + 1]) for number in self.ours]
        return Step(b"".join(self.pieces), tuple(self.told), tuple(added), self.frames)


def _leading(seen: Sequence[Observation]) -> int:
    """How many of them stand in front of the event: all, if it is an end. Clients stop there."""
    if seen and isinstance(seen[-1], StreamEnded):
        return len(seen)
    for position, observation in enumerate(seen):
        if not observation.before:
            return position
    return len(seen)


def _gap_after(raw: bytes | bytearray) -> bytes:
    """What makes the end of an unclosed event a blank line (CR and LF would be one line end)."""
    if raw.endswith(b"\n"):
        return b"\n"
    return b"\r" if raw.endswith(b"\r") else b"\n\n"


def _may_be_native(tail: bytearray) -> bool:
    head = tail.lstrip(b"\r\n")[: len(_NATIVE_START)]
    return _NATIVE_START.startswith(head)
