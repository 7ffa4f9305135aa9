"""Who may change something from the live page: its own script, with the key that it was given.

A page of another site must not be able to: it can send forms and simple requests without asking,
with whatever the browser knows. So a header is needed that it cannot add without a preflight, and
the browser's own word for where the request comes from counts, whatever ``server.cors_origins``
lets read. Whose the exchange is, is checked where it is looked for.
"""

from typing import Final

from lifecycle_proxy.config.origins import host_of
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest

HEADER: Final = "X-Lifecycle-Page"


def check_own(request: ClientRequest) -> None:
    """Refuse what does not come from the live page itself, or a program.

    Raises:
        ProxyError: ``origin_not_allowed``.
    """
    headers = request.headers
    origin = headers.get("Origin")
    is_own = origin is None or _same(origin, headers.get("Host", ""))
    site = headers.get("Sec-Fetch-Site", "same-origin")
    if headers.get(HEADER) != "1" or not is_own or site not in ("same-origin", "none"):
        message = f"only the live page, or a program that sends {HEADER}: 1, may do this"
        raise ProxyError("origin_not_allowed", message, HEADER)


def _same(origin: str, host: str) -> bool:
    """Whether an origin is this proxy, as the request names it. A proxy in front may do TLS."""
    scheme, separator, rest = origin.partition("://")
    if not separator or scheme not in ("http", "https"):
        return False  # "null" of a sandboxed frame
    return rest.lower() == host.lower() and bool(host_of(host))
