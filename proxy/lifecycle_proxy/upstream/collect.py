"""Reading a body, or the beginning of one, in a task that waits for it."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.ports import UpstreamResponse


class Collected(NamedTuple):
    """What was read.

    Attributes:
        data: all that came.
        is_complete: the body has ended properly.
        failure: it broke off.
    """

    data: bytes
    is_complete: bool = False
    failure: ProxyError | None = None


async def collect(response: UpstreamResponse, is_enough: Callable[[bytearray], bool]) -> Collected:
    """Read until there is enough, or the body has ended. The rest waits for another sink.

    Args:
        response: nobody else is attached to it.
        is_enough: called with all that has come so far.
    """
    sink = _Collector(response, is_enough)
    try:
        response.attach(sink)
        await sink.done.wait()
    finally:
        response.detach()
    return Collected(bytes(sink.data), sink.is_complete, sink.failure)


class _Collector:
    def __init__(self, response: UpstreamResponse, is_enough: Callable[[bytearray], bool]) -> None:
        self._response = response
        self._is_enough = is_enough
        self.data = bytearray()
        self.is_complete = False
        self.failure: ProxyError | None = None
        self.done = asyncio.Event()

    def data_received(self, data: bytes, framed: bytes = b"") -> None:
        self.data += data
        if self._is_enough(self.data):
            self._response.detach()
            self.done.set()

    def ended(self, failure: ProxyError | None) -> None:
        self.is_complete, self.failure = failure is None, failure
        self.done.set()
