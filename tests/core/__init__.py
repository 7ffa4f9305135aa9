"""What the tests of the core share: chunks to write, a way to play them, and an own SSE reader."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from lifecycle_proxy.core.apis import APIS, CHAT, Api
from lifecycle_proxy.core.context import PipelineOptions, StreamContext
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.dialects import Dialect, Encoder, stateless
from lifecycle_proxy.core.events import (
    Envelope,
    LifecycleEvent,
    ToolCompleted,
    ToolRunning,
)
from lifecycle_proxy.core.observers import Observer
from lifecycle_proxy.core.output import Step
from lifecycle_proxy.core.pipeline import Pipeline
from msgspec.structs import fields

Json = dict[str, Any]
DONE = b"data: [DONE]\n\n"
WHOLE = (1 << 30,)
BYTEWISE = (1,)


class Presenter:
    """Shows the raw arguments, so that a test sees what was known when an event was told."""

    def label(self, tool: str, arguments: str) -> str:
        return arguments or tool

    def shown(self, text: str) -> str:
        return text

    def emoji(self, tool: str) -> str:
        return "*"

    def arguments(self, text: str) -> str:
        return text


# --- writing chunks -----------------------------------------------------------------------------


def sse(payload: object, name: str = "", end: str = "\n\n") -> bytes:
    """One event, compact as most servers write it."""
    line = end[: len(end) // 2]
    head = f"event: {name}{line}" if name else ""
    data = payload if isinstance(payload, str) else json.dumps(payload, separators=(",", ":"))
    return f"{head}data: {data}{end}".encode("utf-8", "surrogatepass")


def chunk(
    delta: object = None, *, finish: str | None = None, choice: int = 0, **top: object
) -> bytes:
    """One chunk with one choice."""
    entry = {"index": choice, "delta": delta or {}, "finish_reason": finish}
    return sse({"id": "chatcmpl-1", "created": 7, "model": "m", "choices": [entry], **top})


def text(content: str = "hi", **more: Any) -> bytes:
    return chunk({"content": content}, **more)


def call(
    index: object = 0, call_id: object = None, name: object = None, arguments: object = ""
) -> Json:
    """One entry of ``tool_calls``; what is None is left out."""
    function = {"name": name, "arguments": arguments}
    entry = {"index": index, "id": call_id}
    return {
        **{k: v for k, v in entry.items() if v is not None},
        "function": {k: v for k, v in function.items() if v is not None},
    }


def calls(*entries: Json, **more: Any) -> bytes:
    return chunk({"tool_calls": list(entries)}, **more)


def finish(reason: str = "tool_calls", **more: Any) -> bytes:
    return chunk({}, finish=reason, **more)


def native(status: str = "running", call_id: object = "call_n", **fields: object) -> bytes:
    payload = {"tool": "terminal", "toolCallId": call_id, "status": status, **fields}
    return sse(payload, "hermes.tool.progress")


# --- playing them -------------------------------------------------------------------------------


@dataclass
class Frames:
    """A dialect that remembers what it wrote, each frame unmistakable."""

    written: list[bytes] = field(default_factory=list)

    def __call__(self, event: LifecycleEvent, envelope: Envelope) -> bytes:
        text = f"event: ours\ndata: {len(self.written)} {told(event)}\n\n"
        frame = text.encode("utf-8", "surrogatepass")
        self.written.append(frame)
        return frame


class Played(NamedTuple):
    data: bytes
    events: list[LifecycleEvent]
    counts: Counts
    frames: list[bytes]

    @property
    def told(self) -> list[str]:
        return [told(event) for event in self.events]


def as_dialect(given: Dialect | Encoder) -> Dialect:
    """A dialect that writes with a function of the test's own, in every API."""
    return given if isinstance(given, Dialect) else Dialect("test", *3 * (stateless(given),))


# An API by its name, or chat completions with an observer of the test's own.
GivenObserver = str | Callable[[Counts], Observer]


def api_of(observer: GivenObserver) -> Api:
    return APIS[observer] if isinstance(observer, str) else replace(CHAT, observer=observer)


def make(dialect: Dialect | Encoder, observer: GivenObserver = "chat", **options: Any) -> Pipeline:
    numbers = itertools.count(1)
    defaults: Json = {"presenter": Presenter(), "make_id": lambda: f"made_{next(numbers)}"}
    own = {f.name: options.pop(f.name) for f in fields(StreamContext) if f.name in options}
    envelope = Envelope("id", 1, "model")
    given = PipelineOptions(**defaults | options)
    return Pipeline(
        api_of(observer), as_dialect(dialect), envelope, given, context=StreamContext(**own)
    )


def segments(body: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """The body in pieces of these sizes, over and over."""
    at = 0
    for size in itertools.cycle(sizes):
        if at >= len(body):
            return
        yield body[at : at + size]
        at += size


def play(
    body: bytes | Iterable[bytes],
    sizes: Sequence[int] = WHOLE,
    *,
    dialect: Dialect | Encoder | None = None,
    abort: str | None = None,
    observer: GivenObserver = "chat",
    **options: Any,
) -> Played:
    """Feed it all, a second for each piece, and end it."""
    frames = Frames()
    pipeline = make(dialect or frames, observer, **options)
    pieces = list(segments(body, sizes)) if isinstance(body, bytes) else list(body)
    steps: list[Step] = [pipeline.feed(piece, now) for now, piece in enumerate(pieces)]
    now = float(len(pieces))
    steps.append(pipeline.eof(now) if abort is None else pipeline.abort(abort, now))
    events = [event for step in steps for event in step.events]
    return Played(b"".join(s.data for s in steps), events, pipeline.counts, frames.written)


def told(event: LifecycleEvent) -> str:
    """``running a f``, ``completed a f cut:length``, with ``/1`` behind the id in choice 1."""
    where = f"{event.id}/{event.choice}" if event.choice else event.id
    if isinstance(event, ToolRunning):
        return f"running {where} {event.tool}"
    reason = f":{event.reason}" if event.reason else ""
    return f"completed {where} {event.tool} {event.outcome.value}{reason}"


def pairs(played: Played) -> list[str]:
    """Which calls were told, and with which arguments, in the order of their completion."""
    return [f"{e.id} {e.tool} {e.label}" for e in played.events if isinstance(e, ToolCompleted)]


# --- judging ------------------------------------------------------------------------------------


def assert_paired(events: Iterable[LifecycleEvent], *, closed: bool = True) -> None:
    """Per choice and id: running, completed, running, completed, ..."""
    is_open: dict[tuple[int, str], bool] = {}
    for event in events:
        key = event.choice, event.id
        assert is_open.get(key, False) is isinstance(event, ToolCompleted), told(event)
        is_open[key] = isinstance(event, ToolRunning)
    assert not closed or not any(is_open.values())


def places(played: Played, body: bytes) -> list[int]:
    """How much of the input stands in front of each frame of ours.

    Fails unless the output is the input with nothing but the frames added, and in front of a frame
    at most the line ends that close an unclosed event.
    """
    pattern = b"|".join(re.escape(frame) for frame in played.frames) or rb"(?!)"
    paths: dict[int, list[int]] = {0: []}  # by the input that is used up
    *kept, last = re.split(pattern, played.data)
    for piece in kept:
        forms = [piece, *(piece.removesuffix(gap) for gap in (b"\n\n", b"\n", b"\r"))]
        paths = {
            at + len(form): [*path, at + len(form)]
            for at, path in paths.items()
            for form in reversed(forms)
            if body.startswith(form, at)
        }
    found = [path for at, path in paths.items() if body[at:] == last]
    assert found, "the input did not come through unchanged"
    assert len(kept) == len(played.frames)
    return found[0]


def whatwg(body: bytes) -> list[tuple[bytes, bytes]]:
    """Event name and data of all events, straight from the standard's text, a byte at a time."""
    lines, line, after_cr = [], bytearray(), False
    for byte in body.removeprefix(b"\xef\xbb\xbf"):
        if byte in b"\r\n":
            if not (byte == 0x0A and after_cr):
                lines.append(bytes(line))
                line.clear()
        else:
            line.append(byte)
        after_cr = byte == 0x0D
    return list(_dispatched(lines))


def _dispatched(lines: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    name, data = b"", b""
    for line in lines:
        if not line:
            if data:
                yield name, data[:-1]
            name, data = b"", b""
        elif not line.startswith(b":"):
            key, _, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            if key == b"event":
                name = value
            elif key == b"data":
                data += value + b"\n"
