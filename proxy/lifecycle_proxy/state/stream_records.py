"""What the event log is asked, and what it says."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from lifecycle_proxy.core.events import LifecycleEvent
from lifecycle_proxy.core.stream_events import StreamEvent

# How the bytes of a stream end: as HTTP wants it, broken, or because they are not kept any more.
BytesEnd = Literal["eof", "cut", "given_up", ""]
Fields = dict[str, Any]
# What an event says: JSON fields, or what they are made of when they are needed.
EventData = Fields | LifecycleEvent


class StreamKey(NamedTuple):
    """A stream's name.

    Attributes:
        owner: a hash of the credential: ``exchange.client_scope.owner_of``.
        id: the proxy's own (``st_`` and 24 hexadecimal digits), or chosen by the client.
    """

    owner: str
    id: str


class StreamUnknownError(Exception):
    """There is no such stream, or it is another's."""


class StreamExpiredError(Exception):
    """There was such a stream. It is not kept any more."""


class StreamInUseError(Exception):
    """A stream with this id has not ended yet."""


class LogUnavailableError(Exception):
    """The log lies elsewhere and cannot be asked. Only readers get this."""


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much is kept. All that is beyond goes, the oldest first.

    Attributes:
        events: of one stream.
        bytes: of one stream's events.
        streams: of all, the ended ones that are still kept included.
        total_bytes: of the events of all streams.
        resume_bytes: of the bytes of one stream that can be resumed.
        resume_total_bytes: of all those.
        keep_s: how long a stream is kept after its end, in seconds.
    """

    events: int = 2_000
    bytes: int = 1 << 20
    streams: int = 10_000
    total_bytes: int = 64 << 20
    resume_bytes: int = 8 << 20
    resume_total_bytes: int = 64 << 20
    keep_s: float = 300.0


class Page(NamedTuple):
    """What one read of a stream's events gives.

    Attributes:
        events: behind the cursor, in order; none if nothing came in time.
        first: the number of the oldest event that is kept; one more than ``last`` if none is.
        last: the number of the newest; 0 before the first.
        is_done: the stream has ended: nothing comes behind ``last``.
        open_calls: data of the ``tool.running`` events in front of ``first`` whose calls had not
            ended by then: what a reader has to know that begins at ``first``.
        before: the number of the last event of earlier streams of this id, which are not kept; 0
            where there was none.
    """

    events: tuple[StreamEvent, ...]
    first: int
    last: int
    is_done: bool
    open_calls: tuple[Fields, ...] = ()
    before: int = 0


class StreamStatus(NamedTuple):
    """What is known of a stream.

    Attributes:
        started_at: in seconds of Unix time.
        first: as in ``Page``.
        last: as in ``Page``.
        done: the data of ``stream.done``; None while it goes on.
        expires_at: when it will not be kept any more; None while it goes on.
        open_calls: data of the ``tool.running`` events whose calls have not ended.
        is_resumable: its bytes are kept.
    """

    started_at: float
    first: int
    last: int
    done: Fields | None
    expires_at: float | None
    open_calls: tuple[Fields, ...]
    is_resumable: bool


class BytesHead(NamedTuple):
    """The head of a response that can be resumed: bytes, which need not be UTF-8."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    reason: bytes = b"OK"


class BytesPage(NamedTuple):
    """What one read of a stream's bytes gives.

    Attributes:
        head: of the response; None while there is none.
        data: from the offset on; empty if nothing came in time.
        end: how they end behind ``data``; "" where they go on.
    """

    head: BytesHead | None
    data: bytes
    end: BytesEnd = ""


class Claim(NamedTuple):
    """Who may do a thing that only one may do: ask the upstream what several requests ask for.

    Attributes:
        holder: names the one who does it.
        fingerprint: of what is done, so that others know whether it is the same that they want.
    """

    holder: str
    fingerprint: str
