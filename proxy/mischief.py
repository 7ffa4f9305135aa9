"""Faults on live traffic, if they are asked for and allowed: between the upstream and the relay."""

import asyncio
from collections import deque
from collections.abc import Callable

from proxy.errors import ProxyError
from proxy.recording.damage import Action, Break, Delay, Pass
from proxy.recording.faults import LiveFault

_WHY = "a fault, as asked for ([faults])"
_Step = Action | ProxyError | None  # besides: the end, as broken, or a proper one


class Mischief:
    """What one answer suffers.

    Args:
        fault: says what becomes of the bytes.
        pass_on: takes bytes as if the upstream had sent them.
        finish: ends the answer: None properly, else as broken.
    """

    def __init__(
        self,
        fault: LiveFault,
        pass_on: Callable[[bytes], None],
        finish: Callable[[ProxyError | None], None],
    ) -> None:
        self._fault = fault
        self._pass_on = pass_on
        self._finish = finish
        self._waiting: deque[_Step] = deque()
        self._is_over = False  # what waits is all there is
        self._timer: asyncio.TimerHandle | None = None

    def feed(self, chunk: bytes) -> None:
        """The upstream has sent this."""
        if chunk and not self._is_over:
            self._waiting += self._fault.feed(chunk, asyncio.get_running_loop().time())
            self._is_over = self._fault.is_broken
            self._go_on()

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
        self._is_over = True

    def _end(self, failure: ProxyError | None) -> None:
        if not self._is_over:
            self._waiting += self._fault.eof(asyncio.get_running_loop().time())
            self._waiting.append(failure)
            self._is_over = True
            self._go_on()

    def _wake(self) -> None:
        self._timer = None
        self._go_on()

    def _go_on(self) -> None:
        try:
            while self._waiting and self._timer is None:
                self._do(self._waiting.popleft())
        except ProxyError as failure:
            self.close()
            self._finish(failure)

    def _do(self, step: _Step) -> None:
        match step:
            case None | ProxyError():
                self._finish(step)
            case Pass(data):
                self._pass_on(data)
            case Delay(ms):
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(ms / 1000, self._wake)
            case Break(how):
                self._waiting.clear()
                if how != "stall":  # then nothing comes any more, and the stall limit finds out
                    code = "upstream_protocol" if how == "cut" else "upstream_unreachable"
                    self._finish(ProxyError(code, _WHY))
