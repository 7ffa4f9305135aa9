"""Claude Code by its own protocol: ``claude -p --input-format stream-json --output-format ...``.

The flags are added here: ``agent = ["claude"]`` is enough. It asks for permissions over its pipes
(``--permission-prompt-tool stdio``, as its SDKs do).
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final

from lifecycle_proxy.config.agents import AgentSettings
from lifecycle_proxy.core.agents.chunks import finish_reason, maybe_usage
from lifecycle_proxy.core.agents.claude import ClaudeReader
from lifecycle_proxy.core.agents.quirks import at
from lifecycle_proxy.core.events import Outcome
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.upstream.agents.lines import JsonLines
from lifecycle_proxy.upstream.agents.questions import Questions
from lifecycle_proxy.upstream.agents.session import Permission, Stop, TurnSink

_FLAGS: Final = (
    *("-p", "--verbose", "--input-format", "stream-json", "--output-format", "stream-json"),
    *("--include-partial-messages", "--permission-prompt-tool", "stdio"),
)
_READS: Final = ("Read", "Glob", "Grep", "LS", "NotebookRead")
_NO: Final = {"behavior": "deny", "message": "The user did not allow this."}


class ClaudeSession:
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
        self._lines = JsonLines(name, self._message, self._ended)
        self._on_end = on_end
        self._questions = Questions(self._answer, _NO)
        self._numbers = itertools.count(1)
        self._turn: TurnSink | None = None
        self._reader = ClaudeReader()
        self._over: asyncio.Future[Any] | None = None
        self._failure: ProxyError | None = None
        self._is_cancelled = False
        self.session_id = ""

    @property
    def pid(self) -> int:
        return self._lines.process.pid

    async def open(self, cwd: str, resume: str) -> bool:
        """See ``AgentSession``. It says nothing before it is asked something."""
        own = self._settings
        more = ("--resume", resume) if resume else ()
        await self._lines.process.start((*own.agent, *_FLAGS, *more), cwd, own.env)
        return bool(resume)

    async def prompt(self, text: str, images: Sequence[tuple[str, str]], turn: TurnSink) -> Stop:
        """See ``AgentSession``."""
        if self._failure is not None:
            raise self._failure
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        for kind, data in images:
            source = {"type": "base64", "media_type": kind, "data": data}
            content.append({"type": "image", "source": source})
        self._turn, reader, self._is_cancelled = turn, ClaudeReader(), False
        self._reader = reader
        self._over = asyncio.get_running_loop().create_future()
        outcome = Outcome.FAILED
        try:
            self._lines.send({"type": "user", "message": {"role": "user", "content": content}})
            result = await self._over
            outcome = Outcome.CANCELLED if self._is_cancelled else Outcome.UNKNOWN
        finally:
            self._questions.close()
            self._turn = None
            for piece in reader.finish(outcome):
                turn.piece(piece)
        # "success" with is_error is a failure of the API.
        if result.get("is_error") is True and not self._is_cancelled:
            words = result.get("result") or result.get("subtype")
            raise ProxyError("upstream_protocol", f"the agent failed: {str(words)[:300]}")
        usage = maybe_usage(result.get("usage"))
        return Stop(finish_reason(result.get("stop_reason")), usage, self._is_cancelled)

    def cancel(self) -> None:
        """See ``AgentSession``."""
        self._is_cancelled = True
        request = {"request_id": f"stop-{next(self._numbers)}", "request": {"subtype": "interrupt"}}
        self._lines.send({"type": "control_request", **request})
        self._questions.close()

    def pause(self) -> None:
        """See ``AgentSession``."""
        self._lines.process.pause()

    def resume(self) -> None:
        """See ``AgentSession``."""
        self._lines.process.resume()

    async def end(self) -> None:
        """See ``AgentSession``."""
        self._questions.close()
        await self._lines.process.end()

    def _ended(self, failure: ProxyError) -> None:
        self._failure = failure
        if self._over is not None and not self._over.done():
            self._over.set_exception(failure)
        self._on_end(failure)

    def _message(self, message: dict[str, Any]) -> None:
        own = message.get("session_id")
        if isinstance(own, str) and own:
            self.session_id = own
        turn = self._turn
        if message.get("type") == "control_request":
            request = message.get("request")
            is_asked = turn is not None and at(request, ("subtype",)) == "can_use_tool"
            work = self._decide(turn, request) if turn is not None and is_asked else None
            self._questions.add(message.get("request_id"), work)
        elif turn is not None:
            for piece in self._reader.read(message):
                turn.piece(piece)
            over, result = self._over, self._reader.result
            if over is not None and result is not None and not over.done():
                over.set_result(result)

    async def _decide(self, turn: TurnSink, request: Any) -> dict[str, Any]:
        reader, own = self._reader, at(request, ("input",))
        name, arguments = str(at(request, ("tool_name",))), own if isinstance(own, dict) else {}
        call_id = at(request, ("tool_use_id",))
        for piece in reader.begin(call_id, name, arguments):
            turn.piece(piece)
        if await turn.ask(Permission(name, arguments, name in _READS)):
            return {"behavior": "allow", "updatedInput": arguments}
        reader.denied(call_id)
        return _NO

    def _answer(self, request_id: Any, result: Any) -> None:
        response = {"subtype": "success", "request_id": request_id, "response": result}
        self._lines.send({"type": "control_response", "response": response})
