"""Finds credentials in text, headers and URLs, for ``scan`` and for the recorder.

The forms are those that ``core.labels`` redacts, more narrowly: a label loses nothing by an
asterisk too many, but a person has to look at each finding of a scan. Chat is full of words like
"basic understanding", and of keys like ``"token": "Hello"``; a credential has letters and digits.

The recorder replaces whatever is found here, and more. So that both see the same in text and in
the bytes of it, forms know ASCII only, and what may stand between a name and its value is bounded:
a stream is looked at piece by piece.
"""

import re
from bisect import bisect
from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import unquote_plus

from lifecycle_proxy.recording.credential_forms import FORMS

PLACEHOLDER: Final = re.compile(r"\[redacted:[0-9a-f]{12}\]")
_BLOT: Final = re.compile(r"[*.…]*|[xX]{3,}")

# Of the name in small letters, with a hyphen for whatever is no letter and no digit.
_HEADERS: Final = re.compile(
    r"auth(?:orization|entication)$|api-?key$|(?:^|-)key$|token$|secret|passw|passphrase|credential"
    r"|(?:^|-)(?:auth|jwt|bearer|pwd|signature)$|^(?:set-)?cookie$"
    r"|(?:^|-)jwt-|^dpop$|^x-session$|csrf|xsrf"
)
# Query parameters that hold a credential, spelt in the same way: keys of APIs, codes and tokens of
# OAuth, signatures of URLs (AWS, Google, Azure's SAS).
_PARAMETERS: Final = frozenset(
    (
        *("key", "api-key", "apikey", "x-api-key", "x-goog-api-key", "subscription-key"),
        *("ocp-apim-subscription-key", "token", "access-token", "accesstoken", "refresh-token"),
        *("id-token", "auth-token", "session-token", "auth", "authorization", "code", "jwt"),
        *("bearer", "secret", "client-secret", "password", "passwd", "pwd", "passphrase"),
        *("sig", "signature", "x-amz-signature", "x-amz-security-token", "x-amz-credential"),
        *("x-goog-signature", "x-goog-credential"),
    )
)
_NO_LETTER: Final = re.compile(r"[^a-z0-9]")
# Keys of protocols that are public, or only names.
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


def find_secrets(text: str) -> Iterator[Secret]:
    """The credentials in any text, none of them twice."""
    # Quotes are part of no value: a placeholder is none, nor does one go on behind it.
    text = PLACEHOLDER.sub(lambda found: '"' * len(found[0]), text)
    lower = text.lower()
    taken: list[tuple[int, int]] = []
    for form in FORMS:
        if not any(word in lower for word in form.words):
            continue
        fresh: list[tuple[int, int]] = []
        for found in form.pattern.finditer(text):
            start, stop = found.span("value")
            value = found["value"]
            name = _name(text, found)
            at = bisect(taken, (start, stop))
            beside = taken[max(0, at - 1) : at + 1]
            is_new = all(stop <= other or other_stop <= start for other, other_stop in beside)
            is_some = not _is_blotted(value) and not name.endswith(_NO_CREDENTIALS)
            if is_new and is_some and form.is_likely(value):
                fresh.append((start, stop))
                yield Secret(start, value, form.kind, f"{name} {masked(value)}".strip())
        taken = sorted(taken + fresh)  # two runs that are in order: linear


def is_credential_header(name: str) -> bool:
    """Whether a header is made for credentials."""
    plain = _plain(name)
    return bool(_HEADERS.search(plain)) and not plain.endswith(_NO_HEADERS)


def is_credential_parameter(name: str) -> bool:
    """Whether a query parameter is made for credentials; the name as it stands in the URL."""
    return _plain(unquote_plus(name)) in _PARAMETERS


def find_in_target(target: str) -> Iterator[Secret]:
    """The credentials in a path and query: of parameters made for them, any value."""
    yield from find_secrets(target)
    for parameter in target.partition("?")[2].split("&"):
        name, _, value = parameter.partition("=")
        if is_credential_parameter(name):
            yield from _whole("credential in a URL", unquote_plus(value))


def _plain(name: str) -> str:
    return _NO_LETTER.sub("-", name.lower()).strip("-")


def find_in_header(name: str, value: str) -> Iterator[Secret]:
    """The credentials in a header; of one that is made for them, any value but a placeholder.

    Args:
        name: of the header, in any case.
        value: as sent.
    """
    lower = name.lower()
    if not is_credential_header(lower):
        yield from find_secrets(value)
    elif lower.endswith("cookie"):
        pairs = value.split(";")[: 1 if lower == "set-cookie" else None]
        for pair in pairs:
            yield from _whole("cookie", pair.strip().partition("=")[2] or pair.strip())
    elif PLACEHOLDER.search(value):
        yield from find_secrets(value)
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
