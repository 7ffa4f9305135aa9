"""A proxy whose event loop is watched: how much processor time it takes in one piece.

The proxy has a thread of its own. What counts is the processor time of that thread between two
turns of its loop, so a loaded machine changes little, and neither does the test's own work.
Machines differ, and a virtual one is slower at times: behind a long turn its speed is measured, and
the time is what it would be on one that is as fast as the limits were made for.
"""

import asyncio
import functools
import gc
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, ParamSpec

from lifecycle_proxy.app import serve
from lifecycle_proxy.config import model as config
from lifecycle_proxy.testing.in_process import background_loop

_Arguments = ParamSpec("_Arguments")
_TURN_S: Final = 0.001
_LONG_S: Final = 0.02  # shorter turns are taken as they are
_PROBE: Final = range(1000)
_PROBES: Final = 20
_PROBE_S: Final = 14e-6  # of one, on the machine that the limits were made for


def _slowness(clock: int) -> float:
    """How much slower this machine is just now; 1.0 for one that is faster."""
    times = []
    for _ in range(_PROBES):
        before = time.clock_gettime(clock)
        sum(_PROBE)
        times.append(time.clock_gettime(clock) - before)
    return max(1.0, sorted(times)[_PROBES // 2] / _PROBE_S)


class Watch:
    """Measures the turns of a loop.

    Attributes:
        longest_s: processor time of the longest turn, see above.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def run(self) -> None:
        """In the loop that is watched, until cancelled."""
        clock = time.pthread_getcpuclockid(threading.get_ident())
        before = time.clock_gettime(clock)
        while True:
            await asyncio.sleep(_TURN_S)
            turn_s = time.clock_gettime(clock) - before
            if turn_s > _LONG_S:
                turn_s /= _slowness(clock)
            self.longest_s = max(self.longest_s, turn_s)
            before = time.clock_gettime(clock)


_Test = Callable[_Arguments, Awaitable[None]]


def best_of_five(test: _Test[_Arguments]) -> _Test[_Arguments]:
    """A test that may fail four times: what else a machine does only makes a turn longer."""

    @functools.wraps(test)
    async def repeated(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> None:
        for _ in range(4):
            with suppress(AssertionError):
                await test(*arguments, **named)
                return
        await test(*arguments, **named)

    return repeated


@contextmanager
def watched_proxy(**settings: Any) -> Iterator[tuple[str, Watch]]:
    """A proxy in a thread.

    Args:
        settings: with ``__`` between table and key.

    Yields:
        Its URL, and the watch.
    """
    flags = {"server.listen": "127.0.0.1:0", "server.drain_timeout_s": 0}
    flags |= {key.replace("__", "."): value for key, value in settings.items()}
    _leave_the_garbage_of_others_alone()
    with background_loop() as loop:
        runner, url = loop.run(serve.start(config.load(environ={}, flags=flags)))
        loop.run(_untraced())
        watch = Watch()
        task = loop.run(_task(watch))
        try:
            yield url, watch
        finally:
            loop.run(_cancelled(task))
            loop.run(serve.stop(runner, 0))


def _leave_the_garbage_of_others_alone() -> None:
    """A full collection would walk what earlier tests left, in whatever thread it comes."""
    gc.collect()
    gc.freeze()


async def _task(watch: Watch) -> "asyncio.Task[None]":
    return asyncio.create_task(watch.run())


async def _untraced() -> None:
    """Coverage is not measured in this thread: that takes longer than the work."""
    sys.settrace(None)


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
