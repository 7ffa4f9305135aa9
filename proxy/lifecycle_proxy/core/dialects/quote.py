"""``quote``: a line in the answer itself, for every page that draws Markdown."""

import re
from collections.abc import Sequence
from typing import Final

from lifecycle_proxy.core.dialects.writer import Writer, delta_chunk, outcome_mark
from lifecycle_proxy.core.events import (
    Envelope,
    LifecycleEvent,
    Observation,
    StreamEnded,
    Text,
    ToolCompleted,
)
from lifecycle_proxy.core.lines import END, START

_CLOSED: Final = END + "\n\n"
_MAX_LABEL: Final = 1000  # `lines` finds no line that is much longer
# A name that means nothing in Markdown. Any other one is drawn as code.
_PLAIN_NAME: Final = re.compile(r"[^\W_]+(?:[-_.][^\W_]+)*")
_JOINER: Final = "\u200d"  # of emojis
# Inside of code only a backtick has a meaning. The other two would be escaped in JSON, and escaped
# again in JSON inside of JSON: without them the end of a line is found in a request of any form.
_LOOKALIKES: Final = str.maketrans({"`": "\u02cb", '"': "\u2033", "\\": "\u2216", "\u2063": None})


class Quote(Writer):
    """A block quote of one line for each tool. How it ended is added, if it is the last text.

    Otherwise a second line says so. A line is closed before anything follows it, or the text of the
    model would be drawn as a part of it.
    """

    whole_arguments = True
    hides_results = True

    def __init__(self) -> None:
        super().__init__(self._write)
        self._open: dict[int, tuple[str, int]] = {}  # choices that end with a line: whose it is

    def _write(self, event: LifecycleEvent, envelope: Envelope) -> bytes:
        call = (event.id, event.repeat)
        last = self._open.pop(event.choice, None)
        text = f"{_CLOSED if last else ''}\n\n> {START}{line(event)}"
        if isinstance(event, ToolCompleted):
            text = ("" if last == call else text) + outcome_mark(event) + _CLOSED
        else:
            text += " …"
            self._open[event.choice] = call
        self.needs_full_parse = bool(self._open)
        return delta_chunk(event.choice, envelope, content=text)

    def before(self, seen: Sequence[Observation], envelope: Envelope) -> bytes:
        closed: list[int] = []
        for one in seen:
            match one:
                case Text(choice) if self._open.pop(choice, None):
                    closed.append(choice)
                case StreamEnded():
                    closed += self._open
                    self._open.clear()
                case _:
                    pass
        self.needs_full_parse = bool(self._open)
        return b"".join(delta_chunk(choice, envelope, content=_CLOSED) for choice in closed)


def line(event: LifecycleEvent) -> str:
    """Emoji, tool, and what it does: nothing in it can end the line, nor means more than itself."""
    text = f"{_one_word(event.emoji)} {_name(event.tool)}"
    return text if event.label == event.tool else f"{text}: {_code(event.label)}"


def _name(tool: str) -> str:
    return tool if len(tool) < _MAX_LABEL and _PLAIN_NAME.fullmatch(tool) else _code(tool)


def _code(text: str) -> str:
    words = " ".join(text[:_MAX_LABEL].translate(_LOOKALIKES).split())
    return f"`{''.join(filter(_is_visible, words)).strip() or '?'}`"


def _one_word(emoji: str) -> str:
    """An emoji of the settings, or of the upstream; nothing of it that is plain text."""
    return "".join(c for c in emoji[:16] if _is_visible(c) and not c.isascii()) or "⚡"


def _is_visible(character: str) -> bool:
    return character.isprintable() or character == _JOINER
