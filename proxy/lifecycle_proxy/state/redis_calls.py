"""Waiting calls in Redis: a hash for each part, with a field for each call.

``HDEL`` says how many fields it has removed, so of all that try one has it. A hash, not a key for
each call: a request asks for all calls of its part, in one round trip, whatever their ids are.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from lifecycle_proxy.state.redis_link import RedisLink


class RedisCalls:
    """A ``CallTable``.

    Args:
        link: to Redis.
        prefix: of all keys.
    """

    def __init__(self, link: RedisLink, prefix: str) -> None:
        self._link = link
        self._prefix = prefix

    def put(
        self, part: str, name: str, value: bytes, ttl_s: float
    ) -> "asyncio.Future[bytes | None]":
        """See ``CallTable``."""
        key = self._key(part)
        commands = [
            ("HGET", key, name),
            ("HSET", key, name, value),
            ("PEXPIRE", key, round(ttl_s * 1000)),
        ]
        return self._link.submit(commands, lambda replies: _maybe_bytes(replies[0]))

    def look(self, parts: Sequence[str]) -> "asyncio.Future[list[list[bytes]]]":
        """See ``CallTable``."""
        return self._link.submit([("HVALS", self._key(part)) for part in parts], _values)

    def take(self, names: Sequence[tuple[str, str]]) -> "asyncio.Future[list[bool]]":
        """See ``CallTable``."""
        commands = [("HDEL", self._key(part), name) for part, name in names]
        return self._link.submit(commands, _were_there)

    def _key(self, part: str) -> str:
        return f"{self._prefix}:calls:{part}"


def _maybe_bytes(reply: Any) -> bytes | None:
    if reply is not None and not isinstance(reply, bytes):
        raise TypeError("not a value")
    return reply


def _values(replies: list[Any]) -> list[list[bytes]]:
    for reply in replies:
        if not isinstance(reply, list) or not all(isinstance(one, bytes) for one in reply):
            raise TypeError("not a list of values")
    return replies


def _were_there(replies: list[Any]) -> list[bool]:
    if any(reply not in (0, 1) for reply in replies):
        raise TypeError("not a number of fields")
    return [reply == 1 for reply in replies]
