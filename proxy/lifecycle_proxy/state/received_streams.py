"""Streams that other processes write, in this one's memory.

The streams of a process that is gone are ended for it.
"""

import time
from collections.abc import Sequence

import orjson

from lifecycle_proxy.state.log_delta import LogDelta, decoded, decoded_head, lost_events
from lifecycle_proxy.state.memory_event_log import MemoryEventLog
from lifecycle_proxy.state.memory_writer import MemoryStream
from lifecycle_proxy.state.stream_records import StreamKey


class ReceivedStreams:
    """See ``LogTable``: what of it is written.

    Args:
        log: where the streams are kept.
    """

    def __init__(self, log: MemoryEventLog) -> None:
        self._log = log
        self._writers: dict[StreamKey, object] = {}  # of those that have not ended

    async def push(self, writer: object, deltas: Sequence[LogDelta]) -> list[bool]:
        """See ``LogTable``.

        Args:
            writer: the process.
            deltas: what is new.
        """
        return [await self._add(writer, delta) for delta in deltas]

    def start(self, writer: object, key: StreamKey) -> int | None:
        """See ``LogTable``.

        Args:
            writer: the process.
            key: of the stream.
        """
        if self._writers.get(key, writer) is not writer:
            return None
        last = self._log.last_number(key)
        self.discard(key)
        self._writers[key] = writer
        return last

    def discard(self, key: StreamKey) -> None:
        """See ``LogTable``."""
        self._writers.pop(key, None)
        stream = self._log.maybe_stream(key)
        if stream is not None:
            self._log.forget(stream)

    def lost(self, writer: object) -> None:
        """A process is gone: its streams end."""
        for key in [key for key, one in self._writers.items() if one is writer]:
            del self._writers[key]
            stream = self._log.maybe_stream(key)
            if stream is not None and stream.events.done is None:
                self._end(stream)

    async def _add(self, writer: object, delta: LogDelta) -> bool:
        """Keep what is new of a stream, where all that was before is here.

        Returns:
            Whether the stream was known.
        """
        stream = self._log.maybe_stream(delta.key)
        was_known = stream is not None
        if stream is None and delta.is_first and not delta.offset:
            await self._log.create(delta.key, is_resumable=delta.is_resumable, before=delta.before)
            stream = self._log.maybe_stream(delta.key)
            if stream is not None:
                stream.started_at = delta.started_at
        if stream is None:
            return False
        was_done = stream.events.done is not None
        for seq, value in delta.events:
            stream.events.accept(seq, decoded(value))
        if delta.done and stream.events.done is None:
            stream.events.done = orjson.loads(delta.done)
        self._add_bytes(stream, delta)
        if stream.events.done is None:
            self._writers[delta.key] = writer
        elif not was_done:
            self._writers.pop(delta.key, None)
            self._log.ended(stream)
        self._log.make_room(stream)
        self._log.make_room_for_bytes(stream)
        return was_known

    def _add_bytes(self, stream: MemoryStream, delta: LogDelta) -> None:
        kept = stream.kept
        if delta.head and kept.head is None:
            kept.begin(decoded_head(delta.head))
        if delta.data and delta.offset == kept.total:
            kept.write(delta.data)
        if delta.end == "given_up":
            kept.give_up()
        elif delta.end:
            kept.finish(delta.end)

    def _end(self, stream: MemoryStream) -> None:
        events = stream.events
        kept, before = events.behind(0, len(events)), list(events.open_before())
        for seq, event in lost_events(kept, events.last, before, stream.started_at, time.time()):
            events.accept(seq, event)
        stream.kept.finish("cut")
        self._log.ended(stream)
        self._log.make_room(stream)
