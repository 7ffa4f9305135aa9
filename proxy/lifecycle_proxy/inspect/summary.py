"""One event of a stream in a few words, for people who look at a recording.

Knows chat completions, the Responses API, Anthropic's Messages and lifecycle frames. Of anything
else it shows the name and the keys; nothing is an error. The observers of the core do not serve
here: they follow a whole stream and leave out what no tool call needs, while this shows each event
as it is, alone.
"""

import json
from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.dialects.fields import EVENT_NAME
from lifecycle_proxy.recording.cassette import Json

# fmt: off
Kind = Literal[
    "text", "thought", "call", "result", "tool", "finish", "usage", "done",
    "role", "comment", "error", "other", "bytes",
]
# fmt: on
_QUOTED: Final = 60
_STATUS: Final = ("running", "completed")
_COMMENT: Final = f": {EVENT_NAME} ".encode()
_THOUGHTS: Final = ("reasoning_content", "reasoning")
_RESULTS: Final = ("tool_result", "executed_tools", "mcp_call_results", "tool_outputs")
_KNOWN: Final = frozenset(("role", "content", "tool_calls", "tool_call_id", *_THOUGHTS, *_RESULTS))
_KINDS: Final[dict[str, Kind]] = {"text": "text", "thought": "thought"}
_ENDS: Final = ("response.completed", "response.incomplete", "message_stop")
_ERRORS: Final = ("error", "response.failed")


class Part(NamedTuple):
    """One part of the content of an event."""

    kind: Kind
    words: str


class EventSummary(NamedTuple):
    """The content of an event.

    Attributes:
        kind: of its first part.
        words: all parts on one line, for people. Not escaped.
        written: the pieces of longer texts in it: the name of the text, and the piece. ``text`` and
            ``thought`` are those of the first choice; calls have names of their own.
        tool: the fields of a lifecycle frame.
    """

    kind: Kind
    words: str
    written: tuple[tuple[str, str], ...] = ()
    tool: Json | None = None

    def delta(self, name: str) -> str:
        """What the event adds to the text of this name."""
        return "".join(piece for whose, piece in self.written if whose == name)


def summarize(event: sse.Event) -> EventSummary:
    """Summarize an event of a stream."""
    if not event.parsed:
        return EventSummary("bytes", "a part of an event that is too large to be parsed")
    name = event.name.decode("utf-8", "replace")
    if event.data is None:
        return _no_data(event.raw, name)
    if event.data.strip() == b"[DONE]":
        return EventSummary("done", _named(name, "[DONE]"))
    payload = _maybe_json(event.data)
    if not isinstance(payload, dict):
        return EventSummary("bytes", _named(name, _quoted(event.data.decode("utf-8", "replace"))))
    if _is_lifecycle(payload):
        return EventSummary("tool", _lifecycle(name or EVENT_NAME, payload), tool=payload)
    parts = list(_parts(payload)) or [Part("other", f"keys {', '.join(map(str, payload))}")]
    kind = next((part.kind for part in parts if part.kind != "role"), parts[0].kind)
    words = _named(name, ", ".join(part.words for part in parts))
    return EventSummary(kind, words, tuple(_written(payload)))


def summarize_body(data: bytes) -> EventSummary:
    """Summarize a body, or one read of a body, that is not an event stream."""
    if data.lstrip()[:1] == b"{" and isinstance(_maybe_json(data), dict):
        return summarize(sse.Event(data, b"", data))
    return EventSummary("bytes", _quoted(data.decode("utf-8", "replace")))


def _no_data(raw: bytes, name: str) -> EventSummary:
    if raw.startswith(_COMMENT):
        payload = _maybe_json(raw[len(_COMMENT) :])
        if isinstance(payload, dict) and _is_lifecycle(payload):
            return EventSummary("tool", _lifecycle(f"comment {EVENT_NAME}", payload), tool=payload)
    text = raw.decode("utf-8", "replace").strip()
    if raw.startswith(b":"):
        return EventSummary("comment", f"comment {_quoted(text[1:].strip())}")
    return EventSummary(
        "other", _named(name, f"no data: {_quoted(text)}" if text else "blank lines")
    )


def _maybe_json(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _is_lifecycle(payload: Json) -> bool:
    return isinstance(payload.get("toolCallId"), str) and payload.get("status") in _STATUS


def _lifecycle(name: str, fields: Json) -> str:
    label = fields.get("label")
    shown = f" {_quoted(str(label))}" if label and label != fields.get("tool") else ""
    took = f" in {fields['durationMs']} ms" if "durationMs" in fields else ""
    failed = " (error)" if fields.get("isError") else ""
    reason = f" because of {fields['reason']}" if fields.get("reason") else ""
    return f"{name} {fields['status']} {fields.get('tool')}{shown}{took}{failed}{reason}"


def _parts(payload: Json) -> Iterator[Part]:
    kind = payload.get("type")
    response = payload.get("response") if kind == "response.failed" else None
    holder = response if isinstance(response, dict) else payload
    if (error := holder.get("error")) or kind in _ERRORS:
        message = error.get("message") if isinstance(error, dict) else error
        yield Part("error", f"error {_quoted(str(message or payload.get('message') or kind))}")
        return
    if isinstance(kind, str):
        yield _typed(kind, payload)
    for choice, delta in _choices(payload):
        yield from _delta(choice, delta)
    if isinstance(usage := payload.get("usage"), dict):
        yield Part("usage", _usage(usage))
    elif payload.get("choices") == []:
        yield Part("other", "no choices")


def _choices(payload: Json) -> Iterator[tuple[Json, Json]]:
    """Each choice with its delta, or with its message if the response is not a stream."""
    choices = payload.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            delta = choice.get("delta", choice.get("message"))
            yield choice, delta if isinstance(delta, dict) else {}


def _delta(choice: Json, delta: Json) -> Iterator[Part]:
    where = f"choice {choice['index']} " if choice.get("index") else ""
    found = [Part("role", f"role {delta['role']}")] if delta.get("role") else []
    found += [Part("thought", f"thought {_quoted(t)}") for t in _texts(delta, *_THOUGHTS)]
    found += [Part("text", f"text {_quoted(t)}") for t in _texts(delta, "content")]
    found += [Part("call", _call(call)) for call in _calls(delta)]
    if delta.get("role") == "tool" or any(key in delta for key in _RESULTS):
        found.append(Part("result", f"result of {delta.get('tool_call_id') or 'a tool'}"))
    if more := [key for key in delta if key not in _KNOWN]:
        found.append(Part("other", f"keys {', '.join(more)}"))
    if choice.get("finish_reason"):
        found.append(Part("finish", f"finish {choice['finish_reason']}"))
    for part in found or [Part("other", "an empty delta")]:
        yield Part(part.kind, where + part.words)


def _texts(delta: Json, *keys: str) -> list[str]:
    return [text for key in keys if isinstance(text := delta.get(key), str) and text]


def _calls(delta: Json) -> list[Json]:
    calls = delta.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _call(call: Json) -> str:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    name, arguments = function.get("name"), function.get("arguments")
    words = [f"call {call['index']}" if "index" in call else "call"]
    words += [str(name)] if name else []
    words += [f"({call['id']})"] if call.get("id") else []
    words += [f"arguments {_quoted(str(arguments))}"] if arguments else []
    return " ".join(words)


def _typed(kind: str, payload: Json) -> Part:
    """An event of the Responses API, or of Anthropic's Messages."""
    whose, piece = _typed_piece(kind, payload)
    if piece:
        return Part(_KINDS.get(whose, "call"), f"{kind} {_quoted(piece)}")
    thing = payload.get("item", payload.get("content_block"))
    if isinstance(thing, dict):
        words = [str(thing[key]) for key in ("type", "name", "call_id", "id") if thing.get(key)]
        is_call = "call" in words[0] or "tool_use" in words[0] if words else False
        return Part("call" if is_call else "other", " ".join((kind, *words)))
    delta = payload.get("delta")
    if isinstance(delta, dict) and delta.get("stop_reason"):
        return Part("finish", f"{kind} {delta['stop_reason']}")
    return Part("done" if kind in _ENDS else "other", kind)


def _typed_piece(kind: str, payload: Json) -> tuple[str, str]:
    """The name of the text that a typed event continues, and the piece; "" and "" for none."""
    delta = payload.get("delta")
    if isinstance(delta, str) and kind.endswith(".delta"):
        if "output_text" in kind or "refusal" in kind:
            return "text", delta
        if "reasoning" in kind:
            return "thought", delta
        return f"call {payload.get('output_index', payload.get('item_id'))}", delta
    if isinstance(delta, dict):
        at = f"call {payload.get('index')}"
        for key, whose in (("text", "text"), ("thinking", "thought"), ("partial_json", at)):
            if isinstance(delta.get(key), str):
                return whose, delta[key]
    return "", ""


def _written(payload: Json) -> Iterator[tuple[str, str]]:
    whose, piece = _typed_piece(str(payload.get("type")), payload)
    if piece:
        yield whose, piece
    for choice, delta in _choices(payload):
        of = f" of choice {choice['index']}" if choice.get("index") else ""
        if delta.get("role") != "tool":
            yield from ((f"thought{of}", text) for text in _texts(delta, *_THOUGHTS)[:1])
            yield from ((f"text{of}", text) for text in _texts(delta, "content"))
        for call in _calls(delta):
            function = call.get("function")
            if isinstance(function, dict):
                whose = f"call {call.get('index')}{of}"
                yield from ((whose, piece) for piece in _texts(function, "arguments"))


def _usage(usage: Json) -> str:
    counts = (f"{key} {value}" for key, value in usage.items() if isinstance(value, int))
    return f"usage {', '.join(counts)}"


def _named(name: str, words: str) -> str:
    return f"{name}: {words}" if name and not words.startswith(name) else words


def _quoted(text: str) -> str:
    cut = text if len(text) <= _QUOTED else text[: _QUOTED - 1] + "…"
    return f'"{cut}"'
