"""Recordings of other tools as cassettes: HAR 1.2, vcrpy in YAML or JSON, and event streams.

They know one side and whole bodies. So both sides of an exchange are the same here, and a body is
one read; when its pieces came is not known to them. Only a HAR of this proxy's own says that, what
of them the proxy has added, and how each side ended. Secrets are replaced as in the proxy's own
recordings.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from lifecycle_proxy.core.sse import begins_stream
from lifecycle_proxy.exchange.model import SideName
from lifecycle_proxy.exchange.routes import maybe_api
from lifecycle_proxy.exchange.timestamp import iso_utc
from lifecycle_proxy.inspect.import_source import exchanges
from lifecycle_proxy.inspect.imported import Imported, Unreadable
from lifecycle_proxy.recording.cassette import Json, Piece
from lifecycle_proxy.recording.cassette_file import SUFFIXES, CassetteError
from lifecycle_proxy.recording.json_lines import line, pack
from lifecycle_proxy.recording.redactor import ExchangeRedaction, Redaction
from lifecycle_proxy.recording.stream_redaction import RedactedChunk
from lifecycle_proxy.recording.writer import File


def convert(
    source: Path,
    target: Path,
    redaction: Redaction | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Write a HAR or vcrpy file, or an event stream, as a cassette.

    What the file is its content says; only an event stream is known by its name, ``*.sse``.

    Args:
        source: the file.
        target: a new file, ``*.jsonl`` or ``*.jsonl.gz``.
        redaction: the usual rules, if not given.
        tell: is called with each thing that could not be taken.

    Returns:
        How many exchanges there are in it.

    Raises:
        CassetteError: the file cannot be read, is something else or holds nothing, or the target
            cannot be written. The text names the file and the cure.
    """
    if not target.name.endswith(SUFFIXES):
        raise CassetteError(f"{target}: the name of a cassette ends in {' or '.join(SUFFIXES)}")
    if target.exists():
        raise CassetteError(f"{target}: there is such a file; remove it, or choose another name")
    raw = _raw(source)
    try:
        found = exchanges(source, raw, datetime.fromtimestamp(source.stat().st_mtime, UTC))
    except Unreadable as error:
        raise CassetteError(f"{source}: {error}") from None
    prefix = hashlib.sha256(raw).hexdigest()[:12]
    try:
        _write(found, target, prefix, redaction or Redaction())
    except OSError as error:
        raise CassetteError(f"{target}: {error.strerror or error}") from None
    for number, one in enumerate(found, 1):
        for what, why in (("request", one.request_omitted), ("response", one.omitted)):
            if why:
                tell(f"exchange {number}, {one.method} {one.url[:100]}: the {what}: {why}")
    return len(found)


def _raw(source: Path) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise CassetteError(f"{source}: {error.strerror or error}") from None


# --- what becomes of it -------------------------------------------------------------------------


def _write(found: list[Imported], target: Path, prefix: str, rules: Redaction) -> None:
    """All or nothing: the file has its name when it is whole."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        file = File(partial, compress=target.name.endswith(".gz"))
        try:
            for number, one in enumerate(found, 1):
                for record in _records(one, f"im_{prefix}_{number}", rules):
                    file.write(line(record))
        finally:
            file.close()
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _records(one: Imported, exchange_id: str, rules: Redaction) -> Iterator[Json]:
    """The lines of one exchange."""
    own = rules.exchange(one.request_headers)
    assert one.ts is not None
    ts = iso_utc(one.ts)
    target = own.target(_target(one.url))
    headers = own.headers(one.request_headers)
    body = None if one.request_omitted else pack(own.body(one.request_body))
    api = maybe_api(one.method, target)
    route = "other" if api is None else api.name
    request = {"ts": ts, "route": route, "method": one.method}
    told: Json = {"target": target, "headers": headers, "body": body}
    told |= {"omitted": one.request_omitted} if one.request_omitted else {}
    yield {"kind": "request", "id": exchange_id, **request, **told}
    asked: Json = {"ms": 0, "target": target, "headers": headers}
    if one.was_forwarded:
        yield {"kind": "forwarded", "id": exchange_id, **asked}
    pieces = _pieces(one, own)
    bodies: dict[SideName, bytes] = {
        "upstream": b"".join(_theirs(piece) for piece in pieces),
        "client": b"".join(piece.data for piece in pieces),
    }
    bodies = {side: body if one.is_answer_of(side) else b"" for side, body in bodies.items()}
    for side, answer in bodies.items():
        if one.is_answer_of(side):
            head: Json = {"ms": one.head_ms, "status": one.status, "reason": one.reason}
            head["headers"] = _clear_headers(one, own, side, len(answer))
            yield {"kind": "head", "id": exchange_id, "side": side, **head}
    for piece in pieces:
        for kind, record in _moments(one, piece):
            yield {"kind": kind, "id": exchange_id, "ms": piece.ms, **record}
    if one.ending.ended != "":
        yield _end(one, own, exchange_id, bodies)


def _pieces(one: Imported, own: ExchangeRedaction) -> list[Piece]:
    """The body as it came, without secrets, also where one came in parts."""
    if not one.status or not one.body:
        return []
    if not one.pieces:
        return [Piece(one.end_ms, own.data(one.body))]
    stream, clear = own.stream(), list[RedactedChunk]()
    for piece in one.pieces:
        clear += stream.feed(piece.ms, piece.data, piece.added)
    return [Piece(*came) for came in clear + stream.flush()]


def _theirs(piece: Piece) -> bytes:
    """A piece without what the proxy added."""
    theirs, at = b"", 0
    for start, stop in piece.added:
        theirs += piece.data[at:start]
        at = stop
    return theirs + piece.data[at:]


def _moments(one: Imported, piece: Piece) -> Iterator[tuple[str, Json]]:
    """What was read, and what the client was sent where that is not the same."""
    theirs = _theirs(piece) if one.is_answer_of("upstream") else b""
    is_sent = one.is_answer_of("client")
    if is_sent and theirs and not piece.added:
        yield "read", {"data": pack(theirs), "sent": True}
        return
    if theirs:
        yield "read", {"data": pack(theirs)}
    if is_sent:
        yield "sent", {"data": pack(piece.data), "added": piece.added}


def _end(
    one: Imported, own: ExchangeRedaction, exchange_id: str, bodies: dict[SideName, bytes]
) -> Json:
    """The last line."""
    told = one.ending
    body = bodies["client"]
    is_done = b"data: [DONE]" in body or not begins_stream(body)
    ended = told.ended or ("upstream_error" if not one.status else "done" if is_done else "eof")
    how: Json = {"ended": ended, "error": own.text(told.error), "tools": own.tree(told.tools)}
    record: Json = {"kind": "end", "id": exchange_id, **how}
    for side, body in bodies.items():
        summed = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        record[side] = {"end": one.end(side), "ms": one.end_ms, **summed}
    return {**record, "omitted": one.omitted} if one.omitted else record


def _clear_headers(
    one: Imported, own: ExchangeRedaction, side: SideName, size: int
) -> list[tuple[str, str]]:
    """The headers of an answer for its body without content coding, which has another length.

    The length of a body that broke off stays: it tells that. One of a coding says nothing here.
    """
    is_whole = one.end(side) == "eof"
    headers = own.headers(one.headers)
    names = [name.lower() for name, _ in headers]
    is_coded, is_chunked = "content-encoding" in names, "transfer-encoding" in names
    dropped = ["content-encoding"]
    # One of the two says where the body ends (RFC 9112 section 6.3).
    dropped += ["content-length"] if (is_coded and not is_whole) or is_chunked else []
    return [
        (name, str(size) if name.lower() == "content-length" and one.body and is_whole else value)
        for name, value in headers
        if name.lower() not in dropped
    ]


def _target(url: str) -> str:
    """Path and query."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
