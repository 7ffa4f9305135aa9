"""Text from anywhere on a terminal: escaped, and cut to a width in columns."""

import unicodedata
from dataclasses import dataclass
from typing import Final

from lifecycle_proxy.core.printable import printable

_PLAIN: Final = "\x1b[0m"
_SIZES: Final = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass(frozen=True, slots=True)
class Paper:
    """Formats lines for a terminal.

    Attributes:
        width: in columns.
        coloured: write escape sequences for colours.
    """

    width: int
    coloured: bool

    def line(self, text: str, colour: str = "") -> str:
        """One line: escaped, cut to the width, coloured if this terminal has colours.

        Args:
            text: from anywhere.
            colour: an escape sequence.
        """
        text = fit(printable(text.rstrip(" ")), self.width)
        return f"{colour}{text}{_PLAIN}" if colour and self.coloured else text


def fit(text: str, width: int) -> str:
    """Cut a text to a width. An ellipsis in the last column shows that something is missing.

    Args:
        text: printable.
        width: in columns.
    """
    if columns(text) <= width:
        return text
    while columns(text) >= width:
        text = text[: min(len(text) - 1, width)]
    return f"{text}…"


def columns(text: str) -> int:
    """The width of a text on a terminal: East Asian characters and emojis take two columns."""
    if text.isascii():
        return len(text)
    return sum(_column(character) for character in text)


def _column(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) == "Mn":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, width: int) -> str:
    """Escape a text, and cut or pad it to a width.

    Args:
        text: from anywhere.
        width: in columns.
    """
    text = fit(printable(text), width)
    return text + " " * (width - columns(text))


def size(number: int) -> str:
    """A number of bytes, for people."""
    for unit, name in _SIZES:
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number} B"
