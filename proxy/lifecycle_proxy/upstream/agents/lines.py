"""JSON objects over an agent's lines, and what is to be done about anything else."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import orjson

from lifecycle_proxy.core.complexity import is_too_complex
from lifecycle_proxy.core.dialects.fields import dumps
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.upstream.agents.process import AgentProcess

log = logging.getLogger("proxy.upstream")

# An agent that prints this many lines of something else does not speak the protocol.
_MAX_NONSENSE: Final = 100


class JsonLines:
    """An agent's process, and messages to and from it.

    Args:
        name: of the upstream, for the log.
        on_message: called with each message.
        on_end: called once, when nothing more comes.
    """

    def __init__(
        self,
        name: str,
        on_message: Callable[[dict[str, Any]], None],
        on_end: Callable[[ProxyError], None],
    ) -> None:
        self.process = AgentProcess(name, self._line, on_end)
        self._name = name
        self._on_message = on_message
        self._nonsense = 0

    def send(self, message: Mapping[str, Any]) -> None:
        """Write a message."""
        self.process.send(dumps(dict(message)) + b"\n")

    def _line(self, line: bytes) -> None:
        message: Any = None
        if not is_too_complex(line):
            with suppress(orjson.JSONDecodeError):
                message = orjson.loads(line)
        if isinstance(message, dict):
            self._on_message(message)
        else:
            self._note_nonsense(line)

    def _note_nonsense(self, line: bytes) -> None:
        """Some agents print a greeting first. One that prints nothing else is ended."""
        self._nonsense += 1
        if self._nonsense == 1:
            log.warning("agent %s printed what is not a message: %.100r", self._name, line[:100])
        if self._nonsense > _MAX_NONSENSE:
            text = "the agent does not speak its protocol"
            cause = f"{self._nonsense} lines that are not JSON objects"
            self.process.fail(ProxyError("upstream_protocol", text, cause=cause))
