"""A receiver of spans and metrics: a real HTTP server that takes OTLP as protobuf."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_PATIENCE_S = 20


@dataclass
class Sent:
    """One span as it came."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    links: list[str]
    attributes: dict[str, Any]
    is_error: bool
    start_ns: int
    end_ns: int
    events: list[str] = field(default_factory=list)
    fields: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Point:
    """One series of a histogram."""

    attributes: dict[str, Any]
    count: int
    sum: float
    buckets: list[int]
    bounds: list[float]
    unit: str


class Receiver:
    """Keeps what it is sent.

    Attributes:
        points: of metrics, by their names: as they came last.
        status: what it answers.
        refused: how many requests with spans get a 503 first.
    """

    def __init__(self) -> None:
        self.spans: list[Sent] = []
        self.points: dict[str, list[Point]] = {}
        self.headers: list[dict[str, str]] = []
        self.takes_metrics = True
        self.refused = 0
        self.resources: list[dict[str, Any]] = []
        self.schemas: set[str] = set()
        self.requests = 0
        self.status = 200
        self.is_slow = asyncio.Event()
        self.url = ""
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/traces", self._take)
        app.router.add_post("/v1/metrics", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        data = await request.read()  # decompressed
        self.requests += 1
        self._changed.set()
        self.headers.append(dict(request.headers))
        of_metrics = request.path == "/v1/metrics"
        if of_metrics and not self.takes_metrics:
            raise web.HTTPNotFound
        if self.refused and not of_metrics:
            self.refused -= 1
            raise web.HTTPServiceUnavailable
        if self.status == 200 and of_metrics:
            self._keep_points(ExportMetricsServiceRequest.FromString(data))
        elif self.status == 200:
            self._keep(ExportTraceServiceRequest.FromString(data))
        self._changed.set()
        if self.is_slow.is_set():
            await asyncio.sleep(60)
        return web.Response(status=self.status, content_type="application/x-protobuf")

    def _keep(self, sent: Any) -> None:
        for resource in sent.resource_spans:
            self.resources.append(_plain(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.schemas.add(scope.schema_url)
                self.spans += [_span(span) for span in scope.spans]

    def _keep_points(self, sent: Any) -> None:
        for resource in sent.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found = [_point(one, metric.unit) for one in metric.histogram.data_points]
                    self.points[metric.name] = found

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until what has come makes this true."""
        async with asyncio.timeout(_PATIENCE_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    def named(self, name: str) -> list[Sent]:
        return [span for span in self.spans if span.name == name]


def _point(point: Any, unit: str) -> Point:
    return Point(
        _plain(point.attributes),
        point.count,
        point.sum,
        list(point.bucket_counts),
        list(point.explicit_bounds),
        unit,
    )


def _span(span: Any) -> Sent:
    return Sent(
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        [link.span_id.hex() for link in span.links],
        _plain(span.attributes),
        span.status.code == 2,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        [event.name for event in span.events],
        [_plain(event.attributes) for event in span.events],
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
