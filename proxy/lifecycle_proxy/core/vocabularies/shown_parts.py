"""What a reader has seen begin and not end: calls and texts, under ids that are unique for it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

_MAX_TEXTS: Final = 16  # more choices at a time than anybody asks for


class ShownCall(NamedTuple):
    """One call.

    Attributes:
        id: the upstream's, or that and more, where another one of it is open.
        data: of ``tool.running``.
    """

    id: str
    data: Mapping[str, Any]


class ShownCalls:
    """The calls of one reader.

    Two choices may have a call of the same id, and readers that know calls by their ids alone take
    the second one for an error.
    """

    def __init__(self) -> None:
        self._calls: dict[tuple[str, int], ShownCall] = {}
        self._ids: set[str] = set()

    def begin(self, data: Mapping[str, Any]) -> ShownCall | None:
        """A call has begun; None if it is open already.

        Args:
            data: of ``tool.running``.
        """
        key = _key(data)
        if key in self._calls:
            return None
        call_id = key[0]
        if call_id in self._ids:
            call_id = f"{call_id}#{key[1]}"
        self._ids.add(call_id)
        call = self._calls[key] = ShownCall(call_id, data)
        return call

    def end(self, data: Mapping[str, Any]) -> ShownCall | None:
        """A call has ended; None if it was not open.

        Args:
            data: of ``tool.completed``.
        """
        call = self._calls.pop(_key(data), None)
        if call is not None:
            self._ids.discard(call.id)
        return call

    def only_ended(self, data: Mapping[str, Any]) -> ShownCall:
        """A call whose end is all that the reader gets.

        Args:
            data: of ``tool.completed``; the call is not open.
        """
        call = self.begin(data)
        assert call is not None, "not open"
        self.end(data)
        return call

    def maybe(self, data: Mapping[str, Any]) -> ShownCall | None:
        """The open call that an event belongs to.

        Args:
            data: of ``tool.arguments``.
        """
        return self._calls.get(_key(data))

    def end_all(self) -> list[ShownCall]:
        """All calls, which are not open any more."""
        calls = list(self._calls.values())
        self._calls.clear()
        self._ids.clear()
        return calls

    def end_others(self, still_open: Sequence[Mapping[str, Any]]) -> list[ShownCall]:
        """The calls that ended where events are missing; they are not open any more.

        Args:
            still_open: data of ``tool.running`` of those that are.
        """
        kept = set(map(_key, still_open))
        gone = [call.data for key, call in self._calls.items() if key not in kept]
        return [call for data in gone if (call := self.end(data)) is not None]


class ShownText(NamedTuple):
    """One text.

    Attributes:
        id: unique for the reader.
        kind: ``text`` or ``reasoning``.
        choice: whose it is.
    """

    id: str
    kind: str
    choice: int


class ShownTexts:
    """The texts of one reader.

    Args:
        prefix: of their ids.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._count = 0
        self._texts: dict[int, ShownText] = {}  # by choice

    def go_on(self, data: Mapping[str, Any]) -> tuple[ShownText, bool, ShownText | None]:
        """The text that an event goes on with.

        Args:
            data: of ``text``.

        Returns:
            The text, whether it is new, and the one that ends before it.
        """
        kind, choice = data.get("kind", "text"), data.get("choice", 0)
        known = self._texts.get(choice)
        if known is not None and known.kind == kind:
            return known, False, None
        if known is None and len(self._texts) >= _MAX_TEXTS:
            known = next(iter(self._texts.values()))
        if known is not None:
            del self._texts[known.choice]
        self._count += 1
        text = self._texts[choice] = ShownText(f"{self._prefix}{self._count}", kind, choice)
        return text, True, known

    def end_all(self) -> list[ShownText]:
        """All texts, which are not open any more."""
        texts = list(self._texts.values())
        self._texts.clear()
        return texts


def _key(data: Mapping[str, Any]) -> tuple[str, int]:
    return str(data.get("toolCallId", "")), data.get("choice", 0)
