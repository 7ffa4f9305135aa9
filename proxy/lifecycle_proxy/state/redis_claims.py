"""Claims in Redis: see ``EventLog.claim``."""

from hashlib import blake2b

import orjson

from lifecycle_proxy.state import redis_scripts as scripts
from lifecycle_proxy.state.redis_link import RedisLink
from lifecycle_proxy.state.stream_records import Claim


class RedisClaims:
    """Who holds which name.

    Args:
        link: to Redis.
        prefix: of all keys.
    """

    def __init__(self, link: RedisLink, prefix: str) -> None:
        self._link = link
        self._prefix = prefix

    async def claim(self, owner: str, name: str, claim: Claim, ttl_s: float) -> Claim:
        """See ``EventLog``. It fails where that does not."""
        value, time_ms = orjson.dumps(list(claim)), max(1, round(ttl_s * 1000))
        command = ("EVAL", scripts.CLAIM, 1, self._key(owner, name), value, time_ms)
        return await self._link.submit(
            [command], lambda replies: Claim(*map(str, orjson.loads(replies[0])))
        )

    def release(self, owner: str, name: str, claim: Claim) -> None:
        """See ``EventLog``."""
        value = orjson.dumps(list(claim))
        self._link.submit([("EVAL", scripts.RELEASE, 1, self._key(owner, name), value)], len)

    def _key(self, owner: str, name: str) -> str:
        named = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return f"{self._prefix}:claim:{owner}:{named}"
