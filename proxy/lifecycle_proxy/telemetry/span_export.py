"""A thread that sends spans and metrics. What waits for it is bounded, failures are said once."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from lifecycle_proxy.telemetry.otlp import Sent
from lifecycle_proxy.telemetry.spans import FinishedSpan

log = logging.getLogger("proxy.telemetry")

_LAST_S: Final = 2.0  # for the last spans, when the proxy ends
_Encode = Callable[[Sequence[FinishedSpan]], bytes]


class Transport(Protocol):
    """Sends what is encoded; ``OtlpSender`` is one."""

    def send(self, data: bytes) -> Sent:
        """Called from a thread, where it may wait."""
        ...


class ExportLimits:
    """When to send, and how much may wait: ``OTEL_BSP_…`` and ``OTEL_METRIC_EXPORT_INTERVAL``.

    Args:
        environ: the environment.

    Raises:
        ValueError: a variable is not a positive number.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.queue = _number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 2048)
        self.batch = min(_number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512), self.queue)
        self.delay_s = _number(environ, "OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000
        self.metrics_s = _number(environ, "OTEL_METRIC_EXPORT_INTERVAL", 60_000) / 1000


class _Outages:
    """Says the first failure of each outage."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_failing = False

    def note(self, *, is_failing: bool) -> None:
        if is_failing and not self._is_failing:
            log.warning("%s cannot be sent to the receiver of OTEL_…; the chats go on", self._what)
        self._is_failing = is_failing


class ExportThread:
    """Takes spans on the event loop, and sends them from a thread, which the first one starts.

    Args:
        limits: when, and how many.
        encode: makes a request of spans.
        spans: sends it.
        lost: is called with how many spans were lost, from the thread.
        closing: is set by ``close``.
    """

    def __init__(
        self,
        limits: ExportLimits,
        encode: _Encode,
        spans: Transport,
        lost: Callable[[int], None],
        closing: threading.Event,
    ) -> None:
        self._limits, self._encode, self._spans, self._lost = limits, encode, spans, lost
        self._queue: deque[FinishedSpan] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._closing = closing
        self._outages = _Outages("spans")
        self._metrics: Callable[[], bytes] | None = None
        self._metrics_sender: Transport | None = None
        self._metric_outages = _Outages("metrics")
        self._thread: threading.Thread | None = None

    def add_metrics(self, encode: Callable[[], bytes], sender: Transport) -> None:
        """Send metrics, too.

        Args:
            encode: makes a request of all that was counted; b"" if nothing was.
            sender: sends it.
        """
        self._metrics, self._metrics_sender = encode, sender

    def put(self, span: FinishedSpan) -> None:
        """Take a span. It is lost if too many wait."""
        waiting = len(self._queue)
        if waiting >= self._limits.queue:
            self._dropped += 1
            return
        self._queue.append(span)
        if waiting + 1 == self._limits.batch:
            self._wake.set()
        if self._thread is None:
            self.start()

    def start(self) -> None:
        """Start the thread: in the process in which it is to run."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="otel", daemon=True)
            self._thread.start()

    async def close(self, limit_s: float = _LAST_S) -> None:
        """Send what is left. A receiver that does not answer holds nobody up.

        Args:
            limit_s: how long that may take, in seconds.
        """
        self._closing.set()
        self._wake.set()
        if self._thread is None:
            return
        loop, is_over = asyncio.get_running_loop(), asyncio.Event()

        def wait(thread: threading.Thread) -> None:
            thread.join()
            with suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(is_over.set)

        threading.Thread(target=wait, args=(self._thread,), daemon=True).start()
        try:
            async with asyncio.timeout(limit_s):
                await is_over.wait()
        except TimeoutError:
            log.warning("the last spans were not sent: no answer within %g s", limit_s)

    # --- in the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        next_s = time.monotonic() + self._limits.metrics_s
        while not self._closing.is_set():
            self._wake.wait(self._limits.delay_s)
            self._wake.clear()
            self._send_spans()
            if time.monotonic() >= next_s:
                self._send_metrics()
                next_s = time.monotonic() + self._limits.metrics_s
        self._send_spans()
        self._send_metrics()

    def _send_spans(self) -> None:
        while self._queue:
            size = min(len(self._queue), self._limits.batch)
            batch = [self._queue.popleft() for _ in range(size)]
            is_failing = self._sent(self._spans, partial(self._encode, batch)) != "sent"
            if is_failing:
                self._lost(size)
            self._outages.note(is_failing=is_failing)
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._lost(dropped)

    def _send_metrics(self) -> None:
        if self._metrics is None or self._metrics_sender is None:
            return
        result = self._sent(self._metrics_sender, self._metrics)
        if result == "not_taken":
            log.info("the receiver of OTEL_… takes no metrics; they are not sent any more")
            self._metrics = None
            return
        self._metric_outages.note(is_failing=result != "sent")

    @staticmethod
    def _sent(sender: Transport, encode: Callable[[], bytes]) -> Sent:
        try:
            data = encode()
            return sender.send(data) if data else "sent"
        except Exception as bug:  # the thread must go on
            log.debug("telemetry was not sent", exc_info=bug)
            return "lost"


def _number(environ: Mapping[str, str], name: str, usual: int) -> int:
    value = environ.get(name, "").strip()
    if not value:
        return usual
    if not value.isdecimal() or not 0 < int(value) < 1 << 31:
        raise ValueError(f"{name}: {value!r} is not a positive number")
    return int(value)
