"""Metrics of OpenTelemetry's GenAI conventions, for a receiver of OTLP. Sums since the start.

They are counted here, on the event loop: an instrument of the SDK costs ten times as much for each
value. The series have a limit, as the SDK's have, since clients choose the names of models.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    HistogramDataPoint,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from lifecycle_proxy.core.apis import APIS
from lifecycle_proxy.exchange.model import Exchange, Listener
from lifecycle_proxy.telemetry import trace_names as names
from lifecycle_proxy.telemetry.exchange_facts import chat_kind, cut, tokens_of
from lifecycle_proxy.telemetry.span_encoding import attributes, scope
from lifecycle_proxy.telemetry.spans import ChatKind

_MAX_SERIES: Final = 2000  # of one metric
_OF_TIME: Final = tuple(0.01 * 2**power for power in range(14))  # to 81.92 s
_OF_TOKENS: Final = tuple(float(4**power) for power in range(14))
_Labels = tuple[str | int | bool, ...]
_Named = Callable[[_Labels], Mapping[str, Any]]
_REST: Final[_Labels] = (True,)


class _Series:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.least, self.most = math.inf, 0.0


class _Histogram:
    """One metric.

    Args:
        name: by the conventions.
        unit: UCUM.
        bounds: upper bounds of the buckets.
        named: the attributes of labels.
    """

    def __init__(self, name: str, unit: str, bounds: tuple[float, ...], named: _Named) -> None:
        self.name, self.unit, self.bounds, self.named = name, unit, bounds, named
        self.series: dict[_Labels, _Series] = {}

    def record(self, labels: _Labels, value: float) -> None:
        series = self.series.get(labels)
        if series is None:
            series = self._new(labels)
        series.most = max(series.most, value)
        series.least = min(series.least, value)
        series.counts[bisect_left(self.bounds, value)] += 1
        series.sum += value

    def _new(self, labels: _Labels) -> _Series:
        key = labels if len(self.series) < _MAX_SERIES else _REST
        series = self.series.get(key)
        if series is None:
            series = self.series[key] = _Series(self.bounds)
        return series


class GenAiMetrics(Listener):
    """The metrics of this process.

    Attributes:
        servers: may be replaced.

    Args:
        of: the resource.
        servers: attributes of each upstream, by its name; "" is the usual one.
    """

    def __init__(self, of: Resource, servers: Mapping[str, Mapping[str, Any]]) -> None:
        self._resource, self.servers = of, servers
        self._since_ns = time.time_ns()
        self._duration = _Histogram(names.METRIC_DURATION, "s", _OF_TIME, self._of_chat)
        self._first = _Histogram(names.METRIC_FIRST_CHUNK, "s", _OF_TIME, self._of_chat)
        self._tokens = _Histogram(names.METRIC_TOKENS, "{token}", _OF_TOKENS, self._of_chat)
        self._tools = _Histogram(names.METRIC_TOOL, "s", _OF_TIME, _of_tool)

    def on_request(self, exchange: Exchange) -> None:
        """Ask for its tokens."""
        exchange.reads_usage = True

    def on_end(self, exchange: Exchange) -> None:
        """Count an exchange with an upstream."""
        if exchange.route not in APIS:
            return
        if exchange.ended == "refused" and not exchange.error.startswith("upstream_"):
            return
        kind = chat_kind(exchange)
        plain, tokens = _labels(kind), tokens_of(exchange.counts.usage)
        duration_s = time.monotonic() - exchange.started
        self._duration.record((*plain, kind.failure, ""), duration_s)
        if exchange.stream and exchange.first_byte is not None:
            self._first.record((*plain, "", ""), exchange.first_byte - exchange.started)
        for which, number in (("input", tokens.input), ("output", tokens.output)):
            if number is not None:
                self._tokens.record((*plain, "", which), number)
        for call in exchange.tools:
            failed = call.reason or call.outcome.value if call.outcome.is_error else ""
            self._tools.record((cut(call.tool), cut(failed)), call.duration_ms / 1000)

    def encode(self) -> bytes:
        """A request to a receiver; b"" if nothing was counted. Called from a thread."""
        request = ExportMetricsServiceRequest()
        of_resource = request.resource_metrics.add(resource=self._resource)
        of_scope = of_resource.scope_metrics.add(scope=scope(), schema_url=names.SCHEMA_URL)
        for one in (self._duration, self._first, self._tokens, self._tools):
            if one.series:
                metric = of_scope.metrics.add(name=one.name, unit=one.unit)
                metric.histogram.aggregation_temporality = (
                    AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
                )
                metric.histogram.data_points.extend(self._points(one))
        return bytes(request.SerializeToString()) if of_scope.metrics else b""

    def _points(self, histogram: _Histogram) -> Iterator[HistogramDataPoint]:
        """The loop goes on counting: a copy is as of one moment, and only the sum may be ahead."""
        now_ns = time.time_ns()
        for labels, series in list(histogram.series.items()):
            counts = series.counts.copy()
            is_rest = labels == _REST
            named = {names.OVERFLOW: True} if is_rest else histogram.named(labels)
            yield HistogramDataPoint(
                attributes=attributes(named),
                start_time_unix_nano=self._since_ns,
                time_unix_nano=now_ns,
                count=sum(counts),
                sum=series.sum,
                min=series.least,
                max=series.most,
                bucket_counts=counts,
                explicit_bounds=histogram.bounds,
            )

    def _of_chat(self, labels: _Labels) -> dict[str, Any]:
        route, upstream, model, answered_by, failure, token_type = labels
        found: dict[str, Any] = {
            names.OPERATION: names.CHAT,
            names.PROVIDER: names.PROVIDERS.get(str(route), names.DEFAULT_PROVIDER),
            names.REQUEST_MODEL: model,
            names.RESPONSE_MODEL: answered_by,
            names.ERROR_TYPE: failure,
            names.TOKEN_TYPE: token_type,
        }
        found = {key: value for key, value in found.items() if value}
        return found | dict(self.servers.get(str(upstream), self.servers[""]))


def _of_tool(labels: _Labels) -> dict[str, Any]:
    tool, failure = labels
    found = {names.OPERATION: names.EXECUTE_TOOL, names.TOOL_NAME: tool}
    found[names.TOOL_TYPE] = names.FUNCTION
    return found | ({names.ERROR_TYPE: failure} if failure else {})


def _labels(kind: ChatKind) -> _Labels:
    return kind.route, kind.upstream, kind.model, kind.answered_by
