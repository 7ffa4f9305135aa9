"""Content types, as far as anything depends on them (RFC 9110 section 8.3.1)."""

from typing import Final

EVENT_STREAM: Final = "text/event-stream"


def media_type(content_type: str) -> str:
    """``text/html`` from ``Text/HTML; charset=utf-8``: without parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def is_event_stream(content_type: str) -> bool:
    """Whether a ``Content-Type`` header names an event stream. Not all event streams have one."""
    return media_type(content_type) == EVENT_STREAM
