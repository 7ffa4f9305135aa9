"""``vercel-ui``: the UI message stream of Vercel's AI SDK, version 1 (``readUIMessageStream``).

A stream is a message of one step. Tools are ``dynamic``, as the page does not know them, and
``providerExecuted``: a reader beside the stream does not run them, and ``useChat`` would.
A result needs its call, so one whose beginning is missing gets it in front.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, assert_never

import orjson

from lifecycle_proxy.core.complexity import is_too_complex
from lifecycle_proxy.core.stream_events import StreamEvent
from lifecycle_proxy.core.vocabularies.frames import KEEP_ALIVE, result_of, unnamed
from lifecycle_proxy.core.vocabularies.shown_parts import ShownCalls, ShownText, ShownTexts

_Fields = Mapping[str, Any]
_HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": "text/event-stream",
    "x-vercel-ai-ui-message-stream": "v1",
}
_MAX_ARGUMENTS: Final = 1 << 20  # characters of pieces of all calls: no reader costs more
_TRAITS: Final = {"dynamic": True, "providerExecuted": True}


class VercelUi:
    """Writes one message for one reader.

    Args:
        stream_id: of the stream: the message's id.
    """

    headers: ClassVar[Mapping[str, str]] = _HEADERS
    needs_history: ClassVar[bool] = False

    def __init__(self, stream_id: str) -> None:
        self._id = stream_id
        self._calls = ShownCalls()
        self._texts = ShownTexts("text-")
        self._streaming: dict[str, list[str]] = {}  # calls whose input is not whole yet, its pieces
        self._left = _MAX_ARGUMENTS

    def begin(self) -> bytes:
        return unnamed(type="start", messageId=self._id) + unnamed(type="start-step")

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
                return self._arguments(data)
            case "tool.completed":
                return self._completed(data)
            case "usage" | "llm_failover" | "approval.request":
                return unnamed(type=f"data-{event.type}", data=data)
            case "stream.done":
                return self._done(data)
            case _:
                assert_never(event.type)

    def gap(self, requested: int, first: int, open_calls: Sequence[_Fields]) -> bytes:
        """See ``Vocabulary``. A call that ended in the gap ends without a result that is known."""
        value = {"requested": requested, "firstAvailable": first}
        frames = [self._end_texts(), unnamed(type="data-gap", data=value)]
        for call in self._calls.end_others(open_calls):
            frames += [self._input(call.id, call.data), _output(call.id, {})]
        return b"".join((*frames, *map(self._running, open_calls)))

    def reset(self, requested: int) -> bytes:
        """See ``Vocabulary``."""
        self._calls.end_all()
        self._streaming.clear()
        return self._end_texts() + unnamed(type="data-reset", data={"requested": requested})

    def keep_alive(self, at: float) -> bytes:
        return KEEP_ALIVE

    def done(self) -> bytes:
        return b"data: [DONE]\n\n"

    def _text(self, data: _Fields) -> bytes:
        if not data.get("text"):
            return b""
        text, is_new, ended = self._texts.go_on(data)
        frames = b"" if ended is None else _text_end(ended)
        if is_new:
            frames += unnamed(type=f"{text.kind}-start", id=text.id)
        return frames + unnamed(type=f"{text.kind}-delta", id=text.id, delta=data["text"])

    def _running(self, data: _Fields) -> bytes:
        frames, call = self._end_texts(), self._calls.begin(data)
        if call is None:
            return frames
        self._streaming[call.id] = []
        name = data.get("tool", "")
        own = {"toolCallId": call.id, "toolName": name, **_TRAITS}
        frames += unnamed(type="tool-input-start", **own)
        return frames + self._input(call.id, data) if data.get("arguments") else frames

    def _arguments(self, data: _Fields) -> bytes:
        call, delta = self._calls.maybe(data), data.get("delta")
        if call is None or not delta or call.id not in self._streaming:
            return b""
        self._left -= len(delta)
        if self._left >= 0:
            self._streaming[call.id].append(delta)
        return unnamed(type="tool-input-delta", toolCallId=call.id, inputTextDelta=delta)

    def _completed(self, data: _Fields) -> bytes:
        call = self._calls.end(data)
        if call is None:
            call = self._calls.only_ended(data)
            self._streaming[call.id] = []
        return self._input(call.id, call.data) + _output(call.id, data)

    def _input(self, call_id: str, data: _Fields) -> bytes:
        """All of a call's input, unless the reader has it."""
        pieces = self._streaming.pop(call_id, None)
        if pieces is None:
            return b""
        own = {"toolCallId": call_id, "toolName": data.get("tool", ""), **_TRAITS}
        given = data.get("arguments") or "".join(pieces)
        return unnamed(type="tool-input-available", **own, input=_decoded(given))

    def _done(self, data: _Fields) -> bytes:
        frames, status = self._end_texts(), data.get("status")
        if status in ("completed", "incomplete"):
            return frames + unnamed(type="finish-step") + unnamed(type="finish")
        reason = data.get("reason") or status or "failed"
        if status == "cancelled":
            return frames + unnamed(type="abort", reason=reason)
        return frames + unnamed(type="error", errorText=reason)

    def _end_texts(self) -> bytes:
        return b"".join(map(_text_end, self._texts.end_all()))


def _text_end(text: ShownText) -> bytes:
    return unnamed(type=f"{text.kind}-end", id=text.id)


def _output(call_id: str, data: _Fields) -> bytes:
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
