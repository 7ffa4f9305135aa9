"""One request and its response, and the interface of its listeners.

Metrics, the access log and the recorder are listeners: they are called with what happens. The code
that moves the bytes knows none of them. A listener that raises is switched off for that exchange
and counted; the bytes go on.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Literal

from msgspec import Struct, field

from lifecycle_proxy.core.apis import APIS, CHAT, Api, ApiName
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.events import Envelope, LifecycleEvent, ToolCompleted
from lifecycle_proxy.exchange.ends import Ended, SideEnd, ended_by
from lifecycle_proxy.exchange.failover import Failover

Route = ApiName | Literal["websocket", "own", "other"]
Headers = tuple[tuple[str, str], ...]
Added = tuple[tuple[int, int], ...]
SideName = Literal["upstream", "client"]

_OF_BYTES: Final = (
    *("on_request_body", "on_forwarded", "on_head", "on_chunk", "on_write", "on_side_end"),
)


class Listener:
    """Follows exchanges: a method for each thing that happens. None may block. Here all do nothing.

    Attributes:
        follows: the methods that it overrides: no other is called.
        follows_bytes: one of them gets bytes or headers.
    """

    follows: ClassVar[frozenset[str]] = frozenset()
    follows_bytes: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        names = [name for name in vars(Listener) if name.startswith("on_")]
        own = [name for name in names if getattr(cls, name) is not getattr(Listener, name)]
        cls.follows = frozenset(own)
        cls.follows_bytes = not cls.follows.isdisjoint(_OF_BYTES)

    def on_request(self, exchange: "Exchange") -> None:
        """A request has arrived."""

    def on_request_body(self, exchange: "Exchange", piece: bytes) -> None:
        """A request body is streamed to the upstream.

        Args:
            exchange: whose request it is.
            piece: of the body; ``b""`` at its end.
        """

    def on_forwarded(
        self, exchange: "Exchange", target: str, headers: Headers, body: bytes | None
    ) -> None:
        """The request is sent to the upstream.

        Args:
            exchange: whose request it is.
            target: path and query, as on the request line.
            headers: as they are sent.
            body: None if it is the client's, unchanged.
        """

    def on_head(
        self, exchange: "Exchange", side: SideName, status: int, reason: str, headers: Headers
    ) -> None:
        """The status line and headers of the response.

        Args:
            exchange: whose response it is.
            side: ``upstream`` as it sent them, ``client`` as it gets them.
            status: the code.
            reason: of the status line.
            headers: in order, with duplicates.
        """

    def on_chunk(
        self, exchange: "Exchange", read: bytes, written: bytes, added: Added, now: float
    ) -> None:
        """The upstream sent bytes, and the client gets bytes for them.

        Args:
            exchange: to whose response they belong.
            read: from the upstream, in one read.
            written: to the client; the same object if nothing was changed.
            added: where in ``written`` the proxy's own frames are, as (start, stop).
            now: seconds on the monotonic clock.
        """

    def on_write(self, exchange: "Exchange", data: bytes, added: Added) -> None:
        """The client gets bytes that no read caused: a heartbeat, an error, its own response.

        Args:
            exchange: to whose response they belong.
            data: the bytes, without the framing of chunks.
            added: where in ``data`` the proxy's own frames are, as (start, stop).
        """

    def on_side_end(self, exchange: "Exchange", side: SideName, end: SideEnd) -> None:
        """One side ended, in a way that does not follow from how the exchange will end.

        Args:
            exchange: of which it is a side.
            side: whose bytes ended.
            end: how.
        """

    def on_lifecycle(self, exchange: "Exchange", events: Sequence[LifecycleEvent]) -> None:
        """Tool calls began or ended.

        Args:
            exchange: in whose response.
            events: in order.
        """

    def on_failover(self, exchange: "Exchange", failover: Failover) -> None:
        """A target failed, and the next one is asked.

        Args:
            exchange: whose request goes on.
            failover: from where to where, and why.
        """

    def on_approval(self, exchange: "Exchange", fields: Mapping[str, Any]) -> None:
        """See ``ports.AskedBy``: the stream of this exchange waits for a person."""

    def on_end(self, exchange: "Exchange") -> None:
        """The exchange has ended."""


def _each(event: str) -> Callable[..., None]:
    """A method that calls the same one of each listener that has it."""

    def tell(self: "Listeners", *arguments: Any) -> None:
        for listener in self._all:
            if event in listener.follows:
                try:
                    getattr(listener, event)(*arguments)
                except Exception as failure:
                    self._drop(listener, failure)

    return tell


class Listeners(Listener):
    """All listeners of one exchange as one. They are called in order.

    Args:
        all_of_them: in this order.
        failed: called with a listener that raised, and its exception.
    """

    def __init__(
        self,
        all_of_them: Iterable[Listener] = (),
        failed: Callable[[Listener, Exception], None] = lambda *_: None,
    ) -> None:
        self._all = tuple(all_of_them)
        self._failed = failed
        # Whether any listener wants bytes and headers: collecting them has a cost.
        self.follow_bytes = False
        for one in self._all:
            self.follow_bytes |= one.follows_bytes

    def add(self, listener: Listener) -> None:
        """Call one more listener from now on."""
        self._all = (*self._all, listener)
        self.follow_bytes = self.follow_bytes or listener.follows_bytes

    on_request = _each("on_request")
    on_request_body = _each("on_request_body")
    on_forwarded = _each("on_forwarded")
    on_head = _each("on_head")
    on_chunk = _each("on_chunk")
    on_write = _each("on_write")
    on_side_end = _each("on_side_end")
    on_lifecycle = _each("on_lifecycle")
    on_failover = _each("on_failover")
    on_approval = _each("on_approval")
    on_end = _each("on_end")

    def _drop(self, listener: Listener, failure: Exception) -> None:
        """It raised; the exchange must not fail with it."""
        self._all = tuple(one for one in self._all if one is not listener)
        self._failed(listener, failure)


class Exchange(Struct, eq=False):
    """What is known of one exchange. Times are ``time.monotonic()`` seconds.

    Attributes:
        token: random, hexadecimal; the proxy's own ids are made of it.
        path: without the query, which may contain a key.
        target: raw path and query, also of a request line in absolute form.
        client: the peer's address.
        model: as requested, "" if that is not known.
        upstream: the name of the one that answers, or failed last; "" where there is one only.
        error: the code of the proxy's own error, "" without one.
        cause: how the upstream failed, in words; "" if it did not.
        chunks: reads that were forwarded.
        sent_bytes: of the body, added frames included.
        longest_gap_s: between two chunks.
        frames: lifecycle frames that were written.
        tools: the calls that were completed.
        retries: requests that were sent once more on a new connection.
        failovers: targets that failed, and the next ones, in order.
        body_rewritten: something was removed from the request's body.
        hops: the proxies that the request has passed, this one last: ``exchange.hops``.
        detached: what goes on behind the response; the exchange ends with it.
        chosen_id: by the client for its stream; "" if it did not.
        stream_url: where the stream's events can be read; "" where they are not kept.
        is_resumable: the stream outlives its client, who may send the request again.
        traceparent: W3C's, as the client sent it; the proxy's own, below it, where traces are on.
        reads_usage: a listener wants to know the tokens of an answer that is no stream, too.
        answer: what the upstream's answer says of itself; None where it was not read.
        listeners: are called with what happens.
    """

    request_id: str
    method: str
    path: str
    client: str
    target: str = ""
    route: Route = "other"
    started: float = field(default_factory=time.monotonic)
    model: str = ""
    upstream: str = ""
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
    failovers: list[Failover] = field(default_factory=list)
    token: str = ""
    body_rewritten: bool = False
    hops: str = ""
    chosen_id: str = ""
    detached: asyncio.Task[None] | None = None
    stream_url: str = ""
    is_resumable: bool = False
    traceparent: str = ""
    reads_usage: bool = False
    answer: Envelope | None = None
    listeners: Listeners = field(default_factory=Listeners)

    @property
    def api(self) -> Api:
        """The API of its event stream, if it is one to which frames are added."""
        return APIS.get(self.route, CHAT)

    @property
    def stream_id(self) -> str:
        """The id of its event stream, for ``X-Stream-Id``."""
        return self.chosen_id or f"st_{self.token}"

    def envelope(self) -> Envelope:
        """What added frames copy until the upstream's first chunk has arrived."""
        answer_id = f"{self.api.id_prefix}st_{self.token}"
        return Envelope(answer_id, int(time.time()), self.model)

    def retried(self) -> None:
        """The request is sent once more on a new connection."""
        self.retries += 1

    def fail(self, code: str, cause: str) -> None:
        """Note an error that broke the response after it had begun.

        Args:
            code: of a ``ProxyError``.
            cause: for the log.
        """
        self.ended, self.error, self.cause = ended_by(code), code, cause
