"""Reads single fields of a chat completions chunk, of whatever type they are.

Backends leave fields out, send null or ``"null"``, or another type than documented. Nothing here
raises for that, and nothing here remembers anything: what a field means for the stream is decided
in ``chat``.
"""

from typing import Any, Final

from lifecycle_proxy.core.observers import results
from lifecycle_proxy.core.observers.chat_calls import Index
from lifecycle_proxy.core.observers.json import dumps

Json = dict[str, Any]
# The slot of a ``function_call``. A tuple: no index of an upstream is one.
LEGACY: Final = ("function_call", 0)
# A delta with one of these is more than text.
_TOOL_KEYS: Final = frozenset(("tool_calls", "function_call", *results.KEYS))
_TEXT_KEYS: Final = ("content", "reasoning_content", "reasoning")


def is_text_only(entry: Any) -> bool:
    """Whether a choice holds text and nothing else that matters, as nearly every one does."""
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


def has_error(holder: object) -> bool:
    """Whether a part of a chunk holds an error (Groq: ``x_groq``, OpenRouter: a choice)."""
    return isinstance(holder, dict) and bool(holder.get("error"))


def may_begin(delta: object) -> bool:
    """Whether a delta may be the first of an answer: a role, and no piece of a known call."""
    if not (isinstance(delta, dict) and delta.get("role") == "assistant"):
        return False
    calls = delta.get("tool_calls")
    heads = calls if isinstance(calls, list) else []
    return all(isinstance(head, dict) and body_and_name(head)[1] is not None for head in heads)


def is_chunk(choices: list[Any]) -> bool:
    """Whether these are a chunk's choices, not those that a person has (``approval.request``)."""
    for choice in choices:
        if isinstance(choice, dict) and ("delta" in choice or "message" in choice):
            return True
    return False


def maybe_text_choice(entry: Json) -> int | None:
    """The index of a choice that goes on with text, or reasoning."""
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


def maybe_present(value: object) -> str | None:
    """Rule 1 of ``identity``: null, "", "null" and a missing key all mean absent."""
    if isinstance(value, str) and value and value != "null":
        return value
    return None


def calls_in(delta: Json) -> list[Json]:
    """The entries of ``tool_calls``, or the one of the older ``function_call``."""
    calls = delta.get("tool_calls")
    if isinstance(calls, dict):
        calls = [calls]  # TGI before 2025-03
    elif not isinstance(calls, list):
        calls = []
    legacy = delta.get("function_call")
    if isinstance(legacy, dict) and not calls:
        # One call per choice; llama-cpp-python sends both forms of the same call.
        calls = [{"index": LEGACY, "function": legacy}]
    return [entry for entry in calls if isinstance(entry, dict)]


def hosted_calls_in(delta: Json) -> list[Json]:
    """LiteLLM's calls of MCP tools, which it runs itself."""
    fields = delta.get("provider_specific_fields")
    calls = fields.get("mcp_tool_calls") if isinstance(fields, dict) else None
    return [e for e in calls if isinstance(e, dict)] if isinstance(calls, list) else []


def maybe_index(entry: Json) -> Index | None:
    """The index of a call, a number or a text."""
    index = entry.get("index")
    return index if type(index) in (int, str) or index == LEGACY else None


def body_and_name(entry: Json) -> tuple[Json, str | None]:
    """The part of a call that holds name and arguments, and the name.

    ``function`` mostly, ``custom`` for OpenAI's custom tools. Zhipu's all-tools put them under a
    key named by the type, and the type is the name.
    """
    for key in ("function", "custom"):
        body = entry.get(key)
        if isinstance(body, dict):
            return body, maybe_present(body.get("name"))
    kind = maybe_present(entry.get("type"))
    body = entry.get(kind) if kind is not None else None
    return (body, kind) if isinstance(body, dict) else ({}, None)


def arguments_in(body: Json) -> str:
    """The piece of arguments as text; some servers send an object, decoded."""
    for key in ("arguments", "input"):
        value = body.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, dict | list) and value:
            return dumps(value)
    return ""
