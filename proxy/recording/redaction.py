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
# What tells a secret by itself. Bare words such as key and token stand in too many innocent places:
# what is replaced cannot be replayed.
_KEYS: Final = rb"sk|pk|rk|ghp|gho|ghu|ghs|ghr|github_pat|glpat|hf|gsk|xai|nvapi|xox[abeoprs]"
_NAMES: Final = rb"password|passwd|secret|api[_-]?key|access[_-]?token|client[_-]?secret"
_FORMS: Final = (
    rb"(?i:\bbearer\s+)(?P<s0>[\w.~+/=-]{8,})",
    rb"\b(?P<s1>(?:%b)[-_][A-Za-z0-9_-]{12,})" % _KEYS,
    rb"\b(?P<s2>(?:AKIA|ASIA)[A-Z0-9]{12,}|AIza[\w-]{30,})\b",
    rb"\b(?P<s3>eyJ[\w-]{8,}\.[\w-]{8,}\.?[\w-]*)",
    rb"://[^/\s:@\"]{1,256}:(?P<s4>[^/\s@\"]{1,256})@",
    rb"(?P<s5>-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*)",
    rb"(?i:(?:%b)(?:\\?[\"'])?\s*[=:]\s*(?:\\?[\"'])?)(?P<s6>[^\s\"'&;,\\\[{}]{4,})" % _NAMES,
)
# Behind one of these no secret goes on.
_BREAK: Final = re.compile(rb"[\s\"',;]")
_LONGEST_BYTES: Final = 1 << 16
_CONTEXT_BYTES: Final = 64
_SHORTEST_SECRET: Final = 8


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
        more = [f"(?P<m{n}>{p})".encode() for n, p in enumerate(patterns)]
        self._forms = (*_FORMS, *more)
        self._paths = [path.split(".") for path in paths]
        self._secrets = frozenset(s.encode() for s in secrets)
        self._any = self._compiled(self._secrets)

    def exchange(self, headers: Headers) -> "ExchangeRedaction":
        """The rules for one exchange, whose own credentials are secrets, too."""
        found = set(self._secrets)
        for name, value in headers:
            if name.lower() in self._headers:
                # Without the scheme, or the names of the cookies: those are no secrets.
                words = re.split(r"[;,\s]+", value)[not name.lower().endswith("cookie") :]
                found |= {word.rpartition("=")[2].encode() for word in words or [value]}
        own = frozenset(secret for secret in found if len(secret) >= _SHORTEST_SECRET)
        pattern = self._any if own == self._secrets else self._compiled(own)
        return ExchangeRedaction(self._headers, pattern, self._paths)

    def _compiled(self, secrets: frozenset[bytes]) -> re.Pattern[bytes]:
        known = [re.escape(secret) for secret in sorted(secrets, key=len, reverse=True)]
        literal = [b"(?P<known>" + b"|".join(known) + b")"] if known else []
        return re.compile(b"|".join([*literal, *self._forms]))


class ExchangeRedaction:
    """The rules for one exchange."""

    def __init__(
        self, headers: frozenset[str], pattern: re.Pattern[bytes], paths: Sequence[Sequence[str]]
    ) -> None:
        self._headers = headers
        self._pattern = pattern
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
        return self._pattern.sub(_replacement, data)

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
        return StreamRedaction(self._pattern)


class StreamRedaction:
    """The bytes of one side of an exchange, as they come."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern
        self._waiting: list[tuple[Any, bytes]] = []
        self._size = 0
        self._before = b""  # what is clear already, but may say what the next words are

    def feed(self, key: Any, data: bytes) -> list[tuple[Any, bytes]]:
        """Take the bytes of one read; return reads that are clear now, with their keys."""
        self._waiting.append((key, data))
        self._size += len(data)
        last = None
        for last in _BREAK.finditer(data):  # noqa: B007  the last one counts
            pass
        if last is None and 0 < self._size < _LONGEST_BYTES:
            return []
        stop = self._size - (len(data) - last.end() if last is not None else 0)
        return self._clear(stop)

    def flush(self) -> list[tuple[Any, bytes]]:
        """No more comes."""
        return self._clear(self._size, is_last=True)

    def _clear(self, stop: int, *, is_last: bool = False) -> list[tuple[Any, bytes]]:
        """The reads that lie before ``stop`` as a whole, secrets replaced where they begin."""
        at = len(self._before)
        stop += at
        joined = self._before + b"".join(piece for _, piece in self._waiting)
        spans = [_span(found) for found in self._pattern.finditer(joined)]
        if not is_last and spans and spans[-1][1] >= stop > spans[-1][0]:
            stop = spans[-1][0]  # it may go on
        clear: list[tuple[Any, bytes]] = []
        while self._waiting:
            key, piece = self._waiting[0]
            end = at + len(piece)
            if end > stop and not is_last:
                break
            clear.append((key, _cut(joined, at, end, spans)))
            del self._waiting[0]
            self._size -= len(piece)
            at = end
        self._before = joined[max(0, at - _CONTEXT_BYTES) : at]
        return clear


def _span(found: re.Match[bytes]) -> tuple[int, int]:
    name = found.lastgroup
    return found.span(name) if name else found.span()


def _replacement(found: re.Match[bytes]) -> bytes:
    start, stop = _span(found)
    offset = found.start()
    whole, secret = found[0], found[0][start - offset : stop - offset]
    return whole[: start - offset] + placeholder(secret) + whole[stop - offset :]


def _cut(joined: bytes, start: int, stop: int, spans: Sequence[tuple[int, int]]) -> bytes:
    """One read, less its part of each secret; the placeholder stands where the secret begins."""
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
