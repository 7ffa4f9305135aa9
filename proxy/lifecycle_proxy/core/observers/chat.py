"""OpenAI chat completions streams, as the backends of the field really write them.

An observation is made of what is there; what is missing, null or of another type than documented is
passed over. Tool calls are told apart by ``identity``; results of tools that ran behind the
upstream by ``results``.
"""

from collections.abc import Sequence
from typing import Any, Final

import orjson

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.events import (
    ACTIVITY,
    ACTIVITY_ONLY,
    DONE,
    NOTHING,
    TEXT_ONLY,
    UPSTREAM_ERROR,
    CallDelta,
    CallResult,
    CallResumed,
    CallWritten,
    ChoiceFinished,
    ChoiceFinishing,
    Counts,
    Envelope,
    Observation,
    Outcome,
    Text,
)
from lifecycle_proxy.core.observers import hermes, results
from lifecycle_proxy.core.observers.chunk_templates import (
    ArgumentTarget,
    ChunkTemplate,
    ChunkTemplates,
)
from lifecycle_proxy.core.observers.identity import (
    ChatCall,
    Choice,
    Delta,
    Identities,
    Index,
    maybe_id,
)
from lifecycle_proxy.core.observers.json import dumps, is_error, loads

_Json = dict[str, Any]
# What makes a delta more than text. Everything else in a chunk is nobody's business here.
_TOOL_KEYS: Final = frozenset(("tool_calls", "function_call", *results.KEYS))
_TEXT_KEYS: Final = ("content", "reasoning_content", "reasoning")
_LEGACY: Final = ("function_call", 0)  # a tuple: no index of an upstream is one


class ChatObserver:
    """Observes one chat completions stream."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._identities = Identities()
        self._shapes = ChunkTemplates()
        self._chunk: object = None  # the latest one
        self._chunk_id: str | None = None
        self._repeats_ids = False  # two chunks in a row had the same id

    def skim(self, raw: bytes) -> bool:
        """Whether the event is text, or more arguments of a call that is known, and nothing else.

        It has been taken in then; there is nothing to observe but substance.
        """
        for shape in self._shapes.known:
            if raw.startswith(shape.head) and raw.endswith(shape.tail):
                try:
                    value = orjson.loads(raw[shape.start : shape.stop])
                except orjson.JSONDecodeError:
                    continue  # more than one string between head and tail
                if shape.owner is not None and not self._take_arguments(shape, value):
                    return False
                shape.hits += 1
                self._chunk = shape.chunk
                return True
        return False

    def _take_arguments(self, shape: ChunkTemplate, value: str) -> bool:
        owner = shape.owner
        if owner is None or owner.version != self._identities.version:
            self._shapes.known.remove(shape)
            return False
        call = owner.call
        if value[:1] == "{" or call.arguments.is_repeated:
            return False
        call.arguments.append(value)
        owner.choice.touched = call
        return True

    def observe(self, event: sse.Event) -> Sequence[Observation]:
        """What one event of the stream says."""
        data = event.data
        if data is None:
            return NOTHING
        if data == b"[DONE]":
            return DONE
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return self._odd(event, data)
        if event.name:
            if event.name == hermes.EVENT_NAME and (progress := hermes.maybe_progress(chunk)):
                return (progress,)
            if event.name == b"error":
                return (UPSTREAM_ERROR,)
        return self._observe_chunk(chunk, event.raw)

    def update(self, envelope: Envelope) -> None:
        """Copy id, created, model and fingerprint of the latest chunk."""
        chunk = self._chunk
        if isinstance(chunk, dict):
            if isinstance(chunk_id := chunk.get("id"), str) and chunk_id:
                envelope.id = chunk_id
            if type(created := chunk.get("created")) is int:
                envelope.created = created
            if isinstance(model := chunk.get("model"), str) and model:
                envelope.model = model
            if isinstance(fingerprint := chunk.get("system_fingerprint"), str):
                envelope.system_fingerprint = fingerprint

    def _odd(self, event: sse.Event, data: bytes) -> Sequence[Observation]:
        """Data that a strict parser refuses."""
        text = data.strip()
        if text == b"[DONE]":
            return DONE
        if event.name == b"error":
            return (UPSTREAM_ERROR,)
        if not text:
            return NOTHING  # a ping
        try:
            chunk = loads(data)
        except ValueError:
            self._counts.undecodable += 1
            return ACTIVITY_ONLY
        if event.name == hermes.EVENT_NAME and (progress := hermes.maybe_progress(chunk)):
            return (progress,)
        return self._observe_chunk(chunk, b"")

    def _observe_chunk(self, chunk: Any, raw: bytes) -> Sequence[Observation]:
        if not isinstance(chunk, dict):
            return ACTIVITY_ONLY
        if is_error(chunk) or _has_error(chunk.get("x_groq")):
            return (UPSTREAM_ERROR,)
        choices = chunk.get("choices")
        if not (choices and isinstance(choices, list)):
            return self._without_choices(chunk)
        broken = self._broken_off(choices, chunk)
        if len(choices) == 1 and _is_plain(choices[0]) and "tool_outputs" not in chunk:
            self._chunk = chunk
            seen = self._text(choices[0], chunk, raw)
            return [*broken, *seen] if broken else seen
        if any(map(_has_error, choices)):
            return (UPSTREAM_ERROR,)
        if _is_chunk(choices):
            self._chunk = chunk
        return [*broken, *self._observe_choices(choices, chunk, raw)]

    def _broken_off(self, choices: list[Any], chunk: _Json) -> Sequence[Observation]:
        """The calls that broke off because the answer begins anew: a retry behind the upstream.

        Only another chunk id and a role say so. Some servers send a role with every chunk, and some
        a fresh id; those are known by never having repeated one.
        """
        before, chunk_id = self._chunk_id, maybe_id(chunk)
        if chunk_id is not None and before == chunk_id:
            self._repeats_ids = True
            return NOTHING
        if not _is_chunk(choices):
            return NOTHING
        self._chunk_id = chunk_id
        repeats_ids = self._repeats_ids or any(shape.hits for shape in self._shapes.known)
        if not (before and chunk_id and repeats_ids):
            return NOTHING
        broken: list[ChatCall] = []
        for entry in choices:
            if isinstance(entry, dict) and _begins(entry.get("delta")):
                broken += self._identities.restart(self._choice(entry))
        return [CallResult(call.key, Outcome.CUT, reason="restarted") for call in broken]

    def _choice(self, entry: _Json) -> Choice:
        index = entry.get("index")
        return self._identities.choice(index if type(index) is int else 0)

    def _observe_choices(
        self, choices: list[Any], chunk: _Json, raw: bytes
    ) -> Sequence[Observation]:
        seen: list[Observation] = [ACTIVITY]
        for entry in choices:
            if isinstance(entry, dict):
                self._observe_choice(entry, chunk, seen)
        seen += results.outputs(chunk, self._identities)
        if any(isinstance(observation, CallResult) for observation in seen):
            # Tools that run behind the upstream end one by one; the others go on.
            seen.remove(ACTIVITY)
        elif len(seen) == 2 and isinstance(seen[1], CallDelta):
            self._learn_arguments(raw, chunk, seen[1])
        return seen

    def _text(self, entry: _Json, chunk: _Json, raw: bytes) -> Sequence[Observation]:
        self._learn_text(raw, chunk)
        if (text := _text_of(entry)) is None:
            return ACTIVITY_ONLY
        return TEXT_ONLY if text == 0 else (Text(text),)

    def _learn_text(self, raw: bytes, chunk: _Json) -> None:
        """The next pieces of text, or of reasoning, will look the same."""
        delta = _delta_of(chunk)
        texts = [key for key in delta if type(delta[key]) is str and delta[key] and key != "role"]
        if texts:
            key = max(texts, key=lambda key: len(delta[key]))
            self._shapes.learn(raw, chunk, (_delta_of, key))

    def _learn_arguments(self, raw: bytes, chunk: _Json, seen: CallDelta) -> None:
        """The next pieces of the same call's arguments will look the same."""
        choice = self._identities.choice(seen.choice)
        call = choice.touched
        if seen.name or seen.id or call is None or not (call.name and (call.id or call.arguments)):
            return
        try:
            entry = chunk["choices"][0]["delta"]["tool_calls"][0]
            arguments = entry["function"]["arguments"]
        except (LookupError, TypeError):
            return
        slot = _index(entry)
        if slot is not None and choice.slots.get(slot) is call and type(arguments) is str:
            owner = ArgumentTarget(call, choice, self._identities.version)
            self._shapes.learn(raw, chunk, (_function_of, "arguments"), owner)

    def _without_choices(self, chunk: _Json) -> Sequence[Observation]:
        """A ping changes nothing; anything else is a sign of life.

        A usage chunk, too: SDKs take usage and fingerprint from the last chunk they see, which must
        not be one of ours.
        """
        if told := list(results.outputs(chunk, self._identities)):
            return told
        return NOTHING if chunk.get("type") == "ping" else ACTIVITY_ONLY

    def _observe_choice(self, entry: _Json, chunk: _Json, seen: list[Observation]) -> None:
        choice = self._choice(entry)
        for key, whole in (("delta", False), ("message", True)):
            delta = entry.get(key)
            if isinstance(delta, dict):
                if not whole and (text := _text_of(entry)) is not None:
                    seen.append(Text(text))
                self._calls(choice, delta, chunk, seen, whole=whole)
                if delta.get("role") == "tool" or not results.KEYS.isdisjoint(delta):
                    seen += results.of_delta(delta, chunk, choice, self._identities)
        if "tool_outputs" in entry:
            seen += results.outputs(entry, self._identities)
        reason = entry.get("finish_reason")
        if isinstance(reason, str) and reason:
            self._identities.finish(choice.index)
            seen.insert(0, ChoiceFinishing(choice.index))
            seen.append(ChoiceFinished(choice.index, reason))

    def _calls(
        self, choice: Choice, delta: _Json, chunk: _Json, seen: list[Observation], *, whole: bool
    ) -> None:
        calls = delta.get("tool_calls")
        if isinstance(calls, dict):
            calls = [calls]  # TGI before 2025-03
        elif not isinstance(calls, list):
            calls = []
        legacy = delta.get("function_call")
        if isinstance(legacy, dict) and not calls:
            # One call per choice; llama-cpp-python sends both forms of the same call.
            calls = [{"index": _LEGACY, "function": legacy}]
        if whole and choice.touched is not None:
            # A message that sums up what was streamed: without ids it adds nothing.
            calls = [e for e in calls if isinstance(e, dict) and maybe_text(e.get("id"))]
        for entry in calls:
            if isinstance(entry, dict):
                self._call(choice, entry, chunk, seen, whole=whole)
        fields = delta.get("provider_specific_fields")
        hosted = fields.get("mcp_tool_calls") if isinstance(fields, dict) else None
        for entry in hosted if isinstance(hosted, list) else ():
            if isinstance(entry, dict):
                self._call(choice, entry, chunk, seen, whole=whole, hosted=True)

    def _call(
        self,
        choice: Choice,
        entry: _Json,
        chunk: _Json,
        seen: list[Observation],
        *,
        whole: bool,
        hosted: bool = False,
    ) -> None:
        body, name = _body(entry)
        call_id = maybe_text(entry.get("id"))
        is_free_form = isinstance(entry.get("custom"), dict)
        arguments, chunk_id = _arguments(body), maybe_id(chunk)
        delta = Delta(_index(entry), call_id, name, arguments, chunk_id, whole, is_free_form)
        call = self._identities.resolve(choice, delta)
        if call is None:
            return
        if call.resumed:
            call.resumed = False
            seen.insert(0, CallResumed(call.key))
        if call.ends is not None:
            seen += (CallWritten(call.ends.key), ACTIVITY)
            call.ends = None
        if not call.over:
            settled = entry.get("index") == _LEGACY or call.shares_id
            told = CallDelta(
                call.key,
                choice.index,
                None if call.shares_id else call_id,
                call.name if call.shares_id else name,
                call.arguments,
                settled,
                hosted,
                call.reused,
            )
            seen.append(told)
        seen += results.of_call(call, body, entry)


def _is_plain(entry: Any) -> bool:
    """Whether a choice holds text and nothing else that matters: nearly every chunk there is."""
    try:
        delta = entry["delta"]
        return (
            _TOOL_KEYS.isdisjoint(delta)
            and not entry.get("finish_reason")
            and delta.get("role") != "tool"
            and "message" not in entry
            and "tool_outputs" not in entry
            and not entry.get("error")
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _has_error(holder: object) -> bool:
    """Whether a part of a chunk holds an error (Groq: ``x_groq``, OpenRouter: a choice)."""
    return isinstance(holder, dict) and bool(holder.get("error"))


def _begins(delta: object) -> bool:
    """Whether a delta may be the first of an answer: a role, and no piece of a known call."""
    if not (isinstance(delta, dict) and delta.get("role") == "assistant"):
        return False
    calls = delta.get("tool_calls")
    heads = calls if isinstance(calls, list) else []
    return all(isinstance(head, dict) and _body(head)[1] is not None for head in heads)


def _is_chunk(choices: list[Any]) -> bool:
    """Whether these are a chunk's choices, not those that a person has (``approval.request``)."""
    for choice in choices:
        if isinstance(choice, dict) and ("delta" in choice or "message" in choice):
            return True
    return False


def _text_of(entry: _Json) -> int | None:
    """The index of a choice that goes on with words or thoughts."""
    delta = entry["delta"]
    if delta.get("role") == "tool":
        return None
    for key in _TEXT_KEYS:
        if (text := delta.get(key)) and type(text) is str:
            break
    else:
        return None
    index = entry.get("index")
    return index if type(index) is int else 0


def _delta_of(chunk: Any) -> _Json:
    delta: _Json = chunk["choices"][0]["delta"]
    return delta


def _function_of(chunk: Any) -> _Json:
    function: _Json = chunk["choices"][0]["delta"]["tool_calls"][0]["function"]
    return function


def maybe_text(value: object) -> str | None:
    """Rule 1 of the identity rules: null, "", "null" and a missing key all mean absent."""
    if isinstance(value, str) and value and value != "null":
        return value
    return None


def _index(entry: _Json) -> Index | None:
    index = entry.get("index")
    return index if type(index) in (int, str) or index == _LEGACY else None


def _body(entry: _Json) -> tuple[_Json, str | None]:
    """The part of a call that holds name and arguments, and the name.

    ``function`` mostly, ``custom`` for OpenAI's custom tools. Zhipu's all-tools put them under a
    key named by the type, and the type is the name.
    """
    for key in ("function", "custom"):
        body = entry.get(key)
        if isinstance(body, dict):
            return body, maybe_text(body.get("name"))
    kind = maybe_text(entry.get("type"))
    body = entry.get(kind) if kind is not None else None
    return (body, kind) if isinstance(body, dict) else ({}, None)


def _arguments(body: _Json) -> str:
    for key in ("arguments", "input"):
        value = body.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, dict | list) and value:
            return dumps(value)
    return ""
