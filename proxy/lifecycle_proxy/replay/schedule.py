"""When what was recorded is sent again: the schedule of an answer, before it is played.

Faults and other changes are made here: a schedule is data, and ``player`` plays whatever it says.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from lifecycle_proxy.exchange.headers import first_header
from lifecycle_proxy.exchange.model import Headers, SideName
from lifecycle_proxy.recording.cassette import RecordedExchange, Side

# As in a cassette, less "". Where the end of the connection is the end of the body, only a reset
# differs from it.
ScheduleEnd = Literal["eof", "reset", "cut", "timeout", "gone"]

_FIRST_STATUS: Final = 200
_LAST_STATUS: Final = 599
BODILESS: Final = (204, 304)  # these statuses have no body (RFC 9110 section 6.4.1)


class UnplayableError(Exception):
    """A recording that cannot be played. The text says why."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is sent when. Change it with ``dataclasses.replace``; it is sent as it then is.

    Attributes:
        id: the exchange's.
        status: 0 where there is no head: the end comes without an answer.
        reason: of the status line.
        headers: in order, with duplicates. They decide how the body is framed: chunked, by length,
            or to the end of the connection.
        head_ms: when the head is due, in milliseconds since the request came.
        pieces: when each write is due, and its bytes, without the framing of chunks.
        end: ``eof`` properly; ``reset``; ``cut``: closed without the end; ``timeout``: silence
            until the client gives up, ``gone``: what there is of it, then a reset.
        end_ms: when the end is due.
    """

    id: str
    status: int
    reason: str
    headers: Headers
    head_ms: float
    pieces: tuple[tuple[float, bytes], ...]
    end: ScheduleEnd
    end_ms: float

    def header(self, name: str) -> str:
        """The first header of this name, in whatever case; "" without one."""
        return first_header(self.headers, name)


def schedule(exchange: RecordedExchange, name: SideName) -> Schedule:
    """How one side of an exchange went.

    A recorded length that is not the body's, for secrets were replaced, is put right.

    Args:
        exchange: the recording.
        name: of the side.

    Raises:
        UnplayableError: the recording is incomplete, or does not hold this side's bytes.
    """
    side = exchange.side(name)
    if not exchange.is_complete:
        raise UnplayableError("its end was not recorded")
    if exchange.omitted:
        raise UnplayableError(f"its answer was not recorded: {exchange.omitted}")
    if not side.end:
        raise UnplayableError(f"there was no answer on the {name} side")
    if not side.is_whole:
        raise UnplayableError(f"bytes of the {name} side are missing (SHA-256)")
    if not side.status and side.end == "eof":
        raise UnplayableError(f"the headers of the {name} side are missing")
    if side.status and not _FIRST_STATUS <= side.status <= _LAST_STATUS:
        raise UnplayableError(f"{side.status} is not the status of a final response")
    if problem := _framing(side):
        raise UnplayableError(f"the headers of the {name} side {problem}")
    return Schedule(
        id=exchange.id,
        status=side.status,
        reason=side.reason,
        headers=_with_length(exchange, side),
        head_ms=side.ms,
        pieces=tuple((piece.ms, piece.data) for piece in side.pieces),
        end=side.end,
        end_ms=side.end_ms,
    )


def _framing(side: Side) -> str:
    """What is wrong with how a body is framed (RFC 9112 section 6.3); "" for nothing."""
    codings = [v.strip().lower() for k, v in side.headers if k.lower() == "transfer-encoding"]
    lengths = [v.strip() for k, v in side.headers if k.lower() == "content-length"]
    if codings and lengths:
        return "have both Content-Length and Transfer-Encoding"
    if codings not in ([], ["chunked"]):
        return "have a Transfer-Encoding that is not chunked"
    if lengths and not (len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdigit()):
        return "have no valid Content-Length"
    return ""


def playable(
    exchanges: Iterable[RecordedExchange], side: SideName
) -> tuple[list[RecordedExchange], list[tuple[str, str]]]:
    """Those that can be played, and of the others the id and the reason why not.

    Args:
        exchanges: recordings.
        side: which one is to be played.
    """
    good: list[RecordedExchange] = []
    refused: list[tuple[str, str]] = []
    for exchange in exchanges:
        try:
            schedule(exchange, side)
        except UnplayableError as reason:
            refused.append((exchange.id, str(reason)))
        else:
            good.append(exchange)
    return good, refused


def timed(plan: Schedule, speed: float, max_gap_ms: float | None) -> Schedule:
    """The same at another pace.

    Args:
        speed: 2 is twice as fast; 0 is at once.
        max_gap_ms: no wait is longer than this, in milliseconds at the new pace. The wait for the
            head counts as one.
    """
    now = before = 0.0

    def due(ms: float) -> float:
        nonlocal now, before
        gap = max(0.0, ms - before) / speed if speed else 0.0
        now += gap if max_gap_ms is None else min(gap, max_gap_ms)
        before = max(ms, before)
        return now

    head_ms = due(plan.head_ms)
    pieces = tuple((due(ms), data) for ms, data in plan.pieces)
    return replace(plan, head_ms=head_ms, pieces=pieces, end_ms=due(plan.end_ms))


def _with_length(exchange: RecordedExchange, side: Side) -> Headers:
    size = len(side.body)
    is_bodiless = exchange.request.method == "HEAD" or side.status in BODILESS
    if side.end != "eof" or is_bodiless:
        return side.headers
    right = str(size)
    return tuple((k, right if k.lower() == "content-length" else v) for k, v in side.headers)
