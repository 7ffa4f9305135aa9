"""The command: ``lifecycle-proxy`` and ``python -m lifecycle_proxy``."""

import argparse
import asyncio
import errno
import gc
import importlib
import logging
import os
import shlex
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from lifecycle_proxy import __version__
from lifecycle_proxy.app.banner import Banner
from lifecycle_proxy.cli import recordings, settings_commands, usage, watch
from lifecycle_proxy.config import checks, machine
from lifecycle_proxy.config import model as config
from lifecycle_proxy.core.printable import printable
from lifecycle_proxy.recording.cassette_file import CassetteError
from lifecycle_proxy.server.supervisor import Work
from lifecycle_proxy.telemetry import logs

T = TypeVar("T")

log = logging.getLogger("proxy.cli")

_SERVE: Final = (
    "Run the proxy until SIGTERM or SIGINT. Then open streams have server.drain_timeout_s "
    "(30 seconds) to end; a second signal ends the proxy at once.\n"
    "Flags override the environment (LIFECYCLE_PROXY_UPSTREAM, LIFECYCLE_PROXY_LISTEN, "
    "LIFECYCLE_PROXY_SERVER__WORKERS, ...), which overrides the file, which overrides the defaults."
)
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
        0 after a signal to stop, 1 if it failed at run time, 2 for wrong usage or settings.
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except config.ConfigError as error:
        for problem in error.problems:
            print(f"lifecycle-proxy: {printable(str(problem))}", file=sys.stderr)
        return _EXIT_USAGE
    except CassetteError as error:
        print(f"lifecycle-proxy: {error}", file=sys.stderr)
        return _EXIT_USAGE
    except OSError as error:
        print(f"lifecycle-proxy: {described(error)}", file=sys.stderr)
        return _EXIT_FAILED
    except KeyboardInterrupt:
        return 0


def described(error: OSError) -> str:
    """An error with its file and what to do about it."""
    what = error.strerror or str(error)
    if error.filename is not None:
        what = f"{os.fsdecode(error.filename)}: {what}"
    cure = _CURES.get(error.errno or 0)
    return f"{what}; {cure}" if cure else what


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lifecycle-proxy",
        description="A reverse proxy that adds tool lifecycle events to OpenAI-compatible streams.",
        epilog="lifecycle-proxy COMMAND --help has the options, with units, defaults and examples. "
        "Exit codes: 0 success, or ended by a signal; 1 failed at run time; 2 wrong usage or "
        "settings. scan and drift report their result by the exit code.",
    )
    parser.add_argument("--version", action="version", version=f"lifecycle-proxy {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    _add_serve(commands)
    _add_demo(commands)
    settings_commands.add(commands, _run)
    recordings.add(commands, _run)
    watch.add(commands, _run)
    return parser


def _command(text: str) -> list[str]:
    """The words of a command line.

    Raises:
        argparse.ArgumentTypeError: they are not whole, or there are none.
    """
    try:
        words = shlex.split(text)
    except ValueError as mistake:
        raise argparse.ArgumentTypeError(
            f"{text!r}: {mistake}; quote it as in a shell, such as 'opencode acp'"
        ) from mistake
    if not words:
        raise argparse.ArgumentTypeError("the command is missing, such as 'opencode acp'")
    return words


def _add_serve(commands: Any) -> None:
    serve = usage.add(
        commands,
        "serve",
        brief="run the proxy",
        description=_SERVE,
        examples="--upstream http://127.0.0.1:11434/v1\n"
        "--upstream http://127.0.0.1:8000/v1 --listen 127.0.0.1:9000 --record recordings\n"
        "--config config.toml\n"
        "--agent 'opencode acp'",
    )
    serve.add_argument(
        "--upstream",
        metavar="URL",
        help="base URL of the backend, including /v1, as in OpenAI(base_url=...) "
        "(default: http://127.0.0.1:11434/v1)",
    )
    serve.add_argument(
        "--agent",
        type=_command,
        metavar="COMMAND",
        help="run an agent that speaks ACP in the backend's place, such as 'opencode acp'; "
        "docs/agents.md says what it may do (default: none)",
    )
    serve.add_argument(
        "--workers", type=int, metavar="N", help="processes that share the port (default: 1)"
    )
    _add_settings(serve)
    serve.set_defaults(run=_serve)


def _add_settings(command: argparse.ArgumentParser) -> None:
    """Add the options of both `serve` and `demo`."""
    command.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML settings, as in config.example.toml (default: LIFECYCLE_PROXY_CONFIG, or none)",
    )
    command.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="where clients connect; port 0 picks a free one (default: 127.0.0.1:8787)",
    )
    command.add_argument(
        "--record",
        metavar="DIR",
        help="write prompts and answers into this folder, or into one file, NAME.jsonl; keys are "
        "redacted (default: nothing is written)",
    )
    command.add_argument(
        "--allow-faults",
        action="store_true",
        help="break answers on purpose, as [faults] says; without this, such settings are refused",
    )


def _add_demo(commands: Any) -> None:
    demo = usage.add(
        commands,
        "demo",
        brief="see it work, without a backend",
        description="Start a scripted backend and the proxy in front of it, and print one "
        "conversation as a client sees it: tools at the same time, one that fails, the answer. "
        "Then stay up for clients of your own until Ctrl-C.\n"
        "Settings are those of serve, except that the backend is the demo's own.",
        examples="\n--once\n--agent --once\n--listen 127.0.0.1:9000 --record recordings",
    )
    demo.add_argument("--once", action="store_true", help="end after the conversation")
    demo.add_argument(
        "--agent", action="store_true", help="with an agent that asks for a permission (ACP)"
    )
    _add_settings(demo)
    demo.set_defaults(run=_demo)


def _loaded(
    arguments: argparse.Namespace, also: Sequence[config.Check] = (), **flags: Any
) -> config.Loaded:
    """The settings of `serve` and `demo`.

    Args:
        arguments: of the command line.
        also: further checks.
        flags: values of options that only one of the two has, by key.

    Raises:
        config.ConfigError: the settings are not valid, or inject faults without --allow-faults.
    """
    flags |= {
        "server.listen": arguments.listen,
        "recording.path": arguments.record,
        "recording.mode": "record" if arguments.record else None,
    }
    file = arguments.config or os.environ.get(f"{config.ENV_PREFIX}CONFIG")
    loaded = config.read(Path(file) if file else None, flags=flags, also=also)
    if loaded.settings.faults.rules and not arguments.allow_faults:
        raise config.ConfigError(str(file or ""), "faults", settings_commands.FAULTS)
    return loaded


def _serve(arguments: argparse.Namespace) -> int:
    own = {
        "upstream.url": arguments.upstream,
        "upstream.agent": arguments.agent,
        "server.workers": arguments.workers,
    }
    loaded = _loaded(arguments, (machine.loops, machine.agents), **own)
    settings, banner = loaded.settings, Banner(loaded)

    def read() -> config.Settings:
        return _loaded(arguments, (machine.loops, machine.agents), **own).settings

    if settings.server.workers > 1:
        from lifecycle_proxy.cli import supervised

        logs.configure(settings.server.log_format)
        _warn(banner, settings)
        return supervised.serve(settings, read, banner, _worker, _run)
    return _work(settings, read, banner=banner)


def _worker(settings: config.Settings, read: Callable[[], config.Settings]) -> Work:
    return partial(_work, settings, read)


def _work(
    settings: config.Settings,
    read: Callable[[], config.Settings],
    sock: socket.socket | None = None,
    supervisor: int | None = None,
    banner: Banner | None = None,
) -> int:
    """Serve in this process."""
    from lifecycle_proxy.app import serve as server  # see supervised

    logs.configure(settings.server.log_format, background=True)
    if banner is not None:
        _warn(banner, settings)
    _run(server.serve(settings, sock, supervisor=supervisor, announce=banner, reload=read))
    return 0


def _warn(banner: Banner, settings: config.Settings) -> None:
    """Log the warnings, if no terminal shows them."""
    if not banner.is_shown:
        for one in checks.warnings(settings):
            log.warning("%s: %s", one.key, one.text)


def _demo(arguments: argparse.Namespace) -> int:
    from lifecycle_proxy.cli import demo

    loaded = _loaded(arguments)
    usual = loaded.settings.server.listen == config.Server().listen
    any_port = usual and arguments.listen is None
    return _run(demo.run(loaded, once=arguments.once, any_port=any_port, agent=arguments.agent))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop if it is installed: a seventh less CPU per chunk (measured)."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    # Imported modules stay for good: the garbage collector need not search them again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)
