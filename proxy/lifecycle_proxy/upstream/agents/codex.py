"""Codex by its own protocol: ``codex app-server``.

It is JSON-RPC without the member ``jsonrpc``. Where Codex asks for approvals is a matter of its own
settings (``approval_policy``).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from lifecycle_proxy import __version__
from lifecycle_proxy.config.agents import AgentSettings
from lifecycle_proxy.core.agents.chunks import maybe_usage
from lifecycle_proxy.core.agents.codex import CodexReader
from lifecycle_proxy.core.agents.quirks import at
from lifecycle_proxy.core.events import Outcome
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.upstream.agents.questions import Questions
from lifecycle_proxy.upstream.agents.rpc import RpcError, RpcPeer, started_within
from lifecycle_proxy.upstream.agents.session import Permission, Stop, TurnSink

_APPROVALS: Final = (
    "item/commandExecution/requestApproval",
    "item/fileChange/requestApproval",
)
_NO: Final = {"decision": "decline"}


class CodexSession:
    """See ``AgentSession``.

    Args:
        settings: of the upstream.
        name: of the upstream.
        on_end: called when the process ends.
    """

    takes_images = True

    def __init__(
        self, settings: AgentSettings, name: str, on_end: Callable[[ProxyError], None]
    ) -> None:
        self._settings = settings
        self._peer = RpcPeer(name, self._notified, self._requested, versioned=False)
        self._peer.on_end = self._ended
        self._on_end = on_end
        self._questions = Questions(self._peer.answer, _NO)
        self._thread = ""
        self._turn_id = ""
        self._turn: TurnSink | None = None
        self._reader = CodexReader()
        self._over: asyncio.Future[Any] | None = None

    @property
    def session_id(self) -> str:
        return self._thread

    @property
    def pid(self) -> int:
        return self._peer.pid

    async def open(self, cwd: str, resume: str) -> bool:
        """See ``AgentSession``."""
        own = self._settings
        await self._peer.start(own.agent, cwd, own.env)
        return await started_within(own.start_timeout_s, self._begin(cwd, resume))

    async def _begin(self, cwd: str, resume: str) -> bool:
        info = {"name": "lifecycle-proxy", "title": "lifecycle-proxy", "version": __version__}
        await self._peer.request("initialize", {"clientInfo": info})
        self._peer.notify("initialized", {})
        if resume:
            try:
                await self._peer.request("thread/resume", {"threadId": resume, "cwd": cwd})
            except RpcError:
                pass  # it has forgotten the thread: a new one gets all that was said
            else:
                self._thread = resume
                return True
        result = await self._peer.request("thread/start", {"cwd": cwd})
        own = at(result, ("thread", "id"))
        if not (isinstance(own, str) and own):
            raise ProxyError("upstream_protocol", "the agent's thread has no id")
        self._thread = own
        return False

    async def prompt(self, text: str, images: Sequence[tuple[str, str]], turn: TurnSink) -> Stop:
        """See ``AgentSession``."""
        given: list[dict[str, Any]] = [{"type": "text", "text": text, "text_elements": []}]
        given += ({"type": "image", "url": f"data:{kind};base64,{data}"} for kind, data in images)
        self._turn, reader = turn, CodexReader()
        self._reader = reader
        self._over = asyncio.get_running_loop().create_future()
        outcome = Outcome.FAILED
        try:
            params = {"threadId": self._thread, "input": given}
            started = await self._peer.request("turn/start", params)
            self._turn_id = str(at(started, ("turn", "id")) or "")
            ended = await self._over
            is_cancelled = at(ended, ("status",)) == "interrupted"
            outcome = Outcome.CANCELLED if is_cancelled else Outcome.UNKNOWN
        except RpcError as refusal:
            raise ProxyError("upstream_protocol", f"the agent failed: {refusal.message}") from None
        finally:
            self._questions.close()
            self._turn = None
            for piece in reader.finish(outcome):
                turn.piece(piece)
        # An error counts whatever the end says, in front of it or behind it.
        error = at(ended, ("error", "message")) or reader.error
        if error and not is_cancelled:
            raise ProxyError("upstream_protocol", f"the agent failed: {str(error)[:300]}")
        return Stop("stop", maybe_usage(reader.usage), is_cancelled)

    def cancel(self) -> None:
        """See ``AgentSession``."""
        params = {"threadId": self._thread, "turnId": self._turn_id}
        self._peer.ask_only("turn/interrupt", params)
        self._questions.close()

    def pause(self) -> None:
        """See ``AgentSession``."""
        self._peer.pause()

    def resume(self) -> None:
        """See ``AgentSession``."""
        self._peer.resume()

    async def end(self) -> None:
        """See ``AgentSession``."""
        self._questions.close()
        await self._peer.end()

    def _ended(self, failure: ProxyError) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_exception(failure)
            self._over.exception()  # it may be that nobody waits for it yet
        self._on_end(failure)

    def _notified(self, method: str, params: Any) -> None:
        turn = self._turn
        if turn is None or at(params, ("threadId",)) != self._thread:
            return
        if method == "turn/completed":
            if self._over is not None and not self._over.done():
                self._over.set_result(at(params, ("turn",)))
            return
        for piece in self._reader.read(method, params):
            turn.piece(piece)

    def _requested(self, request_id: Any, method: str, params: Any) -> None:
        if method not in _APPROVALS:
            self._peer.refuse(request_id, method)
            return
        turn = self._turn
        is_own = turn is not None and at(params, ("threadId",)) == self._thread
        work = self._decide(turn, params) if turn is not None and is_own else None
        self._questions.add(request_id, work)

    async def _decide(self, turn: TurnSink, params: Any) -> dict[str, str]:
        reader = self._reader
        name, arguments = reader.asked(params)
        if await turn.ask(Permission(name, arguments, is_read=False)):
            return {"decision": "accept"}
        reader.denied(params)
        return _NO
