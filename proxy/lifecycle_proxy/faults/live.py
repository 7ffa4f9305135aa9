"""Faults on live traffic, if they are asked for and allowed: a response that breaks on purpose."""

import asyncio
from collections import deque
from typing import Final

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.exchange.ports import BodySink, Upgraded, UpstreamResponse
from lifecycle_proxy.faults.plan import FaultPlan, FaultResponse
from lifecycle_proxy.faults.transform import Action, Delay, Disconnect, Forward

PLAN: web.RequestKey[FaultPlan] = web.RequestKey("plan", FaultPlan)
_WHY = "a fault, as asked for ([faults])"
_End = ProxyError | None  # as broken, or a proper one
_FULL_BYTES: Final = 1 << 16  # behind this much no more is read from the upstream
# Faults are applied to parts of this size: a drip makes many actions of few bytes.
_PART_BYTES: Final = 1 << 14


def response_of(answer: FaultResponse) -> web.Response:
    """A response that a fault puts in the upstream's place."""
    return web.Response(
        status=answer.status,
        reason=answer.reason,
        headers=CIMultiDict(answer.headers),
        body=answer.body,
    )


class FaultyResponse:
    """An ``UpstreamResponse`` in front of another one, which applies a fault plan to its body.

    What the upstream sends is queued as it came; faults are applied when its turn comes.

    Args:
        response: of the upstream.
        plan: what goes wrong.
    """

    def __init__(self, response: UpstreamResponse, plan: FaultPlan) -> None:
        self.status, self.reason = response.status, response.reason
        self._headers = CIMultiDict(response.headers)
        if plan.changes_size:
            self._headers.popall("Content-Length", None)
        self._response = response
        self._fault = plan.live()
        self._sink: BodySink | None = None
        self._arrived: deque[bytes | _End] = deque()
        self._arrived_bytes = 0
        self._waiting: deque[Action | _End] = deque()
        self._is_over = False  # what is queued is all there is
        self._is_paused = False
        self._is_full = False
        self._timer: asyncio.TimerHandle | None = None
        self._is_running = False

    @property
    def headers(self) -> "CIMultiDictProxy[str]":
        return CIMultiDictProxy(self._headers)

    @property
    def raw_headers(self) -> Headers:
        return self._response.raw_headers

    @property
    def was_reset(self) -> bool:
        return self._response.was_reset

    def maybe_upgraded(self) -> Upgraded | None:
        """See ``UpstreamResponse``. Tunnels are left alone."""
        return self._response.maybe_upgraded()

    # --- towards the client ---------------------------------------------------------------------

    def attach(self, sink: BodySink) -> None:
        """See ``UpstreamResponse``."""
        self._sink = sink
        if not self._is_over:
            self._response.attach(self)
        self._run()

    def detach(self) -> None:
        """See ``UpstreamResponse``."""
        self._sink = None
        self._response.detach()

    def pause(self) -> None:
        """See ``UpstreamResponse``."""
        self._is_paused = True

    def resume(self) -> None:
        """See ``UpstreamResponse``."""
        self._is_paused = False
        self._run()

    def close(self) -> None:
        """See ``UpstreamResponse``."""
        self._sink = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()
        self._discard()
        self._response.close()

    # --- from the upstream ----------------------------------------------------------------------

    def data_received(self, data: bytes, framed: bytes = b"") -> None:
        """See ``BodySink``."""
        if self._is_over:
            return
        parts = range(0, len(data), _PART_BYTES)
        self._arrived += (data[start : start + _PART_BYTES] for start in parts)
        self._arrived_bytes += len(data)
        self._run()
        if self._arrived_bytes > _FULL_BYTES and not self._is_over:
            self._is_full = True
            self._response.pause()

    def ended(self, failure: ProxyError | None) -> None:
        """See ``BodySink``."""
        if not self._is_over:
            self._arrived.append(failure)
            self._is_over = True
            self._run()

    # --- in between -----------------------------------------------------------------------------

    def _run(self) -> None:
        """Do what is due, as far as the client has room."""
        if self._is_running:  # a sink may call back
            return
        self._is_running = True
        while self._sink is not None and not self._is_paused and self._timer is None:
            if self._waiting:
                self._do(self._sink, self._waiting.popleft())
            elif self._arrived:
                self._apply(self._arrived.popleft())
            else:
                break
        self._is_running = False
        if self._is_full and self._arrived_bytes <= _FULL_BYTES and not self._is_over:
            self._is_full = False
            self._response.resume()

    def _wake(self) -> None:
        self._timer = None
        self._run()

    def _apply(self, came: bytes | _End) -> None:
        now = asyncio.get_running_loop().time()
        if isinstance(came, bytes):
            self._arrived_bytes -= len(came)
            self._waiting += self._fault.feed(came, now)
        else:
            self._waiting += self._fault.eof(now)
            self._waiting.append(came)
        if self._fault.is_broken:
            self._discard()

    def _do(self, sink: BodySink, step: Action | _End) -> None:
        match step:
            case None | ProxyError():
                sink.ended(step)
            case Forward(data):
                sink.data_received(data)
            case Delay(ms):
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(ms / 1000, self._wake)
            case Disconnect(how):
                self._waiting.clear()
                if how != "stall":  # then nothing comes any more, and the stall limit finds out
                    code = "upstream_protocol" if how == "cut" else "upstream_unreachable"
                    sink.ended(ProxyError(code, _WHY))

    def _discard(self) -> None:
        """What came or comes is not passed on."""
        self._arrived.clear()
        self._arrived_bytes = 0
        self._is_over = True
