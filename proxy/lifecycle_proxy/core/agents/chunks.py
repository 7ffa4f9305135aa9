"""Pieces of an agent's turn as a chat completions stream, or as one completion.

Calls stand in ``delta.provider_specific_fields``, in LiteLLM's form for tools that ran behind it.
A client that does not know it has a legal chunk that says nothing; the proxy's own pipeline, this
one's or one behind a recording, reads it like any backend's.
"""

from collections.abc import Mapping
from typing import Any, Final, assert_never

from lifecycle_proxy.core.agents.pieces import CallBegun, CallEnded, Piece, Said, Thought
from lifecycle_proxy.core.dialects.fields import chunk_of, dumps
from lifecycle_proxy.core.events import Envelope, Outcome

DONE: Final = b"data: [DONE]\n\n"
_MAX_ANSWER: Final = 16 << 20  # characters of an answer that is sent as a whole
_FINISH: Final = {
    "max_tokens": "length",
    "max_turn_requests": "length",
    "refusal": "content_filter",
}


def finish_reason(stop: object) -> str:
    """OpenAI's word for ACP's ``stopReason``."""
    return _FINISH.get(stop, "stop") if isinstance(stop, str) else "stop"


def maybe_usage(given: Any) -> dict[str, Any] | None:
    """OpenAI's usage for an agent's; None where it sends none that can be read."""
    if not isinstance(given, Mapping):
        return None

    def count(*keys: str) -> int:
        found = (given.get(key) for key in keys)
        return next((n for n in found if type(n) is int and n >= 0), 0)

    prompt = count("inputTokens", "input_tokens")
    completion = count("outputTokens", "output_tokens")
    if not (prompt or completion):
        return None
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": count("totalTokens", "total_tokens") or prompt + completion,
    }
    if cached := count("cachedReadTokens", "cached_input_tokens", "cache_read_input_tokens"):
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    if thought := count("thoughtTokens", "reasoning_output_tokens"):
        usage["completion_tokens_details"] = {"reasoning_tokens": thought}
    return usage


class ChunkWriter:
    """Writes a stream.

    Args:
        envelope: id, created and model of all chunks.
        result_preview: so many characters of a result are sent; 0 for none.
        has_usage: whether the client asked for a usage chunk.
    """

    def __init__(
        self, envelope: Envelope, *, result_preview: int = 0, has_usage: bool = False
    ) -> None:
        self._envelope = envelope
        self._preview = result_preview
        self._has_usage = has_usage

    def begin(self) -> bytes:
        """The first chunk."""
        return self._chunk({"role": "assistant", "content": ""})

    def write(self, piece: Piece) -> bytes:
        """A chunk."""
        match piece:
            case Said(text):
                return self._chunk({"content": text})
            case Thought(text):
                return self._chunk({"reasoning_content": text})
            case CallBegun(call_id, name, arguments):
                function = {"name": name, "arguments": arguments}
                call = {"id": call_id, "type": "function", "function": function}
                return self._hosted("mcp_tool_calls", call)
            case CallEnded(call_id, outcome, output):
                return self._hosted("mcp_call_results", self._result(call_id, outcome, output))
            case _:
                assert_never(piece)

    def chunk(self, delta: Mapping[str, Any], fields: Mapping[str, Any], event: str = "") -> bytes:
        """A chunk with fields of its own.

        Args:
            delta: of the one choice.
            fields: beside the choices.
            event: its name; "" for none.
        """
        line = f"event: {event}\n".encode() if event else b""
        return line + self._chunk(dict(delta), fields)

    def end(self, reason: str, usage: Mapping[str, Any] | None) -> bytes:
        """The last chunks, and ``[DONE]``.

        Args:
            reason: the ``finish_reason``.
            usage: of the turn, if it is known.
        """
        data = self._chunk({}, finish=reason)
        if self._has_usage and usage is not None:
            payload = chunk_of({}, self._envelope, {"choices": [], "usage": dict(usage)})
            data += b"data: %b\n\n" % dumps(payload)
        return data + DONE

    def _result(self, call_id: str, outcome: Outcome, output: str | None) -> dict[str, Any]:
        result: dict[str, Any] = {"tool_call_id": call_id, "status": "completed"}
        if outcome.is_error:
            is_cancelled = outcome is Outcome.CANCELLED
            result |= {"status": "cancelled" if is_cancelled else "failed", "is_error": True}
        if self._preview and output is not None:
            result["content"] = output[: self._preview]
        return result

    def _hosted(self, key: str, entry: Mapping[str, Any]) -> bytes:
        return self._chunk({"provider_specific_fields": {key: [dict(entry)]}})

    def _chunk(
        self,
        delta: dict[str, Any],
        fields: Mapping[str, Any] | None = None,
        finish: str | None = None,
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return b"data: %b\n\n" % dumps(chunk_of(choice, self._envelope, dict(fields or {})))


class Transcript:
    """Collects the answer of a turn: for a completion, and for the next request's recognition."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._left = _MAX_ANSWER

    @property
    def content(self) -> str:
        """The text so far."""
        return "".join(self._content)

    def add(self, piece: Piece) -> None:
        """Take a piece. What is beyond reason is dropped."""
        if isinstance(piece, Said | Thought):
            text = piece.text[: self._left]
            self._left -= len(text)
            (self._content if isinstance(piece, Said) else self._reasoning).append(text)

    def completion(self, envelope: Envelope, reason: str, usage: Mapping[str, Any] | None) -> bytes:
        """The JSON body of a response without ``stream``.

        Args:
            envelope: id, created and model.
            reason: the ``finish_reason``.
            usage: of the turn, if it is known.
        """
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        nothing = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        payload = {
            "id": envelope.id,
            "object": "chat.completion",
            "created": envelope.created,
            "model": envelope.model,
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": dict(usage or nothing),
        }
        return dumps(payload)
