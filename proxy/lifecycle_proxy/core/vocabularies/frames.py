"""The two forms of an event that all vocabularies use, and what most of them share."""

from collections.abc import Mapping
from typing import Any, Final

from lifecycle_proxy.core.dialects.fields import dumps

EVENT_STREAM: Final[Mapping[str, str]] = {"Content-Type": "text/event-stream"}
KEEP_ALIVE: Final = b": keep-alive\n\n"


def named(name: str, data: Mapping[str, Any]) -> bytes:
    """An event with a name.

    Args:
        name: for the ``event`` line.
        data: JSON.
    """
    return encoded(name, dumps(dict(data)))


def encoded(name: str, data: bytes) -> bytes:
    """An event with a name.

    Args:
        name: for the ``event`` line.
        data: encoded.
    """
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def unnamed(**data: Any) -> bytes:
    """An event that has its name in the data."""
    return b"data: %b\n\n" % dumps(data)


def is_known(data: Mapping[str, Any]) -> bool:
    """Whether anything is known of what came of a call.

    Not where its client runs it: then the end of its being written is all that the stream has.

    Args:
        data: of ``tool.completed``.
    """
    return data.get("outcome") != "unknown" or bool(data.get("hosted")) or "result" in data


def result_of(data: Mapping[str, Any]) -> str:
    """What came of a call, in words.

    Args:
        data: of ``tool.completed``.

    Returns:
        Its result, or why it failed; "" where neither is known.
    """
    if result := data.get("result"):
        return str(result)
    return str(data.get("reason") or "error") if data.get("isError") else ""
