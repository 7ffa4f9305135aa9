"""The arguments of a stream's calls as they come, for readers beside it: ``tool.arguments``.

The observers collect them anyway; here is only remembered how much of each call's readers have. So
it costs nothing more to read, and which call a piece belongs to is decided once, in the core.

A secret may be split over pieces, and then no piece looks like one. So where secrets are redacted a
call's arguments are one piece: once they are whole, and nothing if that never happens.

What is sent cannot be taken back. Where a backend sends other arguments later, in the place of the
first ones, nothing more of that call follows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec.structs import replace

from lifecycle_proxy.core.arguments import Arguments
from lifecycle_proxy.core.context import Presenter
from lifecycle_proxy.core.events import Outcome, ToolCompleted, ToolRunning
from lifecycle_proxy.core.redact import redact

_Fields = dict[str, Any]
_Key = tuple[str, int, int]
MAX_PIECES: Final = 1 << 16  # characters of one call's arguments; a log has room for many events
# So many characters are searched for secrets at once, or the event loop would stand still.
MAX_REDACTED: Final = 1 << 15
_WHOLE: Final = (Outcome.OK, Outcome.UNKNOWN)


@dataclass(slots=True)
class _Followed:
    arguments: Arguments
    data: _Fields
    sent: list[str] = field(default_factory=list)
    length: int = 0
    restarts: int = 0


class ArgumentPieces:
    """What is new of the arguments of one stream's calls, as data of ``tool.arguments``.

    Attributes:
        are_left: ``due`` has left some for the next time.

    Args:
        presenter: redacts them; None to have them as they come.
    """

    def __init__(self, presenter: Presenter | None) -> None:
        self._presenter = presenter
        self._followed: dict[_Key, _Followed] = {}
        self._left = MAX_REDACTED
        self.are_left = False

    @property
    def are_open(self) -> bool:
        """Whether more may come."""
        return bool(self._followed)

    def renew(self) -> None:
        """The event loop has done other things: so much may be searched for secrets again."""
        self._left = MAX_REDACTED

    def begin(self, event: ToolRunning) -> ToolRunning:
        """A call has begun. Returns its event as it may be kept."""
        if event.written is None:
            return event
        if not event.arguments:  # or readers have them all
            data: _Fields = {"toolCallId": event.id, "delta": ""}
            if event.choice:
                data["choice"] = event.choice
            self._followed[_key(event)] = _Followed(
                event.written, data, restarts=event.written.restarts
            )
        return replace(event, written=None)

    def due(self) -> Iterator[_Fields]:
        """What has come of all calls since the last time."""
        self.are_left = False
        for key, followed in list(self._followed.items()):
            if self._presenter is None:
                yield from _new(followed)
            elif followed.arguments.are_settled:
                size = followed.arguments.length
                if self._left < size <= MAX_REDACTED:
                    self.are_left = True
                    return
                del self._followed[key]
                yield from self._redacted(followed, is_whole=True)

    def last(self, event: ToolCompleted) -> Iterator[_Fields]:
        """What has come of a call that is over."""
        if (followed := self._followed.pop(_key(event), None)) is not None:
            yield from self._end(followed, is_whole=event.outcome in _WHOLE)

    def rest(self) -> Iterator[_Fields]:
        """What has come of those that go on behind the stream: clients run them."""
        followed, self._followed = self._followed, {}
        for one in followed.values():
            yield from self._end(one, is_whole=True)

    def _end(self, followed: _Followed, *, is_whole: bool) -> Iterator[_Fields]:
        if self._presenter is None:
            return _new(followed, is_over=True)
        return self._redacted(followed, is_whole=is_whole)

    def _redacted(self, followed: _Followed, *, is_whole: bool) -> Iterator[_Fields]:
        """All arguments. What broke off cannot be decoded, and secrets in it might not be found."""
        arguments, presenter = followed.arguments, self._presenter
        assert presenter is not None
        if 0 < arguments.length <= self._left:
            self._left -= arguments.length
            text = str(arguments)
            if not arguments.is_free_form:
                shown = presenter.arguments(text)
            else:
                shown = redact(text) if is_whole else ""
            if shown:
                yield {**followed.data, "delta": shown}


def _new(followed: _Followed, *, is_over: bool = False) -> Iterator[_Fields]:
    arguments = followed.arguments
    if not is_over and arguments.is_placeholder:
        return
    if arguments.restarts != followed.restarts and followed.length:
        if arguments.length <= followed.length:
            return  # they may be the same once more
        if not str(arguments).startswith("".join(followed.sent)):
            followed.length = MAX_PIECES
    followed.restarts = arguments.restarts
    if delta := arguments.behind(followed.length)[: MAX_PIECES - followed.length]:
        followed.length += len(delta)
        followed.sent.append(delta)
        yield {**followed.data, "delta": delta}


def _key(event: ToolRunning | ToolCompleted) -> _Key:
    return event.id, event.choice, event.repeat
