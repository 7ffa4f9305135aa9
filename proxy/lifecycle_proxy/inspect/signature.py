"""What an answer looks like, apart from its wording, and whether two look alike. Pure functions.

A shape is the status, the content type, the kinds of events, the JSON paths in each kind with their
types, the tools that were called, how it finished, and whether ``[DONE]`` ended it. A client breaks
where something that it may rely on is gone or has become something else; what is new, or says the
same in other words, it has to bear.
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
    """How far two answers differ."""

    IDENTICAL = 0
    BENIGN = 1
    BREAKING = 2


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, whole, its content coding undone.

    Attributes:
        content_type: the header.
        broken: why it ended before its end, if it did.
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
    """What differs, in words."""

    breaking: tuple[str, ...] = ()
    benign: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        if self.breaking:
            return Verdict.BREAKING
        return Verdict.BENIGN if self.benign else Verdict.IDENTICAL


@dataclass(slots=True)
class CalledTool:
    """One tool call of an answer, as far as its pieces have been joined."""

    id: str = ""
    name: str = ""
    arguments: str = ""

    def keys(self) -> frozenset[str] | None:
        """The keys of the arguments; None where they are no JSON object."""
        try:
            tree = orjson.loads(self.arguments or "{}")
        except orjson.JSONDecodeError:
            return None
        return frozenset(tree) if isinstance(tree, dict) else None


@dataclass(slots=True)
class ResponseSignature:
    """What one answer looks like.

    Attributes:
        types: of each path; empty where there was only null. The first part is the event's kind.
        calls: by whatever tells them apart.
        finishes: of all choices, as classes.
        text: what is said, as one text.
        events: how many.
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


def shape(reply: Reply) -> ResponseSignature:
    """What an answer looks like. Takes any bytes."""
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
    told = payload if isinstance(payload, dict) else {}
    kind = name or _text(told.get("type")) or _text(told.get("object"))
    _walk(found.types, (kind,), payload)
    _read_chat(found, told)
    _read_responses(found, kind, told)
    if told.get("error"):
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
    """An object that names its type is of a kind of its own. Of a call only one piece does so."""
    kind = _text(value.get("type")) if isinstance(value, dict) else ""
    return (f"[{kind}]",) if kind not in ("", "function") else ()


# --- what is said -------------------------------------------------------------------------------


def _read_chat(found: ResponseSignature, told: Json) -> None:
    for choice in _objects(told.get("choices")):
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


def _read_responses(found: ResponseSignature, kind: str, told: Json) -> None:
    if kind == "response.output_text.delta":
        found.text += _text(told.get("delta"))
    whole = kind == "response"
    if kind in _LAST or whole:
        answer = told if whole else _object(told.get("response"))
        found.finishes.add(_text(answer.get("status")) or "none")
    items = told.get("output") if whole else None
    if kind == "response.output_item.done":
        items = [told.get("item")]
    for item in _objects(items):
        item_kind = _text(item.get("type"))
        if item_kind.endswith("_call"):
            _add(found, len(found.calls), {"name": item_kind, **item})
        for part in _objects(item.get("content") if whole else []):
            found.text += _text(part.get("text"))


def _add(found: ResponseSignature, place: object, function: Json, call_id: str = "") -> None:
    """A piece of a call. Some upstreams give all calls the same place, others each piece an id."""
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
