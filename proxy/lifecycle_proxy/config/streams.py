"""The settings of ``[streams]``: what is kept of event streams for readers beside them."""

import secrets
from collections.abc import Iterator
from typing import Annotated, Final

from msgspec import Meta, Struct

_Seconds = Annotated[float, Meta(ge=0)]
_Bytes = Annotated[int, Meta(ge=1024)]

_KEY_LENGTH: Final = 32

# What signs the URLs of streams where ``token_key`` is not set. Workers are forked, so all of one
# proxy have the same.
PROCESS_KEY: Final = secrets.token_hex(32)


class StreamSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Beside the streams: their events, and their bytes once more."""

    store: str = "memory"
    prefix: str = "lifecycle-proxy"
    keep_s: _Seconds = 300
    resume_s: _Seconds = 0
    text: bool = False
    arguments: bool = False
    compat_paths: bool = False
    token_key: str = ""
    max_streams: Annotated[int, Meta(ge=0)] = 10_000
    max_events: Annotated[int, Meta(ge=1)] = 2_000
    max_bytes: _Bytes = 1 << 20
    max_total_bytes: _Bytes = 64 << 20
    resume_max_bytes: _Bytes = 8 << 20
    resume_total_bytes: _Bytes = 64 << 20


def token_problems(token_key: str) -> Iterator[tuple[str, str]]:
    """What makes a key that signs URLs unusable."""
    if token_key and not token_key.startswith("env:") and len(token_key) < _KEY_LENGTH:
        yield "streams.token_key", f"must have at least {_KEY_LENGTH} characters: it signs URLs"
