"""What an agent does in one turn, whatever its protocol.

Rules for readers, which ``CallLog`` keeps: a call has one beginning and one end, in this order; a
second end is ignored; what is open when the turn ends is ended by the reader.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lifecycle_proxy.core.events import Outcome

# More calls in one turn are not followed; no agent has so many.
_MAX_CALLS: Final = 4096
_MAX_TEXT: Final = 1 << 16  # characters of arguments and results that are kept of a call


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A tool begins to run.

    Attributes:
        arguments: a JSON object.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A tool has ended.

    Attributes:
        output: its result as text; None if that is not known.
    """

    id: str
    outcome: Outcome
    output: str | None = None


Piece = Said | Thought | CallBegun | CallEnded


@dataclass(slots=True)
class AgentCall:
    """What is known of a call.

    Attributes:
        fields: what the agent said of it, the latest of each.
        output: pieces of its output.
    """

    id: str
    fields: dict[str, Any] = field(default_factory=dict)
    output: list[str] = field(default_factory=list)
    output_size: int = 0
    has_begun: bool = False
    has_ended: bool = False
    was_denied: bool = False

    def add_output(self, text: str) -> None:
        """Keep a piece of the output; what is beyond reason is dropped."""
        text = text[: _MAX_TEXT - self.output_size]
        self.output.append(text)
        self.output_size += len(text)


class CallLog:
    """The calls of one turn."""

    def __init__(self) -> None:
        self._calls: dict[str, AgentCall] = {}

    def maybe_call(self, call_id: object) -> AgentCall | None:
        """The call of this id, a new one perhaps; None where it is none that can be followed."""
        if not (isinstance(call_id, str) and call_id):
            return None
        call = self._calls.get(call_id)
        if call is None and len(self._calls) < _MAX_CALLS:
            call = self._calls[call_id] = AgentCall(call_id)
        return call

    def open(self) -> Iterator[AgentCall]:
        """Those that have begun and not ended."""
        return (
            call for call in list(self._calls.values()) if call.has_begun and not call.has_ended
        )


def begin(call: AgentCall, name: str, arguments: Mapping[str, Any]) -> Iterator[Piece]:
    """The beginning of a call, once.

    Args:
        call: of the turn.
        name: of the tool.
        arguments: of the call.
    """
    if not (call.has_begun or call.has_ended):
        call.has_begun = True
        text = json.dumps(arguments, ensure_ascii=False)
        yield CallBegun(call.id, name, text if len(text) <= _MAX_TEXT else "{}")


def end(call: AgentCall, outcome: Outcome, output: str | None) -> Iterator[Piece]:
    """The end of a call that has begun, once.

    Args:
        call: of the turn.
        outcome: as the agent reports it.
        output: its result, if that is known.
    """
    if not call.has_ended:
        call.has_ended = True
        if call.was_denied:
            outcome = Outcome.FAILED
        yield CallEnded(call.id, outcome, None if output is None else output[:_MAX_TEXT])
