"""The forms of credentials that a scan reports: regular expressions, and what must hold of a match.

A form that may fail behind a long run of letters begins only where that run does: any text is
searched in linear time. What may stand between a name and its value is bounded, since streams are
searched piece by piece.
"""

import base64
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from lifecycle_proxy.core.redact import KEY_PREFIXES


class Form(NamedTuple):
    """``pattern`` has the group ``value``; ``is_likely`` decides on it.

    Without any of ``words``, in lower case, there is none: that is quicker to see.
    """

    kind: str
    words: tuple[str, ...]
    pattern: re.Pattern[str]
    is_likely: Callable[[str], bool]


def _is_mixed(length: int) -> Callable[[str], bool]:
    """Whether there are letters and digits, and enough of them."""

    def check(value: str) -> bool:
        return (
            len(value) >= length
            and any(c in "0123456789" for c in value)
            and any(c.isalpha() or not c.isascii() for c in value)
        )

    return check


def _is_basic(value: str) -> bool:
    """RFC 7617: base64 of a name, a colon and a password."""
    try:
        return b":" in base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except ValueError:
        return False


def _is_anything(value: str) -> bool:
    return True


def _form(kind: str, words: str, pattern: str, is_likely: Callable[[str], bool]) -> Form:
    return Form(kind, tuple(words.split()), re.compile(pattern, re.ASCII), is_likely)


# Between a name and its value: a quote may be escaped, once or more, in JSON in JSON.
_GAP: Final = r"\s{0,32}"
_IS: Final = rf"\\{{0,15}}[\"']?{_GAP}[=:]{_GAP}(?:\[{_GAP})?\\{{0,15}}[\"']?"
# What a field is called that holds a credential.
_FIELD: Final = r"(?:password|passwd|passphrase|secret|api[_-]?key|access[_-]?token|auth[_-]?token)"
_VALUE: Final = r"(?P<value>[^\s\"'\\&;,|{}()\[\]<>]+)"

# The more telling forms first: what one has found the others leave alone. A form that may fail
# behind a long run begins only where that run does: any text is looked at in linear time.
FORMS: Final = (
    _form(
        "private key",
        "-----begin",
        r"(?P<value>-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY-----)",
        _is_anything,
    ),
    _form("JWT", "eyj", r"(?<![\w-])(?P<value>eyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?)", _is_anything),
    _form(
        "API key",
        "- _ aiza",
        rf"\b(?P<value>(?:AIza|(?:{KEY_PREFIXES})[-_])[A-Za-z0-9_-]{{12,}}|sk-[A-Za-z0-9_-]{{8,}})",
        _is_mixed(11),
    ),
    _form("API key", "npm_", r"\b(?P<value>npm_[A-Za-z0-9]{30,})\b", _is_mixed(30)),
    _form("API key", "pypi-", r"\b(?P<value>pypi-[\w-]{32,})", _is_mixed(32)),
    _form("API key", "dop_v1_", r"\b(?P<value>do[opr]_v1_[0-9a-f]{32,})\b", _is_mixed(32)),
    _form("API key", "sg.", r"\b(?P<value>SG\.[\w-]{16,64}\.[\w-]{16,})", _is_mixed(32)),
    _form(
        "Slack webhook",
        "hooks.slack.com",
        r"hooks\.slack\.com/(?:services|workflows|triggers)/(?P<value>[\w/-]{16,})",
        _is_mixed(16),
    ),
    _form("AWS key", "akia asia", r"\b(?P<value>(?:AKIA|ASIA)[A-Z0-9]{12,})\b", _is_mixed(16)),
    _form(
        "WebSocket key",
        "openai-insecure-api-key.",
        r"\bopenai-insecure-api-key\.(?P<value>[^\s,\"]+)",
        _is_anything,
    ),
    _form("bearer token", "bearer", r"(?i)\bbearer\s{1,32}(?P<value>[\w.~+/=-]{8,})", _is_mixed(8)),
    _form(
        "basic credentials", "basic", r"(?i)\bbasic\s{1,32}(?P<value>[\w+/-]{6,}={0,2})", _is_basic
    ),
    _form("password in a URL", "://", r"://[^/\s:@\"'\\]*:(?P<value>[^/\s@\"'\\]+)@", _is_anything),
    _form("token in a URL", "://", r"://(?P<value>[^/\s:@\"'\\]{16,})@", _is_mixed(16)),
    _form(
        "cookie",
        "cookie",
        r"(?i)\b(?:set-)?cookie(?:\\{0,15}[\"'])?\s{0,32}:\s{0,32}(?:\[\s{0,32})?"
        r"(?:\\{0,15}[\"'])?[^\s;=:,\"'\\]{1,80}=(?P<value>[^\s;\"\\]{8,})",
        _is_anything,
    ),
    _form(
        "credential in a URL",
        "sig= signature= token= key= auth= code=",
        r"(?i)[?&](?P<name>sig|signature|x-(?:amz|goog)-signature|x-amz-security-token|auth|code"
        r"|key|api[_-]?key|subscription-key|access_token|token)=(?P<value>[^\s&#\"'\\<>]+)",
        _is_mixed(8),
    ),
    _form(
        "multipart field",
        "form-data",
        rf"(?i)\bform-data;\s{{0,8}}name=\"?(?P<name>[\w.-]{{0,40}}{_FIELD})\"?"
        r"(?:\r?\n[\w-]{1,30}:[^\r\n]{0,60}){0,2}\r?\n\r?\n(?P<value>[^\s\"'&;,]{4,})",
        _is_anything,
    ),
    _form(
        "named value",
        "name key",
        rf"(?i)\\{{0,15}}\"(?:name|key)\\{{0,15}}\"{_GAP}:{_GAP}\\{{0,15}}\""
        rf"(?P<name>[\w.-]{{0,40}}{_FIELD})\\{{0,15}}\"{_GAP},{_GAP}\\{{0,15}}\"value"
        rf"\\{{0,15}}\"{_GAP}:{_GAP}\\{{0,15}}\"(?P<value>[^\s\"'\\&;,|{{}}()\[\]<>]{{4,}})",
        _is_anything,
    ),
    _form("registry login", "auth", rf"\bauth{_IS}(?P<value>[\w+/=-]{{8,}})", _is_basic),
    _form(
        "netrc",
        "machine",
        r"\bmachine\s{1,8}[\w.:-]{1,64}\s{1,8}login\s{1,8}[^\s\"]{1,40}\s{1,8}password\s{1,8}"
        r"(?P<value>[^\s\"'\\]{4,})",
        _is_anything,
    ),
    _form(
        "option",
        "curl",
        r"\bcurl\b[^\r\n]{0,60}?\s(?:-u|--user)[\s=]{0,4}(?:\\{0,15}[\"'])?[^\s:\"'\\]{1,40}:"
        r"(?P<value>[^\s\"'\\;&|]{4,})",
        _is_mixed(6),
    ),
    _form(
        "password",
        "secret passw passphrase pwd authorization credential",
        r"(?i)(?P<name>secret|password|passwd|passphrase|pwd|authorization|credentials?)"
        + _IS
        + _VALUE,
        _is_mixed(6),
    ),
    _form("key or token", "key token", r"(?i)(?P<name>key|token)" + _IS + _VALUE, _is_mixed(16)),
    _form(
        "option",
        "-password -token -secret -api-key -key",
        r"(?i)(?<![\w-])--?(?P<name>password|token|secret|api-key|key)\s{1,32}" + _VALUE,
        _is_mixed(6),
    ),
)
