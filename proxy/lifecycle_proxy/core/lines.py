r"""The lines of the dialect ``quote`` in an answer's text, and how they leave later requests.

Such a line is text of the answer for every page, so it comes back with the history, in any text of
a request: messages of the three APIs, parts of them, titles and summaries of a conversation, words
of a user who quotes the answer. The model must never see it, or it begins to write such lines.

A line carries an invisible mark: U+2063, twice in front and once behind, so that a start is
known from an end where one of them is lost. A whole line goes with the line ends around it that it
came with, and the text is again what the model wrote. Where a page has wrapped, cut or joined the
text, what is left of a line goes, and every line end that is not surely its own stays.

Nothing is parsed: bytes inside of JSON strings are cut out, escaped or not, also of JSON inside of
JSON. A line holds neither quotation marks nor backslashes, so each backslash in it is an escape.
All work is linear in the size of the request, and none of it can fail.
"""

import re
from collections.abc import Iterator
from heapq import merge
from typing import Final

_MARK: Final = "\u2063"
START: Final = _MARK * 2
END: Final = _MARK

_LITERAL: Final = _MARK.encode()
_ESCAPED: Final = b"u2063"
# No line is longer, and no look back or ahead goes farther.
_MAX_BYTES: Final = 8192
_MAX_MARKS: Final = 20_000  # a line has three; so many take up to a second, in a thread
_NEAR_BYTES: Final = 96  # what stands around a mark, in JSON inside of JSON inside of JSON


def _one_of(*patterns: bytes) -> bytes:
    return b"(?:" + b"|".join(patterns) + b")"


def _maybe(*patterns: bytes) -> bytes:
    return b"(?:" + b"".join(patterns) + b")?"


# In patterns each run of backslashes is taken as a whole, so none is looked at twice.
_M: Final = _one_of(rb"\xe2\x81\xa3", rb"(?<!\\)\\++u2063")
_ELLIPSIS: Final = _one_of(rb"\xe2\x80\xa6", rb"\\++u2026")
_TICK: Final = _one_of(rb"\xe2\x9c[\x93\x97]", rb"\\++u271[37]")
_GT: Final = _one_of(rb">", rb"\\++u003[eE]")
_NEW_LINE: Final = rb"(?:\\++r)?+\\++n"
_SPACE: Final = _one_of(rb"[ ]", _NEW_LINE + _one_of(_GT, rb"[ ]") + rb"*+")
_STRING_END: Final = rb'(?=\\*+")'
# A character of a line, beyond ASCII or not. Others can be left out.
_BEYOND: Final = rb"[\x80-\xe1\xe3-\xff]|\xe2(?!\x81\xa3)|\\++u(?!2063)[0-9a-fA-F]{4}"
_CHAR: Final = _one_of(rb'[^"\\\x00-\x1f\x80-\xff%b]', rb"\\++/", _BEYOND)
_ANY: Final = _CHAR % b""
_CODE: Final = rb"`" + _CHAR % b"`" + rb"*+`?"
_NAME: Final = _one_of(_CODE, _CHAR % b"`: " + rb"++")
_ENDED: Final = _TICK + _maybe(_SPACE, rb"[0-9.]++", _maybe(_SPACE, rb"s"))
# A line that a page has wrapped goes on behind a line end, but not behind an empty line.
_WRAP: Final = rb"\\++[rt]|\\++n(?!" + _one_of(rb"[ ]", _GT, rb"\\++[rt]") + rb"*+\\++n)"
_UP_TO_MAX: Final = b"{1,%d}+" % _MAX_BYTES
_WHOLE: Final = _one_of(_ANY, _WRAP) + _UP_TO_MAX + _M + rb"(?!" + _M + rb"(?!" + _M + rb"))"
# As far as it was written, if the rest was cut off.
_CUT: Final = b"".join(
    (
        _one_of(_BEYOND) + rb"++",
        _maybe(_SPACE, _NAME, _maybe(rb":", _maybe(_SPACE, _maybe(_CODE)))),
        _maybe(_SPACE, _ELLIPSIS),
        _maybe(_maybe(_SPACE), _ENDED),
        _maybe(rb"[ ]", _STRING_END),
    )
)
_LINE: Final = re.compile(
    _M + _one_of(_STRING_END, _M + _one_of(_WHOLE, _CUT, _STRING_END)),
)
_ONE_MARK: Final = re.compile(_M)
_FRONT: Final = re.compile(_maybe(rb"(\\+)n(\\+)n") + _GT + rb"[ ]?\Z")
_BEHIND: Final = re.compile(rb"(\\++)n\1n")
_TIME: Final = _TICK + _SPACE + rb"[0-9]++\.[0-9]" + _SPACE + rb"s"
_END_FRONT: Final = re.compile(_one_of(_ELLIPSIS, _maybe(_ELLIPSIS, _SPACE) + _TIME) + rb"\Z")
# A quick look says of nearly all other marks that they belong to no line.
_LAST_LETTERS: Final = (b"s", b'"', b"\xe2\x80\xa6", b"u2026")
_TICKS: Final = (b"\xe2\x9c", b"u271")
# What can be left in front of that of a line whose beginning was cut off.
_REST: Final = re.compile(
    _maybe(_M)
    + _one_of(_one_of(_CHAR % b"`" + rb"*+`") + rb"{1,4}+", _maybe(rb"[^ ]++[ ]") + rb"[^ ]*+")
    + rb"[ ]?"
)
# The same, cut off in the middle of that.
_LAST_BYTES: Final = re.compile(
    _maybe(rb"[ ]?[0-9]*+\.?[0-9]?[ ]?s")
    + _M
    + rb"(?!"
    + _M
    + rb")"
    + _one_of(rb"(\\++)n\1n", _STRING_END)
)


def may_hold_lines(body: bytes) -> bool:
    """Whether a look at it is worth while."""
    return body.find(_LITERAL) >= 0 or body.find(_ESCAPED) >= 0


def without_lines(body: bytes) -> bytes:
    """A request's body without these lines; the same object where it holds none, or too many."""
    if body.count(_LITERAL) + body.count(_ESCAPED) > _MAX_MARKS:
        return body
    kept: list[bytes] = []
    at = 0
    for start, stop in _cuts(body):
        kept.append(body[at:start])
        at = stop
    return b"".join((*kept, body[at:])) if kept else body


def _cuts(body: bytes) -> Iterator[tuple[int, int]]:
    """What has to go, in order."""
    at = 0
    for mark in _marks(body):
        if mark < at:
            continue
        if found := _LINE.match(body, mark):
            start, end = _front(body, at, mark), found.end()
        elif (rest := _maybe_rest(body, at, mark)) is not None:
            start, end = rest, _past_mark(body, mark)
        else:
            continue
        at = _behind(body, end)
        yield start, at


def _marks(body: bytes) -> Iterator[int]:
    """Where marks begin, literal and escaped ones."""
    return merge(_literal(body), _escaped(body))


def _literal(body: bytes) -> Iterator[int]:
    at = body.find(_LITERAL)
    while at >= 0:
        yield at
        at = body.find(_LITERAL, at + len(_LITERAL))


def _escaped(body: bytes) -> Iterator[int]:
    at = body.find(_ESCAPED)
    while at >= 0:
        near = body[max(0, at - _NEAR_BYTES) : at]
        if backslashes := len(near) - len(near.rstrip(b"\\")):
            yield at - backslashes
        at = body.find(_ESCAPED, at + len(_ESCAPED))


def _past_mark(body: bytes, mark: int) -> int:
    found = _ONE_MARK.match(body, mark)
    return mark if found is None else found.end()


def _front(body: bytes, at: int, mark: int) -> int:
    """Where a line begins whose first mark is here: with an empty line, as it was written."""
    found = _FRONT.search(body, max(at, mark - _NEAR_BYTES), mark)
    if found is None:
        return mark
    if found[1] is None:
        return found.start()
    # Backslashes in front of those of an escape are the text's own.
    extra = len(found[1]) - len(found[2])
    return found.end(1) - len(found[2]) if extra >= 0 else found.end(2) + 1


def _behind(body: bytes, end: int) -> int:
    found = _BEHIND.match(body, end)
    return end if found is None else found.end()


def _maybe_rest(body: bytes, at: int, mark: int) -> int | None:
    """Where the rest of a line begins that ends here: with its string, unless text of others does.

    None where the mark belongs to no line.
    """
    near = body[max(at, mark - _NEAR_BYTES) : mark]
    if not near.endswith(_LAST_LETTERS):
        return None
    quote = body.rfind(b'"', max(at, mark - _MAX_BYTES), mark)
    if quote >= mark - _NEAR_BYTES and _LAST_BYTES.match(body, quote + 1):
        return quote + 1
    if near.endswith(b"s") and not any(tick in near for tick in _TICKS):
        return None
    found = _END_FRONT.search(body, mark - len(near), mark)
    if found is None:
        return None
    is_rest = quote >= 0 and _REST.fullmatch(body, quote + 1, found.start())
    return quote + 1 if is_rest else found.start()
