"""The same request again continues its stream: byte for byte, and the upstream is asked once."""

import asyncio
import json
from typing import Any, Final

import pytest

from tests.conftest import StartProxy
from tests.fakes import (
    CHAT,
    DONE,
    JSON,
    Answer,
    Client,
    Request,
    Upstream,
    Wire,
    ask,
    chat,
    delta,
    lifecycle,
    text,
    tool_call,
    usage,
)

pytestmark = pytest.mark.usefixtures("quiet")

RESUMES: Final = {"streams.resume_s": 30}
KEY: Final = "Idempotency-Key: k-1"
RETRY: Final = "X-Stainless-Retry-Count: 1"
FIRST: Final = "X-Stainless-Retry-Count: 0"
PIECES: Final = (
    *(text(f"piece {number} ") for number in range(5)),
    tool_call(),
    delta("tool_calls"),
    usage(),
    DONE,
    b"",
)


class Steps:
    """An upstream whose stream goes on step by step.

    Attributes:
        asked: how often it was.
    """

    def __init__(self, upstream: Upstream) -> None:
        self.asked = 0
        self._go = asyncio.Semaphore(0)
        upstream.script = self._script

    def go(self, steps: int = len(PIECES) + 1) -> None:
        for _ in range(steps):
            self._go.release()

    async def _script(self, request: Request, wire: Wire) -> None:
        self.asked += 1
        await self._go.acquire()
        await wire.stream()
        for piece in PIECES:
            await self._go.acquire()
            await wire.chunk(piece)


async def undisturbed(upstream: Upstream, start_proxy: StartProxy) -> bytes:
    """What a client gets that stays."""

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*PIECES)

    upstream.script = script
    body = (await chat(await start_proxy())).body
    upstream.requests.clear()
    return body


def without_durations(body: bytes) -> list[Any]:
    """A stream's events, but for how long the calls took."""
    lines = [one for one in body.decode().split("\n") if one.startswith("data: {")]
    payloads = [json.loads(line.removeprefix("data: ")) for line in lines]
    for payload in payloads:
        payload.pop("durationMs", None)
    return payloads


async def left(proxy: str, steps: Steps, seen: int, *lines: str) -> Answer | None:
    """A client that leaves when it has seen so many pieces; -1: before the headers."""
    async with Client(proxy) as client:
        await client.ask_chat(*lines)
        if seen < 0:
            async with asyncio.timeout(30):
                while not steps.asked:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            return None
        steps.go(seen + 1)
        answer = await client.head()
        if seen:
            await answer.until(PIECES[seen - 1])
        return answer


@pytest.mark.parametrize("seen", [-1, 0, 1, 5, 6, 9])
@pytest.mark.parametrize("lines", [((KEY,), (KEY,)), ((FIRST,), (RETRY,)), ((), (RETRY,))])
async def test_a_client_that_comes_again(
    upstream: Upstream,
    start_proxy: StartProxy,
    seen: int,
    lines: tuple[tuple[str, ...], tuple[str, ...]],
) -> None:
    whole = await undisturbed(upstream, start_proxy)
    steps = Steps(upstream)
    proxy = await start_proxy(RESUMES)
    first, again = lines
    await left(proxy, steps, seen, *first)
    async with Client(proxy) as client:
        await client.ask_chat(*again)
        steps.go()
        answer = await client.head()
        await answer.read()
    assert (answer.status, answer.end) == (200, "clean")
    assert answer.headers["X-Lifecycle-Resumed"] == "true"
    assert without_durations(answer.body) == without_durations(whole)
    assert steps.asked == 1


@pytest.mark.parametrize("repeats", [KEY, RETRY])
@pytest.mark.parametrize("who", ["Authorization: Bearer", "Cookie: session=", "X-Session-Id:"])
async def test_nobody_gets_what_another_has_asked_for(
    upstream: Upstream, start_proxy: StartProxy, repeats: str, who: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text(request.headers[who.partition(":")[0]]), DONE, b"")

    upstream.script = script
    proxy = await start_proxy(RESUMES)
    for name in ("alice", "bob", "alice"):
        answer = await chat(proxy, f"{who} {name}", repeats)
        assert name.encode() in answer.body
    assert answer.headers["X-Lifecycle-Resumed"] == "true"
    assert len(upstream.requests) == 2


async def test_a_finished_stream_is_given_again(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    steps = Steps(upstream)
    steps.go()
    proxy = await start_proxy(RESUMES)
    first = await chat(proxy, KEY)
    for _ in range(2):
        again = await chat(proxy, KEY)
        assert again.body == first.body
        assert again.headers["X-Stream-Id"] == first.headers["X-Stream-Id"]
        assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert steps.asked == 1
    metrics = await ask(proxy, "GET", "/-/metrics")
    assert b'lifecycle_proxy_streams_resumed_total{result="joined"} 2.0' in metrics.body


async def test_two_clients_at_the_same_time(upstream: Upstream, start_proxy: StartProxy) -> None:
    steps = Steps(upstream)
    proxy = await start_proxy(RESUMES)
    async with Client(proxy) as one, Client(proxy) as other:
        await one.ask_chat(KEY)
        steps.go(3)
        first = await one.head()
        await first.until(PIECES[1])
        second = await other.chat(KEY)
        await second.until(PIECES[1])
        steps.go()
        await first.read()
        await second.read()
    assert first.body == second.body
    assert steps.asked == 1


@pytest.mark.parametrize(
    ("lines", "more"),
    [
        ((), {}),  # the same question once more: another answer is wanted
        ((FIRST,), {}),
        ((RETRY,), {"temperature": 1}),
        ((RETRY, "Authorization: Bearer other"), {}),
        ((RETRY, "X-Lifecycle-Events: bare"), {}),
        ((RETRY, "X-Lifecycle-Resume: 0"), {}),
        ((KEY,), {}),
    ],
)
async def test_what_is_another_request(
    upstream: Upstream, start_proxy: StartProxy, lines: tuple[str, ...], more: dict[str, Any]
) -> None:
    steps = Steps(upstream)
    steps.go(100)
    proxy = await start_proxy(RESUMES)
    await chat(proxy)
    answer = await chat(proxy, *lines, **more)
    assert (answer.status, "X-Lifecycle-Resumed" in answer.headers) == (200, False)
    assert steps.asked == 2


async def test_the_same_key_with_another_body(upstream: Upstream, start_proxy: StartProxy) -> None:
    steps = Steps(upstream)
    steps.go()
    proxy = await start_proxy(RESUMES)
    await chat(proxy, KEY)
    answer = await chat(proxy, KEY, temperature=1)
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (409, "idempotency_conflict")
    assert error["param"] == "Idempotency-Key"
    assert steps.asked == 1


async def test_off_by_default(upstream: Upstream, proxy: str) -> None:
    steps = Steps(upstream)
    steps.go(100)
    await chat(proxy, KEY)
    assert "X-Lifecycle-Resumed" not in (await chat(proxy, KEY)).headers
    assert steps.asked == 2
    assert (await chat(proxy, KEY, "X-Lifecycle-Resume: 60")).status == 200
    assert "X-Lifecycle-Resumed" in (await chat(proxy, KEY, "X-Lifecycle-Resume: 60")).headers
    assert steps.asked == 3
    assert all("X-Lifecycle-Resume" not in request.headers for request in upstream.requests)
    assert all(request.headers["Idempotency-Key"] == "k-1" for request in upstream.requests)


@pytest.mark.parametrize("value", ["soon", "-1", "1e9", "nan", ""])
async def test_wishes_that_are_none(upstream: Upstream, proxy: str, value: str) -> None:
    answer = await chat(proxy, f"X-Lifecycle-Resume: {value}")
    assert (answer.status, answer.json()["error"]["param"]) == (400, "X-Lifecycle-Resume")
    assert upstream.requests == []


async def test_nobody_comes_again(upstream: Upstream, start_proxy: StartProxy) -> None:
    steps = Steps(upstream)
    proxy = await start_proxy({"streams.resume_s": 0.05})
    answer = await left(proxy, steps, 2, KEY)
    assert answer is not None
    await upstream.request.wire.left()
    target = answer.headers["X-Stream-Url"]
    done = await ask(proxy, "GET", target)
    assert b'"status":"cancelled"' in done.body
    assert b"client_disconnected" in done.body
    steps.go(100)
    again = await chat(proxy, KEY)
    assert (again.status, "X-Lifecycle-Resumed" in again.headers) == (200, False)
    assert steps.asked == 2


async def test_nobody_comes_again_before_the_headers(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    steps = Steps(upstream)
    proxy = await start_proxy({"streams.resume_s": 0.05})
    await left(proxy, steps, -1, KEY)
    await upstream.request.wire.left()


async def test_a_second_client_keeps_the_stream(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    steps = Steps(upstream)
    proxy = await start_proxy({"streams.resume_s": 1})
    await left(proxy, steps, 1, KEY)
    async with Client(proxy) as client:
        answer = await client.chat(KEY)
        await asyncio.sleep(1.5)  # longer than it waits for nobody
        steps.go()
        await answer.read()
    assert answer.end == "clean"
    assert DONE in answer.body
    assert steps.asked == 1


async def test_an_upstream_that_breaks_is_asked_again(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    asked = 0

    async def script(request: Request, wire: Wire) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await wire.stream(text("a"), tool_call())
            wire.reset()
        else:
            await wire.stream(*PIECES)

    upstream.script = script
    proxy = await start_proxy(RESUMES)
    broken = await chat(proxy, KEY)
    assert (broken.end, asked) == ("cut", 1)
    assert lifecycle(broken.body)[-1] == ("call_1", "completed", "upstream_error")
    again = await chat(proxy, KEY)
    assert (again.end, asked) == ("clean", 2)


async def test_a_stream_that_breaks_breaks_for_all(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    go = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("a"), tool_call())
        await go.wait()
        wire.reset()

    upstream.script = script
    proxy = await start_proxy(RESUMES)
    async with Client(proxy) as one:
        first = await one.chat(KEY)
        await first.until(b"running")
    async with Client(proxy) as other:
        second = await other.chat(KEY)
        await second.until(b"running")
        go.set()
        await second.read()
    assert second.end == "cut"
    assert b"upstream_unreachable" in second.body or b"upstream_protocol" in second.body
    assert DONE not in second.body
    assert lifecycle(second.body)[-1] == ("call_1", "completed", "upstream_error")


async def test_a_refusal_is_not_given_again(upstream: Upstream, start_proxy: StartProxy) -> None:
    async def script(request: Request, wire: Wire) -> None:
        status = "500 Internal Server Error" if len(upstream.requests) < 3 else "429 Too Many"
        await wire.answer(b'{"error": {"message": "no"}}', status, JSON)

    upstream.script = script
    proxy = await start_proxy(RESUMES)
    statuses = [(await chat(proxy, KEY)).status for _ in range(3)]
    assert statuses == [500, 500, 429]


async def test_what_is_too_large_is_given_up(upstream: Upstream, start_proxy: StartProxy) -> None:
    large = [text("x" * 1000) for _ in range(10)]

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*large, delta("stop"), DONE, b"")

    upstream.script = script
    proxy = await start_proxy({**RESUMES, "streams.resume_max_bytes": 4096})
    first = await chat(proxy, KEY)
    assert first.end == "clean"
    status = await ask(proxy, "GET", f"/-/streams/{first.headers['X-Stream-Id']}")
    assert status.json()["resumable"] is False
    again = await chat(proxy, KEY)
    assert (again.end, "X-Lifecycle-Resumed" in again.headers) == ("clean", False)
    assert len(upstream.requests) == 2
    metrics = await ask(proxy, "GET", "/-/metrics")
    assert b'lifecycle_proxy_streams_resumed_total{result="given_up"} 1.0' in metrics.body


async def test_a_plain_request_is_not_resumed(upstream: Upstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(RESUMES)
    for _ in range(2):
        assert (await ask(proxy, "POST", CHAT, JSON, KEY, body=b"{}")).status == 200
    assert len(upstream.requests) == 2


async def test_a_slow_client_that_leaves_holds_nothing_back(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    """The upstream was paused for it."""
    large = text("x" * 100_000)

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*[large] * 50, delta("stop"), DONE, b"")

    upstream.script = script
    proxy = await start_proxy(RESUMES)
    async with Client(proxy) as client:
        client.wire.transport.pause_reading()
        await client.ask_chat(KEY)
        async with asyncio.timeout(30):
            while not upstream.requests:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # as much as goes into the buffers
    again = await chat(proxy, KEY)
    assert (again.end, len(upstream.requests)) == ("clean", 1)
    assert again.body.count(large) == 50


# --- by its URL -----------------------------------------------------------------------------------


async def test_the_chat_by_its_url(upstream: Upstream, start_proxy: StartProxy) -> None:
    steps = Steps(upstream)
    steps.go(100)
    proxy = await start_proxy({})
    first = await chat(proxy, "X-Lifecycle-Resume: 60")
    target = f"/-/streams/{first.headers['X-Stream-Id']}/chat"
    assert (await ask(proxy, "GET", target)).body == first.body
    behind = (await ask(proxy, "GET", target, "Last-Event-ID: 2")).body  # tool.running
    assert first.body.endswith(behind)
    assert PIECES[5] in behind  # from the read on in which the event was: nothing is missed
    assert (await ask(proxy, "GET", f"{target}?after=2")).body == behind
    assert (await ask(proxy, "GET", target, "Authorization: Bearer other")).status == 404
    assert (await ask(proxy, "GET", f"{target}?after=x")).status == 400
    plain = await chat(proxy)
    stranger = await ask(proxy, "GET", f"/-/streams/{plain.headers['X-Stream-Id']}/chat")
    assert (stranger.status, stranger.json()["error"]["code"]) == (404, "not_found")


async def test_a_head_that_is_not_utf_8(upstream: Upstream, start_proxy: StartProxy) -> None:
    """Byte for byte, as the first client has got it; names of other servers, too."""
    odd = b"\xa0v\x85 \xc3\xa9 \xff".decode("latin-1")
    lines = (f"X-Odd: {odd}", "X-Twice: 1", "X-Twice: 2", "Server: its own")

    async def script(request: Request, wire: Wire) -> None:
        kind = ("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
        await wire.head(f"200 {odd}", *kind, *lines)
        for piece in PIECES:
            await wire.chunk(piece)

    upstream.script = script
    proxy = await start_proxy(RESUMES)
    first, again = await chat(proxy, KEY), await chat(proxy, KEY)
    assert len(upstream.requests) == 1
    assert (first.reason, again.reason) == (odd, odd)
    for line in lines:
        assert f"\r\n{line}\r\n" in first.raw.decode("latin-1")
    left = {"X-Lifecycle-Resumed", "Date"}
    head = [(name, value) for name, value in again.headers.items() if name not in left]
    assert head == [(name, value) for name, value in first.headers.items() if name not in left]


async def test_a_chosen_id_and_a_key(upstream: Upstream, start_proxy: StartProxy) -> None:
    """The retry has the same id, which is in use by its own stream."""
    steps = Steps(upstream)
    proxy = await start_proxy(RESUMES)
    lines = (KEY, "X-Event-Stream-Id: my-stream-1")
    await left(proxy, steps, 2, *lines)
    async with Client(proxy) as client:
        await client.ask_chat(*lines)
        steps.go()
        answer = await (await client.head()).read()
    assert (answer.status, answer.headers["X-Stream-Id"]) == (200, "my-stream-1")
    assert steps.asked == 1
