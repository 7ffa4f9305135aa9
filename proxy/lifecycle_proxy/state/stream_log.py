"""The listeners that write the event log: one for each stream, added when it begins.

``StreamLog`` writes events only: chunks cost it nothing. ``FollowedStreamLog`` also gets the bytes,
for text and for resuming.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from lifecycle_proxy.core.argument_pieces import ArgumentPieces
from lifecycle_proxy.core.events import LifecycleEvent, ToolRunning
from lifecycle_proxy.core.finish import judge_stream
from lifecycle_proxy.core.stream_events import DoneStatus
from lifecycle_proxy.core.stream_fields import usage_fields
from lifecycle_proxy.core.texts import TextReader
from lifecycle_proxy.exchange.ends import ENDS, Ended, SideEnd
from lifecycle_proxy.exchange.failover import Failover
from lifecycle_proxy.exchange.headers import encoded
from lifecycle_proxy.exchange.model import Added, Exchange, Headers, Listener, SideName
from lifecycle_proxy.state.event_log import LogWriter
from lifecycle_proxy.state.stream_records import BytesHead

_BATCH_S: Final = 0.1
_BATCH_CHARACTERS: Final = 1 << 14
_MAX_EVENT_BYTES: Final = 1 << 20
_DONE: Final[dict[Ended, DoneStatus]] = {
    "upstream_error": "failed",
    "client_gone": "cancelled",
    "timeout": "failed",
    "drained": "failed",
    "stopped": "cancelled",
    "refused": "failed",
}


class StreamLog(Listener):
    """Writes the events of one exchange's stream.

    Args:
        writer: of the stream.
    """

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._calls = 0

    def begin(self, exchange: Exchange) -> None:
        """Write the first event."""
        data = {
            "model": exchange.model,
            "api": exchange.api.name,
            "requestId": exchange.request_id,
        }
        self._writer.append("stream.started", data)
        for failover in exchange.failovers:
            self.on_failover(exchange, failover)

    def on_failover(self, exchange: Exchange, failover: Failover) -> None:
        self._writer.append("llm_failover", failover._asdict())

    def on_approval(self, exchange: Exchange, fields: Mapping[str, Any]) -> None:
        self._writer.append("approval.request", dict(fields))

    def on_lifecycle(self, exchange: Exchange, events: Sequence[LifecycleEvent]) -> None:
        for event in events:
            if type(event) is ToolRunning:
                self._calls += 1
                self._writer.append("tool.running", event)
            else:
                self._writer.append("tool.completed", event)

    def on_end(self, exchange: Exchange) -> None:
        if usage := usage_fields(exchange.counts.usage):
            self._writer.append("usage", usage)
        status, reason = _end_of(exchange)
        data: dict[str, Any] = {
            "status": status,
            "durationMs": round((time.monotonic() - exchange.started) * 1000),
            "calls": self._calls,
        }
        if reason:
            data["reason"] = reason
        self._writer.append("stream.done", data)


def _end_of(exchange: Exchange) -> tuple[DoneStatus, str]:
    """How a stream ended, and why, where that is not the ordinary end."""
    ended = exchange.ended
    if ended in _DONE:
        return _DONE[ended], ENDS[ended].reason or exchange.error
    if exchange.status >= 400:
        return "failed", "upstream_error"
    status, reason = judge_stream(exchange.counts.end_reason)
    if ended == "eof" and status == "completed" and exchange.stream:
        return "incomplete", ENDS["eof"].reason  # without the end that the API has
    return status, reason


class FollowedStreamLog(StreamLog):
    """Writes also the text of a stream, the arguments of its calls, and what its client gets.

    Text is collected for 100 ms from its first piece on; a tool event, and the end, come behind all
    text that was in front of them. A stream's own bytes are read once more for it, so it is only
    done where it was asked for. Arguments are collected as long, and come behind the beginning of
    their call and in front of its end.

    Args:
        writer: of the stream.
        with_text: write text events.
        arguments: of the calls; None to write none.
        release: called where the stream is not to be given again: it never was one, or it broke.
        is_promised: the client knows of it, even if the response is none.
        batch_s: how long text is collected, in seconds.
    """

    def __init__(
        self,
        writer: LogWriter,
        *,
        with_text: bool,
        arguments: ArgumentPieces | None = None,
        release: Callable[[], None] = lambda: None,
        is_promised: bool = True,
        batch_s: float = _BATCH_S,
    ) -> None:
        super().__init__(writer)
        self._release = release
        self._is_promised = is_promised
        self._reader = TextReader(_MAX_EVENT_BYTES) if with_text else None
        self._arguments = arguments
        self._batch_s = batch_s
        self._texts: list[str] = []
        self._size = 0
        self._of: tuple[str, int] = ("", 0)
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: list[LifecycleEvent] = []  # for the bytes that they stand in
        self._client_end: SideEnd = ""

    def on_lifecycle(self, exchange: Exchange, events: Sequence[LifecycleEvent]) -> None:
        if self._reader is None:
            self._write_events(exchange, events)
        else:
            self._waiting += events

    def on_failover(self, exchange: Exchange, failover: Failover) -> None:
        self._flush()
        super().on_failover(exchange, failover)

    def on_head(
        self, exchange: Exchange, side: SideName, status: int, reason: str, headers: Headers
    ) -> None:
        if side == "client":
            kept = tuple((encoded(name), encoded(value)) for name, value in headers)
            self._writer.begin_bytes(BytesHead(status, kept, encoded(reason)))

    def on_chunk(
        self, exchange: Exchange, read: bytes, written: bytes, added: Added, now: float
    ) -> None:
        if written or self._waiting:
            self.on_write(exchange, written, () if written is read else added)
        if self._arguments is not None and self._arguments.are_open:
            self._arguments.renew()
            self._start_timer()

    def on_write(self, exchange: Exchange, data: bytes, added: Added) -> None:
        if self._reader is not None:
            self._read(exchange, data, added)
        if data:
            self._writer.write(data)

    def on_side_end(self, exchange: Exchange, side: SideName, end: SideEnd) -> None:
        if side == "client":
            self._client_end = end

    def on_end(self, exchange: Exchange) -> None:
        if exchange.ended not in ("done", "eof") or not exchange.stream:
            self._release()
        if not (exchange.stream or self._is_promised):
            self._writer.discard()
            return
        self._write_waiting(exchange, len(self._waiting))
        if self._arguments is not None:
            self._write_arguments(self._arguments.rest())
        self._flush()
        end = self._client_end or ENDS[exchange.ended].client
        self._writer.end_bytes("eof" if end == "eof" else "cut")
        super().on_end(exchange)

    # --- text -----------------------------------------------------------------------------------

    def _read(self, exchange: Exchange, data: bytes, added: Added) -> None:
        """Take the text between the added frames, and the events in the places of those.

        A dialect may write other than one frame for an event. Then all text of these bytes comes
        first: it mostly does in the stream.
        """
        is_matched, at = len(added) == len(self._waiting), 0
        for start, stop in added:
            self._collect(data[at:start])
            at = stop
            if is_matched:
                self._write_waiting(exchange, 1)
        self._collect(data[at:] if added else data)
        self._write_waiting(exchange, len(self._waiting))

    def _write_waiting(self, exchange: Exchange, number: int) -> None:
        events, self._waiting = self._waiting[:number], self._waiting[number:]
        if events:
            self._flush()
            self._write_events(exchange, events)

    def _collect(self, data: bytes) -> None:
        assert self._reader is not None
        for piece in self._reader.feed(data) if data else ():
            of = (piece.kind, piece.choice)
            if of != self._of:
                self._flush()
                self._of = of
            self._texts.append(piece.text)
            self._size += len(piece.text)
            if self._size >= _BATCH_CHARACTERS:
                self._flush()
            else:
                self._start_timer()

    def _start_timer(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._batch_s, self._flush_all)

    def _flush_all(self) -> None:
        arguments = self._arguments
        if arguments is not None:
            arguments.renew()
            self._write_arguments(arguments.due())
        self._flush()
        if arguments is not None and arguments.are_left:
            self._start_timer()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._texts:
            kind, choice = self._of
            data = {"text": "".join(self._texts), "kind": kind, "choice": choice}
            self._texts, self._size = [], 0
            self._writer.append("text", data)

    # --- arguments ------------------------------------------------------------------------------

    def _write_events(self, exchange: Exchange, events: Sequence[LifecycleEvent]) -> None:
        if self._arguments is None:
            super().on_lifecycle(exchange, events)
            return
        for event in events:
            kept = event
            if isinstance(event, ToolRunning):
                kept = self._arguments.begin(event)
            else:
                self._write_arguments(self._arguments.last(event))
            super().on_lifecycle(exchange, (kept,))

    def _write_arguments(self, pieces: Iterable[dict[str, Any]]) -> None:
        for piece in pieces:
            self._writer.append("tool.arguments", piece)
