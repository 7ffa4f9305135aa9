"""The live page, if there is to be one: what it shows, and who shows it."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from lifecycle_proxy.app.recording_mode import redaction_of
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.page import is_on
from lifecycle_proxy.exchange.client_scope import owner_of
from lifecycle_proxy.exchange.model import EXCHANGE, Handler
from lifecycle_proxy.exchange.routes import VIEW_PREFIX
from lifecycle_proxy.handlers.page import LivePage
from lifecycle_proxy.inspect import view
from lifecycle_proxy.inspect.live import LiveExchanges
from lifecycle_proxy.recording.live_tapes import LiveTapes


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

    def followed(self, forward: Handler, *, has_keys: bool) -> Handler:
        """Show each request that is handled.

        Args:
            forward: handles it.
            has_keys: each key sees its own exchanges only.
        """

        def handle(request: web.Request) -> Awaitable[web.StreamResponse]:
            owner = owner_of(request.headers) if has_keys else ""
            self._exchanges.follow(request[EXCHANGE], owner)
            return forward(request)

        return handle

    def page(self, is_draining: Callable[[], bool], *, has_keys: bool) -> LivePage:
        """What answers the browser.

        Args:
            is_draining: whether the process is about to end.
            has_keys: each key sees its own exchanges only.
        """
        files = {name: (view.file(name), kind) for name, kind in view.FILES.items()}
        files[""] = (view.live_page(VIEW_PREFIX), "text/html")
        return LivePage(
            self._exchanges, files, view.POLICY, has_keys=has_keys, is_draining=is_draining
        )


def maybe_live(settings: Settings) -> LiveParts | None:
    """The live page; None where there is to be none."""
    return LiveParts(settings) if is_on(settings) else None
