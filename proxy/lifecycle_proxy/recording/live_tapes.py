"""What a person may look into while it happens: exchanges as they would be recorded, in memory.

Nothing is redacted, encoded or written before somebody looks: a tape keeps what it is given, within
a bound, and becomes the lines of a cassette when they are asked for. So an exchange that nobody
looks into costs references to bytes that were there anyway. Tapes are made only while a page is
open (``watchers``).
"""

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from lifecycle_proxy.recording.encoder import ExchangeEncoder
from lifecycle_proxy.recording.recorder import ExchangeRecorder
from lifecycle_proxy.recording.redactor import Redaction
from lifecycle_proxy.recording.writer import first_line

_TAPE_BYTES: Final = 4 << 20
_ALL_BYTES: Final = 64 << 20
_BODY_BYTES: Final = 1 << 20
_TURN_S: Final = 0.0005
_OPEN: Final = 1000  # beside those that are over


class _Lines:
    """The lines of one exchange, in the place of a recorder's files."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def file(self) -> "_Lines":
        """Where the lines go."""
        return self

    def write(self, file: object, data: bytes, owner: object) -> None:
        """See ``Files``."""
        self.kept.append(data)

    def done(self, file: object) -> None:
        """Nothing is open."""


class LiveTape:
    """One exchange, as somebody may look at it.

    Args:
        max_bytes: what is kept of it.

    Attributes:
        lines_made: of what somebody has looked at.
        size: of what is kept, in bytes of memory.
    """

    def __init__(self, max_bytes: int = _TAPE_BYTES) -> None:
        self.lines_made = _Lines()
        self.size = 0
        self._most_bytes = max_bytes
        self._is_cut = False
        self._work: list[tuple[Any, ...]] = []  # what to call, with which arguments
        self._writing: ExchangeEncoder | None = None
        self._looking = threading.Lock()

    def put(
        self, size: int, writing: ExchangeEncoder, work: Callable[..., None], *arguments: object
    ) -> None:
        """Keep what happened, if there is room; behind a gap nothing but the end is kept.

        Args:
            size: of it, in bytes.
            writing: of the exchange.
            work: makes lines of it.
            arguments: of the work.
        """
        self._writing = writing
        self._is_cut = self._is_cut or self.size + size > self._most_bytes
        if size and self._is_cut:
            return
        self.size += size
        self._work.append((work, *arguments))

    def lines(self) -> bytes:
        """A cassette with the exchange, as far as it has come. For a thread: it may take long."""
        with self._looking:
            work, self._work = self._work, []
            since = time.monotonic()
            for make, *arguments in work:
                make(*arguments)
                if time.monotonic() - since > _TURN_S:
                    time.sleep(0)  # lets the event loop go first, which would wait for 5 ms
                    since = time.monotonic()
            if self._writing is not None:
                self._writing.show()
            return first_line() + b"".join(self.lines_made.kept)


class _Feed:
    """What the recorder of one exchange has of a tape, in the place of ``Recorder``.

    What a tape keeps refers to the exchange's recorder, so this refers to the tape weakly: else
    each tape were a cycle, and stayed until the garbage collector looks for some. One that is
    dropped while its exchange goes on takes nothing any more.

    Args:
        tape: to feed.
        redaction: what must not be shown.
    """

    def __init__(self, tape: LiveTape, redaction: Redaction) -> None:
        self.redaction = redaction
        self.max_body_bytes = _BODY_BYTES
        self.files = tape.lines_made
        self._tape = weakref.ref(tape)

    def put(
        self, size: int, writing: ExchangeEncoder, work: Callable[..., None], *arguments: object
    ) -> None:
        """See ``Recorder``."""
        if (tape := self._tape()) is not None:
            tape.put(size, writing, work, *arguments)

    def over(self, writing: ExchangeEncoder, what: str) -> None:
        """See ``Recorder``."""


class LiveTapes:
    """The tapes of one process, the latest ones.

    Args:
        redaction: what must not be shown.
        keep: how many that are over.
        max_bytes: of all of them.

    Attributes:
        watchers: how many pages are open.
        redaction: as given; may be changed, for new tapes.
    """

    def __init__(self, redaction: Redaction, keep: int, max_bytes: int = _ALL_BYTES) -> None:
        self.watchers = 0
        self.redaction = redaction
        self._keep = keep
        self._max_bytes = max_bytes
        self._tapes: OrderedDict[str, LiveTape] = OrderedDict()

    def tape(self, exchange_id: str, started: float) -> ExchangeRecorder:
        """Follow one exchange.

        Args:
            exchange_id: of it.
            started: when the request came, in seconds on the monotonic clock.
        """
        tape = self._tapes[exchange_id] = LiveTape()
        size = sum(one.size for one in self._tapes.values())
        most = self._keep + _OPEN
        while len(self._tapes) > 1 and (len(self._tapes) > most or size > self._max_bytes):
            size -= self._tapes.popitem(last=False)[1].size
        return ExchangeRecorder(_Feed(tape, self.redaction), exchange_id, started)

    def find(self, exchange_id: str) -> LiveTape | None:
        """The tape of an exchange, if there is one."""
        return self._tapes.get(exchange_id)
