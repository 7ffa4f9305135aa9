"""The commands for recordings. Each imports what it needs when it runs."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from proxy import config
from proxy.recording.cassette import CassetteError, load

Run = Callable[[Coroutine[Any, Any, int]], int]
_Commands = Any  # argparse has no public name for it

_CASSETTE = "a cassette, or a folder of them"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|)")


def add(commands: _Commands, run: Run) -> None:
    """Add them to the command line.

    Args:
        commands: of argparse's ``add_subparsers``.
        run: runs a coroutine to its end.
    """
    _add_replay(commands, run)
    _add_show(commands)
    _add_export(commands)
    _add_scan(commands)
    _add_drift(commands, run)
    _add_import(commands)


def _add_replay(commands: _Commands, run: Run) -> None:
    parser = commands.add_parser(
        "replay",
        help="recordings as a server",
        description="Play recordings: byte for byte, read by read, at their time. A request that "
        "no recording answers gets a 404 that says what differs from the nearest one. No "
        "connection is opened to anywhere.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=_CASSETTE)
    parser.add_argument(
        "--listen",
        default="127.0.0.1:8788",
        metavar="HOST:PORT",
        help="where clients connect; port 0 picks a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--side",
        choices=("upstream", "client"),
        default="upstream",
        help="what the upstream sent, or what the client got (default: %(default)s)",
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        metavar="X",
        help="10 is ten times as fast, 0 at once (default: 1)",
    )
    parser.add_argument(
        "--max-gap",
        type=_ms,
        metavar="MS",
        help="no wait is longer than this, in milliseconds, or as 200ms, 1.5s (default: no limit)",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--loop",
        action="store_true",
        help="begin again behind the last recording of a request, instead of repeating it",
    )
    again.add_argument(
        "--strict",
        action="store_true",
        help="play each recording once (the last of a GET again), and match no other way than by "
        "what is asked",
    )
    parser.add_argument(
        "--order",
        action="store_true",
        help="match by order alone: the next recording of the same method and path, whatever the "
        "query and the body",
    )
    parser.add_argument(
        "--faults",
        type=Path,
        metavar="FILE",
        help="a TOML file with [faults]: break what is played",
    )
    parser.set_defaults(run=lambda arguments: _replay(arguments, run))


def _replay(arguments: argparse.Namespace, run: Run) -> int:
    from proxy.recording import replay
    from proxy.recording.matching import Rules

    more: dict[str, Any] = {"stages": ("order",)} if arguments.order else {}
    rules = Rules(loop=arguments.loop, strict=arguments.strict, **more)
    try:
        options = replay.Options(
            side=arguments.side,
            speed=arguments.speed,
            max_gap_ms=arguments.max_gap,
            rules=rules,
            faults=None if arguments.faults is None else config.read_faults(arguments.faults),
        )
    except ValueError:
        problem = f"{arguments.speed:g} is no speed, such as 10, or 0 for at once"
        raise config.ConfigError("--speed", "", problem) from None
    return run(replay.serve_replay(arguments.paths, arguments.listen, options))


def _ms(text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration, such as 200, 200ms or 1.5s")
    return float(found[1]) * (1000 if found[2] == "s" else 1)


def _add_show(commands: _Commands) -> None:
    parser = commands.add_parser(
        "show",
        help="a recording in the terminal",
        description="The exchanges of a recording, their frames on a time line, a bar per tool.",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help=_CASSETTE)
    parser.add_argument("--exchange", default="", metavar="ID", help="only this one")
    parser.add_argument(
        "--side", choices=("upstream", "client"), default="client", help="(default: %(default)s)"
    )
    parser.set_defaults(run=_show)


def _show(arguments: argparse.Namespace) -> int:
    from proxy.recording.show import show

    show(arguments.path, exchange_id=arguments.exchange, side=arguments.side)
    return 0


def _add_export(commands: _Commands) -> None:
    parser = commands.add_parser(
        "export",
        help="a recording as a page, or as HAR",
        description="Write a recording as one self-contained page, or as HAR 1.2.",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help=_CASSETTE)
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--html", dest="form", action="store_const", const="html", help="a page")
    form.add_argument("--har", dest="form", action="store_const", const="har", help="HAR 1.2")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="(default: standard output)"
    )
    parser.add_argument(
        "--side",
        choices=("upstream", "client"),
        default="client",
        help="whose answers a HAR holds (default: %(default)s)",
    )
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from proxy.recording.export import export

    try:
        export(arguments.path, arguments.form, arguments.output, side=arguments.side)
    except OSError as error:
        where = arguments.output or "standard output"
        raise CassetteError(f"{where}: {error.strerror or error}") from None
    return 0


def _add_scan(commands: _Commands) -> None:
    parser = commands.add_parser(
        "scan",
        help="look for secrets in old recordings",
        description="Exit code 0 if nothing looks like a secret, 1 if something does.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files or folders")
    parser.set_defaults(run=_scan)


def _scan(arguments: argparse.Namespace) -> int:
    from proxy.recording.scan import report

    return report(arguments.paths, sys.stdout)


def _add_drift(commands: _Commands, run: Run) -> None:
    parser = commands.add_parser(
        "drift",
        help="ask a live upstream again, and compare",
        description="Compare shapes, tools, finish and usage, not wording. Exit code 0 identical, "
        "3 benign, 1 breaking.",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help=_CASSETTE)
    parser.add_argument("--upstream", required=True, metavar="URL", help="whom to ask")
    parser.add_argument(
        "--api-key", metavar="KEY", help="its key; env:NAME reads it from the environment"
    )
    parser.set_defaults(run=lambda arguments: run(_drift(arguments)))


async def _drift(arguments: argparse.Namespace) -> int:
    from proxy.recording.drift import drift, render

    flags = {"upstream.url": arguments.upstream, "upstream.api_key": arguments.api_key}
    settings = config.load(flags=flags)
    report = await drift(load(arguments.path), settings, progress=sys.stderr)
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in render(report, colour=coloured):
        print(line)
    return report.exit_code


def _add_import(commands: _Commands) -> None:
    parser = commands.add_parser(
        "import",
        help="make a cassette of a vcrpy cassette or a HAR",
        description="vcrpy's YAML (read with the safe loader) and JSON, and HAR 1.2.",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("target", type=Path, metavar="TARGET", help="NAME.jsonl or NAME.jsonl.gz")
    parser.set_defaults(run=_import)


def _import(arguments: argparse.Namespace) -> int:
    from proxy.recording.imports import convert

    number = convert(arguments.source, arguments.target)
    print(f"{arguments.target}: {number} exchanges")
    return 0
