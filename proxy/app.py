"""The only place where the parts meet."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from aiohttp import web

from proxy import responses
from proxy.config import Settings
from proxy.handlers import Handlers
from proxy.upstream import Upstream
from proxy.watch import Watch

WATCH: web.AppKey[Watch] = web.AppKey("watch", Watch)


def create_app(settings: Settings) -> web.Application:
    """The proxy as an aiohttp application.

    Serve it with ``proxy.server``: a reverse proxy needs a runner that is set up for it.
    """
    app = web.Application()
    upstream = Upstream(settings)
    watch = app[WATCH] = Watch(settings.upstream.stall_timeout_s, settings.server.heartbeat_s)
    handlers = Handlers(settings, upstream, watch)

    async def running(app: web.Application) -> AsyncIterator[None]:
        await upstream.start()
        watching = asyncio.create_task(watch.run())
        yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await upstream.close()

    app.cleanup_ctx.append(running)
    app.on_response_prepare.append(responses.drop_added)
    app.router.add_route("*", "/-/as/{rest:.*}", handlers.forward)
    app.router.add_get("/-/healthy", handlers.healthy)
    app.router.add_route("*", "/-/{rest:.*}", handlers.own)
    app.router.add_route("*", "/{rest:.*}", handlers.forward)
    return app
