"""The live page, if there is to be one: what it shows, and who shows it."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from aiohttp import web

from lifecycle_proxy.app.recording_mode import redaction_of
from lifecycle_proxy.app.shared_page import SharedPage
from lifecycle_proxy.config.machine import is_open
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.page import is_on
from lifecycle_proxy.config.streams import PROCESS_KEY
from lifecycle_proxy.exchange.client_scope import owner_of
from lifecycle_proxy.exchange.handler import ClientRequest, Handler
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.exchange.routes import VIEW_PREFIX
from lifecycle_proxy.handlers.embed import VALID_S, EmbedPages
from lifecycle_proxy.handlers.page import LivePage
from lifecycle_proxy.handlers.stream_reading import StreamEndpoints
from lifecycle_proxy.handlers.stream_tokens import StreamTokens
from lifecycle_proxy.inspect import view
from lifecycle_proxy.inspect.live import LiveExchanges
from lifecycle_proxy.recording.live_tapes import LiveTapes
from lifecycle_proxy.state.wire import WireLink


class LiveParts:
    """What the live page is made of.

    Attributes:
        tapes: what is kept of bytes.

    Args:
        settings: ``[page]``, and what is redacted.
    """

    def __init__(self, settings: Settings) -> None:
        self.tapes = LiveTapes(redaction_of(settings), settings.page.keep)
        self._exchanges = LiveExchanges(settings.page.keep, self.tapes)

    def works(self, link: WireLink | None) -> list[Coroutine[Any, Any, None]]:
        """What runs in the background while the proxy does.

        Args:
            link: to the process that workers share; None where there is none.
        """
        return [] if link is None else [SharedPage(self._exchanges, link).run()]

    def followed(
        self, forward: Handler, stop: Callable[[Exchange], bool], *, has_keys: bool
    ) -> Handler:
        """Show each request that is handled.

        Args:
            forward: handles it.
            stop: ends one; whether it could.
            has_keys: each key sees its own exchanges only.
        """

        def handle(request: ClientRequest) -> Awaitable[web.StreamResponse]:
            owner, exchange = owner_of(request.headers) if has_keys else "", request.exchange
            self._exchanges.follow(exchange, owner, stop)
            return forward(request)

        return handle

    def page(
        self,
        settings: Settings,
        is_draining: Callable[[], bool],
        upstreams: Callable[[], list[dict[str, Any]]],
    ) -> LivePage:
        """What answers the browser.

        Args:
            settings: with ``server.api_keys`` each key sees its own exchanges only.
            is_draining: whether the process is about to end.
            upstreams: how each upstream is.
        """
        has_keys = bool(settings.server.api_keys)
        files = {name: (view.file(name), kind) for name, kind in view.FILES.items()}
        files[""] = (view.live_page(VIEW_PREFIX), "text/html")
        return LivePage(
            self._exchanges,
            files,
            view.POLICY,
            has_keys=has_keys,
            may_end=has_keys or not is_open(settings),
            upstreams=upstreams,
            is_draining=is_draining,
        )


def maybe_embeds(settings: Settings, streams: StreamEndpoints) -> EmbedPages | None:
    """Pages within chats; None where there are to be none.

    Args:
        settings: ``page.embed``, ``server.public_url``.
        streams: has the events that they show.
    """
    base = settings.server.public_url
    if not (settings.page.embed and base):
        return None
    tokens = StreamTokens(settings.streams.token_key or PROCESS_KEY, VALID_S)
    return EmbedPages(base, view.embedded_page(), streams, tokens)


def maybe_live(settings: Settings) -> LiveParts | None:
    """The live page; None where there is to be none."""
    return LiveParts(settings) if is_on(settings) else None
