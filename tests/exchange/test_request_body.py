"""Request bodies that are compressed: looked into, and forwarded as they came."""

import asyncio
import gzip
import importlib.util
import json
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Final

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from lifecycle_proxy.exchange import zstd
from lifecycle_proxy.exchange.content_coding import maybe_decoded
from lifecycle_proxy.exchange.request_body import ParsedBody, read_request

from tests.conftest import StartProxy
from tests.fakes import (
    CHAT,
    DONE,
    JSON,
    Answer,
    Request,
    Upstream,
    Wire,
    ask,
    delta,
    lifecycle,
    tool_call,
)

# How deep JSON may be depends on it.
pytestmark = pytest.mark.usefixtures("quiet", "usual_recursion_limit")

LIBRARIES: Final = ("compression.zstd", "backports.zstd", "zstandard")
PAIR = ["running", "completed"]
STREAM = {"model": "m", "stream": True, "messages": []}
ACCEPTED: Final = "Accept-Encoding: gzip, br, zstd"


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-15)


def zstd_compress(data: bytes) -> bytes:
    packed: bytes = import_module("zstandard").compress(data)
    return packed


def is_there(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ModuleNotFoundError:
        return False


CODINGS = [
    ("gzip", gzip.compress),
    ("X-GZIP", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("zstd", zstd_compress),
]
Pack = Callable[[bytes], bytes]


@pytest.fixture
def agent(upstream: Upstream) -> Upstream:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call(), delta("tool_calls"), DONE, b"")

    upstream.script = script
    return upstream


async def send(url: str, body: bytes, content_coding: str, target: str = CHAT) -> Answer:
    coding = f"Content-Encoding: {content_coding}"
    return await ask(url, "POST", target, JSON, ACCEPTED, coding, "X-Session-Id: s1", body=body)


def statuses(answer: Answer) -> list[str]:
    return [status for _, status, _ in lifecycle(answer.body)]


@pytest.mark.parametrize(("name", "pack"), CODINGS)
async def test_a_compressed_request_for_a_stream_has_frames(
    agent: Upstream, proxy: str, name: str, pack: Pack
) -> None:
    body = pack(json.dumps(STREAM).encode())
    assert statuses(await send(proxy, body, name)) == PAIR
    request = agent.request
    assert request.body == body
    assert request.headers.getall("Content-Encoding") == [name]
    assert request.headers.getall("Accept-Encoding") == ["identity"]


@pytest.mark.parametrize(("name", "pack"), CODINGS)
async def test_a_compressed_request_for_no_stream_is_left_alone(
    upstream: Upstream, proxy: str, name: str, pack: Pack
) -> None:
    body = pack(b'{"model": "m", "stream": false}')
    answer = await send(proxy, body, name)
    assert answer.body == b'{"ok": true}'
    assert upstream.request.body == body
    assert upstream.request.headers["Accept-Encoding"] == "gzip, br, zstd"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("br", b"\x0b\x02\x80brotli\x03"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"{}"))),
        ("gzip", b"not gzip at all"),
        ("gzip", gzip.compress(b'{"stream": true}')[:-9]),
        ("gzip", gzip.compress(b'{"stream":') + gzip.compress(b"true}")),
        ("gzip", gzip.compress(b" " * (9 << 20), 1)),
        ("deflate", b"\xff\xff\xff\xff"),
        ("zstd", b"\x28\xb5\x2f\xfd" + b'{"stream": true}'),
        ("identity", b'{"stream": true, "temperature": NaN}'),
    ],
    ids=["br", "twice", "not", "cut", "members", "bomb", "raw", "zstd", "json"],
)
async def test_a_body_that_cannot_be_read_may_ask_for_a_stream(
    agent: Upstream, proxy: str, name: str, body: bytes
) -> None:
    assert statuses(await send(proxy, body, name)) == PAIR
    assert agent.request.body == body
    assert agent.request.headers.getall("Accept-Encoding") == ["identity"]


@pytest.mark.parametrize("pad", ["", "x" * (1 << 20)])
async def test_tool_cards_are_taken_out_of_a_compressed_body(
    agent: Upstream, proxy: str, pad: str
) -> None:
    """What is left is sent without a content coding: every upstream that undoes one takes that."""
    card = {"id": "htp_1", "type": "function", "function": {"name": "x", "arguments": "{}"}}
    cards = {"role": "assistant", "content": "", "tool_calls": [card]}
    result = {"role": "tool", "tool_call_id": "htp_1", "content": "ok"}
    user = {"role": "user", "content": pad + "hi"}
    body = gzip.compress(json.dumps({**STREAM, "messages": [cards, result, user]}).encode())
    assert statuses(await send(proxy, body, "gzip")) == PAIR
    assert agent.request.json() == {**STREAM, "messages": [user]}
    assert "Content-Encoding" not in agent.request.headers
    assert agent.request.headers["Content-Length"] == str(len(agent.request.body))


async def test_the_history_in_a_compressed_body_completes_a_call(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        if len(upstream.requests) == 1:
            await wire.stream(tool_call(), delta("tool_calls"), DONE, b"")
        else:
            await wire.stream(delta(content="done"), delta("stop"), DONE, b"")

    upstream.script = script
    url = await start_proxy({"lifecycle.span": "execution"})
    assert statuses(await send(url, gzip.compress(json.dumps(STREAM).encode()), "gzip")) == PAIR[:1]
    call = {"id": "call_1", "type": "function", "function": {"name": "terminal", "arguments": "{}"}}
    messages = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "ok"},
    ]
    body = gzip.compress(json.dumps({**STREAM, "messages": messages}).encode())
    assert statuses(await send(url, body, "gzip")) == PAIR[1:]


async def test_a_guess_sends_no_early_head(upstream: Upstream, start_proxy: StartProxy) -> None:
    """It may be a request for an answer that is no stream, and that must stay a whole one."""

    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.15)
        await wire.answer(b'{"choices": []}', "200 OK", JSON)

    upstream.script = script
    early = {"server.heartbeat_before_first_byte": True, "server.heartbeat_s": 0.05}
    answer = await send(await start_proxy(early), b"\x0b\x02\x80brotli\x03", "br")
    assert (answer.body, answer.end) == (b'{"choices": []}', "clean")
    assert answer.headers["Content-Length"] == "15"


# --- zstd: whichever library is there -------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_zstd_library_decodes_within_the_limit(library: str) -> None:
    if not is_there(library):
        pytest.skip(f"{library} is not installed")
    decode = zstd.maybe_decoder((library,))
    assert decode is not None
    data = b"x" * 100_000
    packed = import_module("zstandard").compress(data)
    assert decode(packed, 200_000) == data
    assert decode(packed, 1000) == data[:1000]
    assert decode(b"\x28\xb5\x2f\xfdgarbage", 1000) is None


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_zstd_window_has_a_limit(library: str) -> None:
    if not is_there(library):
        pytest.skip(f"{library} is not installed")
    # A header that asks for a window of 1 GiB, and one block of a byte that is repeated.
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([20 << 3]) + (3 | 4 << 3).to_bytes(3, "little") + b"x"
    decode = zstd.maybe_decoder((library,))
    assert decode is not None
    assert decode(frame, 1000) is None


def test_without_a_library_zstd_is_not_decoded() -> None:
    assert zstd.maybe_decoder(("no.such.library",)) is None


def test_a_decoded_body_has_a_limit() -> None:
    packed = gzip.compress(b"x" * 1000)
    assert maybe_decoded(packed, "gzip", 1000) == b"x" * 1000
    assert maybe_decoded(packed, "gzip", 999) is None


# --- what is read of a body ---------------------------------------------------------------------


async def read(body: bytes) -> ParsedBody:
    request = make_mocked_request("POST", CHAT, payload=_payload(body))
    return await read_request(request)


def _payload(body: bytes) -> StreamReader:
    payload = StreamReader(BaseProtocol(asyncio.get_running_loop()), 1 << 30)
    payload.feed_data(body)
    payload.feed_eof()
    return payload


@pytest.mark.parametrize(
    ("body", "stream", "is_unread"),
    [
        (b'{"stream": true}', True, False),
        (b'{"stream": false, "stream": true}', True, False),
        (b'{"stream": true, "stream": false}', False, False),
        (b'{"str\\u0065am": 1}', True, False),
        (b'{"stream": {}}', False, False),
        (b'{"stream": "false"}', True, False),
        (b'{"stream": null}', False, False),
        (b"{}", False, False),
        (b"[1]", False, False),
        (b'"text"', False, False),
        (b"[1", True, True),
        (b"{", True, True),
        (b'{"stream": true', True, True),
        (b'{"stream": false, "x": NaN}', True, True),
        (b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}", True, True),
        (b"[" * 5000 + b"]" * 5000, True, True),
        (b'{"stream": true, "x": [' + b"[]," * 500_000 + b"1]}", True, False),
        (b'{"stream": [' + b"[]," * 500_000 + b"1]}", True, False),
    ],
)
async def test_whether_a_stream_may_be_requested(
    body: bytes, stream: bool, is_unread: bool
) -> None:
    asked = await read(body)
    assert (asked.stream, asked.is_unread) == (stream, is_unread)
    assert asked.data == asked.original == body


async def test_fields_of_another_type_count_as_absent() -> None:
    asked = await read(b'{"model": 1, "user": ["x"], "messages": 2, "tools": "x", "functions": 3}')
    assert (asked.model, asked.user, asked.messages) == ("", "", [])
    assert asked.tools == frozenset()


async def test_the_fields_that_are_read() -> None:
    tools = [{"function": {"name": "a"}}, {"name": "b"}, {"custom": {"name": "c"}}, {}, 1]
    body = {"model": "m", "user": "u", "messages": [1, {"role": "x"}], "tools": tools}
    asked = await read(json.dumps({**body, "functions": [{"name": "d"}]}).encode())
    assert (asked.model, asked.user, asked.messages) == ("m", "u", [1, {"role": "x"}])
    assert asked.tools == frozenset("abcd")


async def test_of_tools_that_are_too_many_none_is_known() -> None:
    assert (await read(b'{"tools": [' + b"[]," * 500_000 + b"1]}")).tools is None


@pytest.mark.parametrize(
    "messages",
    [
        b"[" + b"[]," * 500_000 + b"1]",
        b'["' + b"x" * 9 + b'\\ud800"]',
        b"[" * 900 + b"]" * 900 + b"1",
        b'[{"a": [' + b"[]," * 200_000 + b"1]}]",
        b"null",
    ],
)
async def test_messages_that_cannot_be_decoded_are_none(messages: bytes) -> None:
    assert (await read(b'{"messages": ' + messages + b"}")).messages == []


async def test_of_many_messages_the_last_are_decoded() -> None:
    large: list[object] = [{"a": [[]] * 60_000}] * 4
    body = json.dumps({"messages": [*large, {"role": "tool"}]}, separators=(",", ":"))
    assert (await read(body.encode())).messages[-1] == {"role": "tool"}
    assert len((await read(body.encode())).messages) in (2, 3)
