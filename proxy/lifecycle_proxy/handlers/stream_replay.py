"""The response of a stream once more: what its client has got, from any byte on, then live."""

import asyncio
from contextlib import suppress
from typing import Final

from aiohttp import HttpVersion11, web

from lifecycle_proxy.exchange import responses
from lifecycle_proxy.exchange.connection import break_connection
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.headers import HOP_BY_HOP
from lifecycle_proxy.state.event_log import EventLog
from lifecycle_proxy.state.stream_records import (
    BytesPage,
    LogUnavailableError,
    StreamExpiredError,
    StreamKey,
    StreamUnknownError,
)

RESUMED: Final = "X-Lifecycle-Resumed"
_WAIT_S: Final = 5.0
_STALL_S: Final = 60.0
# They belong to the connection, or are made anew.
_OWN: Final = {name.encode() for name in (*HOP_BY_HOP, "content-length", "date")}
_GONE: Final = (StreamUnknownError, StreamExpiredError, LogUnavailableError)


class StreamReplay:
    """Gives streams again.

    Args:
        log: of all streams.
        stall_s: how long a client may take nothing, in seconds.
    """

    def __init__(self, log: EventLog, *, stall_s: float = _STALL_S) -> None:
        self._log = log
        self._stall_s = stall_s

    async def maybe_answer(
        self, request: ClientRequest, key: StreamKey, offset: int = 0
    ) -> web.StreamResponse | None:
        """The response from an offset on.

        Args:
            request: the client's.
            key: of the stream.
            offset: how many bytes are left out.

        Returns:
            None where it cannot be given: it is not kept, too large, or there never was one.
        """
        with suppress(*_GONE):
            page = await self._log.read_bytes(key, offset, 0)
            while page.head is None and not page.end:
                page = await self._log.read_bytes(key, offset, _WAIT_S)
            if page.head is not None and page.end != "given_up":
                return await self._answer(request, key, offset, page)
        return None

    async def _answer(
        self, request: ClientRequest, key: StreamKey, offset: int, page: BytesPage
    ) -> web.StreamResponse:
        assert page.head is not None
        exchange = request.exchange
        kept = [one for one in page.head.headers if one[0].lower() not in _OWN]
        head = (*kept, (RESUMED.encode(), b"true"))
        response = responses.kept_head(page.head.status, page.head.reason, head)
        exchange.stream, exchange.first_byte = True, exchange.started
        try:
            await response.prepare(request)
            response.begin()
            while True:
                if page.data:
                    await self._write(request, response, page.data)
                    offset += len(page.data)
                if page.end:
                    break
                page = await self._log.read_bytes(key, offset, _WAIT_S)
        except _GONE:
            page = BytesPage(None, b"", "cut")
        except ConnectionError:
            exchange.ended = "client_gone"
            return response
        if page.end == "eof":
            with suppress(ConnectionError):
                await response.write_eof()
        else:
            exchange.ended = "upstream_error"
            break_connection(request, delimited=request.version >= HttpVersion11)
        return response

    async def _write(
        self, request: ClientRequest, response: web.StreamResponse, data: bytes
    ) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                await response.write(data)
        except TimeoutError:
            if (transport := request.transport) is not None:
                transport.abort()
            raise ConnectionResetError("the client takes nothing") from None
        request.exchange.sent_bytes += len(data)
