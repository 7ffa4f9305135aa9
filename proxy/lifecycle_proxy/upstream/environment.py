"""The proxy that the environment names, as curl and others read it: HTTP_PROXY, NO_PROXY.

aiohttp's own ``trust_env`` also reads ``~/.netrc``, whose passwords are nobody's business here.
"""

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def maybe_proxy(origin: str) -> str | None:
    """The URL of the proxy through which an origin is reached; None for no proxy.

    Args:
        origin: the upstream's, such as ``https://api.example``.
    """
    url = urlsplit(origin)
    if proxy_bypass(url.netloc.rpartition("@")[2]):
        return None
    return getproxies().get(url.scheme)
