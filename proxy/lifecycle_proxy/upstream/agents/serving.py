"""What all requests to one agent share: how permissions are decided, how answers are written."""

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.core.agents.chunks import ChunkWriter
from lifecycle_proxy.core.agents.conversation import Asked
from lifecycle_proxy.core.agents.quirks import at
from lifecycle_proxy.core.events import Envelope
from lifecycle_proxy.core.labels import Labels
from lifecycle_proxy.exchange.ports import AskedBy
from lifecycle_proxy.exchange.routes import approvals_url
from lifecycle_proxy.upstream.agents.approvals import Approvals
from lifecycle_proxy.upstream.agents.outputs import StreamOutput
from lifecycle_proxy.upstream.agents.places import Place, Places
from lifecycle_proxy.upstream.agents.response import WrittenResponse
from lifecycle_proxy.upstream.agents.turn import Policy

_EMBEDS: Final = "openwebui"
_UNNAMED: Final = ("plain",)
_MAX_BEAT_S: Final = 60.0
_BEAT: Final = b": keep-alive\n\n"


class AgentServing:
    """One agent.

    Args:
        settings: of the proxy; ``upstream`` is the agent's.
        name: of the upstream.
        approvals: what people decide.
        places: its sessions.
        cancel_s: how long it may take to stop, in seconds.
        echoes_model: whether answers name the model as the request does.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        approvals: Approvals,
        places: Places,
        *,
        cancel_s: float,
        echoes_model: bool = False,
    ) -> None:
        self.name = name
        self.places = places
        self.approvals = approvals
        self._settings = settings
        lifecycle = settings.lifecycle
        self._labels = Labels(max_length=lifecycle.label_max, redacted=lifecycle.redact)
        self._preview = lifecycle.result_preview
        self._cancel_s = cancel_s
        self._echoes_model = echoes_model
        stall_s = settings.upstream.stall_timeout_s
        self._beat_s = min(stall_s / 3, _MAX_BEAT_S) if stall_s else _MAX_BEAT_S
        self._turns: set[asyncio.Task[None]] = set()
        self._stopping: dict[str, set[asyncio.Task[None]]] = {}

    async def close(self) -> None:
        """End everything."""
        for task in list(self._turns):
            task.cancel()
        await self.places.close()

    async def settled(self, owner: str) -> None:
        """Wait until what somebody has stopped has stopped: more is asked at once, perhaps."""
        if stopping := self._stopping.get(owner):
            await asyncio.wait(stopping, timeout=self._cancel_s)

    def policy(self, asked_by: AskedBy, owner: str) -> Policy:
        """How permissions of a turn are decided.

        Args:
            asked_by: the client.
            owner: of the session.
        """
        server = self._settings.server
        scheme = "https" if server.tls_cert else "http"
        here = f"{scheme}://{asked_by.headers.get('Host', 'localhost')}"

        def url(token: str) -> str:
            return approvals_url(server.public_url or here) + token

        mode, labels = self._settings.upstream.permissions, self._labels
        return Policy(mode, self.approvals, labels, owner, self.name, url, asked_by.on_approval)

    def output(
        self, asked: Asked, body: Mapping[str, Any], asked_by: AskedBy, response: WrittenResponse
    ) -> StreamOutput:
        """The output of a stream.

        Args:
            asked: by the request.
            body: of the request.
            asked_by: the client.
            response: that is written.
        """
        has_usage = at(body, ("stream_options", "include_usage")) is True
        writer = ChunkWriter(self.envelope(body), result_preview=self._preview, has_usage=has_usage)
        dialect = asked_by.dialect
        embeds = dialect == _EMBEDS and bool(self._settings.server.public_url)
        named = dialect not in _UNNAMED
        return StreamOutput(asked, writer, response, embeds=embeds, names_events=named)

    def envelope(self, body: Mapping[str, Any]) -> Envelope:
        """The id of a new answer, and what else its chunks share.

        Args:
            body: of the request.
        """
        asked = body.get("model") if self._echoes_model else None
        model = asked if isinstance(asked, str) and asked else self.name
        return Envelope(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), model)

    def follow(self, work: asyncio.Task[None]) -> None:
        """Keep a turn, until it is over."""
        self._turns.add(work)
        work.add_done_callback(self._turns.discard)

    def stop(self, place: Place, work: asyncio.Task[None], owner: str) -> None:
        """Nobody wants the rest of a turn: the agent is asked to stop, and made to, in the end.

        Args:
            place: of the session.
            work: the turn.
            owner: whose next request waits until that is so.
        """
        session = place.session
        if session is None or work.done():
            return
        session.cancel()
        session.resume()
        stopping = self._stopping.setdefault(owner, set())
        stopping.add(work)
        work.add_done_callback(lambda _: self._stopped(owner, work))
        loop = asyncio.get_running_loop()
        place.timer = loop.call_later(self._cancel_s, self.places.drop, place)

    def _stopped(self, owner: str, work: asyncio.Task[None]) -> None:
        stopping = self._stopping[owner]
        stopping.discard(work)
        if not stopping:
            del self._stopping[owner]

    def beat(self, response: WrittenResponse, turn: "asyncio.Task[None]") -> None:
        """Show the watchdog that the agent's process lives, however long its tools run.

        Args:
            response: that is written.
            turn: which goes on.
        """
        if not turn.done():
            response.write(_BEAT)
            asyncio.get_running_loop().call_later(self._beat_s, self.beat, response, turn)
