"""Redaction of bytes that come in parts.

A secret may arrive in two reads: the end of a read is kept back until it is clear that no secret
begins in it.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final

from lifecycle_proxy.recording.known_secrets import Span
from lifecycle_proxy.recording.secret_forms import (
    SecretMatcher,
    last_delimiter,
    merge_spans,
    overlapping,
)

_BREAK: Final = re.compile(rb"[\s\"',;]")
_DASH: Final = re.compile(b"-")
_URL_END: Final = re.compile(rb"[/\s@\"]")
_JWT_LETTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-."
_LONGEST_BYTES: Final = 1 << 16
_MOST_BYTES: Final = 1 << 20  # that wait for the end of what looks like a secret
_CONTEXT_BYTES: Final = 192  # a name, and what stands between it and its value
_MOST_CONTEXT_BYTES: Final = 1024
_LEAST_BYTES: Final = 1 << 13  # searched at once: each search has a cost of its own

Spans = tuple[Span, ...]
RedactedChunk = tuple[Any, bytes, Spans]


def placeholder(secret: bytes) -> bytes:
    """What stands for a secret: always the same."""
    return f"[redacted:{hashlib.sha256(secret).hexdigest()[:12]}]".encode()


class StreamRedaction:
    """The bytes of one side of an exchange, as they come.

    Args:
        rules: of the exchange.
        keeps_reads: what comes out are the reads that came in. Else they may be cut, and wait for
            less: each byte is searched once.
    """

    def __init__(self, rules: SecretMatcher, *, keeps_reads: bool = True) -> None:
        self._rules = rules
        self._keeps_reads = keeps_reads
        self._waiting: list[RedactedChunk] = []
        self._size = 0
        self._broken = 0  # where the last break ends
        self._enough = _LEAST_BYTES  # no look before: what waits would be read often
        self._before = b""  # what is clear already, but may say what the next words are
        self._until: re.Pattern[bytes] | None = None  # where a secret that has no end may end

    def feed(self, key: Any, data: bytes, marks: Spans = ()) -> list[RedactedChunk]:
        """Take the bytes of one read; return reads that are clear now, with their keys.

        Args:
            marks: places in the data, as (start, stop); they are moved along.
        """
        if self._until is not None:
            data, marks = self._behind(self._until, data, marks)
        self._waiting.append((key, data, marks))
        if end := last_delimiter(data):
            self._broken = self._size + end
        self._size += len(data)
        if self._size - self._broken >= _LONGEST_BYTES:
            self._broken = self._size
        if self._size and (not self._broken or self._size < self._enough):
            return []
        return self._clear(self._broken)

    def certain(self) -> list[RedactedChunk]:
        """What is clear by now, though it may be little: somebody looks."""
        return self._clear(self._broken) if self._broken else []

    def flush(self) -> list[RedactedChunk]:
        """No more comes."""
        return self._clear(self._size, is_last=True)

    def copy(self) -> "StreamRedaction":
        """Another stream that was the same so far."""
        twin = StreamRedaction(self._rules)
        vars(twin).update(vars(self), _waiting=self._waiting.copy())
        return twin

    def _behind(self, end: re.Pattern[bytes], data: bytes, marks: Spans) -> tuple[bytes, Spans]:
        """What stands behind the rest of a secret that was too long to wait for."""
        found = end.search(data)
        at = len(data)
        if found is not None:
            self._until, at = None, found.start()
        moved = tuple((max(0, first - at), max(0, last - at)) for first, last in marks)
        return data[at:], moved

    def _clear(self, stop: int, *, is_last: bool = False) -> list[RedactedChunk]:
        """The reads that lie before ``stop`` as a whole, secrets replaced where they begin."""
        at = len(self._before)
        joined = self._before + b"".join(piece for _, piece, _ in self._waiting)
        spans = self._rules.spans(joined)
        stop = len(joined) if is_last else self._certain(at + stop, spans, joined)
        if len(joined) - max(stop, at) >= _MOST_BYTES:
            stop, spans = len(joined), self._cut_off(joined, spans)
        clear: list[RedactedChunk] = []
        for key, piece, marks in self._waiting:
            end = at + len(piece)
            if end > stop:
                break
            moved = tuple(
                (len(cut(joined, at, at + first, spans)), len(cut(joined, at, at + last, spans)))
                for first, last in marks
            )
            clear.append((key, cut(joined, at, end, spans), moved))
            at = end
        if not self._keeps_reads and at < stop and len(clear) < len(self._waiting):
            key, piece, _ = self._waiting[len(clear)]
            clear.append((key, cut(joined, at, stop, spans), ()))
            self._waiting.insert(len(clear), (key, piece[stop - at :], ()))
            at = stop
        size = at - len(self._before)
        del self._waiting[: len(clear)]
        self._size -= size
        self._broken = max(0, self._broken - size)
        self._enough = self._size + max(self._size // 4, _LEAST_BYTES)
        self._before = _context(joined, at, spans)
        return clear

    def _cut_off(self, joined: bytes, spans: list[Span]) -> list[Span]:
        """No more can wait. What looks as if a secret began there is one, with all that follows."""
        begins = _unfinished(joined)
        spans = merge_spans([*spans, (begins, len(joined))] if begins < len(joined) else spans)
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


def cut(joined: bytes, start: int, stop: int, spans: Sequence[Span]) -> bytes:
    """A part without secrets; the placeholder of one stands where that begins.

    Args:
        joined: all bytes.
        start: of the part.
        stop: of the part.
        spans: where secrets are in all bytes, in order, none within another.
    """
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
