"""What a client takes for something else, and is not shown: calls that it cannot run, and results.

A backend that runs tools itself may show their calls all the same, as ``delta.tool_calls`` (LiteLLM
with MCP). Open WebUI takes every such call for one of its own: it runs it ("Tool not found"), asks
the model again, and the backend runs its tools once more, up to 256 times. A client names the tools
it can run in its request, so a call of any other tool is the backend's. It has a card, so its
result need not be shown either: Open WebUI would append a ``role: "tool"`` delta to the answer.

``HostedCallFilter`` is only used together with ``rounds``, for dialects with ``merges_rounds``: it
takes bytes away. ``without_results`` is for clients that put a result's text into the answer
(LobeChat).
"""

import json
import operator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from msgspec.structs import replace

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.observers.json import loads

_Json = dict[str, Any]
# Calls that are remembered, and pieces of calls without a name that are kept until the name comes.
# No backend sends so many.
_MAX_KEPT: Final = 4096


def without_results(event: sse.Event) -> sse.Event | None:
    """An event without deltas of ``role: "tool"``; None where nothing else is in it."""
    if event.data is None or b'"tool"' not in event.data:
        return event
    try:
        chunk = orjson.loads(event.data)
    except orjson.JSONDecodeError:
        return event
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    if not isinstance(choices, list):
        return event
    results = [c for c in choices if isinstance(c, dict) and _is_result(c.get("delta"))]
    for choice in results:
        choice["delta"] = {}
    return _left(event, chunk, choices, too_deep=event) if results else event


def _is_result(delta: object) -> bool:
    return isinstance(delta, dict) and delta.get("role") == "tool"


def _left(
    event: sse.Event, chunk: _Json, choices: list[Any], *, too_deep: sse.Event | None
) -> sse.Event | None:
    """An event with what is left of its chunk; None if that says nothing.

    Args:
        too_deep: what to give where the encoder does not go as deep as the decoder.
    """
    if not chunk.get("usage") and not any(map(_says_something, choices)):
        return None
    try:
        data = json.dumps(chunk, separators=(",", ":")).encode()  # lone surrogates, too
    except RecursionError:
        return too_deep
    name = b"event: %b\n" % event.name if event.name else b""
    return replace(event, raw=name + b"data: " + data + b"\n\n", data=data)


@dataclass(slots=True)
class _Choice:
    """Where the calls of one choice stand, by index, until its finish."""

    is_shown: dict[object, bool] = field(default_factory=dict)
    nameless: dict[object, list[_Json]] = field(default_factory=dict)
    kept: int = 0  # pieces of nameless ones
    last_is_shown: bool | None = None  # the last named call


class HostedCallFilter:
    """The hosted calls of one stream.

    Args:
        runnable: names of the tools that the client can run.
    """

    def __init__(self, runnable: frozenset[str]) -> None:
        self._runnable = runnable
        self._choices: dict[int, _Choice] = {}
        self._size = 0  # of all choices: calls and pieces
        self._hidden = 0  # of all choices: calls that are hidden, or not yet named

    @property
    def is_active(self) -> bool:
        """Whether more of a hidden call may come."""
        return self._hidden > 0

    def strip(self, event: sse.Event) -> sse.Event | None:
        """An event without such calls; None where nothing else is in it."""
        if event.data is None or not (b"tool" in event.data or self._choices):
            return event
        try:
            chunk = loads(event.data)
        except ValueError:
            return event
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        if not isinstance(choices, list):
            return event
        stripped = [self._strip_choice(c) for c in choices if isinstance(c, dict)]
        return _left(event, chunk, choices, too_deep=None) if any(stripped) else event

    def _strip_choice(self, choice: _Json) -> bool:
        """Take out what is hidden; whether that was anything."""
        delta, index = choice.get("delta"), choice.get("index")
        index = index if type(index) is int else 0
        is_stripped = False
        if isinstance(delta, dict) and delta.get("role") == "tool":
            choice["delta"], is_stripped = {}, True
        elif isinstance(delta, dict):
            is_stripped = self._strip_calls(delta, index)
        if choice.get("finish_reason"):
            self._forget(index)
        return is_stripped

    def _strip_calls(self, delta: _Json, choice: int) -> bool:
        calls = delta.get("tool_calls")
        entries = [calls] if isinstance(calls, dict) else calls  # an object: TGI before 2025-03
        if not isinstance(entries, list):
            return False
        kept = [shown for entry in entries for shown in self._show(entry, choice)]
        if len(kept) == len(entries) and all(map(operator.is_, kept, entries)):
            return False
        if kept:
            delta["tool_calls"] = kept
        else:
            del delta["tool_calls"]
        return True

    def _show(self, entry: object, choice: int) -> list[Any]:
        """What of a call is shown now that this entry has come."""
        if not isinstance(entry, dict):
            return [entry]
        index = entry.get("index")
        place = index if isinstance(index, int | str) else None
        calls = self._calls(choice)
        kept: list[Any] = []
        if name := _name(entry):
            is_shown = name in self._runnable
            kept = calls.nameless.pop(place, [])
            self._hidden -= bool(kept)
        elif place in calls.is_shown:
            is_shown = calls.is_shown[place]
        elif place in calls.nameless or entry.get("id") or calls.last_is_shown is None:
            self._keep(calls, place, entry)
            return []
        else:  # SGLang with MiniMax: arguments at an index that never had a name
            is_shown = calls.last_is_shown
        calls.last_is_shown = is_shown
        self._remember(calls, place, is_shown=is_shown)
        return [*kept, entry] if is_shown else []

    def _calls(self, choice: int) -> _Choice:
        found = self._choices.get(choice)
        if found is None:
            found = _Choice()
            if self._size < _MAX_KEPT:
                self._choices[choice] = found
        return found

    def _keep(self, calls: _Choice, place: object, entry: _Json) -> None:
        if self._size < _MAX_KEPT:
            self._size += 1
            calls.kept += 1
            self._hidden += place not in calls.nameless
            calls.nameless.setdefault(place, []).append(entry)

    def _remember(self, calls: _Choice, place: object, *, is_shown: bool) -> None:
        was_shown = calls.is_shown.get(place)
        if was_shown is None:
            if self._size >= _MAX_KEPT:
                return
            self._size += 1
        self._hidden += (not is_shown) - (was_shown is False)
        calls.is_shown[place] = is_shown

    def _forget(self, choice: int) -> None:
        """The choice's finish: its places are free again. What has no name by now never had one."""
        if calls := self._choices.pop(choice, None):
            self._size -= len(calls.is_shown) + calls.kept
            self._hidden -= len(calls.nameless) + list(calls.is_shown.values()).count(False)


def _name(entry: _Json) -> str:
    body = entry.get("function") or entry.get("custom")
    name = body.get("name") if isinstance(body, dict) else None
    return name if isinstance(name, str) else ""


def _says_something(choice: object) -> bool:
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    return bool(choice.get("finish_reason")) or (
        isinstance(delta, dict) and any(v for k, v in delta.items() if k != "role")
    )
