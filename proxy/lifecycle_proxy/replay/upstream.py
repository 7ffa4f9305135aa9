"""Recordings in the place of the upstream, in this process: no socket, no second server.

What is played takes the way of live responses: a ``PlayedResponse`` pushes the recorded reads to
the relay, each at its time and in a turn of the event loop of its own, and ends as it was recorded.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy

from lifecycle_proxy.exchange.client_scope import scope_of
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.exchange.ports import BodySink, UpstreamRequest
from lifecycle_proxy.recording.cassette import RecordedExchange, Request
from lifecycle_proxy.replay import notes
from lifecycle_proxy.replay.matching import RecordingIndex, Rules
from lifecycle_proxy.replay.near_miss import MISS_STATUS, NO_RETRY, UNTOLD, Miss
from lifecycle_proxy.replay.schedule import BODILESS, Schedule, schedule, timed
from lifecycle_proxy.upstream.errors import BROKE, CUT
from lifecycle_proxy.upstream.routes import UpstreamUrls

_EARLY_S: Final = 0.0005  # timers are this coarse: a shorter wait is none
_HOLD_S: Final = 600.0  # of silence, where the recording ran into a time limit
_NO_RESPONSE: Final = "the recorded upstream closed the connection without a response"


class PlayedUpstream:
    """The port ``UpstreamClient`` over recordings.

    Args:
        exchanges: that can be played, in the order they were recorded.
        urls: of the upstream in whose place they are.
        rules: how requests are matched.
        speed: 1 as recorded, 10 is ten times as fast, 0 at once.
        first_byte_s: seconds until the headers must have come; None for no limit.
    """

    def __init__(
        self,
        exchanges: Iterable[RecordedExchange],
        urls: UpstreamUrls,
        rules: Rules,
        *,
        speed: float = 1.0,
        first_byte_s: float | None = None,
    ) -> None:
        own = list(exchanges)
        self._index = RecordingIndex(own, rules)
        self._plans = {id(one): timed(schedule(one, "upstream"), speed, None) for one in own}
        self._urls = urls
        self._first_byte_s = first_byte_s

    async def start(self) -> None:
        """Everything is in memory."""

    async def close(self) -> None:
        """Nothing is open."""

    def target(self, path: str) -> str:
        """See ``UpstreamClient``."""
        return self._urls.target(path)

    async def probe(self) -> str:
        """See ``UpstreamClient``. To ask would use a recording up, or be a miss."""
        return ""

    async def open(
        self, request: UpstreamRequest, on_retry: Callable[[], None]
    ) -> "PlayedResponse":
        """See ``UpstreamClient``. A request that no recording answers gets an error with a status
        that SDKs do not try again. What differs from the nearest recording only the log says: the
        client may be another user than the one who was recorded."""
        found = await self.find(request)
        if isinstance(found, Miss):
            notes.log_miss(found)
            return _missed()
        return await self.play(request, found)

    async def find(self, request: UpstreamRequest) -> RecordedExchange | Miss:
        """The recording that answers a request."""
        body = request.body
        if body is not None and not isinstance(body, bytes):
            body = b"".join([piece async for piece in body])
        asked = Request(
            request.method, self.target(request.path), tuple(request.headers.items()), body or b""
        )
        # Large bodies, and misses, take a while; other streams are playing.
        found = await asyncio.to_thread(self._index.find, asked, scope_of(request.headers))
        if isinstance(found, Miss):
            return found
        notes.log_found(found, asked)
        return found.exchange

    async def play(self, request: UpstreamRequest, exchange: RecordedExchange) -> "PlayedResponse":
        """A recording's response, once its headers are due.

        Args:
            request: what is asked.
            exchange: the recording that ``find`` gave.

        Raises:
            ProxyError: as the recorded upstream failed.
        """
        plan, start = self._plans[id(exchange)], time.monotonic()
        try:
            async with asyncio.timeout(self._first_byte_s):
                await _until(start, plan.head_ms if plan.status else plan.end_ms)
                if not plan.status and plan.end == "timeout":
                    await asyncio.sleep(_HOLD_S)
        except TimeoutError:
            message = "the recorded upstream did not begin to answer in time"
            cause = "upstream.first_byte_timeout_s is over"
            raise ProxyError("upstream_timeout", message, cause=cause) from None
        if not plan.status:
            raise ProxyError("upstream_unreachable", _NO_RESPONSE)
        has_body = request.method != "HEAD" and plan.status not in BODILESS
        return PlayedResponse(plan, start, has_body=has_body)


class PlayedResponse:
    """The port ``UpstreamResponse`` over the schedule of a recording.

    Args:
        plan: what comes when.
        start: when the request came, in seconds on the monotonic clock.
        has_body: not for HEAD, and not with statuses that have none.
    """

    def __init__(self, plan: Schedule, start: float, *, has_body: bool = True) -> None:
        self.status, self.reason = plan.status, plan.reason
        self.raw_headers: Headers = plan.headers
        self.headers: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict(plan.headers))
        self.was_reset = False
        self._start = start
        self._pieces = iter(plan.pieces if has_body else ())
        self._next: tuple[float, bytes] | None = next(self._pieces, None)
        self._end = plan.end if has_body or plan.end != "cut" else "eof"
        self._end_ms = plan.end_ms
        self._sink: BodySink | None = None
        self._is_paused = False
        self._timer: asyncio.Handle | None = None

    def maybe_upgraded(self) -> None:
        """See ``UpstreamResponse``. WebSockets are not recorded."""

    def attach(self, sink: BodySink) -> None:
        """See ``UpstreamResponse``."""
        self._sink = sink
        self._schedule()

    def detach(self) -> None:
        """See ``UpstreamResponse``."""
        self._sink = None
        self._cancel()

    def pause(self) -> None:
        """See ``UpstreamResponse``."""
        self._is_paused = True
        self._cancel()

    def resume(self) -> None:
        """See ``UpstreamResponse``."""
        self._is_paused = False
        self._schedule()

    def close(self) -> None:
        """See ``UpstreamResponse``."""
        self.detach()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        """Call ``_go_on`` when the next read, or the end, is due: a turn of the loop for each."""
        self._cancel()
        if self._sink is None or self._is_paused:
            return
        ms = self._end_ms if self._next is None else self._next[0]
        left_s = self._start + ms / 1000 - time.monotonic()
        loop = asyncio.get_running_loop()
        if left_s > _EARLY_S:
            self._timer = loop.call_later(left_s, self._go_on)
        else:
            self._timer = loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        sink = self._sink
        if sink is None:
            return
        if self._next is not None:
            data, self._next = self._next[1], next(self._pieces, None)
            sink.data_received(data)
            self._schedule()
        elif self._end == "timeout":
            self._end, self._end_ms = "reset", self._end_ms + _HOLD_S * 1000
            self._schedule()
        else:
            self.was_reset = self._end in ("reset", "gone") or self._is_cut_unframed
            self._sink = None
            sink.ended(self._failure())

    @property
    def _is_cut_unframed(self) -> bool:
        """Where the end of the connection is the end of the body, only a reset is a broken end."""
        is_framed = "Transfer-Encoding" in self.headers or "Content-Length" in self.headers
        return self._end == "cut" and not is_framed

    def _failure(self) -> ProxyError | None:
        if self._end == "eof":
            return None
        if self.was_reset:
            return ProxyError("upstream_unreachable", BROKE, cause="as recorded")
        return ProxyError("upstream_protocol", CUT, cause="as recorded")


async def _until(start: float, ms: float) -> None:
    while (left_s := start + ms / 1000 - time.monotonic()) > _EARLY_S:  # noqa: ASYNC110  a clock
        await asyncio.sleep(left_s)


def _missed() -> PlayedResponse:
    """An error in the response's place."""
    body = UNTOLD
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Content-Length": str(len(body)),
        **NO_RETRY,
    }
    plan = Schedule(
        id="",
        status=MISS_STATUS,
        reason="Not Found",
        headers=tuple(headers.items()),
        head_ms=0.0,
        pieces=((0.0, body),),
        end="eof",
        end_ms=0.0,
    )
    return PlayedResponse(plan, time.monotonic())
