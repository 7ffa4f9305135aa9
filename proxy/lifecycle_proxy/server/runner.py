"""Runs the proxy or a replay, on a socket that is bound already."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

from aiohttp import web

from lifecycle_proxy.config.model import Server, Settings
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.server.listener import url
from lifecycle_proxy.server.protocol import Protocol
from lifecycle_proxy.server.service import Service, ask_for_body

_MAX_HEADERS: Final = 1024
_BACKLOG: Final = 4096


class Runner(web.ServerRunner):
    """aiohttp's runner of a low-level server, whose connections speak ``Protocol``.

    Args:
        service: what is served; its handlers are cancelled when their client goes away.
        end_s: how long open connections may take when it is stopped, in seconds.
    """

    __slots__ = ("_listener", "service")

    def __init__(self, service: Service, end_s: float) -> None:
        self.service = service
        self._listener: asyncio.Server | None = None

        class ServedRequest(ClientRequest):
            """A request whose response gets its last headers from the service."""

            async def _prepare_hook(self, response: web.StreamResponse) -> None:  # a private name
                service.finish_headers(self, response)

        def handle(request: Any) -> Awaitable[web.StreamResponse]:  # a ServedRequest
            if "Expect" in request.headers:
                return after_expect(request)
            return service.handle(request)

        async def after_expect(request: ServedRequest) -> web.StreamResponse:
            await ask_for_body(request)
            return await service.handle(request)

        loop = asyncio.get_running_loop()
        made = partial(ServedRequest, loop=loop, client_max_size=service.max_body_bytes)
        server = web.Server(handle, request_factory=made, handler_cancellation=True, loop=loop)
        super().__init__(server, shutdown_timeout=end_s)

    def protocol(self, own: Server) -> Protocol:
        """The protocol of one client connection.

        Args:
            own: the limits of ``[server]``.
        """
        assert self.server is not None, "set up"
        return Protocol(
            self.server,
            own,
            loop=asyncio.get_running_loop(),
            auto_decompress=False,  # bodies pass, or are compared, as they were sent
            access_log=None,  # None turns it off
            max_line_size=own.max_header_bytes,
            max_field_size=own.max_header_bytes,
            max_headers=_MAX_HEADERS,
            logger=logging.getLogger("proxy.http"),
        )

    async def listen(self, sock: socket.socket, own: Server, tls: ssl.SSLContext | None) -> None:
        """Take connections.

        Args:
            sock: bound.
            own: ``[server]``.
            tls: for HTTPS.

        Raises:
            OSError: it cannot listen.
        """
        self._listener = await asyncio.get_running_loop().create_server(
            lambda: self.protocol(own), sock=sock, backlog=_BACKLOG, ssl=tls
        )

    async def stop(self) -> None:
        """Take no more connections. Those that do not end in time are reset."""
        if self._listener is not None:
            self._listener.close()
        await self.cleanup()
        await self.service.close()


async def start_runner(
    service: Service,
    sock: socket.socket,
    settings: Settings,
    *,
    tls: ssl.SSLContext | None = None,
    end_s: float,
) -> tuple[Runner, str]:
    """Serve.

    Args:
        service: what is served.
        sock: bound; closed if the start fails.
        settings: ``[server]``.
        tls: for HTTPS.
        end_s: how long open connections may take when it is stopped, in seconds.

    Returns:
        The runner, whose ``stop`` ends it, and the URL where it serves.

    Raises:
        OSError: it cannot listen, or a part of the service does not start.
    """
    async with AsyncExitStack() as undo:
        undo.callback(sock.close)
        runner = Runner(service, end_s)
        undo.push_async_callback(runner.stop)
        await service.start()
        await runner.setup()
        await runner.listen(sock, settings.server, tls)
        undo.pop_all()
    return runner, url(sock, settings)
