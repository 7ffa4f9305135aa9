"""The settings of fault injection: ``[faults]``. Each rule is checked.

``[faults]`` holds a seed, and a ``[[faults.rules]]`` table for each rule:

========================  ==========================================================================
``latency``               ``ms`` before the response headers
``stall``                 silence before frame ``frame`` (1), for ``ms``; without it for ever
``cut_at_byte``           the connection is closed after ``byte`` bytes, without the end
``cut_inside_character``  the same, inside the first character of more than one byte
``reset``                 the connection is reset after ``byte`` bytes
``drop_done``             the ``data: [DONE]`` event is left out
``duplicate_chunk``       frame ``frame`` (1) comes twice
``garbage_line``          the line ``text`` comes before frame ``frame`` (1)
``status_429``            429 instead of the response, with Retry-After ``retry_after_s`` (1)
``status_500``            500 instead of the response
``error_200``             200 instead of the response, with an error object as its JSON body
``slow_drip``             ``size_bytes`` (1) at a time, every ``ms`` (10)
========================  ==========================================================================

Frames are counted from 1, without comments. A body that is not an event stream is one frame. Bytes
are those of the body as the client would get it. A fault at a frame or byte that the body does not
have does not happen.
"""

import difflib
from typing import Annotated, Final

from msgspec import Meta, Struct

Probability = Annotated[float, Meta(ge=0, le=1)]
Milliseconds = Annotated[float, Meta(ge=0, le=86_400_000)]  # a day
Count = Annotated[int, Meta(ge=0)]
Ordinal = Annotated[int, Meta(ge=1)]

# The parameters of each kind. Those with a star are required.
_KINDS: Final[dict[str, tuple[str, ...]]] = {
    "latency": ("ms*",),
    "stall": ("frame", "ms"),
    "cut_at_byte": ("byte*",),
    "cut_inside_character": (),
    "reset": ("byte*",),
    "drop_done": (),
    "duplicate_chunk": ("frame",),
    "garbage_line": ("frame", "text"),
    "status_429": ("retry_after_s",),
    "status_500": (),
    "error_200": (),
    "slow_drip": ("size_bytes", "ms"),
}
KINDS: Final = tuple(_KINDS)


class Fault(Struct, frozen=True, forbid_unknown_fields=True):
    """One ``[[faults.rules]]`` table: a fault, and how often it hits.

    Attributes:
        kind: one of ``KINDS``.
        probability: of hitting an exchange, from 0 to 1.

    Raises:
        ValueError: an unknown kind, or a parameter that the kind does not have, or that is missing.
    """

    kind: str
    probability: Probability = 1.0
    ms: Milliseconds | None = None
    frame: Ordinal | None = None
    byte: Count | None = None
    size_bytes: Ordinal | None = None
    retry_after_s: Count | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            near = difflib.get_close_matches(self.kind, KINDS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"unknown fault {self.kind!r} ({hint}known are {', '.join(KINDS)})")
        takes = [name.rstrip("*") for name in _KINDS[self.kind]]
        for name in self.__struct_fields__[2:]:
            if getattr(self, name) is not None and name not in takes:
                known = f"it takes {', '.join(takes)}" if takes else "it takes no parameters"
                raise ValueError(f"{self.kind} has no {name} ({known})")
        for name in _KINDS[self.kind]:
            if name.endswith("*") and getattr(self, name[:-1]) is None:
                raise ValueError(f"{self.kind} needs {name[:-1]}")
        if self.text is not None and not self.text.isprintable():
            raise ValueError(f"{self.kind}: text is not one printable line")


class FaultSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[faults]``. Without rules nothing happens."""

    seed: int = 1
    rules: list[Fault] = []
