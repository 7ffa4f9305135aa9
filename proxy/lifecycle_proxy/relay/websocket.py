"""WebSockets: a tunnel for bytes, once both sides have agreed to it.

Frames are not taken apart and put together again: subprotocols, extensions, pings, close codes and
messages of any size pass because nobody looks at them. A side that reads slowly stops the reading
from the other side.
"""

import asyncio
import time
from contextlib import suppress
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.forwarded_response import ForwardedResponse
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.ports import Upgraded, UpstreamResponse

_BUFFER_BYTES: Final = 1 << 16


def ask(headers: CIMultiDict[str]) -> None:
    """Put the hop-by-hop part of the handshake back, for the hop to the upstream."""
    headers["Connection"] = "Upgrade"
    headers["Upgrade"] = "websocket"


class _ToUpstream:
    """What aiohttp's server takes for a parser: hands all bytes of the client on."""

    def __init__(self, tunnel: "Tunnel", client: asyncio.Transport, upstream: Upgraded) -> None:
        self._tunnel = tunnel
        self._client = client
        self._upstream = upstream
        self._waiting: asyncio.Task[None] | None = None

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._tunnel.last_read = self._tunnel.last_write = time.monotonic()
        self._upstream.write(data)
        if self._waiting is None and self._upstream.unsent_bytes > _BUFFER_BYTES:
            self._client.pause_reading()
            self._waiting = asyncio.ensure_future(self._resume())
        return False, b""

    def feed_eof(self) -> None:
        self._tunnel.closed.set()

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

    async def _resume(self) -> None:
        """Go on reading once the upstream has taken what there is."""
        await self._upstream.drain()
        self._waiting = None
        if not self._client.is_closing():
            self._client.resume_reading()


class _ToClient:
    """The sink of what comes from the upstream."""

    def __init__(self, tunnel: "Tunnel", answer: UpstreamResponse, client: StreamWriter) -> None:
        self._tunnel = tunnel
        self._answer = answer
        self._client = client
        self._waiting: asyncio.Task[None] | None = None

    def data_received(self, data: bytes, framed: bytes = b"") -> None:
        """See ``BodySink``."""
        self._tunnel.last_read = self._tunnel.last_write = time.monotonic()
        transport = self._client.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)
            if self._waiting is None and transport.get_write_buffer_size() > _BUFFER_BYTES:
                self._answer.pause()
                self._waiting = asyncio.ensure_future(self._resume())

    def ended(self, failure: ProxyError | None) -> None:
        """See ``BodySink``."""
        self._tunnel.closed.set()

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

    async def _resume(self) -> None:
        """Go on reading once the client has taken what there is."""
        with suppress(ConnectionError):
            await self._client.drain()
            self._waiting = None
            self._answer.resume()


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
        request: ClientRequest,
        answer: UpstreamResponse,
        response: ForwardedResponse,
        idle_s: float,
    ) -> None:
        self.last_read = self.last_write = time.monotonic()
        self.exchange = request.exchange
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
        ways: list[_ToUpstream | _ToClient] = []
        try:
            await self._response.prepare(self._request)
            self._response.begin()
            if client is None or upstream is None:
                return self._response
            to_client = StreamWriter(self._request.protocol, asyncio.get_running_loop())
            sink = _ToClient(self, self._answer, to_client)
            ways = [_ToUpstream(self, client, upstream), sink]
            self._request.protocol.set_parser(cast(Any, ways[0]))
            self._answer.attach(sink)
            await self._until_closed()
        finally:
            for way in ways:
                way.close()
            # Behind what was written: a close frame still arrives.
            if client is not None:
                client.close()
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
