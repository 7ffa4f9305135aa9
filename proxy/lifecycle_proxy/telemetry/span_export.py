"""Spans on their way to a receiver: from a thread, in a queue with an end, failures said once.

OpenTelemetry's SDK is used as it is, with the variables ``OTEL_…`` that it reads. What it logs is
silenced, since it would log each batch that is lost.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from lifecycle_proxy import __version__

log = logging.getLogger("proxy.telemetry")

_LAST_S: Final = 2.0  # for the last spans, when the proxy ends


class CountingExporter(SpanExporter):
    """Counts the spans that were lost, and says the first loss of each outage.

    Args:
        exporter: sends them.
        lost: is called with how many were lost, from a thread.
    """

    def __init__(self, exporter: SpanExporter, lost: Callable[[int], None]) -> None:
        logging.getLogger().getChild("opentelemetry").setLevel(logging.CRITICAL)
        self._exporter = exporter
        self._lost = lost
        self._is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See ``SpanExporter``."""
        try:
            result = self._exporter.export(spans)
        except Exception as failure:  # a span that cannot be encoded, or a bug of the SDK's
            result = SpanExportResult.FAILURE
            log.debug("spans were not sent", exc_info=failure)
        is_failing = result is not SpanExportResult.SUCCESS
        if is_failing:
            self._lost(len(spans))
            if not self._is_failing:
                log.warning("spans cannot be sent to the receiver of OTEL_…; the chats go on")
        self._is_failing = is_failing
        return result

    def shutdown(self) -> None:
        """See ``SpanExporter``."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """See ``SpanExporter``."""
        return self._exporter.force_flush(timeout_millis)


def start_provider(lost: Callable[[int], None]) -> TracerProvider:
    """What makes and sends spans. It has a thread of its own.

    Args:
        lost: is called with how many spans were lost, from that thread.
    """
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    own = {"service.version": __version__} | ({} if named else {"service.name": "lifecycle-proxy"})
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(CountingExporter(OTLPSpanExporter(), lost)))
    return provider


async def stop_provider(provider: TracerProvider, limit_s: float = _LAST_S) -> None:
    """Send what is left. A receiver that does not answer holds nobody up.

    Args:
        provider: what makes and sends spans.
        limit_s: how long that may take, in seconds.
    """
    loop, is_over = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        provider.shutdown()
        with suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(is_over.set)

    threading.Thread(target=stop, daemon=True).start()
    try:
        async with asyncio.timeout(limit_s):
            await is_over.wait()
    except TimeoutError:
        log.warning("the last spans were not sent: the receiver did not answer in %g s", limit_s)
