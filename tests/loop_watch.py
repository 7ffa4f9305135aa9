"""A proxy whose event loop is watched: how much processor time it takes in one piece.

The proxy has a thread of its own. What counts is the processor time of that thread between two
turns of its loop, so a loaded machine changes nothing, and neither does the test's own work.
"""

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from lifecycle_proxy.app import serve
from lifecycle_proxy.config import model as config
from lifecycle_proxy.testing.in_process import background_loop

_TURN_S: Final = 0.001


class Watch:
    """Measures the turns of a loop.

    Attributes:
        longest_s: processor time of the longest turn.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def run(self) -> None:
        """In the loop that is watched, until cancelled."""
        clock = time.pthread_getcpuclockid(threading.get_ident())
        before = time.clock_gettime(clock)
        while True:
            await asyncio.sleep(_TURN_S)
            now = time.clock_gettime(clock)
            self.longest_s = max(self.longest_s, now - before)
            before = now


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
