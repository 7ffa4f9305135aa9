"""What the client gets: pieces of the upstream's bytes, and added frames between them.

A frame may stand only where the event before it is closed by a blank line, or a parser would read
the two as one. Upstreams close some events late or never (servers that write ``data:`` lines
without blank lines between them). ``gap`` is what is missing then, and is written before the frame.
"""

import itertools
from typing import Final

from msgspec import Struct

from lifecycle_proxy.core.events import LifecycleEvent

_BLANK_LINES: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")


class Step(Struct, frozen=True):
    """What follows from one input.

    Attributes:
        data: the bytes to send to the client now, maybe none.
        events: the lifecycle events that became known, in order, for all other listeners.
        added: where in ``data`` added frames stand, as (start, stop).
        frames: how many of them are lifecycle frames. A dialect may write none for an event.
    """

    data: bytes
    events: tuple[LifecycleEvent, ...] = ()
    added: tuple[tuple[int, int], ...] = ()
    frames: int = 0


class Output:
    """The client's side of one stream: collects what each input leads to.

    Attributes:
        gap: what must be written to close the client's last event.
        has_ids: an event of the upstream had an ``id`` field.
        events: the lifecycle events of this input, for all other listeners.
        pieces: the bytes of this input, so far.
        changed: something was added to this input, or taken out of it.
    """

    __slots__ = ("_added", "_frames", "changed", "events", "gap", "has_ids", "pieces")

    def __init__(self) -> None:
        self.gap = b""
        self.has_ids = False
        self._begin()

    def _begin(self) -> None:
        self.changed = False
        self.pieces: list[bytes] = []
        self._added: list[int] = []  # which pieces are frames
        self.events: list[LifecycleEvent] = []
        self._frames = 0

    def pass_on(self, raw: bytes, gap: bytes) -> None:
        """Bytes of the upstream.

        Args:
            raw: the bytes.
            gap: what is missing behind them to write another event.
        """
        self.pieces.append(raw)
        self.gap = gap

    def rewrite(self, raw: bytes) -> None:
        """Events in the place of the upstream's, whole ones, maybe none."""
        self.changed = True
        self.pieces.append(raw)
        if raw:
            self.gap = b"" if raw.endswith(_BLANK_LINES) else gap_after(raw)

    def take_out(self, *, is_whole: bool) -> None:
        """An event of the upstream's is left out.

        Args:
            is_whole: False where a part of it may have passed. That is closed then, with LF: for
                Open WebUI, CR ends no line, and what follows would be the rest of the line.
        """
        self.changed = True
        if not is_whole:
            self.pieces.append(b"\n\n" if self.gap == b"\r" else self.gap)
            self.gap = b""

    def write(self, frame: bytes) -> None:
        """An added frame, or none."""
        if frame:
            self.changed = True
            self._added.append(len(self.pieces))
            self.pieces.append(self.gap + frame)
            self.gap = b""

    def write_lifecycle(self, frame: bytes) -> None:
        """The frame of a lifecycle event; b"" where the dialect writes none."""
        self._frames += bool(frame)
        self.write(self.comment(frame) if frame.startswith(b":") else frame)

    def comment(self, frame: bytes) -> bytes:
        """A comment, with a blank line behind it, as this stream takes it.

        Behind an ``id`` the blank line would be an event without data for readers that remember
        ids: openai-python fails to decode it as JSON. In a stream without ids it stays, for readers
        that split at blank lines and look at the first line only.
        """
        return frame.removesuffix(b"\n") if self.has_ids else frame

    def take(self, unchanged: bytes | None = None) -> Step:
        """All of it, and begin anew.

        Args:
            unchanged: the input, if it was passed on whole unless something ``changed``.
        """
        if unchanged is not None and not self.changed and not self.events:
            self.pieces.clear()
            return Step(unchanged)
        data = b"".join(self.pieces) if self.changed or unchanged is None else unchanged
        offsets = [0, *itertools.accumulate(map(len, self.pieces))] if self._added else []
        added = [(offsets[number], offsets[number + 1]) for number in self._added]
        step = Step(data, tuple(self.events), tuple(added), self._frames)
        self._begin()
        return step


def gap_after(raw: bytes | bytearray) -> bytes:
    """What makes the end of an unclosed event a blank line (CR and LF would be one line end)."""
    if raw.endswith(b"\n"):
        return b"\n"
    return b"\r" if raw.endswith(b"\r") else b"\n\n"
