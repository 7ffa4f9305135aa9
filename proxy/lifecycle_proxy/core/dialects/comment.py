"""``comment``: a line that every parser drops, for clients that take nothing but chunks."""

from lifecycle_proxy.core.dialects.fields import dumps, lifecycle_fields
from lifecycle_proxy.core.events import Envelope, LifecycleEvent


def comment(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """``: hermes.tool.progress {...}``. Never ``: ping``: Continue stops reading there.

    Args:
        event: to write.
        envelope: as the upstream's latest chunk has it.
    """
    return b": hermes.tool.progress " + dumps(lifecycle_fields(event)) + b"\n\n"
