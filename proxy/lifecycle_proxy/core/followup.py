"""What a request says of calls that clients run: their results, or that none will come.

Every request repeats its whole conversation, and only its end is new: the calls that the model made
last, and what follows them. What lies before is no evidence. Clients compact it, and the ids of
some backends begin anew with every turn.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from lifecycle_proxy.core.arguments import canonical

_MAX_EARLIER: Final = 16


@dataclass(frozen=True, slots=True)
class TrailingCall:
    """A call at the end of a conversation.

    Attributes:
        id: the call's, as the client has it.
        content: a ``fingerprint``; "" where only the result is left of the call.
        result: a hash of its result; "" where none follows.
        failed: whether the result says so itself.
    """

    id: str
    content: str = ""
    result: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class EarlierCalls:
    """What a conversation held of an id, or of a content, when a call was announced.

    Attributes:
        count: how many calls.
        last: the latest of them.
    """

    count: int = 0
    last: frozenset[TrailingCall] = frozenset()

    @classmethod
    def of(cls, seen: Sequence[TrailingCall]) -> "EarlierCalls":
        return cls(len(seen), frozenset(seen[-_MAX_EARLIER:]))

    def is_news(self, seen: Sequence[TrailingCall]) -> bool:
        """Whether a later request holds one more. The same request may come twice."""
        return len(seen) > self.count or seen[-1] not in self.last


NO_CALLS: Final = EarlierCalls()


def fingerprint(name: str, arguments: str) -> str:
    """The same for calls of one tool with the same arguments, however those are written.

    Args:
        name: of the tool.
        arguments: JSON, in any form.
    """
    return _hash(f"{name}\0{canonical(arguments)}")


def last_calls(messages: object) -> list[TrailingCall]:
    """The calls behind which the model has said nothing more, oldest first.

    Args:
        messages: decoded, of any shape: of a chat completion's request.
    """
    rounds = _last_rounds(messages if isinstance(messages, list) else [])
    results: dict[str, list[Any]] = {}
    seen: list[TrailingCall] = []
    for message in rounds:  # the latest first
        if _text(message, "role") == "tool":
            results.setdefault(_text(message, "tool_call_id"), []).append(message)
            continue
        for call in reversed(_calls(message)):
            call_id = _text(call, "id")
            # The first result of a call counts, and each belongs to the call before it.
            found = results.pop(call_id, None)
            if call_id:
                seen.append(_trailing_call(call_id, found[-1] if found else None, call))
    orphans = [(call_id, found) for call_id, found in results.items() if call_id]
    seen += [_trailing_call(call_id, found[-1]) for call_id, found in orphans]
    return seen[::-1]


def _last_rounds(messages: list[Any]) -> Iterator[Any]:
    """Calls and results from the end backwards, as far as they belong to the last turn."""
    has_begun = False
    for message in reversed(messages):
        role = _text(message, "role")
        if role == "tool":
            yield message
        elif role == "assistant" and _calls(message):
            has_begun = True
            yield message
        elif role == "assistant" or has_begun:
            return


def _trailing_call(call_id: str, result: Any, call: Any = None) -> TrailingCall:
    function = call.get("function") if isinstance(call, dict) else None
    content = fingerprint(_text(function, "name"), _text(function, "arguments")) if call else ""
    if result is None:
        return TrailingCall(call_id, content)
    return TrailingCall(
        call_id, content, _hash(_written(result.get("content"))), _is_failure(result)
    )


def _written(content: object) -> str:
    if isinstance(content, str):
        return content
    try:
        return orjson.dumps(content).decode()
    except orjson.JSONEncodeError:
        return ""  # nested beyond reason


def _is_failure(message: Any) -> bool:
    """Chat completions have no word for it; those of Anthropic, MCP and LangChain are known."""
    return message.get("status") == "error" or True in map(message.get, ("is_error", "isError"))


def _calls(message: Any) -> list[Any]:
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    return calls if isinstance(calls, list) else []


def _text(holder: object, key: str) -> str:
    value = holder.get(key) if isinstance(holder, dict) else None
    return value if isinstance(value, str) else ""


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
