"""One request to one of several upstreams, and to the next where that cannot answer.

The next target is asked when one cannot be reached, does not begin to answer in time, or answers
with a status that says nothing about the request (``_NEXT``). A refusal (400, 401, 403, 404, 413,
422) is an answer. All of this happens before the headers of a response are handed on, so nothing
has gone to the client, stream or not. The last error is what the client gets.
"""

import email.utils
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from lifecycle_proxy.config.targets import Target
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.failover import Failover
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.exchange.ports import UpstreamRequest, UpstreamResponse
from lifecycle_proxy.upstream.choice import RouteChoice
from lifecycle_proxy.upstream.member import Member
from lifecycle_proxy.upstream.pool import UpstreamPool
from lifecycle_proxy.upstream.pooled_response import PooledResponse

_LIMITED: Final = (429, 503)  # with Retry-After: nothing is wrong with the upstream
_NEXT: Final = frozenset((429, 500, 502, 503, 504, 529))
_NOTHING_MADE: Final = ("chat", "messages")


class Failed(NamedTuple):
    """A target that could not answer.

    Attributes:
        reason: for events and metrics.
        error: what failed; None where ``response`` says it.
        response: its answer; nobody is attached to it.
        wait_s: what its ``Retry-After`` says; None without one.
    """

    reason: str
    error: ProxyError | None = None
    response: UpstreamResponse | None = None
    wait_s: float | None = None


class RoutedUpstream:
    """What a request was routed to.

    Args:
        pool: all upstreams.
        exchange: the request's; its listeners hear of the next target.
        choice: the targets.
        model: as the request names it; "" without one.
        conversation: see ``UpstreamPool.in_order``.
        made: called with an upstream's name and an id that it made.
    """

    def __init__(
        self,
        pool: UpstreamPool,
        exchange: Exchange,
        choice: RouteChoice,
        *,
        model: str,
        conversation: bytes = b"",
        made: Callable[[str, str], None] | None = None,
    ) -> None:
        self._pool = pool
        self._exchange = exchange
        self._model = model
        self._made = made
        self._conversation = conversation if any(len(g) > 1 for g in choice.groups) else b""
        self._targets = pool.in_order(choice, self._conversation)

    def target(self, path: str) -> str:
        """Raw path and query that the first target is sent."""
        return self._pool.members[self._targets[0].upstream].client.target(path)

    async def open(
        self, request: UpstreamRequest, on_retry: Callable[[], None]
    ) -> UpstreamResponse:
        """See ``UpstreamClient``. The last error is raised, or returned if it is a response."""
        waiting = list(self._targets)
        if not (request.body is None or isinstance(request.body, bytes)):
            del waiting[1:]  # it can be sent once
        later: list[tuple[float, Target]] = []
        again: set[Target] = set()
        until: float | None = None
        target = waiting.pop(0)
        while True:
            outcome = await self._ask(target, request, on_retry)
            if not isinstance(outcome, Failed):
                return outcome
            now = self._pool.clock()
            until = now + self._pool.budget_s if until is None else until
            if outcome.wait_s is not None and len(self._targets) > 1 and target not in again:
                again.add(target)  # once more, and that is all
                later.append((now + outcome.wait_s, target))
            try:
                after = await self._next(waiting, later, now, until)
            except BaseException:  # the client is gone
                _close(outcome)
                raise
            if after is None:
                return _last(outcome)
            _close(outcome)
            self._exchange.listeners.on_failover(
                self._exchange, Failover(*target, *after, outcome.reason)
            )
            target = after

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

    async def _ask(
        self, target: Target, request: UpstreamRequest, on_retry: Callable[[], None]
    ) -> UpstreamResponse | Failed:
        member = self._pool.members[target.upstream]
        new_name = target.model if target.model != self._model else ""
        self._exchange.upstream = target.upstream
        sent = await member.adapted(request, new_name)
        if new_name and self._pool.is_public:
            sent.headers["Accept-Encoding"] = "identity"  # its name is replaced in the answer
        health = member.health
        member.open_requests += 1
        health.asked()
        try:
            response = await member.client.open(sent, on_retry)
        except ProxyError as error:
            member.open_requests -= 1
            member.failed(error.message)
            return Failed(error.code, error)
        except BaseException:
            member.open_requests -= 1
            health.abandoned()
            raise
        self._pool.went_to(self._conversation, target.upstream)
        return self._judged(member, response, new_name)

    def _judged(
        self, member: Member, response: UpstreamResponse, new_name: str
    ) -> UpstreamResponse | Failed:
        """An answer, or a failure. Either way it is open until it is closed."""
        status = response.status
        pooled = self._pooled(member, response, new_name)
        if status not in _NEXT:
            member.health.succeeded()
            return pooled
        wait_s = maybe_wait_s(response.headers.get("Retry-After", ""))
        text = f"it answered with status {status}"
        if status == 429 or (status in _LIMITED and wait_s is not None):
            member.health.limited(self._pool.clock(), wait_s or 0.0, text)
        else:
            member.failed(text)
        reason = "rate_limit" if status == 429 else "server_error"
        return Failed(reason, None, pooled, wait_s)

    def _pooled(self, member: Member, response: UpstreamResponse, new_name: str) -> PooledResponse:
        before = member.health.failures

        def ended(failure: ProxyError | None) -> None:
            member.open_requests -= 1
            if failure is not None:
                member.failed(failure.message, before)

        def made(one: str) -> None:
            if self._made is not None:
                self._made(member.name, one)

        is_plain = "Content-Encoding" not in response.headers
        is_renamed = self._pool.is_public and bool(new_name) and is_plain
        makes = self._exchange.method == "POST" and self._exchange.route not in _NOTHING_MADE
        return PooledResponse(
            response,
            member.name,
            ended,
            made if makes and is_plain and response.status < 300 else None,
            (new_name, self._model) if is_renamed else None,
        )


def maybe_wait_s(retry_after: str) -> float | None:
    """The seconds of a ``Retry-After`` (RFC 9110, 10.2.3); None without a valid one.

    Args:
        retry_after: seconds, or a date.
    """
    text = retry_after.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit() and len(text) < 16:
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return max(when.timestamp() - time.time(), 0.0)


def _close(outcome: Failed) -> None:
    if outcome.response is not None:
        outcome.response.close()


def _last(outcome: Failed) -> UpstreamResponse:
    """What the client gets.

    Raises:
        ProxyError: the target could not answer at all.
    """
    if outcome.response is not None:
        return outcome.response
    assert outcome.error is not None, "one of the two"
    raise outcome.error
