"""What a recorded request was, in a line: enough to tell one row of a list from the next."""

import re
from typing import Any, Final

import orjson

from lifecycle_proxy.core.apis import APIS, CHAT
from lifecycle_proxy.recording import normalize
from lifecycle_proxy.recording.cassette import RecordedExchange

_LONGEST: Final = 300
_SPACE: Final = re.compile(r"\s+")
_GOOD: Final = ("", "done", "eof")


def line(exchange: RecordedExchange) -> str:
    """What was asked: of a chat its model and the user's last words, else method and path."""
    request, named = exchange.request, model(exchange)
    if exchange.route != CHAT.name or not named:
        is_short = exchange.route in APIS
        what = exchange.route if is_short else f"{request.method} {request.target}"
        named = f"{what} {named}".strip()
    return ": ".join(filter(None, (named, asked(exchange))))


def model(exchange: RecordedExchange) -> str:
    """The model that was asked; "" where the request names none."""
    named = _document(exchange).get("model")
    return _one_line(named) if isinstance(named, str) else ""


def asked(exchange: RecordedExchange) -> str:
    """What the user last said, and how many results of tools follow; "" where there is neither."""
    document = _document(exchange)
    results = _results(document.get("messages", document.get("input")))
    said = _one_line(_said(document))
    more = f"{results} tool result{'s' if results > 1 else ''}" if results else ""
    return f"{more} for: {said}" if more and said else more or said


def is_bad(exchange: RecordedExchange) -> bool:
    """Whether the client did not get a good answer, as far as is recorded."""
    failed = exchange.client.status >= 400 or exchange.ended not in _GOOD
    return bool(exchange.error) or failed or not exchange.is_complete


def _document(exchange: RecordedExchange) -> dict[str, Any]:
    try:
        document = orjson.loads(exchange.request.body or b"")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _said(document: dict[str, Any]) -> str:
    try:
        words = normalize.said(document)
    except RecursionError:
        return ""
    if words is not None:
        return words
    for key in ("prompt", "input"):  # of completions, images, embeddings
        value = document.get(key)
        texts = value if isinstance(value, list) else [value]
        if texts and isinstance(texts[0], str):
            return texts[0]
    return ""


def _results(messages: Any) -> int:
    """The results at the end of a conversation: the tools ran in the client."""
    count = 0
    for message in reversed(messages if isinstance(messages, list) else []):
        found = _results_in(message) if isinstance(message, dict) else 0
        if not found:
            break
        count += found
    return count


def _results_in(message: dict[str, Any]) -> int:
    """Of Chat Completions, of Responses, or, in the user's name, of Anthropic's Messages."""
    if message.get("role") == "tool" or str(message.get("type")).endswith("_call_output"):
        return 1
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return sum(isinstance(part, dict) and part.get("type") == "tool_result" for part in parts)


def _one_line(text: str) -> str:
    return _SPACE.sub(" ", text[: 2 * _LONGEST]).strip()[:_LONGEST]
