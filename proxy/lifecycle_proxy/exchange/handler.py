"""What answers a request, and where the request keeps its exchange."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from lifecycle_proxy.exchange.model import Exchange

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
EXCHANGE: web.RequestKey[Exchange] = web.RequestKey("exchange", Exchange)
