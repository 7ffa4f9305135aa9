"""WebSockets: a tunnel for bytes, once both sides have agreed to it.

Frames are not taken apart and put together again: subprotocols, extensions, pings, close codes and
messages of any size pass because nobody looks at them. A side that reads slowly stops the reading
from the other side.
"""

import asyncio
import time
from contextlib import suppress
from typing import Any, Final, cast

from aiohttp import EMPTY_PAYLOAD, web
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.ports import UpstreamResponse

_BUFFER_BYTES: Final = 1 << 16


def ask(headers: CIMultiDict[str]) -> None:
    """Put the hop-by-hop part of the handshake back, for the hop to the upstream."""
    headers["Connection"] = "Upgrade"
    headers["Upgrade"] = "websocket"


class _Tap:
    """What aiohttp's protocols take for a parser: hands all bytes on to the other side."""

    def __init__(self, tunnel: "Tunnel", source: asyncio.Transport, target: StreamWriter) -> None:
        self._tunnel = tunnel
        self._source = source
        self._target = target
        self._waiting: asyncio.Task[None] | None = None

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._tunnel.last_read = self._tunnel.last_write = time.monotonic()
        transport = self._target.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)
            if self._waiting is None and transport.get_write_buffer_size() > _BUFFER_BYTES:
                self._source.pause_reading()
                self._waiting = asyncio.ensure_future(self._resume())
        return False, b""

    def feed_eof(self) -> None:
        self._tunnel.closed.set()

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

    async def _resume(self) -> None:
        """Go on reading once the other side has taken what there is."""
        with suppress(ConnectionError):
            await self._target.drain()
            self._waiting = None
            if not self._source.is_closing():
                self._source.resume_reading()


class Tunnel:
    """One upgraded connection, both ways.

    Args:
        request: the client's.
        answer: the upstream's 101.
        response: the same for the client.
        idle_s: seconds of silence both ways, after which the tunnel is closed; 0 for never.
    """

    def __init__(
        self,
        request: web.Request,
        answer: UpstreamResponse,
        response: web.StreamResponse,
        idle_s: float,
    ) -> None:
        self.last_read = self.last_write = time.monotonic()
        self.closed = asyncio.Event()
        self._request = request
        self._answer = answer
        self._response = response
        self._idle_s = idle_s

    async def run(self) -> web.StreamResponse:
        """Tunnel until either side closes.

        Raises:
            asyncio.CancelledError: the client is gone, and so is the upstream's side.
        """
        upstream = self._answer.maybe_upgraded()
        client = self._request.transport
        taps: list[_Tap] = []
        try:
            writer = await self._response.prepare(self._request)
            if writer is not None:
                writer.send_headers()
            if client is None or upstream is None:
                return self._response
            to_client = StreamWriter(self._request.protocol, asyncio.get_running_loop())
            taps = [_Tap(self, client, upstream.writer), _Tap(self, upstream.transport, to_client)]
            self._request.protocol.set_parser(cast(Any, taps[0]))
            upstream.set_parser(taps[1], EMPTY_PAYLOAD)
            await self._until_closed()
        finally:
            for tap in taps:
                tap.close()
            # Behind what was written: a close frame still arrives.
            for transport in (client, upstream and upstream.transport):
                if transport is not None:
                    transport.close()
            self._answer.close()
        return self._response

    async def _until_closed(self) -> None:
        while not self.closed.is_set():
            left = self.last_read + self._idle_s - time.monotonic() if self._idle_s else None
            if left is not None and left <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self.closed.wait()

    # --- for the watch: a tunnel has limits of its own ------------------------------------------

    def stall(self) -> None:
        """Silence is the users' business here."""

    def beat(self, now: float) -> None:
        """Pings pass through; the proxy sends none."""

    def fail(self, failure: ProxyError) -> None:
        """Close both sides. Without a close frame, which tells them that it was no proper end."""
        self.closed.set()
