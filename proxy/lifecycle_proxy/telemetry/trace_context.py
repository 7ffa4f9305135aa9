"""``traceparent`` of W3C's Trace Context, and whether a trace is recorded.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

import random
import re
from typing import Final, NamedTuple

from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision, Sampler
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    set_span_in_context,
)

from lifecycle_proxy.telemetry import trace_names as names
from lifecycle_proxy.telemetry.spans import SpanLink

# Version 00 ends behind the flags, later ones may go on; ff and zeros are not valid.
_SENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)


class BegunSpan(NamedTuple):
    """The span of a chat that begins.

    Attributes:
        parent: the client's; "" without one.
        is_sampled: it is to be recorded.
    """

    name: SpanLink
    parent: str
    is_sampled: bool

    @property
    def traceparent(self) -> str:
        """For the upstream."""
        return f"00-{self.name.trace}-{self.name.span}-{'01' if self.is_sampled else '00'}"


class TraceContext:
    """Names spans.

    Args:
        sampler: decides whether they are recorded: OpenTelemetry's, by ``OTEL_TRACES_SAMPLER``.
    """

    def __init__(self, sampler: Sampler) -> None:
        # That of most: what the parent says, else yes. It is asked without its own objects.
        self._sampler = None if sampler is DEFAULT_ON else sampler

    def begin(self, traceparent: str) -> BegunSpan:
        """A new span, below the client's if it sent a valid one."""
        name = f"{random.getrandbits(64) or 1:016x}"
        sent = _SENT.fullmatch(traceparent) if traceparent else None
        if sent is None or (sent[1] == "00" and sent[5]):
            trace = f"{random.getrandbits(128) or 1:032x}"
            parent, flags = "", 1
        else:
            trace, parent, flags = sent[2], sent[3], int(sent[4], 16)
        is_sampled = bool(flags & 1) if self._sampler is None else self._asked(trace, parent, flags)
        return BegunSpan(SpanLink(trace, name), parent, is_sampled)

    def _asked(self, trace: str, parent: str, flags: int) -> bool:
        assert self._sampler is not None
        context = None
        if parent:
            sent_by = SpanContext(
                int(trace, 16), int(parent, 16), is_remote=True, trace_flags=TraceFlags(flags)
            )
            context = set_span_in_context(NonRecordingSpan(sent_by))
        decided = self._sampler.should_sample(
            context, int(trace, 16), names.CHAT, SpanKind.CLIENT, {names.OPERATION: names.CHAT}
        )
        return decided.decision is Decision.RECORD_AND_SAMPLE
