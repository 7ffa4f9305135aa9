"""Metrics for Prometheus. Only this package imports ``prometheus_client``.

An exchange is counted once, at its end; chunks cost nothing. Units are seconds and bytes. Every
label has a bounded set of values. If OpenTelemetry's GenAI conventions have a metric of the same
meaning, its name is used. Not so for the time to the first token: the first byte here may belong to
a role or a comment.

With ``PROMETHEUS_MULTIPROC_DIR`` in the environment the numbers are in files in that directory, and
every process renders the sum of all. The variable must be set before this module is imported. A
process may then create only one ``Metrics``: several would write to the same files.
"""

import functools
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from lifecycle_proxy import __version__
from lifecycle_proxy.core.apis import CHAT
from lifecycle_proxy.core.events import ToolCompleted
from lifecycle_proxy.exchange.failover import Failover
from lifecycle_proxy.exchange.model import Exchange, Listener
from lifecycle_proxy.telemetry.instruments import MetricFactory
from lifecycle_proxy.telemetry.stream_metrics import StreamMetrics
from lifecycle_proxy.telemetry.upstreams import UpstreamMetrics

_SHARED_DIRECTORY: Final = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")
_OPENMETRICS: Final = "application/openmetrics-text"

_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE")
_TOOL_NAMES: Final = 100
_TOOL_NAME_LENGTH: Final = 64

# The boundaries of OpenTelemetry's conventions, continued from 81.92 to half an hour.
_LONG_S: Final = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    *(163.84, 327.68, 655.36, 1310.72, 1800),
)
# A model may have to be loaded first; 600 is the default of upstream.first_byte_timeout_s.
_FIRST_BYTE_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
# From a fast local model to a silent tool; 300 is the default of upstream.stall_timeout_s.
_GAP_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15, 60, 300, 900)


class _Traffic:
    """Exchanges of any kind."""

    def __init__(self, make: MetricFactory) -> None:
        text = "Exchanges that are not over"
        self._open = make.sums(make.gauge("exchanges_open", text, "route"))
        text = "Exchanges that are over"
        requests = make.counter("requests_total", text, "route", "method", "status")
        self._requests = make.sums(requests)
        self._ended = make.sums(make.counter("exchanges_ended_total", text, "route", "ended"))
        self._errors = make.counter("errors_total", "Errors of the proxy's own", "code")
        text = "Bodies sent to clients"
        self._sent_bytes = make.sums(make.counter("sent_bytes_total", text, "route"))
        self._retries = make.counter("retries_total", "Requests sent again on a fresh connection")
        text = "From the request to the first byte of the answer's body, whatever that byte is"
        self._first_byte = make.histogram("first_byte_seconds", text, _FIRST_BYTE_S, "route")
        name = "gen_ai_server_request_duration_seconds"
        labels = ("gen_ai_operation_name", "error_type")
        text = "From a chat completion's request to its end, the proxy's own time included"
        self._duration = make.histogram(name, text, _LONG_S, *labels)

    def opened(self, route: str) -> None:
        self._open[route,] += 1

    def closed(self, exchange: Exchange, now: float) -> None:
        route, status = exchange.route, exchange.status or "none"
        method = exchange.method if exchange.method in _METHODS else "OTHER"
        self._open[route,] -= 1
        self._requests[route, method, status] += 1
        self._ended[route, exchange.ended or "unknown"] += 1
        if exchange.error:
            self._errors[exchange.error,].inc()
        if exchange.sent_bytes:
            self._sent_bytes[route,] += exchange.sent_bytes
        if exchange.retries:
            self._retries[()].inc(exchange.retries)
        if exchange.first_byte is not None:
            self._first_byte.observe((route,), exchange.first_byte - exchange.started)
        if route == CHAT.name:
            self._duration.observe(("chat", _error_type(exchange)), now - exchange.started)


class _Streams:
    """Event streams: their pace, and what was found in them."""

    def __init__(self, make: MetricFactory) -> None:
        text = "From the request to the end of an event stream"
        self._duration = make.histogram("stream_duration_seconds", text, _LONG_S, "ended")
        text = "Mean time between the chunks of a stream, one value per stream"
        self._mean_gap = make.histogram("stream_chunk_gap_mean_seconds", text, _GAP_S)
        text = "Longest time between two chunks of a stream, one value per stream"
        self._longest_gap = make.histogram("stream_chunk_gap_longest_seconds", text, _GAP_S)
        frames = make.counter("frames_total", "Lifecycle frames added to streams")
        self._frames = make.sums(frames)
        self.failures = make.counter("observer_failures_total", "Observers that were switched off")
        self._oversized = make.counter("events_oversized_total", "Events too long to look into")
        self._undecodable = make.counter("events_undecodable_total", "Events that are not JSON")
        self._not_followed = make.counter("calls_not_followed_total", "Calls above the limits")
        self._blocked = make.counter("page_events_blocked_total", "Events for a page, taken out")
        self._dropped = make.counter("results_dropped_total", "Results of unknown or ended calls")

    def closed(self, exchange: Exchange, now: float) -> None:
        if exchange.stream:
            self._duration.observe((exchange.ended or "unknown",), now - exchange.started)
            self._paced(exchange)
        if exchange.frames:
            self._frames[()] += exchange.frames
        counts = exchange.counts
        for counter, number in (
            (self.failures, counts.observer_failures),
            (self._oversized, exchange.oversized),
            (self._undecodable, counts.undecodable),
            (self._not_followed, counts.not_followed),
            (self._blocked, counts.page_events),
            (self._dropped, counts.dropped),
        ):
            if number:
                counter[()].inc(number)

    def _paced(self, exchange: Exchange) -> None:
        first, last, gaps = exchange.first_byte, exchange.last_byte, exchange.chunks - 1
        if first is not None and last is not None and gaps > 0:
            self._mean_gap.observe((), (last - first) / gaps)
            self._longest_gap.observe((), exchange.longest_gap_s)


class _Tools:
    """Tool calls. Models invent names, so only the first hundred are labels."""

    def __init__(self, make: MetricFactory) -> None:
        labels = ("gen_ai_tool_name", "outcome")
        calls = make.counter("tool_calls_total", "Tool calls that are over", *labels)
        self._calls = make.sums(calls)
        name = "gen_ai_execute_tool_duration_seconds"
        self._duration = make.histogram(name, "From running to completed", _LONG_S, *labels)
        self._names: dict[str, str] = {}

    def completed(self, call: ToolCompleted) -> None:
        labels = (self._label(call.tool), call.outcome.value)
        self._calls[labels] += 1
        self._duration.observe(labels, call.duration_ms / 1000)

    def _label(self, tool: str) -> str:
        cut = tool[:_TOOL_NAME_LENGTH]
        name = self._names.get(cut)
        if name is None:
            if len(self._names) >= _TOOL_NAMES:
                return "_other"
            name = self._names[cut] = cut.encode("utf-8", "replace").decode()  # for render()
        return name


class _Workers(Collector):
    """``process_*`` of every worker that runs, with its process id as a label.

    Not their sum: that would fall when a worker ends, and Prometheus reads a counter that falls as
    one that began anew. Limits, too, are those of one process.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        found: dict[str, Metric] = {}
        for pid in self._pids():
            collector = ProcessCollector(pid=functools.partial(str, pid), registry=None)
            for family in collector.collect():
                samples = [one._replace(labels={"pid": pid}) for one in family.samples]
                family.samples = [*found.get(family.name, _NO_SAMPLES).samples, *samples]
                found[family.name] = family
        return found.values()

    def _pids(self) -> list[str]:
        """The gauges of a worker are in a file of its own, which is removed when it ends."""
        files = Path(self._directory).glob("gauge_livesum_*.db")
        return sorted(file.stem.rpartition("_")[2] for file in files)


_NO_SAMPLES: Final = Metric("none", "", "gauge")


class Metrics(Listener):
    """The metrics of this process, in a registry of their own.

    Attributes:
        side: those of what is read beside the streams.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        make = self._made = MetricFactory(self._registry)
        self._traffic = _Traffic(make)
        self._streams = _Streams(make)
        self._tools = _Tools(make)
        self.side = StreamMetrics(make)
        self._upstreams = UpstreamMetrics(make, _FIRST_BYTE_S)
        text = "Exchanges that could not be recorded"
        # May be called from any thread.
        self.recording_lost = make.counter("recording_lost_total", text)[()].inc
        text = "Exchanges of which something is not recorded on purpose, such as a WebSocket"
        self.recording_omitted = make.counter("recording_omitted_total", text)[()].inc
        self.store_failed = make.counter("store_failures_total", "Unanswered by the store")[()].inc
        # May be called from any thread.
        self.spans_lost = make.counter("spans_lost_total", "Spans that could not be sent")[()].inc
        text = "Listeners (metrics, access log, recorder) that raised: switched off for an exchange"
        self._listener_failures = make.counter("listener_failures_total", text, "listener")
        text = "Connections that are open, idle or not"
        self._connections = make.gauge("upstream_connections", text)
        # A gauge: prometheus_client's Info does not support several processes.
        build = make.gauge("build_info", "Always 1", "version", "python", mode="livemax")
        build[__version__, platform.python_version()].set(1)

    def on_request(self, exchange: Exchange) -> None:
        """Count an exchange as open. Its route must stay the same until its end."""
        self._traffic.opened(exchange.route)

    def on_end(self, exchange: Exchange) -> None:
        """Count everything that is known of an exchange."""
        now = time.monotonic()
        self._traffic.closed(exchange, now)
        self._streams.closed(exchange, now)
        self._upstreams.closed(exchange)
        for call in exchange.tools:
            self.completed(call)

    def on_failover(self, exchange: Exchange, failover: Failover) -> None:
        """Count a target that failed, so that the next one is asked."""
        self._upstreams.failed(failover)

    def completed(self, call: ToolCompleted) -> None:
        """Count a tool call that has ended."""
        self._tools.completed(call)

    def set_connections(self, connections: int) -> None:
        """Set how many connections to the upstream this process has at the moment."""
        self._connections[()].set(connections)

    def listener_failed(self, name: str) -> None:
        """Count a listener that raised and was switched off for its exchange."""
        self._listener_failures[name,].inc()

    def flush(self) -> None:
        """Show other processes what was counted. Called every second; ``render`` calls it, too."""
        self._made.flush()

    def render(self, accept: str) -> tuple[bytes, str]:
        """All metrics, of all processes if they share a directory: body and content type.

        Args:
            accept: the Accept header of the request; OpenMetrics is sent if it is named there.
        """
        self.flush()
        # The header itself is not passed on: prometheus_client fails on some values.
        encode, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS in accept else "")
        if not _SHARED_DIRECTORY:
            return encode(self._registry), content_type
        summed = CollectorRegistry()
        MultiProcessCollector(summed, path=_SHARED_DIRECTORY)  # type: ignore[no-untyped-call]
        summed.register(_Workers(_SHARED_DIRECTORY))
        return encode(summed), content_type


def forget_worker(pid: int) -> None:
    """Take the gauges of a worker that ended out of the sums. For the process that started it."""
    if _SHARED_DIRECTORY:
        mark_process_dead(pid, path=_SHARED_DIRECTORY)  # type: ignore[no-untyped-call]


def _error_type(exchange: Exchange) -> str:
    """OpenTelemetry's ``error.type``: our code, how it ended, or the status; "" for success."""
    if exchange.error or exchange.ended not in ("", "done", "eof"):
        return exchange.error or exchange.ended
    return str(exchange.status) if exchange.status >= 400 else ""
