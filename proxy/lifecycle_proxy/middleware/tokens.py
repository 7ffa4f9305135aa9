"""Random names for exchanges."""

import secrets
from typing import Final

_TOKEN_BYTES: Final = 12
_TOKENS_AT_ONCE: Final = 256


class RandomTokens:
    """Random names, hexadecimal, of 96 bits: who knows one may read a stream.

    The system is asked for many at a time: a call for each is a tenth of what a request costs.
    """

    def __init__(self) -> None:
        self._ready: list[str] = []

    def next(self) -> str:
        """One that was not given before."""
        if not self._ready:
            text = secrets.token_hex(_TOKEN_BYTES * _TOKENS_AT_ONCE)
            size = _TOKEN_BYTES * 2
            self._ready = [text[start : start + size] for start in range(0, len(text), size)]
        return self._ready.pop()
