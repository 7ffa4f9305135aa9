"""What a client gets of a turn: a stream, a completion, or nothing until it asks again."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from lifecycle_proxy.core.agents.chunks import ChunkWriter, Transcript
from lifecycle_proxy.core.agents.conversation import Asked
from lifecycle_proxy.core.agents.pieces import Piece, Said
from lifecycle_proxy.core.events import Envelope
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.upstream.agents.approvals import Approval
from lifecycle_proxy.upstream.agents.response import WrittenResponse
from lifecycle_proxy.upstream.agents.session import Stop

APPROVAL_EVENT: Final = "approval.request"
_OPTIONS: Final = ("once", "deny")
_MAX_HELD: Final = 10_000
_MAX_HELD_CHARACTERS: Final = 16 << 20


class TurnOutput(Protocol):
    """Follows a turn.

    Attributes:
        fingerprint: of the conversation, with what the client has of this turn's answer.
    """

    @property
    def fingerprint(self) -> str: ...
    def piece(self, piece: Piece) -> None:
        """The agent did something."""
        ...

    def asked(self, approval: Approval, url: str) -> None:
        """The agent waits for a permission.

        Args:
            approval: the request.
            url: of its page.
        """
        ...

    def answered(self, *, allowed: bool) -> None:
        """The last such request has been decided."""
        ...

    def done(self, stop: Stop) -> None:
        """The turn is over."""
        ...

    def failed(self, failure: ProxyError) -> None:
        """The turn broke off."""
        ...


class StreamOutput:
    """A chat completions stream.

    Args:
        asked: by the request.
        writer: of the chunks.
        response: that is written.
        embeds: whether the client draws the page of an approval (Open WebUI).
        names_events: whether events may have names: old SDKs do not read such chunks.
    """

    def __init__(
        self,
        asked: Asked,
        writer: ChunkWriter,
        response: WrittenResponse,
        *,
        embeds: bool,
        names_events: bool,
    ) -> None:
        self._asked = asked
        self._writer = writer
        self._response = response
        self._embeds = embeds
        self._event = APPROVAL_EVENT if names_events else ""
        self._transcript = Transcript()
        response.write(writer.begin())

    @property
    def fingerprint(self) -> str:
        return self._asked.after(self._transcript.content)

    def piece(self, piece: Piece) -> None:
        """See ``TurnOutput``."""
        self._transcript.add(piece)
        self._response.write(self._writer.write(piece))

    def asked(self, approval: Approval, url: str) -> None:
        """See ``TurnOutput``."""
        fields: dict[str, Any] = {"approval": approval_fields(approval, url)}
        delta: dict[str, Any] = {}
        if self._embeds:
            fields["event"] = {"type": "embeds", "data": {"embeds": [url]}}
        else:
            text = question(approval, url)
            self._transcript.add(Said(text))
            delta["content"] = text
        self._response.write(self._writer.chunk(delta, fields, self._event))

    def answered(self, *, allowed: bool) -> None:
        """See ``TurnOutput``."""
        if not self._embeds:  # the page says it itself
            self.piece(Said("Allowed.\n\n" if allowed else "Denied.\n\n"))

    def done(self, stop: Stop) -> None:
        """See ``TurnOutput``."""
        self._response.write(self._writer.end(stop.reason, stop.usage))
        self._response.finish()

    def failed(self, failure: ProxyError) -> None:
        """See ``TurnOutput``. The proxy writes the error, and ends the stream as broken."""
        self._response.finish(failure)


class WholeOutput:
    """One completion. A request for a permission ends it: the answer comes as the next message.

    Args:
        asked: by the request.
        envelope: id, created and model.
        on_pause: called when the completion ends though the turn goes on.

    Attributes:
        result: the body.
    """

    def __init__(self, asked: Asked, envelope: Envelope, on_pause: Callable[[], None]) -> None:
        self._asked = asked
        self._envelope = envelope
        self._on_pause = on_pause
        self._transcript = Transcript()
        self.result: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    @property
    def fingerprint(self) -> str:
        return self._asked.after(self._transcript.content)

    def piece(self, piece: Piece) -> None:
        """See ``TurnOutput``."""
        self._transcript.add(piece)

    def asked(self, approval: Approval, url: str) -> None:
        """See ``TurnOutput``."""
        self._transcript.add(Said(question(approval, url)))
        self._settle("stop", None)
        self._on_pause()

    def answered(self, *, allowed: bool) -> None:
        """See ``TurnOutput``."""
        self._transcript.add(Said("Allowed.\n\n" if allowed else "Denied.\n\n"))

    def done(self, stop: Stop) -> None:
        """See ``TurnOutput``."""
        self._settle(stop.reason, stop.usage)

    def failed(self, failure: ProxyError) -> None:
        """See ``TurnOutput``."""
        if not self.result.done():
            self.result.set_exception(failure)

    def _settle(self, reason: str, usage: Mapping[str, Any] | None) -> None:
        if not self.result.done():
            self.result.set_result(self._transcript.completion(self._envelope, reason, usage))


class HeldOutput:
    """Keeps what happens until another request takes it over.

    Args:
        fingerprint: of the conversation, as the client has it.
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._kept: list[Callable[[TurnOutput], None]] = []
        self._left = _MAX_HELD_CHARACTERS

    def piece(self, piece: Piece) -> None:
        """See ``TurnOutput``."""
        self._left -= len(repr(piece))
        if self._left > 0:
            self._keep(lambda output: output.piece(piece))

    def asked(self, approval: Approval, url: str) -> None:
        """See ``TurnOutput``. It is said when the answer to an earlier one has come."""

    def answered(self, *, allowed: bool) -> None:
        """See ``TurnOutput``."""
        self._keep(lambda output: output.answered(allowed=allowed))

    def done(self, stop: Stop) -> None:
        """See ``TurnOutput``."""
        self._keep(lambda output: output.done(stop))

    def failed(self, failure: ProxyError) -> None:
        """See ``TurnOutput``."""
        self._keep(lambda output: output.failed(failure))

    def replay(self, output: TurnOutput) -> None:
        """Give another output what has happened."""
        for one in self._kept:
            one(output)

    def _keep(self, one: Callable[[TurnOutput], None]) -> None:
        if len(self._kept) < _MAX_HELD:
            self._kept.append(one)


def approval_fields(approval: Approval, url: str) -> dict[str, Any]:
    """What programs get of a request for a permission.

    Args:
        approval: the request.
        url: of its page.
    """
    return {
        "id": approval.token,
        "tool": approval.tool,
        "label": approval.label,
        "options": list(_OPTIONS),
        "url": url,
    }


def question(approval: Approval, url: str) -> str:
    """The line of text for people whose page draws nothing else.

    Args:
        approval: the request.
        url: of its page.
    """
    tool = approval.tool.replace("`", "'")
    what = approval.label.replace("`", "'")
    shown = f"`{tool}`" if what == tool else f"`{tool}`: `{what}`"
    return f"\n\n🔐 {shown} needs your permission. Answer at {url}, or with yes or no.\n\n"
