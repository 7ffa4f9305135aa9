"""The commands for recordings. Each imports what it needs when it runs."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from lifecycle_proxy.cli import recording_checks, usage
from lifecycle_proxy.config import model as config
from lifecycle_proxy.core.printable import printable
from lifecycle_proxy.recording.cassette_file import CassetteError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|)")


def add(commands: usage.Commands, run: usage.Run) -> None:
    """Add them to the command line.

    Args:
        commands: of argparse's ``add_subparsers``.
        run: runs a coroutine to its end.
    """
    _add_replay(commands, run)
    _add_show(commands)
    _add_export(commands)
    recording_checks.add(commands, run)
    _add_import(commands)


def _add_replay(commands: usage.Commands, run: usage.Run) -> None:
    parser = usage.add(
        commands,
        "replay",
        brief="serve recordings instead of a backend",
        description="Answer requests from recordings, byte for byte and at their recorded times. "
        "No connection is opened to anywhere. Standard error says what was played, and how it was "
        "found: as the same request, as the same conversation, or, if nothing fits, as the next "
        "recording of the same method and path. --strict leaves out the last: such a request gets "
        "a 404 that says what differs from the nearest recording.",
        examples="recordings\n"
        "recordings --strict --speed 0\n"
        "one.jsonl --side client --listen 127.0.0.1:9000 --max-gap 200ms",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=usage.CASSETTE)
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
        help="upstream: play what the backend sent; client: play what the proxy sent to its client "
        "(default: %(default)s)",
    )
    _add_timing(parser)
    _add_matching(parser)
    parser.add_argument(
        "--faults",
        type=Path,
        metavar="FILE",
        help="TOML file with [faults]: damage responses on purpose",
    )
    parser.set_defaults(run=lambda arguments: _replay(arguments, run))


def _add_timing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        metavar="X",
        help="speed: 10 is ten times as fast as recorded, 0 does not wait (default: 1)",
    )
    parser.add_argument(
        "--max-gap",
        type=_ms,
        metavar="MS",
        help="longest wait between two reads: milliseconds, or 200ms, 1.5s (default: no limit)",
    )


def _add_matching(parser: argparse.ArgumentParser) -> None:
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--loop",
        action="store_true",
        help="after the last recording that fits a request, begin with the first one again; "
        "without this the last one is repeated",
    )
    again.add_argument(
        "--strict",
        action="store_true",
        help="play each recording only once (a GET gets its last one again), and only if the "
        "request fits",
    )
    parser.add_argument(
        "--order",
        action="store_true",
        help="always play the next recording of the same method and path, whatever query and body "
        "say",
    )


def _replay(arguments: argparse.Namespace, run: usage.Run) -> int:
    from lifecycle_proxy.replay import server as replay
    from lifecycle_proxy.replay.matching import Rules

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
        problem = f"{arguments.speed:g} is not a speed, such as 10, or 0 for at once"
        raise config.ConfigError("--speed", "", problem) from None
    return run(replay.serve_replay(arguments.paths, arguments.listen, options))


def _ms(text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration, such as 200, 200ms or 1.5s")
    return float(found[1]) * (1000 if found[2] == "s" else 1)


def _add_show(commands: usage.Commands) -> None:
    parser = usage.add(
        commands,
        "show",
        brief="show recordings in the terminal",
        description="List the exchanges in PATH; then, for each, its events with their "
        "times in milliseconds, and a bar for each tool. In colour on a terminal, unless NO_COLOR "
        "is set.",
        examples="recordings\none.jsonl --exchange ex_9f2c --side upstream",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help=usage.CASSETTE)
    _add_exchange(parser, "show")
    parser.add_argument(
        "--side",
        choices=("upstream", "client"),
        default="client",
        help="show what the upstream sent, or what the client got (default: %(default)s)",
    )
    parser.set_defaults(run=_show)


def _show(arguments: argparse.Namespace) -> int:
    from lifecycle_proxy.inspect.show import show

    show(arguments.path, exchange_id=arguments.exchange, side=arguments.side)
    return 0


def _add_exchange(parser: argparse.ArgumentParser, verb: str) -> None:
    text = f"{verb} only the exchange with this id; the beginning of the id is enough"
    parser.add_argument("--exchange", default="", metavar="ID", help=text)


def _add_export(commands: usage.Commands) -> None:
    parser = usage.add(
        commands,
        "export",
        brief="write recordings as a page, or as HAR",
        description="Write recordings as one HTML page that needs nothing else, or as HAR 1.2.",
        examples="recordings --html -o recordings.html\n"
        "one.jsonl --html --exchange ex_9f2c -o one.html\none.jsonl --har > one.har",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help=usage.CASSETTE)
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument(
        "--html", dest="form", action="store_const", const="html", help="one HTML page"
    )
    form.add_argument("--har", dest="form", action="store_const", const="har", help="HAR 1.2")
    _add_exchange(parser, "export")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="where to (default: standard output)"
    )
    parser.add_argument(
        "--side",
        choices=("upstream", "client"),
        default="client",
        help="what a HAR contains: what the upstream sent, or what the client got "
        "(default: %(default)s)",
    )
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from lifecycle_proxy.inspect.export import export

    try:
        export(
            arguments.path,
            arguments.form,
            arguments.output,
            side=arguments.side,
            exchange_id=arguments.exchange,
        )
    except OSError as error:
        where = arguments.output or "standard output"
        raise CassetteError(f"{where}: {error.strerror or error}") from None
    return 0


def _add_import(commands: usage.Commands) -> None:
    parser = usage.add(
        commands,
        "import",
        brief="convert a vcrpy cassette, a HAR or an event stream to recordings",
        description="Read vcrpy's YAML (with the safe loader; needs PyYAML) or JSON, HAR 1.2 (of "
        "browsers, Playwright, Polly.JS and others), or one event stream (NAME.sse), and write a "
        "file with recordings. Standard error says what could not be taken.",
        examples="chat.yaml chat.jsonl\nsession.har session.jsonl.gz\nanswer.sse answer.jsonl",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a file of one of these kinds")
    parser.add_argument("target", type=Path, metavar="TARGET", help="NAME.jsonl or NAME.jsonl.gz")
    parser.set_defaults(run=_import)


def _import(arguments: argparse.Namespace) -> int:
    from lifecycle_proxy.inspect.importer import convert

    def tell(line: str) -> None:
        print(f"lifecycle-proxy: {printable(line)}", file=sys.stderr)

    number = convert(arguments.source, arguments.target, tell=tell)
    print(f"{arguments.target}: {number} exchanges")
    return 0
