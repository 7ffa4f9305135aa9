"""OpenTelemetry: what makes spans and metrics, and sends them. Imported only where it is on."""

import threading
from collections.abc import Callable, Mapping
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from lifecycle_proxy import __version__
from lifecycle_proxy.exchange.model import Listener
from lifecycle_proxy.telemetry.exchange_facts import server_of
from lifecycle_proxy.telemetry.genai_metrics import GenAiMetrics
from lifecycle_proxy.telemetry.otlp import OtlpSender
from lifecycle_proxy.telemetry.span_encoding import SpanEncoder, resource
from lifecycle_proxy.telemetry.span_export import ExportLimits, ExportThread
from lifecycle_proxy.telemetry.traces import Traces

_USUAL: Final = ""


class OpenTelemetry:
    """The spans and metrics of this process.

    Attributes:
        listeners: follow the exchanges.

    Args:
        upstreams: their URLs by their names, the usual one first.
        lost: is called with how many spans could not be sent, from a thread.
        environ: the environment.
        traces: spans are wanted.
        metrics: they are wanted.

    Raises:
        ValueError: a variable ``OTEL_…`` has a value that cannot work.
    """

    def __init__(
        self,
        upstreams: Mapping[str, str],
        lost: Callable[[int], None],
        environ: Mapping[str, str],
        *,
        traces: bool,
        metrics: bool,
    ) -> None:
        self.listeners: list[Listener] = []
        closing = threading.Event()
        of, servers = resource(_attributes(environ)), _servers(upstreams)
        limits = ExportLimits(environ)
        self._encoder = SpanEncoder(of, servers)
        sender = OtlpSender("traces", environ, closing)
        self._thread = ExportThread(limits, self._encoder.encode, sender, lost, closing)
        self._metrics: GenAiMetrics | None = None
        if traces:
            # The variables for samplers are read by the SDK.
            sampler = TracerProvider(shutdown_on_exit=False).sampler
            self.listeners.append(Traces(self._thread.put, sampler))
        if metrics:
            self._metrics = GenAiMetrics(of, servers)
            sends = OtlpSender("metrics", environ, closing)
            self._thread.add_metrics(self._metrics.encode, sends)
            self.listeners.append(self._metrics)

    def start(self) -> None:
        """Start the thread: in the process that serves."""
        self._thread.start()

    async def close(self) -> None:
        """Send what is left."""
        await self._thread.close()

    def set_upstreams(self, upstreams: Mapping[str, str]) -> None:
        """Other upstreams are in force.

        Args:
            upstreams: their URLs by their names, the usual one first.
        """
        servers = _servers(upstreams)
        self._encoder.set_servers(servers)
        if self._metrics is not None:
            self._metrics.servers = servers


def _servers(upstreams: Mapping[str, str]) -> dict[str, dict[str, str | int]]:
    found = {name: server_of(url) for name, url in upstreams.items()}
    return found | {_USUAL: next(iter(found.values()))}


def _attributes(environ: Mapping[str, str]) -> dict[str, object]:
    """Of the resource: by the variables, and the proxy's own where these say nothing."""
    named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    own = {"service.version": __version__} | ({} if named else {"service.name": "lifecycle-proxy"})
    return dict(Resource.create(own).attributes)
