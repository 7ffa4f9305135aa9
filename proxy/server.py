"""Serving: the socket, the signals, and the way out."""

import asyncio
import logging
import signal
import sys
from typing import Final

from aiohttp import web

from proxy.app import WATCH, create_app
from proxy.config import Settings
from proxy.errors import ProxyError

log = logging.getLogger("proxy")

_MAX_HEADERS: Final = 1024
_BACKLOG: Final = 4096
# After our own drain nothing is left that aiohttp would have to wait for.
_SHUTDOWN_S: Final = 1.0


async def start(settings: Settings) -> tuple[web.AppRunner, str]:
    """Listen and serve.

    Returns:
        The runner, and the URL that it serves at.

    Raises:
        OSError: the address cannot be bound.
    """
    runner = web.AppRunner(
        create_app(settings),
        handler_cancellation=True,  # a client that goes away takes its upstream request along
        auto_decompress=False,
        access_log=None,
        max_line_size=settings.server.max_header_bytes,
        max_field_size=settings.server.max_header_bytes,
        max_headers=_MAX_HEADERS,
        shutdown_timeout=_SHUTDOWN_S,
        logger=_quiet(),
    )
    await runner.setup()
    host, port = settings.address
    try:
        site = web.TCPSite(runner, host, port, backlog=_BACKLOG, reuse_address=True)
        await site.start()
    except OSError:
        await runner.cleanup()
        raise
    return runner, _url(runner)


async def stop(runner: web.AppRunner, drain_s: float) -> None:
    """Take no new connections, let open streams end, break off what is left after the limit.

    Args:
        drain_s: how long open streams may take, in seconds.
    """
    for site in list(runner.sites):
        await site.stop()
    watch = runner.app[WATCH]
    if not await watch.idle(drain_s):
        watch.fail_all(ProxyError("draining", "the proxy is shutting down"))
        await watch.idle(_SHUTDOWN_S)
    await runner.cleanup()


async def serve(settings: Settings) -> None:
    """Serve until a signal says stop; a second one ends the process at once."""
    runner, url = await start(settings)
    print(f"listening on {url} -> {settings.upstream_base}", flush=True)
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def stop_now() -> None:
        if asked.is_set():
            sys.stdout.flush()
            raise SystemExit(0)
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop_now)
    await asked.wait()
    log.info("stopping: open streams have %g s to end", settings.server.drain_timeout_s)
    await stop(runner, settings.server.drain_timeout_s)


def _url(runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _quiet() -> logging.Logger:
    """aiohttp's own logger writes a traceback for every bad request and every lost client."""
    quiet = logging.getLogger("proxy.http")
    quiet.addFilter(_drop_traceback)
    return quiet


def _drop_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info:
        record.msg, record.args = f"{record.getMessage()}: {record.exc_info[1]!r}", ()
        record.exc_info = None
    return True
