"""``bare``: Hermes Agent's own bytes, for clients written against it. It breaks strict ones."""

import json
from typing import Any

from lifecycle_proxy.core.dialects.fields import EVENT_LINE
from lifecycle_proxy.core.events import Envelope, LifecycleEvent, ToolRunning


def bare(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """Running with label and emoji, completed without; ASCII JSON, as Python's json writes it.

    Args:
        event: to write.
        envelope: as the upstream's latest chunk has it.
    """
    payload: dict[str, Any] = {"tool": event.tool, "toolCallId": event.id, "status": "completed"}
    if isinstance(event, ToolRunning):
        payload = {
            "tool": event.tool,
            "emoji": event.emoji,
            "label": event.label,
            "toolCallId": event.id,
            "status": "running",
        }
    return EVENT_LINE + b"data: " + json.dumps(payload).encode() + b"\n\n"
