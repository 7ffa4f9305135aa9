"""What the tests of recordings share: exchanges as a cassette's reader gives them."""

import hashlib
import json
from collections.abc import Sequence
from itertools import count
from typing import Any

from lifecycle_proxy.exchange.ends import SideEnd
from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.recording.cassette import Piece, RecordedExchange, Request, Side

CHAT = "/v1/chat/completions"
SSE_HEAD: Headers = (("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"))
_ids = count(1)


def asked(
    body: Any = None,
    *headers: tuple[str, str],
    method: str = "POST",
    target: str = CHAT,
) -> Request:
    """A request. Bytes and None are the body as they are, anything else is its JSON."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    return Request(method, target, headers, data)


def exchange(
    request: Request | None = None,
    pieces: Sequence[bytes | tuple[float, bytes]] = (b"{}",),
    *,
    status: int = 200,
    reason: str = "OK",
    headers: Headers = SSE_HEAD,
    end: SideEnd = "eof",
    gap_ms: float = 1.0,
    **fields: Any,
) -> RecordedExchange:
    """A whole exchange, the same on both sides; pieces without a time come ``gap_ms`` apart."""
    side = Side(status, reason, headers, gap_ms, end=end)
    for number, piece in enumerate(pieces, 2):
        ms, data = piece if isinstance(piece, tuple) else (gap_ms * number, piece)
        side.pieces.append(Piece(ms, data))
    side.end_ms = (side.pieces[-1].ms if side.pieces else side.ms) + gap_ms
    side.sha256 = hashlib.sha256(side.body).hexdigest()
    name = fields.pop("name", f"ex_{next(_ids)}")
    whole: dict[str, Any] = {"upstream": side, "client": side, "is_complete": True, **fields}
    return RecordedExchange(name, "", "chat", request or asked({}), **whole)
