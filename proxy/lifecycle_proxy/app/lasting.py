"""What outlives a request, and a reload of the settings."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lifecycle_proxy.app.live import LiveParts
from lifecycle_proxy.app.recording_mode import MakeUpstream, RecordingMode
from lifecycle_proxy.exchange.model import Listener
from lifecycle_proxy.handlers.approvals import ApprovalPages
from lifecycle_proxy.handlers.stream_opening import StreamOpener
from lifecycle_proxy.handlers.stream_reading import StreamEndpoints
from lifecycle_proxy.state.made_ids import MadeIds
from lifecycle_proxy.state.pending_calls import Store
from lifecycle_proxy.telemetry.metrics import Metrics


class Lasting(NamedTuple):
    """The parts of one process that are created once.

    Attributes:
        metrics: of the process.
        agent: makes the client of an upstream that is an agent.
        pages: answers what is below ``/-/approvals/``.
        traces: the listeners that make spans and metrics for OpenTelemetry, if any.
        live: what the live page shows, if there may be one.
        recording_mode: what is recorded, and played.
        store: calls that clients run.
        ids: which upstream made which id.
        opener: begins what is kept of streams.
        streams: answers what is below ``/-/streams/``.
        failed: called with a listener that raised.
    """

    metrics: Metrics
    agent: MakeUpstream
    pages: ApprovalPages
    traces: Sequence[Listener]
    live: LiveParts | None
    recording_mode: RecordingMode
    store: Store
    ids: MadeIds
    opener: StreamOpener
    streams: StreamEndpoints
    failed: Callable[[Listener, Exception], None]
