"""Made ids in Redis: an ``IdTable``."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from lifecycle_proxy.state import redis_scripts as scripts
from lifecycle_proxy.state.made_ids import PER_TENANT
from lifecycle_proxy.state.redis_link import RedisLink

_KEPT_S: Final = 30 * 86_400  # behind the last id of a credential; as long as responses are stored


class RedisIds:
    """The ids of each credential in a hash, and their order in a sorted set.

    Args:
        link: to Redis.
        prefix: of all keys.
    """

    def __init__(self, link: RedisLink, prefix: str) -> None:
        self._link = link
        self._prefix = prefix

    def keep(self, tenant: str, made: str, upstream: str) -> "asyncio.Future[None]":
        """See ``IdTable``."""
        key = self._key(tenant)
        values = (made, upstream, PER_TENANT, _KEPT_S)
        return self._link.submit(
            [("EVAL", scripts.KEEP_ID, 2, key, f"{key}:age", *values)], _nothing
        )

    def find(self, tenant: str, ids: Sequence[str]) -> "asyncio.Future[str]":
        """See ``IdTable``."""
        return self._link.submit([("HMGET", self._key(tenant), *ids)], _first)

    def _key(self, tenant: str) -> str:
        return f"{self._prefix}:made:{tenant}"


def _nothing(_: list[Any]) -> None:
    """The reply says nothing."""


def _first(replies: list[Any]) -> str:
    return next((bytes(one).decode() for one in replies[0] if one is not None), "")
