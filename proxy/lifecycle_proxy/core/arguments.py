"""The arguments of one tool call: pieces of JSON, mostly, that add up.

Backends send them in three more ways: as snapshots, each with all there is so far; with an empty
object in front, as a placeholder; and whole, a second time. ``take`` sorts these out.

Whether arguments are whole is judged by their strings, braces and brackets alone. That is enough to
see that they were cut, it holds for JSON that strict parsers refuse (a raw line end in a string),
and it reads every character once, however often it is asked.
"""

from typing import Final

import orjson

from lifecycle_proxy.core.complexity import is_too_complex

_ENDS: Final = {"{": "}", "[": "]"}


class Arguments:
    """The arguments of one call, as they grow. Above ``LIMIT`` characters only the start is kept.

    Attributes:
        restarts: how often they began anew.

    Args:
        is_free_form: a text of any kind, as custom tools take it: nothing is concluded from it.
    """

    LIMIT: Final = 1 << 20
    __slots__ = (
        "_depth",
        "_first",
        "_in_string",
        "_last",
        "_pieces",
        "_repetition",
        "_size",
        "_unread",
        "is_free_form",
        "restarts",
    )

    def __init__(self, *, is_free_form: bool = False) -> None:
        self.is_free_form = is_free_form
        self.restarts = -1
        self.clear()

    def clear(self) -> None:
        """They begin anew."""
        self.restarts += 1
        self._pieces: list[str] = []
        self._size = 0
        self._repetition: Arguments | None = None  # a repetition that is not whole yet
        # What is known of the pieces that were read; each is read once.
        self._unread: list[str] = []
        self._first = self._last = ""  # characters that are no white space
        self._depth = 0
        self._in_string = False

    def append(self, piece: str) -> None:
        """Add a piece."""
        if self._size < self.LIMIT:
            kept = piece[: self.LIMIT - self._size]
            self._pieces.append(kept)
            self._unread.append(kept)
        self._size += len(piece)

    def take(self, piece: str) -> None:
        """Add a piece that may be all of them again.

        Only a snapshot or a repetition can begin with a brace behind a whole object, or with all
        that there is of an object so far: quotes in the strings of an object are escaped. (So can
        an object that is the first value, and has the same first key. Of the two it is rare.)
        """
        if self._repetition is not None:
            self._repeat(self._repetition, piece)
        elif piece[:1] != "{" or not self._size or self.is_free_form:
            self.append(piece)
        elif self.is_placeholder or (len(piece) >= self._size and piece.startswith(str(self))):
            self.clear()
            self.append(piece)
        elif self.complete:
            self._repetition = Arguments()
            self._repeat(self._repetition, piece)
        else:
            self.append(piece)

    def _repeat(self, again: "Arguments", piece: str) -> None:
        """Of two whole objects the later counts. One that never becomes whole does not."""
        again.take(piece)
        if again.complete:
            self.clear()
            self.append(str(again))

    @property
    def is_repeated(self) -> bool:
        """Whether the next piece belongs to a repetition."""
        return self._repetition is not None

    @property
    def length(self) -> int:
        """How many characters are kept."""
        return min(self._size, self.LIMIT)

    def behind(self, offset: int) -> str:
        """What is kept behind so many characters. It costs what is new, not all there is."""
        found, missing = [], self.length - offset
        for piece in reversed(self._pieces):
            if missing <= 0:
                break
            found.append(piece[-missing:])
            missing -= len(piece)
        return "".join(reversed(found))

    def __bool__(self) -> bool:
        return self._size > 0

    def __str__(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    @property
    def complete(self) -> bool:
        """Whether they are a whole object or array: nothing may follow."""
        return self._is_structure() and not self._is_open() and self._last == _ENDS[self._first]

    @property
    def unfinished(self) -> bool:
        """Whether they visibly broke off: a string, a brace or a bracket is still open."""
        return self._is_structure() and self._is_open()

    @property
    def is_placeholder(self) -> bool:
        """Whether they are an empty object, which may stand for arguments to come."""
        return 2 <= self._size <= 4 and "".join(str(self).split()) == "{}"

    @property
    def are_settled(self) -> bool:
        """Whether they are whole, and no placeholder."""
        return self.complete and not self.is_placeholder

    def _is_open(self) -> bool:
        return self._in_string or self._depth > 0

    def _is_structure(self) -> bool:
        if self._unread:
            unread = "".join(self._unread)
            self._unread = self._read(unread)
        return self._first in _ENDS and self._size <= self.LIMIT and not self.is_free_form

    def _read(self, text: str) -> list[str]:
        """Count what opens and closes in the next stretch of text; return what is left of it."""
        if not (seen := text.strip()):
            return []
        self._first = self._first or seen[0]
        self._last = seen[-1]
        left = []
        if "\\" in text:
            text = text.replace("\\\\", "")
            if text.endswith("\\"):  # what it escapes has not come
                text, left = text[:-1], ["\\"]
            text = text.replace('\\"', "")
        parts = text.split('"')
        outside = "".join(parts[self._in_string :: 2])
        self._depth += outside.count("{") + outside.count("[")
        self._depth -= outside.count("}") + outside.count("]")
        self._in_string ^= len(parts) % 2 == 0
        return left


def canonical(arguments: str) -> str:
    """The same for arguments that mean the same: JSON without its blanks, with its keys sorted."""
    if is_too_complex(arguments):
        return arguments.strip()
    try:
        decoded = orjson.loads(arguments)
        return orjson.dumps(decoded, option=orjson.OPT_SORT_KEYS).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return arguments.strip()
