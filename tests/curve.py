"""Whether work grows with the size of its input, and no faster.

A pathological input is processed at 1, 2, 4 and 8 times a size. Only ratios are judged, in
processor time of this thread, the best of some runs, and generously: quadratic work would take 64
times as long for 8 times the input.
"""

import time
from collections.abc import Callable
from typing import Any

_RATIO = 30  # for 8 times the size
_LEAST_S = 0.0005  # below this, noise
_RUNS = 3


def assert_linear(make: Callable[[int], Any], work: Callable[[Any], object], size: int) -> None:
    """Fail if the time grows faster than the size.

    Args:
        make: an input of about so many bytes, or of a fresh object for each call.
        work: processes it.
        size: the smallest.
    """
    times = {}
    for factor in (1, 8):
        times[factor] = min(_timed(make(size * factor), work) for _ in range(_RUNS))
        assert factor == 8 or times[factor] < 5, "choose a smaller size"
    ratio = times[8] / max(times[1], _LEAST_S)
    assert ratio < _RATIO, f"{ratio:.0f} times as long for 8 times the input: {times}"


def _timed(data: Any, work: Callable[[Any], object]) -> float:
    start = time.thread_time()
    work(data)
    return time.thread_time() - start
