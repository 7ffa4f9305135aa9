"""``ag-ui``: the events of AG-UI 1.0 (``@ag-ui/client``), which checks their order strictly.

A stream is a run, and begins with ``RUN_STARTED`` for every reader, from wherever it reads. Nothing
follows behind ``RUN_FINISHED`` or ``RUN_ERROR``, and no call may be open at the former. A result
without its call is allowed. What AG-UI has no event for is ``CUSTOM``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, assert_never

from lifecycle_proxy.core.stream_events import StreamEvent
from lifecycle_proxy.core.vocabularies.frames import EVENT_STREAM, KEEP_ALIVE, result_of, unnamed
from lifecycle_proxy.core.vocabularies.shown_parts import (
    ShownCall,
    ShownCalls,
    ShownText,
    ShownTexts,
)

_Fields = Mapping[str, Any]


class AgUi:
    """Writes one run for one reader.

    Args:
        stream_id: of the stream: the run's id, and the thread's.
    """

    headers: ClassVar[Mapping[str, str]] = EVENT_STREAM
    needs_history: ClassVar[bool] = False

    def __init__(self, stream_id: str) -> None:
        self._id = stream_id
        self._calls = ShownCalls()
        self._texts = ShownTexts(f"{stream_id}-message-")
        self._are_arguments_due: set[str] = set()  # calls whose arguments may still come

    def begin(self) -> bytes:
        return unnamed(type="RUN_STARTED", threadId=self._id, runId=self._id)

    def render(self, event: StreamEvent) -> bytes:
        """See ``Vocabulary``."""
        data = event.data
        match event.type:
            case "stream.started":
                return b""
            case "text":
                return self._text(data)
            case "tool.running":
                return self._running(data)
            case "tool.arguments":
                call = self._calls.maybe(data)
                return b"" if call is None else self._arguments(call.id, data.get("delta", ""))
            case "tool.completed":
                return self._completed(data, event.seq)
            case "usage" | "llm_failover" | "approval.request":
                return unnamed(type="CUSTOM", name=event.type, value=data)
            case "stream.done":
                return self._done(data)
            case _:
                assert_never(event.type)

    def gap(self, requested: int, first: int, open_calls: Sequence[_Fields]) -> bytes:
        """See ``Vocabulary``."""
        value = {"requested": requested, "firstAvailable": first}
        frames = [self._end_texts(), unnamed(type="CUSTOM", name="gap", value=value)]
        frames += [self._end_call(call) for call in self._calls.end_others(open_calls)]
        frames += [self._running(data) for data in open_calls]
        return b"".join(frames)

    def reset(self, requested: int) -> bytes:
        """See ``Vocabulary``."""
        value = {"requested": requested}
        return self._end_parts() + unnamed(type="CUSTOM", name="reset", value=value)

    def keep_alive(self, at: float) -> bytes:
        return KEEP_ALIVE

    def done(self) -> bytes:
        return b""

    def _text(self, data: _Fields) -> bytes:
        if not data.get("text"):
            return b""
        text, is_new, ended = self._texts.go_on(data)
        frames = b"" if ended is None else _text_end(ended)
        if is_new:
            frames += _text_start(text)
        kind = "REASONING_MESSAGE" if text.kind == "reasoning" else "TEXT_MESSAGE"
        return frames + unnamed(type=f"{kind}_CONTENT", messageId=text.id, delta=data["text"])

    def _running(self, data: _Fields) -> bytes:
        frames, call = self._end_texts(), self._calls.begin(data)
        if call is None:
            return frames
        name = data.get("tool", "")
        frames += unnamed(type="TOOL_CALL_START", toolCallId=call.id, toolCallName=name)
        self._are_arguments_due.add(call.id)
        if arguments := data.get("arguments"):
            frames += self._arguments(call.id, arguments) + self._end_call(call)
        return frames

    def _arguments(self, call_id: str, delta: str) -> bytes:
        if not delta or call_id not in self._are_arguments_due:
            return b""
        return unnamed(type="TOOL_CALL_ARGS", toolCallId=call_id, delta=delta)

    def _completed(self, data: _Fields, seq: int) -> bytes:
        call = self._calls.end(data) or self._calls.only_ended(data)
        return self._end_call(call) + unnamed(
            type="TOOL_CALL_RESULT",
            messageId=f"{self._id}-result-{seq}",
            toolCallId=call.id,
            content=result_of(data),
            role="tool",
        )

    def _done(self, data: _Fields) -> bytes:
        frames = self._end_parts()
        if data.get("status") in ("completed", "incomplete"):
            return frames + unnamed(type="RUN_FINISHED", threadId=self._id, runId=self._id)
        reason = data.get("reason") or data.get("status") or "failed"
        return frames + unnamed(type="RUN_ERROR", message=reason, code=reason)

    def _end_call(self, call: ShownCall) -> bytes:
        if call.id not in self._are_arguments_due:
            return b""
        self._are_arguments_due.discard(call.id)
        return unnamed(type="TOOL_CALL_END", toolCallId=call.id)

    def _end_texts(self) -> bytes:
        return b"".join(map(_text_end, self._texts.end_all()))

    def _end_parts(self) -> bytes:
        return self._end_texts() + b"".join(map(self._end_call, self._calls.end_all()))


def _text_start(text: ShownText) -> bytes:
    if text.kind != "reasoning":
        return unnamed(type="TEXT_MESSAGE_START", messageId=text.id, role="assistant")
    start = unnamed(type="REASONING_START", messageId=text.id)
    return start + unnamed(type="REASONING_MESSAGE_START", messageId=text.id, role="reasoning")


def _text_end(text: ShownText) -> bytes:
    if text.kind != "reasoning":
        return unnamed(type="TEXT_MESSAGE_END", messageId=text.id)
    end = unnamed(type="REASONING_MESSAGE_END", messageId=text.id)
    return end + unnamed(type="REASONING_END", messageId=text.id)
