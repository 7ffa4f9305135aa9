"""What agents may not do before a person has allowed it. Silence is a no.

A request for a permission has a token of 128 bits, which is valid for one answer, until the request
is withdrawn or its time is over. Who has the token may answer: it is given to the one client whose
prompt it belongs to.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from lifecycle_proxy.core.printable import printable

log = logging.getLogger("proxy.upstream")

_TOKEN_BYTES: Final = 16
_MAX_OPEN: Final = 1000
# Anybody who reaches the page can have one refused: so many are logged within so long.
_LOGGED: Final = 10
_LOGGED_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Approval:
    """One request for a permission.

    Attributes:
        token: names it, and is all that is needed to answer it.
        owner: whose prompt it belongs to, a hash.
        agent: the name of the upstream.
        tool: what would run.
        label: what it would do, on one line.
        arguments: of the call, JSON, as people may see them.
        expires: seconds on the clock of ``Approvals``.
        decision: whether it is allowed.
    """

    token: str
    owner: str
    agent: str
    tool: str
    label: str
    arguments: str
    expires: float
    decision: asyncio.Future[bool] = field(compare=False)


class Approvals:
    """All requests that are open.

    Args:
        timeout_s: how long a person may take, in seconds.
        clock: seconds.
    """

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._open: dict[str, Approval] = {}
        self._refused = 0
        self._refused_since = -_LOGGED_S

    def open(
        self, *, owner: str, agent: str, tool: str, label: str, arguments: str
    ) -> Approval | None:
        """A new request; None where too many are open, which is a no.

        Args:
            owner: whose prompt it belongs to.
            agent: the name of the upstream.
            tool: what would run.
            label: what it would do.
            arguments: as people may see them.
        """
        if len(self._open) >= _MAX_OPEN:
            log.warning("approval of %s denied: %d requests are open", printable(tool), _MAX_OPEN)
            return None
        approval = Approval(
            secrets.token_hex(_TOKEN_BYTES),
            owner,
            agent,
            tool,
            label,
            arguments,
            self._clock() + self.timeout_s,
            asyncio.get_running_loop().create_future(),
        )
        self._open[approval.token] = approval
        return approval

    def maybe_open(self, token: str) -> Approval | None:
        """The request of this token, if it can still be answered."""
        approval = self._open.get(token)
        if approval is None or approval.decision.done() or self._clock() >= approval.expires:
            return None
        return approval

    def left_s(self, approval: Approval) -> float:
        """How much time there is for an answer, in seconds."""
        return max(approval.expires - self._clock(), 0)

    def decide(self, token: str, *, allowed: bool, by: str) -> bool:
        """Answer a request; whether that counts.

        Args:
            token: of the request.
            allowed: the answer.
            by: who answered, for the log.
        """
        approval = self.maybe_open(token)
        if approval is None:
            self._refuse(by)
            return False
        self._settle(approval, allowed=allowed, by=by)
        return True

    def _refuse(self, by: str) -> None:
        now = self._clock()
        if now - self._refused_since >= _LOGGED_S:
            self._refused, self._refused_since = 0, now
        self._refused += 1
        if self._refused <= _LOGGED:
            text = "approval refused: no such request, or it has its answer (%s)"
            log.warning(text, printable(by))
        elif self._refused == _LOGGED + 1:
            log.warning("more approvals refused: not logged for %g s", _LOGGED_S)

    def withdraw(self, approval: Approval, why: str) -> None:
        """Nobody waits for the answer any more.

        Args:
            approval: the request.
            why: for the log.
        """
        if not approval.decision.done():
            self._settle(approval, allowed=False, by=why)

    async def wait(self, approval: Approval) -> bool:
        """Whether it is allowed, once that is known or the time is over."""
        try:
            async with asyncio.timeout(self.left_s(approval)):
                return await asyncio.shield(approval.decision)
        except TimeoutError:
            self.withdraw(approval, f"nobody within {self.timeout_s:g} s")
            return approval.decision.result()
        finally:
            self.withdraw(approval, "the end of the prompt")

    def _settle(self, approval: Approval, *, allowed: bool, by: str) -> None:
        del self._open[approval.token]
        approval.decision.set_result(allowed)
        log.info(
            "approval: %s of agent %s %s by %s: %s",
            *(printable(approval.tool), approval.agent, "allowed" if allowed else "denied"),
            *(printable(by), printable(approval.label)),
        )
