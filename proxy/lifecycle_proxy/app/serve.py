"""Serving: the sockets, the signals, and the way out."""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import Final

from lifecycle_proxy.app.factory import ProxyApp
from lifecycle_proxy.app.reloads import Reloads
from lifecycle_proxy.config.model import Settings, server_context
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.server.listener import bind, notify, remove_socket_file
from lifecycle_proxy.server.runner import Runner, start_runner

__all__ = ("Runner", "serve", "start", "stop")

log = logging.getLogger("proxy.app")

_LAST_WORDS_S: Final = 0.5  # for the error frames of streams that are broken off
_OBJECTS: Final = 10_000  # made and not ended, between two looks for cycles; Python has 700
_CLEAN_UP_S: Final = 0.2  # aiohttp's own; it takes it twice


async def start(
    settings: Settings,
    sock: socket.socket | None = None,
    create: Callable[[Settings], ProxyApp] = ProxyApp,
) -> tuple[Runner, str]:
    """Listen and serve.

    Args:
        settings: everything.
        sock: a bound socket, which is closed where the start fails; None binds one.
        create: makes the proxy.

    Returns:
        What ``stop`` takes, and the URL where it serves.

    Raises:
        OSError: the address cannot be bound, or a part of the proxy does not start.
    """
    tls = server_context(settings)
    sock = sock or bind(settings)
    try:
        app = create(settings)
    except BaseException:
        sock.close()
        raise
    return await start_runner(app, sock, settings, tls=tls, end_s=_CLEAN_UP_S)


async def stop(runner: Runner, drain_s: float) -> None:
    """Take nothing new, let open streams end, break off what is left after the limit.

    Args:
        drain_s: how long open streams may take, in seconds.
    """
    # Connections are still taken: who comes now gets a 503 and when to come again, and a probe
    # learns that it should send nobody.
    app = _app(runner)
    if not await app.drained(drain_s):
        app.give_up(ProxyError("draining", "the proxy is shutting down"))
        await app.drained(_LAST_WORDS_S)
    await runner.stop()


async def serve(
    settings: Settings,
    sock: socket.socket | None = None,
    *,
    supervisor: int | None = None,
    announce: Callable[[str], None] | None = None,
    reload: Callable[[], Settings] | None = None,
) -> None:
    """Serve until a signal says stop; a second one ends the process at once.

    SIGHUP reads the settings once more: new requests get the new ones.

    Args:
        settings: everything.
        sock: a bound socket; None binds one.
        supervisor: a socket's descriptor: a byte is sent when connections are taken, and its end
            is the order to stop. None where nobody supervises: then systemd is notified.
        announce: is called with the URL once connections are taken, in a thread: it may wait.
        reload: reads the settings, in a thread; None where they cannot be read again.
    """
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():
            os._exit(0)  # the second signal: nothing may stand in its way
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    runner, where = await start(settings, sock)
    reloads = Reloads(_app(runner), reload)
    loop.add_signal_handler(signal.SIGHUP, reloads.ask)
    _spare_collections()
    if supervisor is None:
        notify("READY=1")
    else:
        os.write(supervisor, b"r")
        loop.add_reader(supervisor, asked.set)
    if announce is not None:
        await asyncio.to_thread(announce, where)
    await asked.wait()
    await reloads.close()
    if supervisor is None:
        notify("STOPPING=1")
    else:
        loop.remove_reader(supervisor)
    drain_s = _app(runner).settings.server.drain_timeout_s
    log.info("stopping: open streams have %g s to end", drain_s)
    await stop(runner, drain_s)
    if supervisor is None:
        remove_socket_file(settings)
    await asyncio.to_thread(_app(runner).recording_mode.remove_unplayable)


def _spare_collections() -> None:
    """Look for cycles less often, and not among what the process has made to start.

    A stream makes thousands of objects and no cycle. Looking for some is 4 % of what one with tool
    calls costs (``bench/compare.py``, ``mix``).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS)


def _app(runner: Runner) -> ProxyApp:
    assert isinstance(runner.service, ProxyApp)
    return runner.service
