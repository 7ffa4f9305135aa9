"""One request to one of several upstreams, and to the next where that cannot answer.

The next target is asked when one cannot be reached, does not begin to answer in time, or answers
with a status that says nothing about the request (``_NEXT``). A refusal (400, 401, 403, 404, 413,
422) is an answer. All of this happens before the headers of a response are handed on, so nothing
has gone to the client, stream or not. The last error is what the client gets.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from lifecycle_proxy.config.targets import Target
from lifecycle_proxy.core.apis import APIS
from lifecycle_proxy.core.continuation import Continuation, continued
from lifecycle_proxy.exchange.failover import Failover
from lifecycle_proxy.exchange.media_type import is_event_stream
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.exchange.ports import UpstreamRequest, UpstreamResponse
from lifecycle_proxy.upstream.attempt import Asker, Failed, Made
from lifecycle_proxy.upstream.choice import RouteChoice
from lifecycle_proxy.upstream.continued_response import ContinuedResponse
from lifecycle_proxy.upstream.pool import UpstreamPool

STREAM_ERROR: Final = "stream_error"


class RoutedUpstream:
    """What a request was routed to.

    Args:
        pool: all upstreams.
        exchange: the request's; its listeners hear of the next target.
        choice: the targets.
        model: as the request names it; "" without one.
        conversation: see ``UpstreamPool.in_order``.
        made: see ``Asker``.
    """

    __slots__ = ("_asker", "_exchange", "_pool", "_targets")

    def __init__(
        self,
        pool: UpstreamPool,
        exchange: Exchange,
        choice: RouteChoice,
        *,
        model: str,
        conversation: bytes = b"",
        made: Made | None = None,
    ) -> None:
        self._pool = pool
        self._exchange = exchange
        if not choice.has_equals:
            conversation = b""  # nothing depends on it
        self._asker = Asker(pool, exchange, model, conversation, made)
        self._targets = pool.in_order(choice, conversation)

    def target(self, path: str) -> str:
        """Raw path and query that the first target is sent."""
        return self._pool.members[self._targets[0].upstream].client.target(path)

    async def open(
        self, request: UpstreamRequest, on_retry: Callable[[], None]
    ) -> UpstreamResponse:
        """See ``UpstreamClient``. The last error is raised, or returned if it is a response."""
        waiting = self._targets
        is_whole = request.body is None or isinstance(request.body, bytes)
        if len(waiting) == 1 or not is_whole:  # nobody is left, or it can be sent once only
            outcome = await self._asker.ask(waiting[0], request, on_retry, is_last=True)
            return outcome.last() if isinstance(outcome, Failed) else outcome
        waiting = list(waiting)
        later: list[tuple[float, Target]] = []
        again: set[Target] = set()
        until: float | None = None
        target = waiting.pop(0)
        while True:
            outcome = await self._asker.ask(target, request, on_retry)
            if not isinstance(outcome, Failed):
                return self._maybe_continued(outcome, request, target, waiting)
            now = self._pool.clock()
            until = now + self._pool.budget_s if until is None else until
            if outcome.wait_s is not None and target not in again:
                again.add(target)  # once more, and that is all
                later.append((now + outcome.wait_s, target))
            try:
                after = await self._next(waiting, later, now, until)
            except BaseException:  # the client is gone
                outcome.close()
                raise
            if after is None:
                return outcome.last()
            outcome.close()
            self._note(target, after, outcome.reason)
            target = after

    def _note(self, failed: Target, after: Target, reason: str) -> None:
        exchange, failover = self._exchange, Failover(*failed, *after, reason)
        exchange.failovers.append(failover)
        exchange.listeners.on_failover(exchange, failover)

    def _maybe_continued(
        self,
        response: UpstreamResponse,
        request: UpstreamRequest,
        target: Target,
        waiting: list[Target],
    ) -> UpstreamResponse:
        """A stream that the next target goes on with if this one breaks off, where that is wanted.

        Args:
            response: the target's.
            request: the client's.
            target: that answers.
            waiting: those that were not asked.
        """
        body, answered = request.body, [target]
        if not (
            self._pool.in_stream
            and waiting
            and self._exchange.route in APIS
            and self._exchange.api.can_go_on
            and isinstance(body, bytes)
            and "Content-Encoding" not in request.headers
            and "Content-Encoding" not in response.headers
            and _is_stream(response)
        ):
            return response

        async def go_on(answer: Continuation) -> UpstreamResponse | None:
            until = self._pool.clock() + self._pool.budget_s
            while waiting and self._pool.clock() < until:
                after = waiting.pop(0)
                found = await self._following(after, answer, request, body)
                if found is not None:
                    self._note(answered.pop(), after, STREAM_ERROR)
                    answered.append(after)
                    return found
            return None

        return ContinuedResponse(response, go_on)

    async def _following(
        self, target: Target, answer: Continuation, request: UpstreamRequest, body: bytes
    ) -> UpstreamResponse | None:
        """A target's stream of what follows behind an answer that broke off; None without one."""
        listed = self._pool.members[target.upstream].list.known()
        knows = listed is not None and listed.knows_continuation
        new = await asyncio.to_thread(continued, body, answer.text, knows=knows)
        if new is None:
            return None
        outcome = await self._asker.ask(target, replace(request, body=new), _no_retry)
        if isinstance(outcome, Failed):
            outcome.close()
            return None
        if not _is_stream(outcome):
            outcome.close()
            return None
        answer.restart(may_repeat=not knows)
        return outcome

    async def _next(
        self,
        waiting: list[Target],
        later: list[tuple[float, Target]],
        now: float,
        until: float,
    ) -> Target | None:
        """Whom to ask next, perhaps after a wait; None where nobody is left, or no time.

        Args:
            waiting: those that were not asked.
            later: those that said when to ask again, and when.
            now: the time.
            until: when the time for it is over.
        """
        if now >= until:
            return None
        if waiting:
            return waiting.pop(0)
        if not later:
            return None
        at, target = min(later)
        if at > until:
            return None
        later.remove((at, target))
        await self._pool.sleep(max(at - now, 0.0))
        return target


def _is_stream(response: UpstreamResponse) -> bool:
    return response.status == 200 and is_event_stream(response.headers.get("Content-Type", ""))


def _no_retry() -> None:
    """Nobody counts the retries of what follows."""
