"""``reasoning``: a line in the thinking block of LobeChat, and of any page that has one."""

from proxy.core.dialects.fields import dumps
from proxy.core.dialects.openwebui import line
from proxy.core.events import Envelope, LifecycleEvent, ToolCompleted


def reasoning(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """One line for each tool that begins; text cannot be taken back, so none when it ends."""
    if isinstance(event, ToolCompleted):
        return b""
    payload = {
        "id": envelope.id,
        "object": "chat.completion.chunk",
        "created": envelope.created,
        "model": envelope.model,
        "choices": [
            {
                "index": event.choice,
                "delta": {"reasoning_content": f"{line(event)}\n"},
                "finish_reason": None,
            }
        ],
    }
    if envelope.system_fingerprint is not None:
        payload["system_fingerprint"] = envelope.system_fingerprint
    return b"data: " + dumps(payload) + b"\n\n"
