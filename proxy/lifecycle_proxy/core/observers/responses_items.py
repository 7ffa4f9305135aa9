"""Output items of the Responses API: what an item says of the call that it is, or answers."""

from typing import Final

from lifecycle_proxy.core.events import Outcome
from lifecycle_proxy.core.observers.json import dumps
from lifecycle_proxy.core.observers.typed import Json, maybe_text, text_of

# What the client runs, unless the item names an environment of the server's.
_CLIENTS: Final = frozenset(
    (
        *("function_call", "custom_tool_call", "computer_call"),
        *("local_shell_call", "shell_call", "apply_patch_call"),
    )
)
_HOSTED: Final = frozenset(
    (
        *("mcp_call", "web_search_call", "file_search_call"),
        *("code_interpreter_call", "image_generation_call", "program"),
    )
)
# Items that are no tools, of those that go from in progress to completed.
_OTHERS: Final = frozenset(
    (
        *("message", "reasoning", "compaction", "compaction_summary", "item_reference"),
        *("mcp_list_tools", "mcp_approval_request", "mcp_approval_response"),
    )
)
# The results of these are items of their own, even where the server runs them.
ANSWERED: Final = _CLIENTS | {"program", "tool_search_call"}
_NAMED: Final = frozenset(("function_call", "custom_tool_call", "mcp_call"))

_ARGUMENTS: Final = ("arguments", "input", "action", "operation")
_MORE_ARGUMENTS: Final = ("code", "queries", "actions")
_OUTPUTS: Final = ("output", "outputs", "results", "result", "error")
_OUTPUTS_BY_KIND: Final = {"image_generation_call": ("error",)}  # an image is no text
_FAILURES: Final = {
    "failed": Outcome.FAILED,
    "error": Outcome.FAILED,
    "incomplete": Outcome.FAILED,
    "cancelled": Outcome.CANCELLED,
    "canceled": Outcome.CANCELLED,
}


def is_call(item: Json) -> bool:
    """Whether an item is a tool call.

    Gateways have tools of their own, and types for them: ``openrouter:web_search``.
    """
    kind = item["type"]
    if kind.endswith("_call") or kind == "program" or ":" in kind:
        return not kind.endswith("_output")
    is_other = kind in _OTHERS or kind.endswith("_output")
    return not is_other and item.get("status") == "in_progress"


def tool(kind: str) -> str:
    """The name of a tool that has no other: its type, without what all types have."""
    return kind.rpartition(":")[2].removesuffix("_call")


def name(item: Json) -> str | None:
    kind = item["type"]
    return maybe_text(item.get("name")) or (None if kind in _NAMED else tool(kind))


def is_hosted(item: Json) -> bool:
    """Whether it runs behind the upstream. A call id is there for the client to answer with."""
    kind = item["type"]
    if kind == "tool_search_call":
        return bool(item.get("execution") != "client")
    if kind in _CLIENTS:
        environment = item.get("environment")
        where = environment.get("type") if isinstance(environment, dict) else None
        return isinstance(where, str) and where != "local"
    is_known = kind in _HOSTED or not kind.endswith("_call")
    return is_known or maybe_text(item.get("call_id")) is None


def arguments(item: Json) -> str:
    """A text as it is, a structure as JSON; code and queries get an object around them."""
    for key in _ARGUMENTS:
        if value := item.get(key):
            return value if isinstance(value, str) else dumps(value)
    more = {key: value for key in _MORE_ARGUMENTS if (value := item.get(key))}
    return dumps(more) if more else ""


def outcome(item: Json) -> Outcome:
    status = item.get("status")
    if isinstance(status, str) and status in _FAILURES:
        return _FAILURES[status]
    return Outcome.FAILED if item.get("error") or item.get("is_error") is True else Outcome.OK


def maybe_output(item: Json) -> str | None:
    keys = _OUTPUTS_BY_KIND.get(item["type"], _OUTPUTS)
    return text_of(next((value for key in keys if (value := item.get(key))), None))
