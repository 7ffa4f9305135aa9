"""What every kind of agent offers: one process with one conversation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from lifecycle_proxy.config.agents import AgentSettings
from lifecycle_proxy.core.agents.pieces import Piece
from lifecycle_proxy.exchange.errors import ProxyError


class Permission(NamedTuple):
    """What an agent asks to be allowed.

    Attributes:
        tool: its name.
        arguments: of the call.
        is_read: whether it only reads, as the agent says.
    """

    tool: str
    arguments: Mapping[str, Any]
    is_read: bool


class TurnSink(Protocol):
    """What follows a prompt."""

    def piece(self, piece: Piece) -> None:
        """The agent did something."""
        ...

    async def ask(self, permission: Permission) -> bool:
        """Whether the agent may do something; decided in the end, one way or the other."""
        ...


class Stop(NamedTuple):
    """The end of a turn.

    Attributes:
        reason: OpenAI's ``finish_reason``.
        usage: OpenAI's, if it is known.
        was_cancelled: the agent stopped because it was asked to.
    """

    reason: str
    usage: Mapping[str, Any] | None = None
    was_cancelled: bool = False


class AgentSession(Protocol):
    """One process, one conversation.

    Attributes:
        session_id: the agent's own, with which the conversation can be gone on with; "" if it
            cannot.
        pid: of the process group.
        takes_images: whether it can be shown pictures.
    """

    @property
    def session_id(self) -> str: ...
    @property
    def pid(self) -> int: ...
    @property
    def takes_images(self) -> bool: ...

    async def open(self, cwd: str, resume: str) -> bool:
        """Start the process and a conversation, or go on with one.

        Args:
            cwd: the working directory.
            resume: the ``session_id`` of an earlier process; "" for a new conversation.

        Returns:
            Whether the conversation goes on.

        Raises:
            ProxyError: it does not start.
        """
        ...

    async def prompt(self, text: str, images: Sequence[tuple[str, str]], turn: TurnSink) -> Stop:
        """One turn.

        Args:
            text: of the user.
            images: media types and base64.
            turn: follows it.

        Raises:
            ProxyError: it failed.
        """
        ...

    def cancel(self) -> None:
        """Stop the turn. The agent still says how it ended."""
        ...

    def pause(self) -> None:
        """Read nothing until ``resume``: the client is behind."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    async def end(self) -> None:
        """End the process, with all that it has started."""
        ...


# Makes a session: from the settings, the upstream's name, and what is called when the process ends.
MakeSession = Callable[[AgentSettings, str, Callable[[ProxyError], None]], AgentSession]
