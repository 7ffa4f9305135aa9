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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from proxy.core.dialects.fields import lifecycle_fields
from proxy.core.events import LifecycleEvent
from proxy.recording.cassette import Headers, Json, SideEnd, SideName, line, pack
from proxy.recording.files import Files
from proxy.recording.redaction import ExchangeRedaction, Redaction

log = logging.getLogger("proxy.recording")

_WRITE_EVERY_S: Final = 0.05
_WAITING_BYTES: Final = 64 << 20
_LAST_WRITE_S: Final = 10.0
_OVERHEAD_BYTES: Final = 200  # of an entry in the list
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
        """The head of an answer."""
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

    def end(self, ended: str, error: str, told: list[LifecycleEvent]) -> None:
        """It is over."""
        ms, writing = self._ms(time.monotonic()), self._writing
        fields = [lifecycle_fields(event) for event in told]
        self._put(0, lambda: writing.end(ms, (ended, error), fields))

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
    """

    def __init__(
        self,
        folder: Path,
        redaction: Redaction,
        lost: Callable[[], None],
        *,
        max_file_bytes: int = 0,
        compress: bool = False,
    ) -> None:
        self.redaction = redaction
        self.files = Files(folder, max_file_bytes=max_file_bytes, compress=compress)
        self._lost = lost
        self._work: deque[tuple[int, _Work, _Writing]] = deque()
        self._bytes = 0
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
        if self._bytes + size > _WAITING_BYTES:
            writing.lose("the disk was slower than the traffic")
            self._wake.set()
            return
        self._bytes += size
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
        for _ in range(len(self._work)):
            size, work, writing = self._work.popleft()
            self._bytes -= size
            try:
                work()
            except OSError as error:
                self._fail(writing, error.strerror or str(error))
            except Exception as bug:
                self._fail(writing, f"{type(bug).__name__}: {bug}")
        try:
            self.files.flush()
        except OSError as error:
            self._say(error.strerror or str(error))

    def _fail(self, writing: "_Writing", why: str) -> None:
        if writing.lose(why):
            self._lost()
        self._say(why)

    def _say(self, why: str) -> None:
        if not self._said:
            log.error("recording fails: %s; said once, the traffic goes on", why)
        self._said = True


class _Writing:
    """The lines of one exchange. Used by the thread alone, but for ``lose``."""

    def __init__(self, exchange_id: str, redaction: Redaction, files: Files) -> None:
        self._id = exchange_id
        self._all = redaction
        self._files = files
        self._file: Any = None
        self._redaction: ExchangeRedaction | None = None
        self._omitted = ""
        self._sides: dict[str, _Sum] = {"upstream": _Sum(), "client": _Sum()}

    def omit(self, why: str) -> None:
        self._omitted = self._omitted or why

    def lose(self, why: str) -> bool:
        """Mark the exchange as not recorded; False where it was already."""
        was, self._omitted = self._omitted, self._omitted or why
        return not was

    def request(
        self,
        ts: str,
        what: tuple[str, str, str],
        headers: Headers,
        body: bytes | None,
        why: str,
    ) -> None:
        own = self._redaction = self._all.exchange(headers)
        self._sides["upstream"].redact(own)
        self._sides["client"].redact(own)
        self._file = self._files.file()
        route, method, target = what
        record: Json = {"ts": ts, "route": route, "method": method, "target": own.text(target)}
        record |= {"headers": own.headers(headers), "body": _body(own, body)}
        self._write("request", {**record, "omitted": why} if body is None else record)

    def forwarded(self, ms: float, target: str, headers: Headers, body: bytes | None) -> None:
        if (own := self._redaction) is not None:
            record: Json = {"ms": ms, "target": own.text(target)}
            record["headers"] = own.headers(headers)
            changed = {} if body is None else {"body": _body(own, body)}
            self._write("forwarded", record | changed)

    def head(self, side: SideName, ms: float, status: tuple[int, str], headers: Headers) -> None:
        self._sides[side].begun = True
        if (own := self._redaction) is not None:
            record: Json = {"side": side, "ms": ms, "status": status[0], "reason": status[1]}
            self._write("head", record | {"headers": own.headers(headers)})

    def passed(
        self, ms: float, chunk: bytes, data: bytes | None, added: tuple[tuple[int, int], ...]
    ) -> None:
        upstream, client = self._sides["upstream"], self._sides["client"]
        upstream.ms = client.ms = ms
        self._emit(upstream.feed(_Read(ms, sent=data is None), chunk))
        if data:
            self.sent(ms, data, added)

    def sent(self, ms: float, data: bytes, added: tuple[tuple[int, int], ...]) -> None:
        # In its place among the reads, some of which may wait for the end of a secret.
        self._sides["client"].ms = ms
        self._emit(self._sides["upstream"].feed(_Sent(ms, data, added), b""))

    def end(self, ms: float, how: tuple[str, str], told: list[Json]) -> None:
        self._emit(self._sides["upstream"].flush())
        ends = _ENDS.get(how[0], ("", "eof"))
        record: Json = {"ended": how[0], "error": how[1], "tools": told}
        for (name, side), end in zip(self._sides.items(), ends, strict=True):
            told_end = end if side.begun else ""
            record[name] = {"end": told_end, "ms": side.ms or ms, **side.told()}
        omitted, self._omitted = self._omitted, ""
        try:
            self._write("end", record | {"omitted": omitted} if omitted else record)
        finally:
            self._files.done(self._file)

    def _emit(self, clear: list[tuple[Any, bytes]]) -> None:
        for what, piece in clear:
            if isinstance(what, _Read):
                self._read(what.ms, piece, sent=what.sent)
            else:
                self._wrote(what.ms, what.data, what.added)

    def _read(self, ms: float, piece: bytes, *, sent: bool) -> None:
        self._sides["upstream"].add(piece)
        record: Json = {"ms": ms, "data": pack(piece)}
        if sent:
            self._sides["client"].add(piece)
            record["sent"] = True
        self._write("read", record)

    def _wrote(self, ms: float, data: bytes, added: tuple[tuple[int, int], ...]) -> None:
        own = self._redaction
        clear = data if own is None else own.data(data)
        self._sides["client"].add(clear)
        record: Json = {"ms": ms, "data": pack(clear)}
        if added and clear == data:
            record["added"] = added
        self._write("sent", record)

    def _write(self, kind: str, record: Json) -> None:
        if not self._omitted and self._file is not None:
            self._file.write(line({"kind": kind, "id": self._id, **record}))


@dataclass(frozen=True, slots=True)
class _Read:
    ms: float
    sent: bool


@dataclass(frozen=True, slots=True)
class _Sent:
    ms: float
    data: bytes
    added: tuple[tuple[int, int], ...]


class _Sum:
    """What is told of one side at the end."""

    def __init__(self) -> None:
        self.ms = 0.0
        self.begun = False
        self._size = 0
        self._hash = hashlib.sha256()
        self._stream: Any = None

    def redact(self, own: ExchangeRedaction) -> None:
        self._stream = own.stream()

    def feed(self, key: Any, data: bytes) -> list[tuple[Any, bytes]]:
        return [] if self._stream is None else list(self._stream.feed(key, data))

    def flush(self) -> list[tuple[Any, bytes]]:
        return [] if self._stream is None else list(self._stream.flush())

    def add(self, data: bytes) -> None:
        self._size += len(data)
        self._hash.update(data)

    def told(self) -> Json:
        return {"size": self._size, "sha256": self._hash.hexdigest()}


# How the upstream's side and the client's ended, by how the exchange did.
_ENDS: Final[dict[str, tuple[SideEnd, SideEnd]]] = {
    "done": ("eof", "eof"),
    "eof": ("eof", "eof"),
    "upstream_error": ("reset", "reset"),
    "timeout": ("timeout", "reset"),
    "client_gone": ("gone", "gone"),
    "drained": ("gone", "reset"),
}


def _body(own: ExchangeRedaction, body: bytes | None) -> Any:
    return None if body is None else pack(own.body(body))
