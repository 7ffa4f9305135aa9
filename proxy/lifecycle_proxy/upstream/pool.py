"""Several upstreams as one: whom to ask first, and whom next.

``choice`` decides which targets a request has. Here they are put in order (health, load, the one
that has the conversation in its cache) and asked, until one answers. The next one is asked only
before anything of an answer has gone to the client.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final

from msgspec.structs import replace
from multidict import CIMultiDict

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.targets import Target, upstreams_of
from lifecycle_proxy.exchange.ports import UpstreamClient, UpstreamRequest, UpstreamResponse
from lifecycle_proxy.upstream.choice import RequestFacts, RouteChoice, RouteTable
from lifecycle_proxy.upstream.client import HttpUpstream
from lifecycle_proxy.upstream.listing import FRESH_S, Listed
from lifecycle_proxy.upstream.member import Member

_LISTED_AGAIN_S: Final = 5.0  # a model that nobody lists may be new
_CONVERSATIONS: Final = 10_000


class UpstreamPool:
    """All upstreams: the port ``UpstreamClient``, which asks the first, and routing.

    Args:
        settings: ``[[upstreams]]``, ``[models]``, ``[failover]``; ``[upstream]`` for what they have
            in common.
        make: makes the client of one upstream, from settings whose ``[upstream]`` is its own.
        clock: seconds.
        sleep: waits.

    Attributes:
        members: the upstreams, by name, in order.
        table: the rules.
        on_moved: called with a conversation and its upstream, where it was not there before.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        make: Callable[[Settings], UpstreamClient] = HttpUpstream,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self.table = RouteTable(settings)
        self.clock, self.sleep = clock, sleep
        self.budget_s, self.in_stream = settings.failover.budget_s, settings.failover.in_stream
        self.is_public = settings.upstream.models_in_answers == "public"
        own_headers = frozenset(
            one.api_key_header.lower() for one in upstreams_of(settings) if one.api_key_header
        )
        self.members = {
            one.name: Member(settings, one, make, own_headers, clock)
            for one in upstreams_of(settings)
        }
        self._first = next(iter(self.members.values()))
        # Where each conversation went, if it could have gone elsewhere.
        self._places: OrderedDict[bytes, str] = OrderedDict()
        self.on_moved: Callable[[bytes, str], None] | None = None

    async def start(self) -> None:
        """See ``UpstreamClient``."""
        for member in self.members.values():
            await member.client.start()

    async def close(self) -> None:
        """See ``UpstreamClient``."""
        for member in self.members.values():
            await member.close()

    async def open(
        self, request: UpstreamRequest, on_retry: Callable[[], None]
    ) -> UpstreamResponse:
        """See ``UpstreamClient``. The first upstream is asked."""
        request = replace(request, headers=CIMultiDict(request.headers))
        return await self._first.client.open(self._first.adapted(request), on_retry)

    def target(self, path: str) -> str:
        """See ``UpstreamClient``."""
        return self._first.client.target(path)

    async def probe(self) -> str:
        """See ``UpstreamClient``. One upstream that can be asked is enough."""
        problems = await asyncio.gather(*(one.client.probe() for one in self.members.values()))
        if "" in problems:
            return ""
        named = zip(self.members, problems, strict=True)
        return "; ".join(f"{name}: {problem}" for name, problem in named)

    # --- choosing -------------------------------------------------------------------------------

    async def choose(
        self,
        facts: RequestFacts,
        headers: CIMultiDict[str] | None = None,
        tenant: str = "",
    ) -> RouteChoice:
        """Where a request goes. Upstreams are asked for their lists if that decides.

        Args:
            facts: what the request says.
            headers: the client's, for upstreams that get its key.
            tenant: whose they are.

        Raises:
            ProxyError: nowhere; see ``choice``.
        """
        choice = self.table.maybe_choice(facts)
        if choice is not None:
            return choice
        headers = CIMultiDict() if headers is None else headers
        model = facts.model or ""
        for fresh_s in (FRESH_S, _LISTED_AGAIN_S):
            lists = await self.lists(self.table.listing, headers, tenant, fresh_s=fresh_s)
            if any(one is not None and model in one.entries for one in lists.values()):
                break
        missing = [name for name, one in lists.items() if one is None]
        had = {name: one.entries for name, one in lists.items() if one is not None}
        return self.table.by_lists(facts, self._known(tenant) | had, missing)

    def known_names(self, model: str, tenant: str) -> str:
        """The names that there are, for a message, the nearest first.

        Args:
            model: what was asked for.
            tenant: whose request it is.
        """
        return self.table.known(model, self._known(tenant))

    def _known(self, tenant: str) -> dict[str, Collection[str]]:
        """What each upstream lists, as far as that is known."""
        every = ((one, one.list.known(one.tenant(tenant))) for one in self.members.values())
        return {member.name: listed.entries for member, listed in every if listed is not None}

    async def lists(
        self,
        names: Sequence[str],
        headers: CIMultiDict[str],
        tenant: str,
        *,
        fresh_s: float = FRESH_S,
    ) -> dict[str, Listed | None]:
        """What some upstreams list.

        Args:
            names: of the upstreams.
            headers: the client's.
            tenant: whose they are.
            fresh_s: how old a list may be, in seconds.
        """
        members = [self.members[name] for name in names]
        work = (one.listed(headers, tenant, fresh_s=fresh_s) for one in members)
        return dict(zip(names, await asyncio.gather(*work), strict=True))

    # --- ordering -------------------------------------------------------------------------------

    def in_order(self, choice: RouteChoice, conversation: bytes) -> list[Target]:
        """The targets of a request, the first to ask first; those that are set aside come last.

        Args:
            choice: the groups.
            conversation: what is the same for all requests of one; empty if that is not known.
        """
        if choice.only is not None:
            return [choice.only]
        now = self.clock()
        well: list[Target] = []
        aside: list[Target] = []
        for group in choice.groups:
            ordered = group if len(group) == 1 else self._equal(group, conversation)
            for target in ordered:
                is_aside = self.members[target.upstream].health.is_aside(now)
                (aside if is_aside else well).append(target)
        return well + aside

    def _equal(self, group: Sequence[Target], conversation: bytes) -> list[Target]:
        """Equal targets by load; first the one that the conversation went to before."""
        place = self._places.get(conversation) if conversation else None

        def rank(target: Target) -> tuple[bool, int, bytes]:
            # The last decides among those with the same load, the same way in every process.
            text = conversation + str(target).encode("utf-8", "surrogatepass")
            own = self.members[target.upstream].open_requests
            return target.upstream != place, own, hashlib.sha256(text).digest()[:8]

        return sorted(group, key=rank)

    def place_of(self, conversation: bytes) -> str:
        """The upstream that a conversation went to before; "" if that is not known."""
        return self._places.get(conversation, "")

    def went_to(self, conversation: bytes, upstream: str) -> None:
        """A conversation got an answer.

        Args:
            conversation: see ``in_order``.
            upstream: whose answer.
        """
        if conversation:
            if self.on_moved is not None and self.place_of(conversation) != upstream:
                self.on_moved(conversation, upstream)
            self.remember(conversation, upstream)

    def remember(self, conversation: bytes, upstream: str) -> None:
        """Remember where a conversation is.

        Args:
            conversation: see ``in_order``.
            upstream: a name.
        """
        self._places[conversation] = upstream
        self._places.move_to_end(conversation)
        if len(self._places) > _CONVERSATIONS:
            self._places.popitem(last=False)

    def states(self) -> list[dict[str, Any]]:
        """How each upstream is, for ``/-/upstreams``."""
        return [member.state() for member in self.members.values()]
