"""Snapshots: a whole answer, repeated behind its events, or instead of them.

Bridges change ids between the events and the snapshot, leave calls out of either, and count places
differently. So an item of a snapshot is a call that was streamed if an id says so, else if kind and
name agree and it stands in the same place, else if kind, name and arguments agree.
"""

from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

from lifecycle_proxy.core.arguments import canonical

# The place of a call in an earlier answer of the same stream: only its ids still name it.
EARLIER: Final = -1


class Known(Protocol):
    """A call that was streamed, or that a snapshot has."""

    @property
    def kind(self) -> str: ...

    @property
    def name(self) -> str | None: ...

    @property
    def place(self) -> int | None: ...

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def arguments(self) -> object:
        """Their text, or what gives it by ``str``."""
        ...


class SnapshotItem(NamedTuple):
    """A call as a snapshot has it."""

    kind: str
    name: str | None
    place: int | None
    ids: Sequence[str]
    arguments: str


_Call = TypeVar("_Call", bound=Known)


def match(calls: Sequence[_Call], items: Sequence[SnapshotItem]) -> list[_Call | None]:
    """For each item the call that it repeats, or None. Each call is found once at most.

    Args:
        calls: that were announced.
        items: of the snapshot.
    """
    found: list[_Call | None] = [None] * len(items)
    taken: set[int] = set()
    for keys in (_ids, _place, _content):
        if None not in found:
            break
        waiting: dict[Hashable, deque[_Call]] = defaultdict(deque)
        for call in calls:
            for key in keys(call):
                waiting[key].append(call)
        for at, item in enumerate(items):
            if found[at] is None:
                found[at] = _first([waiting[key] for key in keys(item)], taken)
    return found


def _first(queues: list[deque[_Call]], taken: set[int]) -> _Call | None:
    for queue in queues:
        while queue:
            call = queue.popleft()
            if id(call) not in taken:
                taken.add(id(call))
                return call
    return None


def _ids(call: Known) -> Iterator[Hashable]:
    yield from call.ids


def _place(call: Known) -> Iterator[Hashable]:
    if call.place not in (None, EARLIER):
        yield call.place, call.kind, call.name


def _content(call: Known) -> Iterator[Hashable]:
    if call.place != EARLIER:
        yield call.kind, call.name, canonical(str(call.arguments))
