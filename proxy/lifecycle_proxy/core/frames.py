"""Writes the lifecycle events of one stream in its client's dialect."""

from collections.abc import Sequence
from dataclasses import replace

from lifecycle_proxy.core.dialects.writer import Writer
from lifecycle_proxy.core.events import Envelope, LifecycleEvent, Observation, ToolCompleted
from lifecycle_proxy.core.observers import Observer
from lifecycle_proxy.core.output import Output


class FrameWriter:
    """Joins a dialect's writer, the envelope that its frames copy, and the output.

    Args:
        writer: of the dialect, for this stream.
        observer: knows what the upstream's latest chunk says of its answer.
        envelope: stands for that until the first chunk has come.
        output: where frames go.
        result_preview: how many characters of a result are written; 0 for none.
    """

    def __init__(
        self,
        writer: Writer,
        observer: Observer,
        envelope: Envelope,
        output: Output,
        *,
        result_preview: int,
    ) -> None:
        self._writer = writer
        self._observer = observer
        self._envelope = envelope
        self._output = output
        self._result_preview = result_preview

    def envelope(self) -> Envelope:
        """What the upstream's latest chunk says of its answer."""
        self._observer.update(self._envelope)
        return self._envelope

    def write(self, events: Sequence[LifecycleEvent]) -> None:
        """Write the frames of these events."""
        envelope = self.envelope()
        for event in events:
            shown = self._with_preview(event)
            self._output.note((shown,))
            self._output.write_lifecycle(self._writer.write(shown, envelope))

    def write_before(self, seen: Sequence[Observation]) -> None:
        """Write what the dialect must have in front of what comes.

        Args:
            seen: in the next event, or at the end of the stream.
        """
        if self._writer.needs_full_parse:
            self._output.write(self._writer.before(seen, self.envelope()))

    def _with_preview(self, event: LifecycleEvent) -> LifecycleEvent:
        if isinstance(event, ToolCompleted) and event.output is not None:
            return replace(event, output=event.output[: self._result_preview] or None)
        return event
