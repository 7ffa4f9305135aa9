"""The files of a recorder: one after the other, none without an end.

Lines are kept until they are flushed, and then written in one piece. What does not reach the disk
is taken back as a whole, as far as the file system can: no line is torn, and where the disk has
room again the file goes on. ``lost`` is called for those whose lines they were.
"""

import gzip
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from lifecycle_proxy import __version__
from lifecycle_proxy.exchange.timestamp import iso_utc
from lifecycle_proxy.recording.cassette_file import SUFFIXES, VERSION, CassetteError, lines
from lifecycle_proxy.recording.json_lines import line
from lifecycle_proxy.recording.place import make, warn_of

_BATCH_BYTES: Final = 1 << 20
_OWNER_ONLY: Final = 0o600
_GZIP: Final = 16 + zlib.MAX_WBITS

Lost = Callable[[object, OSError], None]


class File:
    """One cassette that is being written, for its owner's eyes only (mode 0600) if it is new.

    Args:
        is_new: it must not be there yet.

    Attributes:
        exchanges: how many are not over.
        size: of what was given to it, in bytes.
        owners: whose lines wait, or could not be written by the last ``flush``.

    Raises:
        OSError: it cannot be opened or written.
    """

    def __init__(self, path: Path, *, compress: bool, is_new: bool = False) -> None:
        self.path = path
        self.exchanges = 0
        self.size = 0
        self.owners: set[object] = set()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._zip = zlib.compressobj(wbits=_GZIP) if compress else None
        self._is_begun = False
        self._fd = _opened(path, is_new=is_new)
        self._torn = False
        if not is_new and _size(self._fd):
            if compress:
                self._fd = _mended(path, self._fd)
            else:
                self._torn = not _ends_a_line(path)

    def write(self, data: bytes, owner: object = None) -> None:
        """Take whole lines; they are written in batches.

        Args:
            data: the lines.
            owner: whose they are; see ``owners``.
        """
        if owner is not None:
            self.owners.add(owner)
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self.size += len(data)
        if self._waiting_bytes >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits; where that fails, nothing of it is written, nor waits any longer."""
        if not self._waiting:
            return
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        if not self._is_begun:
            data = first_line() + data
        if self._zip is None:
            self._put(b"\n" + data if self._torn else data)
        else:
            before = self._zip.copy()
            try:
                self._put(self._zip.compress(data) + self._zip.flush(zlib.Z_SYNC_FLUSH))
            except OSError:
                self._zip = before
                raise
        self._is_begun = True
        self.owners.clear()

    def close(self) -> None:
        """Write what waits, and close."""
        try:
            self.flush()
            if self._zip is not None and self._is_begun:
                self._put(self._zip.flush())
        finally:
            os.close(self._fd)

    def _put(self, data: bytes) -> None:
        start, view = _size(self._fd), memoryview(data)
        written = 0
        try:
            while written < len(data):
                written += _write(self._fd, view[written:])
        except OSError:
            self._torn = self._torn or bool(written)
            with suppress(OSError):
                # Unless another process has appended meanwhile.
                if written and _size(self._fd) == start + written:
                    os.ftruncate(self._fd, start)
                    self._torn = False
            raise
        self._torn = False


def _write(fd: int, data: memoryview) -> int:
    taken = os.write(fd, data)
    if not taken:
        raise OSError("nothing can be written")  # trying again would never end
    return taken


class Files:
    """Where exchanges are written: each whole in one file.

    Args:
        place: a folder (made, mode 0700, where it is missing), or one cassette by its name.
        lost: called for each whose lines could not be written.
        max_file_bytes: above this size exchanges go to another file of the folder; 0 for never.
        compress: gzip, unless the name of a cassette says otherwise.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, place: Path, lost: Lost, *, max_file_bytes: int, compress: bool) -> None:
        self._is_folder = not place.name.endswith(SUFFIXES)
        self._place = place
        self._lost = lost
        self._max = max_file_bytes if self._is_folder else 0
        self._compress = compress if self._is_folder else place.name.endswith(".gz")
        self._open: list[File] = []
        self._made: list[Path] = []  # files that were not there before
        self._count = 0
        warn_of(place)
        make(place if self._is_folder else place.parent)

    def file(self) -> File:
        """The file for an exchange that begins; ``done`` must follow.

        Raises:
            OSError: there is none to be had.
        """
        current = self._open[-1] if self._open else None
        if current is None or (self._max and current.size >= self._max):
            current = self._next()
            self._open.append(current)
            self._close_unused()
        current.exchanges += 1
        return current

    def write(self, file: File, data: bytes, owner: object) -> None:
        """Write whole lines; if that fails, ``lost`` is called.

        Args:
            file: of ``Files.file``.
            data: the lines.
            owner: whose they are.
        """
        self._guarded(file, lambda: file.write(data, owner))

    def done(self, file: File) -> None:
        """An exchange is over."""
        file.exchanges -= 1
        self._close_unused()

    def flush(self) -> None:
        for file in self._open:
            self._guarded(file, file.flush)

    def close(self) -> None:
        for file in self._open:
            self._guarded(file, file.close)
        self._open.clear()

    def remove(self) -> Path | None:
        """Delete the files that were made here, once they are closed.

        Returns:
            Where they were; None where none was made.
        """
        for path in self._made:
            path.unlink(missing_ok=True)
        return self._place if self._made else None

    def _close_unused(self) -> None:
        for file in [f for f in self._open[:-1] if not f.exchanges]:
            self._open.remove(file)
            self._guarded(file, file.close)

    def _guarded(self, file: File, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            owners = tuple(file.owners)
            file.owners.clear()
            for owner in owners:
                self._lost(owner, error)

    def _next(self) -> File:
        if not self._is_folder:
            is_made = not self._place.exists()
            file = File(self._place, compress=self._compress)
            self._made += [self._place] if is_made else []
            return file
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        suffix = SUFFIXES[1] if self._compress else SUFFIXES[0]
        while True:
            self._count += 1
            path = self._place / f"{now}-{os.getpid()}-{self._count:04d}{suffix}"
            with suppress(FileExistsError):
                file = File(path, compress=self._compress, is_new=True)
                self._made.append(path)
                return file


def first_line() -> bytes:
    """Of each cassette: what it is, and who made it when."""
    now = iso_utc(datetime.now(UTC))
    by = f"lifecycle-proxy {__version__}"
    return line({"kind": "cassette", "version": VERSION, "ts": now, "by": by})


def _size(fd: int) -> int:
    return os.fstat(fd).st_size


def _opened(path: Path, *, is_new: bool) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_EXCL, _OWNER_ONLY)
    except FileExistsError:
        if is_new:
            raise
        return os.open(path, flags, _OWNER_ONLY)
    os.fchmod(fd, _OWNER_ONLY)  # the umask may have left less
    return fd


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read() == b"\n"


def _mended(path: Path, fd: int) -> int:
    """A compressed file that can be appended to: behind a tear nothing could be read."""
    with suppress(gzip.BadGzipFile), gzip.open(path) as stream:
        try:
            while stream.read(_BATCH_BYTES):
                pass
        except (EOFError, zlib.error):
            os.close(fd)
            whole = path.resolve()
            fresh = whole.with_name(f"{whole.name}.{os.getpid()}.mended")
            fd = _opened(fresh, is_new=True)
            packed = zlib.compressobj(wbits=_GZIP)
            try:
                for text in lines(path):
                    os.write(fd, packed.compress(text if text.endswith(b"\n") else text + b"\n"))
            except CassetteError as problem:
                raise OSError(str(problem)) from None
            os.write(fd, packed.flush())
            fresh.replace(whole)
    return fd
