"""Bodies in HTTP chunks (RFC 9112 section 7.1). No I/O.

While a model writes, nearly every read is one whole chunk, or a few. Those need no state:
``whole_chunks`` knows them. A read of many whole chunks is passed on unchanged.
"""

import re
from typing import Final

_MAX_LINE: Final = 4096  # a chunk's size and extensions, or a trailer
_MAX_TRAILERS: Final = 65_536
_CR, _LF = b"\r\n"
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
# With zeros in front, and extensions, which are dropped. They hold no control characters.
_LONG_SIZE: Final = re.compile(
    rb"0{0,64}([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n"
)
_TRAILER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n")

# The line in front of the data, by the size of a read that is one chunk and no more. No read of
# 21 bytes is one, for example: the size of 15 bytes takes one digit, that of 16 takes two.
_TABLE_BYTES: Final = 4096
_LINES: list[tuple[bytes, int]] = [(b"-", 0)] * _TABLE_BYTES  # with how long it is
for _size in range(1, _TABLE_BYTES):
    _line = b"%x\r\n" % _size
    if len(_line) + _size + 2 < _TABLE_BYTES:
        _LINES[len(_line) + _size + 2] = _line, len(_line)

_SMALL: Final = {b"%x" % size: size for size in range(1, 1024)}


def whole_chunks(read: bytes) -> bytes:
    """The data of one chunk, or a few, if a read is that and nothing else; else nothing.

    Only sizes as nearly all servers write them, and no large chunks: the rest is not in a hurry.
    """
    size = len(read)
    if size < _TABLE_BYTES:
        line, start = _LINES[size]
        # Faster than startswith and endswith.
        if read[:start] == line and read[-1] == _LF and read[-2] == _CR:
            return read[start:-2]
        pieces: list[bytes] = []
        if _read_small(read, pieces) == size:
            return b"".join(pieces)
    return b""


def _read_small(read: bytes, pieces: list[bytes]) -> int:
    """Append the data of small whole chunks, while there is nothing else: a hostile upstream can
    put 40,000 into one read. Where they end."""
    at, find, append = 0, read.find, pieces.append
    while (line := find(b"\r\n", at, at + 5)) > 0:
        size = _SMALL.get(read[at:line])
        if size is None:
            break
        stop = line + 2 + size
        if read[stop : stop + 2] != b"\r\n":
            break
        append(read[line + 2 : stop])
        at = stop + 2
    return at


class ChunkedBody:
    """Takes the chunks of one body apart.

    Attributes:
        is_between: what came ends at the end of a chunk.
        is_over: the last chunk and the trailers have come. Trailers are not forwarded.
        failure: why the body cannot be read on; "" if it can.
        rest: what came behind its end.
    """

    __slots__ = (
        *("_awaits_end", "_held", "_in_trailers", "_left", "_trailer_bytes"),
        *("failure", "is_between", "is_over", "rest"),
    )

    def __init__(self) -> None:
        self.is_between = True
        self.is_over = False
        self.failure = ""
        self.rest = b""
        self._left = 0  # of the data of the current chunk
        self._awaits_end = False  # the line end behind the data of a chunk
        self._in_trailers = False
        self._trailer_bytes = 0
        self._held = b""  # the beginning of a line

    def feed(self, read: bytes) -> tuple[bytes, bytes]:
        """The data in a read, and the same as whole chunks, if it came so.

        Args:
            read: not empty; nothing is fed behind the end, or a failure.
        """
        if self._held:
            read = self._held + read
            self._held = b""
        starts_between = not (self._left or self._awaits_end or self._in_trailers)
        pieces: list[bytes] = []
        at, is_usual = self._read_chunks(read, pieces)
        if self._in_trailers and not self.failure:
            self._read_trailers(read, at)
        is_open = not (self._left or self._awaits_end or self._in_trailers or self.failure)
        self.is_between = is_open and not self._held
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        is_whole = starts_between and is_usual and self.is_between and bool(data)
        return data, read if is_whole else b""

    def _read_chunks(self, read: bytes, pieces: list[bytes]) -> tuple[int, bool]:
        """Append the data to ``pieces``. How far it came, and whether all sizes were usual."""
        at, end, is_usual = 0, len(read), True
        if not (self._left or self._awaits_end or self._in_trailers):
            at = _read_small(read, pieces)
        while at < end and not self._in_trailers:
            if self._left:
                piece = read[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._awaits_end = not self._left
            elif self._awaits_end:
                if read.startswith(b"\r\n", at):
                    at += 2
                    self._awaits_end = False
                    continue
                if read[at:] == b"\r":
                    self._held = b"\r"
                else:
                    self.failure = "the end of a chunk was expected"
                break
            elif found := _SIZE.match(read, at) or _LONG_SIZE.match(read, at):
                is_usual &= found.re is _SIZE
                at = found.end()
                self._left = int(found[1], 16)
                self._in_trailers = not self._left
                stop = at + self._left
                if self._left and read.startswith(b"\r\n", stop):  # all of it
                    pieces.append(read[at:stop])
                    at, self._left = stop + 2, 0
            else:
                self._hold(read, at, "a chunk was expected")
                break
        return at, is_usual

    def _read_trailers(self, read: bytes, at: int) -> None:
        while not self.is_over:
            if read.startswith(b"\r\n", at):
                self.is_over = True
                self.rest = read[at + 2 :]
            elif found := _TRAILER.match(read, at):
                self._trailer_bytes += found.end() - at
                at = found.end()
                if self._trailer_bytes > _MAX_TRAILERS:
                    self.failure = "the trailers are too large"
                    return
            else:
                self._hold(read, at, "a trailer was expected")
                return

    def _hold(self, read: bytes, at: int, expected: str) -> None:
        """Keep the beginning of a line, if it can still become one."""
        if read.find(b"\n", at) >= 0 or len(read) - at > _MAX_LINE:
            self.failure = expected
        else:
            self._held = read[at:]
