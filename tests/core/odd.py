"""JSON with anything in any place, read from choices."""

import math
from collections.abc import Sequence
from typing import Any

from tests.choices import Choices, Make, either, picking

_FRACTIONS = either(
    picking(0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1e308, 2.0**53),
    lambda choices: (choices.below(256) - 128) / (1 + choices.below(256)),
)
_PLAIN = either(
    picking(None, False, True, 1 << 80), lambda choices: choices.below(6) - 2, _FRACTIONS
)


class Odd:
    """Values of any kind.

    Args:
        words: strings to choose from.
        keys: of objects.
        items: how many a list has at most.
        fields: how many an object has at most.
        depth: how many lists and objects lie within each other at most.
    """

    def __init__(
        self, words: Sequence[str], keys: Sequence[str], *, items: int, fields: int, depth: int
    ) -> None:
        self._scalar = either(_PLAIN, picking(*words))
        self._keys = keys
        self._items, self._fields, self._depth = items, fields, depth

    def value(self, choices: Choices) -> Any:
        return self._value(choices, self._depth)

    def object(self, choices: Choices, depth: int = -1) -> dict[str, Any]:
        depth = self._depth if depth < 0 else depth
        count = choices.below(self._fields + 1)
        return {choices.pick(self._keys): self._value(choices, depth) for _ in range(count)}

    def _value(self, choices: Choices, depth: int) -> Any:
        kind = choices.pick(["scalar", "scalar", "list", "object"]) if depth else "scalar"
        if kind == "list":
            count = choices.below(self._items + 1)
            return [self._value(choices, depth - 1) for _ in range(count)]
        return self.object(choices, depth - 1) if kind == "object" else self._scalar(choices)

    def fields(self, **fields: Make[Any]) -> Make[Any]:
        """Makes an object with some of these, mostly; some of them are odd."""
        mixed = {name: either(make, make, self.value) for name, make in fields.items()}

        def some(choices: Choices) -> Any:
            return choices.some(mixed)

        return either(some, some, some, self.value)
