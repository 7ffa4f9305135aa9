"""Which headers cross the proxy. Pure functions; order and duplicates are kept."""

from collections.abc import Iterable
from typing import Final

from multidict import CIMultiDict, MultiMapping

from lifecycle_proxy.exchange.hops import HEADER as HOPS
from lifecycle_proxy.exchange.model import Headers

# RFC 9110 section 7.6.1, and what older software sends.
HOP_BY_HOP: Final = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
# Where clients of the known APIs send their key: OpenAI's, Anthropic's, Azure's, Google's.
CREDENTIALS: Final = ("Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key")
# The proxy sets these itself: the host is the upstream's, the length follows from the body, and a
# 100 Continue has been sent by the time the body is read.
_REQUEST_ONLY: Final = frozenset(("host", "content-length", "expect"))
RESPOND_ASYNC: Final = "respond-async"
_OWN_PREFIX: Final = "x-lifecycle-"
_OWN: Final = frozenset(("x-event-stream-id", HOPS.lower()))
_NOT_FOR_UPSTREAM: Final = HOP_BY_HOP | _REQUEST_ONLY | _OWN


def first_header(headers: Headers, name: str) -> str:
    """The value of the first header of this name, in whatever case; "" without one.

    Args:
        headers: as they came.
        name: in whatever case.
    """
    wanted = name.lower()
    return next((value for other, value in headers if other.lower() == wanted), "")


def for_upstream(headers: MultiMapping[str]) -> CIMultiDict[str]:
    """The request headers to forward."""
    names = list(map(str.lower, headers))
    dropped = _with_listed(_NOT_FOR_UPSTREAM, headers).intersection(names)
    if _OWN_PREFIX in " ".join(names):  # seldom
        dropped |= {name for name in names if name.startswith(_OWN_PREFIX)}
    return _without(headers, dropped)


def add_forwarded(headers: CIMultiDict[str], client: str, scheme: str, host: str) -> None:
    """Tell the upstream of the client, as reverse proxies do (X-Forwarded-*).

    Args:
        headers: for the upstream. What a proxy in front has said of scheme and host stays.
        client: the peer's address; "" for none.
        scheme: of the connection.
        host: the request's ``Host``.
    """
    before = headers.popall("X-Forwarded-For", [])
    if addresses := [*before, client] if client else before:
        headers["X-Forwarded-For"] = ", ".join(addresses)
    headers.setdefault("X-Forwarded-Proto", scheme)
    if host:
        headers.setdefault("X-Forwarded-Host", host)


def prefers_async(headers: MultiMapping[str]) -> bool:
    """Whether ``Prefer`` headers ask for an answer at once (RFC 7240 section 4.1)."""
    if "Prefer" not in headers:
        return False
    wishes = (wish for value in headers.getall("Prefer", ()) for wish in value.split(","))
    return any(wish.partition(";")[0].strip().lower() == RESPOND_ASYNC for wish in wishes)


def for_client(headers: MultiMapping[str]) -> CIMultiDict[str]:
    """The response headers to pass on."""
    return _without(headers, _with_listed(HOP_BY_HOP, headers))


def _without(headers: MultiMapping[str], names: Iterable[str]) -> CIMultiDict[str]:
    """A copy without what is there under these names. To pick all others takes longer, and names
    that were walked over take 100 bytes each from then on."""
    kept = CIMultiDict(headers)
    for name in names:
        if name in kept:
            del kept[name]
    return kept


def _with_listed(names: frozenset[str], headers: MultiMapping[str]) -> frozenset[str]:
    """And the names that a ``Connection`` header declares to be for this hop only."""
    values = headers.getall("Connection", ())
    if not values:
        return names
    return names | {part.strip().lower() for value in values for part in value.split(",")}


def raw(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Headers as they came: in order, with duplicates, in their case."""
    return tuple(
        (name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape"))
        for name, value in headers
    )


def encoded(text: str) -> bytes:
    """A name, a value or a reason as it came."""
    return text.encode("utf-8", "surrogateescape")
