"""Calls that clients run: from the stream that asks for them to the request with the result.

The ids of calls are the backend's, and some backends begin at the same one with every turn, or for
every user. So a call is looked for only among those of the same credential and, where the client
names one, of the same session; and a result counts only if the end of the conversation has
another call than it had when the call was announced. Some clients rewrite ids: their calls are
known by name and arguments.

Many users may share one credential. Where no session tells them apart, only a request that repeats
a call's name and arguments learns of its end: it knows them already.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from lifecycle_proxy.core.events import DelegatedCall, Outcome, ToolCompleted
from lifecycle_proxy.core.followup import NO_CALLS, EarlierCalls, TrailingCall
from lifecycle_proxy.exchange.client_scope import Scope

_MAX_CALLS: Final = 10_000
_MAX_CALLS_OF_SCOPE: Final = 1_000
_SWEEP_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A call whose result has not come.

    Attributes:
        earlier: what its conversation held of its id before it.
        alike: what it held of calls with the same name and arguments.
    """

    call: DelegatedCall
    earlier: EarlierCalls = NO_CALLS
    alike: EarlierCalls = NO_CALLS


class Store(Protocol):
    """Where waiting calls are kept. Processes that share one share the calls.

    Nothing here may block. A store that lies elsewhere answers from what it knows, and writes in
    the background.
    """

    def put(self, scope: str, call: Waiting) -> None:
        """Keep a call until it is taken, or expires.

        Args:
            scope: whose call it is.
            call: with what its conversation knew when it was announced.
        """
        ...

    def look(self, scope: str, call_id: str) -> list[Waiting]:
        """The calls of this id, of any choice; they stay.

        Args:
            scope: whose calls.
            call_id: the backend's id.
        """
        ...

    def look_alike(self, scope: str, content: str) -> list[Waiting]:
        """The calls of this name and these arguments, oldest first; they stay.

        Args:
            scope: whose calls.
            content: fingerprint of name and arguments.
        """
        ...

    def maybe_take(self, scope: str, call_id: str, choice: int) -> Waiting | None:
        """A call, for one taker only.

        Args:
            scope: whose call.
            call_id: the backend's id.
            choice: its index.
        """
        ...


_Key = tuple[str, str, int]


class MemoryStore:
    """The calls of one process.

    Args:
        ttl_s: how long a result is waited for, in seconds; 0 for as long as there is room.
        expired: called with calls whose result never came.
        max_calls: above this many the oldest expire early.
        max_calls_of_scope: the same for the calls of one scope.
        sweep_s: how often ``run`` looks for calls that have waited too long, in seconds.
        clock: the monotonic clock, in seconds.
    """

    def __init__(
        self,
        ttl_s: float,
        expired: Callable[[ToolCompleted], None],
        max_calls: int = _MAX_CALLS,
        max_calls_of_scope: int = _MAX_CALLS_OF_SCOPE,
        *,
        sweep_s: float = _SWEEP_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl_s = ttl_s or math.inf
        self._expired = expired
        self._max_calls = max_calls
        self._max_calls_of_scope = max_calls_of_scope
        self._sweep_s = min(sweep_s, self._ttl_s)
        self._clock = clock
        # In the order of their deadlines: all wait for the same time.
        self._calls: OrderedDict[_Key, tuple[float, Waiting]] = OrderedDict()
        self._choices: dict[tuple[str, str], set[int]] = {}
        self._alike: dict[tuple[str, str], dict[_Key, None]] = {}
        self._of_scope: dict[str, dict[_Key, None]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def put(self, scope: str, call: Waiting) -> None:
        """See ``Store``."""
        announced = call.call.announced
        key = (scope, announced.id, announced.choice)
        if key in self._calls:  # of another stream, at the same time: one id cannot wait twice
            self._end(key, "superseded")
        self._calls[key] = (self._clock() + self._ttl_s, call)
        self._choices.setdefault(key[:2], set()).add(announced.choice)
        self._alike.setdefault((scope, call.call.content), {})[key] = None
        own = self._of_scope.setdefault(_whole(scope), {})
        own[key] = None
        if len(own) > self._max_calls_of_scope:
            self._end(next(iter(own)), "expired")
        if len(self._calls) > self._max_calls:
            self._end(next(iter(self._calls)), "expired")

    def look(self, scope: str, call_id: str) -> list[Waiting]:
        """See ``Store``."""
        choices = self._choices.get((scope, call_id), ())
        return [self._calls[scope, call_id, choice][1] for choice in sorted(choices)]

    def look_alike(self, scope: str, content: str) -> list[Waiting]:
        """See ``Store``."""
        keys = self._alike.get((scope, content), ()) if content else ()
        return [self._calls[key][1] for key in keys]

    def maybe_take(self, scope: str, call_id: str, choice: int) -> Waiting | None:
        """See ``Store``."""
        key = (scope, call_id, choice)
        found = self._calls.pop(key, None)
        if found is None:
            return None
        choices = self._choices[key[:2]]
        choices.discard(choice)
        if not choices:
            del self._choices[key[:2]]
        alike = self._alike[scope, found[1].call.content]
        del alike[key]
        if not alike:
            del self._alike[scope, found[1].call.content]
        own = self._of_scope[_whole(scope)]
        del own[key]
        if not own:
            del self._of_scope[_whole(scope)]
        return found[1]

    async def run(self) -> None:
        """Let calls expire, for ever."""
        while True:
            await asyncio.sleep(self._sweep_s)
            self.sweep(self._clock())

    def sweep(self, now: float) -> None:
        """Let those expire that have waited too long."""
        while self._calls:
            key, (deadline, _) = next(iter(self._calls.items()))
            if deadline > now:
                return
            self._end(key, "expired")

    def _end(self, key: tuple[str, str, int], reason: str) -> None:
        waiting = self.maybe_take(*key)
        assert waiting is not None
        self._expired(waiting.call.completed(self._clock(), reason=reason))


def _whole(scope: str) -> str:
    return scope.partition("/")[0]


class ConversationCalls:
    """The waiting calls of one scope, as one request and its stream see them.

    Args:
        store: of all scopes.
        scope: who asks. Without a session it is divided further, by what is called: nobody finds a
            call by its id who does not know the rest.
        seen: the calls at the end of the request's conversation.
    """

    def __init__(self, store: Store, scope: Scope, seen: Sequence[TrailingCall]) -> None:
        self._store = store
        self._scope = scope
        self._own: dict[tuple[str, int], str] = {}  # the contents of this stream's calls
        self._by_id: dict[str, list[TrailingCall]] = {}
        self._by_content: dict[str, list[TrailingCall]] = {}
        for call in seen:
            self._by_id.setdefault(call.id, []).append(call)
            if call.content:
                self._by_content.setdefault(call.content, []).append(call)

    def put(self, call: DelegatedCall) -> None:
        earlier = EarlierCalls.of(self._by_id.get(call.announced.id, ()))
        alike = EarlierCalls.of(self._by_content.get(call.content, ()))
        self._own[call.announced.id, call.announced.choice] = call.content
        self._store.put(self._part(call.content), Waiting(call, earlier, alike))

    def maybe_take(self, call_id: str, choice: int) -> DelegatedCall | None:
        """A call of this conversation, which then is not found again.

        Args:
            call_id: the backend's id.
            choice: its index.
        """
        content = self._own.get((call_id, choice))
        if content is None and not self._scope.has_session:
            return None
        waiting = self._store.maybe_take(self._part(content or ""), call_id, choice)
        return None if waiting is None else waiting.call

    def resume(self, now: float) -> list[ToolCompleted]:
        """What the request says of calls that waited: their results, or that none will come.

        Args:
            now: when the request came, in seconds on the monotonic clock.
        """
        completed: list[ToolCompleted] = []
        for call_id, seen in self._by_id.items():
            last = {self._part(one.content): one for one in seen}
            for part, one in last.items():
                for waiting in self._store.look(part, call_id):
                    if waiting.earlier.is_news(seen):
                        completed += self._end(waiting.call, one, now)
        for content, seen in self._by_content.items():
            completed += self._end_alike(content, seen, now)
        return sorted(completed, key=lambda event: -event.duration_ms)

    def _end_alike(self, content: str, seen: list[TrailingCall], now: float) -> list[ToolCompleted]:
        """The calls of clients that rewrite ids (to nine characters, ``_`` for ``.``)."""
        completed: list[ToolCompleted] = []
        waiting = [
            one
            for one in self._store.look_alike(self._part(content), content)
            if one.call.announced.id not in self._by_id and one.alike.is_news(seen)
        ]
        for one, call in zip(reversed(waiting), reversed(seen), strict=False):
            completed += self._end(one.call, call, now)
        return completed

    def _end(self, call: DelegatedCall, seen: TrailingCall, now: float) -> list[ToolCompleted]:
        part = self._part(call.content)
        if self._store.maybe_take(part, call.announced.id, call.announced.choice) is None:
            return []  # another request was faster
        if not seen.result:
            return [call.completed(now, reason="abandoned")]
        outcome = Outcome.FAILED if seen.failed else Outcome.OK
        return [call.completed(now, outcome=outcome)]

    def _part(self, content: str) -> str:
        """The part of the scope in which calls with this content are kept."""
        return self._scope.key if self._scope.has_session else f"{self._scope.key}/{content}"
