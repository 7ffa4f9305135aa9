"""Serving an application, be it the proxy or a replay, on a socket that is bound already."""

import asyncio
import logging
import socket
import ssl
from contextlib import AsyncExitStack
from typing import Final

from aiohttp import web

from lifecycle_proxy.config.model import Server, Settings
from lifecycle_proxy.server.listener import url
from lifecycle_proxy.server.protocol import Protocol

_MAX_HEADERS: Final = 1024
_BACKLOG: Final = 4096


class Runner(web.AppRunner):
    """aiohttp's runner, with a listener whose connections speak ``Protocol``."""

    listener: asyncio.Server | None = None

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

    async def stop(self) -> None:
        """Take no more connections. Those that do not end in time are reset."""
        if self.listener is not None:
            self.listener.close()
        await self.cleanup()


async def start_runner(
    app: web.Application,
    sock: socket.socket,
    settings: Settings,
    *,
    tls: ssl.SSLContext | None = None,
    end_s: float,
) -> tuple[Runner, str]:
    """Serve an application.

    Args:
        app: its handlers are cancelled when their client goes away.
        sock: bound; closed if the start fails.
        settings: ``[server]``.
        tls: for HTTPS.
        end_s: how long open connections may take when it is stopped, in seconds.

    Returns:
        The runner, whose ``stop`` ends it, and the URL where it serves.

    Raises:
        OSError: it cannot listen, or a part of the application does not start.
    """
    async with AsyncExitStack() as undo:
        undo.callback(sock.close)
        runner = Runner(app, handler_cancellation=True, shutdown_timeout=end_s)
        undo.push_async_callback(runner.cleanup)
        await runner.setup()
        runner.listener = await asyncio.get_running_loop().create_server(
            lambda: runner.protocol(settings.server), sock=sock, backlog=_BACKLOG, ssl=tls
        )
        undo.pop_all()
    return runner, url(sock, settings)
