"""What a request asks for, by its method and its path.

Only the end of the path counts, so that base URLs of any form are alike: ``/v1/responses``,
``/responses``, ``/openai/v1/responses``.
"""

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, parse_qsl, quote, unquote_plus

from msgspec import Struct

from lifecycle_proxy.core.apis import APIS, RESPONSES, Api
from lifecycle_proxy.exchange.errors import ProxyError

if TYPE_CHECKING:
    from lifecycle_proxy.exchange.handler import ClientRequest

OWN_PREFIX: Final = "/-/"
PROFILE_PREFIX: Final = "/-/as/"
STREAMS_PREFIX: Final = "/-/streams/"
UPSTREAM_PREFIX: Final = "/-/to/"
COMPAT_PREFIX: Final = "/-/compat/"
_STREAM_ID: Final = "([A-Za-z0-9_-]{1,64})"
_RUN: Final = re.compile(rf"/(?:runs|pipelines)/{_STREAM_ID}/events")
_COMMAND: Final = re.compile(rf"/projects/[^/]{{1,200}}/events/{_STREAM_ID}")
# The live page: its files, which need no key, and what it asks for.
VIEW_PREFIX: Final = "/-/view/"
PAGE_PREFIX: Final = "/-/page/"
APPROVALS_PREFIX: Final = "/-/approvals/"
EMBED_PREFIX: Final = "/-/embed/"
# Pages of which the path is the credential: they may stand within a page of another site.
_FRAMED: Final = (APPROVALS_PREFIX, EMBED_PREFIX)
_MAX_FIELDS: Final = 100
# A message is added to a thread of the Assistants API there; nothing is answered.
_THREAD: Final = re.compile(r"/threads/[^/]+/messages\Z")
# A stored response, which can be streamed again.
_RESPONSE: Final = re.compile(r"/responses/[^/]+\Z")


def approvals_url(public_url: str) -> str:
    """What the URLs of approvals' pages begin with; "" where no browser can open them."""
    return f"{public_url.rstrip('/')}{APPROVALS_PREFIX}" if public_url else ""


def loggable(path: str) -> str:
    """A path as it may stand in a log: who knows a token in it may answer an approval, or read.

    Args:
        path: without the query.
    """
    return next((f"{one}***" for one in _FRAMED if path.startswith(one)), path)


def is_framed(path: str) -> bool:
    """Whether a path holds a token, which is all that is needed."""
    return path.startswith(_FRAMED)


def check_target(request: "ClientRequest") -> None:
    """Refuse a request line that this proxy must not forward.

    Raises:
        ProxyError: ``bad_request``.
    """
    if request.method == "CONNECT":
        message = "CONNECT is not supported: the proxy forwards to its upstream only"
        raise ProxyError("bad_request", message)
    path = request.raw_path
    if not path.startswith("/"):
        authority, path = split_absolute(path)
        _check_authority(request, authority)
    if not path.startswith("/") or not path.isascii() or not path.isprintable():
        raise ProxyError("bad_request", "the request line has no path that can be forwarded")


def _check_authority(request: "ClientRequest", authority: str | None) -> None:
    if authority is not None and authority.lower() != request.headers.get("Host", "").lower():
        message = "the request line names another host than the Host header"
        raise ProxyError("bad_request", message)


def split_absolute(raw: str) -> tuple[str | None, str]:
    """``http://HOST/x`` as HOST and ``/x`` (RFC 9112, 3.2.2); any other target as it is."""
    if not raw.startswith(("http://", "https://")):
        return None, raw
    rest = raw.partition("://")[2]
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    path = rest[len(authority) :]
    return authority, path if path.startswith("/") else "/" + path


def is_own(path: str) -> bool:
    """Whether a path is answered by the proxy itself. The others here have a prefix only."""
    return path.startswith(OWN_PREFIX) and not path.startswith((PROFILE_PREFIX, UPSTREAM_PREFIX))


def maybe_compat(path: str) -> tuple[str, str] | None:
    """The vocabulary and the stream that a path of kilroy's or rdev's names.

    Args:
        path: without the query; there, or below ``COMPAT_PREFIX``.
    """
    path = path.removeprefix(COMPAT_PREFIX[:-1])
    if (found := _RUN.fullmatch(path)) is not None:
        return "kilroy", found[1]
    found = _COMMAND.fullmatch(path)
    return None if found is None else ("rdev", found[1])


def maybe_token(method: str, target: str) -> str | None:
    """The token for a stream that a request has in its URL, which then counts, not its key.

    Args:
        method: tokens let nobody do more than read.
        target: raw path and query.

    Raises:
        ProxyError: ``bad_request``: the query has too many fields.
    """
    if method not in ("GET", "HEAD") or not target.startswith(STREAMS_PREFIX):
        return None
    return fields_of(target).get("token")


def fields_of(target: str) -> dict[str, str]:
    """The fields of the query; of those that come twice the last.

    Args:
        target: raw path and query.

    Raises:
        ProxyError: ``bad_request``: there are too many.
    """
    query = target.partition("?")[2]
    try:
        return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:
        raise ProxyError("bad_request", "the query has too many fields") from None


def maybe_api(method: str, target: str) -> Api | None:
    """The API of a conversation; None for any other request.

    Args:
        target: raw path and query.
    """
    path, _, query = target.partition("?")
    if method == "GET" and _RESPONSE.search(path):
        asked = parse_qs(query).get("stream", [""])[-1]
        return RESPONSES if asked.lower() in ("true", "1") else None
    if method == "POST":
        for api in APIS.values():
            if path.endswith(api.path):
                return None if _THREAD.search(path) else api
    return None


def is_messages(target: str) -> bool:
    """Whether a target is one of Anthropic's Messages API: messages, batches, counting tokens."""
    path = target.partition("?")[0]
    return "/messages" in path and not _THREAD.search(path)


def is_upgrade(request: "ClientRequest") -> bool:
    """Whether the client asks for a WebSocket."""
    headers = request.headers
    return (
        request.method == "GET"
        and headers.get("Upgrade", "").lower() == "websocket"
        and "upgrade" in headers.get("Connection", "").lower()
    )


class Prefixes(Struct, frozen=True):
    """What a base URL such as ``/-/as/NAME/v1`` or ``/-/to/NAME/v1`` asks for, and the rest.

    Attributes:
        profile: a dialect; None without one.
        upstream: a name; None without one.
        prefix: what stands before the path.
        path: what the upstream is asked for.
    """

    profile: str | None
    upstream: str | None
    prefix: str
    path: str


def split_prefixes(target: str) -> Prefixes:
    """``/-/as/NAME/v1/x`` as NAME and ``/v1/x``; the same with ``/-/to/``, or with both.

    Args:
        target: raw path and query.
    """
    profile: str | None = None
    upstream: str | None = None
    prefix, rest = "", target
    while rest.startswith(OWN_PREFIX):
        if profile is None and rest.startswith(PROFILE_PREFIX):
            before, profile = PROFILE_PREFIX, rest[len(PROFILE_PREFIX) :].partition("/")[0]
            before += profile
        elif upstream is None and rest.startswith(UPSTREAM_PREFIX):
            before, upstream = UPSTREAM_PREFIX, rest[len(UPSTREAM_PREFIX) :].partition("/")[0]
            before += upstream
        else:
            break
        prefix, rest = prefix + before, rest[len(before) :]
    return Prefixes(profile, upstream, prefix, rest or "/")


def maybe_model(path: str) -> str | None:
    """The model that a target names in its query, as WebSockets do (``/v1/realtime?model=X``).

    Args:
        path: raw path and query.
    """
    fields = (one.partition("=") for one in path.partition("?")[2].split("&"))
    values = [value for name, _, value in fields if unquote_plus(name) == "model"]
    return unquote_plus(values[-1]) if values else None


def with_model(path: str, model: str) -> str:
    """A target with another value of ``model`` in its query; nothing else is written anew.

    Args:
        path: raw path and query.
        model: the new name.
    """
    path, mark, query = path.partition("?")
    pairs = [
        f"model={quote(model, safe='')}" if unquote_plus(one.partition("=")[0]) == "model" else one
        for one in query.split("&")
    ]
    return f"{path}{mark}{'&'.join(pairs)}"
