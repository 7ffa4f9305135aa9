"""What answers a request, and what a request carries with it."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from lifecycle_proxy.exchange.model import Exchange


class ClientRequest(web.Request):
    """A request of a client. Attributes: a lookup by aiohttp's keys costs ten times as much.

    Attributes:
        exchange: set before any handler is called.
        keeps_text: whether the client wishes text in its stream's log; None where it does not say.
        keeps_arguments: the same of arguments.
        has_log: the stream's log has begun, or cannot be had.
        finish_headers: of the response, by the settings that the request began with.
    """

    ATTRS = web.Request.ATTRS | {
        *("exchange", "keeps_text", "keeps_arguments", "has_log", "finish_headers")
    }

    exchange: Exchange
    keeps_text: bool | None = None
    keeps_arguments: bool | None = None
    has_log = False
    finish_headers: "Callable[[ClientRequest, web.StreamResponse], None] | None" = None


Handler = Callable[[ClientRequest], Awaitable[web.StreamResponse]]
