"""Serving: the sockets, the signals, and the way out."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from lifecycle_proxy.app.factory import GATEWAY, WATCH, create_app
from lifecycle_proxy.config.model import Settings, server_context
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.server.listener import bind, notify, url
from lifecycle_proxy.server.protocol import Protocol
from lifecycle_proxy.server.runner import Runner

__all__ = ("Runner", "serve", "start", "stop")

log = logging.getLogger("proxy")

_MAX_HEADERS: Final = 1024
_BACKLOG: Final = 4096
_LAST_WORDS_S: Final = 0.5  # for the error frames of streams that are broken off
_CLEAN_UP_S: Final = 0.2  # aiohttp's own; it takes it twice


async def start(settings: Settings, sock: socket.socket | None = None) -> tuple[Runner, str]:
    """Listen and serve.

    Args:
        settings: everything.
        sock: a bound socket, which is closed where the start fails; None binds one.

    Returns:
        What ``stop`` takes, and the URL where it serves.

    Raises:
        OSError: the address cannot be bound, or a part of the proxy does not start.
    """
    tls = server_context(settings)
    sock, loop = sock or bind(settings), asyncio.get_running_loop()
    async with AsyncExitStack() as undo:
        undo.callback(sock.close)
        app = create_app(settings)
        # A client that goes away takes its upstream request along.
        runner = Runner(app, handler_cancellation=True, shutdown_timeout=_CLEAN_UP_S)
        undo.push_async_callback(runner.cleanup)
        await runner.setup()
        make = _protocols(runner, settings, loop)
        runner.listener = await loop.create_server(make, sock=sock, backlog=_BACKLOG, ssl=tls)
        undo.pop_all()
    return runner, url(sock, settings)


async def stop(runner: Runner, drain_s: float) -> None:
    """Take nothing new, let open streams end, break off what is left after the limit.

    Args:
        drain_s: how long open streams may take, in seconds.
    """
    # Connections are still taken: who comes now gets a 503 and when to come again, and a probe
    # learns that it should send nobody.
    gateway, watch = runner.app[GATEWAY], runner.app[WATCH]
    if not await gateway.drained(drain_s):
        watch.fail_all(ProxyError("draining", "the proxy is shutting down"))
        gateway.cancel_pending()
        await gateway.drained(_LAST_WORDS_S)
    if runner.listener is not None:
        runner.listener.close()
    await runner.cleanup()


async def serve(
    settings: Settings,
    sock: socket.socket | None = None,
    *,
    supervisor: int | None = None,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve until a signal says stop; a second one ends the process at once.

    Args:
        settings: everything.
        sock: a bound socket; None binds one.
        supervisor: a socket's descriptor: a byte is sent when connections are taken, and its end
            is the order to stop. None where nobody supervises: then systemd is notified.
        announce: is called with the URL once connections are taken, in a thread: it may wait.
    """
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():
            os._exit(0)  # the second signal: nothing may stand in its way
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    runner, where = await start(settings, sock)
    if supervisor is None:
        notify("READY=1")
    else:
        os.write(supervisor, b"r")
        loop.add_reader(supervisor, asked.set)
    if announce is not None:
        await asyncio.to_thread(announce, where)
    await asked.wait()
    if supervisor is None:
        notify("STOPPING=1")
    else:
        loop.remove_reader(supervisor)
    log.info("stopping: open streams have %g s to end", settings.server.drain_timeout_s)
    await stop(runner, settings.server.drain_timeout_s)


def _protocols(
    runner: Runner, settings: Settings, loop: asyncio.AbstractEventLoop
) -> Callable[[], Protocol]:
    """What makes the protocol of each client connection."""
    server = runner.server
    assert server is not None, "set up"
    limit = settings.server.max_header_bytes

    def make() -> Protocol:
        return Protocol(
            server,
            loop=loop,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]  # None turns it off
            max_line_size=limit,
            max_field_size=limit,
            max_headers=_MAX_HEADERS,
            logger=logging.getLogger("proxy.http"),
        )

    return make
