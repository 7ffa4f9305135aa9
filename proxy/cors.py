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
        if (
            request.method != "OPTIONS"
            or "Access-Control-Request-Method" not in headers
            or not self._allows(headers.get("Origin"))
        ):
            return None
        asked = headers.get("Access-Control-Request-Headers", "*")
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
        """Let the browser read an answer: streams and errors too. Replaces the upstream's word."""
        origin = request.headers.get("Origin")
        if origin is None or not self._allows(origin):
            return
        preflight = "Access-Control-Max-Age" in headers and request.method == "OPTIONS"
        for name in [n for n in headers if n.lower().startswith(_PREFIX) and not preflight]:
            headers.popall(name, None)
        headers["Access-Control-Allow-Origin"] = "*" if self._any else origin
        headers["Access-Control-Expose-Headers"] = _EXPOSED
        if not self._any:
            headers.add("Vary", "Origin")

    def _allows(self, origin: str | None) -> bool:
        return origin is not None and (self._any or origin in self._origins)
