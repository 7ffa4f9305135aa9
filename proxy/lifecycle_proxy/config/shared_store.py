"""The URL of the store that several processes share: ``streams.store``."""

import importlib.util
import re
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from lifecycle_proxy.config.plain import quoted

_SCHEMES = ("redis", "rediss")
_PREFIX = re.compile(r"[A-Za-z0-9_.:{}-]{1,64}")


def problems(store: str) -> Iterator[tuple[str, str]]:
    """What makes a store unusable."""
    if store == "memory" or store.startswith("env:"):
        return
    try:
        url = urlsplit(store)
        is_good = url.scheme in _SCHEMES and bool(url.hostname) and url.port != 0
    except ValueError:
        url, is_good = SplitResult("", "", "", "", ""), False
    if not is_good or not re.fullmatch(r"/?|/\d{1,5}", url.path) or url.fragment:
        what = '"memory", redis://HOST:PORT/DB, rediss://USER:PASSWORD@HOST:PORT/DB, nor "env:NAME"'
        yield "streams.store", f"{shown(store)} is not {what}"
    elif "password" in url.query or "username" in url.query:
        yield "streams.store", "a password belongs in front of the host: redis://:PASSWORD@HOST"
    elif importlib.util.find_spec("redis") is None:
        cure = "install the extra \"redis\", or: pip install 'redis>=6'"
        yield "streams.store", f"{shown(store)} needs the package redis, which is missing; {cure}"


def prefix_problems(prefix: str) -> Iterator[tuple[str, str]]:
    """What makes a prefix of keys unusable."""
    if not _PREFIX.fullmatch(prefix):
        what = "1 to 64 letters, digits and any of _ . : - { }"
        yield "streams.prefix", f"{quoted(prefix)} is not {what}"


def shown(store: str) -> str:
    """A store in quotes, without user name, password and query."""
    return quoted(without_secrets(store))


def without_secrets(store: str) -> str:
    """A store's URL without user name, password and query."""
    if store.startswith("unix:"):  # the socket of the supervisor's store: not a setting
        return "memory"
    scheme, colon, rest = store.partition("://")
    if not colon:
        return store if store.startswith(("memory", "env:")) else store.partition("@")[0][:6]
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
