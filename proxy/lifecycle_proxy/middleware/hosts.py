"""Names under which the proxy is asked for: against DNS rebinding.

A web page can let its own name lead to 127.0.0.1. For the browser the proxy is then of the page's
origin, so that the page may read all answers; only the ``Host`` header tells.
"""

from collections.abc import Sequence
from typing import Final

from lifecycle_proxy.config.origins import host_of, is_address
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest

# What no web page can have as its name: loopback (RFC 6761, 6.3), the name that Docker gives this
# machine, and names that the public DNS does not lead anywhere: without a dot, and .test (6.2).
_OWN_NAMES: Final = frozenset(("", "localhost", "host.docker.internal"))
_MOST_SERVED: Final = 256
_OWN_ENDS: Final = (".localhost", ".test")


class Hosts:
    """The names that are served.

    Args:
        names: configured ones; ``*.example`` for all names below one, ``*`` for all.
        restricted: whether other names are refused. Those that are configured always restrict.
    """

    def __init__(self, names: Sequence[str], *, restricted: bool) -> None:
        self._names = frozenset(name.lower() for name in names)
        self._ends = tuple(name[1:] for name in self._names if name.startswith("*."))
        self._restricted = (restricted or bool(names)) and "*" not in self._names
        self._served: set[str] = set()  # headers that were accepted, a bounded number of them

    def check(self, request: ClientRequest) -> None:
        """Serve a request, or not.

        Raises:
            ProxyError: ``host_not_allowed``.
        """
        if not self._restricted:
            return
        header = request.headers.get("Host", "")
        if header in self._served:
            return
        if not self._serves(host_of(header)):
            message = "this name is not served; add it to server.hosts"
            raise ProxyError("host_not_allowed", message, "Host")
        if len(self._served) < _MOST_SERVED:
            self._served.add(header)

    def _serves(self, host: str) -> bool:
        if host in self._names or host in _OWN_NAMES or host.endswith(_OWN_ENDS + self._ends):
            return True
        return "." not in host or is_address(host)
