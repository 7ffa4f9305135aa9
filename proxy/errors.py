"""Errors of ours, in the shape that OpenAI SDKs show to people."""

import json
from typing import Any, Final

from proxy.exchange import Vocabulary

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
    """

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param

    @property
    def status(self) -> int:
        return STATUS[self.code]

    def body(self) -> bytes:
        """The JSON body of an error response."""
        return json.dumps({"error": self._object()}, ensure_ascii=False).encode("utf-8", "replace")

    def frame(self, vocabulary: Vocabulary = "chat", **extra: Any) -> bytes:
        """The same as an event, for a stream whose head has gone out.

        The only frame of ours with a top-level ``error``: SDKs raise on it, which is the point. In
        the other vocabularies it is their own error event, on which their SDKs raise, too.
        """
        told = {**self._object(), **extra}
        name = "" if vocabulary == "chat" else "event: error\n"
        payload: dict[str, Any] = {"error": told}
        if vocabulary == "responses":
            payload = {**told, "type": "error"}
        elif vocabulary == "messages":
            payload = {"type": "error", **payload}
        text = f"{name}data: {json.dumps(payload, ensure_ascii=False)}\n\n"
        return text.encode("utf-8", "replace")

    def _object(self) -> dict[str, Any]:
        return {
            "message": self.message,
            "type": "proxy_error",
            "param": self.param,
            "code": self.code,
        }
