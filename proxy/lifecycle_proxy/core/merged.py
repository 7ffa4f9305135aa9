"""An object that comes in pieces, as the deltas of a stream's chunks add up to a message.

The rules are those of OpenAI's SDKs (``accumulate_delta``): strings are joined, objects are merged,
elements of a list are added, or merged where each has an ``index``. What names something (``role``,
``type``, ``id``) is a string that is repeated, not a piece.

Of all but strings the JSON is kept, not what it decodes to: memory is what came, not many times as
much. ``Budget`` limits it, and the fields, which cost more than their bytes.
"""

from typing import Any, Final

import orjson

Json = dict[str, Any]
_ONCE: Final = frozenset(("role", "type", "id", "name", "object", "format"))
# Lists whose elements come whole, and again with more fields (Groq's built-in tools).
_WHOLE: Final = frozenset(("executed_tools",))
_MAX_DEPTH: Final = 8  # below this nothing is merged; the latest value counts


class TooMuchError(Exception):
    """More came than can be put together."""


class Budget:
    """How much may be kept.

    Args:
        fields: of all objects together.
        size: characters of text and bytes of other values.
    """

    def __init__(self, fields: int, size: int) -> None:
        self._fields = fields
        self._size = size

    def add_field(self) -> None:
        """Keep one more field.

        Raises:
            TooMuchError: there are too many.
        """
        self._fields -= 1
        if self._fields < 0:
            raise TooMuchError

    def add(self, size: int) -> None:
        """Keep so much more; less, if it is negative.

        Raises:
            TooMuchError: it is too much.
        """
        self._size -= size
        if self._size < 0:
            raise TooMuchError


class _Data(bytes):
    def value(self) -> orjson.Fragment:
        return orjson.Fragment(bytes(self))


class _Text(list[str]):
    def value(self) -> str:
        return "".join(self)


class _Elements(list[bytes]):
    def value(self) -> orjson.Fragment:
        return orjson.Fragment(b"[%b]" % b",".join(self))


class _Indexed(dict[int, "Merged"]):
    def value(self) -> list[Json]:
        return [self[index].value() for index in sorted(self)]


class Merged:
    """One object.

    Args:
        budget: shared by all objects of an answer.
        depth: how deep in the answer it is.
    """

    __slots__ = ("_budget", "_depth", "_fields")

    def __init__(self, budget: Budget, depth: int = 0) -> None:
        self._budget = budget
        self._depth = depth
        self._fields: dict[str, Any] = {}

    def __contains__(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def take(self, delta: Json) -> None:
        """Add a piece.

        Raises:
            TooMuchError: it has too many fields.
        """
        for name, value in delta.items():
            if type(value) is str and type(known := self._fields.get(name)) is _Text:
                self._budget.add(len(value))  # nearly all come here
                known.append(value)
            else:
                self._take(name, value)

    def keep(self, name: str, value: object) -> None:
        """Set a field, unless it is null and the field is known.

        Args:
            name: of the field.
            value: in the place of what was known.

        Raises:
            TooMuchError: there are too many fields.
        """
        if value is None:
            if name not in self._fields:
                self._set(name, None)
            return
        known, data = self._fields.get(name), _Data(orjson.dumps(value))
        self._budget.add(len(data) - (len(known) if isinstance(known, _Data) else 0))
        self._set(name, data)

    def repeat(self, whole: Json) -> None:
        """Take fields that are whole, some maybe again.

        Raises:
            TooMuchError: there are too many fields.
        """
        for name, value in whole.items():
            self.keep(name, value)

    def text(self, name: str) -> str:
        """The text of a field; "" where it has none."""
        known = self._fields.get(name)
        return known.value() if isinstance(known, _Text) else ""

    def value(self) -> Json:
        """All of it, for ``orjson.dumps``."""
        return {
            name: known.value() if hasattr(known, "value") else known
            for name, known in self._fields.items()
        }

    def _take(self, name: str, value: object) -> None:
        known = self._fields.get(name)
        if isinstance(value, str):
            if name not in _ONCE:
                self._budget.add(len(value))
                self._set(name, _Text((value,)))
            elif known is None:
                self.keep(name, value)
        elif isinstance(value, dict) and self._depth < _MAX_DEPTH:
            self._merge(name, value)
        elif isinstance(value, list) and value:
            self._extend(name, value)
        elif value != [] or known is None:
            self.keep(name, value)

    def _merge(self, name: str, value: Json) -> None:
        known = self._fields.get(name)
        if not isinstance(known, Merged):
            known = Merged(self._budget, self._depth + 1)
            self._set(name, known)
        known.take(value)

    def _extend(self, name: str, value: list[Any]) -> None:
        known = self._fields.get(name)
        if self._depth < _MAX_DEPTH and all(map(_has_index, value)):
            if not isinstance(known, _Indexed):
                known = _Indexed()
                self._set(name, known)
            for element in value:
                index = element["index"]
                if index not in known:
                    self._budget.add_field()
                    known[index] = Merged(self._budget, self._depth + 1)
                known[index].repeat(element) if name in _WHOLE else known[index].take(element)
            return
        if not isinstance(known, _Elements):
            known = _Elements()
            self._set(name, known)
        data = orjson.dumps(value)[1:-1]
        self._budget.add(len(data))
        known.append(data)

    def _set(self, name: str, value: object) -> None:
        if name not in self._fields:
            self._budget.add_field()
        self._fields[name] = value


def _has_index(element: object) -> bool:
    return isinstance(element, dict) and type(element.get("index")) is int
