"""The value of a top-level key in a JSON object: where its bytes are, and others for them.

Nothing else of the object is changed, and nothing is decoded but keys with escapes. A key that
stands there twice is found twice: JSON parsers disagree on which of them counts. The work grows
with the size only, and an object of too many parts is not followed. Each single match of a regular
expression is short (``_WINDOW``), so that other threads may run in between.
"""

import json
import re
from typing import Final

_MAX_KEYS: Final = 10_000  # of the object itself
_MAX_BRACKETS: Final = 2_000_000  # in all of it; so many take about a second, in a thread
_LONGEST_CHARACTER: Final = 6  # \uXXXX
_WINDOW: Final = 1 << 18
_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_SCALAR: Final = re.compile(rb"[^,}\]\[{\s\":]++")
_IN_TEXT: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_IN_VALUE: Final = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_FIRST: Final = re.compile(rb'\s*+\{\s*+"model"\s*+:\s*+("[^"\\]{0,512}+")')
_LAST: Final = re.compile(rb'"model"\s*+:\s*+("[^"\\]{0,512}+")\s*+\}\s*+\Z')
_OPENS: Final = b"{["
_CLOSES: Final = b"}]"

Spans = list[tuple[int, int]]


def spans(data: bytes, key: str = "model") -> Spans | None:
    """Where the values of a key are, as (start, stop); None if this cannot be followed.

    Args:
        data: a JSON object. It is followed as far as its form matters here, not validated.
        key: ASCII.
    """
    longest = _LONGEST_CHARACTER * len(key) + 2
    if data.count(b"{") + data.count(b"[") > _MAX_BRACKETS:
        return None
    found: Spans = []
    at = _behind(data, 0, b"{")
    if at is not None and _behind(data, at, b"}") == len(data):
        return found
    for _ in range(_MAX_KEYS):
        stop = None if at is None or data[at : at + 1] != b'"' else _text_end(data, at)
        start = None if stop is None else _behind(data, stop, b":")
        if at is None or stop is None or start is None:
            return None
        end = _value_end(data, start)
        if end is None:
            return None
        if stop - at <= longest and _is_key(data[at:stop], key):
            found.append((start, end))
        at = _behind(data, end, b",")
        if at is None:
            return found if _behind(data, end, b"}") == len(data) else None
    return None


def model_spans(data: bytes) -> Spans | None:
    """The same for ``model`` in what is known to be JSON: mostly without following it.

    Within a text of JSON there is no quotation mark without an escape, so these bytes are a text of
    their own. Where they are the first or the last key of the object, nothing else needs a look.

    Args:
        data: a valid JSON object.
    """
    if b"\\u" not in data and (at := data.find(b'"model"')) >= 0:
        if at != data.rfind(b'"model"'):
            return spans(data)
        found = _FIRST.match(data, 0, at + _WINDOW) or _LAST.match(data, at)
        if found is not None:
            return [found.span(1)]
    return spans(data)


def replaced(data: bytes, found: Spans, name: str) -> bytes:
    """The object with another value of ``model``.

    Args:
        data: a JSON object.
        found: where its values are: see ``spans``.
        name: the new value.
    """
    value = json.dumps(name, ensure_ascii=False).encode("utf-8", "replace")
    parts, at = [], 0
    for start, stop in found:
        parts += [data[at:start], value]
        at = stop
    return b"".join((*parts, data[at:]))


def _behind(data: bytes, at: int, mark: bytes) -> int | None:
    """The place behind a mark, and the space around it; None where it does not stand."""
    at = _skip_space(data, at)
    return _skip_space(data, at + 1) if data[at : at + 1] == mark else None


def _skip_space(data: bytes, at: int) -> int:
    while (stop := _end(_SPACE, data, at)) == at + _WINDOW:
        at = stop
    return stop


def _value_end(data: bytes, at: int) -> int | None:
    """The end of the value that begins here."""
    first = data[at : at + 1]
    if first == b'"':
        return _text_end(data, at)
    if not first or first not in _OPENS:
        stop = _end(_SCALAR, data, at)
        return stop if at < stop < at + _WINDOW else None  # no number is as long
    depth = 0
    while at < len(data):
        one = data[at]
        if one in _OPENS:
            depth += 1
        elif one in _CLOSES:
            depth -= 1
            if not depth:
                return at + 1
        else:
            stop = _end(_IN_VALUE, data, at)
            if stop == at:  # a text that is longer than a window
                stop = _text_end(data, at) or len(data)
            at = stop
            continue
        at += 1
    return None


def _text_end(data: bytes, at: int) -> int | None:
    """The end of the text whose quotation mark is here; None where it has none."""
    at += 1
    while data[at : at + 1] != b'"':
        stop = _end(_IN_TEXT, data, at)
        if stop == at:
            return None
        at = stop
    return at + 1


def _end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Where a match from here ends, within one window."""
    found = pattern.match(data, at, at + _WINDOW)
    return at if found is None else found.end()


def _is_key(quoted: bytes, key: str) -> bool:
    if b"\\" not in quoted:
        return quoted[1:-1] == key.encode()
    try:
        return bool(json.loads(quoted) == key)
    except ValueError:
        return False
