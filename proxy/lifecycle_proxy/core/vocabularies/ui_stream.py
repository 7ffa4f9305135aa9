"""What ``ag-ui`` and ``vercel-ui`` share: parts that begin, go on and end, as a page shows them.

A text ends where another one or a call begins. What the page has no event for goes out under the
name that the log has for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

from lifecycle_proxy.core.stream_events import StreamEvent
from lifecycle_proxy.core.vocabularies.frames import KEEP_ALIVE
from lifecycle_proxy.core.vocabularies.shown_parts import (
    ShownCall,
    ShownCalls,
    ShownText,
    ShownTexts,
)

Fields = Mapping[str, Any]


class UiStream(ABC):
    """Writes parts for one reader: see ``Vocabulary``.

    Args:
        text_prefix: of the ids of texts.
    """

    def __init__(self, text_prefix: str) -> None:
        self._calls = ShownCalls()
        self._texts = ShownTexts(text_prefix)

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
                call, delta = self._calls.maybe(data), data.get("delta")
                return b"" if call is None or not delta else self._more_arguments(call.id, delta)
            case "tool.completed":
                call = self._calls.end(data)
                is_new = call is None
                return self._end(call or self._calls.only_ended(data), event, is_new=is_new)
            case "usage" | "llm_failover" | "approval.request":
                return self._other(event.type, data)
            case "stream.done":
                return self._done(data)
            case _:
                assert_never(event.type)

    def gap(self, requested: int, first: int, open_calls: Sequence[Fields]) -> bytes:
        """See ``Vocabulary``. What came of a call that ended in the gap is not known."""
        value = {"requested": requested, "firstAvailable": first}
        frames = [self._end_texts(), self._other("gap", value)]
        frames += [self._end_unseen(call) for call in self._calls.end_others(open_calls)]
        return b"".join((*frames, *map(self._running, open_calls)))

    def keep_alive(self, at: float) -> bytes:
        return KEEP_ALIVE

    def _text(self, data: Fields) -> bytes:
        if not data.get("text"):
            return b""
        text, is_new, ended = self._texts.go_on(data)
        frames = b"" if ended is None else self._text_end(ended)
        if is_new:
            frames += self._text_start(text)
        return frames + self._more_text(text, data["text"])

    def _running(self, data: Fields) -> bytes:
        frames, call = self._end_texts(), self._calls.begin(data)
        return frames if call is None else frames + self._start(call)

    def _end_texts(self) -> bytes:
        return b"".join(map(self._text_end, self._texts.end_all()))

    # --- the bytes ------------------------------------------------------------------------------

    @abstractmethod
    def _other(self, name: str, value: Fields) -> bytes:
        """What the page has no event for."""

    @abstractmethod
    def _text_start(self, text: ShownText) -> bytes: ...

    @abstractmethod
    def _more_text(self, text: ShownText, delta: str) -> bytes: ...

    @abstractmethod
    def _text_end(self, text: ShownText) -> bytes: ...

    @abstractmethod
    def _start(self, call: ShownCall) -> bytes:
        """A call has begun."""

    @abstractmethod
    def _more_arguments(self, call_id: str, delta: str) -> bytes: ...

    @abstractmethod
    def _end(self, call: ShownCall, event: StreamEvent, *, is_new: bool) -> bytes:
        """A call has ended.

        Args:
            call: which.
            event: ``tool.completed``.
            is_new: its beginning was in no event that the reader got.
        """

    @abstractmethod
    def _end_unseen(self, call: ShownCall) -> bytes:
        """A call has ended, and its ``tool.completed`` is missing."""

    @abstractmethod
    def _done(self, data: Fields) -> bytes:
        """The stream has ended."""
