"""Metrics of what is kept of streams, and of those who read it."""

from lifecycle_proxy.telemetry.instruments import MetricFactory


class StreamMetrics:
    """Numbers of the event log, its readers, and of requests that were resumed.

    Args:
        make: makes the metrics.
    """

    def __init__(self, make: MetricFactory) -> None:
        text = "Streams whose events are kept, those that have ended included"
        self._kept = make.gauge("streams_kept", text)
        text = "Streams whose events are not kept: there is no room"
        self.not_kept = make.counter("streams_not_kept_total", text)[()].inc
        self._readers = make.gauge("stream_readers", "Readers beside streams that are connected")
        text = "Readers beside streams, by vocabulary"
        self._read = make.counter("stream_reads_total", text, "dialect")
        text = "Readers that came too late for some events, and got a gap event"
        self.gap = make.counter("stream_gaps_total", text)[()].inc
        text = "Requests that the event log could not answer"
        self.unavailable = make.counter("stream_log_unavailable_total", text)[()].inc
        text = "Requests that were sent again while their stream was kept, by what became of them"
        self._resumed = make.counter("streams_resumed_total", text, "result")

    def reader_came(self, dialect: str) -> None:
        """A reader has connected, who gets this vocabulary."""
        self._read[dialect,].inc()
        self._readers[()].inc()

    def reader_left(self) -> None:
        """It is gone."""
        self._readers[()].dec()

    def resumed(self, result: str) -> None:
        """A request was sent again: ``joined``, ``conflict``, or ``given_up``."""
        self._resumed[result,].inc()

    def set_kept(self, streams: int) -> None:
        """Set how many streams this process keeps at the moment."""
        self._kept[()].set(streams)
