"""Text from anywhere on a terminal: harmless, and as wide as there is room for."""

import unicodedata
from dataclasses import dataclass
from typing import Final

from lifecycle_proxy.core.printable import printable

_PLAIN: Final = "\x1b[0m"
_SIZES: Final = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass(frozen=True, slots=True)
class Paper:
    """What is written on."""

    width: int
    coloured: bool

    def line(self, text: str, colour: str = "") -> str:
        """Text from anywhere, as one harmless line that fits."""
        text = fit(printable(text.rstrip(" ")), self.width)
        return f"{colour}{text}{_PLAIN}" if colour and self.coloured else text


def fit(text: str, width: int) -> str:
    """At most as many columns, the last an ellipsis where something is cut off."""
    if columns(text) <= width:
        return text
    while columns(text) >= width:
        text = text[: min(len(text) - 1, width)]
    return f"{text}…"


def columns(text: str) -> int:
    """How many columns a terminal takes for it: East Asian characters and emojis are wide."""
    if text.isascii():
        return len(text)
    return sum(_column(character) for character in text)


def _column(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) == "Mn":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, width: int) -> str:
    text = fit(printable(text), width)
    return text + " " * (width - columns(text))


def size(number: int) -> str:
    """A number of bytes, for people."""
    for unit, name in _SIZES:
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number} B"
