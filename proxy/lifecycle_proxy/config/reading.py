"""Values as their types want them; every mistake is noted, in plain words, and reading goes on."""

import math
import tomllib
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from lifecycle_proxy.config.names import struct_in, unknown_key
from lifecycle_proxy.config.plain import mismatch, no_table, shown, without_none

Note = Callable[[str, str], None]

_WRONG: Final = object()


class Reader:
    """Reads tables.

    Args:
        root: all tables.
        note: is called with the key and the problem of each mistake.
        strict: whether values have types, as in TOML; else they may be texts, as in variables.
    """

    def __init__(self, root: type[Struct], note: Note, *, strict: bool = True) -> None:
        self._root = root
        self._note = note
        self._strict = strict

    def table(self, given: Mapping[str, Any], kind: type[Struct], path: str = "") -> dict[str, Any]:
        """What of a table is right.

        Args:
            path: its name with a dot behind it; "" at the top.
        """
        good, known = {}, {field.name: field for field in msgspec.structs.fields(kind)}
        for key, value in given.items():
            if key not in known:
                self._note(path + key, unknown_key(key, kind, path, self._root))
                continue
            field = known[key]
            read = self.value(value, field.type, path + key, field.default)
            if read is not _WRONG:
                good[key] = read
        return good

    def value(self, given: Any, kind: Any, key: str, default: Any = None) -> Any:
        """A value, or ``_WRONG``.

        Args:
            given: as it was read.
            kind: the type of the setting.
            key: where it stands in the settings.
            default: of the setting, for the message.
        """
        kind = without_none(kind)
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        inner = struct_in(kind)
        if inner is not None:
            many = origin is list
            return self._structs(given, inner, key) if many else self._struct(given, inner, key)
        if origin is list and isinstance(given, list | tuple):
            return self._all(dict(enumerate(given)), arguments[0], key + "[{}]", list)
        if origin is dict and isinstance(given, Mapping):
            return self._all(given, arguments[1], key + ".{}", dict)
        try:
            read = msgspec.convert(given, kind, strict=self._strict)
        except msgspec.ValidationError:
            read = _WRONG
        if read is _WRONG or (isinstance(read, float) and not math.isfinite(read)):
            self._note(key, mismatch(given, kind, key, default))
            return _WRONG
        return read

    def _all(self, given: Mapping[Any, Any], kind: Any, form: str, made: type) -> Any:
        read = {at: self.value(item, kind, form.format(at)) for at, item in given.items()}
        if any(one is _WRONG for one in read.values()):
            return _WRONG
        return list(read.values()) if made is list else read

    def _structs(self, given: Any, kind: type[Struct], key: str) -> Any:
        if isinstance(given, Mapping):
            self._note(key, f"write [[{key}]], with double brackets, above each one")
            return _WRONG
        if not isinstance(given, list | tuple):
            self._note(
                key, f"{shown(given, key)} is not a list of tables; write [[{key}]] for each one"
            )
            return _WRONG
        read = [self._struct(item, kind, f"{key}[{at}]") for at, item in enumerate(given)]
        return _WRONG if any(one is _WRONG for one in read) else read

    def _struct(self, given: Any, kind: type[Struct], key: str) -> Any:
        if not isinstance(given, Mapping):
            self._note(key, no_table(given, key))
            return _WRONG
        good = self.table(given, kind, f"{key}.")
        missing = [
            f.name for f in msgspec.structs.fields(kind) if f.required and f.name not in given
        ]
        for name in missing:
            self._note(f"{key}.{name}", f"missing; each of these tables needs {name}")
        if missing or ("[" in key and len(good) < len(given)):
            return _WRONG
        try:
            return kind(**good)
        except ValueError as error:  # of the class itself
            self._note(key, str(error))
            return _WRONG


def from_text(text: str, kind: Any) -> Any:
    """What a variable holds: lists by comma, or any list or table as TOML writes it.

    Args:
        text: of the variable.
        kind: the type of the setting.

    Raises:
        ValueError: brackets that hold no TOML value.
    """
    if text[:1] in ("[", "{") and typing.get_origin(kind) in (list, dict):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            what = 'such as ["a", "b"] or [{ key = "value" }]'
            raise ValueError(f"not a TOML list or table, {what}") from None
    if typing.get_origin(kind) is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text
