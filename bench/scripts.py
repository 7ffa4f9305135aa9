"""What the upstream of the soak sends: made from a number, so that both ends know it."""

import json
import random
from dataclasses import dataclass
from typing import Any, Final, Literal

Fault = Literal[
    "none",
    "slow",
    "gzip",
    "noise",
    "no_finish",
    "rst",
    "short",
    "framing",
    "stall",
    "closed",
    "500",
]
_WEIGHTS: Final[dict[Fault, int]] = {
    "none": 40,
    "slow": 10,
    "gzip": 8,
    "noise": 6,
    "no_finish": 6,
    "rst": 8,
    "short": 8,
    "framing": 4,
    "stall": 3,
    "closed": 4,
    "500": 3,
}
BREAKING: Final = frozenset(("rst", "short", "framing", "stall"))
REFUSING: Final[dict[Fault, int]] = {"closed": 502, "500": 500}
DONE: Final = b"data: [DONE]\n\n"
_WORDS: Final = ("Oslo ", "rain ", "é ", "日本 ", "🌧 ", "\\n", "the ", "disk ")


@dataclass(frozen=True)
class Script:
    """One answer.

    Attributes:
        events: whole events, ``[DONE]`` included where there is one.
        calls: the ids of its tool calls; each must be told once.
        fault: what goes wrong.
        at: how many bytes have gone out when it does.
        cut: lengths of the pieces in which it is sent, in turn.
        pieces: how many there are at most; the last one is the rest.
        pause_s: seconds between pieces.
    """

    events: tuple[bytes, ...]
    calls: tuple[str, ...]
    fault: Fault
    at: int
    cut: tuple[int, ...]
    pieces: int
    pause_s: float

    @property
    def body(self) -> bytes:
        return b"".join(self.events)

    @property
    def sent(self) -> bytes:
        """What of the body leaves the upstream."""
        return self.body[: self.at] if self.fault in BREAKING else self.body


def script(seed: int) -> Script:
    """The answer with this number."""
    rng = random.Random(seed)  # noqa: S311  not for secrets
    fault = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    events, calls = _conversation(rng, seed)
    if fault == "noise":
        for _ in range(rng.randint(1, 4)):
            junk = rng.randbytes(rng.randint(1, 3000)).replace(b"\n", b"").replace(b"\r", b"")
            events.insert(rng.randrange(len(events) - 1), b"data: " + junk + b"\n\n")
    events = events[: max(1, len(events) - rng.randint(2, 6))] if fault == "no_finish" else events
    length = sum(map(len, events))
    return Script(
        tuple(events),
        calls,
        fault,
        rng.randrange(length),
        tuple(rng.choice((1, 7, 60, 200, 900, 5000)) for _ in range(6)),
        40 if fault == "slow" else 200,
        rng.choice((0.05, 0.1, 0.3)) if fault == "slow" else rng.choice((0, 0, 0.001, 0.01)),
    )


def _conversation(rng: random.Random, seed: int) -> tuple[list[bytes], tuple[str, ...]]:
    events = [_chunk(seed, {"role": "assistant", "content": ""})]
    calls: list[str] = []
    for turn in range(rng.choice((0, 1, 1, 2, 3))):
        events += _text(rng, seed)
        events += _calls(rng, seed, [f"call_{seed}_{turn}_{n}" for n in range(rng.randint(1, 3))])
        calls += [f"call_{seed}_{turn}_{n}" for n in range(3) if _is_told(events, seed, turn, n)]
    events += _text(rng, seed)
    events += [_chunk(seed, {}, finish="stop"), DONE]
    return events, tuple(calls)


def _is_told(events: list[bytes], seed: int, turn: int, number: int) -> bool:
    return any(f'"call_{seed}_{turn}_{number}"'.encode() in event for event in events)


def _text(rng: random.Random, seed: int) -> list[bytes]:
    return [_chunk(seed, {"content": rng.choice(_WORDS)}) for _ in range(rng.randint(2, 40))]


def _calls(rng: random.Random, seed: int, ids: list[str]) -> list[bytes]:
    """Calls beside one another, their arguments in turns, then their results."""
    events = []
    for n, call_id in enumerate(ids):
        function = {
            "name": rng.choice(("terminal", "web_search", "mein_Werkzeug")),
            "arguments": "",
        }
        piece = {"index": n, "id": call_id, "type": "function", "function": function}
        events.append(_chunk(seed, {"tool_calls": [piece]}))
    for part in ('{"query": "', "x" * rng.randint(1, 200), '"}'):
        for n in range(len(ids)):
            piece = {"index": n, "function": {"arguments": part}}
            events.append(_chunk(seed, {"tool_calls": [piece]}))
    for call_id in rng.sample(ids, len(ids)):
        result = "r" * rng.randint(1, 2000)
        events.append(_chunk(seed, {"role": "tool", "tool_call_id": call_id, "content": result}))
    return events


def _chunk(seed: int, delta: dict[str, Any], *, finish: str | None = None) -> bytes:
    chunk = {
        "id": f"chatcmpl-{seed}",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "soak",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"
