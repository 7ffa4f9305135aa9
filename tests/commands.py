"""The command in a process of its own, or in this one."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from lifecycle_proxy.app import store_process
from lifecycle_proxy.cli.main import main

COMMAND = (sys.executable, "-m", "lifecycle_proxy")
LISTEN = ("--listen", "127.0.0.1:0")
# Where it is served, and to which URL, or agent.
LINE = re.compile(
    r"listening on (https?://127\.0\.0\.1:\d+|unix:/\S+) -> (\S+(?: \S+)?)\n"
)  # a URL, or an agent


def environment(**more: str) -> dict[str, str]:
    """This process's, without settings. To read all authorities is a fifth of each start."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LIFECYCLE_PROXY_")}
    return {**clean, "SSL_CERT_FILE": os.devnull, **more}


def run(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        (*COMMAND, *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(**environ),
    )


def run_here(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """The same in this process, for commands that end soon: a process of its own takes 0.5 s."""
    before, (out, err) = dict(os.environ), (io.StringIO(), io.StringIO())
    new = environment(**environ)
    try:
        os.environ.clear()
        os.environ.update(new)
        with redirect_stdout(out), redirect_stderr(err):
            code = _code(arguments)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def _code(arguments: Sequence[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as ended:  # of argparse
        return int(ended.code or 0)


@contextmanager
def serving(*arguments: str, **environ: str) -> Iterator[tuple["subprocess.Popen[str]", str, str]]:
    """A running ``serve``: the process, its URL and its upstream's, as its one line names them."""
    with subprocess.Popen(
        (*COMMAND, "serve", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**environ),
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = LINE.fullmatch(line)
            assert found, (line, process.stderr and process.stderr.read())
            yield process, found[1], found[2]
        finally:
            process.kill()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit code, output and errors of a process that is ending."""
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


# --- what /proc says of a supervisor ------------------------------------------------------------


def workers(process: "subprocess.Popen[str]") -> set[int]:
    return {pid for pid in children(process) if not _is_store(pid)}


def stores(process: "subprocess.Popen[str]") -> set[int]:
    """The process that holds what the workers share."""
    return {pid for pid in children(process) if _is_store(pid)}


def children(process: "subprocess.Popen[str]") -> set[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return {int(pid) for pid in found.read_text().split()}


def _is_store(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == store_process.NAME
    except OSError:
        return False
