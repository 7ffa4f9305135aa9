"""The signature of a response: everything about its form, not its text. Pure functions.

It consists of the status, the content type, the kinds of events, the JSON paths in each kind with
their types, the tools that were called, how it finished, and whether it ended with ``[DONE]``. A
client may break if something is missing or has another type; new fields and other text must not
break it.

The observers of the core do not serve here: they read streams only, and they repair mistakes of
upstreams, such as repeated indexes. Such a mistake, if it is new, is a difference to report.
"""

import enum
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from lifecycle_proxy.core import sse
from lifecycle_proxy.exchange.media_type import is_event_stream, media_type
from lifecycle_proxy.recording.cassette import Json

Path = tuple[str, ...]

_MAX_EVENT_BYTES: Final = 64 << 20
_FINISHES: Final = {"tool_calls": "tools", "function_call": "tools"}
_LAST: Final = ("response.completed", "response.incomplete", "response.failed")


class Verdict(enum.IntEnum):
    """How much two responses differ."""

    IDENTICAL = 0
    BENIGN = 1
    BREAKING = 2


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response, decompressed.

    Attributes:
        status: 0 if there was none.
        content_type: the header.
        body: as far as it came.
        broken: why it is incomplete; "" if it is not.
    """

    status: int
    content_type: str
    body: bytes
    broken: str = ""

    @property
    def media_type(self) -> str:
        return media_type(self.content_type)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences, in words."""

    breaking: tuple[str, ...] = ()
    benign: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        if self.breaking:
            return Verdict.BREAKING
        return Verdict.BENIGN if self.benign else Verdict.IDENTICAL


@dataclass(slots=True)
class CalledTool:
    """One tool call of a response, as far as its pieces have been joined."""

    id: str = ""
    name: str = ""
    arguments: str = ""

    def keys(self) -> frozenset[str] | None:
        """The keys of the arguments; None if they are not a JSON object."""
        try:
            tree = orjson.loads(self.arguments or "{}")
        except orjson.JSONDecodeError:
            return None
        return frozenset(tree) if isinstance(tree, dict) else None


@dataclass(slots=True)
class ResponseSignature:
    """The form of one response.

    Attributes:
        types: of each path; empty for a path that was only null. The first part of a path is the
            kind of the event.
        calls: by a key that identifies them.
        finishes: the finish reasons of all choices; those for tool calls count as one.
        text: of all choices, joined.
        events: how many.
        is_done: there was a ``[DONE]``.
    """

    types: dict[Path, set[str]] = field(default_factory=dict)
    calls: dict[object, CalledTool] = field(default_factory=dict)
    finishes: set[str] = field(default_factory=set)
    text: str = ""
    events: int = 0
    is_done: bool = False

    def tools(self) -> dict[str, set[str] | None]:
        """The tools that were called, and the keys of all their arguments."""
        found: dict[str, set[str] | None] = {}
        for call in self.calls.values():
            keys, known = call.keys(), found.setdefault(call.name, set())
            found[call.name] = None if keys is None or known is None else known | keys
        return found


def signature_of(reply: Reply) -> ResponseSignature:
    """The signature of a response. The body may be any bytes."""
    found = ResponseSignature()
    if not is_event_stream(reply.content_type) and not sse.begins_stream(reply.body):
        _take(found, "", reply.body)
        return found
    parser = sse.Parser(_MAX_EVENT_BYTES)
    for event in parser.feed(reply.body) + parser.eof():
        if event.data is not None and event.data.strip() == b"[DONE]":
            found.is_done = True
        elif event.data is not None:
            _take(found, event.name.decode("utf-8", "replace"), event.data)
    return found


def _take(found: ResponseSignature, name: str, data: bytes) -> None:
    found.events += 1
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError:
        found.types[name or "no JSON",] = {"text"}
        found.text += data.decode("utf-8", "replace")
        return
    fields = payload if isinstance(payload, dict) else {}
    kind = name or _text(fields.get("type")) or _text(fields.get("object"))
    _walk(found.types, (kind,), payload)
    _read_chat(found, fields)
    _read_responses(found, kind, fields)
    if fields.get("error"):
        found.finishes.add("error")


def _walk(types: dict[Path, set[str]], root: Path, payload: Any) -> None:
    waiting = [(root, payload)]
    while waiting:
        path, value = waiting.pop()
        types.setdefault(path, set()).update(_type(value))
        if isinstance(value, dict):
            waiting += [((*path, key, *_variant(inner)), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [((*path, *(_variant(item) or ("[]",))), item) for item in value]


def _type(value: Any) -> tuple[str, ...]:
    match value:
        case None:
            return ()
        case bool():
            return ("boolean",)
        case int() | float():
            return ("number",)
        case str():
            return ("string",)
        case list():
            return ("array",)
        case _:
            return ("object",)


def _variant(value: Any) -> Path:
    """A part of the path for objects with a ``type``. Not for calls: only one piece has it."""
    kind = _text(value.get("type")) if isinstance(value, dict) else ""
    return (f"[{kind}]",) if kind not in ("", "function") else ()


# --- text and tool calls ------------------------------------------------------------------------


def _read_chat(found: ResponseSignature, chunk: Json) -> None:
    for choice in _objects(chunk.get("choices")):
        index = choice.get("index", 0)
        said = _object(choice.get("delta")) or _object(choice.get("message"))
        found.text += _text(said.get("content"))
        if reason := _text(choice.get("finish_reason")):
            found.finishes.add(_FINISHES.get(reason, reason))
        for place, call in enumerate(_objects(said.get("tool_calls"))):
            function = _object(call.get("function"))
            _add(found, (index, call.get("index", place)), function, _text(call.get("id")))
        if legacy := _object(said.get("function_call")):
            _add(found, (index, "function_call"), legacy)


def _read_responses(found: ResponseSignature, kind: str, event: Json) -> None:
    if kind == "response.output_text.delta":
        found.text += _text(event.get("delta"))
    whole = kind == "response"
    if kind in _LAST or whole:
        answer = event if whole else _object(event.get("response"))
        found.finishes.add(_text(answer.get("status")) or "none")
    items = event.get("output") if whole else None
    if kind == "response.output_item.done":
        items = [event.get("item")]
    for item in _objects(items):
        item_kind = _text(item.get("type"))
        if item_kind.endswith("_call"):
            _add(found, len(found.calls), {"name": item_kind, **item})
        for part in _objects(item.get("content") if whole else []):
            found.text += _text(part.get("text"))


def _add(found: ResponseSignature, place: object, function: Json, call_id: str = "") -> None:
    """Add a piece of a call. Some upstreams give all calls one index, others each piece an id."""
    key, name = str(place), _text(function.get("name"))
    if (other := found.calls.get(key)) and name and call_id and other.id not in ("", call_id):
        del found.calls[key]
        found.calls[f"{key} {other.id}"] = other
    call = found.calls.setdefault(key, CalledTool())
    call.id, call.name = call.id or call_id, call.name or name
    call.arguments += _text(function.get("arguments"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
