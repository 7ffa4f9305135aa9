"""Fault injection: which faults hit an exchange. A seed decides that, not the time.

The same rules, seed and exchange give the same faults, in whatever order exchanges are asked for. A
``FaultPlan`` is applied to a schedule before it is replayed, or to the bytes of a live upstream as
they arrive; ``transform`` does both. ``rules`` describes the rules.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.faults.rules import KINDS, Fault, FaultSettings
from lifecycle_proxy.faults.transform import BodyFaults, Delay, Disconnect, Forward

__all__ = (
    "KINDS",
    "Fault",
    "FaultPlan",
    "FaultPolicy",
    "FaultResponse",
    "FaultSettings",
    "LiveFault",
)

_ANSWERS: Final = ("status_429", "status_500", "error_200")
_CHANGE_SIZE: Final = ("drop_done", "duplicate_chunk", "garbage_line")
_GARBAGE: Final = "<<< this line is no event >>>"
_DRIP_MS: Final = 10.0


@dataclass(frozen=True, slots=True)
class FaultResponse:
    """A response in the place of the upstream's.

    Attributes:
        headers: with ``Content-Length``.
    """

    status: int
    reason: str
    headers: Headers
    body: bytes


class FaultPolicy:
    """The rules of one run.

    Args:
        faults: each has a probability of its own.
        seed: with another seed, faults hit other exchanges.
    """

    def __init__(self, faults: Sequence[Fault], seed: int = 1) -> None:
        self._faults = tuple(faults)
        self._seed = seed

    def sample(self, key: int | str) -> "FaultPlan":
        """The faults that hit one exchange.

        Args:
            key: identifies the exchange: the number of its request, or a hash of it.
        """
        drawn = enumerate(self._faults)
        hit = (fault for n, fault in drawn if self._draw(n, key) < fault.probability)
        return FaultPlan(tuple(hit))

    def _draw(self, number: int, key: int | str) -> float:
        """From 0 to below 1, the same on every machine."""
        drawn = hashlib.sha256(f"{self._seed}:{number}:{key}".encode("utf-8", "replace")).digest()
        return int.from_bytes(drawn[:6]) / (1 << 48)


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """The faults of one exchange. False where there are none."""

    faults: tuple[Fault, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.faults)

    @property
    def kinds(self) -> tuple[str, ...]:
        """For logs."""
        return tuple(fault.kind for fault in self.faults)

    @property
    def latency_ms(self) -> float:
        """How long the response headers are delayed, in milliseconds."""
        return sum(fault.ms or 0.0 for fault in self.faults if fault.kind == "latency")

    @property
    def answer(self) -> FaultResponse | None:
        """The response to send without asking the upstream; None to ask it."""
        found = (fault for fault in self.faults if fault.kind in _ANSWERS)
        fault = next(found, None)
        return _answer(fault) if fault is not None else None

    @property
    def changes_size(self) -> bool:
        """Whether the upstream's Content-Length becomes wrong; it must be removed then."""
        return any(kind in _CHANGE_SIZE for kind in self.kinds)

    def live(self) -> "LiveFault":
        """The faults of the body, to apply to bytes as they arrive."""
        return LiveFault(self.faults)


class LiveFault(BodyFaults):
    """The faults of one plan, applied to the body of one response."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__()
        for fault in faults:
            frame, ms = fault.frame or 1, fault.ms
            match fault.kind:
                case "stall":
                    self.before_frame(frame, Disconnect("stall") if ms is None else Delay(ms))
                case "garbage_line":
                    text = _GARBAGE if fault.text is None else fault.text
                    self.before_frame(frame, Forward(text.encode() + b"\n"))
                case "duplicate_chunk":
                    self.duplicate_frame(frame)
                case "drop_done":
                    self.drop_done()
                case "cut_at_byte":
                    self.end_at(fault.byte or 0, "cut")
                case "reset":
                    self.end_at(fault.byte or 0, "reset")
                case "cut_inside_character":
                    self.end_inside_character()
                case "slow_drip":
                    self.drip(fault.size_bytes or 1, _DRIP_MS if ms is None else ms)
                case _:
                    pass  # latency, and faults that replace the response


def _answer(fault: Fault) -> FaultResponse:
    wait_s = 1 if fault.retry_after_s is None else fault.retry_after_s
    status, reason, text, kind, code = {
        "status_429": (
            *(429, "Too Many Requests", f"Rate limit reached: try again in {wait_s} s"),
            *("requests", "rate_limit_exceeded"),
        ),
        "status_500": (500, "Internal Server Error", "The server failed", "server_error", None),
        "error_200": (200, "OK", "The model could not be run", "server_error", None),
    }[fault.kind]
    message = f"{text} (a fault on purpose)"
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    if fault.kind == "status_429":
        headers.append(("Retry-After", str(wait_s)))
    return FaultResponse(status, reason, tuple(headers), body)
