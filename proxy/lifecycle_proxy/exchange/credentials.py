"""Where a credential may stand in a request, and how one is taken out or put in."""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_plus

from multidict import CIMultiDict, MultiMapping

from lifecycle_proxy.exchange.headers import CREDENTIALS
from lifecycle_proxy.exchange.routes import is_messages

# How browsers send a key with a WebSocket, since they can set no header (OpenAI's own clients).
SUBPROTOCOL_KEY: Final = "openai-insecure-api-key."
SUBPROTOCOLS: Final = "Sec-WebSocket-Protocol"
_REMEMBERED: Final = 1024
_AUTHORIZATION: Final = "Authorization"
_NAMES: Final = frozenset((*(name.lower() for name in CREDENTIALS), "cookie"))
_SECRET: Final = re.compile(
    r"(?:^|-)(?:auth|authorization|token|api-?key|secret|password|signature)(?:$|-)"
)
_PARAMETERS: Final = frozenset(
    (
        *("key", "api_key", "api-key", "apikey", "access_token", "auth", "authorization"),
        *("x-api-key", "x-goog-api-key", "subscription-key", "sig", "signature", "token"),
    )
)


def subprotocols(headers: MultiMapping[str]) -> list[str]:
    """The values of ``Sec-WebSocket-Protocol``."""
    lines = ",".join(headers.getall(SUBPROTOCOLS, ()))
    return [part.strip() for part in lines.split(",") if part.strip()]


def drop_subprotocol_key(headers: CIMultiDict[str]) -> None:
    """Take a key out of ``Sec-WebSocket-Protocol``."""
    names = subprotocols(headers)
    kept = [name for name in names if not name.startswith(SUBPROTOCOL_KEY)]
    if kept != names:
        headers.popall(SUBPROTOCOLS, None)
        if kept:
            headers[SUBPROTOCOLS] = ", ".join(kept)


@lru_cache(_REMEMBERED)  # clients send the same names again and again
def is_credential(name: str) -> bool:
    """Whether a header holds a credential, by its name."""
    low = name.lower()
    return low in _NAMES or _SECRET.search(low) is not None


def drop_credentials(headers: CIMultiDict[str]) -> None:
    """Remove every header that holds a credential, by its name."""
    for name in [name for name in headers if is_credential(name)]:
        headers.popall(name, None)
    if SUBPROTOCOLS in headers:
        drop_subprotocol_key(headers)


def without_credentials(path: str) -> str:
    """A target without the parameters of its query that hold a credential, by their names.

    Args:
        path: raw path and query; what stays is not written anew.
    """
    path, mark, query = path.partition("?")
    if not mark:
        return path
    pairs = query.split("&")
    kept = [one for one in pairs if _name(one) not in _PARAMETERS]
    query = query if len(kept) == len(pairs) else "&".join(kept)
    return f"{path}?{query}" if query else path


def set_key(headers: CIMultiDict[str], key: str, header: str, path: str) -> None:
    """Put in an upstream's key.

    Args:
        headers: for the upstream.
        key: its key.
        header: where it goes; "" where its API expects it.
        path: raw path and query. Anthropic's API has a header of its own for the key.
    """
    if header.lower() in ("", "authorization"):
        headers[_AUTHORIZATION] = f"Bearer {key}"
    else:
        headers[header] = key
    if not header and (is_messages(path) or "Anthropic-Version" in headers):
        headers["X-Api-Key"] = key


def _name(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0]).lower()
