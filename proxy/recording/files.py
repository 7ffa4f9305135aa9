"""The files of a recorder: one after the other, none without an end."""

import gzip
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from proxy import __version__
from proxy.recording.cassette import SUFFIXES, VERSION, line


class File:
    """One cassette that is being written, for its owner's eyes only (mode 0600).

    Raises:
        OSError: it cannot be opened or written; what was torn is closed with a line end.
    """

    def __init__(self, path: Path, *, compress: bool) -> None:
        self.path = path
        self.exchanges = 0  # that are not over
        self.size = 0
        self._torn = path.exists() and path.stat().st_size > 0 and not compress
        raw = os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")
        self._stream: IO[Any] = (
            cast("IO[Any]", gzip.GzipFile(fileobj=raw, mode="ab")) if compress else raw
        )
        self._raw = raw
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        by = f"lifecycle-proxy {__version__}"
        self.write(line({"kind": "cassette", "version": VERSION, "ts": now, "by": by}))

    def write(self, data: bytes) -> None:
        if self._torn:
            data = b"\n" + data
        self._torn = True
        self._stream.write(data)
        self._torn = False
        self.size += len(data)

    def flush(self) -> None:
        self._torn, was = True, self._torn
        self._stream.flush()
        self._torn = was

    def close(self) -> None:
        self._stream.close()
        self._raw.close()


class Files:
    """Where exchanges are written: each whole in one file.

    Args:
        place: a folder (made, mode 0700, where it is missing), or one cassette by its name.
        max_file_bytes: above this size exchanges go to another file of the folder; 0 for never.
        compress: gzip, unless the name of a cassette says otherwise.
    """

    def __init__(self, place: Path, *, max_file_bytes: int, compress: bool) -> None:
        self._is_folder = not place.name.endswith(SUFFIXES)
        self._place = place
        self._max = max_file_bytes if self._is_folder else 0
        self._compress = compress if self._is_folder else place.name.endswith(".gz")
        self._open: list[File] = []
        self._count = 0
        folder = place if self._is_folder else place.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def file(self) -> File:
        """The file for an exchange that begins; ``done`` must follow."""
        current = self._open[-1] if self._open else None
        if current is None or (self._max and current.size >= self._max):
            current = File(self._next(), compress=self._compress)
            self._open.append(current)
            self._close_unused()
        current.exchanges += 1
        return current

    def done(self, file: File | None) -> None:
        """An exchange is over."""
        if file is not None:
            file.exchanges -= 1
            self._close_unused()

    def flush(self) -> None:
        for file in self._open:
            file.flush()

    def close(self) -> None:
        for file in self._open:
            file.close()
        self._open.clear()

    def _close_unused(self) -> None:
        for file in [f for f in self._open[:-1] if not f.exchanges]:
            self._open.remove(file)
            file.close()

    def _next(self) -> Path:
        if not self._is_folder:
            return self._place
        self._count += 1
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        suffix = SUFFIXES[1] if self._compress else SUFFIXES[0]
        return self._place / f"{now}-{os.getpid()}-{self._count:04d}{suffix}"
