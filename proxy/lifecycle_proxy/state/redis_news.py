"""That something has changed: a hint, by Redis' publish and subscribe, on one connection.

The log is the truth: those who wait look again after ``_POLL_S`` in any case, so a hint that is
lost costs a second.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final

_POLL_S: Final = 1.0
_UNUSED_S: Final = 15.0


class _Topic:
    def __init__(self) -> None:
        self.count = 0
        self.used = 0.0
        self.changed = asyncio.Event()


class RedisNews:
    """Waits for news about streams.

    Args:
        redis: a client of redis-py.
        base: a channel that is always subscribed.
    """

    def __init__(self, redis: Any, base: str) -> None:
        self._redis = redis
        self._base = base
        self._topics: dict[str, _Topic] = {}
        self._pubsub: Any = None

    def ticket(self, channel: str) -> int:
        """How much has been heard on a channel: to be asked before the log is read."""
        topic = self._topics.get(channel)
        return -1 if topic is None else topic.count

    async def wait(self, channel: str, ticket: int, wait_s: float) -> None:
        """Until there is news, or it is time to look again.

        Args:
            channel: where.
            ticket: of before the log was read. What came since is news.
            wait_s: how long to wait at most, in seconds.
        """
        topic = self._topics.get(channel)
        if topic is None:
            topic = self._topics[channel] = _Topic()
            if self._pubsub is not None:
                with suppress(Exception):  # the listening task hears of it, too
                    await self._pubsub.subscribe(channel)
        elif topic.count != ticket:
            return
        topic.used = asyncio.get_running_loop().time()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(wait_s, _POLL_S)):
                await topic.changed.wait()

    async def run(self) -> None:
        """Listen until cancelled."""
        task = asyncio.current_task()
        while task is None or not task.cancelling():
            # Whatever it is: commands to the same Redis fail, too, and are counted.
            with suppress(Exception):
                await self._listen()
            self._pubsub = None
            await asyncio.sleep(_POLL_S)

    async def _listen(self) -> None:
        pubsub, task = self._redis.pubsub(), asyncio.current_task()
        try:
            await pubsub.subscribe(self._base, *self._topics)
            self._pubsub = pubsub
            while task is None or not task.cancelling():  # see ``redis_link``
                message = await pubsub.get_message(timeout=_POLL_S)
                if message is not None:
                    self._heard(message)
                await self._unsubscribe(pubsub)
        finally:
            with suppress(Exception):
                await pubsub.aclose()

    def _heard(self, message: Any) -> None:
        """A message, or that a subscription has begun: what came before it is unknown."""
        topic = self._topics.get(message["channel"].decode())
        if topic is not None and message["type"] in ("message", "subscribe"):
            topic.count += 1
            topic.changed.set()
            topic.changed.clear()

    async def _unsubscribe(self, pubsub: Any) -> None:
        limit = asyncio.get_running_loop().time() - _UNUSED_S
        unused = [name for name, topic in self._topics.items() if topic.used < limit]
        if unused:
            for name in unused:
                del self._topics[name]
            await pubsub.unsubscribe(*unused)
