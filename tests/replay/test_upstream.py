"""Recordings in the upstream's place, in this process: when each read comes, and how it ends."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from lifecycle_proxy.exchange.ends import SideEnd
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.ports import UpstreamRequest
from lifecycle_proxy.recording.cassette import RecordedExchange
from lifecycle_proxy.replay.matching import Rules
from lifecycle_proxy.replay.upstream import PlayedResponse, PlayedUpstream
from lifecycle_proxy.upstream.collect import collect
from lifecycle_proxy.upstream.routes import UpstreamUrls
from multidict import CIMultiDict

from tests.recording import CHAT, SSE_HEAD, asked, exchange

QUESTION = {"messages": [{"role": "user", "content": "a"}]}


class Sink:
    """Keeps each read, and the turn of the event loop that it came in."""

    def __init__(self) -> None:
        self.reads: list[bytes] = []
        self.ends: list[ProxyError | None] = []
        self.done = asyncio.Event()

    def data_received(self, data: bytes, framed: bytes = b"") -> None:
        assert not self.ends
        self.reads.append(data)

    def ended(self, failure: ProxyError | None) -> None:
        self.ends.append(failure)
        self.done.set()


def upstream(*exchanges: RecordedExchange, **more: Any) -> PlayedUpstream:
    urls = UpstreamUrls("http://127.0.0.1:1/v1", "http://127.0.0.1:1")
    return PlayedUpstream(exchanges, urls, Rules(strict=True), **{"speed": 0, **more})


def wanted(body: Any = QUESTION, method: str = "POST") -> UpstreamRequest:
    data = None if body is None else json.dumps(body).encode()
    return UpstreamRequest(method, CHAT, CIMultiDict(), data)


async def opened(one: RecordedExchange, **more: Any) -> PlayedResponse:
    return await upstream(one, **more).open(wanted(), lambda: None)


async def played(one: RecordedExchange) -> tuple[PlayedResponse, Sink]:
    response, sink = await opened(one), Sink()
    response.attach(sink)
    await sink.done.wait()
    return response, sink


async def test_each_read_is_pushed_by_itself_and_in_order() -> None:
    response, sink = await played(exchange(asked(QUESTION), [b"a", b"b", b"c"]))
    assert (response.status, response.reason, response.raw_headers) == (200, "OK", SSE_HEAD)
    assert (sink.reads, sink.ends) == ([b"a", b"b", b"c"], [None])


async def test_a_turn_of_the_loop_lies_between_two_reads() -> None:
    response, sink = await opened(exchange(asked(QUESTION), [b"a", b"b"])), Sink()
    response.attach(sink)
    await asyncio.sleep(0)
    assert sink.reads == [b"a"]
    await asyncio.sleep(0)
    assert sink.reads == [b"a", b"b"]


async def test_reads_come_at_their_time() -> None:
    one = exchange(asked(QUESTION), [(1.0, b"a"), (5_000.0, b"b")])
    response, sink = await opened(one, speed=1), Sink()
    response.attach(sink)
    await asyncio.sleep(0.1)
    assert sink.reads == [b"a"]
    response.close()


async def test_nothing_is_pushed_while_the_client_is_behind() -> None:
    response, sink = await opened(exchange(asked(QUESTION), [b"a", b"b"])), Sink()
    response.attach(sink)
    response.pause()
    await asyncio.sleep(0.01)
    assert sink.reads == []
    response.resume()
    await sink.done.wait()
    assert sink.reads == [b"a", b"b"]


async def test_another_sink_gets_the_rest() -> None:
    response, sink = await opened(exchange(asked(QUESTION), [b"a", b"b"])), Sink()
    start = await collect(response, lambda data: len(data) > 0)
    assert start.data == b"a"
    response.attach(sink)
    await sink.done.wait()
    assert sink.reads == [b"b"]


@pytest.mark.parametrize(
    ("end", "headers", "code", "was_reset"),
    [
        ("eof", SSE_HEAD, None, False),
        ("cut", SSE_HEAD, "upstream_protocol", False),
        ("cut", [("Content-Length", "9")], "upstream_protocol", False),
        ("cut", [("Content-Type", "text/plain")], "upstream_unreachable", True),
        ("reset", SSE_HEAD, "upstream_unreachable", True),
        ("gone", SSE_HEAD, "upstream_unreachable", True),
    ],
)
async def test_it_ends_as_it_was_recorded(
    end: SideEnd, headers: Sequence[tuple[str, str]], code: str | None, was_reset: bool
) -> None:
    one = exchange(asked(QUESTION), [b"a"], headers=tuple(headers), end=end)
    response, sink = await played(one)
    assert sink.reads == [b"a"]
    (failure,) = sink.ends
    assert (failure and failure.code) == code
    assert response.was_reset == was_reset


async def test_a_timeout_is_silence() -> None:
    response, sink = await opened(exchange(asked(QUESTION), [b"a"], end="timeout")), Sink()
    response.attach(sink)
    await asyncio.sleep(0.05)
    assert (sink.reads, sink.ends) == ([b"a"], [])
    response.close()


@pytest.mark.parametrize("status", [204, 304])
async def test_some_statuses_have_no_body(status: int) -> None:
    one = exchange(asked(QUESTION), [b"a"], status=status, headers=(), end="cut")
    _, sink = await played(one)
    assert (sink.reads, sink.ends) == ([], [None])


async def test_a_recording_without_a_response_is_an_unreachable_upstream() -> None:
    with pytest.raises(ProxyError) as failure:
        await opened(exchange(asked(QUESTION), [], status=0, headers=(), end="cut"))
    assert failure.value.code == "upstream_unreachable"


@pytest.mark.parametrize("status", [0, 200])
async def test_the_headers_have_a_time_limit(status: int) -> None:
    end: SideEnd = "timeout" if status == 0 else "eof"
    one = exchange(asked(QUESTION), [], status=status, gap_ms=60_000, end=end)
    with pytest.raises(ProxyError) as failure:
        await opened(one, speed=1, first_byte_s=0.05)
    assert failure.value.code == "upstream_timeout"


async def test_a_miss_says_what_differs() -> None:
    played = upstream(exchange(asked(QUESTION)))
    other = {"messages": [{"role": "user", "content": "b"}]}
    response = await played.open(wanted(other), lambda: None)
    got = await collect(response, lambda data: False)
    assert response.status == 404
    assert response.headers["X-Should-Retry"] == "false"
    assert json.loads(got.data)["error"]["code"] == "no_recording"
    assert response.headers["Content-Length"] == str(len(got.data))


async def test_a_streamed_body_is_read_to_find_its_recording() -> None:
    async def body() -> Any:
        for piece in (json.dumps(QUESTION)[:7], json.dumps(QUESTION)[7:]):
            yield piece.encode()

    request = UpstreamRequest("POST", CHAT, CIMultiDict(), body())
    response = await upstream(exchange(asked(QUESTION))).open(request, lambda: None)
    assert response.status == 200


async def test_it_is_always_ready() -> None:
    own = upstream()
    await own.start()
    assert await own.probe() == ""
    assert own.target("/v1/models?a=b") == "/v1/models?a=b"
    await own.close()
