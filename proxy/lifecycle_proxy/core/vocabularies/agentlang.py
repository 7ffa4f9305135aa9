"""Agentlang's events: ``event`` and JSON ``data``, without ids, as its ``SseEmitter`` writes them.

A step is a tool call, the agent is the model. ``toolCallId`` is added, since a tool may be called
more than once at a time. ``result`` and ``error`` are the ends.
"""

from typing import Any, Final

from lifecycle_proxy.core.dialects.fields import dumps

CONNECTED: Final = b": connected\n\n"
KEEP_ALIVE: Final = b": keepalive\n\n"


def frame(name: str, data: bytes) -> bytes:
    """One event.

    Args:
        name: of the event.
        data: JSON.
    """
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def agent_start(agent: str) -> bytes:
    """The agent begins."""
    return frame("agent_start", dumps({"agent": agent}))


def step_start(agent: str, tool: str, call_id: str) -> bytes:
    """A tool call begins.

    Args:
        agent: the model.
        tool: its name.
        call_id: of the call.
    """
    return frame("flow_step_start", dumps({"step": tool, "agent": agent, "toolCallId": call_id}))


def step_complete(tool: str, call_id: str, result: str, *, is_error: bool) -> bytes:
    """A tool call is over.

    Args:
        tool: its name.
        call_id: of the call.
        result: what came of it, or why it failed; "" where neither is known.
        is_error: whether it failed.
    """
    fields: dict[str, Any] = {"step": tool, "result": result, "toolCallId": call_id}
    if is_error:
        fields["isError"] = True
    return frame("flow_step_complete", dumps(fields))


def llm_response(agent: str, content: str, usage: tuple[int, int, int] | None) -> bytes:
    """The model's answer.

    Args:
        agent: the model.
        content: the text.
        usage: tokens of input, output and both; None where that is not known.
    """
    fields: dict[str, Any] = {"agent": agent, "content": content}
    if usage is not None:
        fields["tokens"] = dict(zip(("input", "output", "total"), usage, strict=True))
    return frame("llm_response", dumps(fields))


def error(message: str, status: int, code: object = None) -> bytes:
    """The end of what failed.

    Args:
        message: for people.
        status: that a plain response would have.
        code: of the error, where there is one.
    """
    fields: dict[str, Any] = {"error": message, "statusCode": status}
    if code is not None:
        fields["code"] = code
    return frame("error", dumps(fields))
