"""How the time for redaction grows with what is redacted: hostile words, whole and in small reads.

    python bench/redaction.py                         (two minutes)
    python bench/redaction.py --kilobytes 1000

Each word is repeated up to a size and up to eight times that size. A ratio near 8 is linear, one
near 64 is quadratic. It exits with 1 if one is above 24.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Final

from lifecycle_proxy.recording.redactor import Redaction

_TIMES: Final = 8
_MOST: Final = 24.0
_READ_BYTES: Final = 100
_JWT: Final = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN"
_WORDS: Final = (
    *("a", "eyJ-", "eyJaaaa", "eyJaaaaaaaaa.", "eyJaaaaaaaaa.b ", "sk-", "AKIAA", "[redacted:"),
    *(
        "://",
        "://a:",
        "://a:a,",
        "-----BEGIN ",
        "-----BEGIN PRIVATE KEY",
        "-----BEGIN PRIVATE KEY-----",
    ),
    *(
        "bearer ",
        "bearer          ",
        "basic ",
        "secret: ",
        "secret",
        "password=\\",
        "key\\",
        "key ",
    ),
    *("cookie:", "cookie: a", "--token ", "token", "openai-insecure-api-key.", f"{_JWT},"),
    *("sk-a1b2c3d4e5f6 ", "password=hunter2x;", "x"),
)


def _whole(data: bytes) -> None:
    Redaction().exchange(()).data(data)


def _in_reads(data: bytes) -> None:
    stream = Redaction().exchange(()).stream()
    for at in range(0, len(data), _READ_BYTES):
        stream.feed(at, data[at : at + _READ_BYTES])
    stream.flush()


def _ms(work: Callable[[bytes], None], data: bytes) -> float:
    took = []
    for _ in range(2):
        since = time.perf_counter()
        work(data)
        took.append(time.perf_counter() - since)
    return min(took) * 1000


def main() -> int:
    """Measure, and print a line for each word."""
    parser = argparse.ArgumentParser(description="How the time for redaction grows.")
    parser.add_argument("--kilobytes", type=int, default=100, help="the smaller of the two sizes")
    size = parser.parse_args().kilobytes * 1000
    worst = 0.0
    print(f"{'word':34} {'whole':>14} {'ratio':>6} {'in reads':>14} {'ratio':>6}")
    for word in _WORDS:
        told = f"{word[:30]!r:34}"
        for work in (_whole, _in_reads):
            small, large = (
                _ms(work, (word * length)[:length].encode()) for length in (size, size * _TIMES)
            )
            worst = max(worst, large / small)
            told += f" {large:11.1f} ms {large / small:6.1f}"
        print(told, flush=True)
    return int(worst > _MOST)


if __name__ == "__main__":
    sys.exit(main())
