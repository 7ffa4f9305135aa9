"""Runs an agent and ends it, with all that it has started, when the proxy is gone.

A program of its own, which uses the standard library only: ``python -I -S guard.py FD COMMAND...``.
FD is a socket of the proxy's. Its end, by whatever death of the proxy, is the order to stop. It is
also how the proxy learns what became of the agent: ``exit CODE`` or ``fail TEXT``, one line.

The guard leads a process group, in which the agent runs, so nothing that stays in it survives. On
Linux it is also the reaper of all that the agent has started (``PR_SET_CHILD_SUBREAPER``): what has
left the group, such as a shell of its own session, comes back as its child and is ended too. On
macOS there is no such thing: what leaves the group there survives.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, prctl(2)
_GRACE_S = 2.0
_POLL_S = 0.05


def main(descriptor: int, command: list[str]) -> None:
    """Run the command until it ends, or the proxy is gone.

    Args:
        descriptor: of the socket.
        command: the program and its arguments.
    """
    proxy = socket.socket(fileno=descriptor)
    proxy.setblocking(False)
    wake, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    # Handlers, not SIG_IGN: the agent must not inherit that.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, _nothing)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    try:
        child = subprocess.Popen(command)  # noqa: S603  no shell; who starts it is the settings' to say
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        proxy.send(f"fail {text}\n".encode())
        return
    empty = os.open(os.devnull, os.O_RDWR)
    for own in (0, 1, 2):
        os.dup2(empty, own)  # the pipes are the agent's alone: their ends are seen
    while True:
        ready, _, _ = select.select([proxy, wake], [], [])
        if wake in ready:
            wake.recv(4096)
        code = _reaped(child)
        if code is not None:
            with contextlib.suppress(OSError):
                proxy.send(f"exit {code}\n".encode())
            break
        if proxy in ready:
            _stop(child)
            break
    _kill_children()
    os.killpg(0, signal.SIGKILL)


def _stop(child: "subprocess.Popen[bytes]") -> None:
    """Ask the group to end, and wait a little."""
    os.killpg(0, signal.SIGTERM)
    limit = time.monotonic() + _GRACE_S
    while time.monotonic() < limit and _reaped(child) is None:
        time.sleep(_POLL_S)


def _reaped(child: "subprocess.Popen[bytes]") -> int | None:
    """Collect what has ended; the agent's exit code, if it has."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child.pid:
                child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode


def _kill_children() -> None:
    """End what is left, and what then becomes a child of this process (Linux)."""
    limit = time.monotonic() + _GRACE_S
    listing = Path("/proc/self/task", str(os.getpid()), "children")
    while time.monotonic() < limit:
        try:
            children = listing.read_text("ascii").split()
        except OSError:
            return
        if not children:
            return
        for pid in children:
            with contextlib.suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(_POLL_S / 10)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _nothing(number: int, frame: object) -> None:
    """Wakes ``select`` by way of the wakeup descriptor."""


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
