"""Errors of the proxy, in the form that OpenAI SDKs show to people."""

import json
from typing import Any, Final

from lifecycle_proxy.core.apis import CHAT, Api
from lifecycle_proxy.core.events import Envelope

# The codes that people's scripts rely on, and the status each is sent with.
STATUS: Final[dict[str, int]] = {
    "bad_request": 400,
    "invalid_api_key": 401,
    "invalid_token": 401,
    "host_not_allowed": 403,
    "origin_not_allowed": 403,
    "stopped": 403,  # what SDKs do not try again
    "not_found": 404,
    "model_not_found": 404,
    "upstream_not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "stream_in_use": 409,
    "idempotency_conflict": 409,
    "stream_expired": 410,
    "request_too_large": 413,
    "too_many_sessions": 429,
    "header_too_large": 431,
    "internal": 500,
    "upstream_unreachable": 502,
    "upstream_protocol": 502,
    "draining": 503,
    "streams_unavailable": 503,
    "upstream_timeout": 504,
    "http_version_not_supported": 505,
    "loop_detected": 508,
}


class ProxyError(Exception):
    """A request that this proxy has to answer itself.

    Args:
        code: a key of ``STATUS``.
        message: for people; says what to look at.
        param: the header or setting at fault.
        cause: for the log only: an exception's text, or what was expected.

    Attributes:
        is_final: no other upstream is to be asked, nor this one again: work was begun that must not
            be done twice, or the request itself is at fault.
    """

    is_final = False

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
        api: Api = CHAT,
        envelope: Envelope | None = None,
        *,
        is_first: bool = False,
    ) -> bytes:
        """The same as an event, for a stream whose headers have gone out.

        Args:
            api: of the stream.
            envelope: as the upstream's latest chunk has it. Only Responses need it.
            is_first: the upstream has sent nothing of this answer yet.
        """
        return api.error_frame(self.object(), envelope or Envelope("", 0, ""), is_first=is_first)

    def object(self) -> dict[str, Any]:
        """The error as OpenAI's API writes one."""
        return {
            "message": self.message,
            "type": "proxy_error",
            "param": self.param,
            "code": self.code,
        }


def stopped() -> ProxyError:
    """A person at the live page ended the exchange."""
    return ProxyError("stopped", "the operator of this proxy ended the request")


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
