"""An agent as an upstream: the port ``UpstreamClient`` over programs that are run here.

It serves chat completions and the list of models, with one model: the agent. The chat stream is
written by ``core.agents``; the pipeline then observes it as any backend's.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from lifecycle_proxy.config.agents import AgentSettings
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.core.agents import conversation
from lifecycle_proxy.core.agents.conversation import Asked
from lifecycle_proxy.core.complexity import is_too_complex
from lifecycle_proxy.core.dialects.fields import dumps
from lifecycle_proxy.exchange import streamed_body
from lifecycle_proxy.exchange.client_scope import ANONYMOUS, hashed, maybe_session, owner_of
from lifecycle_proxy.exchange.content_coding import coding, maybe_decoded
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.exchange.ports import AskedBy, UpstreamRequest, UpstreamResponse
from lifecycle_proxy.upstream.agents.acp import AcpSession
from lifecycle_proxy.upstream.agents.approvals import Approvals
from lifecycle_proxy.upstream.agents.claude import ClaudeSession
from lifecycle_proxy.upstream.agents.codex import CodexSession
from lifecycle_proxy.upstream.agents.places import Place, PlaceKey, Places
from lifecycle_proxy.upstream.agents.request import AgentRequest, Start
from lifecycle_proxy.upstream.agents.response import stored
from lifecycle_proxy.upstream.agents.serving import AgentServing
from lifecycle_proxy.upstream.agents.session import MakeSession

log = logging.getLogger("proxy.upstream")

CWD_HEADER: Final = "X-Lifecycle-Cwd"
_EMBEDS: Final = "openwebui"
_UNNAMED: Final = ("plain",)
# What does not speak ACP.
_KINDS: Final[dict[str, MakeSession]] = {
    "codex-app-server": CodexSession,
    "claude-stream-json": ClaudeSession,
}
_MAX_BODY: Final = 16 << 20  # more would hold up others, and no model reads so much
CANCEL_S: Final = 5.0
_MAX_BEAT_S: Final = 60.0
_BEAT: Final = b": keep-alive\n\n"


class _Nobody:
    """The proxy asks itself."""

    headers: Mapping[str, str] = {}
    address = ""
    dialect = ""

    def on_approval(self, fields: Mapping[str, Any]) -> None:
        """Nobody is there to be asked."""

    def on_interim(self, status: int, reason: str, headers: Headers) -> None:
        """An agent sends none."""


_NOBODY: Final = _Nobody()


class AgentUpstream:
    """One agent.

    Args:
        settings: ``upstream`` is the agent's; ``lifecycle`` says how calls are shown.
        approvals: what people decide.
        make: makes a session; None for the one of the agent's kind.
        cancel_s: how long an agent may take to stop, in seconds.
        echoes_model: whether answers name the model as the request does, not as the agent.
    """

    def __init__(
        self,
        settings: Settings,
        approvals: Approvals,
        *,
        make: MakeSession | None = None,
        cancel_s: float = CANCEL_S,
        echoes_model: bool = False,
    ) -> None:
        own: AgentSettings = settings.upstream
        self._own = own
        made = make or _KINDS.get(own.kind, AcpSession)
        self.name = own.agent_model
        places = Places(
            lambda on_end: made(own, self.name, on_end),
            max_sessions=own.max_sessions,
            idle_s=own.idle_s,
        )
        self._serving = AgentServing(
            settings, self.name, approvals, places, cancel_s=cancel_s, echoes_model=echoes_model
        )

    async def start(self) -> None:
        """Processes are started when they are needed."""

    async def close(self) -> None:
        """End all of them."""
        await self._serving.close()

    def target(self, path: str) -> str:
        """See ``UpstreamClient``."""
        return path

    async def probe(self) -> str:
        """See ``UpstreamClient``. To start a process for it would be too much."""
        return ""

    async def open(
        self, request: UpstreamRequest, on_retry: Callable[[], None]
    ) -> UpstreamResponse:
        """See ``UpstreamClient``."""
        try:
            return await self._open(request)
        except ProxyError as error:
            error.is_final = error.is_final or error.code in ("bad_request", "not_found")
            raise

    async def _open(self, request: UpstreamRequest) -> UpstreamResponse:
        path = request.path.partition("?")[0]
        if request.method == "GET" and path.endswith("/models"):
            return stored(dumps({"object": "list", "data": [self._model()]}))
        if request.method == "GET" and path.endswith(f"/models/{self.name}"):
            return stored(dumps(self._model()))
        if request.method == "POST" and path.endswith("/chat/completions"):
            return await self._chat(request, await _body(request))
        text = "an agent serves /v1/chat/completions and /v1/models only"
        raise ProxyError("not_found", text)

    def _model(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": 0, "owned_by": "agent"}

    async def _chat(self, sent: UpstreamRequest, body: Mapping[str, Any]) -> UpstreamResponse:
        asked_by, messages = sent.asked_by or _NOBODY, body.get("messages")
        asked = conversation.maybe_asked(messages if isinstance(messages, list) else [])
        if asked is None:
            raise ProxyError("bad_request", "no message of the user's", "messages")
        owner = self._owner(asked_by, body)
        key = PlaceKey(owner, self._cwd(asked_by.headers), asked.fingerprint())
        serving = self._serving
        await serving.settled(owner)
        place, is_known = await serving.places.take(key)
        turn, place.turn = place.turn, None
        request = AgentRequest(serving, body, asked, asked_by, key, place=place)
        if turn is not None:
            decision = conversation.maybe_answer(asked.text)
            if decision is not None and turn.waiting:
                token, by = turn.waiting[0].token, _who(asked_by)
                serving.approvals.decide(token, allowed=decision, by=f"a message of {by}")
                return await request.go_on(turn)
            turn.withdraw("another message")
            serving.places.drop(place)
            place, is_known = await serving.places.take(key)
            request = AgentRequest(serving, body, asked, asked_by, key, place=place)
        start = self._maybe_start(sent, body, asked, place)
        return await request.begin(is_known=is_known, start=start)

    def _maybe_start(
        self, request: UpstreamRequest, body: Mapping[str, Any], asked: Asked, place: Place
    ) -> Start | None:
        """What has to be done before a turn is begun; None for nothing."""
        return None

    def _owner(self, asked_by: AskedBy, body: Mapping[str, Any]) -> str:
        """Whose session it is: by credential, else by address; and by the conversation's name."""
        owner = owner_of(asked_by.headers)
        if owner == ANONYMOUS:
            owner = f"{owner} {asked_by.address}"
        user = body.get("user")
        name = maybe_session(asked_by.headers) or (user if isinstance(user, str) else "")
        return hashed(f"{owner}\0{name}")

    def _cwd(self, headers: Mapping[str, str]) -> str:
        """The working directory: the settings', or one that the request names below a root."""
        asked = headers.get(CWD_HEADER, "")
        if not asked:
            return self._own.cwd or str(Path.cwd())
        path = _maybe_folder(asked, self._own.cwd_roots)
        if path is None:
            text = "not a folder below one of the agent's cwd_roots"
            raise ProxyError("bad_request", text, CWD_HEADER)
        return str(path)


def _maybe_folder(asked: str, roots: Sequence[str]) -> Path | None:
    """A folder, if it is one below a root; whatever is wrong with its name."""
    try:
        path = Path(asked).resolve()
        is_below = any(path.is_relative_to(Path(root).resolve()) for root in roots)
        return path if Path(asked).is_absolute() and is_below and path.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # too long, closed to us, a link in a circle
        return None


async def _body(request: UpstreamRequest) -> Mapping[str, Any]:
    """The request's body, decoded.

    Raises:
        ProxyError: ``bad_request`` or ``request_too_large``.
    """
    body = await streamed_body.whole(request.body, _MAX_BODY)
    if body is not None and not (isinstance(body, bytes) and len(body) <= _MAX_BODY):
        text = f"an agent is given no request of more than {_MAX_BODY >> 20} MiB"
        raise ProxyError("request_too_large", text)
    if body is not None and (name := coding(request.headers)):
        body = await asyncio.to_thread(maybe_decoded, body, name, _MAX_BODY)
    try:
        if body is None or await asyncio.to_thread(is_too_complex, body):
            raise ProxyError("bad_request", "the request has no JSON object that can be read")
        decoded = await asyncio.to_thread(orjson.loads, body)
    except orjson.JSONDecodeError:
        raise ProxyError("bad_request", "the request is not valid JSON") from None
    if not isinstance(decoded, dict):
        raise ProxyError("bad_request", "the request is not a JSON object")
    return decoded


def _who(asked_by: AskedBy) -> str:
    """Who answered, for the log."""
    return f"credential {owner_of(asked_by.headers)[:12]} at {asked_by.address or 'unknown'}"
