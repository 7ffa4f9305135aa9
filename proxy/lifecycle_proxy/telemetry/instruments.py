"""How metrics are made: counters, gauges and histograms of one registry, and their children."""

from typing import Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_Bounds = tuple[float, ...]
_Mode = Literal["livesum", "livemax"]  # over the processes that run now
_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)


class Children(dict[tuple[str | int, ...], _Metric], Generic[_Metric]):
    """The children of a metric by their labels: its ``labels()`` converts and locks each time."""

    def __init__(self, parent: _Metric) -> None:
        super().__init__()
        self._parent: _Metric = parent

    def __missing__(self, labels: tuple[str | int, ...]) -> _Metric:
        child: _Metric = self._parent.labels(*labels) if labels else self._parent
        self[labels] = child
        return child


class Sums(dict[tuple[str | int, ...], float]):
    """What is to be added to the children of a metric, by their labels: ``sums[labels] += 1``.

    An ``inc()`` for each exchange costs four times as much: it checks and locks each time.

    Args:
        children: of a counter or a gauge.
    """

    def __init__(self, children: Children[Counter] | Children[Gauge]) -> None:
        super().__init__()
        self._children = children

    def __missing__(self, labels: tuple[str | int, ...]) -> float:
        return 0

    def flush(self) -> None:
        """Add it."""
        for labels, number in self.items():
            self._children[labels].inc(number)
        self.clear()


class MetricFactory:
    """Makes the metrics of one registry, with our prefix unless the name is OpenTelemetry's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._in = registry
        self._sums: list[Sums] = []

    def sums(self, children: Children[Counter] | Children[Gauge]) -> Sums:
        """A metric that every exchange adds to. ``flush`` shows what was added."""
        self._sums.append(sums := Sums(children))
        return sums

    def flush(self) -> None:
        """Add up what has been counted."""
        for sums in self._sums:
            sums.flush()

    def counter(self, name: str, text: str, *labels: str) -> Children[Counter]:
        """A counter.

        Args:
            name: without the prefix.
            text: what it counts.
            labels: their names.
        """
        return Children(Counter(_full(name), text, labels, registry=self._in))

    def gauge(self, name: str, text: str, *labels: str, mode: _Mode = "livesum") -> Children[Gauge]:
        """A gauge.

        Args:
            name: without the prefix.
            text: what it shows.
            labels: their names.
            mode: what several processes show together.
        """
        name = _full(name)
        return Children(Gauge(name, text, labels, registry=self._in, multiprocess_mode=mode))

    def histogram(self, name: str, text: str, bounds: _Bounds, *labels: str) -> Children[Histogram]:
        """A histogram.

        Args:
            name: without the prefix.
            text: what it observes.
            bounds: of its buckets.
            labels: their names.
        """
        return Children(Histogram(_full(name), text, labels, registry=self._in, buckets=bounds))


def _full(name: str) -> str:
    return name if name.startswith("gen_ai_") else f"lifecycle_proxy_{name}"
