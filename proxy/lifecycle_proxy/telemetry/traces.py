"""Spans of OpenTelemetry: ``chat {model}`` for an exchange, ``execute_tool {tool}`` for a call.

Imported only where traces are on. A chunk costs nothing: a span is made of what an exchange knows
at its end, as a tuple (``spans``). All else is done in a thread (``span_export``).

A tool that the client runs has its call in one exchange and its end in the next. Its span begins
with the call, is a child of the chat that asked for it, and has links to both.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.sdk.trace.sampling import Sampler

from lifecycle_proxy.core.apis import APIS
from lifecycle_proxy.core.events import LifecycleEvent, ToolCompleted, ToolRunning
from lifecycle_proxy.exchange.failover import Failover
from lifecycle_proxy.exchange.model import Exchange, Listener
from lifecycle_proxy.telemetry import trace_names as names
from lifecycle_proxy.telemetry.delegated import CallKey, DelegatedSpans, OpenSpan
from lifecycle_proxy.telemetry.exchange_facts import chat_kind, cut, tokens_of
from lifecycle_proxy.telemetry.spans import (
    ChatSpan,
    FinishedSpan,
    SpanEvent,
    SpanLink,
    ToolKind,
    ToolSpan,
)
from lifecycle_proxy.telemetry.trace_context import TraceContext

_CONTENT: Final = 8192
_MAX_EVENTS: Final = 128  # of one span, as the SDK has it
_MS: Final = 1_000_000  # nanoseconds


@dataclass(slots=True)
class _Chat:
    name: SpanLink
    parent: str
    start_ns: int
    calls: dict[CallKey, OpenSpan] = field(default_factory=dict)
    ended: int = 0  # calls
    events: list[SpanEvent] = field(default_factory=list)


class Traces(Listener):
    """Makes the spans of this process.

    Args:
        put: takes each span that has ended.
        sampler: decides which traces are recorded.
    """

    def __init__(self, put: Callable[[FinishedSpan], None], sampler: Sampler) -> None:
        self._put = put
        self._context = TraceContext(sampler)
        self._captures = os.environ.get(names.CAPTURE, "").strip().lower() in names.CAPTURING
        self._chats: dict[str, _Chat] = {}
        self._delegated = DelegatedSpans()

    def on_request(self, exchange: Exchange) -> None:
        """Begin the span of a chat: below the client's, if it sent one."""
        if exchange.route in APIS:
            exchange.reads_usage = True
            begun = self._context.begin(exchange.traceparent)
            exchange.traceparent = begun.traceparent
            if begun.is_sampled:
                self._chats[exchange.token] = _Chat(begun.name, begun.parent, time.time_ns())

    def on_failover(self, exchange: Exchange, failover: Failover) -> None:
        """Note that the next target is asked."""
        self._note(exchange, "failover", failover._asdict())

    def on_approval(self, exchange: Exchange, fields: Mapping[str, Any]) -> None:
        """Note that a person is asked. Not where the answer is given: the address is a secret."""
        noted = {names.TOOL_NAME: fields.get("tool", "")}
        self._note(exchange, "approval", noted)

    def on_lifecycle(self, exchange: Exchange, events: Sequence[LifecycleEvent]) -> None:
        """Begin and end spans of tools."""
        chat, now_ns = self._chats.get(exchange.token), time.time_ns()
        if chat is None:
            return
        for event in events:
            if isinstance(event, ToolRunning):
                arguments = event.arguments[:_CONTENT] if self._captures else ""
                chat.calls[_key(event)] = OpenSpan(now_ns, arguments)
            else:
                self._call_ended(chat, event, now_ns)

    def on_end(self, exchange: Exchange) -> None:
        """End the span of a chat. Calls that are open now run in the client."""
        chat = self._chats.pop(exchange.token, None)
        if chat is None:
            return
        if exchange.ended == "refused" and not exchange.error.startswith("upstream_"):
            return  # nobody was asked anything
        now_ns = time.time_ns()
        for event in exchange.tools[chat.ended :]:  # whose ends no stream shows
            self._call_ended(chat, event, now_ns)
        for key, call in chat.calls.items():
            self._delegated.put(key, call, chat.name)
        for number in range(1, min(exchange.retries, _MAX_EVENTS) + 1):
            chat.events.append(SpanEvent("retry", now_ns, {"attempt": number}))
        answer, first_byte = exchange.answer, exchange.first_byte
        self._put(
            ChatSpan(
                chat.name,
                chat.parent,
                chat.start_ns,
                max(now_ns, chat.start_ns),
                chat_kind(exchange),
                exchange.request_id,
                cut(answer.id) if answer is not None else "",
                None if first_byte is None else first_byte - exchange.started,
                tokens_of(exchange.counts.usage),
                cut(exchange.cause),
                tuple(chat.events),
            )
        )

    def _note(self, exchange: Exchange, what: str, fields: Mapping[str, Any]) -> None:
        chat = self._chats.get(exchange.token)
        if chat is not None and len(chat.events) < _MAX_EVENTS:
            texts = {name: cut(str(value)) for name, value in fields.items()}
            chat.events.append(SpanEvent(what, time.time_ns(), texts))

    def _call_ended(self, chat: _Chat, event: ToolCompleted, now_ns: int) -> None:
        chat.ended += 1
        key = _key(event)
        call = chat.calls.pop(key, None)
        parent, linked = chat.name, tuple[SpanLink, ...]()
        if call is None:  # it was over when this request came, however late that is seen
            now_ns = chat.start_ns
            started_ns = now_ns - event.duration_ms * _MS
            found = self._delegated.maybe_take(key, started_ns)
            if found is None:
                call, linked = OpenSpan(started_ns, ""), (chat.name,)
            else:
                call, parent = found
                linked = (parent, chat.name)
        failure = cut(event.reason or event.outcome.value) if event.outcome.is_error else ""
        result = event.output[:_CONTENT] if self._captures and event.output is not None else None
        self._put(
            ToolSpan(
                parent,
                linked,
                call.started_ns,
                max(now_ns, call.started_ns),
                ToolKind(cut(event.tool), event.outcome.value, event.hosted, failure),
                cut(event.id),
                call.arguments,
                result,
            )
        )


def _key(event: LifecycleEvent) -> CallKey:
    return event.id, event.choice, event.repeat
