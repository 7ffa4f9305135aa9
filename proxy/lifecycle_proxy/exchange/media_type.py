"""Content types, as far as anything depends on them (RFC 9110 sections 8.3.1 and 12.5.1)."""

import re
from collections.abc import Iterable
from typing import Final

EVENT_STREAM: Final = "text/event-stream"
_REFUSED: Final = re.compile(r"q\s*=\s*0(?:\.0*)?", re.IGNORECASE)


def media_type(content_type: str) -> str:
    """``text/html`` from ``Text/HTML; charset=utf-8``: without parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def is_event_stream(content_type: str) -> bool:
    """Whether a ``Content-Type`` header names an event stream. Not all event streams have one."""
    return media_type(content_type) == EVENT_STREAM


def asks_for_event_stream(accept: Iterable[str]) -> bool:
    """Whether ``Accept`` headers name an event stream: not ``*/*`` or ``text/*``, nor ``q=0``.

    Args:
        accept: the values of all of them.
    """
    for value in accept:
        if EVENT_STREAM not in value.lower():  # most
            continue
        for media_range in value.split(","):
            if is_event_stream(media_range):
                parameters = media_range.split(";")[1:]
                if not any(_REFUSED.fullmatch(one.strip()) for one in parameters):
                    return True
    return False
