"""``openwebui`` and ``openwebui-status``: what Open WebUI draws, on top of a legal chunk.

Open WebUI ignores named events. It draws two things that a chunk can carry beside its choices, both
found by running it (0.12.4): an item of the Responses API, drawn as a tool card and stored in the
chat (from 0.8 on), and a status event, drawn as a line above the answer (from 0.6 on).
"""

from typing import Any, Final

from lifecycle_proxy.core.dialects.fields import EVENT_LINE, chunk_fields, dumps, text_of
from lifecycle_proxy.core.events import (
    Envelope,
    LifecycleEvent,
    Outcome,
    ToolCompleted,
    ToolRunning,
)
from lifecycle_proxy.core.history import PREFIX

# Past the end of any answer: server and page both append there. Left out, the page would insert
# the card before its last item.
_PAST_THE_END: Final = 1_000_000
_OUTCOMES: Final = {
    Outcome.FAILED: "failed after",
    Outcome.CANCELLED: "cancelled after",
    Outcome.CUT: "cut off after",
}


def openwebui(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """Tool cards, for tools that run behind the upstream.

    For calls that are in the stream as ``delta.tool_calls`` Open WebUI draws a card of its own and
    runs the tool: those get plain chunks. Of the others each card must get its output before the
    stream ends, or Open WebUI runs the tool itself.

    Args:
        event: to write.
        envelope: as the upstream's latest chunk has it.
    """
    payload = chunk_fields(event, envelope)
    if event.hosted:
        payload["type"] = "response.output_item.added"
        payload["output_index"] = _PAST_THE_END
        payload["item"] = _call(event) if isinstance(event, ToolRunning) else _output(event)
    return EVENT_LINE + b"data: " + dumps(payload) + b"\n\n"


def openwebui_status(event: LifecycleEvent, envelope: Envelope) -> bytes:
    """A status line: for Open WebUI before 0.8, which knows no cards, or by taste.

    Args:
        event: to write.
        envelope: as the upstream's latest chunk has it.
    """
    payload = chunk_fields(event, envelope)
    done = isinstance(event, ToolCompleted)
    text = text_of(event)
    if isinstance(event, ToolCompleted) and event.outcome in _OUTCOMES:
        text += f" ({_OUTCOMES[event.outcome].removesuffix(' after')})"
    data = {"description": text, "done": done}
    payload["event"] = {"type": "status", "data": data}
    return EVENT_LINE + b"data: " + dumps(payload) + b"\n\n"


def _call(event: ToolRunning) -> dict[str, Any]:
    """The card. With ``in_progress`` it would say Preparing in the place of Executing."""
    card = _card(event)
    arguments = event.arguments or dumps({"label": event.label}).decode()
    if not event.arguments and event.label == event.tool:
        arguments = "{}"
    return {
        "type": "function_call",
        "id": card,
        "call_id": card,
        "name": event.tool,
        "arguments": arguments,
        "status": "completed",
    }


def _output(event: ToolCompleted) -> dict[str, Any]:
    card = _card(event)
    text = event.output
    if text is None:
        text = f"{_OUTCOMES.get(event.outcome, 'done in')} {event.duration_ms / 1000:.1f} s"
        if event.reason is not None:
            text += f" ({event.reason})"
    if event.outcome is Outcome.FAILED and event.reason is None and not text.startswith("Error:"):
        text = f"Error: {text}"  # by that word it draws a cross in the place of a tick
    return {
        "type": "function_call_output",
        "id": f"{card}_out",
        "call_id": card,
        "output": [{"type": "input_text", "text": text}],
        "status": "completed",
    }


def _card(event: LifecycleEvent) -> str:
    """Each card needs an id of its own, by which it is known when it comes back."""
    again = f"_{event.repeat}" if event.repeat else ""
    choice = f"_c{event.choice}" if event.choice else ""
    return f"{PREFIX}{event.id}{choice}{again}"
