"""The file, the environment and the flags, one over the other, and all that is wrong in them."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from lifecycle_proxy.config import file as files
from lifecycle_proxy.config.names import ENV_PREFIX, ENV_SHORT, fields, tables, unknown_variable
from lifecycle_proxy.config.reading import Note, Reader, from_text

_FLAGS: Final = {
    "upstream.url": "--upstream",
    "upstream.api_key": "--api-key",
    "server.listen": "--listen",
    "server.workers": "--workers",
    "recording.path": "--record",
    "recording.mode": "--record",
}
# Kubernetes puts such variables into every pod beside a service that is named lifecycle-proxy.
_ENV_FOREIGN: Final = re.compile(r"(PORT|SERVICE)(_|$)")


class Problem(NamedTuple):
    """One mistake: where it was made, in which setting, and what would be right."""

    place: str
    key: str
    text: str
    line: int | None = None

    def __str__(self) -> str:
        line = "" if self.line is None else f" (line {self.line})"
        return ": ".join(part for part in (self.place, self.key, self.text) if part) + line


class ConfigError(Exception):
    """Settings that are not acceptable. The text has a line for each mistake."""

    def __init__(
        self,
        place: str,
        key: str,
        problem: str,
        line: int | None = None,
        more: Iterable[Problem] = (),
    ) -> None:
        self.problems = (Problem(place, key, problem, line), *more)
        super().__init__("\n".join(map(str, self.problems)))


class Sources:
    """What has been set so far, and the mistakes so far.

    Args:
        root: all tables.

    Attributes:
        tree: the tables that anything was set in. What was wrong has its default there.
        variables: the environment variables that set something, in order.
        flags: the flags that do.
    """

    def __init__(self, root: type[Struct]) -> None:
        self._root = root
        self.tree: dict[str, Any] = {}
        self._problems: list[Problem] = []
        self._places: dict[str, str] = {}  # of keys that are not from the file
        self._file, self._lines = "", files.Lines("")
        self.variables: list[str] = []
        self.flags: list[str] = []

    def read_file(self, file: Path, only: str = "") -> None:
        """Read a TOML file.

        Args:
            file: its path.
            only: the one table to read; "" for all.
        """
        self._file = str(file)
        try:
            tree, self._lines = files.read(file)
        except files.FileError as error:
            self._problems.append(Problem(self._file, "", str(error)))
            return
        if only:
            if only not in tree:
                self.note(only, f"there is no table [{only}] in this file")
            tree = {key: table for key, table in tree.items() if key == only}
        self.tree = Reader(self._root, self.note).table(tree, self._root)

    def read_environment(self, environ: Mapping[str, str]) -> None:
        """The variables that begin with ``LIFECYCLE_PROXY_``."""
        for variable, text in sorted(environ.items()):
            name = variable.removeprefix(ENV_PREFIX)
            if name in (variable, "CONFIG") or _is_foreign(name, text):
                continue
            table, _, key = ENV_SHORT.get(name, name).lower().partition("__")
            place, kind = f"environment {variable}", tables(self._root).get(table)
            if kind is None or key not in fields(kind):
                self._problems.append(Problem(place, "", unknown_variable(name, text, self._root)))
                continue
            self.variables.append(variable)
            try:
                value = from_text(text, fields(kind)[key])
            except ValueError as error:
                self._problems.append(Problem(place, f"{table}.{key}", str(error)))
                continue
            self._set(table, key, value, place, strict=not isinstance(value, str))

    def read_flags(self, flags: Mapping[str, Any]) -> None:
        """Values by dotted key; None is not given."""
        for dotted, value in flags.items():
            if value is None:
                continue
            place, (table, _, key) = _FLAGS.get(dotted, ""), dotted.partition(".")
            if not key or table not in tables(self._root):  # not a key of a table
                whole = Reader(self._root, self._noting(place)).table({table: value}, self._root)
                self.tree.update(whole)
                continue
            self.flags.append(place)
            self._set(table, key, value, place)

    def has_problem(self, *keys: str) -> bool:
        """Whether anything is wrong with one of these, or with what is in it."""
        return any(problem.key.startswith(keys) for problem in self._problems)

    def check(self) -> None:
        """Refuse settings with mistakes.

        Raises:
            ConfigError: all mistakes, those in the file by line.
        """
        if self._problems:
            own = self._file
            self._problems.sort(key=lambda one: (one.place != own, one.line or 0))
            first, *more = dict.fromkeys(self._problems)
            raise ConfigError(*first, more)

    def _set(self, table: str, key: str, value: Any, place: str, *, strict: bool = True) -> None:
        kind = tables(self._root)[table]
        reader = Reader(self._root, self._noting(place), strict=strict)
        good = reader.table({key: value}, kind, f"{table}.")
        self.tree[table] = msgspec.structs.replace(self.tree.get(table, kind()), **good)
        self._places[f"{table}.{key}"] = place

    def _noting(self, place: str) -> Note:
        return lambda key, text: self._problems.append(Problem(place, key, text))

    def note(self, key: str, text: str) -> None:
        """Add a mistake, reported for the source that set the key last.

        Args:
            key: where it stands in the settings.
            text: the problem.
        """
        place = self._places.get(key.partition("[")[0])
        line = self._lines.line(key) if place is None else None
        self._problems.append(Problem(self._file if place is None else place, key, text, line))


def _is_foreign(name: str, text: str) -> bool:
    """Whether a variable is Kubernetes's; ``LIFECYCLE_PROXY_PORT=8787`` is a person's."""
    return bool(_ENV_FOREIGN.match(name)) and not (name == "PORT" and text.isdecimal())
