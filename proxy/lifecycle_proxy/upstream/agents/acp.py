"""An agent that speaks ACP (Agent Client Protocol, version 1) over its pipes.

The proxy offers no file system and no terminal, so agents use their own. What it answers are
requests for a permission; all others are refused.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from lifecycle_proxy import __version__
from lifecycle_proxy.config.agents import AgentSettings
from lifecycle_proxy.core.agents.acp import AcpReader
from lifecycle_proxy.core.agents.chunks import finish_reason, maybe_usage
from lifecycle_proxy.core.agents.quirks import Quirks, at, quirks_of
from lifecycle_proxy.core.events import Outcome
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.upstream.agents.questions import Questions
from lifecycle_proxy.upstream.agents.rpc import RpcError, RpcPeer, started_within
from lifecycle_proxy.upstream.agents.session import Permission, Stop, TurnSink

_VERSION: Final = 1
_READS: Final = ("read", "search")
_CANCELLED: Final = {"outcome": {"outcome": "cancelled"}}
_MAX_IDLE_LINES: Final = 10_000  # between two prompts


class AcpSession:
    """See ``AgentSession``.

    Args:
        settings: of the upstream.
        name: of the upstream.
        on_end: called when the process ends.
    """

    def __init__(
        self, settings: AgentSettings, name: str, on_end: Callable[[ProxyError], None]
    ) -> None:
        self._settings = settings
        self._peer = RpcPeer(name, self._notified, self._requested)
        self._peer.on_end = on_end
        self._quirks: Quirks = quirks_of(settings.kind)
        self._capabilities: Any = None
        self._id = ""
        self._turn: TurnSink | None = None
        self._reader: AcpReader | None = None
        self._questions = Questions(self._peer.answer, _CANCELLED)
        self._idle_lines = 0
        self._is_cancelled = False

    @property
    def session_id(self) -> str:
        return self._id if self._how_to_resume() else ""

    @property
    def pid(self) -> int:
        return self._peer.pid

    @property
    def takes_images(self) -> bool:
        return at(self._capabilities, ("promptCapabilities", "image")) is True

    async def open(self, cwd: str, resume: str) -> bool:
        """See ``AgentSession``."""
        own = self._settings
        await self._peer.start(own.agent, cwd, own.env)
        return await started_within(own.start_timeout_s, self._start(cwd, resume))

    async def _start(self, cwd: str, resume: str) -> bool:
        await self._initialize()
        return await self._begin(cwd, resume)

    async def prompt(self, text: str, images: Sequence[tuple[str, str]], turn: TurnSink) -> Stop:
        """See ``AgentSession``."""
        blocks: list[dict[str, Any]] = [{"type": "text", "text": text}]
        blocks += ({"type": "image", "mimeType": kind, "data": data} for kind, data in images)
        self._turn, self._reader = turn, AcpReader(self._quirks)
        self._is_cancelled = False
        params = {"sessionId": self._id, "prompt": blocks}
        try:
            result = await self._peer.request("session/prompt", params)
        except RpcError as error:
            self._finish(Outcome.CANCELLED if self._is_cancelled else Outcome.FAILED)
            raise ProxyError("upstream_protocol", f"the agent failed: {error.message}") from None
        finally:
            self._questions.close()
        stop = at(result, ("stopReason",))
        is_cancelled = stop == "cancelled"
        self._finish(Outcome.CANCELLED if is_cancelled else Outcome.UNKNOWN)
        usage = at(result, ("usage",)) or at(result, ("_meta", "quota", "token_count"))
        return Stop(finish_reason(stop), maybe_usage(usage), is_cancelled)

    def cancel(self) -> None:
        """See ``AgentSession``."""
        self._is_cancelled = True
        self._peer.notify("session/cancel", {"sessionId": self._id})
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

    # --- the beginning --------------------------------------------------------------------------

    async def _initialize(self) -> None:
        result = await self._peer.request(
            "initialize",
            {
                "protocolVersion": _VERSION,
                "clientCapabilities": {"fs": {"readTextFile": False, "writeTextFile": False}},
                "clientInfo": {"name": "lifecycle-proxy", "version": __version__},
            },
        )
        version = at(result, ("protocolVersion",))
        if version != _VERSION:
            message = f"the agent speaks version {version!r} of ACP, the proxy version {_VERSION}"
            raise ProxyError("upstream_protocol", message[:200])
        self._capabilities = at(result, ("agentCapabilities",))
        name = at(result, ("agentInfo", "name"))
        self._quirks = quirks_of(self._settings.kind, name if isinstance(name, str) else "")

    def _how_to_resume(self) -> str:
        """The method by which an earlier session can be gone on with; "" for none."""
        if at(self._capabilities, ("sessionCapabilities", "resume")) is not None:
            return "session/resume"
        return "session/load" if at(self._capabilities, ("loadSession",)) is True else ""

    async def _begin(self, cwd: str, resume: str) -> bool:
        where = {"cwd": cwd, "mcpServers": []}
        if resume and (method := self._how_to_resume()):
            try:
                await self._peer.request(method, {"sessionId": resume, **where})
            except RpcError:
                pass  # it has forgotten the session: a new one gets all that was said
            else:
                self._id = resume
                return True
        result = await self._peer.request("session/new", where)
        own = at(result, ("sessionId",))
        if not (isinstance(own, str) and own):
            raise ProxyError("upstream_protocol", "the agent's session has no id")
        self._id = own
        return False

    # --- what comes from the agent ---------------------------------------------------------------

    def _notified(self, method: str, params: Any) -> None:
        turn, reader = self._turn, self._reader
        if turn is None or reader is None:
            self._idle_lines += bool(self._id)  # an earlier session is shown again as it is loaded
            if self._idle_lines > _MAX_IDLE_LINES:
                text = "the agent does not stop to send updates between prompts"
                self._peer.fail(ProxyError("upstream_protocol", text))
            return
        self._idle_lines = 0
        if method == "session/update" and at(params, ("sessionId",)) == self._id:
            for piece in reader.read(at(params, ("update",))):
                turn.piece(piece)

    def _requested(self, request_id: Any, method: str, params: Any) -> None:
        if method != "session/request_permission":
            self._peer.refuse(request_id, method)
            return
        turn, reader = self._turn, self._reader
        is_own = at(params, ("sessionId",)) == self._id and not self._is_cancelled
        work = None
        if turn is not None and reader is not None and is_own:
            work = self._decide(turn, reader, params)
        self._questions.add(request_id, work)

    async def _decide(self, turn: TurnSink, reader: AcpReader, params: Any) -> dict[str, Any]:
        call = at(params, ("toolCall",))
        for piece in reader.asked(call):
            turn.piece(piece)
        kind = at(call, ("kind",))
        permission = Permission(reader.name(call), reader.arguments(call), kind in _READS)
        is_allowed = await turn.ask(permission)
        option = _option(params, is_allowed=is_allowed)
        if option is None or not is_allowed:
            reader.denied(call)
        return _CANCELLED if option is None else _selected(option)

    def _finish(self, outcome: Outcome) -> None:
        turn, reader = self._turn, self._reader
        self._turn = self._reader = None
        if turn is not None and reader is not None:
            for piece in reader.finish(outcome):
                turn.piece(piece)


def _selected(option: str) -> dict[str, Any]:
    return {"outcome": {"outcome": "selected", "optionId": option}}


def _option(params: Any, *, is_allowed: bool) -> str | None:
    """The option for a decision. Never one that allows more than this once."""
    given = at(params, ("options",))
    options = given if isinstance(given, list) else []
    kinds = ("allow_once",) if is_allowed else ("reject_once", "reject_always")
    for kind in kinds:
        for option in options:
            own = at(option, ("optionId",))
            if at(option, ("kind",)) == kind and isinstance(own, str):
                return own
    return None
