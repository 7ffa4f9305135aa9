"""Server-sent events: bytes in, events out, every byte accounted for.

The parser follows the WHATWG algorithm (HTML Living Standard, section 9.2.6) with three differences
that a proxy needs. It keeps the raw bytes of each event, blank line included, so that a caller can
pass them on untouched. It dispatches an unterminated last event at the end of the stream, since
hand-written servers forget the blank line and clients forgive them. And where a server separates
its events by a single line end, it cuts at the lines: see ``_cut_line``.

The raw slices of all events, in order, followed by ``tail`` are exactly the bytes fed.
"""

import json
import re
from typing import Final

from msgspec import Struct

from lifecycle_proxy.core.complexity import SIMPLE_BYTES, is_too_complex

_BOM: Final = b"\xef\xbb\xbf"
_LF, _CR = b"\n\r"  # numbers: "in" takes them as they are, and makes an error of bytes first
_NEXT: Final = b"\ndata:"
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
# A line end and a blank line. A CR at the end of what has arrived may be half of a CRLF, so the
# last one counts only when the byte after it is known.
_BLANK_LINE: Final = re.compile(rb"(?:\r\n|\r(?!\n)|\n)(?:\r\n|\n|\r(?=[^\n]))")
_DATA_LINE: Final = re.compile(rb"(?:\xef\xbb\xbf)?[\r\n]*data:([^\r\n]*)(?:\r\n|\n|\r(?=[^\n]))")
_DATA_LINE_THEN_DATA: Final = re.compile(_DATA_LINE.pattern + rb"(?=data: ?[{\[])")
_ID_LINES: Final = tuple(a + b"id" + b for a in (b"\n", b"\r") for b in (b":", b"\n", b"\r"))
_LOOK_BACK: Final = len(b"\ndata: {") - 1
_FIRST_LINE: Final = len(b"data:")  # at least
_DECIDING: Final = len(b"\ndata: {")  # whether a line is data of its own is known by then
_MAX_LINES: Final = 50_000  # of one event; they are looked at one by one
# Of one read. A read is 256 KiB, and an event that says something about 100 bytes; but a hostile
# read could have a hundred thousand events. What is behind these passes as one that is too large.
_MAX_EVENTS: Final = 10_000
# What may become the start of a second data line.
_MAYBE_DATA: Final = re.compile(rb"[\r\n](d|da|dat|data|data:|data: )\Z")
# What a stream can begin with: a field or a comment.
_BEGINNINGS: Final = (b":", b"data:", b"event:", b"id:", b"retry:")


def begins_stream(start: bytes) -> bool | None:
    """Whether a body begins as an event stream does; None while that is open.

    Blank lines count behind a byte order mark only: without one, some servers write them to keep a
    connection alive in front of JSON, and those must not wait for what follows.

    Args:
        start: the first bytes of the body, maybe none.
    """
    rest = start
    if start.startswith(_BOM):
        rest = start[len(_BOM) :].lstrip(b"\r\n")
    elif _BOM.startswith(start):
        return None
    if rest.startswith(_BEGINNINGS):
        return True
    return None if any(one.startswith(rest) for one in _BEGINNINGS) else False


class Event(Struct, frozen=True):
    """One event of the stream.

    Attributes:
        raw: its bytes as received, with the blank line that closes it.
        name: the value of the last ``event`` field, ``b""`` without one.
        data: the ``data`` lines joined by LF; None where there is no data line, or where the event
            was too large to be looked at (``parsed`` is then False).
        closed: a blank line ends it. Where it does not, nothing can be written behind the event
            without a line end first.
        parsed: False for the pieces of an event above the limit.
        has_id: it has an ``id`` field. Readers remember that, whatever its value.
    """

    raw: bytes
    name: bytes
    data: bytes | None
    closed: bool = True
    parsed: bool = True
    has_id: bool = False


class Parser:
    """An incremental parser for one stream.

    Attributes:
        tail: what has arrived of an event whose end has not. It stays the same object.

    Args:
        max_event_bytes: an event that grows beyond this is returned in unparsed pieces as it
            arrives, so that neither memory nor the stream waits for its end. One that is smaller,
            but would take too long to decode, is returned unparsed as well.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max = max_event_bytes
        self._small = min(max_event_bytes, _MAX_LINES)
        self.tail = bytearray()
        self._scanned = 0  # no event ends before this offset of the tail
        self._first = True
        self._any_line_end = False  # a CR was seen: LF LF is not the only blank line
        self._by_line = False  # this server writes one event a line
        self._is_block = False  # the tail's first line is known to be no event of its own
        self.skipping = False  # inside an event above the limit
        self.oversized = 0  # how many of those there were

    @property
    def undecided(self) -> int:
        """How many bytes at the end of the tail may belong to the next event."""
        found = _MAYBE_DATA.search(self.tail[-_LOOK_BACK:])
        return len(found[1]) if found else 0

    def feed(self, data: bytes) -> list[Event]:
        """Take the bytes of one read; return the events that end in them."""
        if _CR in data:
            self._any_line_end = True
        tail = self.tail
        if not tail:
            if self._is_one_event(data):
                self._first = False
                return [Event(data, b"", data[6:-2])]  # as nearly all servers write
            events, used = self._cut(data)
            if used == len(data):
                return events
            tail += data[used:]
        else:
            tail += data
            events, used = self._cut(tail)
            del tail[:used]
        if len(tail) > self._max or self.skipping or (tail and len(events) >= _MAX_EVENTS):
            events.append(self._piece())
        self._scanned = max(0, len(tail) - _LOOK_BACK)
        return events

    def _is_one_event(self, data: bytes) -> bool:
        """Whether a read gave one event of one data line and LF line ends, and nothing else."""
        return (
            data.endswith(b"\n\n")
            and data.startswith(b"data: ")
            and data.find(b"\n", 0, -2) < 0
            and len(data) <= self._small
            and not (self._any_line_end or self._by_line or self.skipping)
        )

    def eof(self) -> list[Event]:
        """The stream is over: hand out what is left, as an event without its blank line."""
        if not self.tail:
            return []
        raw = bytes(self.tail)
        self.tail.clear()
        # A blank line of CR waited in vain for the LF that could have followed. Mere line ends are
        # blank lines, behind an event that one has closed.
        is_blank = not self.skipping and not raw.strip(b"\r\n")
        return [self._event(raw, closed=is_blank or raw.endswith((b"\r\r", b"\n\r")))]

    def _cut(self, buffer: bytes | bytearray) -> tuple[list[Event], int]:
        """The events that are whole in the buffer, and how many bytes they take."""
        events: list[Event] = []
        start, scan = 0, self._scanned
        while start < len(buffer) and len(events) < _MAX_EVENTS:
            end = self._event_end(buffer, scan)
            stop = end or len(buffer)
            second = buffer.find(_NEXT, max(scan, start + _FIRST_LINE), stop)
            may_cut = second >= 0 or self._by_line or self._any_line_end
            while may_cut and len(events) < _MAX_EVENTS:
                line_end = self._cut_line(buffer, start, max(start, scan), stop)
                if not line_end:
                    break
                events.append(self._event(bytes(buffer[start:line_end]), closed=False))
                start = scan = line_end
            if not end:
                return events, start
            self._is_block = False
            raw = _bytes(buffer, start, end)
            events.append(self._event(raw, closed=not (self._by_line and self.skipping)))
            start = scan = end
        return events, start

    def _event_end(self, buffer: bytes | bytearray, scan: int) -> int:
        """The offset behind the next blank line, or 0."""
        if self._by_line and self.skipping:
            found = _LINE_END.search(buffer, scan)
            return found.end() if found else 0
        if self._any_line_end:
            found = _BLANK_LINE.search(buffer, scan)
            return found.end() if found else 0
        at = buffer.find(b"\n\n", scan)
        return at + 2 if at >= 0 else 0

    def _cut_line(self, buffer: bytes | bytearray, start: int, scan: int, stop: int) -> int:
        """The offset behind the first line, if that line is an event of its own, else 0.

        Some hand-written servers write ``data: {...}`` lines with no blank line between them, and
        clients that read line by line do not mind. By the standard such lines are one event whose
        joined data is not JSON, so nobody who follows the standard loses anything by the cut.
        """
        if self.skipping or self._is_block:
            return 0
        if self._by_line:
            if _LINE_END.search(buffer, scan, stop) is None:
                return 0
            found, is_decided = _DATA_LINE.match(buffer, start, stop), False
        else:
            second = self._data_line(buffer, max(scan, start + _FIRST_LINE), stop)
            if second < 0:
                return 0
            found = _DATA_LINE_THEN_DATA.match(buffer, start, stop)
            is_decided = second + _DECIDING <= stop
        if found is not None and _is_whole(found[1]):
            self._by_line = True
            return found.end()
        # Decided once: the first line may be long, and others may follow one by one.
        self._is_block = is_decided or found is not None
        return 0

    def _data_line(self, buffer: bytes | bytearray, scan: int, stop: int) -> int:
        """Where a further line of data begins, with its line end; -1 if none does."""
        at = buffer.find(_NEXT, scan, stop)
        if at < 0 and self._any_line_end:
            at = buffer.find(b"\rdata:", scan, stop)
        return at

    def _piece(self) -> Event:
        """All of the tail but the bytes that may be the start of its blank line."""
        self.oversized += not self.skipping
        self.skipping = True
        raw = bytes(self.tail[:-3])
        del self.tail[:-3]
        has_id = _has_id(raw)
        return Event(raw, b"", None, closed=False, parsed=False, has_id=has_id)

    def _is_too_much(self, raw: bytes) -> bool:
        lines = raw.count(b"\n") + raw.count(b"\r")
        return len(raw) > self._max or lines > _MAX_LINES or is_too_complex(raw)

    def _event(self, raw: bytes, *, closed: bool) -> Event:
        if self.skipping or (len(raw) > self._small and self._is_too_much(raw)):
            self.oversized += not self.skipping
            self.skipping = self._first = False
            has_id = _has_id(raw)
            return Event(raw, b"", None, closed, parsed=False, has_id=has_id)
        block = raw
        if self._first:
            self._first = False
            block = block.removeprefix(_BOM)
        if block.startswith(b"data: "):
            value = block[6:].rstrip(b"\n")
            if _LF not in value and _CR not in value:
                return Event(raw, b"", value, closed)
        name, data, has_id = _fields(block)
        return Event(raw, name, data, closed, has_id=has_id)


def _bytes(buffer: bytes | bytearray, start: int, end: int) -> bytes:
    """A part, in one copy, as it may be megabytes; none of bytes that are all of the buffer."""
    return buffer[start:end] if type(buffer) is bytes else bytes(memoryview(buffer)[start:end])


def _has_id(raw: bytes) -> bool:
    if not (raw.startswith(b"id") or b"\nid" in raw or b"\rid" in raw):
        return False  # without a copy of megabytes
    lines = b"\n%b\n" % raw
    return any(line in lines for line in _ID_LINES)  # faster than a pattern on megabytes


def _fields(block: bytes) -> tuple[bytes, bytes | None, bool]:
    """The event name and the joined data of one block of lines, and whether it has an id."""
    name, data, has_id = b"", [], False
    for line in _LINE_END.split(block):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
        elif field == b"id":
            has_id = True
    return name, b"\n".join(data) if data else None, has_id


def _is_whole(value: bytes) -> bool:
    """Whether one line of data is a whole message: a JSON object or ``[DONE]``.

    A long one is judged by its ends: decoding it takes time, and is done once more behind this.
    """
    value = value.strip()
    if value == b"[DONE]":
        return True
    if len(value) > SIMPLE_BYTES:
        return value.startswith(b"{") and value.endswith(b"}")
    try:
        return isinstance(json.loads(value), dict)
    except (ValueError, RecursionError):
        return False
