"""A connection to Redis: commands go out in the order they were given, many in one write.

Nobody waits for longer than ``patience_s``. After a failure all commands fail at once, until a
probe in the background is answered: a Redis that hangs costs each request nothing.
"""

import asyncio
import importlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from lifecycle_proxy.exchange.errors import cause_of
from lifecycle_proxy.state.health import StoreError, StoreHealth

T = TypeVar("T")
Command = tuple[str | bytes | int, ...]

_BATCH: Final = 256
_MAX_QUEUED: Final = 10_000


class _Order(NamedTuple):
    commands: Sequence[Command]
    read: Callable[[list[Any]], Any]
    done: "asyncio.Future[Any]"
    allowed: str


def client(url: str, patience_s: float) -> Any:
    """A client of redis-py, which connects when it is used.

    Args:
        url: ``redis://``, ``rediss://``.
        patience_s: how long a connection, or a reply, may take, in seconds.

    Raises:
        StoreError: redis-py cannot use the URL.
    """
    redis = importlib.import_module("redis.asyncio")
    retry = importlib.import_module("redis.asyncio.retry")
    backoff = importlib.import_module("redis.backoff")
    # Once more, for a connection that Redis has closed meanwhile.
    again = retry.Retry(backoff.NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=patience_s,
            socket_connect_timeout=patience_s,
            retry=again,
            client_name="lifecycle-proxy",
        )
    except (ValueError, TypeError, OSError) as error:
        raise StoreError(str(error)) from error


class RedisLink:
    """Sends commands in the background.

    Args:
        redis: a client of redis-py, which nobody else closes.
        health: is kept up to date.
        patience_s: how long an answer may take, in seconds.
        retry_s: how often a Redis that is down is asked again, in seconds.
    """

    def __init__(
        self, redis: Any, health: StoreHealth, patience_s: float = 0.5, retry_s: float = 1.0
    ) -> None:
        self.redis = redis
        self.health = health
        self._patience_s = patience_s
        self._retry_s = retry_s
        self._orders: deque[_Order] = deque()
        self._wanted = asyncio.Event()
        self._is_over = False

    def submit(
        self, commands: Sequence[Command], read: Callable[[list[Any]], T], allowed: str = ""
    ) -> "asyncio.Future[T]":
        """Do commands, behind all that were given before.

        Args:
            commands: each with its arguments.
            read: makes the result of the replies. What it raises means that they make no sense.
            allowed: of errors that say this, ``read`` takes care.

        Returns:
            The result. ``StoreError`` if there is none.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self.health.is_down or self._is_over:
            _fail(done, StoreError("the store is down"))
        elif len(self._orders) >= _MAX_QUEUED:
            _fail(done, self.health.refused("overload: too many commands wait"))
        else:
            self._orders.append(_Order(commands, read, done, allowed))
            self._wanted.set()
        return done

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            await self._ask([("PING",)])
            while not _is_cancelled():
                if self.health.is_down:
                    await asyncio.sleep(self._retry_s)
                    await self._ask([("PING",)])
                    continue
                await self._wanted.wait()
                await self._work()
        finally:
            self._is_over = True
            self._fail_all("the proxy is shutting down")
            with suppress(Exception):  # it may be in any state
                await self.redis.aclose()

    async def _work(self) -> None:
        count = min(len(self._orders), _BATCH)
        taken = [self._orders.popleft() for _ in range(count)]
        orders = [one for one in taken if not one.done.cancelled()]
        if not self._orders:
            self._wanted.clear()
        if not orders:
            return
        try:
            replies = await self._ask([command for one in orders for command in one.commands])
        except asyncio.CancelledError:
            self._orders.extendleft(reversed(orders))  # fails with what else waits
            raise
        at = 0
        for one in orders:
            end = at + len(one.commands)
            if replies is None:
                _fail(one.done, StoreError("the store does not answer"))
            else:
                self._answer(one, replies[at:end])
            at = end

    async def _ask(self, commands: Sequence[Command]) -> list[Any] | None:
        """The reply of each command; None where there are none."""
        pipeline = self.redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            async with asyncio.timeout(self._patience_s):
                replies = await pipeline.execute(raise_on_error=False)
        except Exception as error:  # redis-py fails in many ways where bytes make no sense
            self.health.down(cause_of(error))
            self._fail_all("the store does not answer")
            return None
        if len(replies) != len(commands):
            self.health.down("as many replies as commands were expected")
            return None
        self.health.up()
        return list(replies)

    def _answer(self, order: _Order, replies: list[Any]) -> None:
        if order.done.cancelled():
            return
        errors = (one for one in replies if isinstance(one, Exception))
        allowed = order.allowed
        failed = next((one for one in errors if not allowed or allowed not in str(one)), None)
        if failed is not None:
            _fail(order.done, self.health.refused(cause_of(failed)))
            return
        try:
            result = order.read(replies)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            _fail(order.done, self.health.refused(f"nonsense: {cause_of(error)}"))
        else:
            order.done.set_result(result)

    def _fail_all(self, why: str) -> None:
        while self._orders:
            _fail(self._orders.popleft().done, StoreError(why))
        self._wanted.clear()


def _fail(done: "asyncio.Future[Any]", error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
        done.exception()  # who waits for it still gets it


def _is_cancelled() -> bool:
    """``asyncio.wait_for``, in redis-py, forgets a cancellation that comes with the reply."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
