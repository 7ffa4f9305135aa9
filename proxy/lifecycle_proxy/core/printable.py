"""Text from anywhere, fit for a terminal and for a line of a log."""

from collections.abc import Mapping


def printable(text: str) -> str:
    """One line, with an escape sequence in the place of each character that does not print."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def wants_colour(is_terminal: bool, environ: Mapping[str, str]) -> bool:
    """Whether to write in colour: on a terminal, unless ``NO_COLOR`` is set (https://no-color.org).

    Args:
        is_terminal: what the stream's ``isatty`` returned.
        environ: the variables of the environment.
    """
    return is_terminal and not environ.get("NO_COLOR")
