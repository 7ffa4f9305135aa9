"""Who may use the proxy, and with which key the upstream is asked."""

import hmac
from collections.abc import Sequence
from typing import Final

from multidict import CIMultiDict, MultiMapping

from lifecycle_proxy.exchange.errors import ProxyError

# How browsers send a key with a WebSocket, since they can set no header (OpenAI's own clients).
_SUBPROTOCOL_KEY: Final = "openai-insecure-api-key."
_SUBPROTOCOLS: Final = "Sec-WebSocket-Protocol"

Headers = MultiMapping[str]


class ApiKeys:
    """The clients' keys, and the upstream's.

    Args:
        accepted: keys that clients must send one of; empty lets everybody in.
        upstream: replaces whatever key the client sent; "" leaves it.
    """

    def __init__(self, accepted: Sequence[str], upstream: str) -> None:
        self._accepted = [key.encode() for key in accepted]
        self._upstream = upstream

    def check(self, headers: Headers) -> None:
        """Let a request in, or not.

        Raises:
            ProxyError: ``invalid_api_key``.
        """
        if not self._accepted:
            return
        sent = _bearer(headers) or _from_subprotocol(headers)
        given = sent.encode("utf-8", "surrogateescape")
        # All are compared, in constant time: how long it takes tells nothing.
        if not sum(hmac.compare_digest(given, key) for key in self._accepted):
            message = "a valid API key of this proxy is needed, as a bearer token"
            raise ProxyError("invalid_api_key", message)

    def exchange(self, headers: CIMultiDict[str]) -> None:
        """Take a key of ours out of a request, and put the upstream's in."""
        if self._accepted:
            headers.popall("Authorization", None)
            _drop_subprotocol_key(headers)
        if self._upstream:
            headers["Authorization"] = f"Bearer {self._upstream}"


def _bearer(headers: Headers) -> str:
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _subprotocols(headers: Headers) -> list[str]:
    lines = ",".join(headers.getall(_SUBPROTOCOLS, ()))
    return [part.strip() for part in lines.split(",") if part.strip()]


def _from_subprotocol(headers: Headers) -> str:
    for name in _subprotocols(headers):
        if name.startswith(_SUBPROTOCOL_KEY):
            return name.removeprefix(_SUBPROTOCOL_KEY)
    return ""


def _drop_subprotocol_key(headers: CIMultiDict[str]) -> None:
    names = _subprotocols(headers)
    kept = [name for name in names if not name.startswith(_SUBPROTOCOL_KEY)]
    if kept != names:
        headers.popall(_SUBPROTOCOLS, None)
        if kept:
            headers[_SUBPROTOCOLS] = ", ".join(kept)
