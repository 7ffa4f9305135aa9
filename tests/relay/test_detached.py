"""A stream without a client: what ends it, without a socket."""

import asyncio
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.core.apis import CHAT
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import Added, Exchange
from lifecycle_proxy.exchange.ports import BodySink
from lifecycle_proxy.exchange.request_body import ParsedBody
from lifecycle_proxy.handlers.detached import DetachedStreams
from lifecycle_proxy.relay.body import PlainBody
from lifecycle_proxy.relay.detached import DetachedStream


class Response:
    """An upstream's response, in the hands of the test."""

    status, reason, was_reset = 200, "OK", False
    headers: Any = None
    raw_headers = ()

    def __init__(self) -> None:
        self.sink: BodySink | None = None
        self.attached = asyncio.Event()
        self.is_closed = False

    def attach(self, sink: BodySink) -> None:
        self.sink = sink
        self.attached.set()

    def detach(self) -> None:
        self.sink = None

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True

    def maybe_upgraded(self) -> None: ...


class Body(PlainBody):
    """Keeps what it is given."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.fed = b""
        self.added: Added = ()
        self._failure = failure

    def skim(self, data: bytes) -> bool:
        return False

    def feed(self, data: bytes, now: float) -> bytes:
        if self._failure is not None:
            raise self._failure
        self.fed += data
        return data

    def check_end(self) -> None:
        if self._failure is not None:
            raise self._failure


def exchange() -> Exchange:
    return Exchange("req", "POST", "/", "client")


async def test_the_start_and_the_rest() -> None:
    own, response, body = exchange(), Response(), Body()
    stream = DetachedStream(own, response, b"a", body)
    running = asyncio.create_task(stream.run())
    await response.attached.wait()
    stream.data_received(b"b")
    stream.beat(7.0)
    assert stream.last_write == 7.0
    stream.ended(None)
    stream.ended(ProxyError("upstream_protocol", "too late"))
    await running
    assert (own.ended, own.chunks, body.fed, response.is_closed) == ("done", 2, b"ab", True)


async def test_a_failure_in_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """A bug ends this stream only, and is in the log."""
    own, response = exchange(), Response()
    await DetachedStream(own, response, b"a", Body(RuntimeError("bug"))).run()
    assert (own.ended, own.error) == ("upstream_error", "internal")
    assert "a bug in the proxy" in caplog.text
    assert response.is_closed


async def test_an_end_that_is_none() -> None:
    own, response = exchange(), Response()
    cut = ProxyError("upstream_protocol", "cut short")
    stream = DetachedStream(own, response, b"", Body(cut))
    running = asyncio.create_task(stream.run())
    await response.attached.wait()
    stream.ended(None)
    await running
    assert (own.ended, own.cause) == ("upstream_error", "cut short")


async def test_there_are_only_so_many_at_a_time() -> None:
    nothing: Any = None
    streams = DetachedStreams(Settings(), nothing, nothing, max_streams=0)
    request: Any = make_mocked_request("POST", "/", headers={"Prefer": "respond-async"})
    asked = ParsedBody(b"{}", stream=True)
    assert await streams.maybe_start(request, "/", asked, CHAT, nothing) is None
