"""Secrets out of what is recorded, before it reaches the disk.

Known secrets are the keys that the proxy holds and the credentials of the very exchange, wherever
they turn up; others are known by their form, by their header, or by their place in a JSON body.
Each is replaced by a placeholder that is always the same for the same secret, so that recordings
still match each other. What ``scan`` would find is replaced, and more; a placeholder stays as it
is. A secret may arrive in two reads: the end of a read is kept back until it is clear that no
secret begins in it.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import quote, quote_from_bytes, quote_plus, unquote_plus

import orjson

from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.recording import secret_detection
from lifecycle_proxy.recording.secret_forms import (
    ExchangeRules,
    SecretMatcher,
    Span,
    apart,
    last_break,
    overlapping,
)

# Besides those whose names say that they are secret.
_HEADERS: Final = frozenset(("openai-organization", "openai-project"))
_ESCAPE: Final = re.compile("%[0-9A-F]{2}")
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_QUERY_CHARACTERS: Final = "/:@[]"
_AUTHORIZATIONS: Final = ("authorization", "proxy-authorization")
# A header's value, or one of a cookie's, that is redacted already.
_REDACTED: Final = re.compile(rf"\s*(?:[\w-]+[ =])?{secret_detection.PLACEHOLDER.pattern}\s*")
_BREAK: Final = re.compile(rb"[\s\"',;]")
_DASH: Final = re.compile(b"-")
_URL_END: Final = re.compile(rb"[/\s@\"]")
_JWT_LETTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-."
_LONGEST_BYTES: Final = 1 << 16
_MOST_BYTES: Final = 1 << 20  # that wait for the end of what looks like a secret
_CONTEXT_BYTES: Final = 128  # a name, and what stands between it and its value
_MOST_CONTEXT_BYTES: Final = 1024
_SHORTEST_SECRET: Final = 8
_LONGEST_WORD: Final = 24

Marks = tuple[Span, ...]
Clear = tuple[Any, bytes, Marks]


def placeholder(secret: bytes) -> bytes:
    """What stands for a secret: always the same."""
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
        own = (s for secret in secrets if len(secret) >= _SHORTEST_SECRET for s in _forms(secret))
        self._rules = ExchangeRules(frozenset(own), self._more)

    def exchange(self, headers: Headers) -> "ExchangeRedaction":
        """The rules for one exchange, whose own credentials are secrets, too."""
        rules = self._rules
        found = {
            form
            for name, value in headers
            if name.lower() in self._headers or secret_detection.is_secret(name)
            for word in _credentials(name.lower(), value)
            for form in _forms(word)
        }
        if found - rules.known:
            rules = ExchangeRules(rules.known | found, self._more)
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
    return [w for w in words if len(w) >= _SHORTEST_SECRET and not _is_innocent(w)]


def _forms(secret: str) -> set[bytes]:
    """A secret as it is, and as it stands in a URL, in JSON and in base64."""
    plain = secret.encode("utf-8", "surrogateescape")
    quoted = quote_from_bytes(plain, safe="")
    coded, escaped = base64.b64encode(plain).rstrip(b"="), json.dumps(secret)[1:-1]
    texts = {
        *(quoted, quote_plus(plain), _ESCAPE.sub(lambda found: found[0].lower(), quoted)),
        *(escaped, escaped.replace("/", "\\/")),
    }
    return {plain, coded, coded.translate(_URL_SAFE), *(text.encode() for text in texts)}


def _is_innocent(text: str) -> bool:
    """A word, or a placeholder that stands for what is not known any more."""
    is_word = len(text) < _LONGEST_WORD and not any(letter.isdigit() for letter in text)
    return is_word or bool(secret_detection.PLACEHOLDER.search(text))


def _is_redacted(name: str, value: str) -> bool:
    """Whether a header that holds a secret holds a placeholder instead."""
    parts = [value]
    if name.endswith("cookie"):
        parts = value.split(";")[: 1 if name == "set-cookie" else None]
    return all(_REDACTED.fullmatch(part) for part in parts)


class ExchangeRedaction:
    """The rules for one exchange.

    Attributes:
        rules: those for any bytes.
    """

    def __init__(
        self, headers: frozenset[str], rules: SecretMatcher, paths: Sequence[Sequence[str]]
    ) -> None:
        self.rules = rules
        self._headers = headers
        self._paths = paths

    def headers(self, headers: Headers) -> Headers:
        """Names stay; values of headers that hold secrets go as a whole."""
        return tuple((name, self._header(name.lower(), value)) for name, value in headers)

    def _header(self, name: str, value: str) -> str:
        if not (name in self._headers or secret_detection.is_secret(name)):
            return self.text(value)
        if _is_redacted(name, value):
            return value
        return placeholder(value.encode("utf-8", "surrogateescape")).decode()

    def target(self, target: str) -> str:
        """A request's path and query, the query also as a server reads it."""
        path, mark, query = self.text(target).partition("?")
        return path + mark + "&".join(self._parameter(part) for part in query.split("&"))

    def _parameter(self, part: str) -> str:
        name, _, value = part.partition("=")
        plain = f"{unquote_plus(name)}={unquote_plus(value)}"
        clear = self.text(plain)
        if clear == plain:
            return part
        return f"{name}={quote(clear.partition('=')[2], safe=_QUERY_CHARACTERS)}"

    def text(self, text: str) -> str:
        return self.data(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def data(self, data: bytes) -> bytes:
        """Any bytes, whole."""
        return _cut(data, 0, len(data), self.rules.spans(data))

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
        return StreamRedaction(self.rules)


class StreamRedaction:
    """The bytes of one side of an exchange, as they come.

    Args:
        rules: of the exchange.
    """

    def __init__(self, rules: SecretMatcher) -> None:
        self._rules = rules
        self._waiting: list[Clear] = []
        self._size = 0
        self._broken = 0  # where the last break ends
        self._enough = 0  # no look before there is so much: what waits would be read often
        self._before = b""  # what is clear already, but may say what the next words are
        self._until: re.Pattern[bytes] | None = None  # where a secret that has no end may end

    def feed(self, key: Any, data: bytes, marks: Marks = ()) -> list[Clear]:
        """Take the bytes of one read; return reads that are clear now, with their keys.

        Args:
            marks: places in the data, as (start, stop); they are moved along.
        """
        if self._until is not None:
            data, marks = self._behind(self._until, data, marks)
        self._waiting.append((key, data, marks))
        if end := last_break(data):
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
        vars(twin).update(vars(self), _waiting=self._waiting.copy())
        return twin

    def _behind(self, end: re.Pattern[bytes], data: bytes, marks: Marks) -> tuple[bytes, Marks]:
        """What stands behind the rest of a secret that was too long to wait for."""
        found = end.search(data)
        at = len(data)
        if found is not None:
            self._until, at = None, found.start()
        moved = tuple((max(0, first - at), max(0, last - at)) for first, last in marks)
        return data[at:], moved

    def _clear(self, stop: int, *, is_last: bool = False) -> list[Clear]:
        """The reads that lie before ``stop`` as a whole, secrets replaced where they begin."""
        at = len(self._before)
        joined = self._before + b"".join(piece for _, piece, _ in self._waiting)
        spans = self._rules.spans(joined)
        stop = len(joined) if is_last else self._certain(at + stop, spans, joined)
        if len(joined) - max(stop, at) >= _MOST_BYTES:
            stop, spans = len(joined), self._cut_off(joined, spans)
        clear: list[Clear] = []
        for key, piece, marks in self._waiting:
            end = at + len(piece)
            if end > stop:
                break
            moved = tuple(
                (len(_cut(joined, at, at + first, spans)), len(_cut(joined, at, at + last, spans)))
                for first, last in marks
            )
            clear.append((key, _cut(joined, at, end, spans), moved))
            at = end
        size = at - len(self._before)
        del self._waiting[: len(clear)]
        self._size -= size
        self._broken = max(0, self._broken - size)
        self._enough = self._size + self._size // 4
        self._before = _context(joined, at, spans)
        return clear

    def _cut_off(self, joined: bytes, spans: list[Span]) -> list[Span]:
        """No more can wait. What looks as if a secret began there is one, with all that follows."""
        begins = _unfinished(joined)
        spans = apart([*spans, (begins, len(joined))] if begins < len(joined) else spans)
        if spans and spans[-1][1] == len(joined):
            is_pem = joined.startswith(b"-----BEGIN", spans[-1][0])
            self._until = _DASH if is_pem else _BREAK
        return spans

    def _certain(self, stop: int, spans: Sequence[Span], joined: bytes) -> int:
        """How far it is certain what is a secret: in front of what may yet become one, or go on."""
        if self._size:
            stop = min(stop, len(joined) - self._rules.held_bytes, _unfinished(joined))
        for first, _ in overlapping(spans, stop - 1, stop):
            return first
        return stop


def _unfinished(data: bytes) -> int:
    """Where the beginning of a secret stands of which much may come before it is one."""
    stop = len(data)
    url = data.rfind(b"://")
    if url >= 0 and not _URL_END.search(data, url + 3):
        stop = url
    jwt = data.find(b"eyJ", len(data.rstrip(_JWT_LETTERS)))
    return min(stop, jwt) if jwt >= 0 else stop


def _context(joined: bytes, at: int, spans: Sequence[Span]) -> bytes:
    """The end of what is clear. A secret in it must be seen whole to be seen again."""
    start = at - _CONTEXT_BYTES
    for first, last in reversed(spans):
        if last <= start:
            break
        if first - _CONTEXT_BYTES >= start:
            continue
        if at - first + _CONTEXT_BYTES > _MOST_CONTEXT_BYTES:
            start = min(last, at)
            break
        start = first - _CONTEXT_BYTES
    return joined[max(0, start) : at]


def _cut(joined: bytes, start: int, stop: int, spans: Sequence[Span]) -> bytes:
    """A part, less its part of each secret; the placeholder stands where the secret begins."""
    if not spans:
        return joined[start:stop]
    pieces: list[bytes] = []
    at = start
    for first, last in overlapping(spans, start, stop):
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
    keys = [key for key in keys if not _is_placeholder(tree[key])]
    for key in keys:
        tree[key] = placeholder(orjson.dumps(tree[key])).decode()
    return bool(keys)


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, str) and secret_detection.PLACEHOLDER.fullmatch(value) is not None
