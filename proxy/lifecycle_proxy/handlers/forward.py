"""What becomes of a request that is the upstream's to answer: one handler for each kind."""

import asyncio
import itertools
from collections.abc import Awaitable

from aiohttp import web

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.core.apis import APIS
from lifecycle_proxy.exchange import routes
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.faults.live import PLAN, response_of
from lifecycle_proxy.faults.plan import FaultPolicy
from lifecycle_proxy.handlers.conversations import Conversations
from lifecycle_proxy.handlers.dialect_selection import DialectSelector
from lifecycle_proxy.handlers.models import ModelsEndpoint
from lifecycle_proxy.handlers.passthrough import Passthrough
from lifecycle_proxy.handlers.sending import Sender


class Forwarder:
    """Routes a request to the handler for its kind.

    Args:
        settings: everything.
        sender: sends requests to the upstream.
        conversations: handles requests whose response may be an event stream.
        models: answers for all upstreams what models there are; None where there is one upstream.
    """

    def __init__(
        self,
        settings: Settings,
        sender: Sender,
        conversations: Conversations,
        models: ModelsEndpoint | None = None,
    ) -> None:
        self._rules = settings.faults.rules
        self._faults = FaultPolicy(settings.faults.rules, settings.faults.seed)
        self._numbers = itertools.count(1)
        self._conversations = conversations
        self._keys = sender.keys
        self._passthrough = Passthrough(sender, settings.upstream.websocket_idle_s)
        self._selector = selector(settings)
        self._is_routed = settings.is_routed
        self._models = models

    def handle(self, request: ClientRequest) -> Awaitable[web.StreamResponse]:
        """Any request but those for the proxy's own paths.

        Raises:
            ProxyError: ``not_found``: an upstream is named where there is one only.
        """
        asked = routes.split_prefixes(self._keys.without_keys(request.exchange.target))
        if asked.upstream is not None and not self._is_routed:
            message = f"the proxy has nothing at {request.exchange.path[:200]}"
            raise ProxyError("not_found", f"{message}: it has one upstream only")
        if self._rules or self._models is not None:
            return self._maybe_answer(request, asked)
        return self._forward(request, asked)

    async def _maybe_answer(
        self, request: ClientRequest, asked: routes.Prefixes
    ) -> web.StreamResponse:
        """Answer in the upstream's place, if a fault is due or all models are asked for."""
        if self._rules and (answer := await self._maybe_fault(request)):
            return answer
        if self._models is not None and (answer := await self._models.maybe(request, asked)):
            return answer
        return await self._forward(request, asked)

    def _forward(
        self, request: ClientRequest, asked: routes.Prefixes
    ) -> Awaitable[web.StreamResponse]:
        route, profile, path = request.exchange.route, asked.profile, asked.path
        if (api := APIS.get(route)) is not None:
            return self._conversations.handle(request, path, profile, api)
        dialect = self._selector.choose(request.headers, profile)  # refuses an unknown one
        if route == "websocket":
            return self._passthrough.websocket(request, path)
        return self._passthrough.handle(request, path, dialect)

    async def _maybe_fault(self, request: ClientRequest) -> web.Response | None:
        """The faults that hit a request; a response, if the upstream is not to be asked."""
        plan = request[PLAN] = self._faults.sample(next(self._numbers))
        if plan.latency_ms:
            await asyncio.sleep(plan.latency_ms / 1000)
        if plan.answer is None:
            return None
        return response_of(plan.answer)


def selector(settings: Settings) -> DialectSelector:
    """What chooses a dialect, by the settings."""
    own = settings.lifecycle
    return DialectSelector(own.clients, own.dialect, builtin=own.builtin_clients)
