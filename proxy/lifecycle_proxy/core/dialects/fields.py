"""What all dialects say of an event, in the words of Hermes Agent."""

import json
from typing import Any, Final, assert_never

import orjson

from lifecycle_proxy.core.events import Envelope, LifecycleEvent, ToolCompleted, ToolRunning

EVENT_NAME: Final = "hermes.tool.progress"
EVENT_LINE: Final = f"event: {EVENT_NAME}\n".encode()
_NO_OP: Final = {"index": 0, "delta": {}, "finish_reason": None}


def lifecycle_fields(event: LifecycleEvent) -> dict[str, Any]:
    """The flat fields of an event.

    The status of a failed tool is ``completed``, too: strict clients (Swift enums, Next.js) drop
    any other value and their card spins for ever. ``isError`` is the difference. Never a key
    ``error``: every SDK raises on it.
    """
    fields: dict[str, Any] = {
        "tool": event.tool,
        "emoji": event.emoji,
        "label": event.label,
        "toolCallId": event.id,
    }
    match event:
        case ToolRunning():
            fields["status"] = "running"
        case ToolCompleted():
            fields["status"] = "completed"
            fields["durationMs"] = event.duration_ms
            if event.outcome.is_error:
                fields["isError"] = True
            if event.reason is not None:
                fields["reason"] = event.reason
            if event.output is not None:
                fields["result"] = event.output
        case _:
            assert_never(event)
    if event.choice:
        fields["choice"] = event.choice
    return fields


def text_of(event: LifecycleEvent) -> str:
    """One line of text: emoji, tool, and what it does, where that is known."""
    text = f"{event.emoji} {event.tool}"
    return text if event.label == event.tool else f"{text}: {event.label}"


def chunk_fields(event: LifecycleEvent, envelope: Envelope) -> dict[str, Any]:
    """A legal chunk with one choice that changes nothing, and the fields of the event.

    Args:
        event: to write.
        envelope: as the upstream's latest chunk has it.
    """
    return chunk_of(_NO_OP, envelope, lifecycle_fields(event))


def embed_chunk(url: str, envelope: Envelope) -> bytes:
    """A chunk for which Open WebUI puts a page into the message.

    Args:
        url: of the page.
        envelope: as the upstream's latest chunk has it.
    """
    fields = {"event": {"type": "embeds", "data": {"embeds": [url]}}}
    return b"data: " + dumps(chunk_of(_NO_OP, envelope, fields)) + b"\n\n"


def chunk_of(
    choice: dict[str, Any], envelope: Envelope, fields: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A chunk with one choice, as the upstream would send it, and maybe more fields.

    Args:
        choice: the only one.
        envelope: as the upstream's latest chunk has it.
        fields: besides.
    """
    payload: dict[str, Any] = {
        "id": envelope.id,
        "object": "chat.completion.chunk",
        "created": envelope.created,
        "model": envelope.model,
        "choices": [choice],
        **(fields or {}),
    }
    if envelope.system_fingerprint is not None:
        # openai's accumulating helper takes it from the latest chunk, be it an added one.
        payload["system_fingerprint"] = envelope.system_fingerprint
    return payload


def dumps(payload: dict[str, Any]) -> bytes:
    """JSON on one line."""
    try:
        return orjson.dumps(payload)
    except TypeError:  # lone surrogates, which a model may well write
        return json.dumps(payload, ensure_ascii=False).encode("utf-8", "replace")
