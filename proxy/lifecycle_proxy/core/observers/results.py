"""Results of tools that ran behind the upstream, in all the places where servers put them.

That a result is there completes the call. The result itself is used for the preview only.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from lifecycle_proxy.core.events import (
    NOTHING,
    CallDelta,
    CallResult,
    Observation,
    Outcome,
    UnknownResult,
)
from lifecycle_proxy.core.observers.chat_calls import ChatCall, Choice, maybe_id
from lifecycle_proxy.core.observers.identity import Identities
from lifecycle_proxy.core.observers.json import dumps

_Json = dict[str, Any]

# The keys of a delta that may hold results (besides role "tool").
KEYS: Final = frozenset(
    (
        "executed_tools",  # Groq compound
        "provider_specific_fields",  # LiteLLM: mcp_call_results
        "mcp_call_results",
        "tool_outputs",
    )
)
_IN_CALL: Final = ("output", "outputs", "result")
_ANY_IN_CALL: Final = frozenset(_IN_CALL)
_OUTPUTS: Final = ("output", "outputs", "result", "tool_result", "content")
_FAILED_STATUS: Final = ("failed", "error", "incomplete")


def of_delta(
    delta: _Json, chunk: _Json, choice: Choice, identities: Identities
) -> Iterator[Observation]:
    """Tool results in a delta, in any of the known vendor formats.

    Args:
        delta: of the choice.
        chunk: that holds it.
        choice: that it belongs to.
        identities: the calls of the stream.
    """
    if delta.get("role") == "tool":
        # Agent servers: PageSpace with tool_call_id, Hugging Face's tiny-agents with the call's id
        # as the id of the chunk.
        yield _result(delta.get("tool_call_id") or chunk.get("id"), delta, identities)
    fields = delta.get("provider_specific_fields")
    for holder in (delta, fields):
        if isinstance(holder, dict):
            for entry in _entries(holder, "mcp_call_results"):
                yield _result(entry.get("tool_call_id"), entry, identities)
    yield from outputs(delta, identities)
    for position, entry in enumerate(_entries(delta, "executed_tools")):
        yield from _executed(entry, position, choice, chunk, identities)


def outputs(holder: _Json, identities: Identities) -> Iterator[Observation]:
    """``tool_outputs``: beside the choices, in a choice or in a delta.

    Args:
        holder: a chunk, a choice or a delta.
        identities: the calls of the stream.
    """
    for entry in _entries(holder, "tool_outputs"):
        call_id = entry.get("tool_call_id") or entry.get("call_id") or entry.get("id")
        yield _result(call_id, entry, identities)


def of_call(call: ChatCall, body: _Json, entry: _Json) -> Sequence[Observation]:
    """A result inside the entry of the call itself (Zhipu's all-tools: ``outputs``).

    Args:
        call: that the entry belongs to.
        body: the part of the entry with name and arguments.
        entry: of ``tool_calls``.
    """
    if _ANY_IN_CALL.isdisjoint(body) and _ANY_IN_CALL.isdisjoint(entry):
        return NOTHING
    for holder in (body, entry):
        for key in _IN_CALL:
            if holder.get(key) is not None:
                call.answered = True
                return (CallResult(call.key, _outcome(holder), _text(holder[key])),)
    return NOTHING


def _executed(
    entry: _Json, position: int, choice: Choice, chunk: _Json, identities: Identities
) -> Iterator[Observation]:
    """Groq's built-in tools: first without, then with ``output``; no id, the type is the name."""
    index = entry.get("index")
    slot = ("executed_tools", index if type(index) is int else position)
    name = entry.get("name") or entry.get("type")
    arguments = entry.get("arguments")
    arguments = arguments if isinstance(arguments, str) else ""
    call = choice.slots.get(slot)
    if call is None or (call.over and arguments and arguments != str(call.arguments)):
        if not (isinstance(name, str) and name):
            return
        call = identities.open(choice, slot, maybe_id(chunk))
        if call is None:
            return
        call.arguments.append(arguments)
        yield CallDelta(
            call.key, choice.index, None, name, call.arguments, settled=True, hosted=True
        )
    if entry.get("output") is not None:
        call.answered = True
        yield CallResult(call.key, _outcome(entry), _text(entry["output"]))


def _result(call_id: object, entry: _Json, identities: Identities) -> Observation:
    call = identities.find(call_id) if isinstance(call_id, str) else None
    if call is None:
        return UnknownResult()
    call.answered = True
    output = next((entry[key] for key in _OUTPUTS if entry.get(key) is not None), None)
    return CallResult(call.key, _outcome(entry), _text(output))


def _outcome(entry: _Json) -> Outcome:
    if entry.get("status") == "cancelled":
        return Outcome.CANCELLED
    failed = (
        entry.get("is_error") is True
        or entry.get("isError") is True
        or bool(entry.get("error"))
        or entry.get("status") in _FAILED_STATUS
    )
    return Outcome.FAILED if failed else Outcome.OK


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return dumps(value)


def _entries(holder: _Json, key: str) -> list[_Json]:
    value = holder.get(key)
    return [e for e in value if isinstance(e, dict)] if isinstance(value, list) else []
