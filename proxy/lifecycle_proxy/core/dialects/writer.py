"""How a dialect writes one stream: most write each event by itself, some go by what came before."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lifecycle_proxy.core.dialects.fields import chunk_of, dumps
from lifecycle_proxy.core.events import Envelope, LifecycleEvent, Observation, ToolCompleted

# Turns one lifecycle event into the bytes of one frame, or of none.
Encoder = Callable[[LifecycleEvent, Envelope], bytes]


class Writer:
    """Writes the frames of one stream, each event by itself. Others are derived from it.

    Attributes:
        whole_arguments: a call is announced with all its arguments, since what is written of it
            cannot be changed later.
        hides_results: deltas of ``role: "tool"`` are taken out, since its clients take their text
            for the answer's.
        needs_full_parse: ``before`` has to see the next event.
        write: one lifecycle event as the bytes of its frames, or of none.

    Args:
        encode: the function behind ``write``.
    """

    whole_arguments = False
    hides_results = False

    def __init__(self, encode: Encoder) -> None:
        self.write = encode
        self.needs_full_parse = False

    def before(self, seen: Sequence[Observation], envelope: Envelope) -> bytes:
        """What must stand in front of an event of the upstream, or of the end of the stream.

        Args:
            seen: what was seen in the event.
            envelope: as the latest chunk has it.
        """
        return b""


# Makes the writer of one stream.
MakeWriter = Callable[[], Writer]


def stateless(encode: Encoder) -> MakeWriter:
    """Writers that write each event by itself."""
    return partial(Writer, encode)


def delta_chunk(choice: int, envelope: Envelope, **delta: Any) -> bytes:
    """A chunk as the upstream would send it, with this delta in this choice.

    Args:
        choice: its index.
        envelope: as the upstream's latest chunk has it.
        delta: the content of the choice.
    """
    entry = {"index": choice, "delta": delta, "finish_reason": None}
    return b"data: " + dumps(chunk_of(entry, envelope)) + b"\n\n"


def outcome_mark(event: ToolCompleted) -> str:
    """How a call ended, behind its line."""
    return f" {'✗' if event.outcome.is_error else '✓'} {event.duration_ms / 1000:.1f} s"
