"""The cassette: exchanges as JSON lines, read by read, both sides of the proxy.

``docs/cassettes.md`` is the specification. Lines of several exchanges may be mixed; each names its
own. What is written is written for good, so a file can be appended to, read while it grows, and
read up to the tear where a disk was full or a process died.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from lifecycle_proxy.core.printable import printable
from lifecycle_proxy.exchange.ends import SideEnd
from lifecycle_proxy.exchange.headers import first_header
from lifecycle_proxy.exchange.model import Headers, SideName
from lifecycle_proxy.recording.cassette_file import files, records
from lifecycle_proxy.recording.json_lines import unpack
from lifecycle_proxy.recording.records import (
    BodyRecord,
    EndRecord,
    ForwardedRecord,
    HeadRecord,
    ReadRecord,
    Record,
    RequestRecord,
    SentRecord,
    maybe_typed,
)

log = logging.getLogger("proxy.recording")

_NOT_WHOLE: Final = "its bytes are not whole in the recording"

Json = dict[str, Any]


@dataclass(slots=True)
class Request:
    """A request, as one side saw it.

    Attributes:
        target: path and query, as on the request line.
        headers: in order, with duplicates.
        body: None where it was not recorded; ``omitted`` says why then.
        sha256: of a body that was not recorded, "" where that is not known.
    """

    method: str
    target: str
    headers: Headers
    body: bytes | None = b""
    omitted: str = ""
    sha256: str = ""

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
class RecordedExchange:
    """One request and its answer, from both sides.

    Attributes:
        ts: when the request came: ISO 8601, UTC.
        route: what kind of request: ``chat``, ``responses``, ``messages``, ``other``, ...
        request: the client's.
        forwarded: what the upstream got; None where it was never asked.
        upstream: what it sent.
        client: what the client got.
        ended: as in the metrics: ``done``, ``eof``, ``upstream_error``, ``client_gone``, ...
        tools: the lifecycle events of the exchange, as the frames' fields.
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


# --- reading ------------------------------------------------------------------------------------


def load(path: Path) -> list[RecordedExchange]:
    """The exchanges of a cassette, or of all cassettes in a folder, in the order they began.

    Invalid lines are ignored, with a warning in the log.

    Raises:
        CassetteError: nothing there, no cassette, or one of a later version.
    """
    reader = _Reader()
    for file in files(path):
        for number, record in records(file):
            try:
                if (own := maybe_typed(record)) is not None:
                    reader.take(own)
            except ValueError as error:
                kind = printable(str(record.get("kind")))[:40]
                problem = f"an invalid {kind} record was ignored: {printable(str(error))}"
                log.warning("%s: line %d: %s", file, number, problem)
    return list(reader.found.values())


def parse(data: bytes) -> list[RecordedExchange]:
    """The exchanges in the lines of a cassette that this program wrote itself.

    Raises:
        ValueError: they are not.
    """
    reader = _Reader()
    for text in data.splitlines():
        record = json.loads(text)
        if record.get("kind") != "cassette" and (own := maybe_typed(record)) is not None:
            reader.take(own)
    return list(reader.found.values())


def _begun(record: RequestRecord) -> RecordedExchange:
    own = record
    body = None if own.body is None else unpack(own.body)
    request = Request(own.method, own.target, own.headers, body, own.omitted, own.sha256)
    if own.streamed:
        request.omitted = _NOT_WHOLE
    return RecordedExchange(own.id, own.ts, own.route, request)


class _Reader:
    """The exchanges of some files, as far as they have been read."""

    def __init__(self) -> None:
        self.found: dict[str, RecordedExchange] = {}
        self._bodies: dict[str, list[bytes]] = {}  # of requests that were streamed

    def take(self, record: Record) -> None:
        """Take one record.

        Raises:
            ValueError: its bytes are not as they should be.
        """
        if isinstance(record, RequestRecord):
            self.found[record.id] = _begun(record)
            self._bodies[record.id] = []
            return
        if (exchange := self.found.get(record.id)) is None:
            return
        match record:
            case BodyRecord():
                self._body(exchange, record)
            case ForwardedRecord():
                _forwarded(exchange, record)
            case HeadRecord():
                side = exchange.side(record.side)
                side.status, side.reason = record.status, record.reason
                side.headers, side.ms = record.headers, record.ms
            case ReadRecord():
                piece = Piece(record.ms, unpack(record.data))
                exchange.upstream.pieces.append(piece)
                if record.sent:
                    exchange.client.pieces.append(piece)
            case SentRecord():
                data = unpack(record.data)
                exchange.client.pieces.append(Piece(record.ms, data, _spans(record.added, data)))
            case EndRecord():
                _end(exchange, record)

    def _body(self, exchange: RecordedExchange, record: BodyRecord) -> None:
        """A piece of a request body, or, with its hash, the end of it."""
        request, pieces = exchange.request, self._bodies[exchange.id]
        if record.data is not None:
            pieces.append(unpack(record.data))
        if not record.sha256:
            return
        request.omitted, body = record.omitted, b"".join(pieces)
        pieces.clear()
        if request.omitted:
            request.sha256 = record.sha256
        elif hashlib.sha256(body).hexdigest() == record.sha256:
            request.body = body
        else:
            request.omitted = _NOT_WHOLE
        if (forwarded := exchange.forwarded) is not None and forwarded.body is None:
            forwarded.body, forwarded.omitted = request.body, request.omitted
            forwarded.sha256 = request.sha256


def _spans(added: Iterable[tuple[int, int]], data: bytes) -> tuple[tuple[int, int], ...]:
    """Raises ValueError where they are not in order, or not within the data."""
    spans, at = tuple(added), 0
    for start, stop in spans:
        if not at <= start <= stop <= len(data):
            raise ValueError("added: not within the data, or not in order")
        at = stop
    return spans


def _forwarded(exchange: RecordedExchange, record: ForwardedRecord) -> None:
    asked = exchange.request
    method = record.method or asked.method
    if record.body is msgspec.UNSET:
        body, omitted, sha256 = asked.body, asked.omitted, asked.sha256
    else:
        body = None if record.body is None else unpack(record.body)
        omitted, sha256 = record.omitted, ""
    exchange.forwarded = Request(method, record.target, record.headers, body, omitted, sha256)


def _end(exchange: RecordedExchange, record: EndRecord) -> None:
    exchange.ended, exchange.error = record.ended, record.error
    exchange.tools, exchange.omitted = record.tools, record.omitted
    for side, end in ((exchange.upstream, record.upstream), (exchange.client, record.client)):
        side.end, side.end_ms, side.sha256 = end.end, end.ms, end.sha256
        if exchange.omitted:  # part of it may have been written before that was known
            side.pieces.clear()
            side.sha256 = ""
    exchange.is_complete = True
