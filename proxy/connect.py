"""Connections to the upstream that push what they receive, and count it.

aiohttp hands a body to a task that waits for it: a future, a wake-up and one more round of the
event loop for every chunk. Here the protocol tells a sink, and what came is on its way to the
client before the loop goes on. And since aiohttp does not tell whether a byte of an answer had come
before a connection broke, the protocol counts them: a POST may be sent again if nobody has seen the
first, and only then.

Of aiohttp's private names one is used: the connector's ``_factory``.
"""

import asyncio
import functools
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ClassVar

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

Sink = Callable[[], None]


class PushingProtocol(ResponseHandler):
    """aiohttp's client protocol, with a sink that is told of everything that happens."""

    # uvloop calls no connection_lost for an attempt that was cancelled in time, so counting up and
    # down would drift.
    _all: ClassVar[weakref.WeakSet["PushingProtocol"]] = weakref.WeakSet()

    received_bytes = 0
    sink: Sink | None = None
    was_reset = False  # where the end of the connection ends a body, this is no proper end
    is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._all.add(self)
        super().connection_made(transport)

    @classmethod
    def open_connections(cls) -> int:
        """How many there are just now, in use or idle."""
        return sum(not protocol.is_lost for protocol in cls._all)

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        super().data_received(data)
        if data and self.sink is not None:  # aiohttp calls with nothing while a body is read
            self.sink()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.was_reset = exc is not None
        super().connection_lost(exc)
        if self.sink is not None:
            self.sink()

    def pause_reading(self) -> None:
        self.is_paused = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp asks for this with every chunk that is read, paused or not, and each time the
        # parser is fed with nothing and the transport called.
        if self.is_paused:
            self.is_paused = False
            super().resume_reading(resume_parser)

    @property
    def is_lost(self) -> bool:
        """No more will come. (At a bad chunk size aiohttp drops the connection without a word.)"""
        return self.transport is None or self.transport.is_closing()


class Attempt:
    """One try at sending one request."""

    def __init__(self) -> None:
        self._protocol: PushingProtocol | None = None
        self._received_before = 0

    def sent_on(self, protocol: PushingProtocol) -> None:
        self._protocol = protocol
        self._received_before = protocol.received_bytes

    @property
    def was_stale(self) -> bool:
        """Whether it went out on a used connection, and not a byte came back."""
        protocol = self._protocol
        return protocol is not None and 0 < self._received_before == protocol.received_bytes


ATTEMPT: ContextVar[Attempt] = ContextVar("attempt")


class NotingRequest(aiohttp.ClientRequest):
    """Notes the connection that a request is sent on."""

    async def send(self, conn: Connection) -> Any:
        protocol = conn.protocol
        attempt = ATTEMPT.get(None)
        if attempt is not None and isinstance(protocol, PushingProtocol):
            attempt.sent_on(protocol)
        return await super().send(conn)


def push(connector: aiohttp.BaseConnector) -> None:
    """Make a connector use the pushing protocol."""
    factory: Any = functools.partial(PushingProtocol, loop=asyncio.get_running_loop())
    connector._factory = factory  # noqa: SLF001
