"""``agentlang``: the events of Agentlang's ``SseEmitter``, without ids.

A step is a tool call, the agent is the model. ``toolCallId`` is added, since a tool may be called
more than once at a time. ``result`` and ``error`` are the ends. The plain request that asks for
progress has them from here, too (``relay.progress``); there ``result`` is the whole answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, assert_never

from lifecycle_proxy.core.stream_events import ClosedReason, StreamEvent
from lifecycle_proxy.core.vocabularies.frames import EVENT_STREAM, named, result_of

_Fields = Mapping[str, Any]
CONNECTED: Final = b": connected\n\n"
KEEP_ALIVE: Final = b": keepalive\n\n"
_MAX_CONTENT: Final = 1 << 20  # characters; a reader costs no more
_STATUS: Final = {"upstream_timeout": 504, "client_disconnected": 499, "drained": 503}
_COUNTS: Final = ("inputTokens", "outputTokens", "totalTokens")


def agent_start(agent: str) -> bytes:
    """The agent begins."""
    return named("agent_start", {"agent": agent})


def step_start(agent: str, tool: str, call_id: str) -> bytes:
    """A tool call begins.

    Args:
        agent: the model.
        tool: its name.
        call_id: of the call.
    """
    return named("flow_step_start", {"step": tool, "agent": agent, "toolCallId": call_id})


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
    return named("flow_step_complete", fields)


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
    return named("llm_response", fields)


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
    return named("error", fields)


class Agentlang:
    """Writes one invocation of an agent for one reader.

    Args:
        stream_id: of the stream. Its reader knows it.
    """

    headers: ClassVar[Mapping[str, str]] = EVENT_STREAM
    needs_history: ClassVar[bool] = True

    def __init__(self, stream_id: str) -> None:
        self._id = stream_id
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._agent = ""
        self._texts: list[str] = []
        self._left = _MAX_CONTENT
        self._usage: tuple[int, int, int] | None = None

    def begin(self) -> bytes:
        return CONNECTED

    def render(self, event: StreamEvent) -> bytes:
        """See ``Vocabulary``."""
        data = event.data
        match event.type:
            case "stream.started":
                self._agent = str(data.get("model", ""))
                return agent_start(self._agent)
            case "text":
                self._take(data)
                return b""
            case "tool.running":
                return step_start(self._agent, str(data.get("tool", "")), _call_id(data))
            case "tool.completed":
                tool, is_error = str(data.get("tool", "")), bool(data.get("isError"))
                return step_complete(tool, _call_id(data), result_of(data), is_error=is_error)
            case "usage":
                counts = [data.get(name, 0) for name in _COUNTS]
                self._usage = (counts[0], counts[1], counts[2])
                return b""
            case "stream.done":
                return self._end(data)
            case "tool.arguments" | "llm_failover" | "approval.request":
                return b""
            case _:
                assert_never(event.type)

    def gap(self, requested: int, first: int, open_calls: Sequence[_Fields]) -> bytes:
        """See ``Vocabulary``. An event of any name is allowed."""
        return named("gap", {"requested": requested, "firstAvailable": first})

    def reset(self, requested: int) -> bytes:
        """See ``Vocabulary``."""
        self._begin_anew()
        return b""

    def keep_alive(self, at: float) -> bytes:
        return KEEP_ALIVE

    def closed(self, reason: ClosedReason, message: str) -> bytes:
        """See ``Vocabulary``."""
        return named("closed", {"reason": reason, "message": message})

    def done(self) -> bytes:
        return b""

    def _take(self, data: _Fields) -> None:
        """Keep the text of the answer."""
        if data.get("kind") != "reasoning" and not data.get("choice") and self._left > 0:
            text = str(data.get("text", ""))[: self._left]
            self._left -= len(text)
            self._texts.append(text)

    def _end(self, data: _Fields) -> bytes:
        status = data.get("status")
        if status not in ("completed", "incomplete"):
            reason = str(data.get("reason") or status or "failed")
            return error(reason, _STATUS.get(reason, 502))
        content = "".join(self._texts)
        return llm_response(self._agent, content, self._usage) + named(
            "result", {"content": content, **data}
        )


def _call_id(data: _Fields) -> str:
    return str(data.get("toolCallId", ""))
