"""Answers with lines of ``quote``, for ``markdown.mjs``: the text, its lines and the rest of it."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.events import Envelope, Outcome, Text, ToolCompleted, ToolRunning

_ODD = "`x` > y **b** <img src=x> $a$ [l](u)"
_SHOWN = "ˋxˋ > y **b** <img src=x> $a$ [l](u)"


class Answer:
    """One answer as a page puts it together."""

    def __init__(self) -> None:
        self.text = ""
        self._writer, self._envelope = DIALECTS["quote"].chat(), Envelope("c", 1, "m")

    def say(self, text: str) -> "Answer":
        self._add(self._writer.before((Text(0),), self._envelope))
        self.text += text
        return self

    def run(self, call_id: str, tool: str, label: str) -> "Answer":
        event = ToolRunning(call_id, 0, tool, label, "💻")
        self._add(self._writer.write(event, self._envelope))
        return self

    def end(self, call_id: str, tool: str, label: str, outcome: Outcome = Outcome.OK) -> "Answer":
        event = ToolCompleted(call_id, 0, tool, label, "💻", outcome, 5000)
        self._add(self._writer.write(event, self._envelope))
        return self

    def _add(self, frames: bytes) -> None:
        for frame in frames.split(b"\n\n")[:-1]:
            chunk = json.loads(frame.removeprefix(b"data: "))
            self.text += chunk["choices"][0]["delta"]["content"]


_ANSWERS = [
    (
        Answer().say("Let me check.")
        .run("a", "terminal", "df -h /").end("a", "terminal", "df -h /").say("Done."),
        ["💻 terminal: df -h / … ✓ 5.0 s"],
        "Let me check. Done.",
    ),
    (
        Answer().run("a", "terminal", "df").run("b", "web_search", _ODD).end("a", "terminal", "df")
        .end("b", "web_search", _ODD, Outcome.FAILED).say("# Half full\n\n- one\n- two"),
        [
            *("💻 terminal: df …", f"💻 web_search: {_SHOWN} …"),
            *("💻 terminal: df ✓ 5.0 s", f"💻 web_search: {_SHOWN} ✗ 5.0 s"),
        ],
        "Half full one two",
    ),
    (
        Answer().say("- a\n- b").run("a", "__odd__ *name*", "ls").say("**Bold** text\nand more")
        .end("a", "__odd__ *name*", "ls").say("1. one"),
        ["💻 __odd__ *name*: ls …", "💻 __odd__ *name*: ls ✓ 5.0 s"],
        "a b Bold text and more one",
    ),
    (
        Answer().say("```sh\nls\n```").run("a", "terminal", "ls").end("a", "terminal", "ls")
        .say("```\nx\n```").run("b", "terminal", "ls").end("b", "terminal", "ls").say("> said"),
        ["💻 terminal: ls … ✓ 5.0 s", "💻 terminal: ls … ✓ 5.0 s", "said"],
        "ls x",
    ),
]  # fmt: skip

if __name__ == "__main__":
    shown = [
        {"text": answer.text, "lines": lines, "said": said} for answer, lines, said in _ANSWERS
    ]
    print(json.dumps(shown))
