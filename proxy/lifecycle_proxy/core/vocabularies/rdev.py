"""``rdev``: what a command of rdev's agents prints: ``output`` and, at the end, ``done``.

Text and results of tools are its standard output, errors its error output; reasoning is left out.
The exit code is 0 or 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, assert_never

from lifecycle_proxy.core.stream_events import ClosedReason, StreamEvent
from lifecycle_proxy.core.vocabularies.frames import EVENT_STREAM, KEEP_ALIVE, named, result_of

_Fields = Mapping[str, Any]


class Rdev:
    """Writes one command's output for one reader.

    Args:
        stream_id: of the stream. Its reader knows it.
    """

    headers: ClassVar[Mapping[str, str]] = EVENT_STREAM
    needs_history: ClassVar[bool] = False

    def __init__(self, stream_id: str) -> None:
        self._id = stream_id

    def begin(self) -> bytes:
        return b""

    def render(self, event: StreamEvent) -> bytes:
        """See ``Vocabulary``."""
        data = event.data
        match event.type:
            case "text":
                is_thought = data.get("kind") == "reasoning"
                return b"" if is_thought else _output("stdout", data.get("text", ""))
            case "tool.completed":
                is_error = data.get("isError")
                tool = f"{data.get('tool', '')}: " if is_error else ""
                return _output("stderr" if is_error else "stdout", result_of(data), tool)
            case "stream.done":
                return _done(data)
            case "stream.started" | "tool.running" | "tool.arguments":
                return b""
            case "usage" | "llm_failover" | "approval.request":
                return b""
            case _:
                assert_never(event.type)

    def gap(self, requested: int, first: int, open_calls: Sequence[_Fields]) -> bytes:
        """See ``Vocabulary``."""
        return _output("stderr", f"output is missing: events {requested} to {first - 1}")

    def reset(self, requested: int) -> bytes:
        return b""

    def keep_alive(self, at: float) -> bytes:
        return KEEP_ALIVE

    def closed(self, reason: ClosedReason, message: str) -> bytes:
        """See ``Vocabulary``. The command may go on: it has no exit code."""
        return _output("stderr", message)

    def done(self) -> bytes:
        return b""


def _output(stream: str, content: str, prefix: str = "") -> bytes:
    if not content:
        return b""
    return named("output", {"type": stream, "content": f"{prefix}{content}"})


def _done(data: _Fields) -> bytes:
    status = data.get("status")
    is_good = status in ("completed", "incomplete")
    why = b"" if is_good else _output("stderr", str(data.get("reason") or status or "failed"))
    end = {"exit_code": int(not is_good), "duration_ms": data.get("durationMs", 0)}
    return why + named("done", end)
