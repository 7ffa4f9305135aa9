"""The keys of one stream in Redis, the commands that write it, and what its replies say.

======== ====== ==================================================================================
``state``  hash  ``last``, ``first``, ``before``, ``started``, ``producer``, ``resumable``,
                 ``open``, ``head``, ``end``, ``done``; ``lost`` where a reader had to end it
``events`` stream each with its number n as id ``0-n``; one that is sent twice is refused
``bytes``  string what the client was written
``use``    string which process uses an id that its client has chosen
``gone``   string that there was such a stream: the number of its last event
``read``   string that its bytes were read: the time it has left says when
======== ====== ==================================================================================

An owner has ``ended``, a sorted set of the ids of its streams, and ``sizes``, a hash.
"""

from typing import Any, Final, NamedTuple

import msgspec
import orjson

from lifecycle_proxy.state import redis_scripts as scripts
from lifecycle_proxy.state.log_delta import LogDelta, as_event, decoded
from lifecycle_proxy.state.memory_stream import KeptEvent
from lifecycle_proxy.state.redis_link import Command
from lifecycle_proxy.state.stream_records import (
    Fields,
    LogLimits,
    Page,
    StreamExpiredError,
    StreamKey,
    StreamUnknownError,
)

NOT_NEW: Final = "equal or smaller"  # of an event that is there already
_FIELDS: Final = (
    *("last", "done", "lost", "open", "producer", "started"),
    *("resumable", "head", "end", "before"),
)
_PAGE_EVENTS: Final = 100
_MAX_ID: Final = "0-18446744073709551615"
LIVE_S: Final = 900.0  # how long one is kept that nobody hears of
_GONE_S: Final = 3600.0
READ_MS: Final = 86_400_000


class StreamKeys(NamedTuple):
    """The names of a stream's keys, and of its channel."""

    state: str
    events: str
    bytes: str
    use: str
    gone: str
    read: str
    news: str

    @classmethod
    def of(cls, prefix: str, key: StreamKey) -> "StreamKeys":
        """The keys of a stream.

        Args:
            prefix: of all keys.
            key: of the stream.
        """
        base = f"{_base(prefix, key)}{key.id}"
        return cls(*(f"{base}:{name}" for name in cls._fields))


class StreamState(NamedTuple):
    """What the hash says of a stream."""

    last: int
    done: Fields | None
    open: list[Fields]
    producer: str
    started: float
    is_resumable: bool
    head: bytes
    end: str
    before: int


def written(keys: StreamKeys, delta: LogDelta, producer: str, keep_s: float) -> list[Command]:
    """The commands that add what is new.

    A reader asks for the state first, and then for events and bytes: so ``done`` and ``end`` are
    written behind those.

    Args:
        keys: of the stream.
        delta: what is new.
        producer: the process that writes it.
        keep_s: how long it is kept behind its end, in seconds.
    """
    resumable = int(delta.is_resumable)
    numbers = ("first", delta.first, "before", delta.before)
    fields = (*numbers, "started", repr(delta.started_at), "producer", producer)
    commands: list[Command] = [
        ("HSET", keys.state, "last", delta.last),
        ("HSET", keys.state, *fields, "resumable", resumable, "open", delta.open),
    ]
    where = (keys.events,) if delta.is_first else (keys.events, "NOMKSTREAM")
    commands += [("XADD", *where, f"0-{seq}", "d", value) for seq, value in delta.events]
    if delta.first > 1:
        commands.append(("XTRIM", keys.events, "MINID", f"0-{delta.first}"))
    if delta.head:
        commands.append(("HSET", keys.state, "head", delta.head))
    if delta.data:
        commands.append(("EVAL", scripts.WRITE, 1, keys.bytes, delta.offset, delta.data))
    if delta.end == "given_up":
        commands.append(("DEL", keys.bytes))
    if delta.end:
        commands.append(("HSET", keys.state, "end", delta.end))
    ttl_s = keep_s if delta.done else keep_s + LIVE_S
    if delta.done:
        commands.append(("HSET", keys.state, "done", delta.done))
        commands.append(("DEL", keys.use))
    else:
        commands.append(("PEXPIRE", keys.use, round(ttl_s * 1000)))
    commands += [("PEXPIRE", key, round(ttl_s * 1000)) for key in keys[:3]]
    commands.append(("SET", keys.gone, delta.last, "PX", round((ttl_s + _GONE_S) * 1000)))
    commands.append(("PUBLISH", keys.news, ""))
    return commands


def ended(prefix: str, delta: LogDelta, now: float, limits: LogLimits) -> Command:
    """The command that counts a stream that has ended, behind those that write it.

    Redis has no bound for all streams, so each owner has as much room as a process has. What ended
    first goes first.

    Args:
        prefix: of all keys.
        delta: the end of it.
        now: Unix time, in seconds.
        limits: of a process.
    """
    owner = f"{prefix}:owner:{delta.key.owner}"
    names = (f"{owner}:ended", f"{owner}:sizes")
    times = (repr(now), repr(now - limits.keep_s))
    most = (limits.streams, limits.total_bytes + limits.resume_total_bytes)
    where = (_base(prefix, delta.key), round((limits.keep_s + _GONE_S) * 1000))
    return ("EVAL", scripts.ENDED, 2, *names, delta.key.id, delta.size, *times, *most, *where)


def asked_state(keys: StreamKeys) -> list[Command]:
    """Commands for ``state``."""
    return [("HMGET", keys.state, *_FIELDS), ("EXISTS", keys.gone)]


def asked_page(keys: StreamKeys, after: int) -> list[Command]:
    """Commands for ``page``, behind those of ``asked_state``.

    Args:
        keys: of the stream.
        after: the number of the last event that is known.
    """
    return [
        ("XRANGE", keys.events, f"0-{after + 1}", _MAX_ID, "COUNT", _PAGE_EVENTS),
        ("XRANGE", keys.events, "-", _MAX_ID, "COUNT", 1),
    ]


def asked_all(keys: StreamKeys) -> Command:
    """The command for all events that are kept."""
    return ("XRANGE", keys.events, "-", _MAX_ID)


def maybe_state(reply: Any) -> StreamState | None:
    """What the hash says; None where there is none.

    Raises:
        ValueError: it makes no sense.
    """
    last, done, lost, open_, producer, started, resumable, head, end, before = reply
    if last is None:
        return None
    return StreamState(
        int(last if lost is None else lost),
        None if done is None else _fields(done),
        orjson.loads(open_ or b"[]"),
        (producer or b"").decode(),
        float(started or 0),
        resumable == b"1",
        head or b"",
        (end or b"").decode(),
        int(before or 0),
    )


def found(replies: list[Any]) -> StreamState:
    """The state of a stream that is there.

    Args:
        replies: to ``asked_state``.

    Raises:
        StreamUnknownError: there is none.
        StreamExpiredError: there was one.
    """
    state = maybe_state(replies[0])
    if state is None:
        raise missing(bool(replies[1]))
    return state


def maybe_number(reply: Any) -> int | None:
    """The number of the last event of an id; None where one uses it.

    Raises:
        TypeError: it makes no sense.
    """
    if type(reply) is not int:
        raise TypeError("not a number")
    return None if reply < 0 else reply


def missing(is_gone: bool) -> Exception:
    """Why there is no state."""
    return StreamExpiredError() if is_gone else StreamUnknownError()


def page(state: StreamState, replies: list[Any]) -> Page:
    """One page of events.

    Args:
        state: of the stream.
        replies: to ``asked_page``.
    """
    found, oldest = entries(replies[0]), entries(replies[1])
    first = oldest[0][0] if oldest else state.last + 1
    events = tuple(as_event(seq, event) for seq, event in found)
    last = max(state.last, events[-1].seq) if events else state.last
    return Page(events, first, last, state.done is not None, tuple(state.open), state.before)


def entries(reply: Any) -> list[tuple[int, KeptEvent]]:
    """Events with their numbers.

    Raises:
        ValueError: it makes no sense.
    """
    result = []
    for id_, fields in reply:
        epoch, _, seq = id_.partition(b"-")
        if epoch == b"0":
            result.append((int(seq), decoded(fields[b"d"])))
    return result


def _base(prefix: str, key: StreamKey) -> str:
    return f"{prefix}:stream:{key.owner}:"


def _fields(value: bytes) -> Fields:
    return msgspec.json.decode(value, type=dict[str, Any])
