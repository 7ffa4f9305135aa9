"""Decompression: of responses that should not have been compressed, and of requests to read."""

import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from lifecycle_proxy.exchange import zstd
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.zstd import Decode

CODINGS: Final = ("gzip", "x-gzip", "deflate")
# Decompressed bytes of one read. Only a zip bomb has more.
_LIMIT_BYTES: Final = 32 << 20
_HEAD_BYTES: Final = 2
_WINDOW_BYTES: Final = 256
_BEGINNING_BYTES: Final = 64
_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS


def coding(headers: Mapping[str, str]) -> str:
    """The content coding that headers name; "" for none."""
    name = headers.get("Content-Encoding", "").strip().lower()
    return "" if name == "identity" else name


def maybe_decoded(data: bytes, name: str, limit: int) -> bytes | None:
    """A whole body, decompressed.

    Args:
        data: the body.
        name: as ``coding`` returns it.
        limit: in bytes; no more is ever decompressed.

    Returns:
        None if the body is invalid or longer, or if its coding is not supported.
    """
    decode = _DECODERS.get(name)
    clear = None if decode is None else decode(data, limit + 1)
    return None if clear is None or len(clear) > limit else clear


class Decompressor:
    """Decompresses gzip of any number of members, and deflate.

    ``deflate`` means zlib's format (RFC 9110 section 8.4.1.2), but some servers send raw deflate.
    """

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
        self._head = b""  # two bytes tell zlib and gzip from raw deflate
        self._whole = False

    def feed(self, data: bytes) -> bytes:
        """Decompress the bytes of one read.

        Raises:
            ProxyError: ``upstream_protocol``: they are invalid, or a zip bomb.
        """
        try:
            return self._members(data)
        except zlib.error as error:
            message = f"the upstream's compression is broken: {error}"
            raise ProxyError("upstream_protocol", message) from None

    def check_end(self) -> None:
        """Check that the stream is complete.

        Raises:
            ProxyError: ``upstream_protocol``: it ends inside a member.
        """
        if self._head and not self._whole:
            raise ProxyError("upstream_protocol", "the upstream's compressed answer is cut short")

    def _members(self, data: bytes) -> bytes:
        """Decompress member after member.

        zlib copies what is left behind a member. So it is given a window that grows until the
        member ends: the time grows with the bytes, not with bytes times members.
        """
        pieces: list[bytes] = []
        room, at, window = _LIMIT_BYTES, 0, _WINDOW_BYTES
        while at < len(data):
            part = data[at : at + window]
            pieces.append(self._piece(part, room))
            room -= len(pieces[-1])
            if self._object.unconsumed_tail:
                raise zlib.error("one read is too large")
            at += len(part) - len(self._object.unused_data)
            window *= 2
            self._whole = self._object.eof
            if self._whole:
                self._object = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
                window = _WINDOW_BYTES
        return b"".join(pieces)

    def _piece(self, data: bytes, limit: int) -> bytes:
        try:
            clear = self._object.decompress(data, max(limit, 1))
        except zlib.error:
            if len(self._head) == _HEAD_BYTES:
                raise
            self._object = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
            clear = self._object.decompress(self._head + data, max(limit, 1))
        self._head = (self._head + data)[:_HEAD_BYTES]
        return clear


def maybe_beginning(data: bytes) -> bytes | None:
    """The first bytes of a response, decompressed; None if it is neither gzip nor deflate."""
    for wbits in (_GZIP_OR_ZLIB, -zlib.MAX_WBITS):
        with suppress(zlib.error):
            return zlib.decompressobj(wbits=wbits).decompress(data, _BEGINNING_BYTES)
    return None


def _zlib(data: bytes, size: int) -> bytes | None:
    try:
        one = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
        clear = one.decompress(data, size)
    except zlib.error:
        try:
            one = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
            clear = one.decompress(data, size)
        except zlib.error:
            return None
    return clear if (one.eof and not one.unused_data) or len(clear) == size else None


def _decoders() -> dict[str, Decode]:
    found: dict[str, Decode] = dict.fromkeys(CODINGS, _zlib)
    if (decode := zstd.maybe_decoder()) is not None:
        found["zstd"] = decode
    return found


_DECODERS: Final = _decoders()
