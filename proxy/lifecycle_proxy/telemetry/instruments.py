"""How metrics are made: counters, gauges and histograms of one registry, and their children."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_Bounds = tuple[float, ...]
_Labels = tuple[str | int, ...]
_Mode = Literal["livesum", "livemax"]  # over the processes that run now
_Metric = TypeVar("_Metric", Counter, Gauge, "_Histogram")


class Children(dict[_Labels, _Metric], Generic[_Metric]):
    """The children of a metric by their labels: its ``labels()`` converts and locks each time."""

    def __init__(self, parent: _Metric) -> None:
        super().__init__()
        self._parent: _Metric = parent

    def __missing__(self, labels: _Labels) -> _Metric:
        child: _Metric = self._parent.labels(*labels) if labels else self._parent
        self[labels] = child
        return child


class _Sums:
    """What is to be added to the children of a metric.

    An ``inc()`` for each exchange costs four times as much: it checks and locks each time.

    Args:
        children: of a counter or a gauge.

    Attributes:
        numbers: by the labels of the child. A plain one: subscripts of derived classes are slower.
    """

    def __init__(self, children: Children[Counter] | Children[Gauge]) -> None:
        self.numbers: defaultdict[_Labels, float] = defaultdict(int)
        self._children = children

    def flush(self) -> None:
        """Add it."""
        for labels, number in self.numbers.items():
            self._children[labels].inc(number)
        self.numbers.clear()


class _Histogram(Histogram):
    """A histogram that takes many values at once, which prometheus_client has no method for."""

    def add(self, numbers: Sequence[float], total: float) -> None:
        """Add values.

        Args:
            numbers: how many, by bucket.
            total: their sum.
        """
        for bucket, number in zip(self._buckets, numbers, strict=True):
            if number:
                bucket.inc(number)
        self._sum.inc(total)


class Observed:
    """What is to be added to the children of a histogram: see ``_Sums``.

    Args:
        children: of the histogram.
        bounds: of its buckets.
    """

    def __init__(self, children: Children[_Histogram], bounds: _Bounds) -> None:
        self._children = children
        self._bounds = bounds
        self._rows: dict[_Labels, list[float]] = {}

    def observe(self, labels: _Labels, value: float) -> None:
        """Count a value.

        Args:
            labels: of the child.
            value: as is.
        """
        row = self._rows.get(labels)
        if row is None:  # one above all bounds, and the sum
            row = self._rows[labels] = [0.0] * (len(self._bounds) + 2)
        row[bisect_left(self._bounds, value)] += 1
        row[-1] += value

    def flush(self) -> None:
        """Add it."""
        for labels, (*numbers, total) in self._rows.items():
            self._children[labels].add(numbers, total)
        self._rows.clear()


class MetricFactory:
    """Makes the metrics of one registry, with our prefix unless the name is OpenTelemetry's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._in = registry
        self._waiting: list[_Sums | Observed] = []

    def sums(self, children: Children[Counter] | Children[Gauge]) -> defaultdict[_Labels, float]:
        """Numbers by labels, to which every exchange adds. ``flush`` shows what was added."""
        self._waiting.append(sums := _Sums(children))
        return sums.numbers

    def flush(self) -> None:
        """Add up what has been counted."""
        for one in self._waiting:
            one.flush()

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

    def histogram(self, name: str, text: str, bounds: _Bounds, *labels: str) -> Observed:
        """A histogram. ``flush`` shows what was observed.

        Args:
            name: without the prefix.
            text: what it observes.
            bounds: of its buckets.
            labels: their names.
        """
        made = _Histogram(_full(name), text, labels, registry=self._in, buckets=bounds)
        self._waiting.append(observed := Observed(Children(made), bounds))
        return observed


def _full(name: str) -> str:
    return name if name.startswith("gen_ai_") else f"lifecycle_proxy_{name}"
