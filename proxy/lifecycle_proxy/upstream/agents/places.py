"""The sessions of one agent: which conversation is in which process, and how many there may be.

A session is found by whose it is, by the conversation that the client names, if it does, and by all
that was said before, the last answer included. So an edited history finds none, nor does another
user's. Where two sessions have the same history (the same short conversation in two chats) neither
is found: a new one is given the history instead.

A session that takes a prompt cannot be found meanwhile, so there is one prompt at a time in it.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.upstream.agents.session import AgentSession
from lifecycle_proxy.upstream.agents.turn import Turn

log = logging.getLogger("proxy.upstream")

_MAX_KNOWN: Final = 1000


class PlaceKey(NamedTuple):
    """What a session is found by.

    Attributes:
        owner: a hash of whose it is and of the conversation that the client names.
        cwd: its working directory.
        fingerprint: of what was said.
    """

    owner: str
    cwd: str
    fingerprint: str


@dataclass(eq=False, slots=True)
class Place:
    """A session.

    Attributes:
        session: its process; None where that was ended.
        resume: the agent's id of the session, if it can be gone on with.
        key: by which it is found; None while it takes a prompt.
        turn: that waits for a permission, and for the client's next message.
        work: the latest turn.
        timer: ends the process.
        failure: how the process ended by itself.
    """

    session: AgentSession | None = None
    resume: str = ""
    key: PlaceKey | None = None
    turn: Turn | None = None
    work: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    failure: ProxyError | None = None


class Places:
    """All sessions of an agent.

    Args:
        make: makes a session; it is given what to call when its process ends.
        max_sessions: processes at a time.
        idle_s: seconds after which an unused process is ended; 0 for never.
    """

    def __init__(
        self,
        make: Callable[[Callable[[ProxyError], None]], AgentSession],
        *,
        max_sessions: int,
        idle_s: float,
    ) -> None:
        self._make = make
        self._max = max_sessions
        self._idle_s = idle_s
        self._live: set[Place] = set()
        self._known: OrderedDict[PlaceKey, list[Place]] = OrderedDict()
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def pids(self) -> list[int]:
        """The process groups that run."""
        return [place.session.pid for place in self._live if place.session is not None]

    async def take(self, key: PlaceKey) -> tuple[Place, bool]:
        """The session of a conversation, for one prompt; a new one if there is none.

        Args:
            key: of the request.

        Returns:
            The session, and whether it knows what was said before.

        Raises:
            ProxyError: it does not start, or there are too many.
        """
        found = self._known.pop(key, [])
        if len(found) > 1:
            for one in found:
                one.key = None
                self._end(one, keep=False)
            found = []
        if found and found[0].session is not None:
            self._occupy(found[0])
            return found[0], True
        self._make_room()
        place = Place()
        self._live.add(place)
        place.session = self._make(lambda failure: self._ended(place, failure))
        try:
            resume = found[0].resume if found else ""
            is_known = await place.session.open(key.cwd, resume)
        except BaseException:
            self._end(place, keep=False)
            raise
        place.resume = place.session.session_id
        return place, is_known

    def keep(self, place: Place, key: PlaceKey, turn: Turn | None = None) -> None:
        """A prompt is over, or waits for the client's next message.

        Args:
            place: of the session.
            key: by which the next request finds it.
            turn: that goes on with the next request.
        """
        self._forget(place)
        if place.failure is not None:
            self._end(place)
        place.key, place.turn = key, turn
        self._known.setdefault(key, []).append(place)
        self._known.move_to_end(key)
        while len(self._known) > _MAX_KNOWN:
            for one in self._known.popitem(last=False)[1]:
                one.key = None
                self._end(one, keep=False)
        if self._idle_s and turn is None and place.session is not None:
            loop = asyncio.get_running_loop()
            place.timer = loop.call_later(self._idle_s, self._end, place)

    def drop(self, place: Place) -> None:
        """End a session that cannot be gone on with."""
        self._end(place, keep=False)

    async def close(self) -> None:
        """End all processes."""
        for place in list(self._live):
            self._end(place, keep=False)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _occupy(self, place: Place) -> None:
        place.key = None
        if place.timer is not None:
            place.timer.cancel()
            place.timer = None

    def _forget(self, place: Place) -> None:
        """Let nobody find it any more."""
        key = place.key
        self._occupy(place)
        if key is not None and place in (found := self._known.get(key, [])):
            found.remove(place)
            if not found:
                del self._known[key]

    def _make_room(self) -> None:
        if len(self._ending) >= 2 * self._max:  # it takes a while until one has ended
            raise self._refusal()
        if len(self._live) < self._max:
            return
        for found in self._known.values():  # the one that was used the longest time ago comes first
            for place in found:
                if place.session is not None and place.turn is None:
                    self._end(place)
                    return
        raise self._refusal()

    def _refusal(self) -> ProxyError:
        text = f"the agent has {self._max} sessions at work; try again, or raise max_sessions"
        return ProxyError("too_many_sessions", text)

    def _end(self, place: Place, keep: bool = True) -> None:
        """End its process; the conversation can perhaps be gone on with later."""
        session, place.session = place.session, None
        if place.turn is not None:
            place.turn.withdraw("the end of the session")
        if not keep:
            place.resume = ""
        # Its key stays known: the same history once more is another conversation, perhaps.
        if place.timer is not None:
            place.timer.cancel()
        self._live.discard(place)
        if session is not None:
            task = asyncio.create_task(session.end())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _ended(self, place: Place, failure: ProxyError) -> None:
        """Its process ended by itself. A prompt in it fails by itself."""
        if place.session is None:
            return  # it was ended here
        place.failure = failure
        log.warning("%s", failure.for_log())
        if place.key is not None and place.turn is None:
            self._end(place)
