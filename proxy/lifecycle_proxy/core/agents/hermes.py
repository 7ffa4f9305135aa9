"""The events of a run of Hermes Agent's API server (``GET /v1/runs/{id}/events``) as pieces.

What Hermes 0.19 leaves out: calls have no id, so an end belongs to the oldest open call of the same
tool (they end in the order of their beginnings), and ids are made here. Of the arguments there is
one line only. ``reasoning.available`` repeats the text of its round where there was no reasoning. A
request for an approval does not name its call: it is the latest that is open. Nothing here raises
for what it sends.
"""

from collections.abc import Iterator
from typing import Any, Final

from lifecycle_proxy.core.agents.pieces import (
    AgentCall,
    CallLog,
    Piece,
    Said,
    Thought,
    begin,
    end,
)
from lifecycle_proxy.core.agents.quirks import at
from lifecycle_proxy.core.events import Outcome

_ENDS: Final = ("run.completed", "run.failed", "run.cancelled")
_IDS: Final = ("tool_call_id", "toolCallId")  # of newer versions, perhaps
_ASKING: Final = "terminal"  # what asks, where no call is open
_MAX_ROUND: Final = 1 << 20  # characters of a round's text that are kept to be compared


class HermesReader:
    """The events of one run.

    Args:
        run_id: calls are named after it.

    Attributes:
        ended: the last event of the run; None while it goes on.
    """

    def __init__(self, run_id: str) -> None:
        self.ended: dict[str, Any] | None = None
        self._run_id = run_id
        self._calls = CallLog()
        self._names: dict[str, str] = {}  # of the open calls, by id, in order
        self._count = 0
        self._round: list[str] = []  # its text so far
        self._round_size = 0
        self._asking: AgentCall | None = None

    def read(self, event: Any) -> Iterator[Piece]:
        """The pieces of an event.

        Args:
            event: decoded.
        """
        kind = at(event, ("event",))
        if kind == "message.delta":
            yield from self._said(_text(event, "delta"))
        elif kind == "reasoning.available":
            text = _text(event, "text")
            if text.strip() and text.strip() != "".join(self._round).strip():
                yield Thought(text)
        elif kind == "tool.started":
            yield from self._started(event)
        elif kind == "tool.completed":
            yield from self._completed(event)
        elif kind in _ENDS:
            if kind == "run.completed" and not self._round:
                yield from self._said(_text(event, "output"))  # it was not streamed
            self.ended = event

    def asked(self, event: Any) -> tuple[str, dict[str, Any]]:
        """The tool that a request for an approval is for, and what would run.

        Args:
            event: ``approval.request``.
        """
        call_id = next(reversed(self._names), "")
        self._asking = self._calls.maybe_call(call_id)
        keys = ("command", "description")
        return self._names.get(call_id, _ASKING), {
            key: text for key in keys if (text := _text(event, key))
        }

    @property
    def is_asking(self) -> bool:
        """Whether the call of the last request for an approval has not ended."""
        return self._asking is None or not self._asking.has_ended

    def denied(self) -> None:
        """The last request was denied: whatever is said of its call's end, it failed."""
        if self._asking is not None:
            self._asking.was_denied = True

    def finish(self, outcome: Outcome) -> Iterator[Piece]:
        """The run is over: the end of every call that is open.

        Args:
            outcome: of those.
        """
        for call in self._calls.open():
            yield from end(call, outcome, None)

    def _said(self, text: str) -> Iterator[Piece]:
        if text:
            self._round_size += len(text)
            if self._round_size <= _MAX_ROUND:
                self._round.append(text)
            yield Said(text)

    def _started(self, event: Any) -> Iterator[Piece]:
        name = _text(event, "tool")
        self._count += 1
        own = next((found for key in _IDS if (found := _text(event, key))), "")
        call = self._calls.maybe_call(own or f"{self._run_id}-{self._count}")
        if not name or call is None or call.has_begun:
            return
        self._round.clear()
        self._round_size = 0
        self._names[call.id] = name
        shown = _text(event, "preview")
        yield from begin(call, name, {"preview": shown} if shown else {})

    def _completed(self, event: Any) -> Iterator[Piece]:
        name = _text(event, "tool")
        own = next((found for key in _IDS if (found := _text(event, key))), "")
        same = (one for one, other in self._names.items() if other == name)
        call_id = own if own in self._names else next(same, "")
        call = self._calls.maybe_call(call_id)
        if call is None:
            return
        del self._names[call_id]
        is_failed = at(event, ("error",)) not in (None, False)
        yield from end(call, Outcome.FAILED if is_failed else Outcome.OK, None)


def _text(event: Any, key: str) -> str:
    value = at(event, (key,))
    return value if isinstance(value, str) else ""
