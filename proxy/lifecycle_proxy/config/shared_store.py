"""The URL of the store that several processes share: ``streams.store``."""

import importlib.util
import re
import ssl
from collections.abc import Iterator
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from lifecycle_proxy.config.certificates import unusable
from lifecycle_proxy.config.plain import hint, quoted

_SCHEMES = ("redis", "rediss")
# What may stand behind the question mark, and the values, where there are only some.
_OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"), ()),
    "ssl_cert_reqs": ("required", "optional", "none"),
    "ssl_check_hostname": ("true", "false"),
    "socket_keepalive": ("true", "false"),
    "health_check_interval": (),
}
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
    elif text := _query_problem(url):
        yield "streams.store", text
    elif importlib.util.find_spec("redis") is None:
        cure = "install the extra \"redis\", or: pip install 'redis>=6'"
        yield "streams.store", f"{shown(store)} needs the package redis, which is missing; {cure}"


def _query_problem(url: SplitResult) -> str:
    """What is wrong behind the question mark: redis-py would say so with each connection."""
    options = dict(parse_qsl(url.query, keep_blank_values=True))
    for name, value in options.items():
        if name not in _OPTIONS:
            return f"unknown option {quoted(name)} ({hint(name, [*_OPTIONS])})"
        if name.startswith("ssl_") and url.scheme != "rediss":
            return f"{name} is for TLS: the URL must begin with rediss://"
        if (known := _OPTIONS[name]) and value.lower() not in known:
            return f"{name} is one of {', '.join(known)}, not {quoted(value)}"
        if name == "health_check_interval" and not re.fullmatch(r"\d{1,6}", value, re.ASCII):
            return f"{name} is a number of seconds, not {quoted(value)}"
    authority, own = options.get("ssl_ca_certs"), options.get("ssl_certfile")
    try:
        context = ssl.create_default_context(cafile=authority)
        if own:
            context.load_cert_chain(own, options.get("ssl_keyfile"))
    except (OSError, ssl.SSLError) as error:
        return unusable(error, *filter(None, (authority, own, options.get("ssl_keyfile"))))
    return ""


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
