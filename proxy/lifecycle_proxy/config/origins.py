"""Origins of web pages and names of hosts, as settings give them and as clients send them."""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from lifecycle_proxy.config.plain import quoted

Found = Iterator[tuple[str, str]]  # keys and texts

_PORTS: Final = {"http": "80", "https": "443"}
_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?P<host>\[[0-9a-f:.]+\]|[^\s/?#@\[\]:,\\]+)"
    r"(?::(?P<port>[0-9]{1,5}|\*))?"
)
_NAME: Final = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\*")


def maybe_origin(text: str) -> str | None:
    """An origin as browsers write it (HTML standard, 7.1.1); None for what none of them sends.

    In lower case, internationalised names in ASCII, without the default port of the scheme.

    Args:
        text: may hold one ``*`` behind the scheme, for any text without a slash.
    """
    if text == "null":
        return text
    found = _ORIGIN.fullmatch(text.strip().lower().removesuffix("/"))
    if found is None or text.count("*") > 1:
        return None
    scheme, host, port = found["scheme"], found["host"], found["port"]
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError:
            return None
    has_port = port is not None and port.lstrip("0") != _PORTS.get(scheme)
    return f"{scheme}://{host}:{port.lstrip('0')}" if has_port else f"{scheme}://{host}"


def origins(given: Sequence[str]) -> Found:
    """Origins that no browser sends."""
    for number, text in enumerate(given):
        if text != "*" and maybe_origin(text) is None:
            yield f"server.cors_origins[{number}]", f"{quoted(text)} can never match: {_why(text)}"


def _why(text: str) -> str:
    if text.count("*") > 1:
        return 'write one * at most, such as "https://*.example.com"'
    bare = text.strip().partition("?")[0].partition("#")[0]
    scheme, separator, rest = bare.partition("://")
    if not separator and maybe_origin(right := f"https://{bare.partition('/')[0]}"):
        return f"an origin begins with its scheme; write {quoted(right)}"
    right = f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"
    if separator and (origin := maybe_origin(right)):
        return f"browsers send {quoted(origin)}"
    return "it is not an origin, such as https://chat.example"


def host_of(header: str) -> str:
    """The host of a ``Host`` header: in lower case, without port, brackets and a last dot."""
    host = header.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")


def is_address(host: str) -> bool:
    """Whether a host is an IP address, not a name."""
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host.partition("%")[0]))
    return False


def public_url(text: str) -> Found:
    """A URL that no browser can open the proxy's own pages at."""
    origin = maybe_origin(text) if text else "http"
    if origin is None or not origin.startswith("http"):
        what = "where browsers reach this proxy, such as https://proxy.example"
        yield "server.public_url", f"{quoted(text)} is not a scheme and a host, {what}"


def hosts(given: Sequence[str]) -> Found:
    """Names that no ``Host`` header can hold."""
    for number, text in enumerate(given):
        if not _NAME.fullmatch(text.lower()) and not is_address(text):
            name = host_of(re.sub(r"^\w+://|/.*", "", text.strip()))
            cure = f"; write {quoted(name)}" if _NAME.fullmatch(name) else ""
            what = 'the name of a host without port, such as chat.example or "*.example"'
            yield f"server.hosts[{number}]", f"{quoted(text)} is not {what}{cure}"
