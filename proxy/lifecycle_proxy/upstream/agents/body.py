"""A response's body, for a task that reads it piece by piece."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.ports import UpstreamResponse

_HIGH_BYTES: Final = 1 << 18
_SLICE_BYTES: Final = 1 << 14  # handled at a time: others have their turn in between


class BodyReader:
    """Reads one body. It is a ``BodySink``.

    Args:
        response: nobody else is attached to it.
        stall_s: how long nothing may come, in seconds; 0 for no limit.
    """

    def __init__(self, response: UpstreamResponse, stall_s: float) -> None:
        self._response = response
        self._stall_s = stall_s
        self._kept: list[bytes] = []
        self._size = 0
        self._end: tuple[ProxyError | None] | None = None
        self._wake = asyncio.Event()

    def data_received(self, data: bytes, framed: bytes = b"") -> None:
        """See ``BodySink``."""
        self._kept.append(data)
        self._size += len(data)
        if self._size > _HIGH_BYTES:
            self._response.pause()
        self._wake.set()

    def ended(self, failure: ProxyError | None) -> None:
        """See ``BodySink``."""
        self._end = (failure,)
        self._wake.set()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """What comes, in small pieces, until its end.

        Raises:
            ProxyError: it broke off, or nothing comes any more.
        """
        self._response.attach(self)
        while True:
            await self._something()
            data = b"".join(self._kept)
            self._kept.clear()
            self._size = 0
            self._response.resume()
            for start in range(0, len(data), _SLICE_BYTES):
                yield data[start : start + _SLICE_BYTES]
                await asyncio.sleep(0)
            if self._end is not None and not self._kept:
                if self._end[0] is not None:
                    raise self._end[0]
                return

    async def _something(self) -> None:
        if not self._kept and self._end is None:
            self._wake.clear()
            try:
                async with asyncio.timeout(self._stall_s or None):
                    await self._wake.wait()
            except TimeoutError:
                text = f"nothing came from the upstream for {self._stall_s:g} s"
                raise ProxyError("upstream_timeout", text) from None
