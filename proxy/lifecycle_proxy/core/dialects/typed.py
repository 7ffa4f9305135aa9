"""Frames for streams whose events have a ``type``: the Responses API, Anthropic's Messages.

Their SDKs know a closed list of types, and some raise on any other. Each has one type that means
nothing and may come at any time, ``keepalive`` and ``ping``; with the lifecycle fields beside it
that is the form that every client tried survives (some fifty versions of SDKs and agents, each with
the frame in eight places).
"""

from typing import Any

from lifecycle_proxy.core.dialects.fields import EVENT_LINE, EVENT_NAME, dumps, lifecycle_fields
from lifecycle_proxy.core.events import Envelope, LifecycleEvent


def responses_plain(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """Without the event line: openai-python < 1.98 and openai-node < 5.11 wrap any named event.

    Loops compare the sequence number; repeating the last one does no harm.

    Args:
        event: to write.
        envelope: as the upstream's latest chunk has it.
    """
    payload: dict[str, Any] = {
        "type": "keepalive",
        "sequence_number": envelope.sequence_number,
        "event": EVENT_NAME,
        **lifecycle_fields(event),
    }
    return b"data: " + dumps(payload) + b"\n\n"


def responses(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """For everybody else.

    Args:
        event: to write.
        envelope: as the upstream's latest chunk has it.
    """
    return EVENT_LINE + responses_plain(event, envelope)


def messages(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """For all clients of Anthropic's API; with ``event: ping`` its SDKs would drop it.

    Args:
        event: to write.
        envelope: as the upstream's latest chunk has it.
    """
    payload = {"type": "ping", "event": EVENT_NAME, **lifecycle_fields(event)}
    return EVENT_LINE + b"data: " + dumps(payload) + b"\n\n"
