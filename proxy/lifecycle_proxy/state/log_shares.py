"""How much of an event log's room each credential takes.

``MemoryEventLog`` decides what goes first; here is only counted, in steps that do not depend on how
many streams and owners there are. An owner is heavy in a measure while it takes more than a quarter
of its bound. There are three of them at most, so the heaviest is found at once.
"""

from typing import Final, Literal, Protocol

from lifecycle_proxy.state.stream_records import LogLimits, StreamKey

Measure = Literal["streams", "events", "bytes"]
_MEASURES: Final[tuple[Measure, ...]] = ("streams", "events", "bytes")
_SHARES: Final = 4


class Shrinkable(Protocol):
    """A stream, as far as it takes room."""

    @property
    def key(self) -> StreamKey: ...

    def size_in(self, measure: Measure) -> int:
        """How many bytes it takes of it."""
        ...

    def shrink(self, measure: Measure) -> bool:
        """Take less of it; False where it takes nothing."""
        ...


class Owner:
    """What one credential takes. Those that send none are one.

    Attributes:
        name: its hash.
        used: of each measure.
        ended: its streams that have ended, in this order.
        growing: its others, as far as they take something of a measure.
    """

    __slots__ = ("ended", "growing", "name", "used")

    def __init__(self, name: str) -> None:
        self.name = name
        self.used: dict[Measure, int] = dict.fromkeys(_MEASURES, 0)
        self.ended: dict[StreamKey, None] = {}
        self.growing: dict[Measure, dict[StreamKey, Shrinkable]] = {one: {} for one in _MEASURES}


class LogShares:
    """What all owners take.

    Args:
        limits: of the log.
    """

    def __init__(self, limits: LogLimits) -> None:
        self._bounds: dict[Measure, int] = {
            "streams": limits.streams,
            "events": limits.total_bytes,
            "bytes": limits.resume_total_bytes,
        }
        self._used: dict[Measure, int] = dict.fromkeys(_MEASURES, 0)
        self._owners: dict[str, Owner] = {}
        self._heavy: dict[Measure, dict[str, Owner]] = {one: {} for one in _MEASURES}

    def is_full(self, measure: Measure) -> bool:
        """Whether nothing more has room."""
        return self._used[measure] >= self._bounds[measure]

    def is_over(self, measure: Measure) -> bool:
        """Whether more is kept than has room."""
        return self._used[measure] > self._bounds[measure]

    def count(self, stream: Shrinkable, measure: Measure, size: int) -> None:
        """Something came, or went.

        Args:
            stream: of which.
            measure: of what.
            size: streams, or bytes; negative for what went.
        """
        if not size:
            return  # perhaps of a stream that is not kept any more
        name = stream.key.owner
        owner = self._owners.get(name)
        if owner is None:
            owner = self._owners[name] = Owner(name)
        self._used[measure] += size
        owner.used[measure] += size
        if owner.used[measure] > self._bounds[measure] // _SHARES:
            self._heavy[measure][name] = owner
        else:
            self._heavy[measure].pop(name, None)
        if measure == "streams":
            return  # nothing that grows
        growing = owner.growing[measure]
        if stream.key not in owner.ended and stream.size_in(measure) > 0:
            growing[stream.key] = stream
        else:
            growing.pop(stream.key, None)

    def ended(self, stream: Shrinkable) -> None:
        """A stream has ended: it grows no more."""
        owner = self._owners[stream.key.owner]
        owner.ended[stream.key] = None
        for growing in owner.growing.values():
            growing.pop(stream.key, None)

    def left(self, stream: Shrinkable) -> None:
        """A stream is kept no longer, and takes nothing any more."""
        owner = self._owners[stream.key.owner]
        owner.ended.pop(stream.key, None)
        self.count(stream, "streams", -1)
        if not owner.used["streams"]:
            del self._owners[stream.key.owner]

    def heavy(self, measure: Measure) -> list[Owner]:
        """The owners that take more than their share, the heaviest first."""
        found = self._heavy[measure].values()
        return sorted(found, key=lambda owner: -owner.used[measure])
