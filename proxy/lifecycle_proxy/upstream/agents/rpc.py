"""JSON-RPC 2.0 over an agent's lines: requests both ways, and notifications."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.upstream.agents.lines import JsonLines

Params = Mapping[str, Any]
_NO_SUCH_METHOD: Final = -32601


class RpcError(Exception):
    """The agent answered a request with an error.

    Args:
        message: the agent's.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RpcPeer:
    """The proxy's end.

    Args:
        name: of the upstream, for the log.
        on_notification: called with method and parameters.
        on_request: called with id, method and parameters; answers by ``answer`` or ``refuse``.
        versioned: whether messages have the member ``jsonrpc`` (Codex' app-server: no).
    """

    def __init__(
        self,
        name: str,
        on_notification: Callable[[str, Any], None],
        on_request: Callable[[Any, str, Any], None],
        *,
        versioned: bool = True,
    ) -> None:
        self._lines = JsonLines(name, self._message, self._ended)
        self._on_notification = on_notification
        self._on_request = on_request
        self._head: dict[str, Any] = {"jsonrpc": "2.0"} if versioned else {}
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self.failure: ProxyError | None = None
        self.on_end: Callable[[ProxyError], None] = lambda failure: None

    @property
    def pid(self) -> int:
        """Of the process group."""
        return self._lines.process.pid

    async def start(self, command: Sequence[str], cwd: str, env: Mapping[str, str]) -> None:
        """See ``AgentProcess``."""
        await self._lines.process.start(command, cwd, env)

    def pause(self) -> None:
        """See ``AgentProcess``."""
        self._lines.process.pause()

    def resume(self) -> None:
        """See ``AgentProcess``."""
        self._lines.process.resume()

    def fail(self, failure: ProxyError) -> None:
        """See ``AgentProcess``."""
        self._lines.process.fail(failure)

    async def end(self) -> None:
        """See ``AgentProcess``."""
        await self._lines.process.end()

    def ask_only(self, method: str, params: Params) -> None:
        """Send a request whose answer does not matter.

        Args:
            method: of the protocol.
            params: its parameters.
        """
        self._last_id += 1
        self._send({"id": self._last_id, "method": method, "params": dict(params)})

    async def request(self, method: str, params: Params) -> Any:
        """Ask, and wait for the result.

        Args:
            method: of the protocol.
            params: its parameters.

        Raises:
            RpcError: the agent answered with an error.
            ProxyError: it ended.
        """
        if self.failure is not None:
            raise self.failure
        self._last_id += 1
        own = self._last_id
        future = self._waiting[own] = asyncio.get_running_loop().create_future()
        self._send({"id": own, "method": method, "params": dict(params)})
        try:
            return await future
        finally:
            self._waiting.pop(own, None)

    def notify(self, method: str, params: Params) -> None:
        """Tell something.

        Args:
            method: of the protocol.
            params: its parameters.
        """
        self._send({"method": method, "params": dict(params)})

    def answer(self, request_id: Any, result: Params) -> None:
        """Answer a request of the agent's.

        Args:
            request_id: of the request.
            result: of it.
        """
        self._send({"id": request_id, "result": dict(result)})

    def refuse(self, request_id: Any, method: str) -> None:
        """Answer a request of the agent's that is not served.

        Args:
            request_id: of the request.
            method: what it asked for.
        """
        error = {"code": _NO_SUCH_METHOD, "message": f"not supported: {method[:100]}"}
        self._send({"id": request_id, "error": error})

    def _send(self, message: dict[str, Any]) -> None:
        self._lines.send({**self._head, **message})

    def _message(self, message: dict[str, Any]) -> None:
        method, request_id = message.get("method"), message.get("id")
        if isinstance(method, str):
            if request_id is None:
                self._on_notification(method, message.get("params"))
            else:
                self._on_request(request_id, method, message.get("params"))
            return
        future = self._waiting.get(request_id) if type(request_id) is int else None
        if future is None or future.done():
            return
        if "error" in message:
            future.set_exception(RpcError(_words(message["error"])))
        else:
            future.set_result(message.get("result"))

    def _ended(self, failure: ProxyError) -> None:
        self.failure = failure
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(failure)
        self.on_end(failure)


def _words(error: Any) -> str:
    """An error of JSON-RPC on one line."""
    message = error.get("message") if isinstance(error, dict) else None
    data = error.get("data") if isinstance(error, dict) else None
    details = data.get("details") if isinstance(data, dict) else data
    parts = [one for one in (message, details) if isinstance(one, str) and one]
    return ": ".join(" ".join(part.split())[:300] for part in parts) or "an error without a message"


async def started_within(limit_s: float, beginning: Awaitable[bool]) -> bool:
    """What the beginning of a session gives.

    Args:
        limit_s: how long it may take, in seconds; 0 for no limit.
        beginning: of a session.

    Raises:
        ProxyError: it took longer, or the agent refused.
    """
    try:
        async with asyncio.timeout(limit_s or None):
            return await beginning
    except TimeoutError:
        message, cause = (
            "the agent did not answer in time",
            f"start_timeout_s = {limit_s:g} is over",
        )
        raise ProxyError("upstream_timeout", message, cause=cause) from None
    except RpcError as error:
        message = f"the agent began no session: {error.message}"
        raise ProxyError("upstream_protocol", message) from None
