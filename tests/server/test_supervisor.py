"""The supervisor takes a signal whenever it comes."""

import subprocess
import sys

import pytest

# Workers of a supervisor that wait for its end, and a signal at a moment that is named.
SUPERVISOR = """
import os, signal, sys
from lifecycle_proxy.config import model
from lifecycle_proxy.server.supervisor import Supervisor

def work(sock, line):
    os.write(line, b"r")
    os.read(line, 1)
    return 0

def send():
    signal.raise_signal(signal.SIGTERM)

moment = sys.argv[1]
if moment.startswith("after"):
    os.register_at_fork(**{moment: send})
settings = model.load(environ={}, flags={"server.listen": "127.0.0.1:0", "server.workers": 2})
announce = lambda _: send() if moment == "announce" else print(flush=True)
sys.exit(Supervisor(settings, work, announce, print).run())
"""


@pytest.mark.parametrize("moment", ["after_in_parent", "after_in_child", "announce"])
def test_a_signal_ends_it_at_any_moment(moment: str) -> None:
    """Where a process has just been forked, neither knows what to do with a signal yet."""
    arguments = (sys.executable, "-c", SUPERVISOR, moment)
    ended = subprocess.run(arguments, timeout=20, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
