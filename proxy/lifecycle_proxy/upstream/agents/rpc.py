"""JSON-RPC 2.0 over an agent's lines: requests both ways, and notifications."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from lifecycle_proxy.core.complexity import is_too_complex
from lifecycle_proxy.core.dialects.fields import dumps
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.upstream.agents.process import AgentProcess

log = logging.getLogger("proxy.upstream")

Params = Mapping[str, Any]
# An agent that prints this many lines of something else does not speak the protocol.
_MAX_NONSENSE: Final = 100
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
        self.process = AgentProcess(name, self._line, self._ended)
        self._name = name
        self._on_notification = on_notification
        self._on_request = on_request
        self._head: dict[str, Any] = {"jsonrpc": "2.0"} if versioned else {}
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self._nonsense = 0
        self.failure: ProxyError | None = None
        self.on_end: Callable[[ProxyError], None] = lambda failure: None

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
        self.process.send(dumps({**self._head, **message}) + b"\n")

    def _line(self, line: bytes) -> None:
        message: Any = None
        if not is_too_complex(line):
            with contextlib.suppress(orjson.JSONDecodeError):
                message = orjson.loads(line)
        if not isinstance(message, dict):
            self._note_nonsense(line)
            return
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

    def _note_nonsense(self, line: bytes) -> None:
        """Some agents print a greeting first. One that prints nothing else is ended."""
        self._nonsense += 1
        if self._nonsense == 1:
            log.warning("agent %s printed what is not a message: %.100r", self._name, line[:100])
        if self._nonsense > _MAX_NONSENSE:
            text = "the agent does not speak its protocol"
            cause = f"{self._nonsense} lines that are not JSON objects"
            self.process.fail(ProxyError("upstream_protocol", text, cause=cause))

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
