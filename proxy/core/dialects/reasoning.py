"""``reasoning``: a line in the thinking block of LobeChat, and of any page that has one."""

from proxy.core.dialects.fields import chunk_of, dumps
from proxy.core.dialects.openwebui import line
from proxy.core.events import Envelope, LifecycleEvent, ToolCompleted


def reasoning(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """One line for each tool that begins; text cannot be taken back, so none when it ends."""
    if isinstance(event, ToolCompleted):
        return b""
    delta = {"reasoning_content": f"{line(event)}\n"}
    choice = {"index": event.choice, "delta": delta, "finish_reason": None}
    return b"data: " + dumps(chunk_of(choice, envelope)) + b"\n\n"
