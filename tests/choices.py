"""Random input from one draw of bytes.

Hypothesis takes longest to draw: an example that takes dozens of draws takes ten times as long as
one that takes a single draw of bytes, which are read here as one choice each. A zero is the first
option, so that is what hypothesis shrinks to. A test makes all that it needs from one draw: of two
draws of bytes, hypothesis tries to make the same, and fills what does not fit with zeros.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")
Make = Callable[["Choices"], T]


class Choices:
    """Reads bytes as choices; behind their end all are the first option.

    Args:
        data: a byte for each choice.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, count: int) -> int:
        """A number from 0 on, and at most 255."""
        self._at += 1
        return self._data[self._at - 1] % count if self._at <= len(self._data) else 0

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def flag(self) -> bool:
        return self.below(2) == 1

    def text(self, alphabet: str, most: int) -> str:
        return "".join(self.pick(alphabet) for _ in range(self.below(most + 1)))

    def raw(self, most: int) -> bytes:
        """Up to so many bytes as they are."""
        start = self._at + 1
        self._at = start + self.below(most + 1)
        return self._data[start : self._at]

    def several(self, make: Make[T], most: int, width: int, least: int = 0) -> list[T]:
        """What is made again and again; each reads bytes of its own, so each can shrink alone.

        Args:
            make: one of them.
            most: how many at most.
            width: how many bytes each may read.
            least: how many at least.
        """
        made = []
        for _ in range(least + self.below(most - least + 1)):
            made.append(make(Choices(self._data[self._at : self._at + width])))
            self._at += width
        return made

    def some(self, fields: dict[str, Make[Any]]) -> dict[str, Any]:
        """Some of these fields, each with what is made for it."""
        return {name: make(self) for name, make in fields.items() if self.flag()}


def picking(*options: T) -> Make[T]:
    """Makes one of these."""
    return lambda choices: choices.pick(options)


def either(*makes: Make[Any]) -> Make[Any]:
    """Makes what one of these makes."""
    return lambda choices: choices.pick(makes)(choices)


def made(make: Make[T], size: int = 256) -> st.SearchStrategy[T]:
    """A strategy for what is made from so many bytes."""
    return st.binary(min_size=size, max_size=size).map(lambda data: make(Choices(data)))


def made_all(*makes: Make[Any], size: int = 256) -> st.SearchStrategy[Any]:
    """A strategy for a tuple of what all of these make, one after the other, from so many bytes."""
    return made(lambda choices: tuple(make(choices) for make in makes), size)
