"""What a credential looks like, so that people can be told where one stands.

The forms are those that ``core.labels`` blots out, more narrowly: a label loses nothing by an
asterisk too many, but whoever is told of a secret has to look. Chat is full of words like "basic
understanding", and of keys like ``"token": "Hello"``; a credential has letters and digits.

The recorder replaces whatever is found here, and more. So that both see the same in text and in
the bytes of it, forms know ASCII only, and what may stand between a name and its value is bounded:
a stream is looked at piece by piece.
"""

import base64
import re
from bisect import bisect
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from lifecycle_proxy.core.redact import KEY_PREFIXES

PLACEHOLDER: Final = re.compile(r"\[redacted:[0-9a-f]{12}\]")
_BLOT: Final = re.compile(r"[*.…]*|[xX]{3,}")

# Of the name in small letters, with a hyphen for whatever is no letter and no digit.
_HEADERS: Final = re.compile(
    r"auth(?:orization|entication)$|api-?key$|(?:^|-)key$|token$|secret|passw|credential"
    r"|(?:^|-)(?:jwt|bearer|pwd)$|^(?:set-)?cookie$"
)
_NO_LETTER: Final = re.compile(r"[^a-z0-9]")
# Keys of protocols that are told to everybody, or are no more than names.
_NO_HEADERS: Final = ("sec-websocket-key", "idempotency-key", "cache-key", "surrogate-key")
_NO_CREDENTIALS: Final = (
    *("cache_key", "idempotency_key", "public_key", "primary_key", "foreign_key", "sort_key"),
    *("partition_key", "page_token"),
)
_SCHEME: Final = re.compile(r"\s*(?:bearer|basic|digest|token)\s+", re.IGNORECASE)
_KNOWN_START: Final = re.compile(
    r"(?:sk-(?:ant|proj|or)-|[A-Za-z]{2,10}[-_](?:pat_)?|eyJ|A[KS]IA|AIza)"
)
_SHOWN_FROM: Final = 16  # of a shorter secret not even the beginning is shown
_NAME: Final = re.compile(r"[\w-]{0,40}\Z")


class Secret(NamedTuple):
    """What was found.

    Attributes:
        start: where it begins in the text.
        value: the secret itself. Not to be shown.
        kind: what it looks like.
        excerpt: its name and how it begins, masked.
    """

    start: int
    value: str
    kind: str
    excerpt: str


class _Form(NamedTuple):
    """``pattern`` has the group ``value``; ``is_likely`` decides on it.

    Without any of ``words``, in lower case, there is none: that is quicker to see.
    """

    kind: str
    words: tuple[str, ...]
    pattern: re.Pattern[str]
    is_likely: Callable[[str], bool]


def in_text(text: str) -> Iterator[Secret]:
    """The credentials in any text, none of them twice."""
    # Quotes are part of no value: a placeholder is none, nor does one go on behind it.
    text = PLACEHOLDER.sub(lambda found: '"' * len(found[0]), text)
    lower = text.lower()
    taken: list[tuple[int, int]] = []
    for form in _FORMS:
        if not any(word in lower for word in form.words):
            continue
        for found in form.pattern.finditer(text):
            start, stop = found.span("value")
            value = found["value"]
            name = _name(text, found)
            at = bisect(taken, (start, stop))
            beside = taken[max(0, at - 1) : at + 1]
            is_new = all(stop <= other or other_stop <= start for other, other_stop in beside)
            is_some = not _is_blotted(value) and not name.endswith(_NO_CREDENTIALS)
            if is_new and is_some and form.is_likely(value):
                taken.insert(at, (start, stop))
                yield Secret(start, value, form.kind, f"{name} {masked(value)}".strip())


def is_secret(name: str) -> bool:
    """Whether a header is made for credentials."""
    plain = _NO_LETTER.sub("-", name.lower()).strip("-")
    return bool(_HEADERS.search(plain)) and not plain.endswith(_NO_HEADERS)


def in_header(name: str, value: str) -> Iterator[Secret]:
    """The credentials in a header: of one that is made for them, whatever is no placeholder."""
    lower = name.lower()
    if not is_secret(lower):
        yield from in_text(value)
    elif lower.endswith("cookie"):
        pairs = value.split(";")[: 1 if lower == "set-cookie" else None]
        for pair in pairs:
            yield from _whole("cookie", pair.strip().partition("=")[2] or pair.strip())
    elif PLACEHOLDER.search(value):
        yield from in_text(value)
    else:
        yield from _whole("credential header", _SCHEME.sub("", value, count=1).strip())


def masked(value: str) -> str:
    """How long a secret is, and of a long one the part that says whose form it has."""
    known = _KNOWN_START.match(value) if len(value) >= _SHOWN_FROM else None
    return f"{known[0] if known else ''}****** ({len(value)} characters)"


def _whole(kind: str, value: str) -> Iterator[Secret]:
    if value and not _is_blotted(value):
        yield Secret(0, value, kind, masked(value))


def _name(text: str, found: re.Match[str]) -> str:
    """What the text calls the value: of ``my_api_key=x`` the form has found ``key=x`` only."""
    if "name" not in found.re.groupindex:
        return ""
    start = found.start("name")
    before = _NAME.search(text, max(0, start - 40), start)
    return ((before[0] if before else "") + found["name"]).lower().replace("-", "_").strip("_")


def _is_blotted(value: str) -> bool:
    return bool(PLACEHOLDER.search(value) or _BLOT.fullmatch(value))


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


def _form(kind: str, words: str, pattern: str, is_likely: Callable[[str], bool]) -> _Form:
    return _Form(kind, tuple(words.split()), re.compile(pattern, re.ASCII), is_likely)


# Between a name and its value: a quote may be escaped, once or more, in JSON in JSON.
_GAP: Final = r"\s{0,32}"
_IS: Final = rf"\\{{0,15}}[\"']?{_GAP}[=:]{_GAP}\\{{0,15}}[\"']?"
_VALUE: Final = r"(?P<value>[^\s\"'\\&;,|{}()\[\]<>]+)"

# The more telling forms first: what one has found the others leave alone. A form that may fail
# behind a long run begins only where that run does: any text is looked at in linear time.
_FORMS: Final = (
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
    _form(
        "cookie",
        "cookie:",
        r"(?i)\b(?:set-)?cookie:\s{0,32}[^\s;=:,\"']+=(?P<value>[^\s;\"\\]{8,})",
        _is_anything,
    ),
    _form(
        "password",
        "secret passw pwd authorization credential",
        r"(?i)(?P<name>secret|password|passwd|pwd|authorization|credentials?)" + _IS + _VALUE,
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
