"""What writes the lines of the log: at once, or from a thread."""

import logging
import threading
from collections import deque
from contextlib import suppress
from typing import Final, TextIO

_WAITING_LINES: Final = 10_000
_WRITE_EVERY_S: Final = 0.2
_LAST_WRITE_S: Final = 1.0


class LogHandler(logging.StreamHandler[TextIO]):
    """A handler that ``configure`` installed: a later call replaces it, and no other handler."""


class BackgroundLogHandler(LogHandler):
    """Writes from a thread, a few times a second while there is anything to write.

    The reader of the log may be slow or stop reading, and a write to a full pipe would stop every
    stream. So the event loop only appends to a queue; when that is full, the oldest lines are
    dropped. Writing many lines at once also costs less than writing each alone.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._records: deque[logging.LogRecord] = deque(maxlen=_WAITING_LINES)
        self._lost = 0
        self._some = threading.Event()  # there are lines
        self._wake = threading.Event()  # they must not wait
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def handle(self, record: logging.LogRecord) -> bool:
        """As logging's, without a lock: a deque needs none."""
        if self.filters and not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if record.args:
                record.msg, record.args = record.getMessage(), ()  # arguments may change until then
        except Exception:
            self.handleError(record)
            return
        self._lost += len(self._records) == _WAITING_LINES
        self._records.append(record)
        if not self._some.is_set():
            self._some.set()
        if record.levelno >= logging.WARNING:
            self._wake.set()

    def close(self) -> None:
        """Write the lines that wait, if that takes no longer than a second."""
        self._closing = True
        self._wake.set()
        self._some.set()
        self._thread.join(_LAST_WRITE_S)
        super().close()

    def _run(self) -> None:
        while not self._closing:
            self._some.wait()
            self._wake.wait(_WRITE_EVERY_S)
            self._some.clear()
            self._wake.clear()
            self._write()
        self._write()  # lines that came during the last write

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record) + self.terminator
        except Exception:
            self.handleError(record)
            return ""

    def _write(self) -> None:
        lines = [self._line(self._records.popleft()) for _ in range(len(self._records))]
        if self._lost:
            lines.append(f"{self._lost} log lines lost: nobody read them in time{self.terminator}")
            self._lost = 0
        if lines:
            with suppress(OSError, ValueError):  # closed: there is no other place to report to
                self.stream.write("".join(lines))
                self.stream.flush()
