"""A plain request's answer as a stream of progress: the steps, and the answer at the end.

The upstream's events pass the same stages as in ``relay.sse``, so calls are followed, counted and
recorded as in any other stream. But none is passed on: the client gets a few events about them,
and at the end the whole answer, as it would have got it without a stream.
"""

from collections.abc import Sequence
from typing import Any, Final

import orjson

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.apis import CHAT
from lifecycle_proxy.core.assembly import MAX_BYTES, Assembler
from lifecycle_proxy.core.complexity import is_too_complex
from lifecycle_proxy.core.events import LifecycleEvent, ToolRunning
from lifecycle_proxy.core.observers.json import is_error
from lifecycle_proxy.core.pipeline import Pipeline
from lifecycle_proxy.core.vocabularies import agentlang
from lifecycle_proxy.core.vocabularies.frames import encoded
from lifecycle_proxy.exchange.content_coding import Decompressor
from lifecycle_proxy.exchange.errors import STATUS, ProxyError
from lifecycle_proxy.exchange.failover import Failover
from lifecycle_proxy.exchange.model import Added, Exchange, Listener
from lifecycle_proxy.relay.early_response import EarlyForm
from lifecycle_proxy.relay.sse import StreamBody

_CUT: Final = "the upstream's stream ended before the answer was whole"
_ERROR: Final = "the upstream sent an error in place of the answer"
_NO_ANSWER: Final = "the upstream's answer is not a JSON object"


def error_event(error: Any, status: int | None = None) -> bytes:
    """The end of a request that failed.

    Args:
        error: as the upstream sent it, or OpenAI's error object.
        status: that a plain response would have; None to find it in the error.
    """
    fields = error if isinstance(error, dict) else {"message": str(error)}
    code = fields.get("code")
    if status is None:
        known = (fields.get("status"), fields.get("status_code"), code)
        status = next((one for one in known if type(one) is int and 400 <= one < 600), None)
        status = status or STATUS.get(str(code), 502)
    message = fields.get("message")
    text = message if isinstance(message, str) else orjson.dumps(error).decode()
    return agentlang.error(text, status, code)


FORM: Final = EarlyForm(agentlang.KEEP_ALIVE, error_event, ends_properly=True)


class _Steps(Listener):
    """Writes an event for each lifecycle event of the exchange.

    Args:
        assembler: has to know of another upstream that goes on with the answer.
    """

    def __init__(self, assembler: Assembler) -> None:
        self._assembler = assembler
        self._written: list[bytes] = []

    def on_failover(self, exchange: Exchange, failover: Failover) -> None:
        self._assembler.continues()

    def on_lifecycle(self, exchange: Exchange, events: Sequence[LifecycleEvent]) -> None:
        exchange.frames += len(events)
        for event in events:
            if isinstance(event, ToolRunning):
                frame = agentlang.step_start(exchange.model, event.tool, event.id)
            else:
                is_error = event.outcome.is_error
                result = event.output or (event.reason if is_error and event.reason else "")
                frame = agentlang.step_complete(event.tool, event.id, result, is_error=is_error)
            self._written.append(frame)

    def taken(self) -> bytes:
        """What was written since the last time."""
        data = b"".join(self._written)
        self._written.clear()
        return data


class ProgressBody:
    """The body of an event stream, as progress.

    Args:
        exchange: of the client's request.
        pipeline: follows the calls, and writes nothing.
        is_compressed: it came so though ``identity`` was asked for.
        max_bytes: of the answer.
    """

    ends_after_error = True

    def __init__(
        self,
        exchange: Exchange,
        pipeline: Pipeline,
        *,
        is_compressed: bool,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.added: Added = ()
        self._exchange = exchange
        self._decompressor = Decompressor() if is_compressed else None
        self._stages = StreamBody(exchange, pipeline, CHAT, is_compressed=False)
        self._parser = sse.Parser(max_bytes)
        self._assembler = Assembler(max_bytes)
        self._response = b""
        self._steps = _Steps(self._assembler)
        exchange.listeners.add(self._steps)

    def skim(self, data: bytes) -> bool:
        """See ``Body``."""
        return False

    def feed(self, data: bytes, now: float) -> bytes:
        """See ``Body``."""
        if self._decompressor is not None:
            data = self._decompressor.feed(data)
        return self._own(self._observed(data, now))

    def check_end(self) -> None:
        """See ``Body``. An answer without its end has no result."""
        if self._decompressor is not None:
            self._decompressor.check_end()
        self._assemble(self._parser.eof())
        assembler = self._assembler
        if not assembler.is_whole:
            raise ProxyError("upstream_protocol", _CUT)
        self._respond(assembler.content, assembler.usage)

    def eof(self, now: float) -> bytes:
        """See ``Body``."""
        sent = self._exchange.sent_bytes
        self._stages.eof(now)
        self._exchange.sent_bytes = sent
        return self._last(self._response + encoded("result", self._result()))

    def abort(self, failure: ProxyError, now: float) -> bytes:
        """See ``Body``. The error is the upstream's own, where it sent one."""
        sent = self._exchange.sent_bytes
        self._stages.abort(failure, now)
        self._exchange.sent_bytes = sent
        if (error := self._assembler.error) is not None:
            return self._last(error_event(error))
        return self._last(error_event(failure.object(), failure.status))

    def client_gone(self, now: float) -> None:
        """See ``Body``."""
        self._stages.client_gone(now)

    def heartbeat(self) -> bytes:
        """See ``Body``. Only whole events are ever written."""
        self.added = ((0, len(agentlang.KEEP_ALIVE)),)
        return agentlang.KEEP_ALIVE

    def _observed(self, data: bytes, now: float) -> bytes:
        if not self._stages.skim(data):
            self._stages.feed(data, now)
        self._assemble(self._parser.feed(data))
        return self._steps.taken()

    def _assemble(self, events: Sequence[sse.Event]) -> None:
        """Raise ProxyError if there will be no result."""
        assembler = self._assembler
        for event in events:
            assembler.feed(event)
        if assembler.problem:
            raise ProxyError("upstream_protocol", assembler.problem)
        if assembler.error is not None:
            raise ProxyError("upstream_protocol", _ERROR)

    def _result(self) -> bytes:
        return self._assembler.result()

    def _respond(self, content: str, usage: dict[str, Any]) -> None:
        """Write the last event but one. The last is written in another turn of the event loop:
        each may be large."""
        counts = [usage.get(f"{kind}_tokens") for kind in ("prompt", "completion", "total")]
        numbers = [count for count in counts if type(count) is int]
        tokens = (numbers[0], numbers[1], numbers[2]) if len(numbers) == len(counts) else None
        self._response = agentlang.llm_response(self._exchange.model, content, tokens)

    def _last(self, end: bytes) -> bytes:
        out = self._own(self._steps.taken() + end)
        self._exchange.sent_bytes += len(out)
        return out

    def _own(self, out: bytes) -> bytes:
        self.added = ((0, len(out)),) if out else ()
        return out


class WholeProgressBody(ProgressBody):
    """The same of an upstream that does not stream, whatever it was asked: its answer is the
    result."""

    def __init__(
        self,
        exchange: Exchange,
        pipeline: Pipeline,
        *,
        is_compressed: bool,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__(exchange, pipeline, is_compressed=is_compressed, max_bytes=max_bytes)
        self._pieces: list[bytes] = []
        self._left = max_bytes
        self._now = 0.0
        self._answer = b""

    def check_end(self) -> None:
        """See ``Body``."""
        if self._decompressor is not None:
            self._decompressor.check_end()
        data = b"".join(self._pieces)
        try:
            answer = None if is_too_complex(data) else orjson.loads(data)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            raise ProxyError("upstream_protocol", _NO_ANSWER)
        if is_error(answer):
            self._assembler.error = answer.get("error") or answer
            raise ProxyError("upstream_protocol", _ERROR)
        self._answer = orjson.dumps(answer)
        self._stages.feed(b"data: %b\n\ndata: [DONE]\n\n" % self._answer, self._now)
        usage = answer.get("usage")
        self._respond(_content(answer), usage if isinstance(usage, dict) else {})

    def _observed(self, data: bytes, now: float) -> bytes:
        self._now = now
        self._left -= len(data)
        if self._left < 0:
            raise ProxyError("upstream_protocol", "the upstream's answer is too large")
        self._pieces.append(data)
        return b""

    def _result(self) -> bytes:
        return self._answer


def _content(answer: dict[str, Any]) -> str:
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""
