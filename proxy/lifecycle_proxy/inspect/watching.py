"""A stream's events as lines on a terminal, as ``show`` has those of a recording."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from lifecycle_proxy.inspect.terminal import Paper

_ADDED: Final = "\x1b[36m"
_BAD: Final = "\x1b[31m"
_DIM: Final = "\x1b[2m"
_BOLD: Final = "\x1b[1m"
_TYPE_WIDTH: Final = 14


class WatchLines:
    """Writes lines for events, in order.

    Args:
        paper: the terminal.
    """

    def __init__(self, paper: Paper) -> None:
        self._paper = paper
        self._began: float | None = None

    def of(self, type_: str, data: Mapping[str, Any]) -> Iterator[str]:
        """The lines of one event.

        Args:
            type_: its name.
            data: its fields, from anywhere.
        """
        at = data.get("ts")
        if isinstance(at, int | float):
            self._began = at if self._began is None else self._began
            ms = f"{(at - self._began) * 1000:10.1f}"
        else:
            ms = f"{'':10}"
        words, colour = _words(type_, data)
        yield self._paper.line(f"{ms}  {type_:<{_TYPE_WIDTH}}  {words}", colour)

    def note(self, text: str) -> str:
        """A line of the command's own."""
        return self._paper.line(f"{'':10}  {text}", _DIM)


def _words(type_: str, data: Mapping[str, Any]) -> tuple[str, str]:
    """What an event says, and its colour."""
    match type_:
        case "stream.started":
            return f"{data.get('model') or '-'}  {data.get('api')}  {data.get('streamId')}", _BOLD
        case "text":
            is_thought = data.get("kind") == "reasoning"
            return str(data.get("text", "")), _DIM if is_thought else ""
        case "tool.running":
            return _call(data), _ADDED
        case "tool.completed":
            state = str(data.get("outcome") or ("failed" if data.get("isError") else "ok"))
            parts = (_call(data), f"{data.get('durationMs')} ms", state, data.get("reason"))
            return "  ".join(str(part) for part in parts if part), (
                _BAD if data.get("isError") else _ADDED
            )
        case "usage":
            return f"{data.get('inputTokens')} in, {data.get('outputTokens')} out", _DIM
        case "stream.done":
            status = str(data.get("status"))
            took = (status, data.get("reason"), f"{data.get('durationMs')} ms")
            words = "  ".join(str(part) for part in took if part)
            return f"{words}  {data.get('calls')} calls", "" if status == "completed" else _BAD
        case "gap":
            first = data.get("firstAvailable")
            return f"events {data.get('requested')} to {first} are not kept any more", _BAD
        case _:
            return ", ".join(f"{key}={value}" for key, value in data.items()), _DIM


def _call(data: Mapping[str, Any]) -> str:
    tool, label = str(data.get("tool", "")), str(data.get("label", ""))
    return f"{data.get('emoji', '')} {tool}" + (f": {label}" if label not in ("", tool) else "")
