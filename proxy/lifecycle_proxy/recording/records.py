"""The lines of a cassette by their kinds, with the types that ``docs/cassettes.md`` gives them.

A cassette may come from anybody: whatever reads one can rely on these types. Unknown keys and kinds
are ignored.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from lifecycle_proxy.exchange.ends import SideEnd
from lifecycle_proxy.exchange.model import Headers, SideName

_Ms = Annotated[float, Meta(ge=0, le=1e12)]
_Data = str | dict[str, str]  # text, or {"base64": ...}
_Count = Annotated[int, Meta(ge=0)]
_Spans = list[tuple[_Count, _Count]]
_TOLD: Final = ("tool", "emoji", "label", "toolCallId", "status", "reason", "result")


class RequestRecord(Struct, frozen=True):
    """The client's request."""

    id: str
    ts: str
    route: str
    method: str
    target: str
    headers: Headers
    body: _Data | None = None
    streamed: bool = False
    omitted: str = ""
    sha256: str = ""


class BodyRecord(Struct, frozen=True):
    """A piece of a request body that was streamed; the last has the hash of all."""

    id: str
    ms: _Ms
    data: _Data | None = None
    omitted: str = ""
    sha256: str = ""


class ForwardedRecord(Struct, frozen=True):
    """The request as it was sent to the upstream."""

    id: str
    target: str
    headers: Headers
    method: str = ""
    body: _Data | msgspec.UnsetType | None = msgspec.UNSET
    omitted: str = ""


class HeadRecord(Struct, frozen=True):
    """Status and headers of a response."""

    id: str
    side: SideName
    ms: _Ms
    status: _Count
    reason: str
    headers: Headers


class ReadRecord(Struct, frozen=True):
    """The bytes of one read from the upstream."""

    id: str
    ms: _Ms
    data: _Data
    sent: bool = False


class SentRecord(Struct, frozen=True):
    """Bytes that were written to the client."""

    id: str
    ms: _Ms
    data: _Data
    added: _Spans = []


class SideEndRecord(Struct, frozen=True):
    """How one side ended."""

    end: SideEnd
    ms: _Ms
    sha256: str


class EndRecord(Struct, frozen=True):
    """How an exchange ended."""

    id: str
    ended: str
    upstream: SideEndRecord
    client: SideEndRecord
    error: str = ""
    tools: list[dict[str, Any]] = []
    omitted: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a lifecycle event whose fields are of other types."""
        for tool in self.tools:
            for name in _TOLD:
                if name in tool and not isinstance(tool[name], str):
                    raise ValueError(f"tools: {name} is not a string")
            took = tool.get("durationMs", 0)
            if isinstance(took, bool) or not isinstance(took, int | float) or not 0 <= took < 1e15:
                raise ValueError("tools: durationMs is not a number of milliseconds")


Record = (
    RequestRecord | BodyRecord | ForwardedRecord | HeadRecord | ReadRecord | SentRecord | EndRecord
)
_KINDS: Final[dict[object, type[Record]]] = {
    "request": RequestRecord,
    "body": BodyRecord,
    "forwarded": ForwardedRecord,
    "head": HeadRecord,
    "read": ReadRecord,
    "sent": SentRecord,
    "end": EndRecord,
}


def maybe_typed(record: dict[str, Any]) -> Record | None:
    """A record with its types checked; None for one of an unknown kind.

    Raises:
        ValueError: a key is missing, or a value of another type.
    """
    kind = record.get("kind")
    own = _KINDS.get(kind) if isinstance(kind, str) else None
    try:
        return None if own is None else msgspec.convert(record, own)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
