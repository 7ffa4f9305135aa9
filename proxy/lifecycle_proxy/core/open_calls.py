"""The calls of one stream that have not ended, found without a look at all of them.

An upstream may have thousands of calls open at once, and every event asks for some of them. So what
is asked for is kept as it changes: by key, by choice and state, and how many are in each state.
"""

import operator
from collections.abc import Iterable
from typing import Final

from lifecycle_proxy.core.calls import ENDED, Call, State
from lifecycle_proxy.core.counts import MAX_OPEN_CALLS, Counts

# The group of calls that the upstream announced itself: a choice's finish says nothing of them.
_NATIVE: Final = None
_NOBODY: Final = dict.fromkeys(State, 0)  # in each state
_BY_POSITION: Final = operator.attrgetter("position")


class OpenCalls:
    """The calls of one stream.

    Attributes:
        by_key: in order of appearance.
        ended: the keys of those that have ended.
        finishing: those that are finished and not completed yet, whatever their choice.
        named: how many have a name.

    Args:
        counts: where calls are counted that are not followed.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.by_key: dict[int, Call] = {}
        self.ended: set[int] = set()
        self.finishing: dict[int, Call] = {}
        self.named = 0
        self._states = _NOBODY  # shared by all streams without a call
        self._groups: dict[tuple[int | None, State], dict[int, Call]] = {}  # of those with a name
        self._appeared = 0
        self._due: dict[int, dict[int, Call]] = {}
        self._placeholders: dict[int, dict[int, Call]] = {}

    def add(self, key: int, call: Call) -> bool:
        """A new call. Where too many are open it is turned away, for good.

        Args:
            key: of its observer.
            call: the call; if it has no name yet, ``identify`` follows.

        Returns:
            False where it is not followed.
        """
        if len(self.by_key) >= MAX_OPEN_CALLS:
            self._counts.not_followed += 1
            self.ended.add(key)
            return False
        if self._states is _NOBODY:
            self._states = _NOBODY.copy()
        self._appeared += 1
        call.key, call.position = key, self._appeared
        self.by_key[key] = call
        self._states[call.state] += 1
        if call.name:
            self.identify(call)
        return True

    def identify(self, call: Call) -> None:
        """A call has got its name."""
        self.named += 1
        choice = _NATIVE if call.native else call.choice
        self._groups.setdefault((choice, call.state), {})[call.position] = call

    def moved(self, call: Call, before: State) -> None:
        """A call has another state.

        Args:
            call: any, also one of an earlier answer of the stream.
            before: the state that it had.
        """
        if self.by_key.get(call.key) is not call:
            return
        states, choice = self._states, _NATIVE if call.native else call.choice
        state, position = call.state, call.position
        states[before] -= 1
        del self._groups[choice, before][position]
        if before is State.FINISHING:
            del self.finishing[position]
        if state in ENDED:
            del self.by_key[call.key]
            self.ended.add(call.key)
            self.named -= 1
            return
        states[state] += 1
        self._groups.setdefault((choice, state), {})[position] = call
        if state is State.FINISHING:
            self.finishing[position] = call

    def are_in(self, states: tuple[State, ...]) -> bool:
        """Whether any call is in one of these states."""
        for state in states:  # noqa: SIM110  for every chunk; a generator costs more
            if self._states[state]:
                return True
        return False

    def in_state(self, choice: int, state: State) -> list[Call]:
        """The calls of a choice that have a name and are in a state.

        Args:
            choice: its index.
            state: that is asked for.
        """
        group = self._groups.get((choice, state))
        return in_order(group.values()) if group else []

    def all_finishing(self) -> list[Call]:
        """Those that are finished, whatever their choice."""
        return in_order(self.finishing.values()) if self.finishing else []

    def clear(self) -> None:
        """Forget all of them; they count as ended."""
        if not self._appeared:
            return
        self.ended.update(self.by_key)  # those that never had a name, too
        for held in (self.by_key, self.finishing, self._groups, self._due, self._placeholders):
            held.clear()
        self.named = 0
        self._states = _NOBODY

    # --- what waits for its arguments -----------------------------------------------------------

    def look_again(self, call: Call) -> None:
        """A call that waits for its arguments has got more of them, or its name."""
        self._due.setdefault(call.choice, {})[call.position] = call

    def written(self, choice: int, *, by_call: bool) -> list[Call]:
        """The calls of a choice that waited for their arguments and have all of them by now.

        What was looked at in vain is looked at again when more of its arguments have come.

        Args:
            choice: its index.
            by_call: another call follows; an empty object may then still be a placeholder.
        """
        due = self._due.pop(choice, {})
        if not by_call:
            due |= self._placeholders.pop(choice, {})
        found: list[Call] = []
        for call in in_order(due.values()):
            if call.state is not State.NEW:
                continue
            if call.arguments.are_settled or (call.arguments.complete and not by_call):
                found.append(call)
            elif call.arguments.complete:
                self._placeholders.setdefault(choice, {})[call.position] = call
        return found


def in_order(calls: Iterable[Call]) -> list[Call]:
    """In order of appearance."""
    return sorted(calls, key=_BY_POSITION)
