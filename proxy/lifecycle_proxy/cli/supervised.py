"""``serve`` with several workers."""

import gc
import importlib
import os
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from lifecycle_proxy.app.banner import Banner
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.reloading import reloaded
from lifecycle_proxy.server.supervisor import Supervisor, Work, metrics_folder

_SOCKET: Final = "store.sock"
_LONGEST_PATH: Final = 100  # some systems take 103 bytes

Read = Callable[[], Settings]
Make = Callable[[Settings, Read], Work]


def serve(
    settings: Settings,
    read: Read,
    banner: Banner,
    work: Make,
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> int:
    """Supervise workers, and the process with their store where they need one.

    What they serve with is imported before they fork: they share its memory, and start sooner.

    Args:
        settings: everything.
        read: reads them again.
        banner: is called once connections are taken.
        work: what a worker does, by its settings.
        run: runs a coroutine to its end.
    """
    with metrics_folder(), ExitStack() as parts:
        importlib.import_module("lifecycle_proxy.app.serve")
        importlib.import_module("lifecycle_proxy.app.store_process")
        gc.collect()
        gc.freeze()
        hold = None
        if settings.streams.store == "memory":
            path = str(Path(parts.enter_context(_private_folder())) / _SOCKET)
            work, hold = _sharing(work, path), _holding(settings, path, run)
        return Supervisor(
            settings,
            work(settings, read),
            banner,
            _forget,
            reload=lambda: work(reloaded(settings, read())[0], read),
            hold=hold,
        ).run()


def _sharing(work: Make, path: str) -> Make:
    """The same work with the store that all workers share."""
    from lifecycle_proxy.app.store_process import for_workers  # see metrics_folder

    def make(settings: Settings, read: Read) -> Work:
        return work(for_workers(settings, path), lambda: for_workers(read(), path))

    return make


def _holding(
    settings: Settings, path: str, run: Callable[[Coroutine[Any, Any, None]], None]
) -> Callable[[int], int]:
    """What the process with that store does."""
    from lifecycle_proxy.app import store_process  # see metrics_folder

    def hold(line: int) -> int:
        run(store_process.hold(settings, path, line))
        return 0

    return hold


def _private_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder that only this user can open, with a path short enough for a socket in it."""
    folder = tempfile.TemporaryDirectory(prefix="lifecycle-proxy-")
    if len(os.fsencode(folder.name)) + len(_SOCKET) < _LONGEST_PATH:
        return folder
    folder.cleanup()
    return tempfile.TemporaryDirectory(prefix="lifecycle-proxy-", dir="/tmp")


def _forget(pid: int) -> None:
    """Remove a worker that ended from the metrics."""
    from lifecycle_proxy.telemetry.metrics import (
        forget_worker,  # only after the supervisor has named a directory
    )

    forget_worker(pid)
