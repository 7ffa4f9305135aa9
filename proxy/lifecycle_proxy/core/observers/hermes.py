"""Hermes Agent's own lifecycle events, where the upstream already sends them.

Two shapes (``gateway/platforms/api_server.py`` of hermes-agent 0.19): running with ``tool, emoji,
label, toolCallId, status``, and completed with ``tool, toolCallId, status``. Others copied the
event (nanobot adds ``failed``), and another proxy of this kind sends it inside a chunk.
"""

from typing import Any, Final

from lifecycle_proxy.core.events import NativeProgress, Outcome

EVENT_NAME: Final = b"hermes.tool.progress"
_FIELD: Final = b"event"
_BLANK_BYTES: Final = len(b"\r\n\r\n")

_RUNNING: Final = ("running", "started")
# Hermes says completed of a failed tool, too: nothing is known of the outcome.
_ENDED: Final = {
    "completed": Outcome.UNKNOWN,
    "done": Outcome.UNKNOWN,
    "success": Outcome.OK,
    "failed": Outcome.FAILED,
    "error": Outcome.FAILED,
    "cancelled": Outcome.CANCELLED,
}


def may_begin(tail: bytearray) -> bool:
    """Whether an unfinished event may turn out to be one of these: they begin with their name."""
    head = tail[: _BLANK_BYTES + len(_FIELD)].lstrip(b"\r\n")[: len(_FIELD)]
    return _FIELD.startswith(head)


def maybe_progress(payload: Any) -> NativeProgress | None:
    """Read the data of a ``hermes.tool.progress`` event.

    None where it cannot be paired: Hermes before 2026-04-29 sent no ``toolCallId``.
    """
    if not isinstance(payload, dict):
        return None
    call_id, tool, status = (payload.get(k) for k in ("toolCallId", "tool", "status"))
    if not (isinstance(call_id, str) and call_id and isinstance(status, str)):
        return None
    if status in _RUNNING and isinstance(tool, str) and tool:
        return NativeProgress(call_id, tool, _text(payload, "label"), _text(payload, "emoji"), None)
    if status in _ENDED:
        outcome = Outcome.FAILED if payload.get("isError") is True else _ENDED[status]
        return NativeProgress(call_id, tool if isinstance(tool, str) else "", None, None, outcome)
    return None


def _text(payload: dict[str, Any], key: str) -> str | None:
    value = payload.get(key)
    return value if isinstance(value, str) and value else None
