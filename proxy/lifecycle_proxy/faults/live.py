"""Faults on live traffic, if they are asked for and allowed: between the upstream and the relay."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.faults.plan import FaultPlan, FaultResponse, LiveFault
from lifecycle_proxy.faults.transform import Action, Delay, Disconnect, Forward

PLAN: web.RequestKey[FaultPlan] = web.RequestKey("plan", FaultPlan)
_WHY = "a fault, as asked for ([faults])"
_End = ProxyError | None  # as broken, or a proper one
_FULL_BYTES: Final = 1 << 16  # behind this much no more is read from the upstream
# What is damaged at once: a drip makes many steps of few bytes.
_PART_BYTES: Final = 1 << 14


def response_of(answer: FaultResponse) -> web.Response:
    """An answer that a fault puts in the upstream's place."""
    return web.Response(
        status=answer.status,
        reason=answer.reason,
        headers=CIMultiDict(answer.headers),
        body=answer.body,
    )


class FaultInjector:
    """What one answer suffers.

    What the upstream sends waits here as it came, and is damaged when its turn comes.

    Args:
        fault: says what becomes of the bytes.
        pass_on: takes bytes as if the upstream had sent them.
        finish: ends the answer: None properly, else as broken.
        read_on: called when there is room again behind ``is_full``.
    """

    def __init__(
        self,
        fault: LiveFault,
        pass_on: Callable[[bytes], None],
        finish: Callable[[_End], None],
        read_on: Callable[[], None],
    ) -> None:
        self._fault = fault
        self._pass_on = pass_on
        self._finish = finish
        self._read_on = read_on
        self._arrived: deque[bytes | _End] = deque()
        self._arrived_bytes = 0
        self._waiting: deque[Action | _End] = deque()
        self._is_over = False  # what waits is all there is
        self._timer: asyncio.TimerHandle | None = None
        self.is_full = False

    def feed(self, chunk: bytes) -> None:
        """The upstream has sent this."""
        if chunk and not self._is_over:
            parts = range(0, len(chunk), _PART_BYTES)
            self._arrived += (chunk[start : start + _PART_BYTES] for start in parts)
            self._arrived_bytes += len(chunk)
            self._go_on()
            self.is_full = self._arrived_bytes > _FULL_BYTES

    def eof(self) -> None:
        """The upstream's answer is over."""
        self._end(None)

    def broken(self, rest: bytes, failure: ProxyError) -> None:
        """The upstream's answer broke off behind ``rest``: behind what still waits here, too."""
        self.feed(rest)
        self._end(failure)

    def close(self) -> None:
        """Nobody waits for the rest."""
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.clear()
        self._forget()

    def _forget(self) -> None:
        """Whatever came or comes is for nobody."""
        self._arrived.clear()
        self._arrived_bytes = 0
        self._is_over = True

    def _end(self, failure: _End) -> None:
        if not self._is_over:
            self._arrived.append(failure)
            self._is_over = True
            self._go_on()

    def _wake(self) -> None:
        self._timer = None
        self._go_on()
        if self.is_full and self._arrived_bytes <= _FULL_BYTES:
            self.is_full = False
            self._read_on()

    def _go_on(self) -> None:
        try:
            while self._timer is None and (self._waiting or self._arrived):
                if not self._waiting:
                    self._damage(self._arrived.popleft())
                else:
                    self._do(self._waiting.popleft())
        except ProxyError as failure:
            self.close()
            self._finish(failure)

    def _damage(self, came: bytes | _End) -> None:
        now = asyncio.get_running_loop().time()
        if isinstance(came, bytes):
            self._arrived_bytes -= len(came)
            self._waiting += self._fault.feed(came, now)
        else:
            self._waiting += self._fault.eof(now)
            self._waiting.append(came)
        if self._fault.is_broken:
            self._forget()

    def _do(self, step: Action | _End) -> None:
        match step:
            case None | ProxyError():
                self._finish(step)
            case Forward(data):
                self._pass_on(data)
            case Delay(ms):
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(ms / 1000, self._wake)
            case Disconnect(how):
                self._waiting.clear()
                if how != "stall":  # then nothing comes any more, and the stall limit finds out
                    code = "upstream_protocol" if how == "cut" else "upstream_unreachable"
                    self._finish(ProxyError(code, _WHY))
