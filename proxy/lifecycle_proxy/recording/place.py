"""Where recordings go: a folder for their owner only, and a warning if it is not."""

import logging
import stat
from pathlib import Path
from typing import Final

log = logging.getLogger("proxy.recording")

_READ_BY_OTHERS: Final = stat.S_IRGRP | stat.S_IROTH
_WRITTEN_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def make(folder: Path) -> None:
    """A folder and what it lies in, mode 0700 whatever the umask; what is there stays as it is."""
    if not folder.is_dir():
        make(folder.parent)
        folder.mkdir()
        folder.chmod(0o700)


def warn_of(place: Path) -> None:
    """Say where others can read, or choose, what is recorded. Devices are somebody's intention."""
    if not place.is_file() and not place.is_dir():
        return
    mode = place.stat().st_mode
    if place.is_symlink():
        log.warning("recording.path: %s is a symbolic link to %s", place, place.resolve())
    if place.is_file() and mode & _READ_BY_OTHERS:
        log.warning("recording.path: %s can be read by other users (chmod 600)", place)
    if place.is_dir() and mode & _WRITTEN_BY_OTHERS:
        log.warning("recording.path: other users can write into %s (chmod 700)", place)
