"""Where secrets stand in any bytes: those that are known, and those that have the form of one.

Whatever comes, the time for it grows as its size does, no faster: a form that can fail behind a
long run of letters does not look at that run again.
"""

import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Final, Protocol

from lifecycle_proxy.core.redact import KEY_PREFIXES
from lifecycle_proxy.recording import secret_detection
from lifecycle_proxy.recording.known_secrets import KnownSecrets, Span
from lifecycle_proxy.recording.repetition import without_repetition

_PLACEHOLDER: Final = re.compile(secret_detection.PLACEHOLDER.pattern.encode())
# Patterns that the recorder redacts in addition to those that ``scan`` reports, which need a digit.
# Bare ``key`` and ``token`` are excluded: they occur in ordinary text, and redacted text cannot be
# replayed. So is a word of prose behind "the secret:", and null, which would not be valid JSON.
_KEYS: Final = KEY_PREFIXES.encode()
_NAMES: Final = rb"password|passwd|passphrase|secret|api[_-]?key|access[_-]?token|client[_-]?secret"
_FORMS: Final = (
    rb"(?i:\bbearer\s{1,32})(?P<s0>[\w.~+/=-]{8,})",
    # Not names such as hf-tiny-agents: a key has something else than small letters.
    rb"\b(?P<s1>(?:%b)[-_](?![a-z]{1,20}(?:-[a-z]{1,20}){1,5}(?![\w-]))[A-Za-z0-9_-]{12,})" % _KEYS,
    rb"\b(?P<s2>(?:AKIA|ASIA)[A-Z0-9]{12,}\b|AIza[\w-]{12,})",
    rb"://[^/\s:@\"]*:(?P<s3>[^/\s@\"]+)@",
    rb"(?P<s4>-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----[^-]*)",
    rb"(?i:(?:%b)(?!(?<=secret):\s{1,32}[a-z]+(?:[\s.,!?;)]|\Z))"
    rb"(?:\\?[\"'])?\s{0,32}[=:]\s{0,32}(?!null\b|true\b|false\b)"
    rb"(?:\[\s{0,8}(?=\\?[\"']))?(?:\\?[\"'])?)"
    rb"(?P<s5>[^\s\"'&;,\\\[{}]{4,})" % _NAMES,
)
_FORM: Final = re.compile(b"|".join(_FORMS))
# A run of letters in which one begins is searched once: if it is not a JWT, it is skipped as a
# whole. A pattern of its own, as other forms may begin in such a run.
_JWT: Final = re.compile(
    rb"\b(?:(?P<jwt>eyJ[\w-]{8,}+\.[\w-]{8,}+(?:\.[\w-]*+)?)|eyJ[\w-]*+)",
)


def _grouped(words: Iterable[bytes]) -> bytes:
    """One of some words, as a regular expression that looks at each first letter once."""
    parts: list[bytes] = []
    for first, group in itertools.groupby(sorted(words), key=lambda word: word[:1]):
        rest = [word[1:] for word in group]
        parts.append(re.escape(first) + (_grouped(rest) if len(rest) > 1 else re.escape(rest[0])))
    return parts[0] if len(parts) == 1 else b"(?:%b)" % b"|".join(parts)


# Without one of these, in lower case, there is none of the forms: a quick no, most of the time. It
# would take three times as long if they were not grouped.
# The first ones are those of the forms here, the others of those that ``scan`` has.
_OWN_WORDS: Final = (
    *(b"sk-", b"sk_", b"pk-", b"pk_", b"rk-", b"rk_", b"hf-", b"hf_", b"xai-", b"xai_"),
    *(b"ghp", b"gho", b"ghu", b"ghs", b"ghr", b"github_pat", b"glpat", b"nvapi", b"xox"),
    *(b"akia", b"asia", b"aiza", b"://", b"-----begin", b"bearer", b"passw", b"passphrase"),
    *(b"secret", b"access", b"api"),
)
_WORDS: Final = (
    *(*_OWN_WORDS, b"eyj", b"basic", b"cookie", b"pwd", b"key", b"token", b"auth", b"credential"),
    *(b"npm_", b"pypi-", b"_v1_", b"sg.", b"hooks.slack.com", b"sig=", b"signature=", b"code="),
    *(b"machine", b"curl"),
)
_OWN_TRIGGERS: Final = re.compile(_grouped(set(_OWN_WORDS)))
_TRIGGERS: Final = re.compile(_grouped(set(_WORDS)))
_LONGEST_TRIGGER: Final = max(map(len, _WORDS))
_RUN: Final = re.compile(rb"[A-Za-z0-9+/]{8192,}+")
_KEPT_BYTES: Final = 2048
# Behind one of these no secret goes on, but for those that hold one themselves.
_TO_BREAK: Final = re.compile(rb"(?s:.*)[\s\"',;]")
_HELD_BYTES: Final = 128  # -----BEGIN ENCRYPTED PRIVATE KEY-----, or a name and half a value
_HELD_FOR_PATTERNS_BYTES: Final = 256
_MOST_CONTINUED: Final = 3  # bytes of a character behind its first, in UTF-8

_MOST_ROUNDS: Final = 32  # of looking again; random text takes three


class SecretMatcher(Protocol):
    """What is a secret.

    Attributes:
        held_bytes: the most of a secret that may stand before a break in it.
    """

    held_bytes: int

    def spans(self, data: bytes) -> list[Span]:
        """Where secrets stand, in order, none within another."""


class ExchangeRules:
    """What is a secret in one exchange.

    Args:
        known: secrets, literally.
        more: further forms; the whole match is the secret.
        is_exhausted: nothing is searched: everything counts as secret.

    Attributes:
        held_bytes: see ``SecretMatcher``.
        is_exhausted: a search took too long. From then on everything counts as secret.
    """

    def __init__(
        self,
        known: KnownSecrets,
        more: Sequence[re.Pattern[bytes]] = (),
        *,
        is_exhausted: bool = False,
    ) -> None:
        self.is_exhausted = is_exhausted
        self._known = known
        self._more = more
        broken = [len(secret) for secret in known.all if last_delimiter(secret)]
        usual = _HELD_FOR_PATTERNS_BYTES if more else _HELD_BYTES
        self.held_bytes = max(usual, *broken) if broken else usual

    def spans(self, data: bytes) -> list[Span]:
        """Where secrets stand, in order, none within another, and none in a placeholder.

        A secret may come to light where another one, right before it, is gone: what is found is
        masked, and the rest is looked at again.
        """
        if not (self._more or self.is_exhausted or self._may_hold(data)):
            return []  # a quick no, most of the time
        taken = [found.span() for found in _PLACEHOLDER.finditer(data)]
        data = _masked(data, taken)
        spans: list[Span] = []
        for _ in range(_MOST_ROUNDS):
            if self.is_exhausted or (found := self._found(data)) is None:
                break
            if not (new := _outside(merge_spans(found), taken)):
                return spans
            spans = sorted(spans + new)
            taken = sorted(taken + new)
            data = _masked(data, new)
        self.is_exhausted = True
        return [(0, len(data))] if data else []

    def _may_hold(self, data: bytes) -> bool:
        return _may_have_form(data) or self._known.may_occur(data)

    def _found(self, data: bytes) -> list[Span] | None:
        spans = self._known.spans(data)
        if spans is None:
            return None
        for form in self._more:
            matches = (found for found in form.finditer(data) if found[0])
            spans += [(f.start(), _behind_character(data, f.end())) for f in matches]
        short = _Shortened(data)
        return spans + [short.span_in_data(span) for span in _by_form(short.data)]


def _may_have_form(data: bytes, triggers: re.Pattern[bytes] = _TRIGGERS) -> bool:
    return triggers.search(without_repetition(data, _LONGEST_TRIGGER).lower()) is not None


def _by_form(data: bytes) -> list[Span]:
    """Where something has the form of a secret, in any order."""
    if not _may_have_form(data):
        return []
    # Every answer ends with numbers of tokens, most without a word of these forms.
    may_have_own = _may_have_form(data, _OWN_TRIGGERS)
    spans = [_span(found) for found in _FORM.finditer(data)] if may_have_own else []
    if b"eyJ" in data:
        spans += [found.span("jwt") for found in _JWT.finditer(data) if found["jwt"]]
    for secret in secret_detection.find_secrets(data.decode("latin-1")):
        spans.append((secret.start, secret.start + len(secret.value)))
    return spans


class _Shortened:
    """Bytes without the middle of long base64: pictures and sound, which the forms need not see.

    Both ends stay, so that a secret which begins in front of one still reaches to its end.

    Attributes:
        data: what is left.
    """

    def __init__(self, data: bytes) -> None:
        self._cuts: list[int] = []  # in what is left
        self._removed = [0]  # of all before each cut, and at last of all
        left, at = [], 0
        for run in _RUN.finditer(data):
            start, stop = run.start() + _KEPT_BYTES, run.end() - _KEPT_BYTES
            left.append(data[at:start])
            self._cuts.append(start - self._removed[-1])
            self._removed.append(self._removed[-1] + stop - start)
            at = stop
        self.data = b"".join([*left, data[at:]]) if left else data

    def span_in_data(self, span: Span) -> Span:
        """Where that is in all the bytes."""
        start, stop = span
        first, last = bisect_right(self._cuts, start), bisect_left(self._cuts, stop)
        return start + self._removed[first], stop + self._removed[last]


def merge_spans(spans: Iterable[Span]) -> list[Span]:
    """In order; those that overlap are one."""
    parts: list[Span] = []
    for start, stop in sorted(spans):
        if parts and start < parts[-1][1]:
            parts[-1] = parts[-1][0], max(stop, parts[-1][1])
        else:
            parts.append((start, stop))
    return parts


def _outside(spans: Sequence[Span], taken: Sequence[Span]) -> list[Span]:
    """The parts of spans that are not taken. Both are in order, and apart."""
    parts: list[Span] = []
    for start, stop in spans:
        at = start
        for first, last in overlapping(taken, start, stop):
            if at < first:
                parts.append((at, first))
            at = last
        if at < stop:
            parts.append((at, stop))
    return parts


def overlapping(spans: Sequence[Span], start: int, stop: int) -> Iterator[Span]:
    """Those that have something in common with the one from ``start`` to ``stop``.

    Args:
        spans: in order, none within another.
        start: of the one.
        stop: of the one.
    """
    for number in range(bisect_right(spans, start, key=itemgetter(1)), len(spans)):
        if spans[number][0] >= stop:
            return
        yield spans[number]


def _masked(data: bytes, spans: Sequence[Span]) -> bytes:
    """Quotes in their place, which are part of no secret's form."""
    if not spans:
        return data
    masked = bytearray(data)
    for start, stop in spans:
        masked[start:stop] = b'"' * (stop - start)
    return bytes(masked)


def last_delimiter(data: bytes) -> int:
    """Where the last break ends; 0 without one."""
    found = _TO_BREAK.match(data)
    return 0 if found is None else found.end()


def _behind_character(data: bytes, stop: int) -> int:
    """Where the character ends in which something stops: to a pattern, a dot is one byte of it."""
    for _ in range(_MOST_CONTINUED):
        if not 0x80 <= int.from_bytes(data[stop : stop + 1]) < 0xC0:
            break
        stop += 1
    return stop


def _span(found: re.Match[bytes]) -> Span:
    name = found.lastgroup
    return found.span(name) if name else found.span()
