"""Several processes on one port (``SO_REUSEPORT``), and one that looks after them.

The parent serves nobody. It starts the workers, replaces one that died, hands signals on, and ends
when all have ended. The kernel spreads connections over the workers.

It waits at one place, for signals and for its processes alike: signals come as bytes in a socket
(``signal.set_wakeup_fd``). A handler in Python runs before the next bytecode, and so not at all
while ``os.wait`` blocks that has been entered meanwhile.
"""

import logging
import os
import selectors
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from lifecycle_proxy.config.model import ConfigError, Problem, Settings
from lifecycle_proxy.server.listener import bind, notify, remove_socket_file, url

log = logging.getLogger("proxy.server")

# prometheus-client sums the workers' counts in files there. It looks at this when it is imported,
# so nothing imported here may import it.
_METRICS_DIR: Final = "PROMETHEUS_MULTIPROC_DIR"
_RESTART_DELAY_S: Final = 0.5
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# What a worker does: takes its socket and the descriptor of its supervisor, returns its exit code.
Work = Callable[[socket.socket, int], int]
# What the process does that holds what they share: takes the same descriptor.
Hold = Callable[[int], int]


@contextmanager
def metrics_folder() -> Iterator[None]:
    """Name a folder for the workers' counts, unless there is one. Only then import the metrics."""
    if _METRICS_DIR in os.environ:
        yield
        return
    folder = os.environ[_METRICS_DIR] = tempfile.mkdtemp(prefix="lifecycle-proxy-")
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Supervisor:
    """Runs workers until it is asked to stop.

    Args:
        settings: ``server.workers`` and ``server.listen``.
        work: what each worker does.
        announce: is called with the URL once connections are taken.
        ended: is called with the process id of a worker that has ended.
        reload: reads the settings on SIGHUP: what workers do from now on. Those that run read them
            themselves.
        hold: holds what the workers share, in a process that outlives them; None for nothing.
    """

    def __init__(
        self,
        settings: Settings,
        work: Work,
        announce: Callable[[str], None],
        ended: Callable[[int], None],
        *,
        reload: Callable[[], Work] | None = None,
        hold: Hold | None = None,
    ) -> None:
        self._settings = settings
        self._work = work
        self._announce = announce
        self._ended = ended
        self._reload = reload
        self._hold = hold
        self._selector = selectors.PollSelector()  # has no descriptor that children would inherit
        self._signals, self._told = socket.socketpair()  # of a signal, its number
        self._lines: dict[int, socket.socket] = {}  # by process id: our end
        self._ready: set[int] = set()  # the workers that take connections
        self._holder: int | None = None
        self._is_up = False
        self._stopping = False
        self._code = 0

    def run(self) -> int:
        """Supervise until all workers have ended.

        Returns:
            0 where all ended as asked, else the first other exit code.

        Raises:
            OSError: the address cannot be bound.
        """
        if self._settings.listen_socket is None:
            # Sockets that may share a port share it with those of another proxy, too.
            bind(self._settings).close()
        # Keeps the port (and port 0's choice) while workers come and go. Nobody listens on it
        # unless it is a unix socket, which the workers share.
        holder = bind(self._settings, shared=True)
        try:
            with self._taking_signals():
                self._run_workers(holder)
            return self._code
        finally:
            self._end_holder()
            holder.close()
            remove_socket_file(self._settings)

    @contextmanager
    def _taking_signals(self) -> Iterator[None]:
        self._told.setblocking(False)
        signal.set_wakeup_fd(self._told.fileno())
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        self._selector.register(self._signals, selectors.EVENT_READ)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            self._signals.close()
            self._told.close()

    def _run_workers(self, holder: socket.socket) -> None:
        self._start_holder()
        for _ in range(self._settings.server.workers):
            self._start(holder)
        while workers := self._workers():
            if not self._is_up and self._ready.issuperset(workers):
                self._is_up = True
                notify("READY=1")
                self._announce(url(holder, self._settings))
            for pid in self._wait():
                self._on_end(pid, holder)

    def _workers(self) -> list[int]:
        return [pid for pid in self._lines if pid != self._holder]

    def _start(self, holder: socket.socket) -> None:
        self._fork(lambda line: self._work(self._socket(holder), line))

    def _start_holder(self) -> None:
        if self._hold is not None:
            self._holder = self._fork(self._hold)
            self._lines[self._holder].recv(1)  # or its end: then workers go on without

    def _end_holder(self) -> None:
        if self._holder is not None:
            self._lines[self._holder].close()
            os.waitpid(self._holder, 0)

    def _fork(self, work: Hold) -> int:
        """Start a process.

        Returns:
            Its id.
        """
        ours, theirs = socket.socketpair()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until it has its own handlers
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                # Nobody but this process's parent holds the other ends of lines.
                for line in (ours, self._signals, self._told, *self._lines.values()):
                    line.close()
                os.setpgid(0, 0)  # a Ctrl-C reaches the parent only, which hands it on once
                signal.set_wakeup_fd(-1)
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_DFL)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it can reload
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
                code = work(theirs.fileno())
            finally:
                logging.shutdown()
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        theirs.close()
        self._lines[pid] = ours
        self._selector.register(ours, selectors.EVENT_READ, pid)
        return pid

    def _socket(self, holder: socket.socket) -> socket.socket:
        if holder.family == socket.AF_UNIX:
            return holder.dup()
        return bind(self._settings, shared=True, port=holder.getsockname()[1])

    def _wait(self, timeout_s: float | None = None) -> list[int]:
        """Wait for a signal, or for a process that begins or ends.

        Returns:
            The processes that have ended: each time, until `_on_end`.
        """
        ended = []
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                for number in self._signals.recv(256):
                    self._on_signal(signal.Signals(number))
            elif self._lines[key.data].recv(1):
                self._ready.add(key.data)
            else:
                ended.append(key.data)
        return ended

    def _on_end(self, pid: int, holder: socket.socket) -> None:
        line = self._lines.pop(pid)
        self._selector.unregister(line)
        line.close()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if pid == self._holder:
            self._holder = None
            log.error("the process with the workers' store ended (%s): what it held is lost", code)
            if self._may_restart():
                self._start_holder()
            return
        if not self._is_up and pid not in self._ready:
            self._stop(signal.SIGTERM)  # it could not even start; its exit code says why
        if self._stopping:
            self._code = self._code or max(code, 0)
            return
        log.error("worker %d ended (%s); starting another", pid, code)
        self._ended(pid)
        if self._may_restart():
            self._start(holder)

    def _may_restart(self) -> bool:
        time.sleep(_RESTART_DELAY_S)  # no faster than this, should it die at once each time
        self._wait(0)
        return not self._stopping

    def _on_signal(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP:
            self._on_hangup()
        else:
            self._stop(number)

    def _on_hangup(self) -> None:
        """Read the settings, for workers that start from now on, and let the others do so, too."""
        if self._reload is None or self._stopping:
            return
        problems: tuple[Problem, ...] = ()
        try:
            self._work = self._reload()
        except ConfigError as error:
            problems = error.problems
        for problem in problems:
            log.error("SIGHUP: the settings stay as they are: %s", problem)
        for pid in () if problems else self._workers():
            os.kill(pid, signal.SIGHUP)

    def _stop(self, number: signal.Signals) -> None:
        if not self._stopping:
            notify("STOPPING=1")
        self._stopping = True
        for pid in self._workers():
            os.kill(pid, number)
