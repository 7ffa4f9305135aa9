"""Responses of an HTTP server as the port has them: who attaches late misses nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from lifecycle_proxy.config import model as config
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.ports import UpstreamRequest
from lifecycle_proxy.upstream.client import HttpUpstream
from lifecycle_proxy.upstream.collect import collect
from lifecycle_proxy.upstream.http1.response import HttpResponse
from multidict import CIMultiDict

from tests.fakes import DONE, Request, Upstream, Wire


@pytest.fixture
async def client(upstream: Upstream) -> AsyncIterator[HttpUpstream]:
    own = HttpUpstream(config.load(environ={}, flags={"upstream.url": f"{upstream.origin}/v1"}))
    await own.start()
    yield own
    await own.close()


async def opened(client: HttpUpstream) -> HttpResponse:
    request = UpstreamRequest("POST", "/v1/chat/completions", CIMultiDict(), b"{}")
    return await client.open(request, lambda: None)


class Sink:
    """Keeps what it is pushed."""

    def __init__(self) -> None:
        self.data = b""
        self.ends: list[ProxyError | None] = []
        self.done = asyncio.Event()

    def data_received(self, data: bytes, framed: bytes = b"") -> None:
        assert not self.ends
        self.data += data

    def ended(self, failure: ProxyError | None) -> None:
        self.ends.append(failure)
        self.done.set()


async def test_what_breaks_before_anybody_listens_is_pushed_and_then_fails(
    upstream: Upstream, client: HttpUpstream
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream()
        await asyncio.sleep(0.03)
        await wire.send(b"%x\r\n%b\r\nzz\r\n" % (len(DONE), DONE))
        await wire.gone.wait()

    upstream.script = script
    response, sink = await opened(client), Sink()
    await asyncio.sleep(0.1)
    response.attach(sink)
    await sink.done.wait()
    response.close()
    assert sink.data == DONE
    (failure,) = sink.ends
    assert failure is not None
    assert failure.code.startswith("upstream_")


async def test_an_end_that_is_on_its_way_is_not_a_break(
    upstream: Upstream, client: HttpUpstream
) -> None:
    """A transport closes first, and reports in the next turn that its connection is lost."""

    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", "Content-Type: text/event-stream")  # to the end of the connection
        await wire.send(DONE)
        wire.close()

    upstream.script = script
    response, sink = await opened(client), Sink()
    await asyncio.sleep(0.1)
    response.attach(sink)
    await sink.done.wait()
    assert (sink.data, sink.ends) == (DONE, [None])


@pytest.mark.parametrize("body", [b"", DONE])
async def test_a_reset_before_anybody_listens_is_a_break(
    body: bytes, upstream: Upstream, client: HttpUpstream
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", "Content-Type: text/event-stream")  # to the end of the connection
        await wire.send(body)
        wire.reset()

    upstream.script = script
    response, sink = await opened(client), Sink()
    await asyncio.sleep(0.1)
    response.attach(sink)
    await sink.done.wait()
    (failure,) = sink.ends
    assert failure is not None
    assert failure.code == "upstream_unreachable"
    assert response.was_reset


async def test_a_sink_may_take_over_from_another_one(
    upstream: Upstream, client: HttpUpstream
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(b"one", b"two", b"")

    upstream.script = script
    response, sink = await opened(client), Sink()
    start = await collect(response, lambda data: len(data) > 0)
    response.attach(sink)
    if not sink.ends:
        await sink.done.wait()
    assert start.data + sink.data == b"onetwo"
    assert sink.ends == [None]
    rest = await collect(response, lambda data: False)
    assert (rest.data, rest.is_complete, rest.failure) == (b"", True, None)
