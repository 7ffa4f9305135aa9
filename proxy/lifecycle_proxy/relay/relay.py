"""From the upstream's response to the client, chunk by chunk.

Nothing waits here. The response pushes what has come; what a chunk becomes is decided in ``Body``,
and it is written before the event loop goes on. A client that falls behind pauses the upstream.
When to give up is decided in the watchdog. How it ends: see ``exchange.ends``.
"""

import asyncio
import time
from contextlib import suppress

from aiohttp import web

from lifecycle_proxy.exchange.connection import break_connection, end_properly, head_of
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.ports import UpstreamResponse
from lifecycle_proxy.relay.body import Body
from lifecycle_proxy.relay.client import AbsentClient, ClientWriter
from lifecycle_proxy.relay.keeping import Keeper, may_outlast, wanted
from lifecycle_proxy.relay.receiver import BodyReceiver


class Relay(BodyReceiver):
    """One response on its way to one client. It is the sink of the upstream's body.

    Args:
        request: the client's.
        upstream: the response; nobody is attached to it.
        start: what was read of its body.
        response: for the client; see ``ClientWriter``.
        body: what becomes of the bytes.
        keeper: knows how long to go on where the client leaves; None to end with it.
    """

    def __init__(
        self,
        request: ClientRequest,
        upstream: UpstreamResponse,
        start: bytes,
        response: web.StreamResponse,
        body: Body,
        *,
        keeper: Keeper | None = None,
    ) -> None:
        super().__init__(request.exchange, upstream, body, request.task.get_loop())
        self._request = request
        self._start = start
        self._response = response
        self._client: ClientWriter | AbsentClient = ClientWriter(request, response)
        self._keeper = keeper
        self._has_begun = False
        self._listeners = self.exchange.listeners
        self._received_bytes = 0
        self._catching_up: asyncio.Task[None] | None = None

    async def run(self) -> web.StreamResponse:
        """Relay until the end, whatever the end.

        Raises:
            asyncio.CancelledError: the client is gone, and so is the request to the upstream.
        """
        try:
            failure = await self._to_the_end(self._keeper)
            if failure is None:
                await self._end_properly()
            else:
                await self._break(failure)
        except asyncio.CancelledError:
            self._client_gone()
            raise
        except ConnectionError:
            self._client_gone()
        finally:
            self.exchange.last_byte = self.last_read
            self._detach()
            self._upstream.close()
        return self._response

    async def _to_the_end(self, keeper: Keeper | None) -> ProxyError | None:
        """Pass the response on until the upstream ends, without the client if it has a keeper.

        Returns:
            Why the upstream ended, if not properly.
        """
        finished = self._finished
        try:
            self._client.prepare()
            self._begin()
            if not finished.done():
                self._client.begin()
            return await (finished if keeper is None else asyncio.shield(finished))
        except (asyncio.CancelledError, ConnectionError) as gone:
            if keeper is None or not may_outlast(self._request, gone):
                raise
        self._goes_on()
        if not self._has_begun:
            self._begin()
        if not await wanted(finished, keeper):
            raise ConnectionResetError("nobody wants the rest")
        return finished.result()

    def _begin(self) -> None:
        """The headers are made: let the body come."""
        self._has_begun = True
        if self._listeners.follow_bytes:
            self._listeners.on_head(self.exchange, "client", *head_of(self._response))
        self.exchange.first_byte = self.last_read
        self.exchange.status = self._response.status
        if self._start:
            self.data_received(self._start)
        if not self._finished.done():
            self._upstream.attach(self)

    def _goes_on(self) -> bool:
        """The client is gone. Whether its stream goes on without it."""
        if self._keeper is None:
            return False
        self._client = AbsentClient()
        if self._catching_up is not None:
            self._catching_up.cancel()
            self._catching_up = None
            if not self._finished.done():
                self._upstream.resume()
        return True

    # --- for the watchdog -----------------------------------------------------------------------

    def stall(self) -> None:
        """Give up, if it is the upstream that is silent, not the client that is slow."""
        if self._catching_up is None:
            cause = f"nothing came for {time.monotonic() - self.last_read:.1f} s"
            message = "the upstream stopped sending during the stream"
            self.fail(ProxyError("upstream_timeout", message, cause=cause))

    def beat(self, now: float) -> None:
        """Send a comment, but not to a client that is behind."""
        if not self._client.has_unsent and (comment := self._body.heartbeat()):
            self._write_own(comment, ((0, len(comment)),))
            self.last_write = now

    # --- what comes from the upstream -----------------------------------------------------------

    def data_received(self, data: bytes, framed: bytes = b"") -> None:
        """See ``BodySink``. The way of nearly every chunk: a call more here can be measured."""
        is_gone, skim = self._client.is_gone, self._body.skim  # no methods: found faster so
        if not data or (is_gone() and not self._goes_on()):
            return
        exchange, now = self.exchange, time.monotonic()
        gap_s = now - self.last_read
        if gap_s > exchange.longest_gap_s:
            if exchange.chunks:
                exchange.longest_gap_s = gap_s
            else:  # until now the time of the headers
                exchange.first_byte = now
        exchange.chunks += 1
        self._received_bytes += len(data)
        self.last_read = now
        try:
            out = data if skim(data) else self._body.feed(data, now)
            if self._listeners.follow_bytes:
                self._listeners.on_chunk(exchange, data, out, self._body.added, now)
            if out:
                self.last_write = now
                exchange.sent_bytes += len(out)
                if self._client.write(out, framed if out is data else b""):
                    self._wait_for_client()
        except Exception as failure:
            self._failed(failure)

    def _wait_for_client(self) -> None:
        if self._catching_up is None:
            self._upstream.pause()
            self._catching_up = asyncio.ensure_future(self._catch_up())

    async def _catch_up(self) -> None:
        """Read on once the client has taken what there is."""
        with suppress(ConnectionError):
            await self._client.drain()
            self.last_read = time.monotonic()  # the silence was not the upstream's
            self._catching_up = None
            if not self._finished.done():
                self._upstream.resume()

    def _detach(self) -> None:
        super()._detach()
        if self._catching_up is not None:
            self._catching_up.cancel()
            self._catching_up = None

    # --- the end --------------------------------------------------------------------------------

    async def _end_properly(self) -> None:
        self.exchange.ended = "done"
        self._write_own(self._body.eof(time.monotonic()), self._body.added)
        try:
            await self._client.end()
        except ConnectionError:
            if self._keeper is None:
                raise

    async def _break(self, failure: ProxyError) -> None:
        self._client.begin()
        self.exchange.fail(failure.code, failure.for_log(self._progress()))
        if self._upstream.was_reset and self.exchange.ended == "upstream_error":
            self._listeners.on_side_end(self.exchange, "upstream", "reset")
        self._write_own(self._body.abort(failure, time.monotonic()), self._body.added)
        if self._body.ends_after_error:
            self._upstream.close()  # not kept for as long as the client takes to read the rest
            await end_properly(self._request, self._response)
            return
        delimited = self._client.is_chunked or self._response.content_length is not None
        break_connection(self._request, delimited=delimited)

    def _client_gone(self) -> None:
        self.exchange.ended = "client_gone"
        self._body.client_gone(time.monotonic())

    def _progress(self) -> str:
        """How far the upstream came."""
        expected = self._upstream.headers.get("Content-Length")
        of = f" of {expected}" if expected else ""
        return f"after {self._received_bytes}{of} bytes of its body"

    def _write_own(self, data: bytes, added: tuple[tuple[int, int], ...]) -> None:
        """Write what follows from no read: a heartbeat, the last frames."""
        if data and (not self._client.is_gone() or self._goes_on()):
            self._listeners.on_write(self.exchange, data, added)
            self._client.write(data)
