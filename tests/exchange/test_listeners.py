"""The port of what follows an exchange: who is told what, and what becomes of one that raises."""

import logging
from typing import Any

import pytest
from lifecycle_proxy.app import serve
from lifecycle_proxy.app.factory import ProxyApp
from lifecycle_proxy.core.events import Outcome, ToolCompleted
from lifecycle_proxy.exchange.model import Exchange, Listener, Listeners

from tests.conftest import StartProxy
from tests.fakes import (
    DONE,
    Request,
    Upstream,
    Wire,
    ask,
    chat,
    delta,
    text,
    tool_call,
    without_frames,
)

EVENT = ToolCompleted("a", 0, "f", "f", "*", Outcome.OK, 1)


def an_exchange() -> Exchange:
    return Exchange("req_1", "POST", "/v1/chat/completions", "127.0.0.1")


class Told(Listener):
    """Notes what it is told; raises at one happening."""

    def __init__(self, raises_at: str = "") -> None:
        self.told: list[str] = []
        self._raises_at = raises_at

    def _note(self, name: str) -> None:
        self.told.append(name)
        if name == self._raises_at:
            raise ZeroDivisionError(name)

    def on_request(self, exchange: Exchange) -> None:
        self._note("request")

    def on_forwarded(self, *_: Any) -> None:
        self._note("forwarded")

    def on_head(self, exchange: Exchange, side: str, *_: Any) -> None:
        self._note(f"head {side}")

    def on_chunk(self, *_: Any) -> None:
        self._note("chunk")

    def on_write(self, *_: Any) -> None:
        self._note("write")

    def on_side_end(self, exchange: Exchange, side: str, end: str) -> None:
        self._note(f"{side} {end}")

    def on_lifecycle(self, *_: Any) -> None:
        self._note("lifecycle")

    def on_end(self, exchange: Exchange) -> None:
        self._note("end")


ALL = [
    "request",
    "forwarded",
    "head upstream",
    "chunk",
    "write",
    "client cut",
    "lifecycle",
    "end",
]


def tell_all(listeners: Listener, exchange: Exchange) -> None:
    listeners.on_request(exchange)
    listeners.on_forwarded(exchange, "/v1/x", (), None)
    listeners.on_head(exchange, "upstream", 200, "OK", ())
    listeners.on_chunk(exchange, b"a", b"a", (), 0.0)
    listeners.on_write(exchange, b"b", ())
    listeners.on_side_end(exchange, "client", "cut")
    listeners.on_lifecycle(exchange, [EVENT])
    listeners.on_end(exchange)


def test_each_is_told_everything_in_order() -> None:
    one, two = Told(), Told()
    listeners = Listeners([one])
    listeners.add(two)
    tell_all(listeners, an_exchange())
    assert one.told == two.told == ALL


def test_one_that_only_counts_needs_no_bytes() -> None:
    class Counts(Listener):
        def on_end(self, exchange: Exchange) -> None: ...

    listeners = Listeners([Counts(), Listener()])
    assert not listeners.follow_bytes
    tell_all(listeners, an_exchange())
    listeners.add(Told())
    assert listeners.follow_bytes


@pytest.mark.parametrize("happening", ALL)
def test_one_that_raises_is_switched_off_and_the_others_go_on(happening: str) -> None:
    failed: list[tuple[Listener, str]] = []
    bad, good = Told(happening), Told()
    listeners = Listeners([bad, good], lambda one, error: failed.append((one, str(error))))
    tell_all(listeners, an_exchange())
    assert good.told == ALL
    assert bad.told == ALL[: ALL.index(happening) + 1]
    assert failed == [(bad, happening)]
    other = an_exchange()
    other.listeners = Listeners([bad])
    tell_all(other.listeners, other)  # only for that exchange
    assert bad.told[-1] == happening


@pytest.mark.parametrize("happening", ["request", "head client", "chunk", "lifecycle", "end"])
async def test_the_answer_is_whole_whoever_raises(
    happening: str,
    upstream: Upstream,
    start_proxy: StartProxy,
    runners: list[serve.Runner],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pieces = (tool_call(), delta("tool_calls"), text("hi"), DONE)

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*pieces, b"")

    upstream.script = script
    url = await start_proxy()
    bad = Told(happening)
    app = runners[0].service
    assert isinstance(app, ProxyApp)
    app.gateway.listeners.insert(0, bad)
    for _ in range(2):
        answer = await chat(url)
        assert without_frames(answer.body) == b"".join(pieces)
        assert answer.end == "clean"
        assert bad.told[-1] == happening
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert said == ["Told failed; the traffic goes on (logged once)"]
    numbers = (await ask(url, "GET", "/-/metrics")).body.decode()
    assert 'lifecycle_proxy_listener_failures_total{listener="Told"}' in numbers
    assert 'lifecycle_proxy_requests_total{method="POST",route="chat",status="200"} 2.0' in numbers
