"""Whether work grows with the size of its input, and no faster.

A pathological input is processed at a size and at 8 times that size. Only ratios are judged, in
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
    small = min(_timed(make(size), work) for _ in range(_RUNS))
    assert small < 5, "choose a smaller size"
    limit = _RATIO * max(small, _LEAST_S)
    large: list[float] = []
    while not large or (large[-1] >= limit and len(large) < _RUNS):  # the best run decides
        large.append(_timed(make(size * 8), work))
    assert min(large) < limit, f"{large} for 8 times the input of {small}"


def _timed(data: Any, work: Callable[[Any], object]) -> float:
    start = time.thread_time()
    work(data)
    return time.thread_time() - start
