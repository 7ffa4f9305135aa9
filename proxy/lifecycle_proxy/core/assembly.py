"""The chunks of a chat completions stream, put together: what a request without ``stream`` gets.

The result has, field by field, what OpenAI's API and the common servers answer without a stream:
text, reasoning and refusals joined, calls put together as ``observers.identity`` tells them apart,
log probabilities one after the other, usage. Calls that ran behind the upstream are left out: a
client would run them.

Time is linear in what comes, and memory in proportion to it. An answer above ``MAX_BYTES``, or one
with an event that cannot be read, is not put together at all: a part of it would look whole.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.answer import AnswerCall, AnswerChoice
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.events import Observation
from lifecycle_proxy.core.merged import Budget, Json, Merged, TooMuchError
from lifecycle_proxy.core.observers import hermes, results
from lifecycle_proxy.core.observers.chat_calls import Choice, Delta, maybe_id
from lifecycle_proxy.core.observers.chat_fields import (
    arguments_in,
    body_and_name,
    calls_in,
    has_error,
    may_begin,
    maybe_index,
    maybe_present,
)
from lifecycle_proxy.core.observers.identity import Identities
from lifecycle_proxy.core.observers.json import dumps, is_error, loads

MAX_BYTES: Final = 4 << 20  # of the result; so much is written as JSON in 25 ms at worst
_MAX_CHOICES: Final = 128  # as OpenAI's
_MAX_FIELDS: Final = 50_000
# Of a chunk only, or written anew. The obfuscation is random padding (OpenAI).
_CHUNK_ONLY: Final = frozenset(("choices", "object", "obfuscation", "error", "event"))
_CHOICE_ONLY: Final = frozenset(("index", "delta", "message"))
_ERROR_FIELD: Final = b"error:"  # in the place of ``data``: older llama.cpp
_CALLS: Final = ("tool_calls", "function_call")
_HOSTED: Final = ("mcp_tool_calls", "mcp_call_results")  # LiteLLM runs them


class Assembler:
    """Takes the events of one stream.

    Attributes:
        is_done: ``[DONE]`` has come.
        error: what the upstream sent in the answer's place, in the midst of it.
        problem: why there will be no result, in words; "" so far.

    Args:
        max_bytes: of the result, roughly.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.is_done = False
        self.error: Any = None
        self.problem = ""
        self._budget = Budget(_MAX_FIELDS, max_bytes)
        self._fields = Merged(self._budget)
        self._choices: dict[int, AnswerChoice] = {}
        self._finished: set[int] = set()
        self._usage: Json = {}
        self._chunk_id: str | None = None
        self._repeats_ids = False  # two chunks in a row had the same id
        self._counts = Counts()
        self._identities = Identities(self._counts)

    @property
    def is_whole(self) -> bool:
        """Whether the answer has come to its end: the finish of every choice, or ``[DONE]``.

        The latter is enough for servers that send no finish, but not for a call that was cut.
        """
        left = [self._choices[index] for index in self._choices.keys() - self._finished]
        is_cut = any(call.call.arguments.unfinished for one in left for call in one.calls.values())
        return bool(self._choices) and (not left or (self.is_done and not is_cut))

    @property
    def content(self) -> str:
        """The text of the first choice."""
        return self._choices[min(self._choices)].message.text("content") if self._choices else ""

    @property
    def usage(self) -> Json:
        """As the upstream counted; empty without that."""
        return self._usage

    def feed(self, event: sse.Event) -> None:
        """Take the next event, unless there is an error or a problem already."""
        if self.error is not None or self.problem or self.is_done:
            return
        if event.raw.startswith(_ERROR_FIELD):
            self.error = _maybe_json(event.raw[len(_ERROR_FIELD) :])
        elif not event.parsed:
            self.problem = "an event of the upstream's stream is too large"
        elif event.data is not None and event.name != hermes.EVENT_NAME:
            try:
                self._data(event.data, event.name)
            except ValueError:
                self.problem = "an event of the upstream's stream is not valid JSON"
            except TooMuchError:
                self.problem = "the upstream's answer is too large to be put together"

    def continues(self) -> None:
        """What comes next is of another upstream. It knows of the text so far only, so it makes the
        calls that are open anew."""
        for place in self._identities.choices.values():
            for call in place.calls:
                call.answered = True
            self._identities.finish(place.index)

    def result(self) -> bytes:
        """The answer, as JSON."""
        choices = [self._choices[index].value(index) for index in sorted(self._choices)]
        answer = {"object": "chat.completion", **self._fields.value(), "choices": choices}
        return orjson.dumps(answer)

    def _data(self, data: bytes, name: bytes) -> None:
        text = data.strip()
        if text == b"[DONE]":
            self.is_done = True
        elif text:  # else a ping
            chunk = _strict(text)
            if not isinstance(chunk, dict):
                return
            if name == b"error" or is_error(chunk):
                self.error = chunk.get("error") or chunk
                return
            choices = chunk.get("choices")
            choices = choices if isinstance(choices, list) else []
            if choices or (not name and ("usage" in chunk or "created" in chunk)):
                self._chunk(chunk, choices)
            self._take_results(results.outputs(chunk, self._identities))

    def _chunk(self, chunk: Json, choices: list[Any]) -> None:
        for key, value in chunk.items():
            if key not in _CHUNK_ONLY and (value or key not in self._fields):
                self._fields.keep(key, value)
        if isinstance(usage := chunk.get("usage"), dict):
            self._usage = usage
        is_other = self._is_other_answer(chunk)
        for entry in choices:
            if has_error(entry):
                self.error = entry["error"]
            elif isinstance(entry, dict):
                self._choice(entry, chunk, may_restart=is_other)

    def _is_other_answer(self, chunk: Json) -> bool:
        """Whether the answer may begin anew, by the chunk's id: what broke off is tried again."""
        before, chunk_id = self._chunk_id, maybe_id(chunk)
        self._repeats_ids |= chunk_id is not None and chunk_id == before
        self._chunk_id = chunk_id or before
        return self._repeats_ids and bool(before and chunk_id) and before != chunk_id

    def _take_results(self, observed: Iterable[Observation]) -> None:
        """Results of tools that ran behind the upstream: ``identities`` notes whose they are."""
        deque(observed, maxlen=0)

    def _choice(self, entry: Json, chunk: Json, *, may_restart: bool) -> None:
        index = entry.get("index")
        index = index if type(index) is int else 0
        choice = self._choices.get(index)
        if choice is None:
            if len(self._choices) >= _MAX_CHOICES:
                raise TooMuchError
            choice = self._choices[index] = AnswerChoice(self._budget)
        place = self._identities.choice(index)
        if may_restart and may_begin(entry.get("delta")):
            self._identities.restart(place)
        if isinstance(delta := entry.get("delta"), dict):
            self._delta(choice, place, delta, chunk)
        # A message that sums up what was streamed adds nothing.
        if isinstance(message := entry.get("message"), dict) and "role" not in choice.message:
            self._delta(choice, place, message, chunk)
        for key, value in entry.items():
            if key == "logprobs":
                choice.fields.take({key: value})
            elif key not in _CHOICE_ONLY:
                choice.fields.keep(key, value)
        if entry.get("finish_reason"):
            self._identities.finish(index)
            self._finished.add(index)

    def _delta(self, choice: AnswerChoice, place: Choice, delta: Json, chunk: Json) -> None:
        for call_entry in calls_in(delta):
            self._call(choice, place, call_entry, chunk)
        if delta.get("role") == "tool" or not results.KEYS.isdisjoint(delta):
            self._take_results(results.of_delta(delta, chunk, place, self._identities))
        if delta.get("role") != "tool":
            choice.message.take(_without_calls(delta))

    def _call(self, choice: AnswerChoice, place: Choice, entry: Json, chunk: Json) -> None:
        body, name = body_and_name(entry)
        arguments = arguments_in(body)
        index = maybe_index(entry)
        delta = Delta(
            index,
            maybe_present(entry.get("id")),
            name,
            arguments,
            maybe_id(chunk),
            is_free_form=isinstance(entry.get("custom"), dict),
        )
        call = self._identities.resolve(place, delta)
        if call is None:
            if self._counts.not_followed:
                raise TooMuchError
            return
        known = choice.calls.get(call.key)
        if known is None:
            is_legacy = isinstance(index, tuple)
            known = choice.calls[call.key] = AnswerCall(call, self._budget, is_legacy=is_legacy)
        known.take(entry, name, arguments)
        results.of_call(call, body, entry)


def _strict(text: bytes) -> Any:
    """JSON as orjson can write it again.

    Raises:
        ValueError: it is not JSON, or holds what JSON cannot.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return orjson.loads(dumps(loads(text)).encode("utf-8", "replace"))


def _maybe_json(text: bytes) -> Any:
    """JSON, or else the text."""
    try:
        return _strict(text)
    except ValueError:
        return text.decode("utf-8", "replace").strip()


def _without_calls(delta: Json) -> Json:
    if not any(key in delta for key in (*_CALLS, "provider_specific_fields")):
        return delta
    kept = {key: value for key, value in delta.items() if key not in _CALLS}
    own = kept.get("provider_specific_fields")
    if isinstance(own, dict) and any(key in own for key in _HOSTED):
        kept["provider_specific_fields"] = dict(_not_hosted(own))
    return kept


def _not_hosted(fields: Json) -> Iterator[tuple[str, Any]]:
    for key, value in fields.items():
        if key not in _HOSTED:
            yield key, value
