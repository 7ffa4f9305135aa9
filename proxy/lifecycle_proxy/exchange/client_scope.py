"""Which user asks: nothing that one user wrote reaches another."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from lifecycle_proxy.exchange.headers import CREDENTIALS

# What clients call a conversation: OpenCode, Codex, Claude Code, Open WebUI, Hermes.
_SESSIONS: Final = (
    "X-Session-Id",
    "X-Session-Affinity",
    "Session-Id",
    "Thread-Id",
    "X-Claude-Code-Session-Id",
    "X-OpenWebUI-Chat-Id",
    "X-Hermes-Session-Id",
)


def hashed(text: str, data: bytes = b"") -> str:
    """SHA-256, hexadecimal: of fixed length and plain characters, and no credential is kept.

    Args:
        text: of headers, which may hold any bytes.
        data: behind it.
    """
    return hashlib.sha256(text.encode("utf-8", "surrogateescape") + data).hexdigest()


class Scope(NamedTuple):
    """Whose calls a request may speak of.

    Attributes:
        key: a hash: no credential is kept.
        has_session: the client names a conversation. A credential may be shared by many users.
    """

    key: str
    has_session: bool


def scope_of(headers: Mapping[str, str]) -> str:
    """What is the same for all requests of one user in one conversation."""
    return _scope(headers).key


def tenant_of(headers: Mapping[str, str]) -> str:
    """What is the same for all requests with the same credential; "" without one. A hash."""
    parts = [headers.get(name, "").strip() for name in CREDENTIALS]
    return hashed("\0".join(parts)) if any(parts) else ""


def maybe_scope(headers: Mapping[str, str]) -> Scope | None:
    """The scope of a request; None where nothing tells its user from others."""
    scope = _scope(headers)
    has_credential = any(headers.get(name, "").strip() for name in CREDENTIALS)
    return scope if has_credential or scope.has_session else None


def owner_of(headers: Mapping[str, str]) -> str:
    """Whose stream a request begins or reads: a hash of its keys, in whatever headers they come.

    All requests without a key have the same owner.
    """
    values = {value.strip() for name in CREDENTIALS[1:] if (value := headers.get(name))}
    if authorization := headers.get(CREDENTIALS[0]):
        scheme, _, token = authorization.strip().partition(" ")
        values.add(token.strip() if scheme.lower() == "bearer" else f"{scheme} {token}".strip())
    values.discard("")
    return _owner(values) if values else ANONYMOUS


def _owner(keys: Iterable[str]) -> str:
    return hashed("\0".join(sorted(keys)))


def maybe_session(headers: Mapping[str, str]) -> str:
    """What the client calls its conversation; "" where it does not say. Open WebUI's is first."""
    names = sorted(_SESSIONS, key=lambda name: "OpenWebUI" not in name)
    return next((value for name in names if (value := headers.get(name, "").strip())), "")


ANONYMOUS: Final = _owner(())


def _scope(headers: Mapping[str, str]) -> Scope:
    parts = [headers.get(name, "").strip() for name in (*CREDENTIALS, *_SESSIONS)]
    return Scope(hashed("\0".join(parts)), any(parts[len(CREDENTIALS) :]))
