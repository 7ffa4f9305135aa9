"""The recorder: a tap beside the relay. It delays no byte.

The event loop only appends what it has in its hands to a list; a thread redacts, encodes and
writes. Where the disk is slower than the traffic, or full, or gone, the chat goes on: what could
not be kept is counted, said once in the log, and the exchange is marked as not recorded, never left
as half of one.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from lifecycle_proxy.core.dialects.fields import lifecycle_fields
from lifecycle_proxy.core.events import LifecycleEvent
from lifecycle_proxy.core.printable import printable
from lifecycle_proxy.exchange.ends import Ended, SideEnd
from lifecycle_proxy.exchange.model import Added, Exchange, Headers, Listener, SideName
from lifecycle_proxy.exchange.timestamp import iso_utc
from lifecycle_proxy.recording.encoder import ExchangeEncoder
from lifecycle_proxy.recording.json_lines import LineFiles
from lifecycle_proxy.recording.redactor import Redaction
from lifecycle_proxy.recording.writer import Files

log = logging.getLogger("proxy.recording")

_WRITE_EVERY_S: Final = 0.05
_TURN_S: Final = 0.0005
_WAITING_BYTES: Final = 128 << 20  # a request body of the largest size, and as much again
_MAX_BODY_BYTES: Final = 64 << 20
_LAST_WRITE_S: Final = 10.0
_OVERHEAD_BYTES: Final = 160  # of an entry in the list, as measured


class TakesWork(Protocol):
    """What a recorder of one exchange needs of the one of all; see ``Recorder``."""

    redaction: Redaction
    max_body_bytes: int

    @property
    def files(self) -> LineFiles: ...

    def put(
        self, size: int, writing: ExchangeEncoder, work: Callable[..., None], *arguments: object
    ) -> None:
        """See ``Recorder``."""
        ...

    def over(self, writing: ExchangeEncoder, what: str) -> None:
        """See ``Recorder``."""
        ...


class ExchangeRecorder(Listener):
    """Records one exchange.

    Args:
        recorder: takes the work.
        started: when the request came, in seconds on the monotonic clock.
    """

    def __init__(self, recorder: TakesWork, exchange_id: str, started: float) -> None:
        self._recorder = recorder
        self._started = started
        self._writing = ExchangeEncoder(
            exchange_id, recorder.redaction, recorder.files, recorder.max_body_bytes
        )
        self._passed = self._writing.passed  # bound once: each read that waits refers to it
        self._events: list[dict[str, Any]] = []

    def request(
        self, what: tuple[str, str, str], headers: Headers, body: bytes | None, why: str = ""
    ) -> None:
        """What the client asked.

        Args:
            what: route, method and target.
            headers: the client's.
            body: None where it is streamed (see ``on_request_body``), or, with ``why``, is not
                recorded.
            why: it is not.
        """
        ts = iso_utc(datetime.now(UTC))
        self._put(len(body or b""), self._writing.request, ts, what, headers, body, why)

    def omit(self, why: str) -> None:
        """Keep nothing of the answer."""
        self._put(0, self._writing.omit, why)

    def on_request_body(self, exchange: Exchange, piece: bytes) -> None:
        ms = self._ms(time.monotonic())
        self._put(len(piece), self._writing.body, ms, piece)

    def on_forwarded(
        self, exchange: Exchange, target: str, headers: Headers, body: bytes | None
    ) -> None:
        ms = self._ms(time.monotonic())
        self._put(len(body or b""), self._writing.forwarded, ms, target, headers, body)

    def on_head(
        self, exchange: Exchange, side: SideName, status: int, reason: str, headers: Headers
    ) -> None:
        ms = self._ms(time.monotonic())
        self._put(0, self._writing.head, side, ms, (status, reason), headers)

    def on_chunk(
        self, exchange: Exchange, read: bytes, written: bytes, added: Added, now: float
    ) -> None:
        # As ``_ms`` and ``_put`` do: two calls more for each chunk take a microsecond (measured).
        ms = round((now - self._started) * 1000, 3)
        size, changed = len(read) + _OVERHEAD_BYTES, None
        if written is not read:
            size, changed = size + len(written), written
        self._recorder.put(size, self._writing, self._passed, ms, read, changed, added)

    def on_write(self, exchange: Exchange, data: bytes, added: Added) -> None:
        if data:
            ms = self._ms(time.monotonic())
            self._put(len(data), self._writing.sent, ms, data, added)

    def on_side_end(self, exchange: Exchange, side: SideName, end: SideEnd) -> None:
        self._put(0, self._writing.ends, side, end)

    def on_lifecycle(self, exchange: Exchange, events: Sequence[LifecycleEvent]) -> None:
        self._events += map(lifecycle_fields, events)

    def on_end(self, exchange: Exchange) -> None:
        ms, ended = self._ms(time.monotonic()), (exchange.ended, exchange.error)
        what = f"{exchange.method} {exchange.path}"
        # Whatever waits already: an exchange that is not ended stays open.
        self._recorder.put(0, self._writing, self._over, ms, ended, what)

    def _over(self, ms: float, ended: tuple[Ended, str], what: str) -> None:
        self._writing.end(ms, ended, self._events)
        self._recorder.over(self._writing, what)

    def _ms(self, now: float) -> float:
        return round((now - self._started) * 1000, 3)

    def _put(self, size: int, work: Callable[..., None], *arguments: object) -> None:
        self._recorder.put(size + _OVERHEAD_BYTES, self._writing, work, *arguments)


class Recorder:
    """The recorder of one process.

    Args:
        folder: where cassettes go, or one cassette, by its name.
        redaction: what must not reach the disk.
        lost: called for each exchange that could not be kept.
        omitted: called for each of which a part, or all, is not recorded on purpose.
        max_file_bytes: above this size another file is begun; 0 for never.
        max_body_bytes: larger request bodies are not recorded.
        compress: write gzip.
        waiting_bytes: what may wait to be written, in memory.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(  # noqa: PLR0913  one place builds it, from the settings
        self,
        folder: Path,
        redaction: Redaction,
        lost: Callable[[], None],
        *,
        omitted: Callable[[], None] = lambda: None,
        max_file_bytes: int = 0,
        max_body_bytes: int = _MAX_BODY_BYTES,
        compress: bool = False,
        waiting_bytes: int = _WAITING_BYTES,
    ) -> None:
        self.redaction = redaction
        self.max_body_bytes = max_body_bytes
        self.files = Files(
            folder, self._unwritten, max_file_bytes=max_file_bytes, compress=compress
        )
        self._lost, self._omitted = lost, omitted
        self._is_playable = False  # there is more than that the upstream could not be reached
        self._unreachable = ""
        self._work: deque[tuple[Any, ...]] = deque()  # one object for each: size, writing, ...
        self._most_bytes = waiting_bytes
        # Each is counted up by one thread only.
        self._put_bytes = self._taken_bytes = 0
        self._losing = threading.Lock()
        self._said = False
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def tape(self, exchange_id: str, started: float) -> ExchangeRecorder:
        """Record one exchange.

        Args:
            exchange_id: for the cassette.
            started: when the request came, in seconds on the monotonic clock.
        """
        return ExchangeRecorder(self, exchange_id, started)

    def put(
        self, size: int, writing: ExchangeEncoder, work: Callable[..., None], *arguments: object
    ) -> None:
        """Take work for the thread, if there is room; else the exchange is lost.

        Args:
            size: in bytes, of what the work holds; 0 is always taken.
            writing: of the exchange.
            work: is called in the thread.
            arguments: of the work.
        """
        if size and self._put_bytes + size - self._taken_bytes > self._most_bytes:
            self._lose(writing, "the disk was slower than the traffic")
            self._wake.set()
            return
        self._put_bytes += size
        self._work.append((size, writing, work, *arguments))

    def over(self, writing: ExchangeEncoder, what: str) -> None:
        """An exchange is written, as far as it can be.

        Args:
            writing: of that exchange.
            what: method and path.
        """
        self._unreachable = what if writing.is_unreachable else ""
        self._is_playable = self._is_playable or not writing.is_unreachable
        if writing.named:
            self._omitted()
        for named in writing.named:
            log.warning("recording: %s: %s", printable(what), named)

    def close(self) -> None:
        """Write what is waiting, and close the files."""
        self._closing = True
        self._wake.set()
        self._thread.join(_LAST_WRITE_S)

    def remove_unplayable(self) -> None:
        """Delete the files of a run, once it is closed, that never reached its upstream.

        There is nothing in them that can be played, and the next run would try.
        """
        if self._thread.is_alive() or self._is_playable or not self._unreachable:
            return
        if place := self.files.remove():
            what = printable(self._unreachable)
            log.warning(
                "nothing was recorded that can be played: the upstream could not be reached (last "
                "request: %s); no file is left in %s",
                what,
                place,
            )

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(_WRITE_EVERY_S)
            self._wake.clear()
            self._drain()
        self._drain()
        self.files.close()

    def _drain(self) -> None:
        since = time.monotonic()
        for _ in range(len(self._work)):
            entry = self._work.popleft()
            size, writing = entry[:2]
            try:
                entry[2](*entry[3:])
            except OSError as error:
                self._unwritten(writing, error)
            except Exception as bug:  # one exchange shall not cost the others
                self._lose(writing, f"a bug in the proxy ({type(bug).__name__})", bug)
            self._taken_bytes += size
            if time.monotonic() - since > _TURN_S:
                time.sleep(0)  # lets the event loop go first, which would wait for 5 ms
                since = time.monotonic()
        self.files.flush()

    def _unwritten(self, writing: object, error: OSError) -> None:
        if isinstance(writing, ExchangeEncoder):
            self._lose(writing, error.strerror or str(error))

    def _lose(self, writing: ExchangeEncoder, why: str, bug: Exception | None = None) -> None:
        """Count an exchange that cannot be kept, once, and say the first in the log."""
        with self._losing:
            is_first, was_said = not writing.lost, self._said
            writing.lost, self._said = writing.lost or why, True
        if is_first:
            self._lost()
        if not was_said:
            log.error("recording fails: %s; the traffic goes on (logged once)", why, exc_info=bug)
