"""The store of one machine's workers: the line between them and the process that holds it.

A message is its length (four bytes), and MessagePack. A request is ``[id, operation, arguments]``,
its answer ``[id, problem, result]``; answers come in any order.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from lifecycle_proxy.exchange.errors import cause_of
from lifecycle_proxy.state.health import StoreError, StoreHealth
from lifecycle_proxy.state.stream_records import StreamExpiredError, StreamUnknownError

T = TypeVar("T")

LENGTH_BYTES: Final = 4
MAX_MESSAGE_BYTES: Final = 64 << 20
PROBLEMS: Final[dict[str, type[Exception]]] = {
    "unknown": StreamUnknownError,
    "expired": StreamExpiredError,
}
_MAX_UNSENT_BYTES: Final = 16 << 20


class WireRequest(msgspec.Struct, array_like=True):
    """A worker's question."""

    id: int
    operation: str
    arguments: list[Any]


class _Answer(msgspec.Struct, array_like=True):
    id: int
    problem: str
    result: msgspec.Raw


class _Pending(NamedTuple):
    done: "asyncio.Future[Any]"
    decode: Callable[[bytes], Any]
    timer: asyncio.TimerHandle


_encode: Final = msgspec.msgpack.Encoder().encode
_answer: Final = msgspec.msgpack.Decoder(_Answer).decode


def framed(message: object) -> bytes:
    """A message as it is sent."""
    data = _encode(message)
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


async def received(reader: asyncio.StreamReader) -> bytes:
    """The next message.

    Raises:
        asyncio.IncompleteReadError: there is none.
        ValueError: it is too long.
    """
    size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
    if size > MAX_MESSAGE_BYTES:
        raise ValueError("a message is too long")
    return await reader.readexactly(size)


class WireLink:
    """A worker's end of the line.

    Attributes:
        tried: whether a connection stands is known for the first time.

    Args:
        path: of the socket.
        health: is kept up to date.
        patience_s: how long an answer may take, in seconds, besides the time that it is to wait.
        retry_s: how long until the next attempt to connect, in seconds.
    """

    def __init__(
        self, path: str, health: StoreHealth, patience_s: float = 2.0, retry_s: float = 0.1
    ) -> None:
        self.health = health
        self.tried = asyncio.Event()
        self._path = path
        self._patience_s = patience_s
        self._retry_s = retry_s
        self._writer: asyncio.StreamWriter | None = None
        self._pending: dict[int, _Pending] = {}
        self._next = 0

    def submit(
        self, operation: str, arguments: list[Any], kind: type[T], wait_s: float = 0
    ) -> "asyncio.Future[T]":
        """Ask. Questions are sent in the order of the calls.

        Args:
            operation: what is to be done.
            arguments: of it.
            kind: the type of the result.
            wait_s: how long the answer may be waited for there, in seconds.

        Returns:
            The result. ``StoreError`` if there is none.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        writer = self._writer
        if writer is None:
            _fail(done, StoreError("the store is down"))
        elif writer.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            _fail(done, self.health.refused("overload: the store reads too slowly"))
        else:
            data = framed([self._next + 1, operation, arguments])
            self._next += 1
            timer = loop.call_later(self._patience_s + wait_s, self._give_up, self._next)
            decode = msgspec.msgpack.Decoder(kind).decode
            self._pending[self._next] = _Pending(done, decode, timer)
            writer.write(data)
        return done

    @property
    def is_connected(self) -> bool:
        return self._writer is not None

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            try:
                await self._connected()
            except (OSError, EOFError, ValueError, msgspec.DecodeError) as error:
                self.health.down(cause_of(error))
            finally:
                self.tried.set()
                self._disconnect("the store is down")
            await asyncio.sleep(self._retry_s)

    async def _connected(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self._path)
        self._writer = writer
        self.tried.set()
        self.health.up()
        while True:
            answer = _answer(await received(reader))
            pending = self._pending.pop(answer.id, None)
            if pending is not None:
                pending.timer.cancel()
                self._finish(pending, answer)

    def _finish(self, pending: _Pending, answer: _Answer) -> None:
        if answer.problem:
            error = PROBLEMS.get(answer.problem)
            _fail(pending.done, error() if error else self.health.refused(answer.problem))
            return
        try:
            result = pending.decode(bytes(answer.result))
        except msgspec.DecodeError as error:
            _fail(pending.done, self.health.refused(f"nonsense: {cause_of(error)}"))
        else:
            if not pending.done.done():
                pending.done.set_result(result)

    def _give_up(self, number: int) -> None:
        if number in self._pending and self._writer is not None:
            self._writer.transport.abort()  # ``run`` does the rest
            self._writer = None

    def _disconnect(self, why: str) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None
        pending, self._pending = self._pending, {}
        for one in pending.values():
            one.timer.cancel()
            _fail(one.done, StoreError(why))


def _fail(done: "asyncio.Future[Any]", error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
        with suppress(Exception):
            done.exception()  # who waits for it still gets it
