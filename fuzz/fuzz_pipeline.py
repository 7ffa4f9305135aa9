"""Mutated event streams, cut at random, through the core.

    python fuzz/fuzz_pipeline.py --seconds 60

With atheris (https://github.com/google/atheris) where it is installed, guided by coverage; else a
mutator of random numbers over ``tests/corpus``. What must hold of any bytes: the output less our
frames is the input, the observer does not fail, every running has its completed, and the same is
told however the bytes were cut. A failure is written to ``fuzz/failures/`` and can be played again:

    python fuzz/fuzz_pipeline.py --only fuzz/failures/NAME
"""

import argparse
import hashlib
import importlib
import itertools
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lifecycle_proxy.core.apis import CHAT  # noqa: E402
from lifecycle_proxy.core.context import PipelineOptions  # noqa: E402
from lifecycle_proxy.core.dialects import DIALECTS, Dialect, stateless  # noqa: E402
from lifecycle_proxy.core.events import Envelope, LifecycleEvent, Outcome, ToolCompleted  # noqa: E402
from lifecycle_proxy.core.labels import Labels  # noqa: E402
from lifecycle_proxy.core.output import Step  # noqa: E402
from lifecycle_proxy.core.pipeline import Pipeline  # noqa: E402

_FAILURES: Final = Path(__file__).with_name("failures")
_MAX_BYTES: Final = 1 << 16
_TOKENS: Final = (
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\xef\xbb\xbf", b"\x00", b"\xff", b"\xed\xa0\x80"),
    *(b"data: ", b"data:", b"event: ", b"id: 1\n", b": ping\n\n", b"data: [DONE]\n\n", b"[DONE]"),
    *(b"event: hermes.tool.progress\n", b'"tool_calls":[', b'"index":0', b'"id":"a"', b'"id":null'),
    *(b'"finish_reason":"tool_calls"', b'"finish_reason":"stop"', b'"choices":[', b'"delta":{'),
    *(b'"role":"tool"', b'"tool_call_id":"a"', b'"content":', b'"error":{}', b'"status":"running"'),
    *(b"null", b"true", b"[]", b"{}", b'""', b"-1", b"1e999", b"NaN", b"9" * 400, b"[" * 2000),
    *(b'"\\ud800"', b"\\u0000", b'{"a":' * 1500, b'"name":"terminal"', b'"name":"_x"'),
)


class BrokenError(AssertionError):
    """A law of the core did not hold."""


class Recorder:
    """A dialect that remembers what it wrote; no stream holds such a frame by chance."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def __call__(self, event: LifecycleEvent, envelope: Envelope) -> bytes:
        frame = b"event: fuzz\ndata: \xfe%d\xfe\n\n" % len(self.frames)
        self.frames.append(frame)
        return frame


# --- the laws ------------------------------------------------------------------------------------


def check(body: bytes, seed: int, max_event_bytes: int) -> None:
    """Play it in two segmentations and look.

    Raises:
        BrokenError: a law does not hold.
    """
    told = None
    for cut in (seed, seed + 1):
        recorder = Recorder()
        pipeline = _pipeline(recorder, max_event_bytes, translate=False)
        steps = list(_played(pipeline, body, cut))
        events = [event for step in steps for event in step.events]
        if pipeline.counts.observer_failures:
            raise BrokenError("the observer failed") from pipeline.counts.failure
        _check_bytes(b"".join(step.data for step in steps), recorder.frames, body)
        _check_pairs(events)
        # Whether a large event is looked into may depend on where it was cut.
        if max_event_bytes > len(body):
            now = [_gist(event) for event in events]
            if told is not None and told != now:
                raise BrokenError(f"told {told}, and cut otherwise {now}")
            told = now
    for name, dialect in DIALECTS.items():  # none may fail, whatever it is told
        pipeline = _pipeline(dialect, max_event_bytes, translate=True)
        pieces = [step.data for step in _played(pipeline, body, seed, abort=bool(seed % 2))]
        if pipeline.counts.observer_failures:
            raise BrokenError(f"{name} failed") from pipeline.counts.failure
        if name == "off" and b"".join(pieces) != body:
            raise BrokenError("off is not the input")


def _pipeline(dialect: Any, max_event_bytes: int, *, translate: bool) -> Pipeline:
    numbers = itertools.count()
    options = PipelineOptions(
        presenter=Labels(max_length=40, redacted=True, emoji={}),
        make_id=lambda: f"made_{next(numbers)}",
        translate=translate,
        max_event_bytes=max_event_bytes,
        result_preview=20,
    )
    given = dialect if isinstance(dialect, Dialect) else Dialect("fuzz", stateless(dialect))
    return Pipeline(CHAT, given, Envelope("id", 1, "m"), options)


def _played(pipeline: Pipeline, body: bytes, seed: int, *, abort: bool = False) -> Iterator[Step]:
    rng = random.Random(seed)  # noqa: S311  not for secrets
    longest = rng.choice((1, 3, 50, 500, 1 << 20))
    at, now = 0, 0.0
    while at < len(body):
        size, now = rng.randint(1, longest), now + 1
        yield pipeline.feed(body[at : at + size], now)
        at += size
    if abort:
        yield pipeline.abort("upstream_error", now, outcome=Outcome.FAILED)
    else:
        yield pipeline.eof(now)


def _check_bytes(data: bytes, frames: list[bytes], body: bytes) -> None:
    """The output is the input and the frames; an event may have been closed in front of one."""
    *kept, last = re.split(b"event: fuzz\ndata: \xfe\\d+\xfe\n\n", data) if frames else [data]
    if len(kept) != len(frames):
        raise BrokenError(f"{len(frames)} frames were written, {len(kept)} came")
    places = {0}
    for piece in kept:
        forms = {piece, *(piece.removesuffix(gap) for gap in (b"\n\n", b"\n", b"\r"))}
        places = {at + len(f) for at in places for f in forms if body.startswith(f, at)}
    if not any(body[at:] == last for at in places):
        raise BrokenError("the input did not come through")


def _check_pairs(events: list[LifecycleEvent]) -> None:
    is_open: dict[tuple[int, str], bool] = {}
    for event in events:
        key = event.choice, event.id
        ends = isinstance(event, ToolCompleted)
        if is_open.get(key, False) is not ends:
            raise BrokenError(f"{'completed' if ends else 'running'} of {key} is out of order")
        is_open[key] = not ends
    if any(is_open.values()):
        raise BrokenError(f"still running: {[key for key, value in is_open.items() if value]}")


def _gist(event: LifecycleEvent) -> tuple[object, ...]:
    outcome = event.outcome if isinstance(event, ToolCompleted) else None
    return type(event).__name__, event.choice, event.id, event.tool, outcome


# --- input ---------------------------------------------------------------------------------------


def _corpus() -> list[bytes]:
    files = [path.read_bytes() for path in sorted((ROOT / "tests" / "corpus").glob("*.sse"))]
    if not files:
        raise SystemExit("tests/corpus has no streams")
    return files


def mutated(rng: random.Random, corpus: list[bytes]) -> bytes:
    """One stream of the corpus, changed in some places, maybe joined with another."""
    body = bytearray(rng.choice(corpus))
    if rng.random() < 0.3:
        body += rng.choice(corpus)
    for _ in range(rng.choice((0, 1, 1, 2, 4, 16, 64))):
        _mutate(rng, body)
    return bytes(body[:_MAX_BYTES])


def _mutate(rng: random.Random, body: bytearray) -> None:
    at = rng.randint(0, len(body))
    end = min(len(body), at + rng.choice((1, 1, 2, 10, 200)))
    match rng.randrange(7):
        case 0:
            body[at:at] = rng.choice(_TOKENS)
        case 1:
            body[at:end] = rng.choice(_TOKENS)
        case 2:
            del body[at:end]
        case 3:
            body[at:at] = body[at:end] * rng.randint(1, 3)
        case 4:
            body[at:end] = rng.randbytes(end - at)
        case 5:
            _swap_lines(rng, body)
        case _:
            body[:] = body.replace(*rng.choice(_EXCHANGES))


_EXCHANGES: Final = (
    (b"\n", b"\r\n"),
    (b"\n", b"\r"),
    (b"\r\n", b"\n"),
    (b"\n\n", b"\n"),
    (b'"index": 0', b'"index": 1'),
    (b'"index":0', b'"index":null'),
    (b"data: ", b"data:"),
    (b'"id"', b'"idx"'),
)


def _swap_lines(rng: random.Random, body: bytearray) -> None:
    lines = bytes(body).split(b"\n")
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    body[:] = b"\n".join(lines)


def one(seed: int, corpus: list[bytes]) -> None:
    """The case of this number; where a law breaks it is written down and raised."""
    rng = random.Random(seed)  # noqa: S311
    body = mutated(rng, corpus)
    limit = rng.choice((8 << 20, 8 << 20, 1024))
    _noted(lambda: check(body, seed, limit), body, f"--seed {seed} --count 1")


def _noted(work: Callable[[], None], body: bytes, again: str) -> None:
    try:
        work()
    except Exception:
        _FAILURES.mkdir(exist_ok=True)
        path = _FAILURES / f"pipeline-{hashlib.sha256(body).hexdigest()[:16]}.sse"
        path.write_bytes(body)
        print(f"FAILED: {again}; the stream is in {path.relative_to(ROOT)}", file=sys.stderr)
        raise


# --- running -------------------------------------------------------------------------------------


def _with_atheris(atheris: Any, seconds: float) -> None:
    """Guided by coverage: the first bytes choose how the rest is cut."""

    def target(data: bytes) -> None:
        seed = int.from_bytes(data[:4], "little")
        body = data[4:]
        _noted(lambda: check(body, seed, 1024 if seed % 3 else 8 << 20), body, f"seed {seed}")

    atheris.instrument_all()
    found = _FAILURES.with_name("corpus")  # new inputs go into the first folder
    for folder in (found, _FAILURES):
        folder.mkdir(exist_ok=True)
    limits = (f"-max_total_time={seconds:.0f}", "-max_len=8192", f"-artifact_prefix={_FAILURES}/")
    folders = (str(found), str(ROOT / "tests" / "corpus"))
    atheris.Setup([sys.argv[0], *limits, *folders], target)
    atheris.Fuzz()


def main() -> int:
    """Run it. 0 if all held; a law that breaks is raised."""
    parser = argparse.ArgumentParser(description="Mutated event streams through the core.")
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, help="of the first case (default: the time)")
    parser.add_argument("--count", type=int, default=1 << 60, help="how many cases at most")
    parser.add_argument("--only", type=Path, metavar="FILE", help="play this stream")
    asked = parser.parse_args()
    if asked.only:
        for seed, limit in itertools.product(range(50), (8 << 20, 1024)):
            check(asked.only.read_bytes(), seed, limit)
        return 0
    if asked.seed is None:
        try:
            atheris = importlib.import_module("atheris")
        except ImportError:
            print("atheris is not installed: random mutations instead", flush=True)
        else:
            _with_atheris(atheris, asked.seconds)
            return 0
    first = time.time_ns() // 1_000_000 if asked.seed is None else asked.seed
    corpus, end, done = _corpus(), time.monotonic() + asked.seconds, 0
    while done < asked.count and time.monotonic() < end:
        one(first + done, corpus)
        done += 1
    print(f"{done} streams from --seed {first}: all laws held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
