"""OpenAI chat completions streams, as real backends write them.

An observation is made of what is there; what is missing, null or of another type than documented is
ignored. Which call a piece belongs to is decided in ``identity``. Results of tools that ran
behind the upstream are read in ``results``.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.counts import Counts
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
    Envelope,
    Observation,
    Outcome,
    Text,
)
from lifecycle_proxy.core.observers import hermes, results
from lifecycle_proxy.core.observers.chat_calls import ChatCall, Choice, Delta, maybe_id
from lifecycle_proxy.core.observers.chat_fields import (
    LEGACY,
    Json,
    arguments_in,
    body_and_name,
    calls_in,
    has_error,
    hosted_calls_in,
    is_chunk,
    is_text_only,
    may_begin,
    maybe_index,
    maybe_present,
    maybe_text_choice,
)
from lifecycle_proxy.core.observers.chunk_templates import ChunkTemplate, ChunkTemplates
from lifecycle_proxy.core.observers.identity import Identities
from lifecycle_proxy.core.observers.json import is_error, loads


class ChatObserver:
    """Observes one chat completions stream."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._identities = Identities(counts)
        self._templates = ChunkTemplates()
        self._chunk: object = None  # the latest one
        self._chunk_id: str | None = None
        self._repeats_ids = False  # two chunks in a row had the same id

    def skim(self, raw: bytes) -> bool:
        """Whether the event is text, or more arguments of a call that is known, and nothing else.

        If so it has been taken in, and ``observe`` would report activity only.
        """
        for template in self._templates.known:
            head, tail = raw[: template.head_stop], raw[template.tail_start :]
            if head != template.head or tail != template.tail:  # faster than startswith
                continue
            try:
                value = orjson.loads(raw[template.start : template.stop])
            except orjson.JSONDecodeError:
                continue  # more than one string between head and tail
            if template.target is not None and not self._take_arguments(template, value):
                return False
            template.is_used = True
            self._chunk = template.chunk
            return True
        return False

    def _take_arguments(self, template: ChunkTemplate, value: str) -> bool:
        target = template.target
        if target is None or target.version != self._identities.version:
            self._templates.known.remove(template)
            return False
        call = target.call
        if value[:1] == "{" or call.arguments.is_repeated:
            return False
        call.arguments.append(value)
        target.choice.touched = call
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
            return self._observe_lenient(event, data)
        if event.name:
            if event.name == hermes.EVENT_NAME and (progress := hermes.maybe_progress(chunk)):
                return (progress,)
            if event.name == b"error":
                return (UPSTREAM_ERROR,)
        seen = self._observe_chunk(chunk, event.raw)
        if self._chunk is chunk and isinstance(chunk, dict):  # what is kept is for ``update``
            chunk.pop("choices", None)
        return seen

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

    def _observe_lenient(self, event: sse.Event, data: bytes) -> Sequence[Observation]:
        """Data that a strict JSON parser refuses."""
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
        if is_error(chunk) or has_error(chunk.get("x_groq")):
            return (UPSTREAM_ERROR,)
        if usage := chunk.get("usage"):
            self._counts.add_usage(usage)
        choices = chunk.get("choices")
        if not (choices and isinstance(choices, list)):
            return self._without_choices(chunk)
        broken = self._restarted(choices, chunk)
        if len(choices) == 1 and is_text_only(choices[0]) and "tool_outputs" not in chunk:
            self._chunk = chunk
            seen = self._text(choices[0], chunk, raw)
            return [*broken, *seen] if broken else seen
        if any(map(has_error, choices)):
            return (UPSTREAM_ERROR,)
        if is_chunk(choices):
            self._chunk = chunk
        return [*broken, *self._observe_choices(choices, chunk, raw)]

    def _restarted(self, choices: list[Any], chunk: Json) -> Sequence[Observation]:
        """The calls that broke off because the answer begins anew: a retry behind the upstream.

        Another chunk id together with a role says so. Some servers send a role with every chunk,
        and some a fresh id: the latter are known by never having repeated one.
        """
        before, chunk_id = self._chunk_id, maybe_id(chunk)
        if chunk_id is not None and before == chunk_id:
            self._repeats_ids = True
            return NOTHING
        if not is_chunk(choices):
            return NOTHING
        self._chunk_id = chunk_id
        repeats_ids = self._repeats_ids or self._templates.were_used
        if not (before and chunk_id and repeats_ids):
            return NOTHING
        broken: list[ChatCall] = []
        for entry in choices:
            if isinstance(entry, dict) and may_begin(entry.get("delta")):
                broken += self._identities.restart(self._choice(entry))
        return [CallResult(call.key, Outcome.CUT, reason="restarted") for call in broken]

    def _choice(self, entry: Json) -> Choice:
        index = entry.get("index")
        return self._identities.choice(index if type(index) is int else 0)

    def _observe_choices(
        self, choices: list[Any], chunk: Json, raw: bytes
    ) -> Sequence[Observation]:
        seen: list[Observation] = [ACTIVITY]
        for entry in choices:
            if isinstance(entry, dict):
                self._observe_choice(entry, chunk, seen)
        if "tool_outputs" in chunk:
            seen += results.outputs(chunk, self._identities)
        if any(isinstance(observation, CallResult) for observation in seen):
            # Tools that run behind the upstream end one by one; the others go on.
            seen.remove(ACTIVITY)
        elif len(seen) == 2 and isinstance(seen[1], CallDelta):
            self._learn_arguments(raw, chunk, seen[1])
        return seen

    def _text(self, entry: Json, chunk: Json, raw: bytes) -> Sequence[Observation]:
        self._templates.learn_text(raw, chunk)
        if (text := maybe_text_choice(entry)) is None:
            return ACTIVITY_ONLY
        return TEXT_ONLY if text == 0 else (Text(text),)

    def _learn_arguments(self, raw: bytes, chunk: Json, seen: CallDelta) -> None:
        if not (seen.name or seen.id):
            identities = self._identities
            choice = identities.choice(seen.choice)
            self._templates.learn_arguments(raw, chunk, choice, identities.version)

    def _without_choices(self, chunk: Json) -> Sequence[Observation]:
        """Pings are ignored; any other event counts as activity.

        A usage chunk does, too: SDKs take usage and fingerprint from the last chunk they see, which
        must not be an added one.
        """
        if seen := list(results.outputs(chunk, self._identities)):
            return seen
        return NOTHING if chunk.get("type") == "ping" else ACTIVITY_ONLY

    def _observe_choice(self, entry: Json, chunk: Json, seen: list[Observation]) -> None:
        choice = self._choice(entry)
        for key, whole in (("delta", False), ("message", True)):
            delta = entry.get(key)
            if isinstance(delta, dict):
                if not whole and (text := maybe_text_choice(entry)) is not None:
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
        self, choice: Choice, delta: Json, chunk: Json, seen: list[Observation], *, whole: bool
    ) -> None:
        calls = calls_in(delta)
        if whole and choice.touched is not None:
            # A message that sums up what was streamed: without ids it adds nothing.
            calls = [entry for entry in calls if maybe_present(entry.get("id"))]
        for entry in calls:
            self._call(choice, entry, chunk, seen, whole=whole)
        if "provider_specific_fields" in delta:
            for entry in hosted_calls_in(delta):
                self._call(choice, entry, chunk, seen, whole=whole, hosted=True)

    def _call(
        self,
        choice: Choice,
        entry: Json,
        chunk: Json,
        seen: list[Observation],
        *,
        whole: bool,
        hosted: bool = False,
    ) -> None:
        body, name = body_and_name(entry)
        call_id = maybe_present(entry.get("id"))
        is_free_form = isinstance(entry.get("custom"), dict)
        arguments, chunk_id = arguments_in(body), maybe_id(chunk)
        delta = Delta(maybe_index(entry), call_id, name, arguments, chunk_id, whole, is_free_form)
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
            settled = entry.get("index") == LEGACY or call.shares_id
            if call.shares_id:
                call_id, name = None, call.name
            piece = CallDelta(
                call.key, choice.index, call_id, name, call.arguments, settled, hosted, call.reused
            )
            seen.append(piece)
        seen += results.of_call(call, body, entry)
