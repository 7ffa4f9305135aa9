"""The cassette: exchanges as JSON lines, read by read, both sides of the proxy.

``docs/cassettes.md`` is the specification. Lines of several exchanges may be mixed; each names its
own. What is written is written for good, so a file can be appended to, read while it grows, and
read up to the tear where a disk was full or a process died.
"""

import base64
import gzip
import hashlib
import json
import logging
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, cast

import orjson

from lifecycle_proxy.exchange.ends import SideEnd
from lifecycle_proxy.exchange.model import Headers, SideName, first_header

log = logging.getLogger("proxy.recording")

VERSION: Final = 1
SUFFIXES: Final = (".jsonl", ".jsonl.gz")

Json = dict[str, Any]


class CassetteError(Exception):
    """A file that is no cassette, or one of a later version. The text names file and line."""


@dataclass(slots=True)
class Request:
    """A request, as one side saw it.

    Attributes:
        target: path and query, as on the request line.
        headers: in order, with duplicates.
        body: None where it was not recorded; ``omitted`` says why then.
    """

    method: str
    target: str
    headers: Headers
    body: bytes | None = b""
    omitted: str = ""

    def header(self, name: str) -> str:
        """The first header of this name, in whatever case; "" without one."""
        return first_header(self.headers, name)


@dataclass(slots=True)
class Piece:
    """The bytes of one read, or of one write.

    Attributes:
        ms: milliseconds since the request came.
        added: where in ``data`` frames of the proxy's own stand, as (start, stop).
    """

    ms: float
    data: bytes
    added: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class Side:
    """An answer, as one side saw it: what the upstream sent, or what the client got.

    Attributes:
        ms: milliseconds from the request to the head.
        headers: in order, with duplicates.
        end: how it ended.
        end_ms: when.
        sha256: of all bytes, as recorded; "" where the end was not.
    """

    status: int = 0
    reason: str = ""
    headers: Headers = ()
    ms: float = 0.0
    pieces: list[Piece] = field(default_factory=list)
    end: SideEnd = ""
    end_ms: float = 0.0
    sha256: str = ""

    @property
    def body(self) -> bytes:
        return b"".join(piece.data for piece in self.pieces)

    @property
    def is_whole(self) -> bool:
        """Whether the bytes are those that were recorded."""
        return hashlib.sha256(self.body).hexdigest() == self.sha256

    def header(self, name: str) -> str:
        """The first header of this name, in whatever case; "" without one."""
        return first_header(self.headers, name)


@dataclass(slots=True)
class Exchange:
    """One request and its answer, from both sides.

    Attributes:
        ts: when the request came: ISO 8601, UTC.
        route: what kind of request: ``chat``, ``responses``, ``messages``, ``other``, ...
        request: the client's.
        forwarded: what the upstream got; None where it was never asked.
        upstream: what it sent.
        client: what the client got.
        ended: as in the metrics: ``done``, ``eof``, ``upstream_error``, ``client_gone``, ...
        tools: the lifecycle events that the client was told, as the frames' fields.
        omitted: why the answer is not recorded, if it is not.
        is_complete: whether its end was recorded.
    """

    id: str
    ts: str
    route: str
    request: Request
    forwarded: Request | None = None
    upstream: Side = field(default_factory=Side)
    client: Side = field(default_factory=Side)
    ended: str = ""
    error: str = ""
    tools: list[Json] = field(default_factory=list)
    omitted: str = ""
    is_complete: bool = False

    def side(self, name: SideName) -> Side:
        return self.upstream if name == "upstream" else self.client


# --- bytes in JSON ------------------------------------------------------------------------------


def pack(data: bytes) -> str | Json:
    """Bytes as text, if they are UTF-8, else in base64."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def unpack(value: object) -> bytes:
    """The bytes again.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, dict) and isinstance(value.get("base64"), str):
        return base64.b64decode(value["base64"], validate=True)
    raise ValueError("neither text nor base64")


def line(record: Json) -> bytes:
    """One record, with its line end."""
    try:
        return orjson.dumps(record) + b"\n"
    except TypeError:  # lone surrogates, from headers that are no text
        return json.dumps(record).encode() + b"\n"


# --- reading ------------------------------------------------------------------------------------


def load(path: Path) -> list[Exchange]:
    """The exchanges of a cassette, or of all cassettes in a folder, in the order they began.

    Torn lines are passed over, with a warning in the log.

    Raises:
        CassetteError: nothing there, no cassette, or one of a later version.
    """
    found: dict[str, Exchange] = {}
    for file in files(path):
        for record in records(file):
            _apply(record, found, file)
    return list(found.values())


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


def records(file: Path) -> Iterator[Json]:
    """The records of one file.

    Raises:
        CassetteError: it is no cassette.
    """
    is_first = True
    for number, text in enumerate(lines(file), 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
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
                _check_version(record, file)
            else:
                yield record


def lines(file: Path) -> Iterable[bytes]:
    """The lines of one file, decompressed, up to a tear.

    Raises:
        CassetteError: it cannot be read.
    """
    try:
        with _open(file) as stream:
            yield from stream
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        log.warning("%s: cut off (%s); the part before is used", file, error)
    except OSError as error:
        raise CassetteError(f"{file}: {error.strerror or error}") from None


def _open(file: Path) -> IO[bytes]:
    with file.open("rb") as probe:
        is_gzip = probe.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(file, "rb")) if is_gzip else file.open("rb")


def _check_version(record: Json, file: Path) -> None:
    version = record.get("version")
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise CassetteError(f"{file}: version {version!r}; this program reads 1 to {VERSION}")


def _apply(record: Json, found: dict[str, Exchange], file: Path) -> None:
    try:
        kind, exchange_id = record["kind"], record["id"]
        if kind == "request":
            found[exchange_id] = _begun(record)
        elif exchange_id in found and (take := _TAKE.get(kind)):
            take(found[exchange_id], record)
    except (KeyError, TypeError, ValueError) as error:
        log.warning("%s: an invalid %s record was ignored: %r", file, record.get("kind"), error)


def _begun(record: Json) -> Exchange:
    request = _request(record, record["method"], record["target"])
    return Exchange(record["id"], record["ts"], record["route"], request)


def _request(record: Json, method: str, target: str) -> Request:
    body = record.get("body")
    kept = None if body is None else unpack(body)
    return Request(method, target, _headers(record), kept, record.get("omitted", ""))


def _headers(record: Json) -> Headers:
    return tuple((str(name), str(value)) for name, value in record["headers"])


def _forwarded(exchange: Exchange, record: Json) -> None:
    asked = exchange.request
    exchange.forwarded = _request(
        {"body": None if asked.body is None else pack(asked.body), **record},
        record.get("method", asked.method),
        record["target"],
    )


def _head(exchange: Exchange, record: Json) -> None:
    side = exchange.side(record["side"])
    side.status, side.reason = record["status"], record["reason"]
    side.headers, side.ms = _headers(record), record["ms"]


def _read(exchange: Exchange, record: Json) -> None:
    piece = Piece(record["ms"], unpack(record["data"]))
    exchange.upstream.pieces.append(piece)
    if record.get("sent"):
        exchange.client.pieces.append(piece)


def _sent(exchange: Exchange, record: Json) -> None:
    added = tuple((start, stop) for start, stop in record.get("added", ()))
    exchange.client.pieces.append(Piece(record["ms"], unpack(record["data"]), added))


def _end(exchange: Exchange, record: Json) -> None:
    exchange.ended, exchange.error = record["ended"], record.get("error", "")
    exchange.tools = record.get("tools", [])
    exchange.omitted = record.get("omitted", "")
    for name in ("upstream", "client"):
        side, told = exchange.side(name), record[name]
        side.end, side.end_ms, side.sha256 = told["end"], told["ms"], told["sha256"]
        if exchange.omitted:  # part of it may have been written before that was known
            side.pieces.clear()
            side.sha256 = ""
    exchange.is_complete = True


_TAKE: Final = {
    "forwarded": _forwarded,
    "head": _head,
    "read": _read,
    "sent": _sent,
    "end": _end,
}
