"""Law 3 for the streams that are not passed on: no input holds the event loop in one piece."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.fakes import CHAT, DONE, JSON, Request, Upstream, Wire, ask, delta, text
from tests.loop_watch import best_of_five, watched_proxy
from tests.relay.test_loop_time import RESPONSES

pytestmark = pytest.mark.unmeasured
_LIMIT_S: Final = 0.05 * 3  # of a machine that may be three times as slow as a usual one


def _many_deltas() -> Iterator[bytes]:
    for _ in range(200):
        yield text("hello ") * 500


def _large_answer() -> Iterator[bytes]:
    for _ in range(39):
        yield text('é"\\\n' * 25_000)
    yield delta("stop")


def _too_large_answer() -> Iterator[bytes]:
    for _ in range(100):
        yield text("x" * 100_000)


def _log_probabilities() -> Iterator[bytes]:
    token = {"token": "a", "logprob": -1.5, "bytes": [97], "top_logprobs": [{"token": "a"}] * 20}
    choice = {"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [token] * 20}}
    piece = b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n"
    for _ in range(300):
        yield piece


def _fields() -> Iterator[bytes]:
    for start in range(0, 60_000, 1_000):
        fields: dict[str, Any] = {
            f"f{number}": {"a": [1]} for number in range(start, start + 1_000)
        }
        yield delta(**fields)


INPUTS: Final = {
    **RESPONSES,
    "100,000 deltas": _many_deltas,
    "an answer of nearly 4 MiB": _large_answer,
    "an answer of 10 MB": _too_large_answer,
    "log probabilities": _log_probabilities,
    "60,000 fields": _fields,
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("header", ["Accept: text/event-stream", "Prefer: respond-async"])
@best_of_five
async def test_a_hostile_stream_does_not_hold_the_loop(
    name: str, header: str, upstream: Upstream
) -> None:
    ended = asyncio.Event()

    async def script(_: Request, wire: Wire) -> None:
        await wire.head("200 OK", "Content-Type: text/event-stream", "Connection: close")
        for piece in INPUTS[name]():
            await wire.send(piece)
            await asyncio.sleep(0)
        await wire.send(delta("stop") + DONE)
        wire.close()
        ended.set()

    upstream.script = script
    with watched_proxy(upstream__url=f"{upstream.origin}/v1") as (url, watch):
        answer = await ask(url, "POST", CHAT, JSON, header, body=b'{"model": "m"}')
        if answer.status == 202:
            url_of: Any = answer.json()["stream_url"]
            answer = await ask(url, "GET", url_of)
            assert answer.body.count(b"event: done\n") == 1
        else:
            ends = [answer.body.count(b"event: %b\n" % end) for end in (b"result", b"error")]
            assert sum(ends) == 1
        assert watch.longest_s < _LIMIT_S


@pytest.mark.parametrize("size", [3_900_000, 6_000_000])
@best_of_five
async def test_a_large_answer_without_a_stream(size: int, upstream: Upstream) -> None:
    message = {"role": "assistant", "content": '"\n' * (size // 4)}
    body = json.dumps({"choices": [{"index": 0, "message": message}]}).encode()

    async def script(_: Request, wire: Wire) -> None:
        await wire.answer(body, "200 OK", JSON)

    upstream.script = script
    with watched_proxy(upstream__url=f"{upstream.origin}/v1") as (url, watch):
        accept = "Accept: text/event-stream"
        answer = await ask(url, "POST", CHAT, JSON, accept, body=b'{"model": "m"}')
        assert (b"event: result\n" if size < 4_000_000 else b"event: error\n") in answer.body
        assert watch.longest_s < _LIMIT_S
