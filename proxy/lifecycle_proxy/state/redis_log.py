"""Streams in Redis: see ``redis_stream`` for the keys.

A process has a lease, which it renews. A reader that finds neither the end of a stream nor the
lease of the process that writes it ends the stream.
"""

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from lifecycle_proxy.state import redis_scripts as scripts
from lifecycle_proxy.state import redis_stream as stream
from lifecycle_proxy.state.health import StoreError
from lifecycle_proxy.state.log_delta import LogDelta, decoded_head, encoded, lost_events
from lifecycle_proxy.state.memory_stream import KeptEvent, follow
from lifecycle_proxy.state.redis_claims import RedisClaims
from lifecycle_proxy.state.redis_link import Command, RedisLink
from lifecycle_proxy.state.redis_news import RedisNews
from lifecycle_proxy.state.redis_stream import StreamKeys, StreamState
from lifecycle_proxy.state.stream_records import (
    BytesEnd,
    BytesPage,
    Claim,
    Fields,
    LogLimits,
    LogUnavailableError,
    Page,
    StreamExpiredError,
    StreamKey,
    StreamStatus,
    StreamUnknownError,
)

T = TypeVar("T")
_Asked = tuple[str, int, int]

_LEASE_S: Final = 10.0
_PAGE_BYTES: Final = 1 << 16
_ENDS: Final[dict[str, BytesEnd]] = {"eof": "eof", "cut": "cut", "given_up": "given_up"}


class RedisLog:
    """See ``LogTable``.

    Args:
        link: to Redis.
        prefix: of all keys.
        limits: how long a stream is kept behind its end, and how much of one owner's.
        lease_s: how long a process is believed to live that is not heard of, in seconds.
    """

    def __init__(
        self, link: RedisLink, prefix: str, limits: LogLimits, lease_s: float = _LEASE_S
    ) -> None:
        self._link = link
        self._prefix = prefix
        self._limits = limits
        self._keep_s = limits.keep_s
        self._lease_s = lease_s
        self._producer = secrets.token_hex(8)
        self._leases = f"{prefix}:producer:"
        self._claims = RedisClaims(link, prefix)
        self._news = RedisNews(link.redis, f"{prefix}:news")
        self._lease = ("SET", self._leases + self._producer, "", "PX", round(lease_s * 1000))
        self._pages: dict[_Asked, asyncio.Task[tuple[StreamState, Page]]] = {}

    async def run(self) -> None:
        """Renew the lease, and listen, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._news.run())
            group.create_task(self._renew())

    async def _renew(self) -> None:
        while True:
            self._link.submit([self._lease], len)
            await asyncio.sleep(self._lease_s / 4)

    # --- writing --------------------------------------------------------------------------------

    def push(self, deltas: Sequence[LogDelta]) -> "asyncio.Future[list[bool]]":
        """See ``LogTable``."""
        commands: list[Command] = [self._lease]
        at = []
        for delta in deltas:
            at.append(len(commands))
            keys = StreamKeys.of(self._prefix, delta.key)
            commands += stream.written(keys, delta, self._producer, self._keep_s)
            if delta.done:
                commands.append(stream.ended(self._prefix, delta, time.time(), self._limits))
        # HSET says how many fields are new: ``last`` is the first one of a stream.
        return self._link.submit(
            commands, lambda replies: [replies[first] == 0 for first in at], stream.NOT_NEW
        )

    def start(self, key: StreamKey) -> "asyncio.Future[int | None]":
        """See ``LogTable``."""
        keys = StreamKeys.of(self._prefix, key)
        names = (keys.use, keys.gone, *keys[:3])
        time_ms = round(stream.LIVE_S * 1000)
        arguments = (self._producer, self._leases, time_ms)
        command = ("EVAL", scripts.START, len(names), *names, *arguments)
        return self._link.submit([command], lambda replies: stream.maybe_number(replies[0]))

    def discard(self, key: StreamKey) -> None:
        """See ``LogTable``."""
        self._link.submit([("DEL", *StreamKeys.of(self._prefix, key)[:5])], len)

    # --- reading --------------------------------------------------------------------------------

    async def has(self, key: StreamKey) -> bool:
        """See ``LogTable``."""
        state = StreamKeys.of(self._prefix, key).state
        return await self._link.submit([("EXISTS", state)], lambda replies: bool(replies[0]))

    async def read(self, key: StreamKey, after: int, wait_s: float) -> Page:
        """See ``EventLog``."""
        keys, deadline = StreamKeys.of(self._prefix, key), _now() + wait_s
        while True:
            ticket = self._news.ticket(keys.news)
            state, page = await self._page(keys, after, ticket)
            left = deadline - _now()
            if page.events or page.is_done or after > page.last:
                return page
            if await self._ended_if_lost(keys, state):
                continue
            if left <= 0:
                return page
            await self._news.wait(keys.news, ticket, left)

    async def _page(self, keys: StreamKeys, after: int, ticket: int) -> tuple[StreamState, Page]:
        """A page; all who ask for the same at the same time get the same."""
        asked = (keys.events, after, ticket)
        task = self._pages.get(asked)
        if task is None:
            task = self._pages[asked] = asyncio.create_task(self._asked_page(keys, after))

            def answered(task: asyncio.Task[tuple[StreamState, Page]]) -> None:
                del self._pages[asked]
                if not task.cancelled():
                    task.exception()  # those who asked may be gone

            task.add_done_callback(answered)
        return await asyncio.shield(task)

    async def _asked_page(self, keys: StreamKeys, after: int) -> tuple[StreamState, Page]:
        commands = [*stream.asked_state(keys), *stream.asked_page(keys, after)]

        def read(replies: list[Any]) -> tuple[StreamState | None, bool, Page | None]:
            state = stream.maybe_state(replies[0])
            page = None if state is None else stream.page(state, replies[2:])
            return state, bool(replies[1]), page

        state, is_gone, page = await self._ask(commands, read)
        if page is None or state is None:
            raise stream.missing(is_gone)
        return state, page

    async def read_bytes(self, key: StreamKey, offset: int, wait_s: float) -> BytesPage:
        """See ``EventLog``."""
        keys, deadline = StreamKeys.of(self._prefix, key), _now() + wait_s
        commands = [
            *stream.asked_state(keys),
            ("GETRANGE", keys.bytes, offset, offset + _PAGE_BYTES - 1),
            ("STRLEN", keys.bytes),
            ("SET", keys.read, "", "PX", stream.READ_MS),
        ]
        while True:
            ticket = self._news.ticket(keys.news)
            state, data, size = await self._ask(
                commands,
                lambda replies: (stream.found(replies), bytes(replies[2]), int(replies[3])),
            )
            if not state.is_resumable:
                raise StreamUnknownError
            head = decoded_head(state.head) if state.head else None
            end = _ENDS.get(state.end, "") if offset + len(data) >= size else ""
            left = deadline - _now()
            if data or end:
                return BytesPage(head, data, end)
            if await self._ended_if_lost(keys, state):
                continue
            if left <= 0:
                return BytesPage(head, data, end)
            await self._news.wait(keys.news, ticket, left)

    async def idle_s(self, key: StreamKey) -> float:
        """See ``EventLog``."""
        asked = ("PTTL", StreamKeys.of(self._prefix, key).read)
        left_ms = await self._ask([asked], lambda replies: int(replies[0]))
        return math.inf if left_ms < 0 else (stream.READ_MS - left_ms) / 1000

    async def offset_of(self, key: StreamKey, seq: int) -> int:
        """See ``EventLog``."""
        keys = StreamKeys.of(self._prefix, key)
        commands = [*stream.asked_state(keys), ("XRANGE", keys.events, f"0-{seq}", f"0-{seq}")]
        _, found = await self._ask(
            commands, lambda replies: (stream.found(replies), stream.entries(replies[2]))
        )
        return found[0][1].offset if found else 0

    async def status(self, key: StreamKey) -> StreamStatus:
        """See ``EventLog``."""
        keys = StreamKeys.of(self._prefix, key)
        while True:
            state, kept, ttl_ms = await self._whole(keys)
            if state.done is not None or not await self._ended_if_lost(keys, state):
                break
        open_ = _calls(state.open)
        for _, event in kept:
            follow(open_, event)
        return StreamStatus(
            state.started,
            kept[0][0] if kept else state.last + 1,
            state.last,
            state.done,
            None if state.done is None else time.time() + max(ttl_ms, 0) / 1000,
            tuple(open_.values()),
            state.is_resumable and state.end != "given_up",
        )

    async def _whole(
        self, keys: StreamKeys
    ) -> tuple[StreamState, list[tuple[int, KeptEvent]], int]:
        return await self._ask(
            [*stream.asked_state(keys), stream.asked_all(keys), ("PTTL", keys.state)],
            lambda replies: (stream.found(replies), stream.entries(replies[2]), int(replies[3])),
        )

    async def _ended_if_lost(self, keys: StreamKeys, state: StreamState) -> bool:
        """End a stream whose process is gone, unless it has an end.

        Returns:
            Whether it has one now, which was not there before.
        """
        if _now() - self._link.health.up_at < self._lease_s:
            return False  # leases may have ended while nobody could renew them
        lease = ("EXISTS", self._leases + state.producer)
        if state.done is not None or await self._ask([lease], lambda replies: bool(replies[0])):
            return False
        state, kept, _ = await self._whole(keys)
        if state.done is not None:
            return True
        end = lost_events(kept, state.last, state.open, state.started, time.time())
        last, (_, done) = end[-1][0], end[-1]
        arguments: list[str | bytes | int] = [f"0-{kept[-1][0]}" if kept else "", last, done.data]
        arguments.append(round(self._keep_s * 1000))
        for seq, event in end:
            arguments += [f"0-{seq}", encoded(event)]
        names = (keys.events, keys.state, keys.use)
        closing = ("EVAL", scripts.CLOSE, len(names), *names, *arguments)
        await self._ask([closing, ("PUBLISH", keys.news, "")], len)
        return True

    async def _ask(self, commands: Sequence[Command], read: Callable[[list[Any]], T]) -> T:
        """A reader's question.

        Raises:
            LogUnavailableError: it is not answered.
        """
        try:
            result = await self._link.submit(commands, lambda replies: _caught(read, replies))
        except StoreError as error:
            raise LogUnavailableError(str(error)) from error
        if isinstance(result, StreamUnknownError | StreamExpiredError):
            raise result
        return result

    async def claim(self, owner: str, name: str, claim: Claim, ttl_s: float) -> Claim:
        """See ``EventLog``. It fails where that does not."""
        return await self._claims.claim(owner, name, claim, ttl_s)

    def release(self, owner: str, name: str, claim: Claim) -> None:
        """See ``EventLog``."""
        self._claims.release(owner, name, claim)


def _caught(
    read: Callable[[list[Any]], T], replies: list[Any]
) -> "T | StreamUnknownError | StreamExpiredError":
    try:
        return read(replies)
    except (StreamUnknownError, StreamExpiredError) as error:
        return error


def _calls(running: Sequence[Fields]) -> dict[tuple[str, int], Fields]:
    return {(one.get("toolCallId", ""), one.get("choice", 0)): one for one in running}


def _now() -> float:
    return asyncio.get_running_loop().time()
