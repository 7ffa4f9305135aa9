"""One target of a request, asked: an answer, or why there is none."""

import email.utils
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from msgspec.structs import replace
from multidict import CIMultiDict

from lifecycle_proxy.config.targets import Target
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.exchange.ports import UpstreamRequest, UpstreamResponse
from lifecycle_proxy.upstream.member import Member, renamed
from lifecycle_proxy.upstream.pool import UpstreamPool
from lifecycle_proxy.upstream.pooled_response import PooledResponse

_LIMITED: Final = (429, 503)  # with Retry-After: nothing is wrong with the upstream
_NEXT: Final = frozenset((429, 500, 502, 503, 504, 529))


Made = Callable[[str, str], None]


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

    def close(self) -> None:
        """The next target is asked."""
        if self.response is not None:
            self.response.close()

    def last(self) -> UpstreamResponse:
        """What the client gets.

        Raises:
            ProxyError: the target could not answer at all.
        """
        if self.response is not None:
            return self.response
        assert self.error is not None, "one of the two"
        raise self.error


class Asker:
    """Asks the targets of one request.

    Args:
        pool: all upstreams.
        exchange: the request's.
        model: as the request names it; "" without one.
        conversation: see ``UpstreamPool.in_order``.
        made: called with an upstream's name and an id that it made; None to look for none.
    """

    __slots__ = ("_conversation", "_exchange", "_made", "_model", "_pool")

    def __init__(
        self,
        pool: UpstreamPool,
        exchange: Exchange,
        model: str,
        conversation: bytes,
        made: Made | None,
    ) -> None:
        self._pool = pool
        self._exchange = exchange
        self._model = model
        self._conversation = conversation
        self._made = made

    async def ask(
        self,
        target: Target,
        request: UpstreamRequest,
        on_retry: Callable[[], None],
        *,
        is_last: bool = False,
    ) -> UpstreamResponse | Failed:
        """Send a request to a target.

        Args:
            target: one of the request's.
            request: as it is for all of them.
            on_retry: see ``UpstreamClient``.
            is_last: no other target is asked after it, so the headers may be changed.
        """
        member = self._pool.members[target.upstream]
        new_name = target.model if target.model != self._model else ""
        self._exchange.upstream = target.upstream
        if not is_last:
            request = replace(request, headers=CIMultiDict(request.headers))
        sent = member.adapted(request)
        if new_name:
            sent = await renamed(sent, new_name)
            if self._pool.is_public:
                sent.headers["Accept-Encoding"] = "identity"  # its name is replaced in the answer
        health = member.health
        member.open_requests += 1
        health.asked()
        try:
            response = await member.client.open(sent, on_retry)
        except ProxyError as error:
            member.open_requests -= 1
            if error.is_final:
                health.abandoned()
                raise
            if error.status == 429:
                health.limited(self._pool.clock(), 0.0, error.message)
            else:
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
        pooled = PooledResponse(response, member)
        self._follow(pooled, member, new_name)
        if status not in _NEXT:
            member.health.succeeded()
            return pooled
        wait_s = maybe_wait_s(pooled.headers.get("Retry-After", ""))
        text = f"it answered with status {status}"
        if status == 429 or (status in _LIMITED and wait_s is not None):
            member.health.limited(self._pool.clock(), wait_s or 0.0, text)
        else:
            member.failed(text)
        reason = "rate_limit" if status == 429 else "server_error"
        return Failed(reason, None, pooled, wait_s)

    def _follow(self, pooled: PooledResponse, member: Member, new_name: str) -> None:
        """Look for what is to be noted or replaced in an answer's body."""
        is_renamed = bool(new_name) and self._pool.is_public
        if (self._made is None and not is_renamed) or "Content-Encoding" in pooled.headers:
            return
        if self._made is not None and pooled.status < 300:
            pooled.note_ids(partial(self._made, member.name))
        if is_renamed:
            pooled.rename(new_name, self._model)


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
