"""The commands that look at the settings: what is wrong with them, and where models lead."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lifecycle_proxy.app.banner import report, write
from lifecycle_proxy.cli import usage
from lifecycle_proxy.config import checks, machine
from lifecycle_proxy.config import model as config
from lifecycle_proxy.core.printable import printable

FAULTS: Final = "refused without --allow-faults, since they break answers on purpose"
_CHECKED: Final = "TOML settings, such as config.toml (default: LIFECYCLE_PROXY_CONFIG)"


def add(commands: usage.Commands, run: usage.Run) -> None:
    """Add them to the command line.

    Args:
        commands: of argparse's ``add_subparsers``.
        run: runs a coroutine to its end.
    """
    _add_check(commands)
    _add_routes(commands, run)


def _add_check(commands: usage.Commands) -> None:
    check = usage.add(
        commands,
        "check-config",
        brief="check a settings file, and print a summary",
        description="Check FILE and the environment as serve would on this machine. If there are "
        "no mistakes, print a summary of the settings; exit code 0. Otherwise print all mistakes, "
        "each with its place, key and correction; exit code 2.",
        examples="config.toml",
    )
    check.add_argument("file", type=Path, nargs="?", metavar="FILE", help=_CHECKED)
    check.set_defaults(run=_check, fail=check.error)


def _add_routes(commands: usage.Commands, run: usage.Run) -> None:
    routes = usage.add(
        commands,
        "routes",
        brief="where each model leads",
        description="Print the upstreams and where each name of [models] leads. With MODEL, print "
        "where a request for that model goes, and why; upstreams without patterns are asked for "
        "their list. Exit code 1 if it leads nowhere.",
        examples="\nfast\ngpt-5 --config config.toml",
    )
    routes.add_argument("model", nargs="?", metavar="MODEL", help="the name of a model")
    routes.add_argument("--config", type=Path, metavar="FILE", help=_CHECKED)
    routes.set_defaults(run=lambda arguments: _routes(arguments, run))


def _routes(arguments: argparse.Namespace, run: usage.Run) -> int:
    from lifecycle_proxy.app import route_report

    file = arguments.config or os.environ.get(f"{config.ENV_PREFIX}CONFIG")
    settings = config.load(Path(file) if file else None)
    if arguments.model is None:
        write(route_report.lines(settings), sys.stdout)
        return 0
    return run(_lead(settings, arguments.model))


async def _lead(settings: config.Settings, model: str) -> int:
    from lifecycle_proxy.app import route_lookup

    text, is_found = await route_lookup.lead(settings, model)
    write([text], sys.stdout if is_found else sys.stderr)
    return 0 if is_found else 1


def _check(arguments: argparse.Namespace) -> int:
    file = arguments.file or os.environ.get(f"{config.ENV_PREFIX}CONFIG")
    if not file:
        arguments.fail(
            "FILE is missing: name the settings file, such as config.toml, or set "
            "LIFECYCLE_PROXY_CONFIG"
        )
    loaded = config.read(Path(str(file)), also=(machine.loops, machine.agents, machine.problems))
    settings = loaded.settings
    if settings.recording.mode in ("replay", "once", "new_episodes"):
        from lifecycle_proxy.app import recording_mode

        recording_mode.opened(settings.recording)
    write([f"{file}: ok", *report(loaded)], sys.stdout)
    for text in _warnings(settings):
        print(f"lifecycle-proxy: warning: {printable(text)}", file=sys.stderr)
    return 0


def _warnings(settings: config.Settings) -> Iterator[str]:
    for one in checks.warnings(settings):
        yield f"{one.key}: {one.text}"
    if settings.faults.rules:
        yield f"faults: {FAULTS}"
    if machine.in_use(settings):
        who = "another program, or the proxy that is running now"
        yield f"server.listen: something listens on {settings.server.listen} already: {who}"
