"""Secrets in text and JSON that people see: labels, arguments, messages about settings.

A pattern here is a guess by form, made for short texts. What may be written into recordings is
decided in ``recording.secret_detection``, with more patterns and more context.
"""

import re
from typing import Any, Final

# What keys of well-known services begin with, in front of a hyphen or an underscore.
KEY_PREFIXES: Final = "sk|pk|rk|ghp|gho|ghu|ghs|ghr|github_pat|glpat|hf|gsk|xai|nvapi|xox[abeoprs]"

_SECRETS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE), r"\1 ***"),
    (re.compile(rf"\b(?:AIza|(?:{KEY_PREFIXES})[-_])[A-Za-z0-9_-]{{12,}}"), "***"),
    (re.compile(r"\bsk-[\w-]{4,}"), "***"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), "***"),
    (re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]+\.?[\w-]*"), "***"),
    (re.compile(r"(://[^/\s:@]*:)[^/\s@]+@"), r"\1***@"),
    (
        re.compile(
            r"((?:\b|_|-)(?:key|token|secret|password|passwd|pwd|authorization|credentials?)"
            r"[\"']?\s*[=:]\s*)(?!\*\*\*)(?:bearer |basic )?(\"[^\"]*\"|'[^']*'|[^\s\"'&;,|]+)",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
    (
        re.compile(r"(--?(?:password|token|secret|api-key|key)\s+)(?!\*\*\*)\S+", re.IGNORECASE),
        r"\1***",
    ),
)


# Nearly every text has none of these: one search instead of eight. Two letters before a hyphen, not
# all of them: a long run of letters, such as a gene, would be searched again from each letter.
_SUSPECT: Final = re.compile(
    r"bearer|basic|key|token|secret|pass|pwd|auth|cred|://|[A-Za-z]{2}[-_]|eyJ|AKIA|ASIA|AIza",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Replace what looks like a credential: bearer tokens, well-known key forms, ``key=value``."""
    if not _SUSPECT.search(text):
        return text
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def redact_json(value: Any, key: str = "") -> Any:
    """Redact every text in a decoded JSON value, and whole texts whose key is that of a secret.

    Args:
        value: as decoded.
        key: under which it stands in an object; "" at the top.
    """
    match value:
        case dict():
            return {k: redact_json(v, k) for k, v in value.items()}
        case list():
            return [redact_json(v, key) for v in value]
        case str():
            return "***" if key and redact(f"{key}=x") != f"{key}=x" else redact(value)
        case _:
            return value
