"""``kilroy``: the progress events of kilroy's runs, as ``GET /runs/{id}/events`` sends them.

Each is JSON without an ``event`` line; ``event: done`` comes at a real end only. ``id`` follows
from the event's number, so a client that reads anew can drop what it knows. A stream is a run, its
model the node.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, assert_never

from lifecycle_proxy.core.stream_events import ClosedReason, StreamEvent
from lifecycle_proxy.core.vocabularies.frames import EVENT_STREAM, KEEP_ALIVE, named, unnamed

_Fields = Mapping[str, Any]
_EVENTS_EACH: Final = 2  # at most, of one event of the log
_HEARTBEAT: Final = 1 << 31


class Kilroy:
    """Writes one run for one reader.

    Args:
        stream_id: of the stream: the run's id.
    """

    headers: ClassVar[Mapping[str, str]] = EVENT_STREAM
    needs_history: ClassVar[bool] = True

    def __init__(self, stream_id: str) -> None:
        self._run = stream_id
        self._heartbeats = 0
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._node = ""
        self._text_bytes = 0
        self._calls = 0
        self._events = 0
        self._began_at: float | None = None
        self._latest_at = 0.0

    def begin(self) -> bytes:
        return b""

    def render(self, event: StreamEvent) -> bytes:
        """See ``Vocabulary``."""
        if self._began_at is None:
            self._began_at = event.at
        self._latest_at = event.at
        self._events += 1
        return b"".join(
            self._frame(event.seq * _EVENTS_EACH + number, event.at, **fields)
            for number, fields in enumerate(self._fields(event))
        )

    def gap(self, requested: int, first: int, open_calls: Sequence[_Fields]) -> bytes:
        """See ``Vocabulary``. An event of the proxy's own: kilroy never drops any."""
        number = first * _EVENTS_EACH - 1
        missing = {"requested": requested, "first_available": first}
        return self._frame(number, self._latest_at, event="gap", **missing)

    def reset(self, requested: int) -> bytes:
        """See ``Vocabulary``."""
        self._begin_anew()
        return b""

    def keep_alive(self, at: float) -> bytes:
        """See ``Vocabulary``. None before the stage has begun."""
        if self._began_at is None:
            return KEEP_ALIVE
        self._heartbeats += 1
        return self._frame(
            _HEARTBEAT + self._heartbeats,
            at,
            event="stage_heartbeat",
            elapsed_s=int(at - self._began_at),
            event_count=self._events,
            since_last_output_s=int(at - self._latest_at),
        )

    def closed(self, reason: ClosedReason, message: str) -> bytes:
        """See ``Vocabulary``. An event of the proxy's own; ``done`` does not come."""
        number, why = _HEARTBEAT + self._heartbeats + 1, {"reason": reason, "message": message}
        return self._frame(number, self._latest_at, event="closed", **why)

    def done(self) -> bytes:
        return named("done", {})

    def _fields(self, event: StreamEvent) -> list[dict[str, Any]]:
        data = event.data
        match event.type:
            case "stream.started":
                self._node = data.get("model") or data.get("api", "")
                return []
            case "text":
                return self._text(data)
            case "tool.running":
                self._calls += 1
                return [_call("llm_tool_call_start", data)]
            case "tool.completed":
                end = _call("llm_tool_call_end", data)
                return [{**end, "is_error": bool(data.get("isError"))}]
            case "llm_failover":
                return [{"event": "llm_failover", **data}]
            case "stream.done":
                return self._end(data)
            case "tool.arguments" | "usage" | "approval.request":
                return []
            case _:
                assert_never(event.type)

    def _text(self, data: _Fields) -> list[dict[str, Any]]:
        text = data.get("text", "")
        if not text or data.get("kind") == "reasoning":
            return []
        self._text_bytes += len(text.encode("utf-8", "replace"))
        return [{"event": "llm_text_delta", "delta": text}]

    def _end(self, data: _Fields) -> list[dict[str, Any]]:
        status = data.get("status")
        if status in ("completed", "incomplete"):
            count = max(self._calls, data.get("calls", 0))
            turn = {"text_length": self._text_bytes, "tool_call_count": count}
            run = {"event": "run_completed", "status": "success"}
            return [{"event": "llm_turn_end", **turn}, run]
        word = "canceled" if status == "cancelled" else "fail"
        return [{"event": "run_failed", "status": word, "reason": data.get("reason") or status}]

    def _frame(self, number: int, at: float, **fields: Any) -> bytes:
        own = {"id": f"{number & 0xFFFFFFFF:08x}", "ts": _rfc3339(at)}
        place = {"run_id": self._run, "node_id": self._node, "backend": "api"}
        return unnamed(**own, **place, **fields)


def _call(name: str, data: _Fields) -> dict[str, Any]:
    return {"event": name, "tool_name": data.get("tool"), "call_id": data.get("toolCallId")}


def _rfc3339(at: float) -> str:
    """As Go writes ``RFC3339Nano``: without zeros at the end."""
    text = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.rstrip("0").rstrip(".") + "Z"
