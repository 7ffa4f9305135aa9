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
from lifecycle_proxy.recording.secret_detection import is_credential_parameter

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

# Of a signed URL: AWS and Google by their prefix, Azure's shared access signatures.
_SIGNED: Final = ("x-amz-", "x-goog-")
_SAS: Final = frozenset(
    [
        "sv",
        "ss",
        "srt",
        "st",
        "se",
        "sp",
        "spr",
        "sip",
        "sr",
        "skoid",
        "sktid",
        "skt",
        "ske",
        "sks",
        "skv",
    ]
)
# What comes before the last turn, and what stands for it in another form.
_BEFORE: Final = ("messages", "input", "system", "instructions", "tools", "functions")
SAMPLING: Final = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty")
_TEXTS: Final = ("text", "input_text", "output_text", None)
# Of a message or a part of it: what does not change what is said.
_NOT_SAID: Final = ("id", "status", "annotations", "logprobs", "cache_control")
_EMPTY: Final[tuple[Any, ...]] = (None, "", [], {})

_EXACT: Final = 1 << 53  # below this every whole number has a float of its own


def normal(request: Request, volatile: Sequence[str] = VOLATILE) -> Any:
    """The JSON of a body, volatile parts dropped and ids renamed in order of appearance.

    Args:
        request: whose body it is.
        volatile: JSON paths to drop.
    """
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


def query(target: str) -> tuple[str, ...]:
    """The query of a request without credentials, which are other ones in every run.

    Of a URL that is signed nothing of the signature counts: not its date, nor how long it is valid.
    """
    parameters = [part for part in target.partition("?")[2].split("&") if part]
    names = {part.partition("=")[0].lower() for part in parameters}
    is_sas = "sig" in names
    return tuple(
        part
        for part in parameters
        if not (
            is_credential_parameter(name := part.partition("=")[0])
            or name.lower().startswith(_SIGNED)
            or (is_sas and name.lower() in _SAS)
        )
    )


def last_turn(document: Any) -> Json | None:
    """A conversation without what was said before the user last spoke; None where it is none.

    Everything else that decides the response stays: pictures, sound and files, the arguments of
    calls, the names of tools, formats, limits. Left out are earlier messages, the system prompt,
    how tools are described, and how words are drawn (``SAMPLING``).
    """
    messages = None if not isinstance(document, dict) else _since_user(document)
    if messages is None:
        return None
    others = {
        k: v for k, v in document.items() if k not in (*_BEFORE, *SAMPLING) and v not in _EMPTY
    }
    others["stream"] = bool(document.get("stream"))
    turns = _renamed([_turn(message) for message in messages], {})
    return {**others, "messages": turns, "tools": sorted(_tools(document))}


def said(document: Any) -> str | None:
    """What the user last said; None where it is no conversation.

    In Anthropic's requests results come as the user's messages; those do not count as speaking.
    """
    messages = None if not isinstance(document, dict) else _since_user(document)
    return None if messages is None else _text(messages[0].get("content"))


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


def _since_user(document: Json) -> list[Json] | None:
    """The messages from the user's last on; None where there is none."""
    found = document.get("messages", document.get("input"))
    if isinstance(found, str):
        return [{"role": "user", "content": found}]
    messages = [m for m in found if isinstance(m, dict)] if isinstance(found, list) else []
    spoken = [n for n, message in enumerate(messages) if _is_speaking(message)]
    return messages[spoken[-1] :] if spoken else None


def _is_speaking(message: Json) -> bool:
    if message.get("role") != "user":
        return False
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return isinstance(content, str) or any(isinstance(p, dict) and "text" in p for p in parts)


def _turn(message: Json) -> Json:
    """A message, in one form for a text and for a list with a text in it."""
    turn = {k: v for k, v in message.items() if k not in _NOT_SAID}
    turn["content"] = _parts(message.get("content"))
    turn["output"] = _parts(message.get("output"))
    return {k: v for k, v in turn.items() if v not in _EMPTY}


def _parts(content: Any) -> list[Any]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        return [] if content is None else [content]
    return [part for one in content if (part := _part(one)) not in _EMPTY]


def _part(part: Any) -> Any:
    """A text by its words alone, anything else as it is."""
    if isinstance(part, str):
        return part.strip()
    if not isinstance(part, dict):
        return part
    if isinstance(part.get("text"), str) and part.get("type") in _TEXTS:
        return part["text"].strip()
    inner = {"content": _parts(part["content"])} if "content" in part else {}
    whole = {**part, **inner}
    return {k: v for k, v in whole.items() if k not in _NOT_SAID and v not in _EMPTY}


def _tools(document: Json) -> set[str]:
    """The names of the tools, or their kinds where the upstream runs them."""
    tools = (document.get("tools"), document.get("functions"))
    entries = [one for some in tools if isinstance(some, list) for one in some]
    return {
        str(_called(tool) or tool.get("name") or tool.get("type"))
        for tool in entries
        if isinstance(tool, dict)
    }


def _called(tool: Json) -> Any:
    inner = tool.get("function", tool.get("custom"))
    return inner.get("name") if isinstance(inner, dict) else None


def _text(content: Any) -> str:
    """The text of a message; of parts, joined."""
    if isinstance(content, str):
        return content.strip()
    if isinstance(content, list):
        return " ".join(text for part in content if (text := _text(part)))
    if isinstance(content, dict):
        return _text(content.get("text") or content.get("content") or content.get("name"))
    return ""
