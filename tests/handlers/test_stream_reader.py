"""Readers that are slow, dead or early, and a log that cannot be asked; limits are short here."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.core.vocabularies import VOCABULARIES
from lifecycle_proxy.exchange.client_scope import ANONYMOUS
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.handlers.stream_reader import StreamReader
from lifecycle_proxy.handlers.stream_reading import StreamEndpoints
from lifecycle_proxy.handlers.stream_replay import StreamReplay
from lifecycle_proxy.handlers.stream_tokens import StreamTokens
from lifecycle_proxy.state.event_log import EventLog
from lifecycle_proxy.state.memory_event_log import MemoryEventLog
from lifecycle_proxy.state.stream_records import (
    BytesHead,
    LogLimits,
    LogUnavailableError,
    Page,
    StreamKey,
    StreamStatus,
)
from lifecycle_proxy.telemetry.metrics import Metrics

from tests.fakes import Answer, Client, ask
from tests.handlers.test_streams import parsed, types
from tests.state.replicas import DONE, begun

_ID = "my-stream-1"
_KEY = StreamKey(ANONYMOUS, _ID)
_EVENTS = f"/-/streams/{_ID}/events"
_LARGE = {"text": "x" * 60_000, "kind": "text", "choice": 0}


class Unavailable(MemoryEventLog):
    """A log whose store is down."""

    async def read(self, key: StreamKey, after: int, wait_s: float) -> Page:
        raise LogUnavailableError

    async def status(self, key: StreamKey) -> StreamStatus:
        raise LogUnavailableError


@asynccontextmanager
async def serving(log: EventLog, **limits: Any) -> AsyncIterator[tuple[str, Metrics]]:
    """The paths of streams, without the rest of the proxy."""
    metrics = Metrics()
    drain = limits.pop("drain", None) or asyncio.Event()
    reader = StreamReader(Settings(), log, metrics.side, drain, **limits)
    replay = StreamReplay(log, stall_s=limits.get("stall_s", 60))
    endpoints = StreamEndpoints(log, StreamTokens("secret"), reader, replay)

    async def handle(request: Any) -> web.StreamResponse:
        path, _, _ = request.raw_path.partition("?")
        exchange = Exchange("req", request.method, path, "", target=request.raw_path)
        request.exchange = exchange
        try:
            return await endpoints.handle(request)
        except ProxyError as failure:
            return web.Response(body=failure.body(), status=failure.status)

    make = partial(ClientRequest, loop=asyncio.get_running_loop())
    server = web.Server(handle, request_factory=make, handler_cancellation=True)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", metrics
    finally:
        await runner.cleanup()


def closed(answer: Answer) -> str:
    """Why a reader's connection has ended before the stream."""
    (number, kind, data) = parsed(answer.body)[-1]
    assert (number, kind, data["streamId"]) == (None, "closed", _ID)
    assert data["message"]
    return str(data["reason"])


async def test_a_reader_that_never_reads_is_left() -> None:
    log = MemoryEventLog()
    async with serving(log, stall_s=0.2) as (url, _):
        writer = await begun(log, _KEY)
        async with Client(url) as client:
            await client.send("GET", _EVENTS)
            client.wire.transport.pause_reading()
            for _ in range(200):
                writer.append("text", _LARGE)  # waits for nobody
                await asyncio.sleep(0)
            writer.append("stream.done", DONE)
            await asyncio.sleep(1)
            client.wire.transport.resume_reading()
            answer = await (await client.head()).read()
        assert answer.end in ("cut", "reset")
        assert b"stream.done" not in answer.body
        assert b"stream.done" in (await ask(url, "GET", _EVENTS)).body


async def test_a_slow_reader_falls_behind_and_gets_a_gap() -> None:
    log = MemoryEventLog(LogLimits(events=20, bytes=10 << 20))
    async with serving(log) as (url, metrics):
        writer = await begun(log, _KEY)
        async with Client(url) as client:
            await client.send("GET", _EVENTS)
            answer = await client.head()
            writer.append("stream.started", {})
            await answer.until(b"stream.started")
            client.wire.transport.pause_reading()
            for _ in range(300):
                writer.append("text", _LARGE)
                await asyncio.sleep(0.001)
            writer.append("stream.done", DONE)
            client.wire.transport.resume_reading()
            await answer.read()
        assert answer.end == "clean"
        found = parsed(answer.body)
        numbers = [number for number, _, _ in found if number is not None]
        gaps = [data for _, kind, data in found if kind == "gap"]
        assert len(gaps) >= 1
        assert numbers == sorted(set(numbers))
        missing = {number for number in range(1, 303) if number not in numbers}
        told = {number for gap in gaps for number in range(gap["requested"], gap["firstAvailable"])}
        assert missing == told  # none of them silently
        assert b"lifecycle_proxy_stream_gaps_total" in metrics.render("")[0]


async def test_an_early_reader_does_not_wait_for_ever() -> None:
    log = MemoryEventLog()
    async with serving(log, early_s=0.05) as (url, _):
        answer = await ask(url, "GET", _EVENTS)
        assert (answer.status, answer.end) == (200, "clean")
        assert closed(answer) == "not_begun"


@pytest.mark.parametrize("name", VOCABULARIES)
async def test_each_vocabulary_says_that_a_stream_has_not_begun(name: str) -> None:
    async with serving(MemoryEventLog(), early_s=0.05) as (url, _):
        answer = await ask(url, "GET", f"{_EVENTS}?dialect={name}")
        assert (answer.status, answer.end) == (200, "clean")
        assert b"no request with this id has begun" in answer.body


async def test_nobody_waits_for_a_stream_while_the_process_ends() -> None:
    drain = asyncio.Event()
    drain.set()
    async with serving(MemoryEventLog(), drain=drain) as (url, _):
        assert (await ask(url, "GET", _EVENTS)).status == 404


async def test_who_waits_for_a_stream_ends_with_the_process() -> None:
    """At once: the next look would be at the time of a comment, and the drain may be shorter."""
    drain = asyncio.Event()
    async with serving(MemoryEventLog(), drain=drain) as (url, _), Client(url) as client:
        await client.send("GET", _EVENTS)
        answer = await client.head()
        await answer.until(b": connected")
        drain.set()
        await answer.read()
        assert (answer.end, closed(answer)) == ("clean", "draining")
        assert b"keep-alive" not in answer.body


async def test_too_many_early_readers_are_sent_away() -> None:
    log = MemoryEventLog()
    others = [
        asyncio.ensure_future(log.wait_for(StreamKey("o", f"{number}"), 30))
        for number in range(1_000)
    ]
    async with serving(log) as (url, _):
        answer = await ask(url, "GET", _EVENTS)
        assert (answer.status, answer.end) == (200, "clean")
        assert closed(answer) == "too_many_readers"
    for one in others:
        one.cancel()
    await asyncio.wait(others)


async def test_a_log_that_cannot_be_asked() -> None:
    async with serving(Unavailable()) as (url, metrics):
        for method, target in (
            ("GET", _EVENTS),
            ("GET", f"/-/streams/{_ID}"),
            ("POST", f"/-/streams/{_ID}/token"),
        ):
            answer = await ask(url, method, target)
            assert (answer.status, answer.json()["error"]["code"]) == (503, "streams_unavailable")
        counted = metrics.render("")[0]
        assert b"lifecycle_proxy_stream_log_unavailable_total 1.0" in counted


async def test_a_stream_that_is_forgotten_ends_for_its_readers() -> None:
    log = MemoryEventLog()
    async with serving(log) as (url, _), Client(url) as client:
        writer = await begun(log, _KEY)
        await client.send("GET", _EVENTS)
        answer = await client.head()
        writer.append("stream.started", {})
        await answer.until(b"stream.started")
        writer.discard()
        await answer.read()
        assert (answer.end, closed(answer)) == ("clean", "stream_expired")


async def test_a_log_that_fails_while_it_is_read() -> None:
    class Failing(MemoryEventLog):
        async def read(self, key: StreamKey, after: int, wait_s: float) -> Page:
            if after:
                raise LogUnavailableError
            return await super().read(key, after, wait_s)

    log = Failing()
    async with serving(log) as (url, _):
        (await begun(log, _KEY)).append("stream.started", {})
        answer = await ask(url, "GET", _EVENTS)
        assert types(answer.body) == ["stream.started", "closed"]
        assert (answer.end, closed(answer)) == ("clean", "streams_unavailable")


@pytest.mark.parametrize("end", ["eof", "cut"])
async def test_a_chat_that_is_given_again_ends_as_it_did(end: Any) -> None:
    log = MemoryEventLog()
    async with serving(log) as (url, _):
        writer = await begun(log, _KEY, is_resumable=True)
        head = ((b"Content-Type", b"text/event-stream"), (b"Transfer-Encoding", b"chunked"))
        writer.begin_bytes(BytesHead(200, (*head, (b"X-Own", b"1"))))
        writer.write(b"data: 1\n\n")
        writer.end_bytes(end)
        answer = await ask(url, "GET", f"/-/streams/{_ID}/chat")
        assert (answer.status, answer.body, answer.headers["X-Own"]) == (200, b"data: 1\n\n", "1")
        assert answer.end == ("clean" if end == "eof" else "cut")


async def test_ten_thousand_streams_at_once() -> None:
    log = MemoryEventLog()
    writers = [await log.create(StreamKey("o", f"{number}")) for number in range(10_050)]
    assert [writer is None for writer in writers] == [False] * 10_000 + [True] * 50
    assert len(log) == 10_000
    for writer in writers[:100]:
        assert writer is not None
        writer.append("stream.done", DONE)
    assert await log.create(StreamKey("o", "next")) is not None  # in the place of one that ended
    assert len(log) == 10_000
