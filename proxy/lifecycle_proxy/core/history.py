"""The history in a request: what this proxy drew is taken out of it.

A card that this proxy draws for a tool that ran behind it has an id with our ``PREFIX``. Open WebUI
sends such cards back in the next turn as an assistant's ``tool_calls`` with a ``role: "tool"``
message each. The backend never made those calls and must not see them. ``without_own_output`` takes
them out and joins what the cards had parted. Lines of the dialect ``quote`` go as well: see
``lines``.

Nothing is parsed and written again: the text is cut and spliced where something goes, so every
other byte stays as sent: blanks, number formats, escapes. Where a key is repeated the last one
counts, as in every common parser. What is not understood stays as it is, and so does what is too
complex: see ``complexity``. Nothing here raises.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from lifecycle_proxy.core.complexity import is_too_complex
from lifecycle_proxy.core.lines import may_hold_lines, without_lines

PREFIX: Final = "htp_"
_PREFIX: Final = PREFIX.encode()

# Numbers are only ignored. As floats they cannot fail; Python refuses very long integers.
_DECODER: Final = json.JSONDecoder(parse_int=float)
_BETWEEN: Final = re.compile(r"[ \t\n\r]*[,:]?[ \t\n\r]*")
# What a message may carry and still be joined to the one before it without a loss.
_JOINED: Final = frozenset(("role", "content", "tool_calls"))


def may_hold_own_output(body: bytes) -> bool:
    """Whether a request's body may hold what we drew."""
    return body.find(_PREFIX) >= 0 or may_hold_lines(body)  # "in" raises, and catches, an error


def without_own_output(body: bytes) -> bytes:
    """A request's body without lines and cards of the proxy; the same object where it holds none.

    A message of the assistant that has nothing left goes. One that lost all its calls is joined
    with the assistant's message behind it, where that loses nothing: the backend sent both as one
    answer, and strict chat templates (Mistral, Gemma) refuse two such messages in a row.
    """
    if may_hold_lines(body):
        body = without_lines(body)
    if _PREFIX not in body or is_too_complex(body):
        return body
    try:
        text = body.decode()
        asked = _DECODER.decode(text)
        messages = asked.get("messages") if isinstance(asked, dict) else None
        if isinstance(messages, list) and any(_has_card(m) or _is_result(m) for m in messages):
            return _without_cards(text).encode()
    except (ValueError, RecursionError):
        pass  # no UTF-8, no JSON, or nested beyond reason: the upstream's to judge
    return body


def _text(holder: object, key: str) -> str:
    value = holder.get(key) if isinstance(holder, dict) else None
    return value if isinstance(value, str) else ""


def _calls(message: Any) -> list[Any]:
    calls = message.get("tool_calls") if _text(message, "role") == "assistant" else None
    return calls if isinstance(calls, list) else []


def _answered(message: object) -> str:
    return _text(message, "tool_call_id") if _text(message, "role") == "tool" else ""


def _is_card(call: object) -> bool:
    return _text(call, "id").startswith(PREFIX)


def _has_card(message: object) -> bool:
    return any(map(_is_card, _calls(message)))


def _is_result(message: object) -> bool:
    return _answered(message).startswith(PREFIX)


class _Member(NamedTuple):
    """An element of an array, or a member of an object."""

    gap: str  # the comma before it, with the blanks around; "" for the first
    head: str  # the key as written, up to the value; "" in an array
    raw: str  # the value as written
    key: str
    value: Any


class _JsonSplice(NamedTuple):
    """An array or object, taken apart. ``opening`` and ``closing`` hold the blanks around."""

    opening: str
    parts: list[_Member]
    closing: str

    def written(self) -> str:
        pieces = [piece for part in self.parts for piece in (part.gap, part.head, part.raw)]
        # Whichever came to be the first has no comma before it.
        return self.opening + "".join(pieces[1:]) + self.closing

    def find(self, key: str) -> _Member:
        """The member that counts. Where there is none: one to be added, with nothing in it."""
        missing = _Member(", ", f'"{key}": ', "", key, None)
        return next((part for part in reversed(self.parts) if part.key == key), missing)

    def without(self, key: str) -> "_JsonSplice":
        return self._replace(parts=[part for part in self.parts if part.key != key])

    def put(self, key: str, raw: str) -> "_JsonSplice":
        old = self.find(key)
        new = old._replace(raw=raw)
        parts = [new if part is old else part for part in self.parts]
        return self._replace(parts=parts if old.raw else [*parts, new])


def _past(text: str, at: int) -> int:
    found = _BETWEEN.match(text, at)
    return found.end() if found else at


def _split(text: str) -> _JsonSplice:
    """Take an array or object apart, in text known to be JSON."""
    opens = _past(text, 0)
    end = at = _past(text, opens + 1)
    opening = text[:at]
    parts: list[_Member] = []
    while text[at] not in "]}":
        start, key, gap = at, "", text[end:at]
        if text[opens] == "{":
            key, at = _DECODER.raw_decode(text, at)
            at = _past(text, at)
        value, end = _DECODER.raw_decode(text, at)
        parts.append(_Member(gap, text[start:at], text[at:end], key, value))
        at = _past(text, end)
    return _JsonSplice(opening, parts, text[end:])


def _without_cards(text: str) -> str:
    body = _split(text)
    array = _split(body.find("messages").raw)
    array = array._replace(parts=[answer.joined() for answer in _answers(array.parts)])
    return body.put("messages", array.written()).written()


@dataclass(slots=True)
class _Answer:
    """A message that stays, with those behind it that were one answer with it.

    They are joined when it is whole: one by one would cost quadratic time.
    """

    messages: list[_Member] = field(default_factory=list)
    kind: type | None = None  # of the contents that are not empty
    is_open: bool = False  # the last message lost a card

    def takes(self, message: _Member) -> bool:
        """Whether a message behind it belongs to it, and can be joined without a loss."""
        if not self.is_open or _text(message.value, "role") != "assistant":
            return False
        last = self.messages[-1].value
        if last.get("tool_calls") or last.get("function_call"):
            return False  # the text would come to stand before the calls
        if any(value for key, value in message.value.items() if key not in _JOINED):
            return False
        kinds = {self.kind, _kind(message)}
        return kinds <= {str, None} or kinds <= {list, None}

    def add(self, message: _Member, *, is_open: bool) -> None:
        self.messages.append(message)
        self.kind = self.kind or _kind(message)
        self.is_open = is_open

    def joined(self) -> _Member:
        if len(self.messages) == 1:
            return self.messages[0]
        every = [_split(message.raw) for message in self.messages]
        whole = every[0]
        raws = [found.raw for parts in every if (found := parts.find("content")).value]
        if raws:
            between = "" if raws[0][0] == '"' else ","
            inner = between.join(raw[1:-1] for raw in raws)
            whole = whole.put("content", raws[0][0] + inner + raws[0][-1])
        calls = every[-1].find("tool_calls")
        if calls.value:
            whole = whole.put("tool_calls", calls.raw)
        return self.messages[0]._replace(raw=whole.written())


def _kind(message: _Member) -> type | None:
    content = message.value.get("content") if isinstance(message.value, dict) else None
    return type(content) if content else None


def _answers(messages: list[_Member]) -> list[_Answer]:
    answers: list[_Answer] = []
    for message in messages:
        if _is_result(message.value):
            continue
        is_cut = _has_card(message.value)
        left = _trimmed(message) if is_cut else message
        if left is None:
            continue
        if not (answers and answers[-1].takes(left)):
            answers.append(_Answer())
        answers[-1].add(left, is_open=is_cut)
    return answers


def _trimmed(message: _Member) -> _Member | None:
    """A message without its cards; None where nothing is left of it."""
    parts = _split(message.raw)
    array = _split(parts.find("tool_calls").raw)
    kept = [call for call in array.parts if not _is_card(call.value)]
    value = {**message.value, "tool_calls": [call.value for call in kept]}
    # Any key but these might be one that matters, as `reasoning_content` does.
    if not any(each for key, each in value.items() if key not in ("role", "name")):
        return None
    calls = array._replace(parts=kept).written()
    parts = parts.put("tool_calls", calls) if kept else parts.without("tool_calls")
    return message._replace(raw=parts.written(), value=value)
