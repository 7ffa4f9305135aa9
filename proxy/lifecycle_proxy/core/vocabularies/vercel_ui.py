"""``vercel-ui``: the UI message stream of Vercel's AI SDK, version 1 (``readUIMessageStream``).

A stream is a message of one step. Tools are ``dynamic``, as the page does not know them, and
``providerExecuted``: a reader beside the stream does not run them, and ``useChat`` would.
A result needs its call, so one whose beginning is missing gets it in front.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import orjson

from lifecycle_proxy.core.complexity import is_too_complex
from lifecycle_proxy.core.stream_events import ClosedReason, StreamEvent
from lifecycle_proxy.core.vocabularies.frames import is_known, result_of, unnamed
from lifecycle_proxy.core.vocabularies.shown_parts import ShownCall, ShownText
from lifecycle_proxy.core.vocabularies.ui_stream import Fields, UiStream

_HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": "text/event-stream",
    "x-vercel-ai-ui-message-stream": "v1",
}
_MAX_ARGUMENTS: Final = 1 << 20  # characters of pieces of all calls: no reader costs more
_TRAITS: Final = {"dynamic": True, "providerExecuted": True}


class VercelUi(UiStream):
    """Writes one message for one reader.

    Args:
        stream_id: of the stream: the message's id.
    """

    headers: ClassVar[Mapping[str, str]] = _HEADERS
    needs_history: ClassVar[bool] = False

    def __init__(self, stream_id: str) -> None:
        super().__init__("text-")
        self._id = stream_id
        self._streaming: dict[str, list[str]] = {}  # calls whose input is not whole yet, its pieces
        self._left = _MAX_ARGUMENTS

    def begin(self) -> bytes:
        return unnamed(type="start", messageId=self._id) + unnamed(type="start-step")

    def reset(self, requested: int) -> bytes:
        """See ``Vocabulary``."""
        self._calls.end_all()
        self._streaming.clear()
        return self._end_texts() + self._other("reset", {"requested": requested})

    def closed(self, reason: ClosedReason, message: str) -> bytes:
        """See ``Vocabulary``."""
        return self._end_texts() + unnamed(type="error", errorText=message)

    def done(self) -> bytes:
        return b"data: [DONE]\n\n"

    def _other(self, name: str, value: Fields) -> bytes:
        return unnamed(type=f"data-{name}", data=value)

    def _text_start(self, text: ShownText) -> bytes:
        return unnamed(type=f"{text.kind}-start", id=text.id)

    def _more_text(self, text: ShownText, delta: str) -> bytes:
        return unnamed(type=f"{text.kind}-delta", id=text.id, delta=delta)

    def _text_end(self, text: ShownText) -> bytes:
        return unnamed(type=f"{text.kind}-end", id=text.id)

    def _start(self, call: ShownCall) -> bytes:
        self._streaming[call.id] = []
        frames = unnamed(type="tool-input-start", **_names(call))
        return frames + self._input(call) if call.data.get("arguments") else frames

    def _more_arguments(self, call_id: str, delta: str) -> bytes:
        if call_id not in self._streaming:
            return b""
        self._left -= len(delta)
        if self._left >= 0:
            self._streaming[call_id].append(delta)
        return unnamed(type="tool-input-delta", toolCallId=call_id, inputTextDelta=delta)

    def _end(self, call: ShownCall, event: StreamEvent, *, is_new: bool) -> bytes:
        if is_new:
            self._streaming[call.id] = []
        return self._input(call) + _output(call.id, event.data)

    def _end_unseen(self, call: ShownCall) -> bytes:
        end = {"outcome": "unknown", "hosted": call.data.get("hosted")}
        return self._input(call) + _output(call.id, end)

    def _input(self, call: ShownCall) -> bytes:
        """All of a call's input, unless the reader has it."""
        pieces = self._streaming.pop(call.id, None)
        if pieces is None:
            return b""
        given = call.data.get("arguments") or "".join(pieces)
        return unnamed(type="tool-input-available", **_names(call), input=_decoded(given))

    def _done(self, data: Fields) -> bytes:
        frames, status = self._end_texts(), data.get("status")
        if status in ("completed", "incomplete"):
            return frames + unnamed(type="finish-step") + unnamed(type="finish")
        reason = data.get("reason") or status or "failed"
        if status == "cancelled":
            return frames + unnamed(type="abort", reason=reason)
        return frames + unnamed(type="error", errorText=reason)


def _names(call: ShownCall) -> dict[str, Any]:
    return {"toolCallId": call.id, "toolName": call.data.get("tool", ""), **_TRAITS}


def _output(call_id: str, data: Fields) -> bytes:
    if not is_known(data):
        return b""
    own = {"toolCallId": call_id, **_TRAITS}
    if data.get("isError"):
        return unnamed(type="tool-output-error", **own, errorText=result_of(data))
    return unnamed(type="tool-output-available", **own, output=result_of(data))


def _decoded(arguments: str) -> Any:
    """Arguments as the model meant them; as text, if they are not valid JSON."""
    if not arguments:
        return {}
    try:
        return arguments if is_too_complex(arguments) else orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
