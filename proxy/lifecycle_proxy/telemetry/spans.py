"""A span as it waits for its thread: what is cheap to note, and in the end a few hundred bytes.

OpenTelemetry's SDK makes objects with checks and locks for each span, on the event loop, and its
exporter encodes each value anew: together a third of what a short stream costs. Here a span is a
tuple. What many have in common is one part of it, which is encoded once (``span_encoding``).
"""

from collections.abc import Mapping
from typing import NamedTuple


class SpanLink(NamedTuple):
    """The name of a span.

    Attributes:
        trace: 32 hexadecimal digits.
        span: 16.
    """

    trace: str
    span: str


class SpanEvent(NamedTuple):
    """Something that happened during a span.

    Attributes:
        name: what.
        at_ns: when, as Unix time.
        fields: about it.
    """

    name: str
    at_ns: int
    fields: Mapping[str, str | int]


class ChatKind(NamedTuple):
    """What many chats have in common; texts have a limit.

    Attributes:
        failure: ``error.type``; "" for success.
        finish: why the answer ended, in the upstream's word.
    """

    route: str
    upstream: str
    model: str
    answered_by: str
    is_stream: bool
    status: int
    ended: str
    dialect: str
    failure: str
    finish: str


class Tokens(NamedTuple):
    """How many an answer cost; None where the upstream did not say."""

    input: int | None = None
    output: int | None = None
    cached: int | None = None


class ChatSpan(NamedTuple):
    """One exchange.

    Attributes:
        parent: of the client; "" without one.
        first_chunk_s: after the request; None if none came.
        cause: how the upstream failed, in words.
    """

    name: SpanLink
    parent: str
    start_ns: int
    end_ns: int
    kind: ChatKind
    request_id: str
    response_id: str
    first_chunk_s: float | None
    tokens: Tokens
    cause: str
    events: tuple[SpanEvent, ...]


class ToolKind(NamedTuple):
    """What many calls have in common; texts have a limit.

    Attributes:
        failure: ``error.type``; "" for success.
    """

    tool: str
    outcome: str
    hosted: bool
    failure: str


class ToolSpan(NamedTuple):
    """One call of a tool, below the chat ``parent``.

    Attributes:
        linked: chats to which it belongs, too.
        arguments: JSON; "" if they are not to be sent.
        result: None if it is not to be sent.
    """

    parent: SpanLink
    linked: tuple[SpanLink, ...]
    start_ns: int
    end_ns: int
    kind: ToolKind
    call_id: str
    arguments: str
    result: str | None


FinishedSpan = ChatSpan | ToolSpan
