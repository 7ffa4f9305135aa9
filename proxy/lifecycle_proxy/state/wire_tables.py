"""Waiting calls and event logs in the process that holds the store of one machine's workers."""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from lifecycle_proxy.state.health import StoreError
from lifecycle_proxy.state.log_delta import LogDelta
from lifecycle_proxy.state.stream_records import (
    BytesPage,
    Claim,
    LogUnavailableError,
    Page,
    StreamKey,
    StreamStatus,
)
from lifecycle_proxy.state.wire import WireLink

T = TypeVar("T")


class WireCalls:
    """A ``CallTable``.

    Args:
        link: to the process.
    """

    def __init__(self, link: WireLink) -> None:
        self._link = link

    def put(
        self, part: str, name: str, value: bytes, ttl_s: float
    ) -> "asyncio.Future[bytes | None]":
        """See ``CallTable``."""
        kind: Any = bytes | None
        return self._link.submit("put", [part, name, value, ttl_s], kind)

    def look(self, parts: Sequence[str]) -> "asyncio.Future[list[list[bytes]]]":
        """See ``CallTable``."""
        return self._link.submit("look", [list(parts)], list[list[bytes]])

    def take(self, names: Sequence[tuple[str, str]]) -> "asyncio.Future[list[bool]]":
        """See ``CallTable``."""
        return self._link.submit("take", [list(names)], list[bool])


class WireIds:
    """An ``IdTable``.

    Args:
        link: to the process.
    """

    def __init__(self, link: WireLink) -> None:
        self._link = link

    def keep(self, tenant: str, made: str, upstream: str) -> "asyncio.Future[None]":
        """See ``IdTable``."""
        kind: Any = None
        return self._link.submit("keep_id", [tenant, made, upstream], kind)

    def find(self, tenant: str, ids: Sequence[str]) -> "asyncio.Future[str]":
        """See ``IdTable``."""
        return self._link.submit("find_id", [tenant, list(ids)], str)


class WireLog:
    """A ``LogTable``.

    Args:
        link: to the process.
    """

    def __init__(self, link: WireLink) -> None:
        self._link = link

    def push(self, deltas: Sequence[LogDelta]) -> "asyncio.Future[list[bool]]":
        """See ``LogTable``."""
        return self._link.submit("push", [list(deltas)], list[bool])

    def start(self, key: StreamKey) -> "asyncio.Future[int | None]":
        """See ``LogTable``."""
        kind: Any = int | None
        return self._link.submit("start", [key], kind)

    def discard(self, key: StreamKey) -> None:
        """See ``LogTable``."""
        self._link.submit("discard", [key], object)

    async def has(self, key: StreamKey) -> bool:
        """See ``LogTable``."""
        return await self._link.submit("has", [key], bool)

    async def read(self, key: StreamKey, after: int, wait_s: float) -> Page:
        """See ``EventLog``."""
        return await self._ask("read", [key, after, wait_s], Page, wait_s)

    async def read_bytes(self, key: StreamKey, offset: int, wait_s: float) -> BytesPage:
        """See ``EventLog``."""
        return await self._ask("read_bytes", [key, offset, wait_s], BytesPage, wait_s)

    async def offset_of(self, key: StreamKey, seq: int) -> int:
        """See ``EventLog``."""
        return await self._ask("offset_of", [key, seq], int)

    async def idle_s(self, key: StreamKey) -> float:
        """See ``EventLog``."""
        return await self._ask("idle_s", [key], float)

    async def status(self, key: StreamKey) -> StreamStatus:
        """See ``EventLog``."""
        return await self._ask("status", [key], StreamStatus)

    async def claim(self, owner: str, name: str, claim: Claim, ttl_s: float) -> Claim:
        """See ``EventLog``. It fails where that does not."""
        return await self._link.submit("claim", [owner, name, claim, ttl_s], Claim)

    def release(self, owner: str, name: str, claim: Claim) -> None:
        """See ``EventLog``."""
        self._link.submit("release", [owner, name, claim], object)

    async def _ask(
        self, operation: str, arguments: list[Any], kind: type[T], wait_s: float = 0
    ) -> T:
        """A reader's question.

        Raises:
            LogUnavailableError: it is not answered.
        """
        try:
            return await self._link.submit(operation, arguments, kind, wait_s)
        except StoreError as error:
            raise LogUnavailableError(str(error)) from error
