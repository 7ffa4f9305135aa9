"""``serve`` with several workers."""

import socket
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from lifecycle_proxy.app.banner import Banner
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.reloading import reloaded
from lifecycle_proxy.server.supervisor import Supervisor, Work

Read = Callable[[], Settings]


def serve(
    settings: Settings,
    read: Read,
    banner: Banner,
    work: Callable[[Settings, Read], Work],
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> int:
    """Supervise workers, and the process with their store where they need one.

    Args:
        settings: everything.
        read: reads them again.
        banner: is called once connections are taken.
        work: what a worker does, by its settings.
        run: runs a coroutine to its end.
    """
    if settings.streams.store != "memory":
        return Supervisor(
            settings,
            work(settings, read),
            banner,
            _forget,
            reload=lambda: work(reloaded(settings, read())[0], read),
        ).run()
    with tempfile.TemporaryDirectory(prefix="lifecycle-proxy-") as folder:
        path = str(Path(folder) / "store.sock")

        def shared(settings: Settings) -> Work:
            def worker(sock: socket.socket, line: int) -> int:
                from lifecycle_proxy.app.store_process import for_workers  # see server.supervisor

                return work(for_workers(settings, path), lambda: for_workers(read(), path))(
                    sock, line
                )

            return worker

        def hold(line: int) -> int:
            from lifecycle_proxy.app import store_process  # after the fork: see server.supervisor

            run(store_process.hold(settings, path, line))
            return 0

        return Supervisor(
            settings,
            shared(settings),
            banner,
            _forget,
            reload=lambda: shared(reloaded(settings, read())[0]),
            hold=hold,
        ).run()


def _forget(pid: int) -> None:
    """Remove a worker that ended from the metrics."""
    from lifecycle_proxy.telemetry.metrics import (
        forget_worker,  # only after the supervisor has named a directory
    )

    forget_worker(pid)
