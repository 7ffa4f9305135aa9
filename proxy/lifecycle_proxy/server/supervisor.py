"""Several processes on one port (``SO_REUSEPORT``), and one that looks after them.

The parent serves nobody. It starts the workers, replaces one that died, hands signals on, and ends
when all have ended. The kernel spreads connections over the workers.
"""

import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

from lifecycle_proxy.config.model import ConfigError, Problem, Settings
from lifecycle_proxy.server.listener import bind, notify, remove_socket_file, url

log = logging.getLogger("proxy.server")

# prometheus-client sums the workers' counts in files there. It looks at this when it is imported,
# so nothing imported here may import it.
_METRICS_DIR: Final = "PROMETHEUS_MULTIPROC_DIR"
_RESTART_DELAY_S: Final = 0.5

# What a worker does: takes its socket and the descriptor of its supervisor, returns its exit code.
Work = Callable[[socket.socket, int], int]
# What the process does that holds what they share: takes the same descriptor.
Hold = Callable[[int], int]


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
        self._holder: tuple[int, socket.socket] | None = None  # as of the workers
        self._workers: dict[int, socket.socket] = {}  # by process id: our end of its line
        self._stopping = False
        self._code = 0

    def run(self) -> int:
        """Supervise until all workers have ended.

        Returns:
            0 where all ended as asked, else the first other exit code.

        Raises:
            OSError: the address cannot be bound.
        """
        directory = None
        if _METRICS_DIR not in os.environ:
            directory = os.environ[_METRICS_DIR] = tempfile.mkdtemp(prefix="lifecycle-proxy-")
        if self._settings.listen_socket is None:
            # Sockets that may share a port share it with those of another proxy, too.
            bind(self._settings).close()
        # Keeps the port (and port 0's choice) while workers come and go. Nobody listens on it
        # unless it is a unix socket, which the workers share.
        holder = bind(self._settings, shared=True)
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._on_signal)
            signal.signal(signal.SIGHUP, self._on_hangup)
            self._start_holder()
            for _ in range(self._settings.server.workers):
                self._start(holder)
            if all(line.recv(1) for line in list(self._workers.values())):
                notify("READY=1")
                self._announce(url(holder, self._settings))
            else:
                self._stop(signal.SIGTERM)  # one could not even start; its exit code says why
            self._supervise(holder)
            return self._code
        finally:
            self._end_holder()
            holder.close()
            remove_socket_file(self._settings)
            if directory is not None:
                shutil.rmtree(directory, ignore_errors=True)

    def _start(self, holder: socket.socket) -> None:
        pid, line = self._fork(lambda line: self._work(self._socket(holder), line))
        self._workers[pid] = line

    def _start_holder(self) -> None:
        if self._hold is not None:
            self._holder = self._fork(self._hold)
            self._holder[1].recv(1)  # or its end: then workers go on without

    def _end_holder(self) -> None:
        if self._holder is not None:
            pid, line = self._holder
            line.close()
            os.waitpid(pid, 0)

    def _fork(self, work: Hold) -> tuple[int, socket.socket]:
        """Start a process.

        Returns:
            Its id, and our end of its line.
        """
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                # Nobody but this process's parent holds the other ends of lines.
                for line in (ours, *self._workers.values(), *(self._holder or ())[1:]):
                    line.close()
                os.setpgid(0, 0)  # a Ctrl-C reaches the parent only, which hands it on once
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_DFL)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it can reload
                code = work(theirs.fileno())
            finally:
                logging.shutdown()
                os._exit(code)
        theirs.close()
        return pid, ours

    def _socket(self, holder: socket.socket) -> socket.socket:
        if holder.family == socket.AF_UNIX:
            return holder.dup()
        return bind(self._settings, shared=True, port=holder.getsockname()[1])

    def _supervise(self, holder: socket.socket) -> None:
        while self._workers:
            pid, status = os.wait()
            if self._holder is not None and pid == self._holder[0]:
                self._replace_holder(os.waitstatus_to_exitcode(status))
                continue
            line = self._workers.pop(pid, None)
            if line is None:
                continue
            line.close()
            code = os.waitstatus_to_exitcode(status)
            if self._stopping:
                self._code = self._code or max(code, 0)
                continue
            log.error("worker %d ended (%s); starting another", pid, code)
            self._ended(pid)
            time.sleep(_RESTART_DELAY_S)  # no faster than this, should it die at once each time
            if not self._stopping:
                self._start(holder)

    def _replace_holder(self, code: int) -> None:
        assert self._holder is not None
        self._holder[1].close()
        self._holder = None
        log.error("the process with the workers' store ended (%s): what it held is lost", code)
        time.sleep(_RESTART_DELAY_S)
        if not self._stopping:
            self._start_holder()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop(signal.Signals(number))

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:
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
        for pid in () if problems else self._workers:
            os.kill(pid, signal.SIGHUP)

    def _stop(self, number: signal.Signals) -> None:
        if not self._stopping:
            notify("STOPPING=1")
        self._stopping = True
        for pid in self._workers:
            os.kill(pid, number)
