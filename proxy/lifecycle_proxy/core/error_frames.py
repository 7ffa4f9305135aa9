"""An error as an event, in the form in which clients of each API expect one.

These are the only added frames with a top-level ``error``: OpenAI's and Anthropic's SDKs raise on
it. A Responses stream ends with ``response.failed`` instead; Codex ignores anything else.
"""

import json
from typing import Any, Protocol

from lifecycle_proxy.core.events import Envelope

Json = dict[str, Any]


class ErrorFrame(Protocol):
    """Writes an error as an event."""

    def __call__(self, error: Json, envelope: Envelope, *, is_first: bool) -> bytes:
        """The bytes of the event, or events.

        Args:
            error: OpenAI's error object.
            envelope: as the upstream's latest chunk has it.
            is_first: the upstream has sent nothing of this answer yet.
        """
        ...


def chat_error(error: Json, envelope: Envelope, *, is_first: bool) -> bytes:
    """For chat completions: the error object in an event without a name.

    Args:
        error: OpenAI's error object.
        envelope: as the upstream's latest chunk has it.
        is_first: the upstream has sent nothing of this answer yet.
    """
    return _event({"error": error})


def messages_error(error: Json, envelope: Envelope, *, is_first: bool) -> bytes:
    """For Messages: an event of the name and type ``error``.

    Args:
        error: OpenAI's error object.
        envelope: as the upstream's latest chunk has it.
        is_first: the upstream has sent nothing of this answer yet.
    """
    return _event({"type": "error", "error": error}, "error")


def responses_error(error: Json, envelope: Envelope, *, is_first: bool) -> bytes:
    """For Responses: ``ResponseFailedEvent`` of ``openai.types.responses``, with every field.

    Helpers of the SDKs raise on a response that failed before it was created, and their users never
    see why. So the first event of a response is ``response.created``.

    Args:
        error: OpenAI's error object.
        envelope: as the upstream's latest chunk has it.
        is_first: the upstream has sent nothing of this answer yet.
    """
    response: Json = {
        "id": envelope.id,
        "object": "response",
        "created_at": envelope.created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": envelope.model,
        "output": [],
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }
    states = [("response.failed", {**response, "status": "failed", "error": error})]
    if is_first:
        states.insert(0, ("response.created", response))
    return b"".join(
        _event({"type": kind, "sequence_number": number, "response": state}, kind)
        for number, (kind, state) in enumerate(states, envelope.sequence_number + 1)
    )


def _event(payload: Json, name: str = "") -> bytes:
    line = f"event: {name}\n" if name else ""
    text = f"{line}data: {json.dumps(payload, ensure_ascii=False)}\n\n"
    return text.encode("utf-8", "replace")
