"""Calls that clients run now: their spans begin in one exchange, and end in a later one."""

from collections import OrderedDict
from typing import Final, NamedTuple

from lifecycle_proxy.telemetry.spans import SpanLink

_MAX: Final = 4096
_NEAR_NS: Final = 2_000_000_000  # how far a start may seem to be from where it was

CallKey = tuple[str, int, int]  # id, choice, and how often the id was there before


class OpenSpan(NamedTuple):
    """A call that has begun.

    Attributes:
        arguments: JSON; "" if they are not to be sent.
    """

    started_ns: int
    arguments: str


class DelegatedSpans:
    """The oldest go first, where there are too many.

    Which call a result belongs to is known by its id and its start, so that equal ids of two users
    do not meet.
    """

    def __init__(self) -> None:
        self._calls: OrderedDict[int, tuple[CallKey, OpenSpan, SpanLink]] = OrderedDict()
        self._numbers: dict[CallKey, list[int]] = {}
        self._last = 0

    def put(self, key: CallKey, call: OpenSpan, asked_by: SpanLink) -> None:
        """Keep a call.

        Args:
            key: of the call.
            call: when it began.
            asked_by: the chat.
        """
        while len(self._calls) >= _MAX:
            self._remove(next(iter(self._calls)))
        self._last += 1
        self._calls[self._last] = key, call, asked_by
        self._numbers.setdefault(key, []).append(self._last)

    def maybe_take(self, key: CallKey, started_ns: int) -> tuple[OpenSpan, SpanLink] | None:
        """The call of this id that began at this time, and the chat that asked for it.

        Args:
            key: of the call.
            started_ns: when it began, as the end of the call has it.
        """
        numbers = self._numbers.get(key, ())
        distances = [(abs(self._calls[one][1].started_ns - started_ns), one) for one in numbers]
        distance, nearest = min(distances, default=(_NEAR_NS, 0))
        return self._remove(nearest) if distance < _NEAR_NS else None

    def _remove(self, number: int) -> tuple[OpenSpan, SpanLink]:
        key, call, asked_by = self._calls.pop(number)
        numbers = self._numbers[key]
        numbers.remove(number)
        if not numbers:
            del self._numbers[key]
        return call, asked_by
