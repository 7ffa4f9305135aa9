"""The access log: one line for each exchange. It never has a body, a header, a key or a query."""

import logging
import time
from typing import Final

from msgspec import UNSET

from lifecycle_proxy.exchange.model import Exchange, Listener
from lifecycle_proxy.exchange.routes import loggable
from lifecycle_proxy.telemetry.logs import Access

_ACCESS: Final = logging.getLogger("proxy.access")
# Clients may send paths and names of models of any length.
_VALUE_LENGTH: Final = 256
_CAUSE_LENGTH: Final = 512
_TEMPLATES: Final = {
    level: vars(logging.LogRecord(_ACCESS.name, level, __file__, 0, "", (), None))
    for level in (logging.INFO, logging.WARNING)
}


class AccessLog(Listener):
    """Writes a line for each exchange that has ended. A failure of the upstream is a warning.

    Args:
        all_of_them: False for failures of the upstream only.
    """

    def __init__(self, *, all_of_them: bool) -> None:
        self._all_of_them = all_of_them

    def on_end(self, exchange: Exchange) -> None:
        if self._all_of_them or exchange.cause:
            access(exchange)


def access(exchange: Exchange) -> None:
    """Write the line of an exchange that ends now. Nearly free if the level is switched off."""
    level = logging.WARNING if exchange.cause else logging.INFO
    if not _ACCESS.isEnabledFor(level):
        return
    started, first_byte = exchange.started, exchange.first_byte
    fields = Access(
        request_id=exchange.request_id[:_VALUE_LENGTH],
        client=exchange.client,
        method=exchange.method[:_VALUE_LENGTH],
        path=loggable(exchange.path.partition("?")[0])[:_VALUE_LENGTH],
        route=exchange.route,
        status=exchange.status,
        ended=exchange.ended,
        error=exchange.error,
        cause=exchange.cause[:_CAUSE_LENGTH],
        duration_ms=round((time.monotonic() - started) * 1000),
        first_byte_ms=None if first_byte is None else round((first_byte - started) * 1000),
        sent_bytes=exchange.sent_bytes,
        chunks=exchange.chunks,
        tools=len(exchange.tools),
        frames=exchange.frames,
        dialect=exchange.dialect,
        model=exchange.model[:_VALUE_LENGTH],
        upstream=exchange.upstream or UNSET,
    )
    _ACCESS.handle(_record(level, fields))


def _record(level: int, fields: Access) -> logging.LogRecord:
    """As ``Logger.info()`` makes it, without looking for the caller: it is always this module."""
    record = logging.LogRecord.__new__(logging.LogRecord)
    record.__dict__ = own = _TEMPLATES[level].copy()  # faster than to fill an empty one
    now = time.time()
    own["msg"], own["created"], own["msecs"] = fields, now, now % 1 * 1000 // 1
    return record
