"""Errors of ours, in the shape that OpenAI SDKs show to people."""

import json
from typing import Any, Final

from lifecycle_proxy.core.events import Envelope
from lifecycle_proxy.exchange.model import Vocabulary

# The codes that people's scripts rely on, and the status each is sent with.
STATUS: Final[dict[str, int]] = {
    "bad_request": 400,
    "invalid_api_key": 401,
    "not_found": 404,
    "header_too_large": 431,
    "internal": 500,
    "upstream_unreachable": 502,
    "upstream_protocol": 502,
    "draining": 503,
    "upstream_timeout": 504,
}


class ProxyError(Exception):
    """A request that this proxy has to answer itself.

    Args:
        code: a key of ``STATUS``.
        message: for people; says what to look at.
        param: the header or setting at fault.
        cause: for the log only: an exception's text, or what was expected.
    """

    def __init__(
        self, code: str, message: str, param: str | None = None, *, cause: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.cause = cause

    @property
    def status(self) -> int:
        return STATUS[self.code]

    def for_log(self, where: str = "") -> str:
        """What failed, where and why; "" where it was not the upstream that failed."""
        if not self.code.startswith("upstream_"):
            return ""
        text = f"{self.message} {where}" if where else self.message
        return f"{text}: {self.cause}" if self.cause else text

    def body(self) -> bytes:
        """The JSON body of an error response."""
        return json.dumps({"error": self.object()}, ensure_ascii=False).encode("utf-8", "replace")

    def frame(
        self,
        vocabulary: Vocabulary = "chat",
        envelope: Envelope | None = None,
        *,
        is_first: bool = False,
    ) -> bytes:
        """The same as an event, for a stream whose head has gone out: see ``error_frame``."""
        return error_frame(self.object(), vocabulary, envelope, is_first=is_first)

    def object(self) -> dict[str, Any]:
        """The error as OpenAI's API writes one."""
        return {
            "message": self.message,
            "type": "proxy_error",
            "param": self.param,
            "code": self.code,
        }


def cause_of(error: BaseException | None) -> str:
    """An exception on one line, for the log.

    Of its text only the first line: behind it aiohttp quotes what it could not read. And of errors
    that have a message only that: the text of some holds a URL with its query, or headers.
    """
    if error is None:
        return ""
    message = getattr(error, "message", str(error))
    lines = message.strip().splitlines() if isinstance(message, str) else []
    return ": ".join([type(error).__name__, *lines[:1]])


def error_frame(
    error: dict[str, Any],
    vocabulary: Vocabulary = "chat",
    envelope: Envelope | None = None,
    *,
    is_first: bool = False,
) -> bytes:
    """An error as an event, in the form in which clients of this API expect one.

    The only frame of ours with a top-level ``error``: OpenAI's and Anthropic's SDKs raise on it. A
    Responses stream ends with ``response.failed`` instead; Codex passes over anything else.

    Args:
        error: OpenAI's error object.
        vocabulary: what the stream speaks.
        envelope: what the upstream said last. Only Responses need it.
        is_first: the upstream has said nothing of this answer. SDKs' helpers raise on a response
            that failed before it was created, and their users never see why.
    """
    match vocabulary:
        case "responses":
            return _failed(error, envelope or Envelope("", 0, ""), is_first=is_first)
        case "messages":
            return _event({"type": "error", "error": error}, "error")
        case "chat":
            return _event({"error": error})


def _failed(error: dict[str, Any], envelope: Envelope, *, is_first: bool) -> bytes:
    """``ResponseFailedEvent`` of ``openai.types.responses``, with all that a response must have."""
    response: dict[str, Any] = {
        "id": envelope.id,
        "object": "response",
        "created_at": envelope.created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": envelope.model,
        "output": [],
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }
    failed = {**response, "status": "failed", "error": error}
    told = [("response.failed", failed)]
    if is_first:
        told.insert(0, ("response.created", response))
    return b"".join(
        _event({"type": kind, "sequence_number": number, "response": what}, kind)
        for number, (kind, what) in enumerate(told, envelope.sequence_number + 1)
    )


def _event(payload: dict[str, Any], name: str = "") -> bytes:
    line = f"event: {name}\n" if name else ""
    text = f"{line}data: {json.dumps(payload, ensure_ascii=False)}\n\n"
    return text.encode("utf-8", "replace")
