"""What a request asks, without what changes from one run to the next. Pure functions.

Clients mint ids, name users and set cache marks anew in every run. Two requests that differ in
nothing else ask the same. What is compressed is not looked into, nor is what is neither JSON nor
comes in parts: all functions say None to it.
"""

import re
from collections.abc import Sequence
from email.message import Message
from typing import Any, Final

import orjson

from lifecycle_proxy.recording.cassette import Json, Request

# Left out of comparisons. A ``*`` is any item of a list, or any key.
VOLATILE: Final = (
    "user",
    "metadata",
    "seed",
    "store",
    "stream_options",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "messages.*.cache_control",
    "messages.*.content.*.cache_control",
    "system.*.cache_control",
    "tools.*.cache_control",
)
_REFERENCES: Final = ("tool_call_id", "tool_use_id", "call_id")
# Items of a Responses input that have an id, besides those whose type ends in ``_call``.
_ITEMS: Final = ("message", "reasoning", "item_reference")

_EXACT: Final = 1 << 53  # below this every whole number has a float of its own

Turns = tuple[tuple[str, str], ...]


def normal(request: Request, volatile: Sequence[str] = VOLATILE) -> Any:
    """The JSON of a body, volatile parts dropped and ids renamed in order of appearance."""
    if not request.body or _is_opaque(request):
        return None
    try:
        document = orjson.loads(request.body)
        for path in volatile:
            _drop(document, path.split("."))
        return _renamed(document, {})
    except (ValueError, RecursionError):
        return None


def parts(request: Request) -> list[bytes] | None:
    """What a multipart body is made of, without its boundary, which is random."""
    if not request.body or _is_compressed(request) or not _is_multipart(request):
        return None
    head = Message()
    head["Content-Type"] = request.header("Content-Type")
    boundary = head.get_boundary("").encode("utf-8", "surrogateescape")
    delimiter = rb"(?:^|\r\n)--" + re.escape(boundary) + rb"(?=(?:--)?[ \t]*(?:\r\n|\Z))"
    found = re.split(delimiter, request.body) if boundary else []
    return found if len(found) > 1 else None


def packed(document: Any) -> bytes | None:
    """JSON as bytes that are the same for the same content, whatever the order of its keys."""
    try:
        return None if document is None else orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # nested beyond reason
        return None


def conversation(document: Any) -> Turns | None:
    """Who said what since the user last spoke: roles and texts, the names of called tools.

    In Anthropic's requests results come as the user's messages; those do not count as speaking.
    """
    if not isinstance(document, dict):
        return None
    told = document.get("messages", document.get("input"))
    if isinstance(told, str):
        return (("user", told.strip()),)
    messages = [m for m in told if isinstance(m, dict)] if isinstance(told, list) else []
    spoken = [n for n, message in enumerate(messages) if _is_speaking(message)]
    return tuple(_turn(message) for message in messages[spoken[-1] :]) if spoken else None


# --- the normal form ----------------------------------------------------------------------------


def _is_opaque(request: Request) -> bool:
    return _is_compressed(request) or _is_multipart(request)


def _is_compressed(request: Request) -> bool:
    return request.header("Content-Encoding").lower() not in ("", "identity")


def _is_multipart(request: Request) -> bool:
    return request.header("Content-Type").lower().startswith("multipart/")


def _drop(node: Any, path: list[str]) -> None:
    key, rest = path[0], path[1:]
    if not rest:
        if isinstance(node, dict):
            node.pop(key, None)
    elif key != "*":
        if isinstance(node, dict) and key in node:
            _drop(node[key], rest)
    elif isinstance(node, list | dict):
        for child in node.values() if isinstance(node, dict) else node:
            _drop(child, rest)


def _renamed(node: Any, names: dict[str, str]) -> Any:
    """A copy with ids renamed. Arguments are JSON in a text; they are compared as JSON."""
    if isinstance(node, list):
        return [_renamed(child, names) for child in node]
    if isinstance(node, float) and node.is_integer() and abs(node) < _EXACT:
        return int(node)  # 1 and 1.0 are the same temperature
    if not isinstance(node, dict):
        return node
    ids = (*_REFERENCES, "id") if _has_id(node) else _REFERENCES
    copy: Json = {}
    for key in sorted(node):
        value = node[key]
        if key in ids and isinstance(value, str):
            copy[key] = names.setdefault(value, f"id_{len(names) + 1}")
        elif key == "arguments" and isinstance(value, str):
            copy[key] = _renamed(_maybe_object(value), names)
        else:
            copy[key] = _renamed(value, names)
    return copy


def _has_id(node: Json) -> bool:
    kind = node.get("type")
    if not isinstance(kind, str):
        return "function" in node
    return "function" in node or kind.endswith(("_call", "tool_use")) or kind in _ITEMS


def _maybe_object(text: str) -> Any:
    try:
        value = orjson.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict) else text


# --- the conversation ---------------------------------------------------------------------------


def _is_speaking(message: Json) -> bool:
    if message.get("role") != "user":
        return False
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return isinstance(content, str) or any(isinstance(p, dict) and "text" in p for p in parts)


def _turn(message: Json) -> tuple[str, str]:
    who = str(message.get("role") or message.get("type") or "")
    calls = message.get("tool_calls")
    names = [_name(call) for call in calls] if isinstance(calls, list) else [_name(message)]
    said = _text(message.get("content")) or _text(message.get("output"))
    return who, " ".join((said, *names)).strip()


def _name(call: Any) -> str:
    """The tool of a call, in the words of Chat Completions or of Responses."""
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def _text(content: Any) -> str:
    """The text of a message; of parts, joined. A call in parts counts by its name."""
    if isinstance(content, str):
        return content.strip()
    if isinstance(content, list):
        return " ".join(text for part in content if (text := _text(part)))
    if isinstance(content, dict):
        return _text(content.get("text") or content.get("content") or content.get("name"))
    return ""
