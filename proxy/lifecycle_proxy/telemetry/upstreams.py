"""Metrics by upstream, where there are several. Their names are those of the settings."""

from lifecycle_proxy.exchange.failover import Failover
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.telemetry.instruments import MetricFactory


class UpstreamMetrics:
    """Which upstream answered, how soon, and from which one requests went on.

    Args:
        make: makes metrics.
        bounds: of the time to the first byte, in seconds.
    """

    def __init__(self, make: MetricFactory, bounds: tuple[float, ...]) -> None:
        text = "Exchanges that are over, by the upstream that answered, or failed last"
        requests = make.counter("upstream_requests_total", text, "upstream", "status")
        self._requests = make.sums(requests)
        text = "As first_byte_seconds, by the upstream that answered"
        self._first_byte = make.histogram("upstream_first_byte_seconds", text, bounds, "upstream")
        text = "Requests that went on to the next target, by the upstream that failed"
        self._failovers = make.counter("failovers_total", text, "upstream", "reason")

    def closed(self, exchange: Exchange) -> None:
        """Count an exchange that has ended."""
        if not exchange.upstream:
            return
        self._requests[exchange.upstream, exchange.status or "none"] += 1
        if exchange.first_byte is not None:
            wait_s = exchange.first_byte - exchange.started
            self._first_byte.observe((exchange.upstream,), wait_s)

    def failed(self, failover: Failover) -> None:
        """Count a target that failed."""
        self._failovers[failover.from_provider, failover.reason].inc()
