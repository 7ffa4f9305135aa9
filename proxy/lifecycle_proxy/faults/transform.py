"""Faults in the body of a response: bytes in, actions out, no clock and no I/O.

If a fault depends on frames, each frame is forwarded whole, so that the fault hits the same place
however the bytes arrive. Otherwise bytes are forwarded in the pieces in which they came.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from lifecycle_proxy.core import sse

_LEAD_BYTE: Final = re.compile(rb"[\xc2-\xf4]")  # of a character of more than one byte (RFC 3629)
_MAX_FRAME_BYTES: Final = 8 << 20
_DONE: Final = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Forward:
    """Write these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait for ``ms`` milliseconds before the next action."""

    ms: float


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Send nothing more: ``cut`` closes the connection without the end of the message, ``reset``
    resets it, and ``stall`` leaves it open.
    """

    end: Literal["cut", "reset", "stall"]


Action = Forward | Delay | Disconnect


class BodyFaults:
    """The faults of one body.

    The caller queues the actions that ``feed`` returns and does them in order; it need not wait for
    the queue before it feeds more. After a ``Disconnect`` there are no more actions.
    """

    def __init__(self) -> None:
        self._before: dict[int, list[Action]] = {}
        self._duplicated: set[int] = set()
        self._drops_done = False
        self._end: tuple[int, Disconnect] | None = None
        self._inside_character = False
        self._drip: tuple[int, float] | None = None
        self._frames: _FrameCounter | None = None
        self._sent_bytes = 0
        self._free_s = 0.0  # when the actions so far will be done
        self._next_drop_s = 0.0
        self.is_broken = False

    # --- what will happen -----------------------------------------------------------------------

    def before_frame(self, frame: int, action: Action) -> None:
        """Add an action before a frame.

        Args:
            frame: its number, from 1.
            action: what to do.
        """
        self._before.setdefault(frame, []).append(action)

    def duplicate_frame(self, frame: int) -> None:
        """Forward this frame twice."""
        self._duplicated.add(frame)

    def drop_done(self) -> None:
        """Leave ``data: [DONE]`` out."""
        self._drops_done = True

    def end_at(self, byte: int, how: Literal["cut", "reset"]) -> None:
        """Break after so many bytes. Of several breaks the first one counts.

        Args:
            byte: how many bytes are forwarded before.
            how: see ``Disconnect``.
        """
        if self._end is None or byte < self._end[0]:
            self._end = byte, Disconnect(how)

    def end_inside_character(self) -> None:
        """Break after the first byte of the first character that has more than one."""
        self._inside_character = True

    def drip(self, size_bytes: int, ms: float) -> None:
        """Forward the body in small pieces.

        Args:
            size_bytes: of each piece.
            ms: milliseconds from one piece to the next.
        """
        self._drip = size_bytes, ms

    # --- what happens ---------------------------------------------------------------------------

    def feed(self, chunk: bytes, now: float) -> list[Action]:
        """Take the bytes of one read; return what to do with them.

        Args:
            chunk: the bytes.
            now: seconds on a monotonic clock.
        """
        if self.is_broken:
            return []
        if self._frames is None and (self._before or self._duplicated or self._drops_done):
            self._frames = _FrameCounter()
        if self._frames is None:
            return self._done([Forward(chunk)], now)
        return self._done(self._framed(self._frames.feed(chunk)), now)

    def eof(self, now: float) -> list[Action]:
        """Take the end of the body, complete or not; return what is left to do.

        Args:
            now: seconds on a monotonic clock.
        """
        rest = self._framed(self._frames.eof()) if self._frames is not None else ()
        return self._done(rest, now)

    def _framed(self, frames: Iterable["_CountedFrame"]) -> Iterator[Action]:
        for frame in frames:
            if frame.number and frame.is_first:
                yield from self._before.get(frame.number, ())
            if self._drops_done and frame.data is not None and frame.data.strip() == _DONE:
                continue
            yield Forward(frame.raw)
            if frame.number in self._duplicated and frame.data is not None:
                yield Forward(_closed(frame.raw))

    def _done(self, actions: Iterable[Action], now: float) -> list[Action]:
        # Actions of earlier reads may still be queued: new ones begin when those are done.
        self._free_s = max(self._free_s, now)
        done: list[Action] = []
        for action in actions:
            for step in self._limited(action):
                self._add(step, done)
                if self.is_broken:
                    return done
        return done

    def _limited(self, action: Action) -> Iterator[Action]:
        """An action, cut at the first break."""
        if self.is_broken:
            return
        if not isinstance(action, Forward):
            yield action
            return
        stop, last = self._break_in(action.data)
        yield Forward(action.data[:stop])
        if last is not None:
            yield last

    def _break_in(self, data: bytes) -> tuple[int, Disconnect | None]:
        found = _LEAD_BYTE.search(data) if self._inside_character else None
        stop, last = (found.end(), Disconnect("cut")) if found else (len(data), None)
        # If both breaks are in these bytes, the first one counts.
        if self._end is not None and self._end[0] - self._sent_bytes <= stop:
            stop, last = self._end[0] - self._sent_bytes, self._end[1]
        return stop, last

    def _add(self, action: Action, done: list[Action]) -> None:
        match action:
            case Forward(data):
                self._sent_bytes += len(data)
                if self._drip is not None:
                    self._add_drops(data, done, *self._drip)
                elif data and done and isinstance(done[-1], Forward):
                    done[-1] = Forward(done[-1].data + data)
                elif data:
                    done.append(action)
            case Delay(ms):
                self._free_s += ms / 1000
                done.append(action)
            case Disconnect():
                self.is_broken = True
                done.append(action)

    def _add_drops(self, data: bytes, done: list[Action], size_bytes: int, ms: float) -> None:
        for start in range(0, len(data), size_bytes):
            # The pace is kept across reads. After a longer pause the next piece leaves at once.
            wait_s = self._next_drop_s - self._free_s
            if wait_s > 0:
                done.append(Delay(wait_s * 1000))
                self._free_s = self._next_drop_s
            done.append(Forward(data[start : start + size_bytes]))
            self._next_drop_s = self._free_s + ms / 1000


# --- frames -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _CountedFrame:
    """A frame, or a piece of one that is too large to be parsed.

    Attributes:
        number: from 1; 0 for a comment.
        is_first: it is the first piece of its frame.
        data: None if there is none, or if it was not parsed.
    """

    raw: bytes
    number: int
    is_first: bool
    data: bytes | None


class _FrameCounter:
    """Splits a body into frames and counts them."""

    def __init__(self) -> None:
        self._parser = sse.Parser(_MAX_FRAME_BYTES)
        self._number = 0
        self._is_inside = False  # inside a frame that is above the limit

    def feed(self, chunk: bytes) -> Iterator[_CountedFrame]:
        return map(self._counted, self._parser.feed(chunk))

    def eof(self) -> Iterator[_CountedFrame]:
        return map(self._counted, self._parser.eof())

    def _counted(self, event: sse.Event) -> _CountedFrame:
        # Comments and blank lines are not frames: heartbeats must not change what a rule hits.
        if event.parsed and event.data is None and event.raw.startswith((b":", b"\n", b"\r")):
            return _CountedFrame(event.raw, 0, is_first=True, data=None)
        is_first = not self._is_inside
        self._number += is_first
        self._is_inside = not (event.parsed or event.closed)
        return _CountedFrame(event.raw, self._number, is_first, event.data)


def _closed(raw: bytes) -> bytes:
    """The bytes of a frame to send a second time: the first may lack its blank line."""
    return raw if raw.endswith((b"\n", b"\r")) else b"\n\n" + raw
