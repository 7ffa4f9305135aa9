"""Requests over three backends that fail at random: is each answered once, by a right one?

    python fuzz/fuzz_failover.py --requests 10000

Half of the requests are streams with two tool calls. A backend decides for each attempt, by the
seed: it answers, refuses (400, 404), cannot answer (429, 500, 503, 529), closes or resets the
connection before a byte, or breaks its answer off somewhere. What must hold:

- A request is answered whole, byte for byte as one backend sent it (less the frames that the proxy
  adds); or it is broken off where that backend broke it off; or it gets the last error.
- After a backend has sent a byte of a body, no other is asked. Only failures are followed.
- In each stream each call has exactly one running and one completed.

With ``--in-stream`` a stream that breaks off is continued: its text is whole, without a repeated
word, if any backend is left.

A run can be repeated: ``--seed N``.
"""

import argparse
import asyncio
import collections
import json
import logging
import random
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lifecycle_proxy.app import serve as server
from lifecycle_proxy.config import model as config

from tests.backends import Backend, several
from tests.fakes import (
    DONE,
    JSON,
    Answer,
    Request,
    Wire,
    ask,
    delta,
    lifecycle,
    payloads,
    text,
    tool_call,
    without_frames,
)

_LANES: Final = 16
_REFUSALS: Final = ("400 No", "404 No")
_FAILURES: Final = ("429 No", "500 No", "503 No", "529 No")
_KINDS: Final = (*["well"] * 6, "refuses", *["fails"] * 3, "closes", "resets", "breaks", "breaks")
_WORDS: Final = ("Let me ", "look. ", "It is ", "61 % ", "full.")
_TEXT: Final = "".join(_WORDS)


class WrongError(Exception):
    """Something that must hold did not."""


class Attempt(NamedTuple):
    """What one backend did with a request.

    Attributes:
        by: the backend.
        kind: one of ``_KINDS``.
        sent: of the body.
    """

    by: str
    kind: str
    sent: bytes


class Random(Backend):
    """A backend that decides by the seed what it does."""

    def __init__(self, name: str, seed: int, attempts: dict[str, list[Attempt]]) -> None:
        super().__init__(name)
        self._seed = seed
        self._attempts = attempts
        self.answer = self._decide

    async def _decide(self, request: Request, wire: Wire) -> None:
        asked = request.json()
        number = asked["user"]
        rng = random.Random(f"{self._seed} {number} {self.name}")  # noqa: S311  not a secret
        kind = rng.choice(_KINDS)
        sent = b""
        data = self._answer(asked)
        if kind == "breaks":
            sent = data[: rng.randint(1, len(data) - 1)]
        elif kind == "well":
            sent = data
        self._attempts.setdefault(number, []).append(Attempt(self.name, kind, sent))
        if kind in {"refuses", "fails"}:
            status = rng.choice(_REFUSALS if kind == "refuses" else _FAILURES)
            after = ["Retry-After: 0"] if rng.random() < 0.2 else []
            await wire.answer(json.dumps({"by": self.name}).encode(), status, JSON, *after)
        elif kind == "closes":
            wire.close()
        elif kind == "resets":
            wire.reset()
        else:
            await self._send(wire, sent, data, is_stream=asked["stream"])

    def _answer(self, asked: dict[str, Any]) -> bytes:
        if not asked["stream"]:
            return json.dumps({"by": self.name, "user": asked["user"]}).encode()
        last = asked["messages"][-1]
        said = len(last["content"]) if last["role"] == "assistant" else 0
        if said:  # it goes on with a message that has begun
            return (
                text(_TEXT[said:]) + delta("stop") + DONE if _TEXT[said:] else delta("stop") + DONE
            )
        words = [text(word) for word in _WORDS]
        calls = [
            tool_call(f"{self.name}-1"),
            tool_call(f"{self.name}-2").replace(b'[{"index": 0, "id"', b'[{"index": 1, "id"'),
        ]
        results = [
            delta(role="tool", tool_call_id=f"{self.name}-{at}", content="done") for at in (1, 2)
        ]
        return b"".join((*words[:2], *calls, *results, *words[2:], delta("stop"), DONE))

    async def _send(self, wire: Wire, sent: bytes, data: bytes, *, is_stream: bool) -> None:
        if not is_stream:
            await wire.head("200 OK", JSON, f"Content-Length: {len(data)}")
            await wire.send(sent)
        else:
            await wire.stream()
            at = 0
            while at < len(sent):
                await wire.chunk(sent[at : at + 300])
                at += 300
            if sent == data:
                await wire.chunk()
        if sent != data:
            wire.close()


class Run:
    """All requests of one run."""

    def __init__(self, seed: int, *, in_stream: bool) -> None:
        self._attempts: dict[str, list[Attempt]] = {}
        self.backends = [Random(name, seed, self._attempts) for name in "abc"]
        self._in_stream = in_stream
        self.counts: collections.Counter[str] = collections.Counter()

    def settings(self) -> config.Settings:
        models = {"m": ["a/x", "b/y", "c/z"], "any": [["a/x", "b/y", "c/z"]]}
        tables = [one.table() for one in self.backends]
        more = {"server__listen": "127.0.0.1:0", "failover__in_stream": self._in_stream}
        own = several(*tables, models=models, **more)
        return config.load(environ={}, flags={**own, "server.drain_timeout_s": 0})

    async def play(self, url: str, number: int) -> None:
        """One request, and whether all held.

        Raises:
            WrongError: it did not.
        """
        is_stream = number % 2 == 0
        body = {
            "model": "m" if number % 4 < 2 else "any",
            "stream": is_stream,
            "user": f"{number}",
            "messages": [{"role": "user", "content": f"{number}"}],
        }
        data = json.dumps(body).encode()
        answer = await ask(url, "POST", "/v1/chat/completions", JSON, body=data)
        attempts = self._attempts.pop(f"{number}", [])
        try:
            self._check(answer, attempts, is_stream=is_stream)
        except (AssertionError, IndexError, KeyError) as wrong:
            text = f"request {number}: {answer.status} {answer.end} {answer.body[-400:]!r}"
            raise WrongError(f"{text} {[one[:2] for one in attempts]}: {wrong}") from wrong

    def _check(self, answer: Answer, attempts: list[Attempt], *, is_stream: bool) -> None:
        last = attempts[-1]
        may_follow = {"fails", "closes", "resets"}
        for one in attempts[:-1]:
            if one.kind == "breaks" and self._in_stream and is_stream:
                may_follow |= {"breaks", "refuses"}  # a stream that has begun has to go on
            assert one.kind in may_follow, "a second answer"
        if is_stream:
            self._check_pairs(answer)
        begun = [one for one in attempts if one.sent]
        if begun and is_stream and self._in_stream:
            self._check_continued(answer, begun, last)
            return
        self.counts[last.kind] += 1
        match last.kind:
            case "well":
                assert (answer.status, answer.end) == (200, "clean")
                assert without_frames(answer.body) == last.sent, "other bytes"
            case "breaks":
                assert (answer.status, answer.end) == (200, "cut"), "a broken answer looks whole"
                own = without_frames(answer.body).partition(b'data: {"error"')[0]
                assert last.sent.startswith(own.rstrip(b"\n")), "other bytes"
            case "refuses" | "fails":
                assert answer.json()["by"] == last.by
                assert answer.status in (400, 404, 429, 500, 503, 529)
            case _:
                assert answer.json()["error"]["code"] == "upstream_unreachable"

    def _check_continued(self, answer: Answer, begun: list[Attempt], last: Attempt) -> None:
        """A stream that others went on with."""
        said = "".join(_said(one) for one in payloads(_whole(answer.body)))
        is_whole = last.kind == "well"
        self.counts[f"continued, {'whole' if is_whole else 'broken'}"] += len(begun) > 1
        if is_whole:
            assert answer.end == "clean"
            assert said == _TEXT, f"the text is {said!r}"
        else:
            assert _TEXT.startswith(said), f"the text is {said!r}"

    def _check_pairs(self, answer: Answer) -> None:
        seen: dict[str, list[str]] = {}
        for call_id, status, _ in lifecycle(_whole(answer.body)):
            seen.setdefault(call_id, []).append(status)
        assert all(one == ["running", "completed"] for one in seen.values()), f"pairs: {seen}"


def _said(payload: dict[str, Any]) -> str:
    choices = payload.get("choices") or [{}]
    own = choices[0].get("delta", {})
    return "" if own.get("role") == "tool" else own.get("content") or ""


def _whole(body: bytes) -> bytes:
    """Without an event that has no end."""
    lines = body.split(b"\n")
    return b"\n".join(line for line in lines if not line.startswith(b"data: {") or _is_json(line))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line[6:])
    except ValueError:
        return False
    return True


async def run(seed: int, count: int, *, in_stream: bool) -> collections.Counter[str]:
    """Play requests.

    Returns:
        How many of each kind.
    """
    run = Run(seed, in_stream=in_stream)
    for one in run.backends:
        await one.start()
    runner, url = await server.start(run.settings())
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            await run.play(url, number)
            for one in run.backends:
                one.requests.clear()
                one.wires[:] = [wire for wire in one.wires if not wire.gone.is_set()]

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_LANES):
                group.create_task(lane())
        states = (await ask(url, "GET", "/-/upstreams")).json()["upstreams"]
        if any(state["open"] for state in states):
            raise WrongError(f"something is open: {states}")
    finally:
        await server.stop(runner, 0)
        for one in run.backends:
            await one.stop()
    for one in run.backends:
        for failure in one.failures:
            raise failure
    return run.counts


def main() -> int:
    """Run it. 0 if all held."""
    parser = argparse.ArgumentParser(description="Failover over backends that fail at random.")
    parser.add_argument("--requests", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--seed", type=int, help="of the run (default: the time)")
    parser.add_argument("--in-stream", action="store_true", help="with failover.in_stream")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    seed = time.time_ns() // 1_000_000 if asked.seed is None else asked.seed
    try:
        counts = asyncio.run(run(seed, asked.requests, in_stream=asked.in_stream))
    except BaseExceptionGroup as several_failed:
        wrong, rest = several_failed.split(WrongError)
        for failure in wrong.exceptions if wrong else ():
            print(f"FAILED: --seed {seed}: {failure}", file=sys.stderr)
        if rest:
            raise rest from None
        return 1
    for what in sorted(counts):
        print(f"{counts[what]:8} {what}")
    print(f"{asked.requests} requests from --seed {seed}: all held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
