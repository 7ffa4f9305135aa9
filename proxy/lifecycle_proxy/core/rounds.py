"""Several answers in one stream, made to look like one: ``lifecycle.merge_rounds``.

A backend that runs tools itself may send a whole answer, ``finish_reason`` included, run the tools
it asks for, and send the next answer in the same stream (LiteLLM with MCP, Hugging Face's
tiny-agents). Clients that stop at the first ``finish_reason`` show an empty reply. So a finish is
kept back until it is known whether its choice goes on; if it does, the finish is left out. Where no
other one follows it stands at the end after all: each choice that had a finish keeps one.

This is the one place that takes bytes of the upstream's away, and it does so only on request.
"""

from dataclasses import dataclass
from typing import Any, Final

import orjson

from lifecycle_proxy.core import sse

_Json = dict[str, Any]
# What makes a choice go on. An empty delta, or a role alone, comes behind a last finish, too.
_SUBSTANCE: Final = (
    "content",
    "reasoning_content",
    "reasoning",
    "refusal",
    "tool_calls",
    "function_call",
)
# Nothing of this size is kept back: it passes as it is.
_MAX_HELD_BYTES: Final = 1 << 20
# Nor so many events, or finishes: each is looked at again when a choice goes on.
_MAX_HELD: Final = 64


@dataclass(frozen=True, slots=True)
class _Held:
    raw: bytes
    chunk: _Json
    finished: frozenset[int]  # choices that it finishes


class FinishMerger:
    """The finishes of one stream."""

    def __init__(self) -> None:
        self._held: list[_Held] = []
        self._size = 0
        self._left_out: dict[int, bytes] = {}  # the finish of a choice that went on behind it

    @property
    def holds(self) -> bool:
        """Whether something is kept back."""
        return bool(self._held)

    def pass_on(self, event: sse.Event) -> bytes:
        """What may be written now that an event has come, whole."""
        raw, data = event.raw, event.data
        waits = self._held or self._left_out
        if data is None or (not waits and b"finish_reason" not in data):
            return raw
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            is_done = data.strip() == b"[DONE]"
            return (self.left_out() if is_done else b"") + self.release() + raw
        is_chunk = isinstance(chunk, dict)
        if event.name == b"error" or (is_chunk and chunk.get("error")):
            self._left_out.clear()  # an error is no end that a finish would suit
            return self.release() + raw
        choices = chunk.get("choices") if is_chunk else None
        if not isinstance(choices, list):
            return raw
        return self._chunk(raw, chunk, [c for c in choices if isinstance(c, dict)])

    def release(self) -> bytes:
        """Everything that is kept back, as it came: the stream ends here, or what it says does."""
        held, self._held, self._size = self._held, [], 0
        return b"".join(one.raw for one in held)

    def left_out(self) -> bytes:
        """The finishes that were left out and turned out to be the last. They stand at the end."""
        last, self._left_out = self._left_out, {}
        return b"".join(last.values())

    def _chunk(self, raw: bytes, chunk: _Json, choices: list[_Json]) -> bytes:
        going_on = frozenset(_index(c) for c in choices if _is_substance(c.get("delta")))
        before = self._go_on(going_on) if going_on else b""
        finished = frozenset(_index(c) for c in choices if _has_finish(c))
        for index in finished:
            self._left_out.pop(index, None)
        if len(self._held) + len(self._left_out) + len(finished) > _MAX_HELD:
            return before + self.release() + raw
        # Behind a finish that is kept back, what is no more of an answer waits with it: the usage.
        if finished or (not going_on and self._is_behind(choices)):
            self._held.append(_Held(raw, chunk, finished))
            self._size += len(raw)
            return before if self._size <= _MAX_HELD_BYTES else before + self.release()
        return before + raw

    def _is_behind(self, choices: list[_Json]) -> bool:
        """Whether all that a chunk is about has had its finish, as far as is known."""
        ended = frozenset(self._left_out).union(*(held.finished for held in self._held))
        return bool(ended) and all(_index(choice) in ended for choice in choices)

    def _go_on(self, going_on: frozenset[int]) -> bytes:
        """What need not be kept back any longer, less the finishes of choices that go on."""
        held, self._held, self._size = self._held, [], 0
        written: list[bytes] = []
        for one in held:
            left = one
            for index in sorted(one.finished & going_on):
                self._left_out[index] = _finish_alone(one.chunk, index)
                left = _without_finish(one, going_on)
            goes_on = any(_index(choice) in going_on for choice in _choices(one.chunk))
            if left.finished or (self._held and not goes_on):  # another choice's, or behind such
                self._held.append(left)
                self._size += len(left.raw)
            else:
                written.append(left.raw)
        return b"".join(written)


def _finish_alone(chunk: _Json, index: int) -> bytes:
    """The finish of one choice, in a chunk that says nothing else."""
    choice = next(c for c in _choices(chunk) if _index(c) == index and _has_finish(c))
    alone = {"index": index, "delta": {}, "finish_reason": choice["finish_reason"]}
    rest = {key: value for key, value in chunk.items() if not isinstance(value, dict | list)}
    return _written({**rest, "choices": [alone]})


def _without_finish(held: _Held, going_on: frozenset[int]) -> _Held:
    """What a chunk says beside the finishes of choices that go on, maybe nothing."""
    finished = held.finished - going_on
    says_something = any(_says_something(choice.get("delta")) for choice in _choices(held.chunk))
    if not (finished or says_something or held.chunk.get("usage")):
        return _Held(b"", held.chunk, finished)
    choices = [
        {**choice, "finish_reason": None} if _index(choice) in going_on else choice
        for choice in _choices(held.chunk)
    ]
    chunk = {**held.chunk, "choices": choices}
    names = (line for line in held.raw.splitlines() if line.startswith(b"event:"))
    try:
        raw = b"".join(name + b"\n" for name in names) + _written(chunk)
    except orjson.JSONEncodeError:
        raw = held.raw  # the encoder does not go as deep as the decoder
    return _Held(raw, chunk, finished)


def _choices(chunk: _Json) -> list[_Json]:
    return [choice for choice in chunk["choices"] if isinstance(choice, dict)]


def _written(chunk: _Json) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _index(choice: _Json) -> int:
    index = choice.get("index")
    return index if type(index) is int else 0


def _has_finish(choice: _Json) -> bool:
    reason = choice.get("finish_reason")
    return isinstance(reason, str) and bool(reason)


def _is_substance(delta: object) -> bool:
    if not isinstance(delta, dict):
        return False
    return delta.get("role") == "tool" or any(delta.get(key) for key in _SUBSTANCE)


def _says_something(delta: object) -> bool:
    return isinstance(delta, dict) and any(v for k, v in delta.items() if k != "role")
