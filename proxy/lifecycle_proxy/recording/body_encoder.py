"""A request body on its way to a cassette."""

import hashlib
import time
from typing import Final

from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.recording.cassette import Json
from lifecycle_proxy.recording.redactor import ExchangeRedaction

_TURN_BYTES: Final = 1 << 13


def is_compressed(headers: Headers) -> bool:
    """Whether headers name a content coding."""
    return any(
        name.lower() == "content-encoding" and value.strip().lower() not in ("", "identity")
        for name, value in headers
    )


class BodyEncoder:
    """A request body: what is clear of it, and the sums of it.

    Attributes:
        omitted: why it is not recorded, "" where it is.
        size: of all its bytes.
    """

    def __init__(self, own: ExchangeRedaction, max_bytes: int) -> None:
        self.omitted = ""
        self.size = 0
        self._own = own
        self._max_bytes = max_bytes
        self._redaction = own.body_stream()
        self._clear_size = 0
        self._hash, self._clear_hash = hashlib.sha256(), hashlib.sha256()

    def feed(self, piece: bytes) -> bytes:
        """Take a piece; return what is clear now."""
        self.size += len(piece)
        self._hash.update(piece)
        if self.size > self._max_bytes:
            self.omitted = self.omitted or f"larger than {self._max_bytes} bytes (max_body_bytes)"
        if self.omitted:
            return b""
        clear = []
        for start in range(0, len(piece), _TURN_BYTES):
            clear.append(self._redaction.feed(piece[start : start + _TURN_BYTES]))
            time.sleep(0)  # lets the event loop go first, which would wait for 5 ms
        return self._add(b"".join(clear))

    def flush(self) -> bytes:
        """The rest."""
        return b"" if self.omitted else self._add(self._redaction.flush())

    def sums(self) -> Json:
        """Size and hash: of the bytes in the file, or, where there are none, of the body."""
        size, summed = self._clear_size, self._clear_hash
        if self.omitted:
            size, summed = self.size, self._hash
        return {"size": size, "sha256": summed.hexdigest()}

    def _add(self, clear: bytes) -> bytes:
        self.omitted = self._redaction.problem or self._own.problem
        self._clear_size += len(clear)
        self._clear_hash.update(clear)
        return b"" if self.omitted else clear
