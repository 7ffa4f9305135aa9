"""Addresses in the upstream's headers, as the client sees them.

The upstream gets its own name as ``Host``, and makes absolute addresses of it: FastAPI does for a
slash at the end of a path. A client that follows them would leave the proxy. RFC 9110 allows a
reference without a host there (10.2.2), which holds whatever the proxy is called in front of it.
"""

from typing import Final
from urllib.parse import SplitResult, urlsplit

from multidict import CIMultiDict

HEADERS: Final = ("Location", "Content-Location", "Operation-Location")  # the last is Azure's
_PORTS: Final = {"http": 80, "https": 443}
_Place = tuple[str, int | None]


class Redirects:
    """Writes addresses of one upstream for clients.

    Args:
        base: the upstream's base URL, which clients know as ``/v1``.
    """

    def __init__(self, base: str) -> None:
        url = urlsplit(base)
        self._place = _place(url)
        self._base = url.path.rstrip("/")

    def rewrite(self, headers: CIMultiDict[str], host: str, profile: str) -> None:
        """Change the addresses that name the upstream, or the proxy as the upstream knows it.

        Args:
            headers: of a response.
            host: the request's ``Host``.
            profile: ``/-/as/NAME`` where the client has that before each path, else "".
        """
        for name in HEADERS:
            if name in headers:
                headers[name] = self._for_client(headers[name], host, profile)

    def _for_client(self, address: str, host: str, profile: str) -> str:
        try:
            url = urlsplit(address)
            is_near = not url.netloc or _place(url) in (self._place, _place(urlsplit(f"//{host}")))
        except ValueError:
            return address
        if not is_near or url.scheme not in ("", "http", "https"):
            return address
        path = url.path
        if not url.netloc and not path.startswith("/"):
            return address  # relative to what the client asked for
        if path == self._base or path.startswith(f"{self._base}/"):
            path = f"/v1{path[len(self._base) :]}"
        elif not path.startswith("/"):
            path = f"/{path}"
        return url._replace(scheme="", netloc="", path=profile + path).geturl()


def _place(url: SplitResult) -> _Place:
    """Host and port; None for the default port of whichever scheme."""
    port = url.port
    is_default = port is None or port == _PORTS.get(url.scheme)
    return (url.hostname or "").lower(), None if is_default else port
