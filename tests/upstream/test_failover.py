"""The next target: when it is asked, when never, and what the client gets in the end."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from lifecycle_proxy.app.factory import ProxyApp
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.exchange.failover import Failover
from lifecycle_proxy.exchange.model import Exchange, Listener
from lifecycle_proxy.upstream.attempt import maybe_wait_s

from tests.backends import backends, came, complete, several
from tests.conftest import StartProxy
from tests.fakes import DONE, JSON, Client, Request, Wire, ask, chat, delta, text

pytestmark = pytest.mark.usefixtures("quiet")

Break = Callable[[Request, Wire], Awaitable[None]]
BOTH: dict[str, Any] = {"m": ["a/x", "b/y"]}


def status(code: int, *lines: str) -> Break:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b'{"error":{"message":"no"}}', f"{code} No", JSON, *lines)

    return script


async def close(request: Request, wire: Wire) -> None:
    wire.close()


async def reset(request: Request, wire: Wire) -> None:
    wire.reset()


async def garbage(request: Request, wire: Wire) -> None:
    await wire.send(b"nonsense\r\n\r\n")
    wire.close()


async def silence(request: Request, wire: Wire) -> None:
    await wire.gone.wait()


async def hello(request: Request, wire: Wire) -> None:
    """A stream if that is asked for, else JSON."""
    if request.json().get("stream"):
        await wire.stream(text(request.json()["model"]), DONE, b"")
    else:
        await wire.answer(json.dumps({"model": request.json()["model"]}).encode(), "200 OK", JSON)


async def asked(url: str, *, stream: bool) -> tuple[int, str, str]:
    """Status, the upstream that answered, and for which model."""
    answer = await (chat(url, model="m") if stream else complete(url, "m"))
    by = answer.headers.get("X-Lifecycle-Upstream", "")
    for model in ("x", "y"):
        if f'"{model}"'.encode() in answer.body:
            return answer.status, by, model
    return answer.status, by, ""


FAILURES = {
    **{f"{code}": status(code) for code in (429, 500, 502, 503, 504, 529)},
    "close": close,
    "reset": reset,
    "garbage": garbage,
    "silence": silence,
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("failure", FAILURES)
async def test_the_next_target_is_asked_before_the_first_byte(
    start_proxy: StartProxy, failure: str, stream: bool
) -> None:
    async with backends(a=[], b=[]) as (one, two):
        one.answer, two.answer = FAILURES[failure], hello
        table = one.table(first_byte_timeout_s=0.2)
        url = await start_proxy(several(table, two.table(), models=BOTH))
        assert await asked(url, stream=stream) == (200, "b", "y")
        assert [request.json()["model"] for request in one.asked] == ["x"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_refused_connection_and_broken_tls_lead_to_the_next(
    start_proxy: StartProxy, stream: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with backends(a=[], b=[]) as (one, two):
        two.answer = hello
        for broken in (f"http://127.0.0.1:{port}/v1", one.origin.replace("http:", "https:")):
            table = one.table(client_key="drop", connect_timeout_s=0.5) | {"url": broken}
            url = await start_proxy(several(table, two.table(), models=BOTH))
            assert await asked(url, stream=stream) == (200, "b", "y")


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 422, 418, 501])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_is_an_answer(start_proxy: StartProxy, code: int, stream: bool) -> None:
    async with backends(a=[], b=[]) as (one, two):
        one.answer, two.answer = status(code), hello
        url = await start_proxy(several(one.table(), two.table(), models=BOTH))
        assert (await asked(url, stream=stream))[:2] == (code, "a")
        assert two.asked == []


async def test_nothing_follows_after_a_byte(start_proxy: StartProxy) -> None:
    async def cut(request: Request, wire: Wire) -> None:
        await wire.stream(text("x"))
        wire.reset()

    async with backends(a=[], b=[]) as (one, two):
        one.answer, two.answer = cut, hello
        url = await start_proxy(several(one.table(), two.table(), models=BOTH))
        answer = await chat(url, model="m")
        assert (answer.status, answer.end) == (200, "cut")
        assert b'"code": "upstream_protocol"' in answer.body
        assert two.asked == []


@pytest.mark.parametrize("stream", [True, False])
async def test_the_last_error_is_what_the_client_gets(
    start_proxy: StartProxy, stream: bool
) -> None:
    async with backends(a=[], b=[]) as (one, two):
        one.answer, two.answer = close, status(503)
        url = await start_proxy(several(one.table(), two.table(), models=BOTH))
        answer = await (chat(url, model="m") if stream else complete(url, "m"))
        assert (answer.status, answer.body) == (503, b'{"error":{"message":"no"}}')
        assert answer.headers["X-Lifecycle-Upstream"] == "b"
        one.answer, two.answer = status(500), close
        answer = await (chat(url, model="m") if stream else complete(url, "m"))
        assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_unreachable")


async def test_without_a_budget_nobody_else_is_asked(start_proxy: StartProxy) -> None:
    async with backends(a=[], b=[]) as (one, two):
        one.answer, two.answer = status(500), hello
        own = several(one.table(), two.table(), models=BOTH, failover__budget_s=0)
        assert (await asked(await start_proxy(own), stream=False))[:2] == (500, "a")


@pytest.mark.parametrize("size", [100, 2 << 20, 9 << 20])
async def test_a_body_of_any_usual_size_is_sent_again(start_proxy: StartProxy, size: int) -> None:
    async with backends(a=[], b=[]) as (one, two):
        one.answer, two.answer = status(500), hello
        url = await start_proxy(several(one.table(), two.table(), models=BOTH))
        answer = await complete(url, "m", pad="x" * size)
        assert (answer.status, answer.headers["X-Lifecycle-Upstream"]) == (200, "b")
        assert two.asked[0].json() == {**one.asked[0].json(), "model": "y"}


async def test_a_limited_upstream_is_left_alone_for_as_long_as_it_says(
    start_proxy: StartProxy,
) -> None:
    async with backends(a=[], b=[]) as (one, two):
        one.answer, two.answer = status(429, "Retry-After: 30"), hello
        url = await start_proxy(several(one.table(), two.table(), models=BOTH))
        for _ in range(3):
            assert await asked(url, stream=False) == (200, "b", "y")
        assert len(one.asked) == 1


async def test_where_all_are_limited_the_first_that_is_free_is_waited_for(
    start_proxy: StartProxy,
) -> None:
    async with backends(a=[], b=[]) as (one, two):
        one.answer, two.answer = status(429, "Retry-After: 10"), status(503, "Retry-After: 1")
        url = await start_proxy(several(one.table(), two.table(), models=BOTH))
        task = asyncio.create_task(asked(url, stream=False))
        await came(1, two)
        two.answer = hello
        assert await task == (200, "b", "y")
        assert (len(one.asked), len(two.asked)) == (1, 2)


async def test_nobody_is_waited_for_beyond_the_budget_nor_for_ever(
    start_proxy: StartProxy,
) -> None:
    async with backends(a=[], b=[]) as (one, two):
        one.answer, two.answer = status(429, "Retry-After: 0"), status(429, "Retry-After: 900")
        url = await start_proxy(several(one.table(), two.table(), models=BOTH))
        answer = await complete(url, "m")
        assert (answer.status, answer.headers["Retry-After"]) == (429, "0")
        assert (len(one.asked), len(two.asked)) == (2, 1)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3), (" 1.5 ", 1.5), ("", None), ("x", None), ("-1", None), ("9" * 99, None)],
)
def test_what_retry_after_says(value: str, seconds: float | None) -> None:
    assert maybe_wait_s(value) == seconds
    assert maybe_wait_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert (maybe_wait_s("Wed, 21 Oct 2099 07:28:00 GMT") or 0) > 1e9


# --- health ---------------------------------------------------------------------------------------


async def test_an_upstream_that_fails_three_times_is_asked_last(start_proxy: StartProxy) -> None:
    async with backends(a=[], b=[]) as (one, two):
        one.answer, two.answer = close, hello
        url = await start_proxy(several(one.table(), two.table(), models=BOTH))
        for _ in range(5):
            assert await asked(url, stream=False) == (200, "b", "y")
        assert len(one.asked) == 3
        states = (await ask(url, "GET", "/-/upstreams")).json()["upstreams"]
        assert [(one["name"], one["state"], one["open"]) for one in states] == [
            ("a", "aside", 0),
            ("b", "ok", 0),
        ]
        assert "closed the connection" in states[0]["last_error"]
        # It is still asked where nobody else can answer.
        two.answer = status(500)
        await asked(url, stream=False)
        assert len(one.asked) == 4


async def test_a_stream_that_breaks_off_counts_as_a_failure(start_proxy: StartProxy) -> None:
    async def cut(request: Request, wire: Wire) -> None:
        await wire.stream(text("x"))
        wire.reset()

    async with backends(a=[], b=[]) as (one, two):
        one.answer, two.answer = cut, hello
        url = await start_proxy(several(one.table(), two.table(), models=BOTH))
        for _ in range(3):
            assert (await chat(url, model="m")).end == "cut"
        assert await asked(url, stream=True) == (200, "b", "y")
        states = (await ask(url, "GET", "/-/upstreams")).json()["upstreams"]
        assert (states[0]["state"], states[0]["failures"]) == ("aside", 3)
        assert states[0]["last_error"] == "the upstream's answer broke off before its end"


async def test_ready_with_one_upstream_left(start_proxy: StartProxy) -> None:
    async with backends(a=[], b=[]) as (one, two):
        url = await start_proxy(several(one.table(), two.table(), models=BOTH))
        one.refuse()
        assert (await ask(url, "GET", "/-/ready")).status == 200


async def test_not_ready_without_any(start_proxy: StartProxy) -> None:
    async with backends(a=[], b=[]) as (one, two):
        url = await start_proxy(several(one.table(), two.table(), models=BOTH))
        one.refuse()
        two.refuse()
        answer = await ask(url, "GET", "/-/ready")
        assert answer.status == 503
        assert answer.json()["message"].startswith("a: cannot reach")


# --- load -----------------------------------------------------------------------------------------

EQUAL: dict[str, Any] = {"m": [["a/x", "b/x", "c/x"]]}


async def test_equal_targets_are_asked_by_what_is_open_there(start_proxy: StartProxy) -> None:
    async with backends(a=[], b=[], c=[]) as all_of_them:
        go_on = asyncio.Event()

        async def wait(request: Request, wire: Wire) -> None:
            await go_on.wait()
            await hello(request, wire)

        for one in all_of_them:
            one.answer = wait
        url = await start_proxy(several(*(one.table() for one in all_of_them), models=EQUAL))
        tasks = []
        for number in range(9):
            tasks.append(asyncio.create_task(complete(url, "m", user=f"{number}")))
            await came(number + 1, *all_of_them)
        assert [len(one.asked) for one in all_of_them] == [3, 3, 3]
        go_on.set()
        assert {(await task).status for task in tasks} == {200}


async def test_a_conversation_stays_where_it_is(start_proxy: StartProxy) -> None:
    async with backends(a=[], b=[], c=[]) as all_of_them:
        for one in all_of_them:
            one.answer = hello
        url = await start_proxy(several(*(one.table() for one in all_of_them), models=EQUAL))
        places = set()
        for number in range(8):
            first = {"role": "user", "content": f"conversation {number}"}
            seen = set()
            history = [{"role": "system", "content": "s"}, first]
            for turn in range(3):
                answer = await complete(url, "m", messages=history)
                seen.add(answer.headers["X-Lifecycle-Upstream"])
                history = [*history, {"role": "assistant", "content": f"{turn}"}]
            assert len(seen) == 1
            places |= seen
        assert len(places) > 1


async def test_a_conversation_moves_when_its_place_is_gone(start_proxy: StartProxy) -> None:
    async with backends(a=[], b=[], c=[]) as all_of_them:
        for one in all_of_them:
            one.answer = hello
        url = await start_proxy(several(*(one.table() for one in all_of_them), models=EQUAL))
        first = (await complete(url, "m")).headers["X-Lifecycle-Upstream"]
        (gone,) = (one for one in all_of_them if one.name == first)
        gone.answer = status(500)
        second = (await complete(url, "m")).headers["X-Lifecycle-Upstream"]
        gone.answer = hello
        third = (await complete(url, "m")).headers["X-Lifecycle-Upstream"]
        assert second == third != first


# --- what is said of it ---------------------------------------------------------------------------


class _Followed(Listener):
    def __init__(self) -> None:
        self.seen: list[Failover] = []
        self.ended: list[Exchange] = []

    def on_failover(self, exchange: Exchange, failover: Failover) -> None:
        self.seen.append(failover)

    def on_end(self, exchange: Exchange) -> None:
        self.ended.append(exchange)


async def test_listeners_hear_of_it(start_proxy: StartProxy) -> None:
    listener = _Followed()

    def create(settings: Settings) -> ProxyApp:
        app = ProxyApp(settings)
        app.gateway.listeners.append(listener)
        return app

    async with backends(a=[], b=[], c=[]) as (one, two, three):
        one.answer, two.answer, three.answer = status(429), close, hello
        models = {"m": ["a/x", "b/y", "c/y"]}
        tables = (one.table(), two.table(), three.table())
        url = await start_proxy(several(*tables, models=models), create=create)
        assert await asked(url, stream=True) == (200, "c", "y")
        assert listener.seen == [
            Failover("a", "x", "b", "y", "rate_limit"),
            Failover("b", "y", "c", "y", "upstream_unreachable"),
        ]
        assert [exchange.upstream for exchange in listener.ended] == ["c"]


async def test_a_client_that_leaves_ends_the_attempts(start_proxy: StartProxy) -> None:
    async with backends(a=[], b=[]) as (one, two):
        one.answer, two.answer = status(429, "Retry-After: 15"), status(429, "Retry-After: 15")
        url = await start_proxy(several(one.table(), two.table(), models=BOTH))
        async with Client(url) as client:
            await client.ask_chat(model="m")
            await came(1, two)
        states: Any = None
        while states != [0, 0]:
            answer = (await ask(url, "GET", "/-/upstreams")).json()["upstreams"]
            states = [state["open"] for state in answer]


async def test_nothing_stays_open_whatever_the_end(start_proxy: StartProxy) -> None:
    async def cut(request: Request, wire: Wire) -> None:
        await wire.stream(delta(content="x"))
        wire.close()

    async with backends(a=[], b=[]) as (one, two):
        url = await start_proxy(several(one.table(), two.table(), models=BOTH))
        for script in (hello, cut, close, status(500), status(404), garbage):
            one.answer = two.answer = script
            await asked(url, stream=True)
            await asked(url, stream=False)
        async with Client(url) as client:
            one.answer = two.answer = silence
            await client.ask_chat(model="m")
            count = len(one.asked) + len(two.asked)
            await came(count + 1, one, two)
        opened: Any = None
        while opened != [0, 0]:
            states = (await ask(url, "GET", "/-/upstreams")).json()["upstreams"]
            opened = [state["open"] for state in states]
