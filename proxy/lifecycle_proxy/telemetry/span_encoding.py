"""Spans as OTLP's protobuf. All of this runs in the exporter's thread.

An attribute is encoded once for all spans that have it: parts of a protobuf message may be encoded
apart and joined.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    InstrumentationScope,
    KeyValue,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from lifecycle_proxy import __version__
from lifecycle_proxy.telemetry import trace_names as names
from lifecycle_proxy.telemetry.spans import ChatKind, ChatSpan, FinishedSpan, ToolKind, ToolSpan

_KINDS: Final = 1024  # of which the encoded attributes are kept
_SAMPLED: Final = 0x01
_FLAGS: Final = _SAMPLED | 0x100  # whether the parent is remote is known
_REMOTE: Final = 0x200


def attributes(values: Mapping[str, Any]) -> list[KeyValue]:
    """Attributes, as OTLP has them.

    Args:
        values: texts, numbers, booleans, and sequences of texts.
    """
    return [KeyValue(key=key, value=_value(value)) for key, value in values.items()]


def resource(values: Mapping[str, Any]) -> Resource:
    """Whose spans and metrics they are."""
    return Resource(attributes=attributes(values))


def scope() -> InstrumentationScope:
    """What made them."""
    return InstrumentationScope(name=names.SCOPE, version=__version__)


class SpanEncoder:
    """Encodes spans.

    Args:
        of: the resource.
        servers: attributes of each upstream, by its name; "" is the usual one.
    """

    def __init__(self, of: Resource, servers: Mapping[str, Mapping[str, Any]]) -> None:
        self._resource = of
        self.set_servers(servers)
        self._tool: Callable[[ToolKind], bytes] = lru_cache(_KINDS)(_tool_kind)

    def set_servers(self, servers: Mapping[str, Mapping[str, Any]]) -> None:
        """Other upstreams are in force."""
        self._servers = servers
        self._chat: Callable[[ChatKind], bytes] = lru_cache(_KINDS)(self._chat_kind)

    def encode(self, spans: Sequence[FinishedSpan]) -> bytes:
        """A request to a receiver."""
        request = ExportTraceServiceRequest()
        of_resource = request.resource_spans.add(resource=self._resource)
        of_scope = of_resource.scope_spans.add(scope=scope(), schema_url=names.SCHEMA_URL)
        for span in spans:
            if isinstance(span, ChatSpan):
                self._add_chat(of_scope.spans.add(), span)
            else:
                self._add_tool(of_scope.spans.add(), span)
        return bytes(request.SerializeToString())

    def _add_chat(self, to: Span, span: ChatSpan) -> None:
        kind = span.kind
        to.MergeFromString(self._chat(kind))
        to.trace_id, to.span_id = bytes.fromhex(span.name.trace), bytes.fromhex(span.name.span)
        to.flags = _FLAGS
        if span.parent:
            to.parent_span_id = bytes.fromhex(span.parent)
            to.flags = _FLAGS | _REMOTE
        to.start_time_unix_nano, to.end_time_unix_nano = span.start_ns, span.end_ns
        _add_text(to, names.REQUEST_ID, span.request_id)
        if span.response_id:
            _add_text(to, names.RESPONSE_ID, span.response_id)
        if span.first_chunk_s is not None:
            to.attributes.add(key=names.FIRST_CHUNK).value.double_value = span.first_chunk_s
        for key, tokens in zip(_TOKENS, span.tokens, strict=True):
            if tokens is not None:
                to.attributes.add(key=key).value.int_value = tokens
        for event in span.events:
            fields = attributes(event.fields)
            to.events.add(name=event.name, time_unix_nano=event.at_ns, attributes=fields)
        if kind.failure:
            to.status.message = _text(span.cause)

    def _add_tool(self, to: Span, span: ToolSpan) -> None:
        to.MergeFromString(self._tool(span.kind))
        to.trace_id, to.span_id = bytes.fromhex(span.parent.trace), random.randbytes(8)  # noqa: S311  no secret
        to.parent_span_id = bytes.fromhex(span.parent.span)
        to.start_time_unix_nano, to.end_time_unix_nano = span.start_ns, span.end_ns
        to.flags = _FLAGS
        _add_text(to, names.CALL_ID, span.call_id)
        if span.arguments:
            _add_text(to, names.CALL_ARGUMENTS, span.arguments)
        if span.result is not None:
            _add_text(to, names.CALL_RESULT, span.result)
        for link in span.linked:
            trace, span_id = bytes.fromhex(link.trace), bytes.fromhex(link.span)
            to.links.add(trace_id=trace, span_id=span_id, flags=_FLAGS)

    def _chat_kind(self, kind: ChatKind) -> bytes:
        known: dict[str, Any] = {
            names.OPERATION: names.CHAT,
            names.PROVIDER: names.PROVIDERS.get(kind.route, names.DEFAULT_PROVIDER),
            names.REQUEST_STREAM: kind.is_stream,
            names.ENDED: kind.ended,
            names.DIALECT: kind.dialect,
            names.STATUS_CODE: kind.status,
        }
        optional = {
            names.REQUEST_MODEL: kind.model,
            names.RESPONSE_MODEL: kind.answered_by,
            names.FINISH_REASONS: [kind.finish] if kind.finish else [],
            names.ERROR_TYPE: kind.failure,
        }
        known |= {key: value for key, value in optional.items() if value}
        known |= self._servers.get(kind.upstream, self._servers[""])
        span = Span(
            name=_text(f"{names.CHAT} {kind.model}".strip()),
            kind=Span.SPAN_KIND_CLIENT,
            attributes=attributes(known),
        )
        if kind.failure:
            span.status.code = Status.STATUS_CODE_ERROR
        return bytes(span.SerializeToString())


_TOKENS: Final = (names.INPUT_TOKENS, names.OUTPUT_TOKENS, names.CACHED_TOKENS)


def _tool_kind(kind: ToolKind) -> bytes:
    known: dict[str, Any] = {
        names.OPERATION: names.EXECUTE_TOOL,
        names.TOOL_NAME: kind.tool,
        names.TOOL_TYPE: names.FUNCTION,
        names.OUTCOME: kind.outcome,
        names.HOSTED: kind.hosted,
    }
    if kind.failure:
        known[names.ERROR_TYPE] = kind.failure
    span = Span(
        name=_text(f"{names.EXECUTE_TOOL} {kind.tool}"),
        kind=Span.SPAN_KIND_INTERNAL,
        attributes=attributes(known),
    )
    if kind.failure:
        span.status.code = Status.STATUS_CODE_ERROR
        span.status.message = _text(kind.failure)
    return bytes(span.SerializeToString())


def _add_text(to: Span, key: str, text: str) -> None:
    to.attributes.add(key=key).value.string_value = _text(text)


def _value(value: object) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, list | tuple):
        return AnyValue(array_value=ArrayValue(values=[_value(one) for one in value]))
    return AnyValue(string_value=_text(str(value)))


def _text(value: str) -> str:
    """A text that can be encoded: no surrogates."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()
