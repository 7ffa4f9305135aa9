"""A settings file as a tree, the line of each key, and plain words for what cannot be read."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

SECRETS: Final = ("api_key", "api_keys")  # their values are never shown

_HEADER: Final = re.compile(r"\s*(\[\[?)([^\[\]]+)\]")
_NAME: Final = re.compile(r"[\w\s.-]*(?:[\"'][^\"'=]*[\"'])?[\w\s.\"'-]*")
_BARE: Final = re.compile(r"""[^\s"'\[{#][^"'#]*""")  # text without quotes
_MULTILINE: Final = ('"""', "'''")
_WORDS: Final = {"True": "true", "False": "false", "None": '""', "yes": "true", "no": "false"}
_AT: Final = re.compile(r" \(at line (\d+), column (\d+)\)| \(at end of document\)")


class FileError(Exception):
    """A file that cannot be read as settings. The text says why, and the cure."""


class Lines:
    """Where in a file a key is set.

    TOML's own parser does not say. This looks for ``[table]`` and ``key =`` at the start of lines,
    which finds all that people write; where it finds nothing, no line is named.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[str, int] = {}
        self.twice: tuple[str, int, int] | None = None
        for path, number, can_repeat in _paths(text):
            first = self._lines.setdefault(path, number)
            if first != number and not can_repeat and self.twice is None:
                self.twice = (path, first, number)

    def line(self, key: str) -> int | None:
        """The line of a dotted key, else that of what it is in."""
        while key:
            if key in self._lines:
                return self._lines[key]
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return None


def read(file: Path) -> tuple[dict[str, Any], Lines]:
    """The tree, and the lines.

    Raises:
        FileError: it cannot be read, is not UTF-8, or not TOML.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise FileError(_unreadable(file, error)) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x} (line {line})"
        raise FileError(f"not UTF-8 text: {what}; save the file as UTF-8") from None
    text = text.replace("\r\n", "\n")
    try:
        return tomllib.loads(text), Lines(text)
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"not valid TOML: {_syntax(str(error), text)}") from None
    except RecursionError:
        raise FileError("not valid TOML: brackets are nested too deeply") from None


def _unreadable(file: Path, error: OSError) -> str:
    why = error.strerror or str(error)
    match error:
        case FileNotFoundError():
            return f"{why}; check the path" + (
                "" if file.is_absolute() else f" (from {Path.cwd()})"
            )
        case IsADirectoryError():
            return f"{why}; name the file in it, such as {file / 'config.toml'}"
        case PermissionError():
            return f"{why}; give this user the right to read it"
        case _:
            return why


def _syntax(message: str, text: str) -> str:
    """What TOML's parser says, with the line and a cure for the mistakes that people make."""
    found = _AT.search(message)
    what = _AT.sub("", message)
    what = what[:1].lower() + what[1:]
    number = int(found[1]) if found and found[1] else 0
    if what.startswith("cannot ") and (twice := Lines(text).twice):
        path, first, second = twice
        return f"{path} is set twice (lines {first} and {second}); keep one of them"
    if not number:
        return f"{what} (at the end of the file); close the quote or bracket that is open"
    cure = _cure(text.split("\n")[number - 1])
    return f"{what} (line {number}, column {found[2] if found else 0}){cure}"


def _cure(line: str) -> str:
    name, equals, value = line.partition("=")
    name, value = name.strip(), value.strip()
    if not equals:
        name, colon, value = line.partition(":")
        is_yaml = colon and re.fullmatch(r"\s*\w+\s*", name)
        return f"; write {name.strip()} = ..., with an equals sign" if is_yaml else ""
    if name.startswith("export "):
        return "; leave out export"
    bare = _BARE.match(value)
    if bare is None or not re.fullmatch(r"[\w.-]+", name):
        return ""
    word = bare[0].strip()
    if word in _WORDS:
        return f"; write {name} = {_WORDS[word]}"
    if name.rpartition(".")[2] in SECRETS:
        word = "..."  # the secret itself is not shown
    return f"; text needs quotes: {name} = {json.dumps(word, ensure_ascii=False)}"


def _paths(text: str) -> Iterator[tuple[str, int, bool]]:
    """Each key's dotted path and line, and whether it may stand there again."""
    table, quote, counts = "", "", dict[str, int]()
    for number, line in enumerate(text.split("\n"), 1):
        if quote:  # inside a text of several lines
            quote = "" if quote in line else quote
            continue
        quote = next((mark for mark in _MULTILINE if line.count(mark) % 2), "")
        if header := _HEADER.match(line):
            table = _plain(header[2])
            if is_array := header[1] == "[[":
                count = counts[table] = counts.get(table, -1) + 1
                yield table, number, True
                table = f"{table}[{count}]"
            yield table, number, is_array
            continue
        name, equals, _ = line.partition("=")
        if equals and _NAME.fullmatch(name):
            yield f"{table}.{_plain(name)}".lstrip("."), number, False


def _plain(name: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in name.split("."))
