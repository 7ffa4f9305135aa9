"""Connections to one origin: idle ones are used again, the last one first.

That one is the least likely to be closed by now, and those that are not needed grow old and go.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import ClassVar, Final
from weakref import WeakSet

from lifecycle_proxy.upstream.http1.connection import HttpConnection
from lifecycle_proxy.upstream.http1.failures import ResponseTimedOutError

_IDLE_S: Final = 15.0

Dial = Callable[[], Awaitable[HttpConnection]]


class ConnectionPool:
    """Hands out connections, and takes them back by their ``on_free``.

    Args:
        dial: makes a connection.
        max_connections: how many may be in use at a time; 0 for any number. Who comes then waits in
            a queue.
        patience_s: seconds that the wait may take; None for no limit.
        idle_s: seconds after which an idle connection is closed.
    """

    _all: ClassVar["WeakSet[ConnectionPool]"] = WeakSet()

    def __init__(
        self,
        dial: Dial,
        max_connections: int = 0,
        patience_s: float | None = None,
        *,
        idle_s: float = _IDLE_S,
    ) -> None:
        self._dial = dial
        self._max = max_connections or float("inf")
        self._patience_s = patience_s
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()
        self._idle: dict[HttpConnection, None] = {}  # in the order in which they became idle
        self._busy: set[HttpConnection] = set()
        self._taken = 0  # slots: of connections in use, and of those that are being made
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._all.add(self)

    @classmethod
    def open_connections(cls) -> int:
        """How many there are in this process just now, in use or idle."""
        return sum(map(len, cls._all))

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def maybe_idle(self) -> HttpConnection | None:
        """A connection for one request, if there is one that it need not wait for."""
        connection = self._maybe_usable() if self._taken < self._max else None
        if connection is not None:
            self._taken += 1
        return connection

    async def acquire(self, *, fresh: bool = False) -> HttpConnection:
        """A connection for one request.

        Args:
            fresh: not one that was used before.

        Raises:
            TransportError: none could be made, or the wait was too long.
        """
        if self._taken >= self._max:
            await self._wait_for_slot()
        else:
            self._taken += 1
        if not fresh and (connection := self._maybe_usable()) is not None:
            return connection
        try:
            connection = await self._dial()
        except BaseException:
            self._give_slot()
            raise
        connection.on_free = self._freed
        self._busy.add(connection)
        return connection

    async def close(self) -> None:
        """Close all connections."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in (*self._idle, *self._busy):
            connection.close()
        await asyncio.sleep(0)  # transports close in the next turn

    def _maybe_usable(self) -> HttpConnection | None:
        """The idle one that was used last."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.is_usable:
                self._busy.add(connection)
                return connection
            connection.close()
        return None

    async def _wait_for_slot(self) -> None:
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._patience_s):
                await turn
        except BaseException as error:
            if turn.cancelled():
                self._waiting.remove(turn)
            else:  # it has been given a slot in the same moment
                self._give_slot()
            if isinstance(error, TimeoutError):
                raise ResponseTimedOutError from None
            raise

    def _give_slot(self) -> None:
        """To the one who waits longest, or back."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1

    def _freed(self, connection: HttpConnection, keeps: bool) -> None:
        """See ``HttpConnection.on_free``."""
        if connection in self._busy:
            self._busy.discard(connection)
            if keeps:
                self._keep(connection)
            self._give_slot()
        else:
            self._idle.pop(connection, None)

    def _keep(self, connection: HttpConnection) -> None:
        connection.idle_since = self._loop.time()
        self._idle[connection] = None
        if self._timer is None:
            self._timer = self._loop.call_later(self._idle_s, self._close_old)

    def _close_old(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._idle:
            oldest = next(iter(self._idle))
            left_s = oldest.idle_since + self._idle_s - now
            if left_s > 0:
                self._timer = self._loop.call_later(left_s, self._close_old)
                return
            self._idle.pop(oldest)
            oldest.close()
