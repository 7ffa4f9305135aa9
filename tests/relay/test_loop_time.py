"""Law 3: no input of anybody holds the event loop for more than 50 ms in one piece.

Processor time is measured, see ``tests.loop_watch``: a loaded machine changes little.
"""

import asyncio
import functools
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes import DONE, Request, Upstream, Wire, ask, delta, text
from tests.loop_watch import best_of_five, watched_proxy

pytestmark = pytest.mark.unmeasured
_LIMIT_S: Final = 0.05
CHAT: Final = "/v1/chat/completions"
# With a credential: without one no calls are followed across requests.
CLIENT: Final = ("Content-Type: application/json", "Authorization: Bearer key-of-a-client")


@functools.cache
def _call(number: int, arguments: str = "{") -> bytes:
    function = {"name": "f", "arguments": arguments}
    return delta(tool_calls=[{"index": number, "id": f"c{number}", "function": function}])


def _reparsed() -> Iterator[bytes]:
    yield b'data: {"a":[' + b"1," * 1_500_000 + b"1\n"
    for _ in range(30):
        yield b"data: {\n"


def _many_calls() -> Iterator[bytes]:
    for start in range(0, 8_000, 50):
        yield b"".join(_call(number) for number in range(start, start + 50))


def _calls_in_one_read() -> Iterator[bytes]:
    yield b"".join(_call(number) for number in range(2_000))


def _long_argument() -> Iterator[bytes]:
    yield _call(0, json.dumps({"command": "a" * 400_000}))
    yield delta("tool_calls")


def _arguments_in_pieces() -> Iterator[bytes]:
    yield _call(0, '{"command": "')
    for _ in range(2_000):
        yield _call(0, "ab-" * 60)


def _many_choices() -> Iterator[bytes]:
    for start in range(0, 4_000, 100):
        choices = [
            {"index": n, "delta": json.loads(_call(0)[6:])["choices"][0]["delta"]}
            for n in range(start, start + 100)
        ]
        yield b"data: " + json.dumps({"id": "c", "choices": choices}).encode() + b"\n\n"


def _one_event_in_small_reads() -> Iterator[bytes]:
    yield b'data: {"id": "c", "choices": [{"delta": {"content": "'
    for _ in range(2_000):
        yield b"x" * 1_448
    yield b'"}}]}\n\n'


def _lines_without_end() -> Iterator[bytes]:
    for _ in range(3_000):
        yield b": comment\n" * 40


def _deep() -> Iterator[bytes]:
    yield b"data: " + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n\n"
    yield b"data: " + b"[" * 500_000 + b"]" * 500_000 + b"\n\n"


def _large_json() -> Iterator[bytes]:
    yield b'data: {"id":"c","choices":[{"delta":{"content":"x"}}],"a":[' + b"[]," * 2_000_000
    yield b"1]}\n\n"


RESPONSES: Final = {
    "a line that is begun again and again": _reparsed,
    "8,000 open calls": _many_calls,
    "2,000 open calls at once": _calls_in_one_read,
    "an argument of 400 KB": _long_argument,
    "an argument in 2,000 pieces": _arguments_in_pieces,
    "4,000 choices with a call": _many_choices,
    "an event of 3 MB in small reads": _one_event_in_small_reads,
    "120,000 lines of one event": _lines_without_end,
    "deep JSON": _deep,
    "a JSON event of 6 MB": _large_json,
}


async def _answered(upstream: Upstream, body: Iterator[bytes], url: str, **asked: Any) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", "Content-Type: text/event-stream", "Connection: close")
        for piece in body:
            await wire.send(piece)
            await asyncio.sleep(0)
        await wire.send(text("end") + DONE)
        wire.close()

    upstream.script = script
    await ask(url, "POST", CHAT, *CLIENT, body=json.dumps({"stream": True, **asked}).encode())


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.parametrize("dialect", ["chunk", "openwebui"])
@pytest.mark.parametrize("span", ["call", "execution"])
@best_of_five
async def test_a_hostile_response_does_not_hold_the_loop(
    name: str, dialect: str, span: str, upstream: Upstream
) -> None:
    settings = {"lifecycle__dialect": dialect, "lifecycle__span": span}
    with watched_proxy(upstream__url=f"{upstream.origin}/v1", **settings) as (url, watch):
        await _answered(upstream, RESPONSES[name](), url)
        assert watch.longest_s < _LIMIT_S


def _message(content: Any) -> bytes:
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": "m", "stream": True, "messages": messages}).encode()


REQUESTS: Final = {
    "8 MB of empty lists": b'{"stream": true, "messages": [' + b"[]," * 2_600_000 + b"1]}",
    "messages and an id of ours": b'{"stream": true, "messages": ['
    b'"htp_1",' + b"{},{}," * 600_000 + b"1]}",
    "a long text": _message("a" * 4_000_000),
    "many short messages": b'{"stream": true, "messages": ['
    + b'{"role": "user", "content": "a"},' * 100_000
    + b"1]}",
    "lines of a quote": _message("> \u2063\u2063\u2063\n" * 100_000),
    "deep JSON": b'{"stream": true, "messages": ' + b"[" * 900_000 + b"]" * 900_000 + b"}",
    "not JSON": b"{" * 4_000_000,
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("compressed", [False, True])
@best_of_five
async def test_a_hostile_request_does_not_hold_the_loop(
    name: str, compressed: bool, upstream: Upstream
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(DONE, b"")

    upstream.script = script
    body = REQUESTS[name]
    lines: tuple[str, ...] = CLIENT
    if compressed:
        body, lines = gzip.compress(body, 1), (*lines, "Content-Encoding: gzip")
    with watched_proxy(upstream__url=f"{upstream.origin}/v1", lifecycle__span="execution") as (
        url,
        watch,
    ):
        await ask(url, "POST", CHAT, *lines, body=body)
        assert watch.longest_s < _LIMIT_S


@best_of_five
async def test_a_cookie_of_many_values_does_not_hold_the_loop(
    upstream: Upstream, tmp_path: Path
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*[text("abcdefgh " * 200)] * 40, DONE, b"")

    upstream.script = script
    cookie = "; ".join(f"k{number}=secretvalue{number}" for number in range(2_500))
    with watched_proxy(
        upstream__url=f"{upstream.origin}/v1",
        recording__mode="record",
        recording__path=str(tmp_path),
    ) as (url, watch):
        await ask(url, "POST", CHAT, f"Cookie: {cookie}", body=_message("x" * 100_000))
        assert watch.longest_s < _LIMIT_S


@pytest.mark.parametrize("field", ["a", "=", "%41=%41"])
@best_of_five
async def test_a_query_of_many_fields_does_not_hold_the_loop(
    upstream: Upstream, field: str
) -> None:
    query = "&".join([field] * (60_000 // (len(field) + 1)))
    with watched_proxy(
        upstream__url=None,
        upstreams=[{"name": "a", "url": f"{upstream.origin}/v1"}],
        server__api_keys=["ours-secret-1"],
    ) as (url, watch):
        answer = await ask(url, "GET", f"/v1/x?{query}", "Authorization: Bearer ours-secret-1")
        assert (answer.status, upstream.request.target) == (200, f"/v1/x?{query}")
        assert watch.longest_s < _LIMIT_S


async def test_the_watch_sees_a_loop_that_is_held(upstream: Upstream) -> None:
    """What else is measured here would mean nothing."""
    with watched_proxy(upstream__url=f"{upstream.origin}/v1") as (url, watch):
        await ask(url, "POST", CHAT, body=_message("x"))
        assert watch.longest_s > 0.0
