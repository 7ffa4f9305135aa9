"""The port of the event log: what happens in streams, kept for readers beside them.

Writers never wait: ``append`` and ``write`` are synchronous, and a log that lies elsewhere (Redis,
a supervisor's memory) collects what they are given and sends it in the background. A writer numbers
its events itself, so an event may be sent twice and is kept once (``XADD`` with an explicit id).

Readers pull: ``read`` gives what is kept behind a cursor and waits if that is nothing. There is no
queue for a reader, so one that is slow costs nobody anything: it falls behind, and gets a gap in
the place of what is not kept any more by then.

An id that its client chose may be chosen again, once its stream has ended. Its numbers go on then:
a cursor is of one event for ever, and a reader of the earlier stream gets a gap, not silence.

A stream belongs to the credential of the request that began it: its hash is half of the stream's
key. Nobody can name a stream of another one, not even by an id that both have chosen.

A stream has two logs of its own, with bounds of their own: its events, and, where it can be
resumed, the bytes that its client gets. ``BytesHead`` and those bytes are a response: the same
request, sent again, gets them from the beginning.

A log whose writers can die by themselves ends their streams for them, once their lease is over:
``tool.completed`` with the reason ``producer_lost`` for each open call, then ``stream.done`` with
the status ``failed`` and that reason; the bytes end as ``cut``.
"""

from typing import Protocol

from lifecycle_proxy.core.stream_events import EventType
from lifecycle_proxy.state.stream_records import (
    BytesEnd,
    BytesHead,
    BytesPage,
    Claim,
    EventData,
    Page,
    StreamKey,
    StreamStatus,
)


class LogWriter(Protocol):
    """Writes one stream. No method waits, none raises; behind its end all do nothing."""

    @property
    def key(self) -> StreamKey: ...

    def append(self, type_: EventType, data: EventData) -> None:
        """Add an event; ``stream.done`` is the last one.

        Args:
            type_: see ``core.stream_events``.
            data: JSON fields, not changed afterwards; or the call's event, which has them.
        """
        ...

    def begin_bytes(self, head: BytesHead) -> None:
        """The client gets these response headers. What is written from now on is its body."""
        ...

    def write(self, data: bytes) -> None:
        """The client gets these bytes of the body."""
        ...

    def end_bytes(self, end: BytesEnd) -> None:
        """The client gets no more, in this way."""
        ...

    @property
    def keeps_bytes(self) -> bool:
        """Whether the stream can be resumed: that is wanted, and it is not too large."""
        ...

    def discard(self) -> None:
        """There was never such a stream: its response is none."""
        ...


class EventLog(Protocol):
    """All streams."""

    async def create(
        self, key: StreamKey, *, is_chosen: bool = False, is_resumable: bool = False
    ) -> LogWriter | None:
        """Begin a stream.

        Only where the client has chosen the id may this wait for anything, and not for long: the
        others are in nobody's use. Where it cannot be kept, the chat goes on without.

        Args:
            key: its name. One that has ended is replaced.
            is_chosen: by the client.
            is_resumable: its bytes are to be kept, too.

        Returns:
            Its writer; None where there is no room, or the log cannot be asked.

        Raises:
            StreamInUseError: it has not ended.
        """
        ...

    async def read(self, key: StreamKey, after: int, wait_s: float) -> Page:
        """The events behind a cursor. They need not be all: ask again.

        A cursor behind ``last`` gives no events at once, whether the stream has ended or not: the
        reader sees ``last``, and begins anew.

        Args:
            key: whose.
            after: the number of the last event that is known; 0 for none.
            wait_s: how long to wait for the first one, in seconds; 0 for not at all.

        Raises:
            StreamUnknownError: there is none, or it is another's.
            StreamExpiredError: there was one.
            LogUnavailableError: it cannot be known now.
        """
        ...

    async def read_bytes(self, key: StreamKey, offset: int, wait_s: float) -> BytesPage:
        """The bytes of a stream's response from an offset on. They need not be all.

        Args:
            key: whose.
            offset: how many are known.
            wait_s: how long to wait for the first one, in seconds.

        Raises:
            StreamUnknownError: as ``read``; or it is not one that can be resumed.
            StreamExpiredError: as ``read``.
            LogUnavailableError: as ``read``.
        """
        ...

    async def idle_s(self, key: StreamKey) -> float:
        """For how many seconds nobody has read a stream's bytes; infinite if nobody ever has.

        0 while a read waits.

        Args:
            key: whose.

        Raises:
            LogUnavailableError: it cannot be known now.
        """
        ...

    async def offset_of(self, key: StreamKey, seq: int) -> int:
        """How many bytes the client had got when an event came.

        The event's own frame is not among them: a reader that goes on from there misses nothing.

        Args:
            key: whose.
            seq: the event's number; 0, and one that is not kept any more, give 0.

        Raises:
            StreamUnknownError: as ``read``.
            StreamExpiredError: as ``read``.
            LogUnavailableError: as ``read``.
        """
        ...

    async def wait_for(self, key: StreamKey, wait_s: float) -> bool:
        """Whether a stream begins in time: for readers that come before its request.

        Args:
            key: which.
            wait_s: how long to wait, in seconds.
        """
        ...

    async def status(self, key: StreamKey) -> StreamStatus:
        """What is known of a stream.

        Raises:
            StreamUnknownError: as ``read``.
            StreamExpiredError: as ``read``.
            LogUnavailableError: as ``read``.
        """
        ...

    async def claim(self, owner: str, name: str, claim: Claim, ttl_s: float) -> Claim:
        """Claim a name, if nobody has.

        Args:
            owner: whose name it is: those of other credentials are others.
            name: such as an idempotency key.
            claim: for the one who gets it.
            ttl_s: how long it is held, in seconds. The one who has it may claim it again.

        Returns:
            The claim that is held: the own one, or that of the one who was faster. Where the log
            cannot be asked, the own one.
        """
        ...

    def release(self, owner: str, name: str, claim: Claim) -> None:
        """Give a claim up, if it is the one that is held.

        Args:
            owner: as it was claimed.
            name: as it was claimed.
            claim: the own one.
        """
        ...

    async def run(self) -> None:
        """Whatever has to be done in the background, until it is cancelled."""
        ...
