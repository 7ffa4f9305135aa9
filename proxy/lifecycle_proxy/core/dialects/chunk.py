"""``chunk`` and ``plain``: a lifecycle event that is at the same time a legal chunk.

The one form that every client tried survives: the bare payload, or one with ``choices: []``, breaks
``chunk.choices[0]`` in openai-node, the AI SDK, LlamaIndex and plain loops.
"""

from lifecycle_proxy.core.dialects.fields import EVENT_LINE, chunk_fields, dumps
from lifecycle_proxy.core.events import Envelope, LifecycleEvent


def plain(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """Without the event line: openai-python < 1.98 and openai-node < 5.11 wrap any named event.

    Args:
        event: to write.
        envelope: as the upstream's latest chunk has it.
    """
    return b"data: " + dumps(chunk_fields(event, envelope)) + b"\n\n"


def chunk(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """The default: safe for everybody else, and found by readers of Hermes' event name.

    Args:
        event: to write.
        envelope: as the upstream's latest chunk has it.
    """
    return EVENT_LINE + plain(event, envelope)
