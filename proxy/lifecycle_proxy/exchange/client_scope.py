"""Who asks: what one user wrote is never told to another."""

import hashlib
from collections.abc import Mapping
from typing import Final

_CREDENTIALS: Final = ("Authorization", "X-Api-Key", "Api-Key")
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


def scope_of(headers: Mapping[str, str]) -> str:
    """Whose calls a request may speak of. A hash: no key is kept."""
    parts = [headers.get(name, "") for name in (*_CREDENTIALS, *_SESSIONS)]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
