"""What an exchange knows at its end, as spans and metrics of OpenTelemetry have it."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.telemetry import trace_names as names
from lifecycle_proxy.telemetry.spans import ChatKind, Tokens

_TEXT: Final = 200
_MAX_TOKENS: Final = (1 << 53) - 1


def cut(text: str) -> str:
    """A text that is not long."""
    return text[:_TEXT]


def chat_kind(exchange: Exchange) -> ChatKind:
    """What it has in common with others."""
    answer = exchange.answer
    return ChatKind(
        exchange.route,
        exchange.upstream,
        exchange.model[:_TEXT],
        "" if answer is None else answer.model[:_TEXT],
        exchange.stream,
        exchange.status,
        exchange.ended,
        exchange.dialect,
        failure(exchange),
        exchange.counts.end_reason[:_TEXT],
    )


def failure(exchange: Exchange) -> str:
    """``error.type``: a code of the proxy's, how it ended, or the status; "" for success."""
    if exchange.error or exchange.ended not in ("", "done", "eof"):
        return exchange.error or exchange.ended
    return str(exchange.status) if exchange.status >= 400 else ""


def tokens_of(usage: Mapping[str, Any]) -> Tokens:
    """Tokens, in the words of any of the three APIs."""
    if not usage:
        return _NONE
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Tokens(
        _maybe_count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        _maybe_count(usage.get("completion_tokens", usage.get("output_tokens"))),
        _maybe_count(usage.get("cache_read_input_tokens", cached)),
    )


def server_of(url: str) -> dict[str, str | int]:
    """The attributes of an upstream; none for an agent, which has no URL."""
    if not url:
        return {}
    if url.startswith("unix:"):
        return {names.SERVER_ADDRESS: url[5:].partition(":")[0]}
    parts = urlsplit(url)
    port = parts.port or {"https": 443}.get(parts.scheme, 80)
    return {names.SERVER_ADDRESS: parts.hostname or "", names.SERVER_PORT: port}


_NONE: Final = Tokens()


def _maybe_count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else None
