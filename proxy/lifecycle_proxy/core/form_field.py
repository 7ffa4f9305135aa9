"""A field of a form (multipart/form-data, RFC 7578): where the bytes of its value are.

The form is looked through as it comes, each byte once. Nothing is decoded, and files are skipped.
"""

import re
from typing import Final

_MAX_PARTS: Final = 1_000
_MAX_HEADERS_BYTES: Final = 1 << 14  # of one part
_MAX_VALUE_BYTES: Final = 1 << 12
_DISPOSITION: Final = re.compile(
    rb"\r\ncontent-disposition[ \t]*+:[ \t]*+form-data([^\r\n]*+)", re.IGNORECASE
)
_PARAMETER: Final = re.compile(
    rb';[ \t]*+([\w*-]++)[ \t]*+=[ \t]*+(?:"((?:[^"\\]|\\.)*+)"|([^;]*+))', re.DOTALL
)
_BEHIND: Final = (b"--", b"\r\n")  # a boundary; RFC 2046 also allows space


class FieldSearch:
    """Looks for the first field of a name.

    Args:
        boundary: of the form, as its ``Content-Type`` says.
        name: of the field.

    Attributes:
        span: where its value is, as (start, stop); None while it has not been found.
        is_over: more of the form is of no use.
    """

    def __init__(self, boundary: bytes, name: bytes) -> None:
        self.span: tuple[int, int] | None = None
        self.is_over = not boundary
        self._delimiter = b"\r\n--" + boundary
        self._name = name
        self._parts = 0
        self._start: int | None = None  # of the content of the part that is looked at
        self._at = 0  # where its headers begin; what comes before has been looked through
        self._is_wanted = False

    def look(self, data: bytes | bytearray) -> None:
        """Look on.

        Args:
            data: the form so far, from its beginning on.
        """
        if not self._parts and not self._find_first(data):
            return
        while not self.is_over and (self._has_headers(data) and self._has_content(data)):
            self._parts += 1
            if self._parts > _MAX_PARTS:
                self.is_over = True

    def _find_first(self, data: bytes | bytearray) -> bool:
        """The first boundary; mostly there is nothing in front of it."""
        first = self._delimiter[2:]
        if len(data) < len(first):
            return False
        if data.startswith(first):
            self._at = len(first)
        elif (found := data.find(self._delimiter, self._at)) >= 0:
            self._at = found + len(self._delimiter)
        else:
            self._at = max(len(data) - len(self._delimiter), 0)
            return False
        self._parts = 1
        return True

    def _has_headers(self, data: bytes | bytearray) -> bool:
        """Read the headers of a part."""
        if self._start is not None:
            return True
        if data[self._at : self._at + 2] == b"--":  # that was the last
            self.is_over = True
            return False
        end = data.find(b"\r\n\r\n", self._at, self._at + _MAX_HEADERS_BYTES)
        if end < 0:
            self.is_over = len(data) - self._at > _MAX_HEADERS_BYTES
            return False
        self._is_wanted = _field_name(bytes(data[self._at : end])) == self._name
        self._start = self._at = end + 4
        return True

    def _has_content(self, data: bytes | bytearray) -> bool:
        """Find the end of a part."""
        start, delimiter = self._start, self._delimiter
        assert start is not None, "its headers have been read"
        at = self._at
        while (at := data.find(delimiter, at)) >= 0:
            behind = bytes(data[at + len(delimiter) : at + len(delimiter) + 2])
            if len(behind) < 2:
                break
            if behind in _BEHIND or behind[:1] in b" \t":
                if self._is_wanted:
                    self.span = (start, at) if at - start <= _MAX_VALUE_BYTES else None
                    self.is_over = True
                self._start, self._at = None, at + len(delimiter)
                return True
            at += 1  # a longer word that begins alike
        self._at = max(start, len(data) - len(delimiter) - 2)
        self.is_over = self._is_wanted and len(data) - start > _MAX_VALUE_BYTES
        return False


def _field_name(headers: bytes) -> bytes | None:
    """The name in a part's headers; None for a file, and where there is none."""
    found = _DISPOSITION.search(headers)
    if found is None:
        return None
    own = {
        one[1].lower(): one[2] or (one[3] or b"").strip() for one in _PARAMETER.finditer(found[1])
    }
    return None if b"filename" in own or b"filename*" in own else own.get(b"name")
