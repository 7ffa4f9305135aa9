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
from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import Any, Final, Protocol

from msgspec import Struct

from lifecycle_proxy.core.events import DelegatedCall, Outcome, ToolCompleted
from lifecycle_proxy.core.followup import NO_CALLS, EarlierCalls, TrailingCall
from lifecycle_proxy.exchange.client_scope import Scope

_MAX_CALLS: Final = 10_000
_MAX_CALLS_OF_SCOPE: Final = 1_000
_SWEEP_S: Final = 5.0


class Waiting(Struct, frozen=True):
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

    ``put`` and ``maybe_take`` are for a stream that runs: they do not wait. A store that lies
    elsewhere answers from what it knows, and writes in the background. ``look`` and ``claim`` are
    for a request whose response begins: they wait, but not long.

    Attributes:
        is_shared: other processes may have ended a call that an earlier stream has put here.
    """

    is_shared: bool

    def put(self, scope: str, call: Waiting) -> None:
        """Keep a call until it is taken, or expires.

        Args:
            scope: whose call it is.
            call: with what its conversation knew when it was announced.
        """
        ...

    def maybe_take(self, scope: str, call_id: str, choice: int) -> Waiting | None:
        """A call that this process has put, for one taker only.

        Args:
            scope: whose call.
            call_id: the backend's id.
            choice: its index.
        """
        ...

    async def look(self, scopes: Sequence[str]) -> dict[str, list[Waiting]]:
        """The calls of some scopes, oldest first; they stay."""
        ...

    async def claim(self, calls: Sequence[tuple[str, Waiting]]) -> list[bool]:
        """Take calls that were found, each with its scope.

        Returns:
            Which of them are the caller's now: nobody else tells their end.
        """
        ...

    async def run(self) -> None:
        """Do what is to be done in the background, for ever."""
        ...


CallKey = tuple[str, str, int]  # scope, id, choice


def key_of(scope: str, call: Waiting) -> CallKey:
    """What a call is kept under.

    Args:
        scope: whose call it is.
        call: any.
    """
    return scope, call.call.announced.id, call.call.announced.choice


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
        self._calls: OrderedDict[CallKey, tuple[float, Waiting]] = OrderedDict()
        self._parts: dict[str, dict[CallKey, Waiting]] = {}
        self._of_scope: dict[str, dict[CallKey, None]] = {}

    is_shared = False

    def __len__(self) -> int:
        return len(self._calls)

    def put(self, scope: str, call: Waiting) -> None:
        """See ``Store``."""
        key = key_of(scope, call)
        if key in self._calls:  # of another stream, at the same time: one id cannot wait twice
            self._end(key, "superseded")
        self._calls[key] = (self._clock() + self._ttl_s, call)
        self._parts.setdefault(scope, {})[key] = call
        own = self._of_scope.setdefault(_whole(scope), {})
        own[key] = None
        if len(own) > self._max_calls_of_scope:
            self._end(next(iter(own)), "expired")
        if len(self._calls) > self._max_calls:
            self._end(next(iter(self._calls)), "expired")

    def maybe_take(self, scope: str, call_id: str, choice: int) -> Waiting | None:
        """See ``Store``."""
        key = (scope, call_id, choice)
        found = self._calls.pop(key, None)
        if found is None:
            return None
        _drop(self._parts, scope, key)
        _drop(self._of_scope, _whole(scope), key)
        return found[1]

    async def look(self, scopes: Sequence[str]) -> dict[str, list[Waiting]]:
        """See ``Store``."""
        return {scope: list(self._parts.get(scope, {}).values()) for scope in scopes}

    async def claim(self, calls: Sequence[tuple[str, Waiting]]) -> list[bool]:
        """See ``Store``."""
        return [self.maybe_take(*key_of(scope, call)) is not None for scope, call in calls]

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

    def _end(self, key: CallKey, reason: str) -> None:
        waiting = self.maybe_take(*key)
        assert waiting is not None
        self._expired(waiting.call.completed(self._clock(), reason=reason))


def _drop(groups: dict[str, dict[CallKey, Any]], name: str, key: CallKey) -> None:
    del groups[name][key]
    if not groups[name]:
        del groups[name]


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
        is_guess = not self._scope.has_session or self._store.is_shared
        if content is None and is_guess:
            return None
        waiting = self._store.maybe_take(self._part(content or ""), call_id, choice)
        return None if waiting is None else waiting.call

    async def resume(self, now: float) -> list[ToolCompleted]:
        """What the request says of calls that waited: their results, or that none will come.

        Args:
            now: when the request came, in seconds on the monotonic clock.
        """
        if not self._by_id:
            return []
        parts = {self._part(one.content): None for seen in self._by_id.values() for one in seen}
        waiting = await self._store.look(list(parts))
        ended = [*self._named(waiting), *self._alike(waiting)]
        if not ended:
            return []
        calls = [(self._part(one.call.content), one) for one, _ in ended]
        is_mine = await self._store.claim(calls)  # another request may be faster
        completed = [_end(one.call, seen, now) for one, seen in compress(ended, is_mine)]
        return sorted(completed, key=lambda event: -event.duration_ms)

    def _named(self, waiting: dict[str, list[Waiting]]) -> Iterator[tuple[Waiting, TrailingCall]]:
        """The calls that are over, each with what is said of it."""
        last = {
            (self._part(one.content), one.id): one for seen in self._by_id.values() for one in seen
        }
        for part, calls in waiting.items():
            for one in calls:
                found = last.get((part, one.call.announced.id))
                if found is not None and one.earlier.is_news(self._by_id[found.id]):
                    yield one, found

    def _alike(self, waiting: dict[str, list[Waiting]]) -> Iterator[tuple[Waiting, TrailingCall]]:
        """The same for clients that rewrite ids (to nine characters, ``_`` for ``.``)."""
        alike: dict[str, list[Waiting]] = {}
        for calls in waiting.values():
            for one in calls:
                if one.call.announced.id not in self._by_id:
                    alike.setdefault(one.call.content, []).append(one)
        for content, seen in self._by_content.items():
            found = [one for one in alike.get(content, ()) if one.alike.is_news(seen)]
            yield from zip(reversed(found), reversed(seen), strict=False)

    def _part(self, content: str) -> str:
        """The part of the scope in which calls with this content are kept."""
        return self._scope.key if self._scope.has_session else f"{self._scope.key}/{content}"


def _end(call: DelegatedCall, seen: TrailingCall, now: float) -> ToolCompleted:
    if not seen.result:
        return call.completed(now, reason="abandoned")
    return call.completed(now, outcome=Outcome.FAILED if seen.failed else Outcome.OK)
