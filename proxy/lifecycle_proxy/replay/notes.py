"""What a replay says of each request: which recording was played and why that one, or what is
missing."""

import logging
import sys
from dataclasses import replace
from typing import Final

from lifecycle_proxy.core.printable import printable
from lifecycle_proxy.recording import question
from lifecycle_proxy.recording.cassette import Request
from lifecycle_proxy.replay.matching import Found, Stage
from lifecycle_proxy.replay.near_miss import Miss

log = logging.getLogger("proxy.replay")

_FOUND_BY: Final[dict[Stage, str]] = {
    "exact": "the same request byte for byte",
    "json": "the same request as JSON",
    "conversation": "the same conversation",
    "order": "the next one of this path, whatever was asked",
}


def print_miss(miss: Miss) -> None:
    """A miss, on stderr."""
    print(f"lifecycle-proxy: {miss.text()}", file=sys.stderr, flush=True)


def log_miss(miss: Miss) -> None:
    """A miss, in the log."""
    log.warning("%s", miss.text())


def print_found(found: Found, asked: Request) -> None:
    """What is played, and how it was found, on stderr."""
    print(f"lifecycle-proxy: {played(found, asked)}", file=sys.stderr, flush=True)


def log_found(found: Found, asked: Request) -> None:
    """What was found by its order alone, in the log: it may be the answer to another question."""
    if found.stage == "order":
        log.info("%s", played(found, asked))


def played(found: Found, asked: Request) -> str:
    """One line: the request, the recording, and how it was found."""
    own = found.exchange
    words = f"{asked.method} {asked.target}: played {own.id}, {_FOUND_BY[found.stage]}"
    recorded, wanted = question.line(own), question.line(replace(own, request=asked))
    if found.stage == "order" and recorded != wanted:
        words += f"; asked: {wanted}; recorded: {recorded}"
    return printable(words)
