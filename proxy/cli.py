"""The command: ``lifecycle-proxy`` and ``python -m proxy``."""

import argparse
import asyncio
import errno
import gc
import importlib
import os
import socket
import sys
from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from proxy import __version__, config, logs, workers
from proxy.recording import commands as recordings
from proxy.recording.cassette import CassetteError

T = TypeVar("T")

_EXIT_FAILED = 1
_EXIT_USAGE = 2
_CURES: Final = {
    errno.EACCES: "give this user the right to it, or choose another",
    errno.EADDRINUSE: "end what listens there, or choose another address",
    errno.EADDRNOTAVAIL: "choose an address of this machine",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOENT: "make the folder, or choose another place",
    errno.ENOSPC: "make room there, or choose another place",
    errno.ENOTDIR: "what should be a folder is a file: choose another",
    errno.EPERM: "give this user the right to it, or choose another",
    errno.EROFS: "choose a place that can be written to",
    socket.EAI_NONAME: "check the name, or give an address",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when asked to stop, 1 where it failed at run time, 2 for wrong usage or settings.
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (config.ConfigError, CassetteError) as error:
        print(f"lifecycle-proxy: {error}", file=sys.stderr)
        return _EXIT_USAGE
    except OSError as error:
        print(f"lifecycle-proxy: {_told(error)}", file=sys.stderr)
        return _EXIT_FAILED
    except KeyboardInterrupt:
        return 0


def _told(error: OSError) -> str:
    """What failed, with its file, and what to do about it."""
    what = error.strerror or str(error)
    if error.filename is not None:
        what = f"{os.fsdecode(error.filename)}: {what}"
    cure = _CURES.get(error.errno or 0)
    return f"{what}; {cure}" if cure else what


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lifecycle-proxy",
        description="A reverse proxy that adds tool lifecycle events to OpenAI-compatible streams.",
        epilog="Times are in seconds. "
        "Exit codes: 0 asked to stop, 1 failed at run time, 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"lifecycle-proxy {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the proxy", description="Run the proxy.")
    serve.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML settings (see config.example.toml)"
    )
    serve.add_argument(
        "--upstream",
        metavar="URL",
        help="base URL of the backend, as an OpenAI SDK is given it "
        "(default: http://127.0.0.1:11434/v1)",
    )
    serve.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="where clients connect; port 0 picks a free one (default: 127.0.0.1:8787)",
    )
    serve.add_argument(
        "--workers", type=int, metavar="N", help="processes sharing the port (default: 1)"
    )
    serve.add_argument(
        "--record",
        metavar="DIR",
        help="record the traffic into this folder (or one cassette, NAME.jsonl), keys left out",
    )
    serve.add_argument(
        "--allow-faults",
        action="store_true",
        help="break answers on purpose, as [faults] says; without it such settings are refused",
    )
    serve.set_defaults(run=_serve)

    demo = commands.add_parser(
        "demo",
        help="see it work, with no backend of your own",
        description="Start a scripted upstream and the proxy, and print one conversation with two "
        "parallel tool calls as a client sees it.",
    )
    demo.add_argument(
        "--listen",
        metavar="HOST:PORT",
        default="127.0.0.1:8787",
        help="where the proxy of the demo listens (default: %(default)s)",
    )
    demo.add_argument("--once", action="store_true", help="end after the conversation")
    demo.set_defaults(run=_demo)

    check = commands.add_parser(
        "check-config",
        help="check a settings file",
        description="Exit code 0, or 2 with the place, the key and the cure.",
    )
    check.add_argument("file", type=Path, metavar="FILE")
    check.set_defaults(run=_check)
    recordings.add(commands, _run)
    return parser


def _serve(arguments: argparse.Namespace) -> int:
    flags = {
        "upstream.url": arguments.upstream,
        "server.listen": arguments.listen,
        "server.workers": arguments.workers,
        "recording.path": arguments.record,
        "recording.mode": "record" if arguments.record else None,
    }
    file = arguments.config or os.environ.get(f"{config.ENV_PREFIX}CONFIG")
    settings = config.load(Path(file) if file else None, flags=flags)
    if settings.faults.rules and not arguments.allow_faults:
        raise config.ConfigError(str(file or ""), "faults", "refused without --allow-faults")
    if settings.server.workers > 1:
        logs.configure(settings.server.log_format)
        return workers.Supervisor(settings, partial(_work, settings)).run()
    return _work(settings)


def _work(
    settings: config.Settings, sock: socket.socket | None = None, supervisor: int | None = None
) -> int:
    """Serve in this process."""
    from proxy import server  # behind the fork: see workers

    logs.configure(settings.server.log_format, background=True)
    _run(server.serve(settings, sock, supervisor=supervisor))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from proxy import demo

    return _run(demo.run(arguments.listen, once=arguments.once))


def _check(arguments: argparse.Namespace) -> int:
    # What "env:NAME" names is looked up; settings of the environment are not the file's.
    own = config.ENV_PREFIX
    environ = {name: text for name, text in os.environ.items() if not name.startswith(own)}
    config.load(arguments.file, environ=environ)
    print(f"{arguments.file}: ok")
    return 0


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where there is one: a seventh less CPU per chunk (measured)."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    # What was imported stays; looking at it again and again for cycles is no use.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)
