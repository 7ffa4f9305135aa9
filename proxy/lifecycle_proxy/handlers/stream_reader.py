"""One reader beside a stream: from the log to its connection, at its own pace.

Replay and live are one way: what is behind the cursor is read, written, and then more is waited
for. Nothing is collected for a reader, so a slow one only falls behind.
"""

import asyncio
import time
from contextlib import suppress
from typing import Final

from aiohttp import web

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.core.stream_events import ClosedReason
from lifecycle_proxy.core.vocabularies import VOCABULARIES, Vocabulary
from lifecycle_proxy.exchange import responses
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.handlers.stream_opening import CHOSEN_ID
from lifecycle_proxy.state.event_log import EventLog
from lifecycle_proxy.state.stream_records import (
    LogUnavailableError,
    Page,
    StreamExpiredError,
    StreamKey,
    StreamUnknownError,
)
from lifecycle_proxy.telemetry.stream_metrics import StreamMetrics

# Connections were lost after 16 s of silence.
_KEEP_ALIVE_S: Final = 10.0
# How long a reader that comes before its stream waits; browsers then connect anew.
_EARLY_S: Final = 60.0
# A reader that takes nothing for so long is gone.
_STALL_S: Final = 60.0
_CLOSED: Final[dict[ClosedReason, str]] = {
    "not_begun": "no request with this id has begun so far; connect again to go on waiting",
    "too_many_readers": "too many readers wait for streams that have not begun; try again",
    "draining": "the proxy is shutting down; connect again, perhaps to another replica",
    "stream_expired": "the stream is not kept any more",
    "streams_unavailable": "what is kept of streams cannot be read at the moment; try again",
}


class StreamReader:
    """Answers readers.

    Args:
        settings: ``server.heartbeat_s``.
        log: of all streams.
        metrics: readers are counted there.
        is_ending: set when nobody is to wait for streams that have not begun any more.
        early_s: how long to wait for a stream that has not begun, in seconds.
        stall_s: how long a reader may take nothing, in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        metrics: StreamMetrics,
        is_ending: asyncio.Event,
        *,
        early_s: float = _EARLY_S,
        stall_s: float = _STALL_S,
    ) -> None:
        self._keep_alive_s = min(settings.server.heartbeat_s or _KEEP_ALIVE_S, _KEEP_ALIVE_S)
        self._log = log
        self._metrics = metrics
        self._is_ending = is_ending
        self._early_s = early_s
        self._stall_s = stall_s

    async def answer(
        self,
        request: ClientRequest,
        key: StreamKey,
        cursor: int,
        dialect: str,
        *,
        may_wait: bool = True,
    ) -> web.StreamResponse:
        """The events of a stream behind a cursor, to the stream's end.

        Args:
            request: the reader's.
            key: of the stream.
            cursor: the number of the last event that it knows; 0 for none.
            dialect: a vocabulary's name.
            may_wait: for a stream that has not begun.

        Raises:
            ProxyError: ``not_found``, ``stream_expired`` or ``streams_unavailable``.
        """
        page = await self._first_page(key, cursor, may_wait=may_wait)
        if page is not None and page.is_done and cursor and cursor >= page.last:
            return web.Response(status=204)  # browsers do not come again then
        vocabulary = VOCABULARIES[dialect](key.id)
        if request.method == "HEAD":
            return web.Response(headers=responses.own_stream(vocabulary.headers).headers)
        response = responses.own_stream(vocabulary.headers)
        self._metrics.reader_came(dialect)
        try:
            with suppress(ConnectionError):
                reading = _Reading(request, response, vocabulary, self._stall_s)
                await response.prepare(request)
                await reading.write(vocabulary.begin())
                why = None if page is not None else await self._maybe_no_beginning(key, reading)
                why = why or await self._followed(key, cursor, reading)
                await reading.end(why)
        finally:
            self._metrics.reader_left()
        return response

    async def _first_page(self, key: StreamKey, cursor: int, *, may_wait: bool) -> Page | None:
        """What there is; None for a stream that may begin yet.

        Raises:
            ProxyError: see ``answer``.
        """
        try:
            return await self._log.read(key, cursor, 0)
        except StreamUnknownError as unknown:
            if may_wait and CHOSEN_ID.fullmatch(key.id) and not self._is_ending.is_set():
                return None
            raise refusal(unknown) from None
        except (StreamExpiredError, LogUnavailableError) as failure:
            if isinstance(failure, LogUnavailableError):
                self._metrics.unavailable()
            raise refusal(failure) from None

    async def _maybe_no_beginning(self, key: StreamKey, reading: "_Reading") -> ClosedReason | None:
        """Wait for a stream that has not begun; None if it begins."""
        loop, left_s = asyncio.get_running_loop(), self._early_s
        while not self._is_ending.is_set():
            wait_s = min(self._keep_alive_s, left_s)
            started = loop.time()
            if await self._begins_within(key, wait_s):
                return None
            left_s -= wait_s
            if self._is_ending.is_set():
                break
            if loop.time() - started < wait_s / 2:
                return "too_many_readers"
            if left_s <= 0:
                return "not_begun"
            await reading.keep_alive()
        return "draining"

    async def _begins_within(self, key: StreamKey, wait_s: float) -> bool:
        """Whether a stream begins in time, and before the process ends."""
        beginning = asyncio.ensure_future(self._log.wait_for(key, wait_s))
        end = asyncio.ensure_future(self._is_ending.wait())
        try:
            await asyncio.wait((beginning, end), return_when=asyncio.FIRST_COMPLETED)
            return beginning.done() and beginning.result()
        finally:
            beginning.cancel()
            end.cancel()

    async def _followed(
        self, key: StreamKey, cursor: int, reading: "_Reading"
    ) -> ClosedReason | None:
        """Write what is behind the cursor, until the end of the stream, or of its being kept.

        Returns:
            Why the reader cannot get all; None if it has.
        """
        try:
            await self._follow(key, cursor, reading)
        except (StreamUnknownError, StreamExpiredError):
            return "stream_expired"
        except LogUnavailableError:
            return "streams_unavailable"
        return None

    async def _follow(self, key: StreamKey, cursor: int, reading: "_Reading") -> None:
        vocabulary = reading.vocabulary
        if cursor and vocabulary.needs_history:
            await self._learn(key, cursor, vocabulary)
        while True:
            page = await self._log.read(key, cursor, self._keep_alive_s)
            if cursor > page.last:  # of no event there is
                await reading.write(vocabulary.reset(cursor))
                cursor = 0
                continue
            cursor = cursor or page.before
            if cursor + 1 < page.first:
                self._metrics.gap()
                await reading.write(vocabulary.gap(cursor + 1, page.first, page.open_calls))
                cursor = page.first - 1
            if page.events:
                await reading.write(b"".join(map(vocabulary.render, page.events)))
                cursor = page.events[-1].seq
            if page.is_done and cursor >= page.last:
                return
            if not page.events:
                await reading.keep_alive()

    async def _learn(self, key: StreamKey, cursor: int, vocabulary: Vocabulary) -> None:
        """Let a vocabulary know what its reader knows."""
        after = 0
        while after < cursor:
            page = await self._log.read(key, after, 0)
            if max(after, page.before) + 1 < page.first:
                vocabulary.gap(after + 1, page.first, page.open_calls)
            for event in page.events:
                if event.seq <= cursor:
                    vocabulary.render(event)
            if not page.events:
                return
            after = page.events[-1].seq


class _Reading:
    """The reader's connection."""

    def __init__(
        self,
        request: ClientRequest,
        response: web.StreamResponse,
        vocabulary: Vocabulary,
        stall_s: float,
    ) -> None:
        self.vocabulary = vocabulary
        self._request = request
        self._response = response
        self._stall_s = stall_s

    async def end(self, why: ClosedReason | None) -> None:
        """End the response.

        Args:
            why: it ends before the stream; None where that has ended.

        Raises:
            ConnectionError: the reader is gone.
        """
        vocabulary = self.vocabulary
        last = vocabulary.done() if why is None else vocabulary.closed(why, _CLOSED[why])
        await self.write(last)
        await self._response.write_eof()

    async def keep_alive(self) -> None:
        """Show that the connection stands.

        Raises:
            ConnectionError: it does not.
        """
        await self.write(self.vocabulary.keep_alive(time.time()))

    async def write(self, data: bytes) -> None:
        """Write some bytes, once the reader has taken those before them.

        Raises:
            ConnectionError: it is gone, or takes nothing.
        """
        if not data:
            return
        try:
            async with asyncio.timeout(self._stall_s):
                await self._response.write(data)
        except TimeoutError:
            if (transport := self._request.transport) is not None:
                transport.abort()
            raise ConnectionResetError("the reader takes nothing") from None
        self._request.exchange.sent_bytes += len(data)


def refusal(failure: Exception) -> ProxyError:
    """What a reader of a stream gets that cannot be read."""
    match failure:
        case StreamExpiredError():
            return ProxyError("stream_expired", _CLOSED["stream_expired"])
        case LogUnavailableError():
            return ProxyError("streams_unavailable", _CLOSED["streams_unavailable"])
        case _:
            message = "there is no such stream, or it was begun with another key"
            return ProxyError("not_found", message)
