"""Settings that are compared with what clients send: those that can never match are refused."""

import fnmatch
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from lifecycle_proxy.config.plain import hint, quoted
from lifecycle_proxy.core.dialects import DIALECTS

if TYPE_CHECKING:
    from lifecycle_proxy.config.model import ClientRule

Found = Iterator[tuple[str, str]]  # keys and texts

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_REGULAR: Final = re.compile(r"^\^|\$$|\\[.dws]|\.\*\?|\(\?")


def header_names(given: Sequence[str], key: str) -> Found:
    """Names that no header can have.

    Args:
        given: names of headers.
        key: where they stand in the settings.
    """
    for number, name in enumerate(given):
        yield from header_name(name, f"{key}[{number}]")


def header_name(name: str, key: str) -> Found:
    """A name that no header can have.

    Args:
        name: of a header.
        key: where it stands in the settings.
    """
    if problem := _no_header(name):
        yield key, problem


def dialect(name: str, key: str) -> Found:
    """An unknown dialect.

    Args:
        name: of the dialect.
        key: where it stands in the settings.
    """
    if name not in DIALECTS:
        yield key, f"unknown dialect {quoted(name)} ({hint(name, list(DIALECTS))})"


def rule(given: "ClientRule", key: str) -> Found:
    """A client rule with an unknown dialect, or that no request can match.

    Args:
        given: the rule.
        key: where it stands in the settings.
    """
    yield from dialect(given.dialect, f"{key}.dialect")
    if problem := _no_header(given.header):
        yield f"{key}.header", problem
    elif given.header.lower() == "x-lifecycle-events":
        why = "a request with this header names its dialect itself"
        yield f"{key}.header", f"{quoted(given.header)} can never match: {why}"
    if why := _no_pattern(given.match):
        yield f"{key}.match", f"{quoted(given.match)} can never match: {why}"


def doubtful(rules: "Sequence[ClientRule]") -> Found:
    """Rules that do not do what they seem to."""
    seen: dict[str, dict[str, int]] = {}
    for number, one in enumerate(rules):
        before, match = seen.setdefault(one.header.lower(), {}), one.match.lower()
        first, key = before.get("*", before.get(match)), f"lifecycle.clients[{number}]"
        if first is not None:
            earlier = f"lifecycle.clients[{first}]"
            yield key, f"never used: {earlier} matches the same requests, and comes first"
        elif _REGULAR.search(match):
            what = "a shell pattern: * is any text, ? one character, . a dot"
            yield f"{key}.match", f"{quoted(one.match)} is read as {what}"
        before.setdefault(match, number)


def _no_header(name: str) -> str:
    if _TOKEN.fullmatch(name):
        return ""
    bare = name.strip().rstrip(":").strip().lower()
    cure = f"write {quoted(bare)}" if _TOKEN.fullmatch(bare) else "write one such as user-agent"
    return f"{quoted(name)} can never match: it is not the name of a header; {cure}"


def _no_pattern(match: str) -> str:
    if not match:
        return 'it is empty; leave it out, or write "*", to match any value'
    if match != match.strip():
        return "the value of a header has no spaces around it; leave them out"
    if not match.isprintable():
        return "the value of a header has no control characters"
    if "(?!)" in fnmatch.translate(match) and "(?!)" not in match:
        return "its brackets match no character; write a range as [a-z]"
    return ""
