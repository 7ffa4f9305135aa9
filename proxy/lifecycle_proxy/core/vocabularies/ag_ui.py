"""``ag-ui``: the events of AG-UI 1.0 (``@ag-ui/client``), which checks their order strictly.

A stream is a run, and begins with ``RUN_STARTED`` for every reader, from wherever it reads. Nothing
follows behind ``RUN_FINISHED`` or ``RUN_ERROR``, and no call may be open at the former. A result
without its call is allowed. What AG-UI has no event for is ``CUSTOM``.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from lifecycle_proxy.core.stream_events import ClosedReason, StreamEvent
from lifecycle_proxy.core.vocabularies.frames import EVENT_STREAM, is_known, result_of, unnamed
from lifecycle_proxy.core.vocabularies.shown_parts import ShownCall, ShownText
from lifecycle_proxy.core.vocabularies.ui_stream import Fields, UiStream


class AgUi(UiStream):
    """Writes one run for one reader.

    Args:
        stream_id: of the stream: the run's id, and the thread's.
    """

    headers: ClassVar[Mapping[str, str]] = EVENT_STREAM
    needs_history: ClassVar[bool] = False

    def __init__(self, stream_id: str) -> None:
        super().__init__(f"{stream_id}-message-")
        self._id = stream_id
        self._are_arguments_due: set[str] = set()  # calls whose arguments may still come

    def begin(self) -> bytes:
        return unnamed(type="RUN_STARTED", threadId=self._id, runId=self._id)

    def reset(self, requested: int) -> bytes:
        """See ``Vocabulary``."""
        return self._end_parts() + self._other("reset", {"requested": requested})

    def closed(self, reason: ClosedReason, message: str) -> bytes:
        """See ``Vocabulary``."""
        return self._end_parts() + unnamed(type="RUN_ERROR", message=message, code=reason)

    def done(self) -> bytes:
        return b""

    def _other(self, name: str, value: Fields) -> bytes:
        return unnamed(type="CUSTOM", name=name, value=value)

    def _text_start(self, text: ShownText) -> bytes:
        if text.kind != "reasoning":
            return unnamed(type="TEXT_MESSAGE_START", messageId=text.id, role="assistant")
        start = unnamed(type="REASONING_START", messageId=text.id)
        return start + unnamed(type="REASONING_MESSAGE_START", messageId=text.id, role="reasoning")

    def _more_text(self, text: ShownText, delta: str) -> bytes:
        kind = "REASONING_MESSAGE" if text.kind == "reasoning" else "TEXT_MESSAGE"
        return unnamed(type=f"{kind}_CONTENT", messageId=text.id, delta=delta)

    def _text_end(self, text: ShownText) -> bytes:
        if text.kind != "reasoning":
            return unnamed(type="TEXT_MESSAGE_END", messageId=text.id)
        end = unnamed(type="REASONING_MESSAGE_END", messageId=text.id)
        return end + unnamed(type="REASONING_END", messageId=text.id)

    def _start(self, call: ShownCall) -> bytes:
        name = call.data.get("tool", "")
        frames = unnamed(type="TOOL_CALL_START", toolCallId=call.id, toolCallName=name)
        self._are_arguments_due.add(call.id)
        if arguments := call.data.get("arguments"):
            frames += self._more_arguments(call.id, arguments) + self._end_unseen(call)
        return frames

    def _more_arguments(self, call_id: str, delta: str) -> bytes:
        if call_id not in self._are_arguments_due:
            return b""
        return unnamed(type="TOOL_CALL_ARGS", toolCallId=call_id, delta=delta)

    def _end(self, call: ShownCall, event: StreamEvent, *, is_new: bool) -> bytes:
        frames = self._end_unseen(call)
        if not is_known(event.data):
            return frames
        own: dict[str, Any] = {"messageId": f"{self._id}-result-{event.seq}"}
        own |= {"toolCallId": call.id, "content": result_of(event.data), "role": "tool"}
        return frames + unnamed(type="TOOL_CALL_RESULT", **own)

    def _end_unseen(self, call: ShownCall) -> bytes:
        if call.id not in self._are_arguments_due:
            return b""
        self._are_arguments_due.discard(call.id)
        return unnamed(type="TOOL_CALL_END", toolCallId=call.id)

    def _done(self, data: Fields) -> bytes:
        frames = self._end_parts()
        if data.get("status") in ("completed", "incomplete"):
            return frames + unnamed(type="RUN_FINISHED", threadId=self._id, runId=self._id)
        reason = data.get("reason") or data.get("status") or "failed"
        return frames + unnamed(type="RUN_ERROR", message=reason, code=reason)

    def _end_parts(self) -> bytes:
        return self._end_texts() + b"".join(map(self._end_unseen, self._calls.end_all()))
