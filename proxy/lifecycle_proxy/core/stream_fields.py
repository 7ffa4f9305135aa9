"""The data of a stream's events: see the table in ``stream_events``."""

from typing import Any, Final

from lifecycle_proxy.core.dialects.fields import lifecycle_fields
from lifecycle_proxy.core.events import LifecycleEvent, ToolRunning

# What is longer is cut: a log has room for many events.
_MAX_TEXT: Final = 1 << 16
_USAGE: Final = (
    ("prompt_tokens", "inputTokens"),
    ("input_tokens", "inputTokens"),
    ("completion_tokens", "outputTokens"),
    ("output_tokens", "outputTokens"),
    ("total_tokens", "totalTokens"),
)


def tool_fields(event: LifecycleEvent) -> dict[str, Any]:
    """The data of ``tool.running`` and ``tool.completed``."""
    fields = lifecycle_fields(event)
    if event.hosted:
        fields["hosted"] = True
    if isinstance(event, ToolRunning):
        if event.arguments and len(event.arguments) <= _MAX_TEXT:  # a part could not be read
            fields["arguments"] = event.arguments
    else:
        fields["outcome"] = event.outcome.value
        if event.output is not None:
            fields["result"] = event.output[:_MAX_TEXT]
    return fields


def usage_fields(usage: dict[str, Any]) -> dict[str, int]:
    """The data of ``usage``; empty where the upstream said nothing that can be read.

    Args:
        usage: as the API has it.
    """
    if not usage:
        return {}
    fields: dict[str, int] = {}
    for name, own in _USAGE:
        number = usage.get(name)
        if type(number) is int and number >= 0:
            fields[own] = number
    if "totalTokens" not in fields and len(fields) == 2:
        fields["totalTokens"] = sum(fields.values())
    return fields
