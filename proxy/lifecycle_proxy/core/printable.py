"""Text from anywhere, fit for a terminal and for a line of a log."""


def printable(text: str) -> str:
    """One line, with an escape sequence in the place of each character that does not print."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
