"""Settings as they may be shown: without what is secret in them."""

import re
from typing import Any, Final

import msgspec

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.shared_store import without_secrets
from lifecycle_proxy.core.redact import redact

_HIDDEN: Final = "***"
_NAMED: Final = re.compile("-[^=]+")  # a flag whose value is the next word
_SECRET_HEADER: Final = re.compile("auth|key|token|secret|cookie|password|session")


def redacted(settings: Settings) -> dict[str, Any]:
    """The settings as plain data, keys hidden."""
    tree: dict[str, Any] = msgspec.to_builtins(settings)
    tree["server"]["api_keys"] = [_HIDDEN for _ in settings.server.api_keys]
    tree["upstream"]["api_key"] = _HIDDEN if settings.upstream.api_key else ""
    tree["streams"]["store"] = without_secrets(settings.streams.store)
    tree["streams"]["token_key"] = _HIDDEN if settings.streams.token_key else ""
    for one in tree["upstreams"]:
        one["api_key"] = _HIDDEN if one["api_key"] else ""
    for one in (tree["upstream"], *tree["upstreams"]):
        one["env"] = dict.fromkeys(one["env"], _HIDDEN)
        one["agent"] = _command(one["agent"])
    tree["recording"]["redact_patterns"] = [_HIDDEN for _ in settings.recording.redact_patterns]
    secret = {name.lower() for name in settings.recording.redact_headers}
    for rule in tree["lifecycle"]["clients"]:
        name = rule["header"].lower()
        if rule["match"] != "*" and (name in secret or _SECRET_HEADER.search(name)):
            rule["match"] = _HIDDEN
    return tree


def _command(words: list[str]) -> list[str]:
    """A command without what looks like a secret, or follows a flag that names one."""
    flags = [word.lower() if _NAMED.fullmatch(word) else "" for word in ("", *words)]
    return [
        _HIDDEN if _SECRET_HEADER.search(flag) else redact(word)
        for flag, word in zip(flags, words, strict=False)
    ]
