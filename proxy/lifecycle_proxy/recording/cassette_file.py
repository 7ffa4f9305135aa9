"""The lines of cassettes and their records, read from files that anybody may have written.

Nothing is read or unpacked without a bound: a line has at most 256 MiB, and a compressed file at
most a hundred times its size (256 MiB for small ones).
"""

import gzip
import io
import json
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from lifecycle_proxy.core.printable import printable

log = logging.getLogger("proxy.recording")

VERSION: Final = 1
SUFFIXES: Final = (".jsonl", ".jsonl.gz")

MAX_LINE_BYTES: Final = 256 << 20
_MAX_UNPACKED_BYTES: Final = 256 << 20
_MAX_RATIO: Final = 100
_READ_BYTES: Final = 1 << 20


class CassetteError(Exception):
    """A file that is no cassette, or one of a later version. The text names file and line."""


def files(path: Path) -> list[Path]:
    """The cassettes that a path means: itself, or those in the folder, oldest name first.

    Raises:
        CassetteError: there are none.
    """
    if path.is_dir():
        inside = sorted(f for f in path.rglob("*") if f.name.endswith(SUFFIXES) and f.is_file())
        if not inside:
            raise CassetteError(f"{path}: no cassettes in this folder ({' or '.join(SUFFIXES)})")
        return inside
    if not path.exists():
        raise CassetteError(f"{path}: no such file")
    return [path]


def lines(
    file: Path,
    max_line_bytes: int = MAX_LINE_BYTES,
    max_unpacked_bytes: int = _MAX_UNPACKED_BYTES,
) -> Iterator[bytes]:
    """The lines of one file, decompressed, up to a tear.

    Args:
        file: a cassette, or any other file.
        max_line_bytes: of a line.
        max_unpacked_bytes: of a small file that is compressed; of others a hundred times the size.

    Raises:
        CassetteError: it cannot be read, or is larger than is read.
    """
    try:
        stream, is_packed = _open(file)
        most_bytes = max(max_unpacked_bytes, _MAX_RATIO * file.stat().st_size) if is_packed else 0
        with stream:
            yield from _lines(file, stream, most_bytes, max_line_bytes)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        log.warning("%s: cut off (%s); the part before is used", file, error)
    except OSError as error:
        raise CassetteError(f"{file}: {error.strerror or error}") from None


def records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of one file, each with the number of its line.

    Raises:
        CassetteError: it is no cassette.
    """
    is_first = True
    for number, text in enumerate(lines(file), 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            if is_first:
                raise CassetteError(f"{file}: line {number}: not a cassette (JSON lines)") from None
            log.warning("%s: line %d is not valid JSON and was ignored", file, number)
            continue
        if is_first and not (isinstance(record, dict) and record.get("kind") == "cassette"):
            raise CassetteError(
                f"{file}: line {number}: not a cassette: the first record is of another kind"
            )
        if isinstance(record, dict):
            is_first = False
            if record.get("kind") == "cassette":
                _check_version(record, file, number)
            else:
                yield number, record


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not valid JSON")


def _check_version(record: dict[str, Any], file: Path, number: int) -> None:
    version = record.get("version")
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        shown = printable(repr(version))[:40]
        where = f"{file}: line {number}"
        raise CassetteError(f"{where}: version {shown}; this program reads 1 to {VERSION}")


def _open(file: Path) -> tuple[io.BufferedIOBase, bool]:
    """A file, decompressed, and whether it was compressed."""
    with file.open("rb") as probe:
        is_gzip = probe.read(2) == b"\x1f\x8b"
    return (gzip.GzipFile(file, "rb") if is_gzip else file.open("rb")), is_gzip


def _lines(
    file: Path, stream: io.BufferedIOBase, most_bytes: int, max_line_bytes: int
) -> Iterator[bytes]:
    number, size, line = 1, 0, bytearray()
    while data := stream.read1(_READ_BYTES):
        size += len(data)
        if most_bytes and size > most_bytes:
            raise CassetteError(f"{file}: line {number}: unpacks to more than {most_bytes} bytes")
        *whole, rest = data.split(b"\n")
        for piece in whole:
            line += piece + b"\n"
            yield bytes(line)
            line.clear()
            number += 1
        line += rest
        if len(line) > max_line_bytes:
            del line
            raise CassetteError(f"{file}: line {number}: longer than {max_line_bytes >> 20} MiB")
    if line:
        yield bytes(line)
