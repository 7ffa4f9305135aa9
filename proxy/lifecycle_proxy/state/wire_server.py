"""The process that holds the store of one machine's workers: calls, ids, event logs, in memory.

The streams of a worker that is gone are ended at once: its connection ends with it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from lifecycle_proxy.state.log_delta import LogDelta
from lifecycle_proxy.state.made_ids import MadeIds
from lifecycle_proxy.state.memory_event_log import MemoryEventLog
from lifecycle_proxy.state.memory_table import MemoryTable
from lifecycle_proxy.state.page_hub import PageHub, PageNews
from lifecycle_proxy.state.received_streams import ReceivedStreams
from lifecycle_proxy.state.stream_records import Claim, LogLimits, StreamKey
from lifecycle_proxy.state.wire import PROBLEMS, WireRequest, framed, received

Operation = Callable[..., Awaitable[Any]]

log = logging.getLogger("proxy.state")

_LAST: Final = {error: word for word, error in PROBLEMS.items()}
_READ_BYTES: Final = 1 << 20
_request: Final = msgspec.msgpack.Decoder(WireRequest).decode


class StoreParts(NamedTuple):
    """What the workers share.

    Attributes:
        calls: that wait for their results.
        ids: and which upstream made each.
        events: of streams.
        streams: what writes them.
        pages: hands on the rows of live pages.
    """

    calls: MemoryTable
    ids: MadeIds
    events: MemoryEventLog
    streams: ReceivedStreams
    pages: PageHub


class StoreServer:
    """Answers workers.

    Args:
        limits: of the event log.
    """

    def __init__(self, limits: LogLimits | None = None) -> None:
        self._log = log = MemoryEventLog(limits)
        self._parts = StoreParts(MemoryTable(), MadeIds(), log, ReceivedStreams(log), PageHub())
        self._server: asyncio.Server | None = None
        self._connections: set[WorkerConnection] = set()
        self.empty = asyncio.Event()
        self.empty.set()

    async def start(self, path: str) -> None:
        """Listen.

        Args:
            path: of the socket, which nobody else can reach.
        """
        self._server = await asyncio.start_unix_server(self._serve, path, limit=_READ_BYTES)

    async def run(self) -> None:
        """Forget what is over, until cancelled."""
        await self._log.run()

    async def close(self) -> None:
        """Take no more connections, and end those that are open."""
        assert self._server is not None, "started"
        self._server.close()
        for one in list(self._connections):
            one.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = WorkerConnection(self._parts, writer)
        self._connections.add(connection)
        self.empty.clear()
        try:
            while True:
                await connection.on_message(await received(reader))
                await writer.drain()
        except (OSError, EOFError, ValueError, msgspec.DecodeError) as error:
            log.debug("a worker is gone: %s", error)
        except asyncio.CancelledError:
            pass  # the process ends: asyncio's server would log it as a failure
        finally:
            connection.lost()
            self._connections.discard(connection)
            if not self._connections:
                self.empty.set()


class WorkerConnection:
    """One worker, and the streams that it writes.

    Args:
        parts: of all workers.
        writer: to this worker.
    """

    def __init__(self, parts: StoreParts, writer: asyncio.StreamWriter) -> None:
        calls, ids, events, self._streams, pages = parts
        self._log = events
        self._pages = pages
        self._writer = writer
        self._tasks: set[asyncio.Task[None]] = set()
        self._do: dict[str, Operation] = {
            "put": _later(calls.put),
            "look": _later(calls.look),
            "take": _later(calls.take),
            "keep_id": _later(ids.add),
            "find_id": ids.find,
            "push": self._push,
            "start": self._start,
            "discard": self._discard,
            "has": self._has,
            "claim": self._claim,
            "release": self._release,
            "page_sync": self._page_sync,
            "page_answer": _later(partial(pages.answer, self)),
        }
        # These may wait: nothing waits for them.
        self._ask: dict[str, Operation] = {
            "read": _of_stream(events.read),
            "read_bytes": _of_stream(events.read_bytes),
            "offset_of": _of_stream(events.offset_of),
            "idle_s": _of_stream(events.idle_s),
            "status": _of_stream(events.status),
            "page_ask": partial(pages.ask, self),
        }

    async def on_message(self, message: bytes) -> None:
        """Do what is asked, in its turn.

        Raises:
            msgspec.DecodeError: it is not a request.
        """
        request = _request(message)
        if request.operation in self._ask:
            task = asyncio.create_task(self._answer(request, self._ask))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            await self._answer(request, self._do)

    async def _answer(self, request: WireRequest, operations: dict[str, Operation]) -> None:
        try:
            result = await operations[request.operation](*request.arguments)
        except tuple(_LAST) as error:
            self._send([request.id, _LAST[type(error)], None])
        except Exception as error:  # a worker of another version, or a bug: the others go on
            log.exception("%s failed", request.operation)
            self._send([request.id, repr(error), None])
        else:
            self._send([request.id, "", result])

    def _send(self, answer: list[Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(framed(answer))

    def close(self) -> None:
        """End the connection."""
        self._writer.transport.abort()

    def lost(self) -> None:
        """The worker is gone."""
        self._writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        self._streams.lost(self)
        self._pages.leave(self)

    async def _page_sync(self, report: bytes, has_pages: bool) -> PageNews:
        return self._pages.sync(self, report, has_pages=has_pages)

    async def _push(self, deltas: list[Any]) -> list[bool]:
        return await self._streams.push(self, msgspec.convert(deltas, list[LogDelta]))

    async def _start(self, key: list[str]) -> int | None:
        return self._streams.start(self, StreamKey(*key))

    async def _discard(self, key: list[str]) -> None:
        self._streams.discard(StreamKey(*key))

    async def _has(self, key: list[str]) -> bool:
        return self._log.maybe_stream(StreamKey(*key)) is not None

    async def _release(self, owner: str, name: str, claim: list[str]) -> None:
        self._log.release(owner, name, Claim(*claim))

    async def _claim(self, owner: str, name: str, claim: list[str], ttl_s: float) -> Claim:
        return await self._log.claim(owner, name, Claim(*claim), ttl_s)


def _later(do: Callable[..., Any]) -> Operation:
    async def operation(*arguments: Any) -> Any:
        return do(*arguments)

    return operation


def _of_stream(ask: Operation) -> Operation:
    async def operation(key: list[str], *arguments: Any) -> Any:
        return await ask(StreamKey(*key), *arguments)

    return operation
