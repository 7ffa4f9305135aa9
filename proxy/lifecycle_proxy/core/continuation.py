"""One answer of chat completions that one upstream begins and another one goes on with.

Of the first stream it is noted what the next upstream has to know: the text so far. Of each further
one only what is new is passed on: no second role, no text that is repeated from the start, calls
with numbers and ids of their own. Only whole events are passed on, so that nothing is left behind
of one that broke off. All of this changes bytes, and is done only where that is asked for
(``failover.in_stream``).
"""

from typing import Any, Final

import orjson

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.model_field import spans

_MAX_EVENT_BYTES: Final = 1 << 20
_MAX_TEXT: Final = 1 << 20
_MAX_CALLS: Final = 4096
# How vLLM is asked to go on with a message instead of beginning another one.
_GO_ON: Final = b'"continue_final_message":true,"add_generation_prompt":false,'

_Json = dict[str, Any]


class Continuation:
    """Follows the streams of one answer.

    Attributes:
        is_over: the answer has its end, or an error: nothing can go on with it.
        is_lost: it could not be followed; bytes pass as they are.
    """

    def __init__(self) -> None:
        self.is_over = False
        self.is_lost = False
        self._parser = sse.Parser(_MAX_EVENT_BYTES)
        self._texts: list[str] = []
        self._size = 0
        self._ids: set[str] = set()
        self._calls = 0  # the numbers that calls have so far
        self._first = 0  # the number of this upstream's first call
        self._earlier_ids: frozenset[str] = frozenset()
        self._new_ids: dict[str, str] = {}  # of this upstream's calls whose ids were taken
        self._is_further = False
        self._repeated = ""  # what may be repeated, as far as it has not been
        self._held: list[str] = []

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    def restart(self, *, may_repeat: bool) -> None:
        """Another upstream goes on from here.

        Args:
            may_repeat: it may begin with the text so far.
        """
        self._parser = sse.Parser(_MAX_EVENT_BYTES)
        self._first, self._is_further = self._calls, True
        self._earlier_ids, self._new_ids, self._held = frozenset(self._ids), {}, []
        self._repeated = self.text if may_repeat else ""

    def feed(self, data: bytes) -> bytes:
        """What of a read is passed on.

        Args:
            data: of the stream.
        """
        if self.is_lost:
            return data
        events = self._parser.feed(data)
        if len(events) == 1 and events[0].raw is data:
            return self._event(events[0])  # the same object, if nothing changes
        out = b"".join(map(self._event, events))
        return out + self.rest() if self._cannot_go_on() else out

    def rest(self) -> bytes:
        """What is left of an event that has no end. Nothing is followed any more."""
        self.is_lost = True
        tail = bytes(self._parser.tail)
        self._parser = sse.Parser(_MAX_EVENT_BYTES)
        return tail

    def _cannot_go_on(self) -> bool:
        return self.is_lost or self._parser.skipping

    # --- one event ------------------------------------------------------------------------------

    def _event(self, event: sse.Event) -> bytes:
        self.is_lost = self.is_lost or not event.parsed
        if event.data is None:
            return event.raw
        if event.data.strip() == b"[DONE]":
            self.is_over = True
            return event.raw
        try:
            chunk = orjson.loads(event.data)
        except orjson.JSONDecodeError:
            return event.raw
        if not isinstance(chunk, dict):
            return event.raw
        if event.name == b"error" or chunk.get("error"):
            self.is_over = True
            return event.raw
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices:
            return event.raw
        if not self._choice(choices):
            return event.raw
        if not (choices[0]["delta"] or choices[0].get("finish_reason") or chunk.get("usage")):
            return b""
        return b"data: %b\n\n" % orjson.dumps(chunk)

    def _choice(self, choices: list[Any]) -> bool:
        """Take the one choice; whether it was changed."""
        choice = choices[0]
        if len(choices) > 1 or not isinstance(choice, dict) or choice.get("index", 0) != 0:
            self.is_lost = True  # several answers: no upstream can go on with all of them
            return False
        delta = choice.get("delta")
        is_changed = self._delta(delta) if isinstance(delta, dict) else False
        self.is_over = self.is_over or bool(choice.get("finish_reason"))
        return is_changed

    def _delta(self, delta: _Json) -> bool:
        if delta.get("role") == "tool":
            return self._result(delta)
        is_changed = self._is_further and delta.pop("role", None) is not None
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            self._repeated, self._held = "", []
            for position, call in enumerate(calls):
                if isinstance(call, dict):
                    is_changed = self._call(call, position) or is_changed
        content = delta.get("content")
        if isinstance(content, str):
            new = self._new(content) if self._repeated else content
            self._note(new)
            if new != content or (is_changed and not new):
                is_changed = True
                del delta["content"]
                if new:
                    delta["content"] = new
        return is_changed

    def _result(self, delta: _Json) -> bool:
        """Take a result: of a tool that the upstream runs, no text of the model's."""
        known = delta.get("tool_call_id")
        new = self._new_ids.get(known) if isinstance(known, str) else None
        if new is not None:
            delta["tool_call_id"] = new
        return new is not None

    def _note(self, text: str) -> None:
        self._size += len(text)
        self.is_lost = self.is_lost or self._size > _MAX_TEXT
        if text:
            self._texts.append(text)

    def _new(self, content: str) -> str:
        """What of a text is not a repetition; what may turn out to be one waits."""
        expected = self._repeated
        if expected.startswith(content):
            self._repeated = expected[len(content) :]
            self._held = [*self._held, content] if self._repeated else []
            return ""
        held, self._held, self._repeated = self._held, [], ""
        if content.startswith(expected):
            return content[len(expected) :]
        return "".join((*held, content))

    def _call(self, call: _Json, position: int) -> bool:
        """Take a piece of a call; whether it was changed."""
        index = call.get("index", position)
        if type(index) is not int or not 0 <= index < _MAX_CALLS:
            self.is_lost = True
            return False
        self._calls = max(self._calls, self._first + index + 1)
        is_changed = bool(self._first)
        if is_changed:
            call["index"] = self._first + index
        known = call.get("id")
        if isinstance(known, str) and known:
            if known in self._earlier_ids:
                new = self._new_ids.setdefault(known, f"{known}-{self._first + index}")
                call["id"], is_changed = new, True
            self._ids.add(call["id"])
        return is_changed


def continued(body: bytes, text: str, *, knows: bool) -> bytes | None:
    """A request for what follows behind a text; None if its messages cannot be found.

    Args:
        body: the request's JSON.
        text: of the assistant, so far.
        knows: the upstream can go on with a message, and has to be asked to.
    """
    if not text:
        return body
    found = spans(body, "messages")
    if not found or body[found[-1][1] - 1 : found[-1][1]] != b"]":
        return None
    start, stop = found[-1]
    is_empty = not body[start + 1 : stop - 1].strip()
    message = orjson.dumps({"role": "assistant", "content": text})
    own = (body[: stop - 1], b"" if is_empty else b",", message, body[stop - 1 :])
    new = b"".join(own)
    if knows:
        at = new.index(b"{") + 1
        new = new[:at] + _GO_ON + new[at:]
    return new
