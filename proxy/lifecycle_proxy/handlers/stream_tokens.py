"""Tokens that let a page read one stream: EventSource can send no headers.

A token is for one stream of one owner and lasts for minutes. It stands in a URL, so it must be
worth nothing elsewhere: the owner's hash in it is encrypted, since keys that people make up could
be guessed from it.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Final

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.state.stream_records import StreamKey

_TIME_BYTES: Final = 8
_NONCE_BYTES: Final = 16
_OWNER_BYTES: Final = 32
_MAC_BYTES: Final = 32
_LENGTH: Final = _TIME_BYTES + _NONCE_BYTES + _OWNER_BYTES + _MAC_BYTES


class StreamTokens:
    """Makes tokens and reads them: time, nonce, the owner's hash (encrypted), a MAC over all.

    Args:
        secret: the key; the same in all processes that serve the same clients.
        ttl_s: how long a token is valid, in seconds.
        now: Unix time, in seconds.
    """

    def __init__(
        self, secret: str, ttl_s: float = 600, now: Callable[[], float] = time.time
    ) -> None:
        self._for_owner = _derived(secret, b"owner")
        self._for_mac = _derived(secret, b"mac")
        self.ttl_s = ttl_s
        self._now = now

    def make(self, key: StreamKey) -> tuple[str, float]:
        """A token for a stream, and until when it is valid, in seconds of Unix time."""
        expires_at = int(self._now() + self.ttl_s)
        head = expires_at.to_bytes(_TIME_BYTES, "big") + secrets.token_bytes(_NONCE_BYTES)
        body = head + self._crypt(head, bytes.fromhex(key.owner))
        token = base64.urlsafe_b64encode(body + self._mac(body, key.id))
        return token.rstrip(b"=").decode(), expires_at

    def owner(self, token: str, stream_id: str) -> str:
        """Whose stream a token is for.

        Args:
            token: from a URL.
            stream_id: of the stream that is asked for.

        Raises:
            ProxyError: ``invalid_token``: it is not one of this stream, or its time is over.
        """
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        is_valid = len(raw) == _LENGTH and hmac.compare_digest(mac, self._mac(body, stream_id))
        if not is_valid or int.from_bytes(body[:_TIME_BYTES], "big") <= self._now():
            message = "the token is not valid for this stream, or has expired; ask for a new one"
            raise ProxyError("invalid_token", message, "token")
        head = body[: _TIME_BYTES + _NONCE_BYTES]
        return self._crypt(head, body[len(head) :]).hex()

    def _crypt(self, head: bytes, owner: bytes) -> bytes:
        stream = hmac.digest(self._for_owner, head, "sha256")
        return bytes(one ^ other for one, other in zip(owner, stream, strict=True))

    def _mac(self, body: bytes, stream_id: str) -> bytes:
        return hmac.digest(self._for_mac, body + stream_id.encode(), "sha256")


def _derived(secret: str, purpose: bytes) -> bytes:
    return hmac.digest(secret.encode(), b"lifecycle-proxy stream token " + purpose, hashlib.sha256)
