"""``openai-responses``: the events of a Responses stream, whatever API the stream itself is of.

Calls that run behind the upstream are items ``mcp_call``, others ``function_call``; texts are
``message`` and ``reasoning``. What Responses have no event for is ``keepalive``, the one type that
every SDK ignores, with the proxy's own fields. The response at the end has all items again, of
their texts 1 MiB: no reader costs more.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, assert_never

from lifecycle_proxy.core.stream_events import ClosedReason, StreamEvent
from lifecycle_proxy.core.vocabularies.frames import EVENT_STREAM, KEEP_ALIVE, named, result_of
from lifecycle_proxy.core.vocabularies.response_items import CallItem, Kept, TextItem
from lifecycle_proxy.core.vocabularies.shown_parts import (
    ShownCall,
    ShownCalls,
    ShownText,
    ShownTexts,
)

_Fields = Mapping[str, Any]
_ENDS: Final = {"completed": "completed", "incomplete": "incomplete"}  # any other one is failed


class OpenAiResponses:
    """Writes one response for one reader.

    Args:
        stream_id: of the stream; the response's id is made of it.
    """

    headers: ClassVar[Mapping[str, str]] = EVENT_STREAM
    needs_history: ClassVar[bool] = True

    def __init__(self, stream_id: str) -> None:
        self._id = f"resp_{stream_id}"
        self._sequence = -1
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._calls = ShownCalls()
        self._texts = ShownTexts(f"msg_{self._id}_")
        self._items: dict[str, CallItem | TextItem] = {}  # those that are open, by their ids
        self._kept = Kept()
        self._count = 0  # items so far
        self._created: int | None = None
        self._model = ""
        self._usage: dict[str, Any] | None = None

    def begin(self) -> bytes:
        return b""

    def render(self, event: StreamEvent) -> bytes:
        """See ``Vocabulary``."""
        data = event.data
        if event.type == "stream.started":
            self._model = str(data.get("model", ""))
        frames = self._start(event.at)
        match event.type:
            case "stream.started":
                return frames
            case "text":
                return frames + self._text(data)
            case "tool.running":
                return frames + self._end_texts() + self._running(data)
            case "tool.arguments":
                return frames + self._arguments(data)
            case "tool.completed":
                return frames + self._completed(data)
            case "usage":
                self._usage = _usage(data)
                return frames
            case "llm_failover" | "approval.request":
                return frames + self._event("keepalive", event=event.type, **data)
            case "stream.done":
                return frames + self._done(data)
            case _:
                assert_never(event.type)

    def gap(self, requested: int, first: int, open_calls: Sequence[_Fields]) -> bytes:
        """See ``Vocabulary``."""
        missing = {"requested": requested, "firstAvailable": first}
        frames = [self._start(0), self._event("keepalive", event="gap", **missing)]
        frames += [self._end_texts()]
        frames += [self._end_call(call, {}) for call in self._calls.end_others(open_calls)]
        return b"".join((*frames, *map(self._running, open_calls)))

    def reset(self, requested: int) -> bytes:
        """See ``Vocabulary``. The response is created once more."""
        frames = self._event("keepalive", event="reset", requested=requested)
        self._begin_anew()
        return frames

    def keep_alive(self, at: float) -> bytes:
        return KEEP_ALIVE

    def closed(self, reason: ClosedReason, message: str) -> bytes:
        """See ``Vocabulary``."""
        return self._event("error", code=reason, message=message, param=None)

    def done(self) -> bytes:
        return b""

    # --- the response ---------------------------------------------------------------------------

    def _start(self, at: float) -> bytes:
        if self._created is not None:
            return b""
        self._created = int(at)
        response = self._response("in_progress")
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def _done(self, data: _Fields) -> bytes:
        frames = [self._end_texts()]
        frames += [self._end_call(call, {}) for call in self._calls.end_all()]
        status = _ENDS.get(str(data.get("status")), "failed")
        reason = str(data.get("reason") or data.get("status") or "failed")
        response = self._response(status)
        if status == "failed":
            response["error"] = {"code": "server_error", "message": reason}
        elif status == "incomplete":
            cut = "content_filter" if "filter" in reason else "max_output_tokens"
            response["incomplete_details"] = {"reason": cut}
        return b"".join((*frames, self._event(f"response.{status}", response=response)))

    def _response(self, status: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": self._model,
            "output": [] if status == "in_progress" else self._kept.items,
            "parallel_tool_calls": True,
            "temperature": None,
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "usage": self._usage,
        }

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._sequence += 1
        return named(kind, {"type": kind, "sequence_number": self._sequence, **fields})

    # --- texts ----------------------------------------------------------------------------------

    def _text(self, data: _Fields) -> bytes:
        delta = data.get("text")
        if not delta:
            return b""
        text, is_new, ended = self._texts.go_on(data)
        frames = b"" if ended is None else self._end_text(ended)
        if is_new:
            item = TextItem(text.id, self._count, is_reasoning=text.kind == "reasoning")
            frames += self._add(text.id, item)
            part = item.part()
            frames += self._event("response.content_part.added", **item.place, part=part)
        own = self._items[text.id]
        assert isinstance(own, TextItem)
        self._kept.take(own, delta)
        name = f"response.{own.name}.delta"
        return frames + self._event(name, **own.place, delta=delta, **own.traits)

    def _end_text(self, text: ShownText) -> bytes:
        item = self._items.pop(text.id)
        assert isinstance(item, TextItem)
        part = item.part()
        name = f"response.{item.name}.done"
        frames = self._event(name, **item.place, text=part["text"], **item.traits)
        frames += self._event("response.content_part.done", **item.place, part=part)
        return frames + self._finish(item.index, item.value("completed"))

    def _end_texts(self) -> bytes:
        return b"".join(map(self._end_text, self._texts.end_all()))

    # --- calls ----------------------------------------------------------------------------------

    def _running(self, data: _Fields) -> bytes:
        call = self._calls.begin(data)
        return b"" if call is None else self._begin_call(call)

    def _begin_call(self, call: ShownCall) -> bytes:
        item = CallItem(call.id, self._count, call.data)
        frames = self._add(call.id, item)
        if item.is_hosted:
            frames += self._event("response.mcp_call.in_progress", **item.place)
        return frames + self._add_arguments(item, str(call.data.get("arguments", "")))

    def _arguments(self, data: _Fields) -> bytes:
        call = self._calls.maybe(data)
        if call is None or call.data.get("arguments"):
            return b""  # they were whole
        item = self._items[call.id]
        assert isinstance(item, CallItem)
        return self._add_arguments(item, str(data.get("delta", "")))

    def _add_arguments(self, item: CallItem, delta: str) -> bytes:
        if not delta:
            return b""
        self._kept.take(item, delta)
        return self._event(f"response.{item.name}_arguments.delta", **item.place, delta=delta)

    def _completed(self, data: _Fields) -> bytes:
        call = self._calls.end(data)
        if call is not None:
            return self._end_call(call, data)
        call = self._calls.only_ended(data)
        return self._begin_call(call) + self._end_call(call, data)

    def _end_call(self, call: ShownCall, data: _Fields) -> bytes:
        item = self._items.pop(call.id)
        assert isinstance(item, CallItem)
        arguments, is_error = item.arguments, bool(data.get("isError"))
        own = {} if item.is_hosted else {"name": item.tool}
        frames = self._event(
            f"response.{item.name}_arguments.done", **item.place, arguments=arguments, **own
        )
        if item.is_hosted:
            end = "failed" if is_error else "completed"
            frames += self._event(f"response.mcp_call.{end}", **item.place)
        result = self._kept.cut(result_of(data))
        return frames + self._finish(item.index, item.value(result=result, is_error=is_error))

    # --- items ----------------------------------------------------------------------------------

    def _add(self, item_id: str, item: CallItem | TextItem) -> bytes:
        self._items[item_id] = item
        self._count += 1
        begun = item.value("in_progress")
        return self._event("response.output_item.added", output_index=item.index, item=begun)

    def _finish(self, index: int, item: dict[str, Any]) -> bytes:
        self._kept.add(index, item)
        return self._event("response.output_item.done", output_index=index, item=item)


def _usage(data: _Fields) -> dict[str, Any]:
    return {
        "input_tokens": data.get("inputTokens", 0),
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": data.get("outputTokens", 0),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": data.get("totalTokens", 0),
    }
