"""Follows the tool calls of one stream: from its events to the frames that belong between them.

Joins observer, lifecycle and the dialect's writer, and outlives the failure of any of them. Where
the frames stand, and what becomes of the events themselves, is decided in ``pipeline``.
"""

from collections.abc import Sequence
from contextlib import suppress

from msgspec.structs import replace

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.apis import Api
from lifecycle_proxy.core.complexity import SIMPLE_BYTES
from lifecycle_proxy.core.context import PipelineOptions, StreamContext
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.dialects.fields import embed_chunk
from lifecycle_proxy.core.dialects.writer import Writer
from lifecycle_proxy.core.events import (
    ACTIVITY_TYPES,
    ChoiceFinished,
    Envelope,
    LifecycleEvent,
    NativeProgress,
    Observation,
    StreamEnded,
    ToolCompleted,
    ToolRunning,
)
from lifecycle_proxy.core.lifecycle import Lifecycle
from lifecycle_proxy.core.output import Output
from lifecycle_proxy.core.rewriter import Rewriter


class Tracker:
    """The calls of one stream.

    Attributes:
        counts: what was ignored.
        carried_over: events of earlier streams that have still to be written.
        is_off: an observer, presenter or dialect failed; nothing is looked at any more.
        is_done: behind ``[DONE]``.
        has_ended: behind the end of an answer; another may follow.

    Args:
        api: of the stream.
        writer: of the client's dialect.
        envelope: stands for the upstream's id, created and model until its first chunk has come.
        options: those of the proxy.
        context: what is known of this stream.
        output: where frames go.
        rewriter: may have to see every event, too.
    """

    def __init__(
        self,
        api: Api,
        writer: Writer,
        envelope: Envelope,
        options: PipelineOptions,
        context: StreamContext,
        *,
        output: Output,
        rewriter: Rewriter,
    ) -> None:
        self.counts = Counts()
        self.is_off = False
        self.is_done = False
        self.has_ended = False
        self._observer = api.observer(self.counts)
        self._writer = writer
        self._lifecycle = Lifecycle(
            presenter=options.presenter,
            make_id=options.make_id,
            internal_prefix=options.internal_prefix,
            counts=self.counts,
            infer=options.infer,
            whole_arguments=writer.whole_arguments,
            context=context,
        )
        self._envelope = envelope
        self._output = output
        self._embed = context.embed
        self._result_preview = options.result_preview
        self.carried_over = context.carried_over
        self._merger = rewriter if rewriter.merges_rounds else None
        self._max_skimmed = min(options.max_event_bytes, SIMPLE_BYTES)
        self._skim = self._observer.skim
        self._may_skim = False  # as far as is known here
        self.decide_skim()

    @property
    def envelope(self) -> Envelope:
        """What the upstream's latest chunk says of its answer."""
        self._observer.update(self._envelope)
        return self._envelope

    @property
    def has_open_calls(self) -> bool:
        """Whether there may still have to be a frame in front of the end."""
        return self._lifecycle.open

    def skim(self, raw: bytes) -> bool:
        """Whether an event, not decoded as a whole, says nothing that leads to a frame.

        If so it has been taken in. This is the way of nearly every chunk.
        """
        if not self._may_skim or len(raw) > self._max_skimmed:
            return False
        if self._merger is not None and self._merger.needs_full_parse:
            return False
        try:
            return self._skim(raw)
        except Exception as failure:  # ``maybe_observe`` may do better
            self._note(failure)
            return False

    def maybe_observe(self, event: sse.Event) -> Sequence[Observation] | None:
        """What an event says, for ``apply``; None where no frame can follow from it."""
        seen = self._observer.observe(event)
        if seen:
            last = seen[-1]
            self.has_ended = isinstance(last, StreamEnded) and last.reason is None
            self.is_done = isinstance(last, StreamEnded) and last.is_last
            if isinstance(last, StreamEnded | ChoiceFinished):
                self.counts.note_end(last.reason)
        if self.carried_over:
            self.write_carried_over()
        is_activity = len(seen) == 1 and isinstance(seen[0], ACTIVITY_TYPES)
        if is_activity and not (self._lifecycle.open or self._writer.needs_full_parse):
            self._may_skim = not self._lifecycle.needs_full_parse
            return None
        return seen

    def decide_skim(self) -> None:
        """Decide, behind the frames of an event, whether the next one has to be decoded."""
        is_over = self.is_off or self.is_done or self.has_ended
        may_change = self._writer.needs_full_parse or self._lifecycle.needs_full_parse
        self._may_skim = not (is_over or may_change)

    def apply(self, seen: Sequence[Observation], now: float) -> None:
        """Write the frames that follow from these observations.

        Args:
            seen: what ``maybe_observe`` gave, or a part of it.
            now: seconds on a monotonic clock.
        """
        for observation in seen:
            if events := self._lifecycle.feed(observation, now):
                self.write(events)

    def apply_native(self, native: NativeProgress, now: float) -> tuple[list[LifecycleEvent], bool]:
        """Take the upstream's own lifecycle event; nothing is written.

        Args:
            native: the event.
            now: seconds on a monotonic clock.

        Returns:
            The events that follow, and whether the call was announced from its deltas already.
        """
        events = self._lifecycle.feed(native, now)
        return events, self._lifecycle.announced_from_deltas(native.id)

    def write(self, events: Sequence[LifecycleEvent]) -> None:
        """Write the frames of these events."""
        output, envelope = self._output, self.envelope
        for event in events:
            if self._embed and isinstance(event, ToolRunning):
                output.write(embed_chunk(self._embed, envelope))
                self._embed = ""
            if isinstance(event, ToolCompleted) and event.output is not None:
                preview = event.output[: self._result_preview] or None
                event = replace(event, output=preview)  # noqa: PLW2901
            output.events.append(event)
            output.write_lifecycle(self._writer.write(event, envelope))

    def write_before(self, seen: Sequence[Observation]) -> None:
        """Write what the dialect must have in front of an event, or of the end."""
        if self._writer.needs_full_parse:
            self._output.write(self._writer.before(seen, self.envelope))

    def write_carried_over(self) -> None:
        """Write what earlier streams left open, in front of anything else."""
        events, self.carried_over = self.carried_over, ()
        if events:
            self.write(events)

    def close(self, ended: StreamEnded, now: float) -> None:
        """Complete what is open. Behind ``[DONE]`` nothing is.

        Args:
            ended: how the stream ended.
            now: seconds on a monotonic clock.
        """
        try:
            self.write_carried_over()
            if not self.is_done:
                self.apply((ended,), now)
                self.write_before((ended,))
        except Exception as failure:  # see switch_off
            self.switch_off(failure, now)

    def switch_off(self, failure: Exception, now: float) -> None:
        """Observer, presenter or dialect failed: the chat goes on, and no call may stay running.

        Args:
            failure: what was raised.
            now: seconds on a monotonic clock.
        """
        self.is_off = True
        self._may_skim = False
        self._note(failure)
        self._lifecycle.freeze_labels()
        with suppress(Exception):  # whatever failed may well fail again
            self.write_carried_over()
            self.apply((StreamEnded("proxy_error", beats_finish=True),), now)

    def _note(self, failure: Exception) -> None:
        self.counts.observer_failures += 1
        self.counts.failure = failure


def leading(seen: Sequence[Observation]) -> int:
    """How many of them stand in front of the event: all, if it is an end. Clients stop there."""
    if seen and isinstance(seen[-1], StreamEnded):
        return len(seen)
    for position, observation in enumerate(seen):
        if not observation.before:
            return position
    return len(seen)
