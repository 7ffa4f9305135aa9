"""Requests that come round: the proxy in front of itself, perhaps with others in between."""

import secrets
from collections.abc import Mapping
from typing import Final

from lifecycle_proxy.exchange.errors import ProxyError

# Each proxy on the way adds itself. The client's is looked at, and never passed on as it is.
HEADER: Final = "Lifecycle-Proxy-Hops"
_MAX_HOPS: Final = 16


class Hops:
    """One proxy among those on the way of a request."""

    def __init__(self) -> None:
        self._own = secrets.token_hex(8)

    def with_own(self, headers: Mapping[str, str]) -> str:
        """The value of the header for the upstream.

        Args:
            headers: the request's.

        Raises:
            ProxyError: ``loop_detected``: the request has been here.
        """
        if HEADER not in headers:
            return self._own
        hops = [hop.strip() for hop in headers[HEADER].split(",") if hop.strip()]
        if self._own in hops or len(hops) >= _MAX_HOPS:
            message = "the request came back to this proxy: upstream.url leads to the proxy itself"
            raise ProxyError("loop_detected", message)
        return ", ".join([*hops, self._own])
