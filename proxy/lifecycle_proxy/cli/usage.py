"""The form of the help of a command: what it does, its options, examples to paste."""

import argparse
import textwrap
from collections.abc import Callable, Coroutine
from typing import Any, Final

Commands = Any  # argparse has no public name for it
Run = Callable[[Coroutine[Any, Any, int]], int]  # runs a coroutine to its end

CASSETTE: Final = "a file with recordings (NAME.jsonl or NAME.jsonl.gz), or a folder of such files"
_WIDTH: Final = 78


def add(
    commands: Commands, name: str, *, brief: str, description: str, examples: str
) -> argparse.ArgumentParser:
    """Add a command.

    Args:
        commands: returned by argparse's ``add_subparsers``, which has no public type.
        name: of the command.
        brief: a few words for the list of all commands.
        description: what it does; a paragraph for each line.
        examples: a command line for each line, without the name of the program.
    """
    lines = (f"  lifecycle-proxy {name} {line}".rstrip() for line in examples.splitlines())
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=brief,
        description="\n".join(textwrap.fill(line, _WIDTH) for line in description.splitlines()),
        epilog="\n".join(("examples:", *lines)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser
