"""How much work JSON of a foreign sender is, before it is decoded.

Decoding takes time by the values, not by the bytes: a picture of 8 MB in one string takes 5 ms, and
8 MB of empty lists take a second, during which nothing else runs. What is too complex is passed on
undecoded, as what is too large is.
"""

from typing import Final

# Commas, colons, braces and brackets. So many take 20 to 50 ms, most of them for lists and keys.
MAX_VALUES: Final = 250_000
# What is no larger cannot hold more, and need not be counted.
SIMPLE_BYTES: Final = MAX_VALUES
_BYTES: Final = (b",", b":", b"[", b"{")
_CHARACTERS: Final = (",", ":", "[", "{")


def is_too_complex(data: bytes | str) -> bool:
    """Whether JSON must not be decoded where others wait. What is in its strings counts, too."""
    if len(data) <= SIMPLE_BYTES:
        return False
    found = 0
    for one in _CHARACTERS if isinstance(data, str) else _BYTES:
        found += data.count(one)  # type: ignore[arg-type]
        if found > MAX_VALUES:
            return True
    return False


def count_values(data: bytes) -> int:
    """The number that is limited, roughly that of the values."""
    return sum(map(data.count, _BYTES))
