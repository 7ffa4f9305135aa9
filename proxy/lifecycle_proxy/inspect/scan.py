"""The command ``scan``: finds secrets in files, such as cassettes that are older than a rule.

Of a cassette the parts are searched: headers by name; whole bodies and streams, so that a secret in
two reads is found; and the texts and arguments that frames contain in pieces. A finding never
contains the secret.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Final, TextIO

from lifecycle_proxy.core.printable import printable
from lifecycle_proxy.inspect import timeline
from lifecycle_proxy.recording.cassette import Piece, Side
from lifecycle_proxy.recording.cassette_file import lines
from lifecycle_proxy.recording.json_lines import unpack
from lifecycle_proxy.recording.secret_detection import (
    Secret,
    find_in_header,
    find_in_target,
    find_secrets,
)

Json = dict[str, Any]

_KINDS: Final = ("cassette", "request", "body", "forwarded", "head", "read", "sent", "end")
_PROBED_LINES: Final = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """A place with a secret.

    Attributes:
        file: where it is.
        line: of the file, from 1.
        exchange: its id; "" outside of a cassette.
        where: ``header NAME``, ``url``, ``body``, ``stream``, ``end`` or ``text``.
        kind: of secret.
        excerpt: its name and its beginning, masked.
    """

    file: Path
    line: int
    exchange: str
    where: str
    kind: str
    excerpt: str

    def __str__(self) -> str:
        exchange = f"exchange {self.exchange}, " if self.exchange else ""
        text = f"{self.file}:{self.line}: {exchange}{self.where}: {self.kind}: {self.excerpt}"
        return printable(text)


def report(paths: Iterable[Path], stream: TextIO) -> int:
    """Write a line for each finding.

    Args:
        paths: files and folders.
        stream: where to write.

    Returns:
        1 if there are any, else 0.

    Raises:
        CassetteError: a file that is not there, or cannot be read.
    """
    is_clean = True
    for path in paths:
        for finding in scan(path):
            stream.write(f"{finding}\n")
            is_clean = False
    return int(not is_clean)


def scan(path: Path) -> Iterator[Finding]:
    """The secrets in a file, or in all files of a folder except hidden and binary ones.

    In an exchange the same secret is reported once for each ``where``.

    Raises:
        CassetteError: a file does not exist, or cannot be read.
    """
    for file in _files(path):
        yield from _File(file).scan()


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for file in sorted(path.rglob("*")):
        is_hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.is_file() and not is_hidden and not _is_binary(file):
            yield file


def _is_binary(file: Path) -> bool:
    return any(b"\0" in text for text in islice(lines(file), _PROBED_LINES))


@dataclass(frozen=True, slots=True)
class _Joined:
    """A text, and on which line of the file each piece of it stands."""

    text: str
    starts: Sequence[int]
    lines: Sequence[int]

    def line(self, offset: int) -> int:
        return self.lines[bisect_right(self.starts, offset) - 1]


def _joined(pieces: Sequence[str], lines: Sequence[int]) -> _Joined:
    starts = list(accumulate(map(len, pieces), initial=0))[:-1]
    return _Joined("".join(pieces), starts, lines)


@dataclass(slots=True)
class _Stream:
    """One side of an answer, or a request body, and which line each piece stands on."""

    side: Side = field(default_factory=Side)
    lines: list[int] = field(default_factory=list)

    def add(self, line: int, data: bytes) -> None:
        self.side.pieces.append(Piece(0.0, data))
        self.lines.append(line)

    def texts(self) -> Iterator[_Joined]:
        """The bytes, then what their frames write piece by piece."""
        if not self.lines:
            return
        whole = self.whole(timeline.clear(self.side))
        yield whole
        written: dict[str, tuple[list[str], list[int]]] = {}
        for frame in timeline.frames(self.side):
            for name, text in frame.summary.written:
                texts, lines = written.setdefault(name, ([], []))
                texts.append(text)
                lines.append(whole.line(frame.start))
        for texts, lines in written.values():
            yield _joined(texts, lines)

    def whole(self, pieces: Iterable[Piece]) -> _Joined:
        """All bytes. Latin-1: an offset is one in the bytes, and credentials are ASCII."""
        return _joined([piece.data.decode("latin-1") for piece in pieces], self.lines)


class _File:
    """One file, as far as it has been read."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._streams: dict[str, dict[str, _Stream]] = {}  # of exchanges that are not over
        self._bodies: dict[str, _Stream] = {}
        self._seen: set[tuple[str, str, bytes]] = set()

    def scan(self) -> Iterator[Finding]:
        for number, text in enumerate(lines(self._file), 1):
            record = _maybe_record(text)
            if record is None:
                for secret in find_secrets(text.decode("utf-8", "replace")):
                    yield Finding(self._file, number, "", "text", secret.kind, secret.excerpt)
            else:
                yield from self._record(number, record)
        for exchange in list(self._streams):
            yield from self._over(exchange)

    def _record(self, number: int, record: Json) -> Iterator[Finding]:
        exchange = str(record.get("id", ""))
        streams = self._streams.setdefault(exchange, {"upstream": _Stream(), "client": _Stream()})
        kind, data = record["kind"], _bytes(record.get("data"))
        if kind == "body":
            self._bodies.setdefault(exchange, _Stream()).add(number, data)
        if kind == "read":
            streams["upstream"].add(number, data)
        if kind == "sent" or (kind == "read" and record.get("sent")):
            streams["client"].add(number, data)
        if kind == "head" and (side := str(record.get("side"))) in streams:
            streams[side].side.headers = tuple(_headers(record))
        for where, secrets in _parts(record):
            for secret in secrets:
                yield from self._told(number, exchange, where, secret)
        if kind == "end":
            yield from self._over(exchange)

    def _over(self, exchange: str) -> Iterator[Finding]:
        if (body := self._bodies.pop(exchange, None)) is not None:
            joined = body.whole(body.side.pieces)
            for secret in find_secrets(joined.text):
                yield from self._told(joined.line(secret.start), exchange, "body", secret)
        upstream, client = self._streams.pop(exchange).values()
        for stream in (upstream,) if client == upstream else (upstream, client):
            for joined in stream.texts():
                for secret in find_secrets(joined.text):
                    line = joined.line(secret.start)
                    yield from self._told(line, exchange, "stream", secret)

    def _told(self, line: int, exchange: str, where: str, secret: Secret) -> Iterator[Finding]:
        digest = hashlib.sha256(secret.value.encode("utf-8", "replace")).digest()
        if (exchange, where, digest) not in self._seen:
            self._seen.add((exchange, where, digest))
            yield Finding(self._file, line, exchange, where, secret.kind, secret.excerpt)


def _maybe_record(text: bytes) -> Json | None:
    """A line of a cassette; None is any other text, the torn lines of a cassette too."""
    if not text.startswith(b"{"):
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and record.get("kind") in _KINDS else None


def _parts(record: Json) -> Iterator[tuple[str, Iterator[Secret]]]:
    """The parts of one line that stand by themselves."""
    yield "url", find_in_target(str(record.get("target", "")))
    for name, value in _headers(record):
        yield f"header {name}", find_in_header(name, value)
    yield "body", find_secrets(_bytes(record.get("body")).decode("latin-1"))
    if record["kind"] == "end":
        yield "end", find_secrets(json.dumps([record.get("error"), record.get("tools")]))


def _headers(record: Json) -> Iterator[tuple[str, str]]:
    headers = record.get("headers")
    for header in headers if isinstance(headers, list) else ():
        if isinstance(header, list) and len(header) == 2:
            yield str(header[0]), str(header[1])


def _bytes(value: object) -> bytes:
    """Bytes as they are in a line; what is neither form of them is looked at as the text it is."""
    try:
        return unpack(value)
    except ValueError:
        return b"" if value is None else json.dumps(value).encode()
