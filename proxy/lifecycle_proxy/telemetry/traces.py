"""Spans of OpenTelemetry: ``chat {model}`` for an exchange, ``execute_tool {tool}`` for a call.

Imported only where traces are on. A chunk costs nothing: a span is made of what an exchange knows
at its end. Nothing here waits; sending is done in a thread (``span_export``).

A tool that the client runs has its call in one exchange and its end in the next. Its span begins
with the call, is a child of the chat that asked for it, and has links to both. Which call it was is
known by its id and its start, so that equal ids of two users do not meet.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from lifecycle_proxy.core.apis import APIS
from lifecycle_proxy.core.events import LifecycleEvent, ToolCompleted, ToolRunning
from lifecycle_proxy.exchange.failover import Failover
from lifecycle_proxy.exchange.model import Exchange, Listener
from lifecycle_proxy.telemetry import trace_names as names
from lifecycle_proxy.telemetry.span_export import start_provider, stop_provider

_HEADER: Final = "traceparent"
_TEXT: Final = 200
_CONTENT: Final = 8192
_MAX_TOKENS: Final = (1 << 53) - 1
_MAX_DELEGATED: Final = 4096
_NEAR_NS: Final = 2_000_000_000  # how far a start may seem to be from where it was
_MS: Final = 1_000_000  # nanoseconds


_Key = tuple[str, int, int]  # id, choice, and how often the id was there before


@dataclass(slots=True)
class _Call:
    announced: ToolRunning | None
    started_ns: int


@dataclass(slots=True)
class _Chat:
    span: Span
    calls: dict[_Key, _Call] = field(default_factory=dict)


class Traces(Listener):
    """Makes the spans of this process.

    Args:
        upstreams: their URLs by their names, the usual one first.
        lost: is called with how many spans could not be sent, from a thread.
        provider: makes and sends spans; None for one by the variables ``OTEL_…``.
    """

    def __init__(
        self,
        upstreams: Mapping[str, str],
        lost: Callable[[int], None] = lambda number: None,
        provider: TracerProvider | None = None,
    ) -> None:
        self._provider = start_provider(lost) if provider is None else provider
        self._tracer: Tracer = self._provider.get_tracer(
            "lifecycle_proxy", schema_url=names.SCHEMA_URL
        )
        self._servers = {name: _server(url) for name, url in upstreams.items()}
        self._usual = next(iter(self._servers.values()))
        self._captures = os.environ.get(names.CAPTURE, "").strip().lower() in names.CAPTURING
        self._propagator = TraceContextTextMapPropagator()
        self._chats: dict[str, _Chat] = {}
        self._delegated = _Delegated()

    async def close(self) -> None:
        """Send what is left."""
        await stop_provider(self._provider)

    def on_request(self, exchange: Exchange) -> None:
        """Begin the span of a chat: below the client's, if it sent one."""
        if exchange.route not in APIS:
            return
        parent = self._propagator.extract({_HEADER: exchange.traceparent})
        attributes: dict[str, Any] = {
            names.OPERATION: names.CHAT,
            names.PROVIDER: names.PROVIDERS.get(exchange.route, names.DEFAULT_PROVIDER),
        }
        span = self._tracer.start_span(
            names.CHAT, context=parent, kind=SpanKind.CLIENT, attributes=attributes
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        exchange.traceparent = carrier.get(_HEADER, exchange.traceparent)
        self._chats[exchange.token] = _Chat(span)

    def on_failover(self, exchange: Exchange, failover: Failover) -> None:
        """Note that the next target is asked."""
        if (chat := self._chats.get(exchange.token)) is not None:
            fields = {name: _text(value) for name, value in failover._asdict().items()}
            chat.span.add_event("failover", fields)

    def on_lifecycle(self, exchange: Exchange, events: Sequence[LifecycleEvent]) -> None:
        """Begin and end spans of tools."""
        chat, now_ns = self._chats.get(exchange.token), time.time_ns()
        if chat is None:
            return
        for event in events:
            key = _key(event)
            if isinstance(event, ToolRunning):
                chat.calls[key] = _Call(event, now_ns)
            elif (call := chat.calls.pop(key, None)) is not None:
                self._tool(event, call, now_ns, chat.span)
            else:
                self._delegated_ended(chat, event, now_ns)

    def on_end(self, exchange: Exchange) -> None:
        """End the span of a chat. Calls that are open now run in the client."""
        chat = self._chats.pop(exchange.token, None)
        if chat is None:
            return
        if exchange.ended == "refused" and not exchange.error.startswith("upstream_"):
            return  # nobody was asked anything: a span that is not ended is not sent
        for key, call in chat.calls.items():
            self._delegated.put(key, call, chat.span.get_span_context())
        span, model = chat.span, _text(exchange.model)
        span.update_name(f"{names.CHAT} {model}".strip())
        server = self._servers.get(exchange.upstream, self._usual)
        span.set_attributes(server | _attributes(exchange, model))
        for number in range(1, exchange.retries + 1):
            span.add_event("retry", {"attempt": number})
        if failure := _failure(exchange):
            span.set_attribute(names.ERROR_TYPE, failure)
            span.set_status(Status(StatusCode.ERROR, _text(exchange.cause)))
        span.end()

    def _delegated_ended(self, chat: _Chat, event: ToolCompleted, now_ns: int) -> None:
        started_ns = now_ns - event.duration_ms * _MS
        found, here = (
            self._delegated.maybe_take(_key(event), started_ns),
            chat.span.get_span_context(),
        )
        if found is None:
            self._tool(event, _Call(None, started_ns), now_ns, chat.span, (here,))
        else:
            call, asked_by = found
            self._tool(event, call, now_ns, NonRecordingSpan(asked_by), (asked_by, here))

    def _tool(
        self,
        ended: ToolCompleted,
        call: _Call,
        now_ns: int,
        parent: Span,
        linked: Sequence[SpanContext] = (),
    ) -> None:
        tool, announced = _text(ended.tool), call.announced
        attributes: dict[str, Any] = {
            names.OPERATION: names.EXECUTE_TOOL,
            names.TOOL_NAME: tool,
            names.TOOL_TYPE: "function",
            names.CALL_ID: _text(ended.id),
            names.OUTCOME: ended.outcome.value,
            names.HOSTED: ended.hosted,
        }
        if self._captures:
            if announced is not None and announced.arguments:
                attributes[names.CALL_ARGUMENTS] = _text(announced.arguments, _CONTENT)
            if ended.output is not None:
                attributes[names.CALL_RESULT] = _text(ended.output, _CONTENT)
        if ended.outcome.is_error:
            attributes[names.ERROR_TYPE] = _text(ended.reason or ended.outcome.value)
        span = self._tracer.start_span(
            f"{names.EXECUTE_TOOL} {tool}",
            context=set_span_in_context(parent),
            kind=SpanKind.INTERNAL,
            attributes=attributes,
            links=[Link(context) for context in linked],
            start_time=call.started_ns,
        )
        if ended.outcome.is_error:
            span.set_status(Status(StatusCode.ERROR, _text(ended.reason or "")))
        span.end(max(now_ns, call.started_ns))


class _Delegated:
    """Calls that clients run now, the oldest first."""

    def __init__(self) -> None:
        self._calls: OrderedDict[int, tuple[_Key, _Call, SpanContext]] = OrderedDict()
        self._numbers: dict[_Key, list[int]] = {}
        self._last = 0

    def put(self, key: _Key, call: _Call, asked_by: SpanContext) -> None:
        while len(self._calls) >= _MAX_DELEGATED:
            self._remove(next(iter(self._calls)))
        self._last += 1
        self._calls[self._last] = key, call, asked_by
        self._numbers.setdefault(key, []).append(self._last)

    def maybe_take(self, key: _Key, started_ns: int) -> tuple[_Call, SpanContext] | None:
        """The call of this id that began at this time."""
        numbers = self._numbers.get(key, ())
        distances = [(abs(self._calls[one][1].started_ns - started_ns), one) for one in numbers]
        distance, nearest = min(distances, default=(_NEAR_NS, 0))
        return self._remove(nearest) if distance < _NEAR_NS else None

    def _remove(self, number: int) -> tuple[_Call, SpanContext]:
        key, call, asked_by = self._calls.pop(number)
        numbers = self._numbers[key]
        numbers.remove(number)
        if not numbers:
            del self._numbers[key]
        return call, asked_by


def _server(url: str) -> dict[str, Any]:
    if url.startswith("unix:"):
        return {names.SERVER_ADDRESS: url[5:].partition(":")[0]}
    parts = urlsplit(url)
    port = parts.port or {"https": 443}.get(parts.scheme, 80)
    return {names.SERVER_ADDRESS: parts.hostname or "", names.SERVER_PORT: port}


def _key(event: LifecycleEvent) -> _Key:
    return event.id, event.choice, event.repeat


def _attributes(exchange: Exchange, model: str) -> dict[str, Any]:
    """What an exchange knows at its end."""
    known: dict[str, Any] = {
        names.REQUEST_ID: _text(exchange.request_id),
        names.REQUEST_STREAM: exchange.stream,
        names.ENDED: exchange.ended,
        names.DIALECT: exchange.dialect,
        names.STATUS_CODE: exchange.status,
    }
    if model:
        known[names.REQUEST_MODEL] = model
    if exchange.first_byte is not None:
        known[names.FIRST_CHUNK] = exchange.first_byte - exchange.started
    if (answer := exchange.answer) is not None:
        known[names.RESPONSE_ID] = _text(answer.id)
        known[names.RESPONSE_MODEL] = _text(answer.model)
    counts = exchange.counts
    if counts.end_reason:
        known[names.FINISH_REASONS] = [_text(counts.end_reason)]
    return known | _tokens(counts.usage)


def _tokens(usage: dict[str, Any]) -> dict[str, int]:
    """Tokens, in the words of any of the three APIs."""
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    found = {
        names.INPUT_TOKENS: usage.get("prompt_tokens", usage.get("input_tokens")),
        names.OUTPUT_TOKENS: usage.get("completion_tokens", usage.get("output_tokens")),
        names.CACHED_TOKENS: usage.get("cache_read_input_tokens", cached),
    }
    return {
        name: value
        for name, value in found.items()
        if type(value) is int and 0 <= value <= _MAX_TOKENS
    }


def _failure(exchange: Exchange) -> str:
    """``error.type``; "" for success."""
    if exchange.error or exchange.ended not in ("", "done", "eof"):
        return exchange.error or exchange.ended
    return str(exchange.status) if exchange.status >= 400 else ""


def _text(value: str, length: int = _TEXT) -> str:
    """A text that can be encoded, and is not long."""
    return value[:length].encode("utf-8", "replace").decode()
