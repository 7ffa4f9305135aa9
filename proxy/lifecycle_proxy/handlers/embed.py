"""``/-/embed/ID/TOKEN``: the tools of one answer, in the message of a chat that shows it.

Open WebUI puts the page into a frame without rights of its own. The token in its URL is all that is
needed: it is signed, for this stream and a day, and only the client of the chat gets it.
"""

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from aiohttp import web

from lifecycle_proxy.core.vocabularies import DEFAULT
from lifecycle_proxy.exchange.client_scope import owner_of
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.routes import APPROVALS_PREFIX, EMBED_PREFIX
from lifecycle_proxy.handlers.approvals import ApprovalPages
from lifecycle_proxy.handlers.stream_reading import StreamEndpoints
from lifecycle_proxy.handlers.stream_tokens import StreamTokens
from lifecycle_proxy.state.stream_records import StreamKey

VALID_S: Final = 86_400.0


class EmbedPages:
    """Handles requests of such pages.

    Args:
        base: the URL at which browsers reach the proxy.
        page: the text, and its content security policy.
        streams: has the events.
        tokens: name the stream.
    """

    def __init__(
        self, base: str, page: tuple[str, str], streams: StreamEndpoints, tokens: StreamTokens
    ) -> None:
        self._base = base.rstrip("/") + EMBED_PREFIX
        self._text, policy = page
        self._streams = streams
        self._tokens = tokens
        self._headers = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }

    def url(self, request: ClientRequest) -> str:
        """Where the tools of a request's stream are to be seen."""
        key = StreamKey(owner_of(request.headers), request.exchange.stream_id)
        return f"{self._base}{key.id}/{self._tokens.make(key)[0]}"

    async def handle(self, request: ClientRequest, path: str) -> web.StreamResponse:
        """The page, or what it asks for.

        Args:
            request: the browser's.
            path: without the query.

        Raises:
            ProxyError: ``method_not_allowed``, ``not_found``, ``invalid_token``, or see
                ``StreamEndpoints.events``.
        """
        if request.method not in ("GET", "HEAD"):
            raise ProxyError("method_not_allowed", "pages are read with GET")
        stream_id, _, rest = path.removeprefix(EMBED_PREFIX).partition("/")
        token, _, what = rest.partition("/")
        if what not in ("", "events"):
            raise ProxyError("not_found", "the page has nothing there")
        key = StreamKey(self._tokens.owner(token, stream_id), stream_id)
        if what == "events":
            return await self._streams.events(request, key, DEFAULT, may_wait=False)
        return web.Response(text=self._text, content_type="text/html", headers=self._headers)


class FramedPages(NamedTuple):
    """The pages that stand within a chat. The path of each holds a token, which is all it needs.

    Attributes:
        approvals: of agents.
        embeds: tools of an answer; None where there are none.
    """

    approvals: ApprovalPages
    embeds: EmbedPages | None

    def maybe_handle(
        self, path: str
    ) -> Callable[[ClientRequest, str], Awaitable[web.StreamResponse]] | None:
        """What answers requests for a path; None for other paths.

        Args:
            path: without the query.
        """
        if path.startswith(APPROVALS_PREFIX):
            return self.approvals.handle
        if self.embeds is not None and path.startswith(EMBED_PREFIX):
            return self.embeds.handle
        return None
