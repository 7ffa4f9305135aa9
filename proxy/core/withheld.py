"""What a client takes for something else, and is not shown: calls that it cannot run, and results.

A backend that runs tools itself may show their calls all the same, as ``delta.tool_calls`` (LiteLLM
with MCP). Open WebUI takes every such call for one of its own: it runs it ("Tool not found"), asks
the model again, and the backend runs its tools once more, up to 256 times. A client names the tools
it can run in its request, so a call of any other tool is the backend's.

``Withheld`` is only used together with ``rounds``, and as that only on request: it takes bytes
away. ``without_results`` is for clients that put a result's text into the answer (LobeChat).
"""

from typing import Any

import orjson

from proxy.core import sse

_Json = dict[str, Any]


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
    return _left(event, chunk, choices) if results else event


def _is_result(delta: object) -> bool:
    return isinstance(delta, dict) and delta.get("role") == "tool"


def _left(event: sse.Event, chunk: _Json, choices: list[Any]) -> sse.Event | None:
    """An event with what is left of its chunk; None if that says nothing."""
    if not chunk.get("usage") and not any(map(_says_something, choices)):
        return None
    try:
        data = orjson.dumps(chunk)
    except orjson.JSONEncodeError:
        return event  # the encoder does not go as deep as the decoder
    return event._replace(raw=b"data: " + data + b"\n\n", data=data)


class Withheld:
    """The withheld calls of one stream.

    Args:
        runnable: names of the tools that the client can run.
    """

    def __init__(self, runnable: frozenset[str]) -> None:
        self._runnable = runnable
        self._slots: set[tuple[int, object]] = set()  # choice and index, until the choice's finish

    @property
    def is_active(self) -> bool:
        """Whether more of a withheld call may come."""
        return bool(self._slots)

    def strip(self, event: sse.Event) -> sse.Event | None:
        """An event without such calls; None where nothing else is in it."""
        if event.data is None or (b"tool_calls" not in event.data and not self._slots):
            return event
        try:
            chunk = orjson.loads(event.data)
        except orjson.JSONDecodeError:
            return event
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        if not isinstance(choices, list):
            return event
        stripped = [self._strip_choice(c) for c in choices if isinstance(c, dict)]
        return _left(event, chunk, choices) if any(stripped) else event

    def _strip_choice(self, choice: _Json) -> bool:
        delta, index = choice.get("delta"), choice.get("index", 0)
        entries = delta.get("tool_calls") if isinstance(delta, dict) else None
        kept: list[Any] = []
        if isinstance(delta, dict) and isinstance(entries, list):
            kept = [entry for entry in entries if not self._is_withheld(entry, index)]
            if not kept:
                del delta["tool_calls"]
            elif len(kept) < len(entries):
                delta["tool_calls"] = kept
        if choice.get("finish_reason"):
            self._slots = {slot for slot in self._slots if slot[0] != index}
        return isinstance(entries, list) and len(kept) < len(entries)

    def _is_withheld(self, entry: object, choice: int) -> bool:
        if not isinstance(entry, dict):
            return False
        slot = (choice, repr(entry.get("index")))
        body = entry.get("function") or entry.get("custom")
        name = body.get("name") if isinstance(body, dict) else None
        if name and name not in self._runnable:
            self._slots.add(slot)
        elif name:
            self._slots.discard(slot)
        return slot in self._slots


def _says_something(choice: object) -> bool:
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    return bool(choice.get("finish_reason")) or (
        isinstance(delta, dict) and any(v for k, v in delta.items() if k != "role")
    )
