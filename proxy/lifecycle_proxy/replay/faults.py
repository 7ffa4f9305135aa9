"""Faults on a recording: its schedule, as they leave it."""

from dataclasses import replace
from typing import Final

from lifecycle_proxy.faults.plan import FaultPlan
from lifecycle_proxy.faults.transform import Delay, Disconnect, Forward
from lifecycle_proxy.replay.schedule import Schedule, ScheduleEnd

_ENDS: Final[dict[str, ScheduleEnd]] = {"cut": "cut", "reset": "reset", "stall": "timeout"}


def apply(plan: FaultPlan, schedule: Schedule) -> Schedule:
    """The schedule as these faults leave it. Faults of the body hit an error answer, too.

    The times of faults are real ones: change the pace of a schedule before.

    Args:
        plan: what goes wrong.
        schedule: the response as it would be played.
    """
    late = plan.latency_ms
    head_ms = schedule.head_ms + late
    if (answer := plan.answer) is not None:
        schedule = replace(
            schedule,
            status=answer.status,
            reason=answer.reason,
            headers=answer.headers,
            pieces=((schedule.head_ms, answer.body),),
            end="eof",
            end_ms=schedule.head_ms,
        )
    headers = schedule.headers
    if plan.changes_size:
        headers = tuple(h for h in headers if h[0].lower() != "content-length")
    pieces, end, now_ms = _played(plan, schedule, late)
    end_ms = now_ms if end else max(now_ms, schedule.end_ms + late)
    end = end or schedule.end
    return replace(
        schedule, headers=headers, head_ms=head_ms, pieces=pieces, end=end, end_ms=end_ms
    )


def _played(
    plan: FaultPlan, schedule: Schedule, late: float
) -> tuple[tuple[tuple[float, bytes], ...], ScheduleEnd | None, float]:
    """The pieces, how the faults end the body if they do, and when the last one is through."""
    live, pieces = plan.live(), list[tuple[float, bytes]]()
    now_ms = schedule.head_ms + late
    arrivals = [(now_ms, b""), *((ms + late, data) for ms, data in schedule.pieces)]
    for number, (ms, data) in enumerate(arrivals, 1):
        now_ms = max(now_ms, ms)
        actions = live.feed(data, now_ms / 1000)
        if number == len(arrivals):
            actions += live.eof(now_ms / 1000)
        for action in actions:
            match action:
                case Forward(out):
                    pieces.append((now_ms, out))
                case Delay(wait_ms):
                    now_ms += wait_ms
                case Disconnect(end):
                    return tuple(pieces), _ENDS[end], now_ms
    return tuple(pieces), None, now_ms
