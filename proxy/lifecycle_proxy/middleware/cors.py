"""Web pages that call the proxy directly: LobeChat's client mode, dashboards, demos.

CORS headers are added only where origins are configured; without any, CORS is the upstream's own
business. CORS stops a page from reading an answer, not from asking: where no key does that, what a
page of another site asks without the browser's asking first is refused.
"""

import re
from collections.abc import Sequence
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from lifecycle_proxy.config.origins import host_of, maybe_origin
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.headers import CREDENTIALS
from lifecycle_proxy.exchange.routes import EMBED_PREFIX, is_upgrade

_MAX_AGE_S: Final = 600
_PREFIX: Final = "access-control-"
_EXPOSE: Final = "Access-Control-Expose-Headers"
_EXPOSED: Final = (
    *("X-Request-Id", "X-Stream-Id", "X-Stream-Url", "Retry-After", "X-Lifecycle-Upstream"),
)
_PREFLIGHT: Final = web.RequestKey("preflight", bool)
_METHODS: Final = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
_SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")
# Pages may send these without a preflight (Fetch standard, CORS-safelisted request-header).
_SIMPLE_TYPES: Final = frozenset(
    ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain", "")
)


class Cors:
    """The configured origins.

    Args:
        origins: ``["*"]``, or such as ``https://chat.example``, ``https://*.example``.
        has_keys: clients must send a key, which foreign pages do not know.
    """

    def __init__(self, origins: Sequence[str], *, has_keys: bool) -> None:
        self._any = "*" in origins
        self._is_on = bool(origins)
        self._has_keys = has_keys
        given = [maybe_origin(origin) or origin for origin in origins]
        self._match = re.compile("|".join(_pattern(one) for one in given)).fullmatch

    def maybe_preflight(self, request: ClientRequest) -> web.Response | None:
        """The answer to a preflight, where origins are configured. Browsers send no key with it.

        Raises:
            ProxyError: ``origin_not_allowed``.
        """
        if not (self._is_on and _is_preflight(request)):
            return None
        if not self._allows(request.headers.get("Origin")):
            raise _refusal()
        request[_PREFLIGHT] = True
        asked = request.headers.get("Access-Control-Request-Headers", "*")
        head = {
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": asked,
            "Access-Control-Max-Age": str(_MAX_AGE_S),
            "Vary": "Access-Control-Request-Headers, Access-Control-Request-Private-Network",
        }
        # A page of the internet asks for an address of this network (WICG Private Network Access).
        if request.headers.get("Access-Control-Request-Private-Network", "").lower() == "true":
            head["Access-Control-Allow-Private-Network"] = "true"
        return web.Response(status=204, headers=head)

    def check(self, request: ClientRequest) -> None:
        """Refuse what a page asks that may not read the answer: the question must do nothing.

        Raises:
            ProxyError: ``origin_not_allowed``.
        """
        if self._has_keys:
            return
        origin = request.headers.get("Origin")
        # Browsers send no Origin for an image.
        if self._is_on and self._allows(origin or _referring(request)):
            return
        is_foreign = self._is_on and origin is not None and not _is_own(origin, request)
        if is_foreign or _is_blind(request):
            raise _refusal()

    def mark(self, request: ClientRequest, headers: CIMultiDict[str]) -> None:
        """Let the browser read an answer, or not: streams and errors too.

        Where origins are configured, what the upstream says of them does not count; the headers
        that it exposes do.

        Args:
            request: the browser's.
            headers: of the response; changed in place.
        """
        if request.raw_path.startswith(EMBED_PREFIX):  # as it is routed, not decoded
            headers["Access-Control-Allow-Origin"] = "*"  # a sandboxed frame has no origin
            return
        if not self._is_on:
            return
        origin = request.headers.get("Origin")
        exposed = _exposed(headers)
        if not _is_own_preflight(request, headers):
            for name in [name for name in headers if name.lower().startswith(_PREFIX)]:
                headers.popall(name, None)
        if not self._any:
            headers.add("Vary", "Origin")
        if self._allows(origin):
            headers["Access-Control-Allow-Origin"] = "*" if self._any else str(origin)
            headers[_EXPOSE] = exposed

    def _allows(self, origin: str | None) -> bool:
        if origin is None:
            return False
        return self._any or bool(self._match(maybe_origin(origin) or ""))


def _pattern(origin: str) -> str:
    return re.escape(origin).replace(r"\*", "[^/@?#]+")


def _refusal() -> ProxyError:
    message = "pages of this origin may not use the proxy; add it to server.cors_origins"
    return ProxyError("origin_not_allowed", message, "Origin")


def _is_preflight(request: ClientRequest) -> bool:
    """Whether a browser asks what it may ask (Fetch standard, CORS-preflight request)."""
    asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    return asks and "Origin" in request.headers


def _is_own(origin: str, request: ClientRequest) -> bool:
    """A page that came through the proxy: the backend's own web interface."""
    host = request.headers.get("Host", "").lower()
    return origin.lower() in (f"http://{host}", f"https://{host}")


def _referring(request: ClientRequest) -> str | None:
    """The origin of the page that a browser names as its referrer. No page can name another."""
    scheme, separator, rest = request.headers.get("Referer", "").partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if separator else None


def _is_blind(request: ClientRequest) -> bool:
    """A page of another site asks what needs no preflight, or what CORS does not cover.

    Browsers say so to loopback addresses and over TLS (W3C Fetch Metadata), but for WebSockets.
    """
    headers = request.headers
    if is_upgrade(request):
        origin = headers.get("Origin")
        return origin is not None and not _is_near(origin, request)
    if headers.get("Sec-Fetch-Site") != "cross-site":
        return False
    if headers.get("Sec-Fetch-Mode") == "no-cors":
        return True
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    is_simple = kind in _SIMPLE_TYPES and not any(name in headers for name in CREDENTIALS)
    return is_simple and request.method not in _SAFE_METHODS


def _is_near(origin: str, request: ClientRequest) -> bool:
    """Whether a page is of the host that the request names, or of this machine."""
    host = host_of(origin.rpartition("://")[2])
    return host in ("localhost", "127.0.0.1", "::1", host_of(request.headers.get("Host", "")))


def _is_own_preflight(request: ClientRequest, headers: CIMultiDict[str]) -> bool:
    return request.get(_PREFLIGHT, False) and "Access-Control-Max-Age" in headers


def _exposed(headers: CIMultiDict[str]) -> str:
    theirs = ",".join(headers.getall(_EXPOSE, ())).split(",")
    names = {name.strip().lower(): name.strip() for name in (*theirs, *_EXPOSED)}
    return ", ".join(filter(None, names.values()))
