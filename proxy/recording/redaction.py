"""Secrets out of what is recorded, before it reaches the disk.

Known secrets are the keys that the proxy holds and the credentials of the very exchange, wherever
they turn up; others are known by their form, by their header, or by their place in a JSON body.
Each is replaced by a placeholder that is always the same for the same secret, so that recordings
still match each other. A secret may arrive in two reads: the end of a read is kept back until it
is clear that no secret begins in it.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from proxy.recording.cassette import Headers

_HEADERS: Final = frozenset(
    (
        *("authorization", "proxy-authorization", "cookie", "set-cookie"),
        *("x-api-key", "api-key", "x-goog-api-key", "xi-api-key", "x-auth-token"),
        *("openai-organization", "openai-project", "x-amz-security-token"),
    )
)
_AUTHORIZATIONS: Final = ("authorization", "proxy-authorization")
# What tells a secret by itself. Bare words such as key and token stand in too many innocent places:
# what is replaced cannot be replayed. Nor is a word of prose behind "the secret:" one, and a
# placeholder for a null would be no JSON.
_KEYS: Final = rb"sk|pk|rk|ghp|gho|ghu|ghs|ghr|github_pat|glpat|hf|gsk|xai|nvapi|xox[abeoprs]"
_NAMES: Final = rb"password|passwd|secret|api[_-]?key|access[_-]?token|client[_-]?secret"
_FORMS: Final = (
    rb"(?i:\bbearer\s+)(?P<s0>[\w.~+/=-]{8,})",
    rb"\b(?P<s1>(?:%b)[-_][A-Za-z0-9_-]{12,})" % _KEYS,
    rb"\b(?P<s2>(?:AKIA|ASIA)[A-Z0-9]{12,}|AIza[\w-]{30,})\b",
    rb"\b(?P<s3>eyJ[\w-]{8,}\.[\w-]{8,}\.?[\w-]*)",
    rb"://[^/\s:@\"]{1,256}:(?P<s4>[^/\s@\"]{1,256})@",
    rb"(?P<s5>-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*)",
    rb"(?i:(?:%b)(?!(?<=secret):\s+[a-z]+(?:[\s.,!?;)]|\Z))"
    rb"(?:\\?[\"'])?\s*[=:]\s*(?!null\b|true\b|false\b)(?:\\?[\"'])?)"
    rb"(?P<s6>[^\s\"'&;,\\\[{}]{4,})" % _NAMES,
)
# Without one of these, in lower case, there is none of the forms: a quick no, most of the time.
_TRIGGERS: Final = re.compile(
    rb"bearer|sk-|sk_|pk-|pk_|rk-|rk_|ghp|gho|ghu|ghs|ghr|github_pat|glpat|hf-|hf_|xai-|xai_|nvapi|"
    rb"xox|akia|asia|aiza|eyj|://|-----begin|passw|secret|api_key|api-key|apikey|access"
)
_PLACEHOLDER: Final = re.compile(rb'"?(\[redacted:[0-9a-f]{12}\])"?')
# Behind one of these no secret goes on, but for those that hold one themselves.
_TO_BREAK: Final = re.compile(rb"(?s:.*)[\s\"',;]")
_LONGEST_BYTES: Final = 1 << 16
_MOST_BYTES: Final = 1 << 20  # that wait for the end of what looks like a secret
_CONTEXT_BYTES: Final = 64
_HELD_BYTES: Final = 48  # -----BEGIN ENCRYPTED PRIVATE KEY-----
_HELD_FOR_PATTERNS_BYTES: Final = 256
_SHORTEST_SECRET: Final = 8
_LONGEST_WORD: Final = 24

Span = tuple[int, int]
Marks = tuple[Span, ...]
Clear = tuple[Any, bytes, Marks]


def placeholder(secret: bytes) -> bytes:
    """What stands for a secret: always the same. What stands for one already stays."""
    if found := _PLACEHOLDER.fullmatch(secret):
        return found[1]  # a recording that is recorded again
    return f"[redacted:{hashlib.sha256(secret).hexdigest()[:12]}]".encode()


class Redaction:
    """The rules of one proxy.

    Args:
        headers: names of more headers that hold secrets.
        patterns: more forms, as regular expressions; the whole match is the secret.
        paths: places in JSON bodies, as ``messages.*.content`` or ``user``.
        secrets: the proxy's own keys.
    """

    def __init__(
        self,
        *,
        headers: Iterable[str] = (),
        patterns: Iterable[str] = (),
        paths: Iterable[str] = (),
        secrets: Iterable[str] = (),
    ) -> None:
        self._headers = _HEADERS | {name.lower() for name in headers}
        # Each on its own: flags and numbers of groups are of one pattern.
        self._more = [re.compile(pattern.encode()) for pattern in patterns]
        self._paths = [path.split(".") for path in paths]
        own = (secret.encode("utf-8", "surrogateescape") for secret in secrets)
        self._rules = _Rules(frozenset(s for s in own if len(s) >= _SHORTEST_SECRET), self._more)

    def exchange(self, headers: Headers) -> "ExchangeRedaction":
        """The rules for one exchange, whose own credentials are secrets, too."""
        rules = self._rules
        found = {
            word.encode("utf-8", "surrogateescape")
            for name, value in headers
            if name.lower() in self._headers
            for word in _credentials(name.lower(), value)
        }
        if found - rules.known:
            rules = _Rules(rules.known | found, self._more)
        return ExchangeRedaction(self._headers, rules, self._paths)


def _credentials(name: str, value: str) -> list[str]:
    """What of a header is a secret wherever it turns up.

    Schemes and names of cookies are none. Nor are words such as ``undefined``, ``localhost`` or
    ``dark-mode``, which stand for a key, or beside one in a cookie, and in any chat as well.
    """
    words = [value]
    if name.endswith("cookie"):
        words = [part.partition("=")[2] for part in value.split(";")]
    elif name in _AUTHORIZATIONS:
        scheme, _, rest = value.partition(" ")
        words = re.split(r"[,\s]+", rest or scheme)
        words += [word.partition("=")[2] for word in words]  # as in Digest
    words = [word.strip(' \t"') for word in words]
    return [w for w in words if len(w) >= _SHORTEST_SECRET and not _is_word(w)]


def _is_word(text: str) -> bool:
    return len(text) < _LONGEST_WORD and not any(letter.isdigit() for letter in text)


class _Rules:
    """What is a secret in one exchange.

    Attributes:
        known: secrets, literally.
        held_bytes: the most of a secret that may stand before a break in it.
    """

    def __init__(self, known: frozenset[bytes], more: Sequence[re.Pattern[bytes]]) -> None:
        self.known = known
        longest = [re.escape(secret) for secret in sorted(known, key=len, reverse=True)]
        literal = [b"(?P<known>" + b"|".join(longest) + b")"] if known else []
        self._forms = re.compile(b"|".join([*literal, *_FORMS]))
        self._more = more
        broken = [len(secret) for secret in known if _last_break(secret)]
        usual = _HELD_FOR_PATTERNS_BYTES if more else _HELD_BYTES
        self.held_bytes = max(usual, *broken) if broken else usual

    def spans(self, data: bytes) -> list[Span]:
        """Where secrets stand, in order, none within another."""
        spans: list[Span] = []
        if _TRIGGERS.search(data.lower()) or any(secret in data for secret in self.known):
            spans = [_span(found) for found in self._forms.finditer(data)]
        if not self._more:
            return spans
        spans += [found.span() for form in self._more for found in form.finditer(data) if found[0]]
        apart: list[Span] = []
        for start, stop in sorted(spans):
            if apart and start < apart[-1][1]:
                apart[-1] = apart[-1][0], max(stop, apart[-1][1])
            else:
                apart.append((start, stop))
        return apart


class ExchangeRedaction:
    """The rules for one exchange."""

    def __init__(
        self, headers: frozenset[str], rules: _Rules, paths: Sequence[Sequence[str]]
    ) -> None:
        self._headers = headers
        self._rules = rules
        self._paths = paths

    def headers(self, headers: Headers) -> Headers:
        """Names stay; values of headers that hold secrets go as a whole."""
        return tuple(
            (
                name,
                placeholder(value.encode("utf-8", "surrogateescape")).decode()
                if name.lower() in self._headers
                else self.text(value),
            )
            for name, value in headers
        )

    def text(self, text: str) -> str:
        return self.data(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def data(self, data: bytes) -> bytes:
        """Any bytes, whole."""
        return _cut(data, 0, len(data), self._rules.spans(data))

    def tree(self, value: Any) -> Any:
        """Any JSON, by its texts."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {key: self.tree(inner) for key, inner in value.items()}
            case list():
                return [self.tree(inner) for inner in value]
            case _:
                return value

    def body(self, data: bytes) -> bytes:
        """A body: its JSON places, then all forms."""
        if self._paths:
            try:
                tree = orjson.loads(data)
            except orjson.JSONDecodeError:
                return self.data(data)
            hidden = [_hide(tree, path) for path in self._paths]
            if any(hidden):
                data = orjson.dumps(tree)
        return self.data(data)

    def stream(self) -> "StreamRedaction":
        return StreamRedaction(self._rules)


class StreamRedaction:
    """The bytes of one side of an exchange, as they come."""

    def __init__(self, rules: _Rules) -> None:
        self._rules = rules
        self._waiting: list[Clear] = []
        self._size = 0
        self._broken = 0  # where the last break ends
        self._enough = 0  # no look before there is so much: a long secret would be read often
        self._before = b""  # what is clear already, but may say what the next words are

    def feed(self, key: Any, data: bytes, marks: Marks = ()) -> list[Clear]:
        """Take the bytes of one read; return reads that are clear now, with their keys.

        Args:
            marks: places in the data, as (start, stop); they are moved along.
        """
        self._waiting.append((key, data, marks))
        if end := _last_break(data):
            self._broken = self._size + end
        self._size += len(data)
        if self._size - self._broken >= _LONGEST_BYTES:
            self._broken = self._size
        if self._size and (not self._broken or self._size < self._enough):
            return []
        return self._clear(self._broken)

    def flush(self) -> list[Clear]:
        """No more comes."""
        return self._clear(self._size, is_last=True)

    def copy(self) -> "StreamRedaction":
        """Another stream that was the same so far."""
        twin = StreamRedaction(self._rules)
        twin._waiting, twin._size = self._waiting.copy(), self._size
        twin._broken, twin._enough = self._broken, self._enough
        twin._before = self._before
        return twin

    def _clear(self, stop: int, *, is_last: bool = False) -> list[Clear]:
        """The reads that lie before ``stop`` as a whole, secrets replaced where they begin."""
        at = len(self._before)
        joined = self._before + b"".join(piece for _, piece, _ in self._waiting)
        spans = self._rules.spans(joined)
        stop += at
        if not is_last and self._size < _MOST_BYTES:
            stop = self._until(stop, spans, len(joined))
        clear: list[Clear] = []
        taken = 0
        for key, piece, marks in self._waiting:
            end = at + len(piece)
            if end > stop and not is_last:
                break
            moved = tuple(
                (len(_cut(joined, at, at + first, spans)), len(_cut(joined, at, at + last, spans)))
                for first, last in marks
            )
            clear.append((key, _cut(joined, at, end, spans), moved))
            taken += 1
            at = end
        gone = self._waiting[:taken]
        del self._waiting[:taken]
        size = sum(len(piece) for _, piece, _ in gone)
        self._size -= size
        self._broken = max(0, self._broken - size)
        self._enough = 0 if gone else self._size + self._size // 4
        start = at - _CONTEXT_BYTES
        for first, last in reversed(spans):
            if first - _CONTEXT_BYTES < start < last:
                start = first - _CONTEXT_BYTES  # it must be seen whole to be seen again
        self._before = joined[max(0, start) : at]
        return clear

    def _until(self, stop: int, spans: Sequence[Span], size: int) -> int:
        """How far it is certain what is a secret: in front of what may yet become one, or go on."""
        if self._size:
            stop = min(stop, size - self._rules.held_bytes)
        for first, last in spans:
            if first < stop <= last:
                stop = first
        return stop


def _last_break(data: bytes) -> int:
    """Where the last break ends; 0 without one."""
    found = _TO_BREAK.match(data)
    return 0 if found is None else found.end()


def _span(found: re.Match[bytes]) -> Span:
    name = found.lastgroup
    return found.span(name) if name else found.span()


def _cut(joined: bytes, start: int, stop: int, spans: Sequence[Span]) -> bytes:
    """A part, less its part of each secret; the placeholder stands where the secret begins."""
    if not spans:
        return joined[start:stop]
    pieces: list[bytes] = []
    at = start
    for first, last in spans:
        if last <= start or first >= stop:
            continue
        pieces.append(joined[at : max(first, at)])
        if first >= start:
            pieces.append(placeholder(joined[first:last]))
        at = min(last, stop)
    pieces.append(joined[at:stop])
    return b"".join(pieces)


def _hide(tree: Any, path: Sequence[str]) -> bool:
    """Replace what stands at a path; True where something did. ``*`` is any key, any index."""
    name, rest = path[0], path[1:]
    if isinstance(tree, list):
        keys: list[Any] = list(range(len(tree))) if name == "*" else []
        if name.isdigit() and int(name) < len(tree):
            keys = [int(name)]
    elif isinstance(tree, dict):
        keys = list(tree) if name == "*" else [name] if name in tree else []
    else:
        return False
    if rest:
        hidden = [_hide(tree[key], rest) for key in keys]
        return any(hidden)
    for key in keys:
        tree[key] = placeholder(orjson.dumps(tree[key])).decode()
    return bool(keys)
