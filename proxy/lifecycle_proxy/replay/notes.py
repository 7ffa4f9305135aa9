"""What a replay says of each request: which recording was played and why that one, or what is
missing."""

import logging
import os
import sys
from dataclasses import replace
from typing import Final

from lifecycle_proxy.core.printable import printable, wants_colour
from lifecycle_proxy.core.redact import redact
from lifecycle_proxy.recording import question
from lifecycle_proxy.recording.cassette import Request
from lifecycle_proxy.replay.matching import Found, Stage
from lifecycle_proxy.replay.near_miss import Miss

log = logging.getLogger("proxy.replay")

# These compare a part of the request only; in colour on a terminal.
_LOOSE: Final[dict[Stage, str]] = {"conversation": "33", "order": "31"}


def print_miss(miss: Miss) -> None:
    """A miss, on stderr."""
    print(f"lifecycle-proxy: {miss.text()}", file=sys.stderr, flush=True)


def log_miss(miss: Miss) -> None:
    """A miss, in the log."""
    log.warning("%s", miss.text())


def print_found(found: Found, asked: Request) -> None:
    """Print what is played, and how it was found, on stderr.

    Args:
        found: what is played.
        asked: the request.
    """
    text, colour = f"lifecycle-proxy: {matched(found, asked)}", _LOOSE.get(found.stage)
    if colour and wants_colour(sys.stderr.isatty(), os.environ):
        text = f"\x1b[{colour}m{text}\x1b[0m"
    print(text, file=sys.stderr, flush=True)


def log_found(found: Found, asked: Request) -> None:
    """Log what was found by its order alone: it may be the response to another request.

    Args:
        found: what is played.
        asked: the request.
    """
    if found.stage == "order":
        log.info("%s", matched(found, asked))


def matched(found: Found, asked: Request) -> str:
    """One line: the request, the recording, and the stage that found it.

    Args:
        found: what is played.
        asked: the request.
    """
    own = found.exchange
    words = f"{asked.method} {redact(asked.target)}: matched {own.id} by {found.stage}"
    if found.stage in _LOOSE:
        recorded, wanted = question.line(own), question.line(replace(own, request=asked))
        words += f"; asked: {wanted}; recorded: {recorded}" if recorded != wanted else ""
    return printable(words)
