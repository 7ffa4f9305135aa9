"""One prompt and what follows from it: permissions, and an output that may change meanwhile."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from lifecycle_proxy.core.agents.pieces import Piece
from lifecycle_proxy.core.dialects.fields import dumps
from lifecycle_proxy.core.labels import Labels
from lifecycle_proxy.core.printable import printable
from lifecycle_proxy.upstream.agents.approvals import Approval, Approvals
from lifecycle_proxy.upstream.agents.outputs import HeldOutput, TurnOutput, approval_fields
from lifecycle_proxy.upstream.agents.session import Permission

log = logging.getLogger("proxy.upstream")

_SHOWN_ARGUMENTS: Final = 4000


class Policy(NamedTuple):
    """How permissions are decided.

    Attributes:
        mode: ``ask``, ``deny`` or ``allow-reads``.
        approvals: those that people decide.
        labels: what they are shown.
        owner: whose prompt it is, a hash.
        agent: the name of the upstream.
        url: of the page of a token.
        on_approval: called with what programs get of a request for a permission.
    """

    mode: str
    approvals: Approvals
    labels: Labels
    owner: str
    agent: str
    url: Callable[[str], str]
    on_approval: Callable[[Mapping[str, Any]], None]


class Turn:
    """See ``TurnSink``.

    Args:
        policy: for permissions.
        output: gets what happens.
    """

    def __init__(self, policy: Policy, output: TurnOutput) -> None:
        self._policy = policy
        self._output = output
        self._waiting: list[Approval] = []

    @property
    def waiting(self) -> list[Approval]:
        """The permissions that are not decided yet, in order."""
        return [one for one in self._waiting if not one.decision.done()]

    @property
    def output(self) -> TurnOutput:
        """Gets what happens."""
        return self._output

    def hold(self) -> None:
        """Keep what happens until ``attach``."""
        self._output = HeldOutput(self._output.fingerprint)

    def attach(self, output: TurnOutput) -> None:
        """Go on with another output, which gets what was held.

        Args:
            output: of the request that takes the turn over.
        """
        held, self._output = self._output, output
        if isinstance(held, HeldOutput):
            held.replay(output)
        if open_ones := self.waiting:
            self._ask(open_ones[0])

    def piece(self, piece: Piece) -> None:
        """See ``TurnSink``."""
        self._output.piece(piece)

    async def ask(self, permission: Permission) -> bool:
        """See ``TurnSink``."""
        policy, labels = self._policy, self._policy.labels
        arguments = dumps(dict(permission.arguments)).decode()
        label = labels.label(permission.tool, arguments)
        if policy.mode == "deny" or (policy.mode == "allow-reads" and permission.is_read):
            is_allowed = policy.mode != "deny"
            what = ("allowed" if is_allowed else "denied", policy.mode, printable(label))
            tool = printable(permission.tool)
            log.info(
                "approval: %s of agent %s %s by permissions = %s: %s", tool, policy.agent, *what
            )
            return is_allowed
        approval = policy.approvals.open(
            owner=policy.owner,
            agent=policy.agent,
            tool=labels.shown(permission.tool),
            label=label,
            arguments=labels.arguments(arguments)[:_SHOWN_ARGUMENTS],
        )
        if approval is None:
            return False
        self._waiting.append(approval)
        try:
            self._ask(approval)
            is_allowed = await policy.approvals.wait(approval)
        finally:
            self._waiting.remove(approval)
        self._output.answered(allowed=is_allowed)
        return is_allowed

    def withdraw(self, why: str) -> None:
        """Deny all that is waited for.

        Args:
            why: for the log.
        """
        for approval in self.waiting:
            self._policy.approvals.withdraw(approval, why)

    def _ask(self, approval: Approval) -> None:
        url = self._policy.url(approval.token)
        self._policy.on_approval(approval_fields(approval, url))
        self._output.asked(approval, url)
