"""Who may use the proxy, and with which key the upstream is asked."""

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote, unquote_plus

from multidict import CIMultiDict, MultiMapping

from lifecycle_proxy.exchange.credentials import (
    SUBPROTOCOL_KEY,
    drop_subprotocol_key,
    set_key,
    subprotocols,
)
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.headers import CREDENTIALS

# Keys of this length are found within a value, too; a shorter one may be an ordinary word.
_UNMISTAKABLE: Final = 8
_AUTHORIZATION: Final = "Authorization"

Headers = MultiMapping[str]


class ApiKeys:
    """The clients' keys, and the upstream's.

    Args:
        accepted: keys that clients must send one of; empty lets everybody in.
        upstream: replaces whatever key the client sent; "" leaves it.
        header: where the upstream's goes; "" where its API expects it.
    """

    def __init__(self, accepted: Sequence[str], upstream: str, header: str = "") -> None:
        self._accepted = [key.encode() for key in accepted]
        self._ours = frozenset(accepted)
        words = "|".join(re.escape(key) for key in accepted if len(key) >= _UNMISTAKABLE)
        self._within = re.compile(rf"(?<![\w-])(?:{words})(?![\w-])") if words else None
        self._upstream = upstream
        self._header = header

    def check(self, headers: Headers) -> None:
        """Let a request in, or not.

        Raises:
            ProxyError: ``invalid_api_key``.
        """
        if not self._accepted:
            return
        sent = [_bearer(headers), *(headers.get(name, "").strip() for name in CREDENTIALS[1:])]
        given = [key.encode("utf-8", "surrogateescape") for key in (*sent, _subprotocol(headers))]
        # All are compared, in constant time: how long it takes tells nothing.
        if not sum(hmac.compare_digest(one, key) for one in given for key in self._accepted):
            message = "a valid API key of this proxy is needed, as bearer token or in x-api-key"
            raise ProxyError("invalid_api_key", message)

    def exchange(self, headers: CIMultiDict[str], path: str) -> None:
        """Remove the proxy's keys from a request's headers, and add the upstream's.

        Args:
            headers: for the upstream.
            path: raw path and query. Anthropic's API has a header of its own for the key.
        """
        if self._accepted:
            self._drop_ours(headers)
        if not self._upstream:
            return
        for name in CREDENTIALS:
            headers.popall(name, None)
        drop_subprotocol_key(headers)
        set_key(headers, self._upstream, self._header, path)

    def without_keys(self, path: str) -> str:
        """A target without the values of its query that are a key of the proxy's.

        Args:
            path: raw path and query; what stays is not written anew.
        """
        if not self._accepted or "?" not in path:
            return path
        path, _, query = path.partition("?")
        clear = unquote_plus(query)  # to look at each of many fields takes too long
        text = f"{clear}\n{unquote(clear)}"
        if not ("basic" in clear.lower() or any(key in text for key in self._ours)):
            return f"{path}?{query}" if query else path
        pairs = query.split("&")
        kept = [one for one in pairs if not self._holds(unquote_plus(one.partition("=")[2]))]
        if len(kept) < len(pairs):
            query = "&".join(kept)
        return f"{path}?{query}" if query else path

    def _drop_ours(self, headers: CIMultiDict[str]) -> None:
        drop_subprotocol_key(headers)
        for name in {name.lower() for name in headers}:
            values = headers.getall(name)
            if name == "cookie":
                kept = list(filter(None, map(self._without_crumbs, values)))
            else:
                kept = [value for value in values if not self._holds(value)]
            if kept != values:
                headers.popall(name)
                headers.extend((name, value) for value in kept)

    def _without_crumbs(self, cookies: str) -> str:
        crumbs = cookies.split(";")
        kept = [one for one in crumbs if not self._holds(one.partition("=")[2])]
        return cookies if len(kept) == len(crumbs) else ";".join(kept).strip()

    def _holds(self, value: str) -> bool:
        """Whether a value is a key of the proxy's, or contains one."""
        for text in (value, unquote(value), _basic(value)):
            words = text.strip().strip('"')
            if words in self._ours or words.rpartition(" ")[2] in self._ours:
                return True
            if self._within is not None and self._within.search(text):
                return True
        return any(part in self._ours for part in _basic(value).split(":"))


def _bearer(headers: Headers) -> str:
    scheme, _, token = headers.get(_AUTHORIZATION, "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _basic(value: str) -> str:
    """User name and password of HTTP's basic authentication (RFC 7617); "" for other values."""
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(token.strip()).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""


def _subprotocol(headers: Headers) -> str:
    for name in subprotocols(headers):
        if name.startswith(SUBPROTOCOL_KEY):
            return name.removeprefix(SUBPROTOCOL_KEY)
    return ""
