"""The port of the table that several processes have their event logs in."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from lifecycle_proxy.state.log_delta import LogDelta
from lifecycle_proxy.state.stream_records import BytesPage, Claim, Page, StreamKey, StreamStatus


class LogReader(Protocol):
    """What readers ask: see ``EventLog``."""

    async def read(self, key: StreamKey, after: int, wait_s: float) -> Page:
        """See ``EventLog``."""
        ...

    async def read_bytes(self, key: StreamKey, offset: int, wait_s: float) -> BytesPage:
        """See ``EventLog``."""
        ...

    async def offset_of(self, key: StreamKey, seq: int) -> int:
        """See ``EventLog``."""
        ...

    async def status(self, key: StreamKey) -> StreamStatus:
        """See ``EventLog``."""
        ...


class LogTable(LogReader, Protocol):
    """Streams outside of this process.

    What is written is done in the order of the calls. All but the readers' part fails with
    ``StoreError``.
    """

    def push(self, deltas: Sequence[LogDelta]) -> "asyncio.Future[list[bool]]":
        """Keep what is new; the result says which streams the table knew before.

        A stream that was ended for its process meanwhile stays as it is.
        """
        ...

    def start(self, key: StreamKey) -> "asyncio.Future[int | None]":
        """Begin a stream with an id that others may use. This process uses it no longer.

        Returns:
            The number of the last event that the id has had; None while another process uses it.
        """
        ...

    def discard(self, key: StreamKey) -> None:
        """There was never such a stream."""
        ...

    async def has(self, key: StreamKey) -> bool:
        """Whether there is such a stream."""
        ...

    async def idle_s(self, key: StreamKey) -> float:
        """See ``EventLog``."""
        ...

    async def claim(self, owner: str, name: str, claim: Claim, ttl_s: float) -> Claim:
        """See ``EventLog``. It fails where that does not."""
        ...

    def release(self, owner: str, name: str, claim: Claim) -> None:
        """See ``EventLog``."""
        ...
