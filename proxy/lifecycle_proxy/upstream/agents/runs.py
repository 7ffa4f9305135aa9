"""Hermes Agent's API server as an upstream whose chat completions are runs.

What is not a chat completion, or names a session of Hermes' own, goes to the server unchanged.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from multidict import CIMultiDict

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.core.agents.conversation import Asked
from lifecycle_proxy.exchange.ports import UpstreamClient, UpstreamRequest, UpstreamResponse
from lifecycle_proxy.upstream.agents.approvals import Approvals
from lifecycle_proxy.upstream.agents.client import CANCEL_S, AgentUpstream
from lifecycle_proxy.upstream.agents.hermes import HermesSession
from lifecycle_proxy.upstream.agents.places import Place
from lifecycle_proxy.upstream.agents.request import Start
from lifecycle_proxy.upstream.agents.runs_api import RunsApi

_CHAT: Final = "/chat/completions"
_OWN_SESSION: Final = "X-Hermes-Session-Id"  # Hermes reads its history from its own database
# Of the client's request: they are about its body, or about the form of its answer.
_DROPPED: Final = (
    *("Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Accept"),
    *("Accept-Encoding", "Idempotency-Key"),
)


class HermesRuns(AgentUpstream):
    """See ``AgentUpstream``.

    Args:
        settings: ``upstream`` is the server's; ``lifecycle`` says how calls are shown.
        approvals: what people decide.
        client: the server.
        cancel_s: how long a run may take to stop, in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        approvals: Approvals,
        client: UpstreamClient,
        *,
        cancel_s: float = CANCEL_S,
    ) -> None:
        stall_s = settings.upstream.stall_timeout_s
        super().__init__(
            settings,
            approvals,
            make=lambda own, name, on_end: HermesSession(stall_s),
            cancel_s=cancel_s,
            echoes_model=True,
        )
        self._client = client

    async def start(self) -> None:
        """See ``UpstreamClient``."""
        await self._client.start()

    async def close(self) -> None:
        """Stop all runs."""
        await super().close()
        await self._client.close()

    def target(self, path: str) -> str:
        """See ``UpstreamClient``."""
        return self._client.target(path)

    async def probe(self) -> str:
        """See ``UpstreamClient``."""
        return await self._client.probe()

    async def open(
        self, request: UpstreamRequest, on_retry: Callable[[], None]
    ) -> UpstreamResponse:
        """See ``UpstreamClient``."""
        is_chat = request.method == "POST" and request.path.partition("?")[0].endswith(_CHAT)
        if not is_chat or _OWN_SESSION in request.headers:
            return await self._client.open(request, on_retry)
        return await super().open(request, on_retry)

    def _maybe_start(
        self, request: UpstreamRequest, body: Mapping[str, Any], asked: Asked, place: Place
    ) -> Start | None:
        session, model = place.session, body.get("model")
        assert isinstance(session, HermesSession)
        api = RunsApi(self._client, _runs(request.path), _headers(request.headers))
        return partial(session.start, api, asked, model=model if isinstance(model, str) else "")


def _runs(path: str) -> str:
    """The path of the runs, beside that of the chat completions."""
    return path.partition("?")[0].removesuffix(_CHAT) + "/runs"


def _headers(given: CIMultiDict[str]) -> CIMultiDict[str]:
    kept = given.copy()
    for name in _DROPPED:
        kept.popall(name, None)
    kept["Accept-Encoding"] = "identity"
    return kept
