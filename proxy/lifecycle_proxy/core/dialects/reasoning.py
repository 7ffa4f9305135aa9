"""``reasoning``: lines in the thinking block of any page that has one."""

from collections.abc import Sequence

from lifecycle_proxy.core.dialects.fields import text_of
from lifecycle_proxy.core.dialects.writer import Writer, delta_chunk, outcome_mark
from lifecycle_proxy.core.events import (
    ChoiceFinished,
    Envelope,
    LifecycleEvent,
    Observation,
    StreamEnded,
    Text,
    ToolCompleted,
)

_ENDED = ("", 0)  # no call: the line in question is ended


class Reasoning(Writer):
    """A line for each tool. How it ended is added, or stands on a second line if text came between.

    Pages with a thinking block close it at the next text and at nothing else: LobeChat's shimmers
    for ever where the stream ends, breaks or finishes behind such a line. A line end as text, which
    is not visible, closes it.
    """

    whole_arguments = True
    hides_results = True

    def __init__(self) -> None:
        super().__init__(self._write)
        self._follows_text = False  # the model's own thoughts may stand in front of the first line
        self._last: dict[int, tuple[str, int]] = {}  # choices where a line is the last: whose it is
        self.needs_full_parse = True

    def _write(self, event: LifecycleEvent, envelope: Envelope) -> bytes:
        call = (event.id, event.repeat)
        last = self._last.get(event.choice)
        text, mark = text_of(event), ""
        self._last[event.choice] = call
        if isinstance(event, ToolCompleted):
            mark = outcome_mark(event) + "\n"
            self._last[event.choice] = _ENDED
            text = "" if last == call else text
        if text and last != _ENDED and (last or self._follows_text):
            text = "\n" + text
        self.needs_full_parse = True
        return delta_chunk(event.choice, envelope, reasoning_content=text + mark)

    def before(self, seen: Sequence[Observation], envelope: Envelope) -> bytes:
        frames = b""
        for one in seen:
            match one:
                case Text(choice):
                    self._follows_text = True
                    if self._last.pop(choice, _ENDED) != _ENDED:
                        frames += delta_chunk(choice, envelope, reasoning_content="\n")
                case ChoiceFinished(choice) if self._last.get(choice) == _ENDED:
                    frames += self._close(choice, envelope)
                case StreamEnded():
                    frames += b"".join(self._close(choice, envelope) for choice in [*self._last])
                case _:
                    pass
        self.needs_full_parse = bool(self._last) or not self._follows_text
        return frames

    def _close(self, choice: int, envelope: Envelope) -> bytes:
        del self._last[choice]
        return delta_chunk(choice, envelope, content="\n")
