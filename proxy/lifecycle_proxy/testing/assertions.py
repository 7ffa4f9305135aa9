"""For tests: the lifecycle events of a response, and an assertion that they come in pairs.

See ``docs/testing.md``. The frames are read by a small parser of this module, as a client would
read them, and not by the parser that is to be tested.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from lifecycle_proxy.recording.cassette import RecordedExchange, Side
from lifecycle_proxy.replay.near_miss import Miss

Event = dict[str, Any]

FIELDS: Final = (
    *("tool", "emoji", "label", "toolCallId", "status", "durationMs"),
    *("isError", "reason", "result", "choice"),
)
_LINE_END: Final = re.compile(r"\r\n|\n|\r")
_COMMENT: Final = ": hermes.tool.progress "
_STATUSES: Final = ("running", "completed")


@dataclass(frozen=True, slots=True)
class Served:
    """A server in this process.

    Attributes:
        url: its origin, such as ``http://127.0.0.1:41799``.
        misses: the requests so far for which there was no recording.
    """

    url: str
    misses: list[Miss]

    @property
    def base_url(self) -> str:
        """The ``base_url`` for an OpenAI SDK."""
        return f"{self.url}/v1"


@dataclass(frozen=True, slots=True)
class LifecycleProxy(Served):
    """The value of the fixture ``lifecycle_proxy``.

    Attributes:
        cassette: the cassette of this test. It may not exist yet while it is recorded.
        mode: ``none`` (only replay), ``record`` or ``new_episodes``. Never ``once``.
        exchanges: returns those of the cassette, in the order in which they began. While it is
            recorded, those so far, after a wait of 0.1 s, or of up to 2 s if a response has not
            ended.
    """

    cassette: Path
    mode: str
    exchanges: Callable[[], list[RecordedExchange]] = field(repr=False)


class Pair(NamedTuple):
    """The two events of a call."""

    running: Event
    completed: Event


def lifecycle_events(answer: Any) -> list[Event]:
    """The lifecycle fields of each event in a response, in order.

    Args:
        answer: the body of a stream as bytes or text, or a list of its pieces as bytes; chunks of
            an OpenAI SDK, or dicts; a response with ``content`` (httpx, requests), read or not; an
            exchange of a cassette (the response that its client got), or one side of it.

    Raises:
        TypeError: it is none of these, or can only be read with ``await``.
    """
    body = _body(answer)
    payloads = _chunks(answer) if body is None else _payloads(body)
    return [
        {name: payload[name] for name in FIELDS if name in payload}
        for payload in payloads
        if payload.get("toolCallId") is not None and "status" in payload
    ]


def assert_paired(events: Any, *, at_least: int = 1) -> list[Pair]:
    """Check that each call has one running event, followed by one completed event.

    An id may be used again after its call is completed.

    Args:
        events: the result of ``lifecycle_events``, or anything that it takes. Events of several
            responses can be joined: a call may be completed in a later one.
        at_least: how many pairs there must be, so that a response without any does not pass.

    Returns:
        The pairs, in the order in which the calls began.

    Raises:
        AssertionError: they are not paired. The text says why and lists all events.
    """
    found = lifecycle_events(events)
    pairs: dict[int, Pair] = {}
    faults: list[str] = []
    open_calls: dict[tuple[int, str], int] = {}
    for number, event in enumerate(found):
        key = (event.get("choice", 0), event["toolCallId"])
        fault = _fault(event["status"], is_open=key in open_calls)
        if fault:
            faults.append(f"#{number + 1} {_name(event)}: {fault}")
        elif event["status"] == "running":
            open_calls[key] = number
        else:
            start = open_calls.pop(key)
            pairs[start] = Pair(found[start], event)
    faults += [f"#{n + 1} {_name(found[n])}: never completed" for n in open_calls.values()]
    if not faults and len(pairs) < at_least:
        faults.append(f"{len(pairs)} calls, where at least {at_least} should be (at_least)")
    if faults:
        raise AssertionError(_report(faults, found))
    return [pairs[start] for start in sorted(pairs)]


def _fault(status: str, *, is_open: bool) -> str:
    if status not in _STATUSES:
        return f"unknown status {status!r}"
    if status == "running":
        return "running again before it was completed" if is_open else ""
    return "" if is_open else "completed, but not running"


def _name(event: Event) -> str:
    choice = f" of choice {event['choice']}" if event.get("choice") else ""
    return f"{event['toolCallId']} ({event.get('tool', '?')}){choice}"


def _report(faults: Sequence[str], found: Sequence[Event]) -> str:
    lines = ["tool calls are not paired:", *(f"  {fault}" for fault in faults), "events:"]
    lines += [f"  #{n} {event['status']:<9} {_name(event)}" for n, event in enumerate(found, 1)]
    return "\n".join(lines if found else [*lines, "  (none)"])


# --- forms of responses -------------------------------------------------------------------------


def _body(answer: Any) -> str | None:
    """The text of a stream; None if there are chunks instead."""
    if isinstance(answer, RecordedExchange):
        answer = answer.client
    if isinstance(answer, Side):
        answer = answer.body
    elif not isinstance(answer, Iterable) or hasattr(answer, "status_code"):
        answer = _read(answer)
    if isinstance(answer, bytes | bytearray | memoryview):
        answer = bytes(answer).decode("utf-8", "replace")
    return answer if isinstance(answer, str) else None


def _read(answer: Any) -> bytes:
    if hasattr(answer, "__aiter__"):
        raise TypeError("this must be awaited: pass [chunk async for chunk in stream]")
    if not hasattr(answer, "status_code"):
        hint = ": pass await response.read()" if hasattr(answer, "status") else ""
        raise TypeError(f"{type(answer).__name__} holds no events{hint}")
    if callable(read := getattr(answer, "read", None)):
        read()  # httpx has no content before this; RuntimeError if it needs aread()
    return bytes(answer.content)


def _chunks(answer: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    """Chunks as mappings; pieces of a body are joined."""
    if isinstance(answer, Mapping):
        answer = [answer]
    items = list(answer)
    if items and all(isinstance(item, bytes) for item in items):
        yield from _payloads(b"".join(items).decode("utf-8", "replace"))
        return
    for item in items:
        if isinstance(item, str | bytes):
            raise TypeError("lines or pieces of text: pass the whole body")
        yield item if isinstance(item, Mapping) else _fields(item)


def _fields(item: Any) -> Mapping[str, Any]:
    """The fields of an SDK's chunk: pydantic has unknown ones in ``model_extra``."""
    extra = getattr(item, "model_extra", None)
    return extra if isinstance(extra, Mapping) else getattr(item, "__dict__", {})


def _payloads(text: str) -> Iterator[Event]:
    """The JSON objects of an event stream, and those in comments that hold an event."""
    data: list[str] = []
    for line in _LINE_END.split(text):
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line.startswith(_COMMENT):
            yield from _objects(line.removeprefix(_COMMENT))
        elif not line:
            yield from _objects("\n".join(data))
            data.clear()


def _objects(text: str) -> Iterator[Event]:
    try:
        payload = json.loads(text)
    except ValueError:
        return
    if isinstance(payload, dict):
        yield payload
