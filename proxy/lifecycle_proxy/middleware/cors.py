"""Browsers that call the proxy directly: LobeChat's client mode, dashboards, demos.

Only for the origins that are configured; without any, CORS is the upstream's own business.
"""

from collections.abc import Sequence
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

_MAX_AGE_S: Final = 600
_PREFIX: Final = "access-control-"
_EXPOSED: Final = "X-Request-Id, X-Stream-Id, Retry-After"
_PREFLIGHT: Final = web.RequestKey("preflight", bool)
_METHODS: Final = "GET, POST, PUT, PATCH, DELETE, OPTIONS"


class Cors:
    """The configured origins.

    Args:
        origins: ``["*"]`` or exact ones, such as ``https://chat.example``.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.rstrip("/") for origin in origins)

    def maybe_preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a preflight for a configured origin. Browsers send no key with it."""
        headers = request.headers
        if not (is_preflight(request) and self._allows(headers.get("Origin"))):
            return None
        asked = headers.get("Access-Control-Request-Headers", "*")
        request[_PREFLIGHT] = True
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": asked,
                "Access-Control-Max-Age": str(_MAX_AGE_S),
                "Vary": "Access-Control-Request-Headers",
            },
        )

    def mark(self, request: web.Request, headers: CIMultiDict[str]) -> None:
        """Let the browser read an answer, or not: streams and errors too.

        Where origins are configured, what the upstream says of them does not count.
        """
        if not self._origins:
            return
        origin = request.headers.get("Origin")
        if not _is_own_preflight(request, headers):
            for name in [name for name in headers if name.lower().startswith(_PREFIX)]:
                headers.popall(name, None)
        if not self._any:
            headers.add("Vary", "Origin")
        if self._allows(origin):
            headers["Access-Control-Allow-Origin"] = "*" if self._any else str(origin)
            headers["Access-Control-Expose-Headers"] = _EXPOSED

    def _allows(self, origin: str | None) -> bool:
        return origin is not None and (self._any or origin in self._origins)


def is_preflight(request: web.Request) -> bool:
    """Whether a browser asks what it may ask (Fetch standard, CORS-preflight request)."""
    asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    return asks and "Origin" in request.headers


def _is_own_preflight(request: web.Request, headers: CIMultiDict[str]) -> bool:
    return request.get(_PREFLIGHT, False) and "Access-Control-Max-Age" in headers
