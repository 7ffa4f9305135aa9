"""``chunk`` and ``plain``: a lifecycle event that is at the same time a legal chunk.

The one form that every client tried survives: the bare payload, or one with ``choices: []``, breaks
``chunk.choices[0]`` in openai-node, the AI SDK, LlamaIndex and plain loops.
"""

from typing import Any

from proxy.core.dialects.fields import EVENT_LINE, dumps, lifecycle_fields
from proxy.core.events import Envelope, LifecycleEvent


def plain(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """Without the event line: openai-python < 1.98 and openai-node < 5.11 wrap any named event."""
    payload: dict[str, Any] = {
        "id": envelope.id,
        "object": "chat.completion.chunk",
        "created": envelope.created,
        "model": envelope.model,
        "choices": [{"index": 0, "delta": {}, "finish_reason": None}],
        **lifecycle_fields(event),
    }
    if envelope.system_fingerprint is not None:
        # openai's accumulating helper takes it from the latest chunk, be it ours.
        payload["system_fingerprint"] = envelope.system_fingerprint
    return b"data: " + dumps(payload) + b"\n\n"


def chunk(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """The default: safe for everybody else, and found by readers of Hermes' event name."""
    return EVENT_LINE + plain(event, envelope)
