"""An exchange as the lines of a cassette: secrets out, both sides together, bytes summed."""

from collections import deque
from typing import Any, Final

from lifecycle_proxy.exchange.ends import ENDS, Ended, SideEnd
from lifecycle_proxy.exchange.model import Headers, SideName
from lifecycle_proxy.recording.body_encoder import BodyEncoder, is_compressed
from lifecycle_proxy.recording.cassette import Json
from lifecycle_proxy.recording.json_lines import LineFiles, line, pack
from lifecycle_proxy.recording.redactor import ExchangeRedaction, Redaction
from lifecycle_proxy.recording.sides import RecordedSide, Transfer
from lifecycle_proxy.recording.stream_redaction import RedactedChunk, Spans

_COMPRESSED: Final = "a compressed body, which cannot be searched for secrets"
_NOT_READ: Final = "the upstream did not read the body to its end"


class ExchangeEncoder:
    """The lines of one exchange. Called a while after things happened, in another thread.

    Args:
        exchange_id: of the exchange.
        redaction: what must not reach the disk.
        files: where lines go.
        max_body_bytes: larger request bodies are not recorded.

    Attributes:
        lost: why it cannot be kept, if it cannot. Any thread may say so.
        named: what is not recorded, and why: once for each.
        is_unreachable: nothing is recorded but that the upstream could not be reached.
    """

    def __init__(
        self, exchange_id: str, redaction: Redaction, files: LineFiles, max_body_bytes: int
    ) -> None:
        self.lost = ""
        self.named: list[str] = []
        self.is_unreachable = False
        self._id = exchange_id
        self._all = redaction
        self._files = files
        self._max_body_bytes = max_body_bytes
        self._file: Any = None
        self._own: ExchangeRedaction | None = None
        self._omitted = ""
        self._body: BodyEncoder | None = None
        self._transfers: deque[Transfer] = deque()
        self._upstream, self._client = RecordedSide(), RecordedSide()

    def omit(self, why: str) -> None:
        """Keep nothing of the answer."""
        if not self._omitted:
            self._omitted = why
            self.named.append(f"the exchange is not recorded: {why}")

    def request(
        self,
        ts: str,
        what: tuple[str, str, str],
        headers: Headers,
        body: bytes | None,
        why: str,
    ) -> None:
        """The first line.

        Args:
            ts: when the request came, ISO 8601.
            what: route, method and target.
            headers: the client's.
            body: None where it comes in pieces, or, with ``why``, is not recorded.
            why: it is not.
        """
        self._file = self._files.file()
        own = self._own = self._all.exchange(headers)
        self._upstream.stream = own.stream()
        route, method, target = what
        record: Json = {"ts": ts, "route": route, "method": method, "target": own.target(target)}
        record["headers"] = own.headers(headers)
        if body is None and why:
            record |= {"body": None, "omitted": why}
        else:
            self._body = BodyEncoder(own, self._max_body_bytes)
            if is_compressed(headers):
                self._body.omitted = _COMPRESSED
            record |= {"body": None, "streamed": True} if body is None else self._whole(body)
        # Lost by now or not: what could not be kept is named.
        self._put(self._file, "request", record)

    def body(self, ms: float, piece: bytes) -> None:
        """A piece of a request body that comes in pieces.

        Args:
            ms: milliseconds since the request came; the same everywhere here.
            piece: ``b""`` at the end.
        """
        if (body := self._body) is None:
            return
        clear = body.feed(piece) if piece else body.flush()
        if clear:
            self._write("body", {"ms": ms, "data": pack(clear)})
        if not piece:
            self._over(body, {"ms": ms})

    def _whole(self, data: bytes) -> Json:
        """The fields of a body that came at once."""
        body = self._body
        self._body = None
        assert body is not None, "begun"
        clear = body.feed(data) + body.flush() if data else b""
        if not body.omitted or not data:
            return {"body": pack(clear)}
        self.named.append(f"the request body is not recorded: {body.omitted}")
        return {"body": None, "omitted": body.omitted, **body.sums()}

    def _over(self, body: BodyEncoder, record: Json) -> None:
        self._body = None
        if body.omitted and body.size:
            record["omitted"] = body.omitted
            self.named.append(f"the request body is not recorded: {body.omitted}")
        self._write("body", record | body.sums())

    def forwarded(self, ms: float, target: str, headers: Headers, body: bytes | None) -> None:
        """The request was sent to the upstream.

        Args:
            ms: when.
            target: path and query, as sent.
            headers: as sent.
            body: None if it is the client's.
        """
        if (own := self._own) is not None:
            record: Json = {"ms": ms, "target": own.target(target)}
            record["headers"] = own.headers(headers)
            if body is not None:
                record["body"] = pack(own.body(body))
            self._write("forwarded", record)

    def head(self, side: SideName, ms: float, status: tuple[int, str], headers: Headers) -> None:
        """Status and headers of the response; only the first of a side are recorded.

        Args:
            side: whose.
            ms: when.
            status: the code and the reason.
            headers: in order, with duplicates.
        """
        own_side = self._side(side)
        if own_side.begun:
            return
        own_side.begun = True
        if is_compressed(headers):
            self.omit(self._omitted or _COMPRESSED)
        if (own := self._own) is not None:
            record: Json = {"side": side, "ms": ms, "status": status[0]}
            record |= {"reason": own.text(status[1]), "headers": own.headers(headers)}
            self._write("head", record)

    def passed(self, ms: float, chunk: bytes, data: bytes | None, added: Spans) -> None:
        """One read from the upstream, and what the client was written for it.

        Args:
            ms: when.
            chunk: the read.
            data: what was written; None if it is the same.
            added: where in ``data`` the proxy's own frames are.
        """
        if self._is_kept:
            self._transfers.append(transfer := Transfer(ms, has_read=True, has_sent=data != b""))
            if data is not None:
                self._fork()
            self._clear(self._upstream, transfer, chunk)
            if self._client.stream is not None and transfer.has_sent:
                self._clear(self._client, transfer, chunk if data is None else data, added)
            self._emit()

    def sent(self, ms: float, data: bytes, added: Spans) -> None:
        """Bytes that were written without a read.

        Args:
            ms: when.
            data: the bytes.
            added: where in them the proxy's own frames are.
        """
        if self._is_kept:
            self._transfers.append(transfer := Transfer(ms, has_read=False, has_sent=True))
            self._fork()
            self._clear(self._client, transfer, data, added)
            self._emit()

    def show(self) -> None:
        """Write what is clear by now: somebody looks, though the exchange goes on."""
        for side in (self._upstream, self._client):
            if side.stream is not None and self._is_kept:
                self._fill(side, side.stream.certain())
        self._emit()

    def ends(self, side: SideName, end: SideEnd) -> None:
        """A side ended otherwise than the exchange will.

        Args:
            side: which.
            end: how.
        """
        self._side(side).own_end = end

    def end(self, ms: float, how: tuple[Ended, str], tools: list[Json]) -> None:
        """The last line.

        Args:
            ms: when.
            how: ``ended`` and ``error`` of the exchange.
            tools: the fields of its lifecycle events.
        """
        if (file := self._file) is None:
            return
        if (body := self._body) is not None:
            body.omitted = body.omitted or _NOT_READ
            self._over(body, {"ms": ms})
        for side in (self._upstream, self._client):
            if side.stream is not None and self._is_kept:
                self._fill(side, side.stream.flush())
        self._emit()
        assert self._own is not None
        record: Json = {"ended": how[0], "error": how[1], "tools": self._own.tree(tools)}
        row = ENDS[how[0] or "refused"]
        ends = (row.upstream, row.client)
        self._fork()
        for name, side, end in zip(_SIDES, (self._upstream, self._client), ends, strict=True):
            record[name] = {"end": side.end(end), "ms": ms, **side.sums()}
        self._check()
        omitted = self.lost or self._omitted
        self.is_unreachable = how[1] == _UNREACHABLE
        self._put(file, "end", record | {"omitted": omitted} if omitted else record)
        self._files.done(file)

    def _side(self, name: SideName) -> RecordedSide:
        return self._upstream if name == "upstream" else self._client

    @property
    def _is_kept(self) -> bool:
        return not (self.lost or self._omitted or self._own is None)

    # --- secrets: of each side by itself, as one of them may end in another read ----------------

    def _fork(self) -> None:
        """From here on the client gets other bytes than the upstream sends."""
        if self._client.stream is None and self._upstream.stream is not None:
            self._client.fork(self._upstream)

    def _clear(
        self, side: RecordedSide, transfer: Transfer, data: bytes, marks: Spans = ()
    ) -> None:
        if side.stream is not None:
            self._fill(side, side.stream.feed(transfer, data, marks))

    def _fill(self, side: RecordedSide, clear: list[RedactedChunk]) -> None:
        for transfer, data, marks in clear:
            if side is self._upstream:
                transfer.read = data
            if side is self._client or self._client.stream is None:
                transfer.sent, transfer.added = data, marks

    def _emit(self) -> None:
        """Write the transfers of which all is known, in their order, all at once."""
        transfers, lines = self._transfers, list[bytes]()
        if not (transfers and transfers[0].is_clear):
            return  # after most reads
        read, sent = list[bytes](), list[bytes]()
        self._check()
        while transfers and transfers[0].is_clear:
            transfer = transfers.popleft()
            if self._is_kept:  # sizes and sums are of what is written
                lines += transfer.lines(self._id, is_forked=self._client.stream is not None)
                read.append(transfer.read or b"")
                sent.append(transfer.sent or b"")
        self._upstream.add(b"".join(read))
        if self._client.stream is not None:
            self._client.add(b"".join(sent))
        if self._file is not None and lines:
            self._files.write(self._file, b"".join(lines), self)

    def _check(self) -> None:
        """An exchange that cannot be searched for its own credentials is not recorded."""
        if self._own is not None and self._own.problem:
            self.omit(self._own.problem)

    def _write(self, kind: str, record: Json) -> None:
        self._check()
        if self._file is not None and not (self.lost or self._omitted):
            self._put(self._file, kind, record)

    def _put(self, file: Any, kind: str, record: Json) -> None:
        self._files.write(file, line({"kind": kind, "id": self._id, **record}), self)


_UNREACHABLE: Final = "upstream_unreachable"
_SIDES: Final = ("upstream", "client")
