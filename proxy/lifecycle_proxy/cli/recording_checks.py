"""The commands that check recordings. Each imports what it needs when it runs."""

import argparse
import os
import sys
from pathlib import Path

from lifecycle_proxy.cli import usage
from lifecycle_proxy.config import model as config
from lifecycle_proxy.core.printable import wants_colour
from lifecycle_proxy.recording.cassette import load


def add(commands: usage.Commands, run: usage.Run) -> None:
    """Add them to the command line.

    Args:
        commands: of argparse's ``add_subparsers``.
        run: runs a coroutine to its end.
    """
    _add_scan(commands)
    _add_drift(commands, run)
    _add_rerun(commands, run)


def _add_scan(commands: usage.Commands) -> None:
    parser = usage.add(
        commands,
        "scan",
        brief="look for secrets in recordings",
        description="Look for keys, tokens and passwords in recordings, and say where they are. "
        "Exit code 0 if nothing looks like a secret, 1 if something does.",
        examples="recordings tests/cassettes",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files or folders")
    parser.set_defaults(run=_scan)


def _scan(arguments: argparse.Namespace) -> int:
    from lifecycle_proxy.inspect.scan import report

    return report(arguments.paths, sys.stdout)


def _add_drift(commands: usage.Commands, run: usage.Run) -> None:
    parser = usage.add(
        commands,
        "drift",
        brief="ask a live backend again, and compare",
        description="Send the recorded requests again, and compare shapes, tools, finish reasons "
        "and usage, not wording. Exit code 0: identical; 3: harmless differences; 1: differences "
        "that break clients, or nothing could be compared; 4: the backend could not be reached, so "
        "nothing is known.",
        examples="recordings --upstream http://127.0.0.1:11434/v1\n"
        "one.jsonl --upstream https://api.example/v1 --api-key env:API_KEY",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help=usage.CASSETTE)
    parser.add_argument("--upstream", required=True, metavar="URL", help="base URL, including /v1")
    parser.add_argument(
        "--api-key", metavar="KEY", help="the key to send; env:NAME reads the variable NAME"
    )
    parser.set_defaults(run=lambda arguments: run(_drift(arguments)))


async def _drift(arguments: argparse.Namespace) -> int:
    from lifecycle_proxy.inspect.drift import drift, render

    flags = {"upstream.url": arguments.upstream, "upstream.api_key": arguments.api_key}
    settings = config.load(flags=flags)
    report = await drift(load(arguments.path), settings, progress=sys.stderr)
    coloured = wants_colour(sys.stdout.isatty(), os.environ)
    for line in render(report, colour=coloured):
        print(line)
    return report.exit_code


def _add_rerun(commands: usage.Commands, run: usage.Run) -> None:
    parser = usage.add(
        commands,
        "rerun",
        brief="run recordings through today's proxy, and compare the events",
        description="Play what the upstreams sent to this version of the proxy, with the recorded "
        "requests, and compare the lifecycle events with those recorded. One line for each "
        "exchange that differs. Exit code 0: the same; 1: something differs.",
        examples="recordings\nrecordings --config config.toml",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=usage.CASSETTE)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the settings with which PATH was recorded, where they change events (default: none)",
    )
    parser.set_defaults(run=lambda arguments: run(_rerun(arguments)))


async def _rerun(arguments: argparse.Namespace) -> int:
    from lifecycle_proxy.cli.rerun import rerun

    report = await rerun(arguments.paths, config.load(file=arguments.config, environ={}))
    for line in report.lines():
        print(line)
    return report.exit_code
