"""The recorder: a tap beside the relay. It delays no byte.

The event loop only appends what it has in its hands to a list; a thread redacts, encodes and
writes. Where the disk is slower than the traffic, or full, or gone, the chat goes on: what could
not be kept is counted, said once in the log, and the exchange is marked as not recorded, never left
as half of one.
"""

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from proxy.core.dialects.fields import lifecycle_fields
from proxy.core.events import LifecycleEvent
from proxy.recording.cassette import Headers, Json, SideEnd, SideName, line, pack
from proxy.recording.files import File, Files
from proxy.recording.redaction import (
    Clear,
    ExchangeRedaction,
    Marks,
    Redaction,
    StreamRedaction,
)

log = logging.getLogger("proxy.recording")

_WRITE_EVERY_S: Final = 0.05
_TURN_S: Final = 0.0005
_WAITING_BYTES: Final = 64 << 20
_LAST_WRITE_S: Final = 10.0
_OVERHEAD_BYTES: Final = 200  # of an entry in the list
_COMPRESSED: Final = "a compressed body, which cannot be searched for secrets"
_Work = Callable[[], None]


class Tape:
    """One exchange, as it happens. Every method returns at once.

    Args:
        recorder: takes the work.
        started: when the request came, in seconds on the monotonic clock.
    """

    def __init__(self, recorder: "Recorder", exchange_id: str, started: float) -> None:
        self._recorder = recorder
        self._started = started
        self._writing = _Writing(exchange_id, recorder.redaction, recorder.files)

    def request(
        self, what: tuple[str, str, str], headers: Headers, body: bytes | None, why: str = ""
    ) -> None:
        """What the client asked.

        Args:
            what: route, method and target.
            body: None where it is not recorded; ``why`` says why.
        """
        ts = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        writing = self._writing
        self._put(len(body or b""), lambda: writing.request(ts, what, headers, body, why))

    def omit(self, why: str) -> None:
        """Keep nothing of the answer."""
        writing = self._writing
        self._put(0, lambda: writing.omit(why))

    def forwarded(self, target: str, headers: Headers, body: bytes | None) -> None:
        """What the upstream is sent; ``body`` only where it differs from the client's."""
        ms, writing = self._ms(time.monotonic()), self._writing
        self._put(len(body or b""), lambda: writing.forwarded(ms, target, headers, body))

    def head(self, side: SideName, status: int, reason: str, headers: Headers) -> None:
        """The head of an answer. The first of a side counts."""
        ms, writing = self._ms(time.monotonic()), self._writing
        self._put(0, lambda: writing.head(side, ms, (status, reason), headers))

    def passed(
        self, chunk: bytes, data: bytes, added: tuple[tuple[int, int], ...], now: float
    ) -> None:
        """What one read from the upstream gave, and what the client was written for it."""
        ms, writing = self._ms(now), self._writing
        same = data is chunk
        size = len(chunk) if same else len(chunk) + len(data)
        self._put(size, lambda: writing.passed(ms, chunk, None if same else data, added))

    def sent(self, data: bytes, added: tuple[tuple[int, int], ...] | None = None) -> None:
        """What the client was written besides. Without ``added`` all of it is the proxy's own."""
        if data:
            ms, writing = self._ms(time.monotonic()), self._writing
            marks = ((0, len(data)),) if added is None else added
            self._put(len(data), lambda: writing.sent(ms, data, marks))

    def answered(self, status: int, reason: str, headers: Headers, body: bytes) -> None:
        """The client got this answer of the proxy's own, whole."""
        self.head("client", status, reason, headers)
        self.sent(body)
        self.whole("client")

    def whole(self, side: SideName) -> None:
        """This side has come to its proper end, however the exchange ends."""
        writing = self._writing
        self._put(0, lambda: writing.whole(side))

    def end(self, ended: str, error: str, told: list[LifecycleEvent]) -> None:
        """It is over."""
        ms, writing = self._ms(time.monotonic()), self._writing
        fields = [lifecycle_fields(event) for event in told]
        # Whatever waits already: an exchange that is not ended stays open.
        self._recorder.put(0, lambda: writing.end(ms, (ended, error), fields), writing)

    def _ms(self, now: float) -> float:
        return round((now - self._started) * 1000, 3)

    def _put(self, size: int, work: _Work) -> None:
        self._recorder.put(size + _OVERHEAD_BYTES, work, self._writing)


class Recorder:
    """The recorder of one process.

    Args:
        folder: where cassettes go, or one cassette, by its name.
        redaction: what must not reach the disk.
        lost: called for each exchange that could not be kept.
        max_file_bytes: above this size another file is begun; 0 for never.
        compress: write gzip.
        waiting_bytes: what may wait to be written, in memory.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        redaction: Redaction,
        lost: Callable[[], None],
        *,
        max_file_bytes: int = 0,
        compress: bool = False,
        waiting_bytes: int = _WAITING_BYTES,
    ) -> None:
        self.redaction = redaction
        self.files = Files(
            folder, self._unwritten, max_file_bytes=max_file_bytes, compress=compress
        )
        self._lost = lost
        self._work: deque[tuple[int, _Work, _Writing]] = deque()
        self._most_bytes = waiting_bytes
        # Each is counted up by one thread only.
        self._put_bytes = self._taken_bytes = 0
        self._losing = threading.Lock()
        self._said = False
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def tape(self, exchange_id: str, started: float) -> Tape:
        """A tape for one exchange."""
        return Tape(self, exchange_id, started)

    def put(self, size: int, work: _Work, writing: "_Writing") -> None:
        """Take work for the thread, if there is room."""
        if size and self._put_bytes + size - self._taken_bytes > self._most_bytes:
            self._lose(writing, "the disk was slower than the traffic")
            self._wake.set()
            return
        self._put_bytes += size
        self._work.append((size, work, writing))

    def close(self) -> None:
        """Write what is waiting, and close the files."""
        self._closing = True
        self._wake.set()
        self._thread.join(_LAST_WRITE_S)

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
            size, work, writing = self._work.popleft()
            try:
                work()
            except OSError as error:
                self._unwritten(writing, error)
            except Exception as bug:  # one exchange shall not cost the others
                self._lose(writing, f"a bug of the proxy's own ({type(bug).__name__})", bug)
            self._taken_bytes += size
            if time.monotonic() - since > _TURN_S:
                time.sleep(0)  # lets the event loop go first, which would wait for 5 ms
                since = time.monotonic()
        self.files.flush()

    def _unwritten(self, writing: object, error: OSError) -> None:
        if isinstance(writing, _Writing):
            self._lose(writing, error.strerror or str(error))

    def _lose(self, writing: "_Writing", why: str, bug: Exception | None = None) -> None:
        """Count an exchange that cannot be kept, once, and say the first in the log."""
        with self._losing:
            is_first, was_said = not writing.lost, self._said
            writing.lost, self._said = writing.lost or why, True
        if is_first:
            self._lost()
        if not was_said:
            log.error("recording fails: %s; said once, the traffic goes on", why, exc_info=bug)


class _Writing:
    """The lines of one exchange. Used by the thread alone, but for ``lost``.

    Attributes:
        lost: why it cannot be kept, if it cannot.
    """

    def __init__(self, exchange_id: str, redaction: Redaction, files: Files) -> None:
        self.lost = ""
        self._id = exchange_id
        self._all = redaction
        self._files = files
        self._file: File | None = None
        self._own: ExchangeRedaction | None = None
        self._omitted = ""
        self._moments: deque[_Moment] = deque()
        self._upstream, self._client = _Side(), _Side()

    def omit(self, why: str) -> None:
        self._omitted = why

    def request(
        self,
        ts: str,
        what: tuple[str, str, str],
        headers: Headers,
        body: bytes | None,
        why: str,
    ) -> None:
        if body and _is_compressed(headers):
            body, why = None, _COMPRESSED
            self.omit(why)
        self._file = self._files.file()
        own = self._own = self._all.exchange(headers)
        self._upstream.stream = own.stream()
        route, method, target = what
        record: Json = {"ts": ts, "route": route, "method": method, "target": own.text(target)}
        record |= {"headers": own.headers(headers), "body": _body(own, body)}
        # Lost by now or not: what could not be kept is named.
        record = {**record, "omitted": why} if body is None else record
        self._put(self._file, "request", record)

    def forwarded(self, ms: float, target: str, headers: Headers, body: bytes | None) -> None:
        if (own := self._own) is not None:
            record: Json = {"ms": ms, "target": own.text(target)}
            record["headers"] = own.headers(headers)
            changed = {} if body is None else {"body": _body(own, body)}
            self._write("forwarded", record | changed)

    def head(self, side: SideName, ms: float, status: tuple[int, str], headers: Headers) -> None:
        told = self._side(side)
        if told.begun:
            return
        told.begun = True
        if _is_compressed(headers):
            self.omit(self._omitted or _COMPRESSED)
        if (own := self._own) is not None:
            record: Json = {"side": side, "ms": ms, "status": status[0]}
            record |= {"reason": own.text(status[1]), "headers": own.headers(headers)}
            self._write("head", record)

    def passed(self, ms: float, chunk: bytes, data: bytes | None, added: Marks) -> None:
        if self._is_kept:
            self._moments.append(moment := _Moment(ms, has_read=True, has_sent=data != b""))
            if data is not None:
                self._part()
            self._clear(self._upstream, moment, chunk)
            if self._client.stream is not None and moment.has_sent:
                self._clear(self._client, moment, chunk if data is None else data, added)
            self._emit()

    def sent(self, ms: float, data: bytes, added: Marks) -> None:
        if self._is_kept:
            self._moments.append(moment := _Moment(ms, has_read=False, has_sent=True))
            self._part()
            self._clear(self._client, moment, data, added)
            self._emit()

    def whole(self, side: SideName) -> None:
        self._side(side).is_whole = True

    def end(self, ms: float, how: tuple[str, str], told: list[Json]) -> None:
        if (file := self._file) is None:
            return
        for side in (self._upstream, self._client):
            if side.stream is not None:
                self._fill(side, side.stream.flush())
        self._emit()
        assert self._own is not None
        record: Json = {"ended": how[0], "error": how[1], "tools": self._own.tree(told)}
        ends = _ENDS.get(how[0], ("", "eof"))
        self._part()
        for name, side, end in zip(_SIDES, (self._upstream, self._client), ends, strict=True):
            record[name] = {"end": side.end(end), "ms": ms, **side.told()}
        omitted = self.lost or self._omitted
        self._put(file, "end", record | {"omitted": omitted} if omitted else record)
        self._files.done(file)

    def _side(self, name: SideName) -> "_Side":
        return self._upstream if name == "upstream" else self._client

    @property
    def _is_kept(self) -> bool:
        return not (self.lost or self._omitted or self._own is None)

    # --- secrets: of each side by itself, as one of them may end in another read ----------------

    def _part(self) -> None:
        """From here on the client gets other bytes than the upstream sends."""
        if self._client.stream is None and self._upstream.stream is not None:
            self._client.part(self._upstream)

    def _clear(self, side: "_Side", moment: "_Moment", data: bytes, marks: Marks = ()) -> None:
        if side.stream is not None:
            self._fill(side, side.stream.feed(moment, data, marks))

    def _fill(self, side: "_Side", clear: list[Clear]) -> None:
        for moment, data, marks in clear:
            if side is self._upstream:
                moment.read = data
            if side is self._client or self._client.stream is None:
                moment.sent, moment.added = data, marks

    def _emit(self) -> None:
        """The moments of which all is known, in their order."""
        moments = self._moments
        while moments and moments[0].is_clear:
            moment = moments.popleft()
            same = moment.has_read and moment.read == moment.sent
            if moment.has_read:
                record: Json = {"ms": moment.ms, "data": pack(self._upstream.add(moment.read))}
                self._write("read", {**record, "sent": True} if same else record)
            if moment.has_sent and self._client.stream is not None:
                data = self._client.add(moment.sent)
                if not same:
                    sent: Json = {"ms": moment.ms, "data": pack(data)}
                    self._write("sent", sent | ({"added": moment.added} if moment.added else {}))

    def _write(self, kind: str, record: Json) -> None:
        if self._file is not None and not (self.lost or self._omitted):
            self._put(self._file, kind, record)

    def _put(self, file: File, kind: str, record: Json) -> None:
        self._files.write(file, line({"kind": kind, "id": self._id, **record}), self)


class _Moment:
    """What one read gave and the client was written for it, or one write alone."""

    __slots__ = ("added", "has_read", "has_sent", "ms", "read", "sent")

    def __init__(self, ms: float, *, has_read: bool, has_sent: bool) -> None:
        self.ms = ms
        self.has_read = has_read
        self.has_sent = has_sent
        self.read: bytes | None = None  # until it is clear of secrets
        self.sent: bytes | None = None
        self.added: Marks = ()

    @property
    def is_clear(self) -> bool:
        return not ((self.has_read and self.read is None) or (self.has_sent and self.sent is None))


class _Side:
    """One side of an exchange: what is told of it at the end."""

    def __init__(self) -> None:
        self.begun = False
        self.is_whole = False
        self.stream: StreamRedaction | None = None
        self.size = 0
        self.hash = hashlib.sha256()

    def part(self, other: "_Side") -> None:
        """Go on from where another side, which was the same so far, is."""
        assert other.stream is not None, "begun"
        self.stream = other.stream.copy()
        self.size, self.hash = other.size, other.hash.copy()

    def add(self, data: bytes | None) -> bytes:
        assert data is not None, "clear"
        self.size += len(data)
        self.hash.update(data)
        return data

    def end(self, by_exchange: SideEnd) -> SideEnd:
        if not self.begun:
            return ""
        return "eof" if self.is_whole else by_exchange

    def told(self) -> Json:
        return {"size": self.size, "sha256": self.hash.hexdigest()}


_SIDES: Final = ("upstream", "client")
# How the upstream's side and the client's ended, by how the exchange did.
_ENDS: Final[dict[str, tuple[SideEnd, SideEnd]]] = {
    "done": ("eof", "eof"),
    "eof": ("eof", "eof"),
    "upstream_error": ("reset", "reset"),
    "timeout": ("timeout", "reset"),
    "client_gone": ("gone", "gone"),
    "drained": ("gone", "reset"),
}


def _is_compressed(headers: Headers) -> bool:
    return any(
        name.lower() == "content-encoding" and value.strip().lower() not in ("", "identity")
        for name, value in headers
    )


def _body(own: ExchangeRedaction, body: bytes | None) -> Any:
    return None if body is None else pack(own.body(body))
