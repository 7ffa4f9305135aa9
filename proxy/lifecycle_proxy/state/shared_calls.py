"""Waiting calls that several processes know: each keeps its own, and a table has those of all.

A call is put into this process's memory and, in the background, into the table. The process whose
``take`` removed it from the table tells its end. While the table cannot be reached, a process goes
on with what it has itself: then only a request that reaches the same process learns of a call.

Times in the table are Unix times: no two machines share a monotonic clock.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import compress
from typing import Any, Final, Protocol

import msgspec
from msgspec.structs import replace

from lifecycle_proxy.core.events import ToolCompleted
from lifecycle_proxy.state.health import StoreError
from lifecycle_proxy.state.pending_calls import CallKey, MemoryStore, Waiting, key_of

_LONGEST_TTL_S: Final = 86_400.0  # of calls that wait without a limit
_MARGIN_S: Final = 60.0  # for the process that put a call to say that it has expired
_MAX_PARTS: Final = 256
_MAX_OWED: Final = 1_000


class CallTable(Protocol):
    """Calls by part and name, outside of this process.

    What is asked is done in the order of the calls of these methods, whether or not their results
    are awaited. All fail with ``StoreError``, after a short time.
    """

    def put(
        self, part: str, name: str, value: bytes, ttl_s: float
    ) -> "asyncio.Future[bytes | None]":
        """Keep a value; the result is the one that was there.

        Args:
            part: where; all of a part can be looked at together.
            name: of the value in it.
            value: any bytes.
            ttl_s: for how long, in seconds.
        """
        ...

    def look(self, parts: Sequence[str]) -> "asyncio.Future[list[list[bytes]]]":
        """The values of each part."""
        ...

    def take(self, names: Sequence[tuple[str, str]]) -> "asyncio.Future[list[bool]]":
        """Remove values, each by its part and name; the result is which were there."""
        ...


class _Entry(msgspec.Struct, array_like=True):
    """A call as the table has it. Both times are Unix times."""

    until: float
    started: float
    waiting: Waiting


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Entry).decode


class SharedCalls(MemoryStore):
    """The calls of this process, and those that others have put into a table.

    Args:
        table: what is shared.
        ttl_s: as of ``MemoryStore``; without a limit others still forget a call after a day.
        expired: called with calls whose result never came.
        more: as of ``MemoryStore``.
    """

    def __init__(
        self, table: CallTable, ttl_s: float, expired: Callable[[ToolCompleted], None], **more: Any
    ) -> None:
        super().__init__(ttl_s, expired, **more)
        self._table = table
        self._shared_s = ttl_s or _LONGEST_TTL_S
        self._not_shared: set[CallKey] = set()
        self._owed: dict[CallKey, None] = {}  # removals that failed

    is_shared = True

    def put(self, scope: str, call: Waiting) -> None:
        """See ``Store``."""
        super().put(scope, call)
        key = key_of(scope, call)
        until = time.time() + self._shared_s
        try:
            value = _encode(_Entry(until, _shifted(call.call.started, 1), call))
        except (ValueError, TypeError):  # text that is not Unicode
            self._not_shared.add(key)
            return
        self._owed.pop(key, None)
        done = self._table.put(scope, _name(key), value, self._shared_s + _MARGIN_S)
        done.add_done_callback(lambda _: self._was_put(key, value, done))

    def maybe_take(self, scope: str, call_id: str, choice: int) -> Waiting | None:
        """See ``Store``."""
        key = (scope, call_id, choice)
        found = super().maybe_take(*key)
        if found is not None:
            self._not_shared.discard(key)
            self._remove(key, None)
        return found

    async def look(self, scopes: Sequence[str]) -> dict[str, list[Waiting]]:
        """See ``Store``."""
        found = await super().look(scopes)
        for key in list(self._owed):
            self._remove(key, None)
        some = scopes[-_MAX_PARTS:]
        try:
            values = await self._table.look(some)
        except StoreError:
            return found
        now = time.time()
        for scope, of_scope in zip(some, values, strict=True):
            entries = filter(None, map(_maybe_entry, of_scope))
            there = {key_of(scope, one.waiting): one.waiting for one in entries if one.until > now}
            for one in found[scope]:
                key = key_of(scope, one)
                if key in self._not_shared:
                    there[key] = one
                elif key not in there:
                    super().maybe_take(*key)  # another process has ended it
            found[scope] = list(there.values())
            found[scope].sort(key=lambda one: one.call.started)
        return found

    async def claim(self, calls: Sequence[tuple[str, Waiting]]) -> list[bool]:
        """See ``Store``."""
        keys = [key_of(scope, call) for scope, call in calls]
        # Nobody here finds them from now on, whatever comes of it.
        own = [super(SharedCalls, self).maybe_take(*key) is not None for key in keys]
        alone = [self._forget(key) for key in keys]
        try:
            taken = await self._table.take([(key[0], _name(key)) for key in keys])
        except StoreError:
            for key in compress(keys, own):
                self._owe(key)
            return own
        return [one or here for one, here in zip(taken, alone, strict=True)]

    def _end(self, key: CallKey, reason: str) -> None:
        waiting = super().maybe_take(*key)
        assert waiting is not None
        completed = waiting.call.completed(self._clock(), reason=reason)
        if self._forget(key):
            self._expired(completed)
            self._remove(key, None)
        else:
            self._remove(key, completed)

    def _remove(self, key: CallKey, completed: ToolCompleted | None) -> None:
        """Take a call out of the table.

        Args:
            key: of a call that is over here.
            completed: its end, which is counted unless another process has done so.
        """
        self._owed.pop(key, None)
        done = self._table.take([(key[0], _name(key))])

        def removed(_: object) -> None:
            if done.cancelled():
                return
            is_lost = done.exception() is not None
            if is_lost:
                self._owe(key)
            if completed is not None and (is_lost or done.result()[0]):
                self._expired(completed)

        done.add_done_callback(removed)

    def _was_put(self, key: CallKey, value: bytes, done: "asyncio.Future[bytes | None]") -> None:
        if done.cancelled() or done.exception() is not None:
            if key in self._calls:
                self._not_shared.add(key)
            return
        there = done.result()
        earlier = None if there is None or there == value else _maybe_entry(there)
        if earlier is not None and earlier.until > time.time():
            self._expired(earlier.waiting.call.completed(self._clock(), reason="superseded"))

    def _forget(self, key: CallKey) -> bool:
        """Whether only this process knows the call, which is over."""
        is_alone = key in self._not_shared
        self._not_shared.discard(key)
        return is_alone

    def _owe(self, key: CallKey) -> None:
        if len(self._owed) < _MAX_OWED:
            self._owed[key] = None


def _name(key: CallKey) -> str:
    """Ids may be of any length."""
    text = key[1].encode("utf-8", "surrogatepass")
    return f"{blake2b(text, digest_size=12).hexdigest()}:{key[2]}"


def _shifted(started: float, direction: int) -> float:
    """From the monotonic clock to Unix time (1), or back (-1)."""
    return started + direction * (time.time() - time.monotonic())


def _maybe_entry(value: bytes) -> _Entry | None:
    """An entry whose call is on this process's monotonic clock; None for what is not one."""
    try:
        entry = _decode(value)
    except msgspec.DecodeError:  # a ValidationError is one, too
        return None
    # Clocks of machines differ: no call begins in the future.
    started = min(_shifted(entry.started, -1), time.monotonic())
    call = replace(entry.waiting.call, started=started)
    entry.waiting = replace(entry.waiting, call=call)
    return entry
