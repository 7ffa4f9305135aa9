"""The two sides of an exchange while it is written: what is read, what is sent, and the sums."""

import hashlib
from collections.abc import Iterator

from lifecycle_proxy.exchange.ends import SideEnd
from lifecycle_proxy.recording.cassette import Json
from lifecycle_proxy.recording.json_lines import line, pack
from lifecycle_proxy.recording.stream_redaction import Spans, StreamRedaction


class Transfer:
    """What one read gave and the client was written for it, or one write alone."""

    __slots__ = ("added", "has_read", "has_sent", "ms", "read", "sent")

    def __init__(self, ms: float, *, has_read: bool, has_sent: bool) -> None:
        self.ms = ms
        self.has_read = has_read
        self.has_sent = has_sent
        self.read: bytes | None = None  # until it is clear of secrets
        self.sent: bytes | None = None
        self.added: Spans = ()

    @property
    def is_clear(self) -> bool:
        return not ((self.has_read and self.read is None) or (self.has_sent and self.sent is None))

    def lines(self, exchange_id: str, *, is_forked: bool) -> Iterator[bytes]:
        """What the cassette says of it, once it is clear.

        Args:
            exchange_id: of the exchange.
            is_forked: the client gets other bytes than the upstream sends, here or before.
        """
        same = self.has_read and self.read == self.sent
        if self.read is not None:
            record: Json = {"kind": "read", "id": exchange_id, "ms": self.ms}
            record["data"] = pack(self.read)
            if same:
                record["sent"] = True
            yield line(record)
        if self.sent is not None and is_forked and not same:
            record = {"kind": "sent", "id": exchange_id, "ms": self.ms, "data": pack(self.sent)}
            if self.added:
                record["added"] = self.added
            yield line(record)


class RecordedSide:
    """One side of an exchange: what the last line says of it."""

    def __init__(self) -> None:
        self.begun = False
        self.own_end: SideEnd = ""
        self.stream: StreamRedaction | None = None
        self.size = 0
        self.hash = hashlib.sha256()

    def fork(self, other: "RecordedSide") -> None:
        """Go on from where another side, which was the same so far, is."""
        assert other.stream is not None, "begun"
        self.stream = other.stream.copy()
        self.size, self.hash = other.size, other.hash.copy()

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self.hash.update(data)

    def end(self, by_exchange: SideEnd) -> SideEnd:
        if not self.begun:
            return ""
        return self.own_end or by_exchange

    def sums(self) -> Json:
        return {"size": self.size, "sha256": self.hash.hexdigest()}
