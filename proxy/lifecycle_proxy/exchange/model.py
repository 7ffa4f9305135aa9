"""One request and its response, and the port of everything that follows it.

An exchange tells its listeners what happens: metrics, the access log, the recorder. Whoever moves
the bytes knows none of them. A listener that raises is switched off for that exchange and counted,
and the bytes go on.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

from aiohttp import web

from lifecycle_proxy.core.events import Counts, Envelope, LifecycleEvent, ToolCompleted
from lifecycle_proxy.exchange.ends import Ended, SideEnd, ended_by

# What an event stream speaks: chat completions, the Responses API, Anthropic's Messages.
Vocabulary = Literal["chat", "responses", "messages"]
Route = Vocabulary | Literal["websocket", "own", "other"]
Headers = tuple[tuple[str, str], ...]
Added = tuple[tuple[int, int], ...]
SideName = Literal["upstream", "client"]
_ID_PREFIXES: Final[dict[Vocabulary, str]] = {
    "chat": "chatcmpl-",
    "responses": "resp_",
    "messages": "msg_",
}


_OF_BYTES: Final = ("on_forwarded", "on_head", "on_chunk", "on_write", "on_side_end")


def first_header(headers: Headers, name: str) -> str:
    """The value of the first header of this name, in whatever case; "" without one.

    Args:
        headers: as they came.
        name: in whatever case.
    """
    wanted = name.lower()
    return next((value for other, value in headers if other.lower() == wanted), "")


class Listener:
    """Follows exchanges. A method for each happening; none may block, and all do nothing here.

    Attributes:
        follows_bytes: it overrides one of those that are told of bytes and headers.
    """

    follows_bytes: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = (getattr(cls, name) is not getattr(Listener, name) for name in _OF_BYTES)
        cls.follows_bytes = any(own)

    def on_request(self, exchange: "Exchange") -> None:
        """A request has come."""

    def on_forwarded(
        self, exchange: "Exchange", target: str, headers: Headers, body: bytes | None
    ) -> None:
        """The upstream is sent the request; ``body`` only where it differs from the client's."""

    def on_head(
        self, exchange: "Exchange", side: SideName, status: int, reason: str, headers: Headers
    ) -> None:
        """Status and headers of the response, as the upstream sent them or the client gets them."""

    def on_chunk(
        self, exchange: "Exchange", read: bytes, written: bytes, added: Added, now: float
    ) -> None:
        """One read from the upstream, and what the client was written for it.

        Args:
            added: where in ``written`` frames of the proxy's own stand, as (start, stop).
            now: seconds on the monotonic clock.
        """

    def on_write(self, exchange: "Exchange", data: bytes, added: Added) -> None:
        """What the client was written besides: a heartbeat, an error, an answer of our own."""

    def on_side_end(self, exchange: "Exchange", side: SideName, end: SideEnd) -> None:
        """One side has come to an end. Else how the exchange ends says how each side did."""

    def on_lifecycle(self, exchange: "Exchange", events: Sequence[LifecycleEvent]) -> None:
        """Tool calls that began or ended."""

    def on_end(self, exchange: "Exchange") -> None:
        """The exchange is over."""


class Listeners(Listener):
    """All listeners of one exchange, told in order.

    Args:
        all_of_them: in this order.
        failed: called with a listener that raised, and what it raised.
    """

    def __init__(
        self,
        all_of_them: Iterable[Listener] = (),
        failed: Callable[[Listener, Exception], None] = lambda *_: None,
    ) -> None:
        self._all: list[Listener] = []
        self._failed = failed
        # Whether anybody wants to know of bytes and headers: to gather them costs something.
        self.follow_bytes = False
        for listener in all_of_them:
            self.add(listener)

    def add(self, listener: Listener) -> None:
        """One more, from now on."""
        self._all.append(listener)
        self.follow_bytes = self.follow_bytes or listener.follows_bytes

    def on_request(self, exchange: "Exchange") -> None:
        self._each(lambda one: one.on_request(exchange))

    def on_forwarded(
        self, exchange: "Exchange", target: str, headers: Headers, body: bytes | None
    ) -> None:
        self._each(lambda one: one.on_forwarded(exchange, target, headers, body))

    def on_head(
        self, exchange: "Exchange", side: SideName, status: int, reason: str, headers: Headers
    ) -> None:
        self._each(lambda one: one.on_head(exchange, side, status, reason, headers))

    def on_chunk(
        self, exchange: "Exchange", read: bytes, written: bytes, added: Added, now: float
    ) -> None:
        self._each(lambda one: one.on_chunk(exchange, read, written, added, now))

    def on_write(self, exchange: "Exchange", data: bytes, added: Added) -> None:
        self._each(lambda one: one.on_write(exchange, data, added))

    def on_side_end(self, exchange: "Exchange", side: SideName, end: SideEnd) -> None:
        self._each(lambda one: one.on_side_end(exchange, side, end))

    def on_lifecycle(self, exchange: "Exchange", events: Sequence[LifecycleEvent]) -> None:
        self._each(lambda one: one.on_lifecycle(exchange, events))

    def on_end(self, exchange: "Exchange") -> None:
        self._each(lambda one: one.on_end(exchange))

    def _each(self, tell: Callable[[Listener], None]) -> None:
        for listener in tuple(self._all):
            try:
                tell(listener)
            except Exception as failure:  # whatever it was, it is not the exchange's
                self._all.remove(listener)
                self._failed(listener, failure)


@dataclass(slots=True)
class Exchange:
    """What is known of one exchange. Times are ``time.monotonic()`` seconds.

    Attributes:
        token: random, hexadecimal; what ids of ours are made of.
        path: without the query, which may hold a key.
        client: the peer's address.
        model: as asked, "" where that is not known.
        error: the code of an error of ours, "" without one.
        cause: how the upstream failed, in words; "" where it did not.
        chunks: reads passed on.
        sent_bytes: of the body, frames of ours included.
        longest_gap_s: between two chunks.
        frames: lifecycle frames that were written.
        tools: the calls that were completed.
        retries: requests sent once more on a fresh connection.
        body_rewritten: something was taken out of the request's body.
        listeners: follow it.
    """

    request_id: str
    method: str
    path: str
    client: str
    route: Route = "other"
    started: float = field(default_factory=time.monotonic)
    model: str = ""
    dialect: str = ""
    stream: bool = False
    status: int = 0
    error: str = ""
    cause: str = ""
    ended: Ended = ""
    first_byte: float | None = None
    last_byte: float | None = None
    chunks: int = 0
    sent_bytes: int = 0
    longest_gap_s: float = 0.0
    frames: int = 0
    tools: list[ToolCompleted] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    oversized: int = 0
    retries: int = 0
    token: str = ""
    body_rewritten: bool = False
    listeners: Listeners = field(default_factory=Listeners)

    @property
    def vocabulary(self) -> Vocabulary:
        """What its event stream speaks, if it is one of those that frames are added to."""
        return self.route if self.route in ("responses", "messages") else "chat"

    def envelope(self) -> Envelope:
        """What frames of ours copy until the upstream's first chunk has come."""
        answer_id = f"{_ID_PREFIXES[self.vocabulary]}st_{self.token}"
        return Envelope(answer_id, int(time.time()), self.model)

    def fail(self, code: str, cause: str) -> None:
        """The answer had begun when this error of ours broke it."""
        self.ended, self.error, self.cause = ended_by(code), code, cause


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
EXCHANGE: web.RequestKey[Exchange] = web.RequestKey("exchange", Exchange)
