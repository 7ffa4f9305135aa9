"""Bodies in HTTP chunks, however they are cut into reads: the same as aiohttp reads them."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_parser import HttpResponseParser, HttpResponseParserPy
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_proxy.upstream.connection import StreamingProtocol, whole_chunk

_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_BUFFER_BYTES = 128  # of twice as much the parser keeps the rest to itself
_EVENT = b'data: {"a": 1}\n\n'


class _Transport(asyncio.Transport):
    """What a protocol asks of its transport."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class _Body:
    """What has come of a body, as a relay would take it; pauses where it is told to."""

    def __init__(self, protocol: ResponseHandler, reader: Any) -> None:
        self.protocol = protocol
        self.reader = reader
        self.data = b""
        self.passed: list[bytes] = []
        self.failure: type[BaseException] | None = None

    def arrived(self) -> None:
        try:
            while piece := self.reader.read_nowait():
                self.data += piece
        except Exception as failure:
            self.failure = type(failure)

    def passing(self, chunk: bytes, framed: bytes) -> None:
        self.passed.append(framed)
        self.data += chunk


async def _read(
    kind: type[ResponseHandler], reads: list[bytes], pauses: frozenset[int] = frozenset()
) -> tuple[_Body, tuple[Any, ...]]:
    """Feed a protocol; return what came of it, and all that must be equal."""
    loop = asyncio.get_running_loop()
    protocol = kind(loop)
    transport = _Transport()
    protocol.connection_made(transport)
    protocol.set_response_params(auto_decompress=False, read_bufsize=_BUFFER_BYTES)
    protocol.data_received(_HEAD)
    _, reader = await protocol.read()
    body = _Body(protocol, reader)
    pause: Callable[[], None] = protocol.pause_reading
    resume: Callable[[], None] = protocol.resume_reading
    if isinstance(protocol, StreamingProtocol):
        protocol.subscribe(body.arrived, body.passing)
        pause, resume = protocol.hold, protocol.release
    for number, read in enumerate(reads):
        if transport.closed:
            break
        if number in pauses:
            pause()
        protocol.data_received(read)
        body.arrived()
        if number in pauses:
            resume()
            body.arrived()
    protocol.connection_lost(None)
    body.arrived()
    return body, (body.data, reader.is_eof(), transport.closed, body.failure)


def _framed(data: bytes, size: str = "%x") -> bytes:
    return size.encode() % len(data) + b"\r\n" + data + b"\r\n"


_datas = st.one_of(
    st.just(_EVENT),
    st.sampled_from(
        [b"\n\n", b"\r\n", b"\n\n\r\n", b"a\n\n\r\n5\r\n", b"0\r\n\r\n", b"3\r\nab\n\n\r\n"]
    ),
    st.binary(min_size=1, max_size=40),
    st.builds(bytes.__add__, st.binary(max_size=300), st.just(b"\n\n")),
)
_sizes = st.sampled_from(["%x", "%x", "%x", "%X", "0%x", "%x;a=b", "%x ", "+%x", "0x%x"])
_chunks = st.lists(st.builds(_framed, _datas, _sizes), min_size=1, max_size=12)
_damage = st.sampled_from([b"", b"", b"", b"zz\r\n", b"5\r\nab\r\n", b"2\r\nabc\r\n", b"\r\n"])


@given(
    chunks=_chunks,
    damage=_damage,
    end=st.sampled_from([b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b""]),
    cuts=st.sets(st.integers(0, 2000), max_size=4),
    glued=st.sets(st.integers(0, 12), max_size=4),
    pauses=st.frozensets(st.integers(0, 12), max_size=2),
)
def test_a_body_is_what_aiohttp_reads(
    chunks: list[bytes],
    damage: bytes,
    end: bytes,
    cuts: set[int],
    glued: set[int],
    pauses: frozenset[int],
) -> None:
    body = b"".join(chunks) + damage + end
    ends = list(itertools.accumulate(len(chunk) for chunk in chunks))
    places = {at for number, at in enumerate(ends) if number not in glued} | cuts
    marks = [0, *sorted(at for at in places if 0 < at < len(body)), len(body)]
    reads = [body[start:stop] for start, stop in itertools.pairwise(marks)]

    async def both() -> None:
        _, ours = await _read(StreamingProtocol, reads, pauses)
        _, theirs = await _read(ResponseHandler, reads, pauses)
        assert ours == theirs

    asyncio.run(both())


@pytest.mark.skipif(
    HttpResponseParser is HttpResponseParserPy, reason="aiohttp runs without its extensions"
)
async def test_whole_chunks_do_not_go_through_the_parser() -> None:
    reads = [_framed(_EVENT), _framed(_EVENT), _framed(_EVENT, "%X"), b"0\r\n\r\n"]
    body, (data, whole, closed, failure) = await _read(StreamingProtocol, reads)
    assert body.passed == reads[1:3], "the first tells where the parser stands"
    assert data == _EVENT * 3
    assert (whole, closed, failure) == (True, False, None)


@pytest.mark.parametrize(
    "before",
    [
        [_framed(_EVENT), _framed(_EVENT)[:-1], b"\n"],
        [_framed(_EVENT), _framed(_EVENT) + b"1"],
        [_framed(_EVENT), _framed(_EVENT) + b"10\r\n"],
        [b"4\r\n\n\n\r\n"],  # the end of a chunk's data that looks like the end of a chunk
        [_framed(_EVENT), b"21\r\n" + _framed(_EVENT) + b"\n\n\r\n"],
    ],
)
async def test_a_read_in_the_middle_of_a_chunk_goes_through_the_parser(before: list[bytes]) -> None:
    reads = [*before, _framed(_EVENT)]
    body, ours = await _read(StreamingProtocol, reads)
    _, theirs = await _read(ResponseHandler, reads)
    assert reads[-1] not in body.passed
    assert ours == theirs


async def test_what_the_parser_keeps_to_itself_comes_first() -> None:
    reads = [_framed(_EVENT), b"".join(_framed(b"data: %d\n\n" % n) for n in range(99))]
    reads += [_framed(_EVENT), _framed(_EVENT)]
    body, ours = await _read(StreamingProtocol, reads)
    _, theirs = await _read(ResponseHandler, reads)
    assert ours == theirs
    assert body.passed == [], "it may keep something at any time from now on"


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (b"1\r\na\r\n", b"a"),
        (b"A\r\n0123456789\r\n", b"0123456789"),
        (b"a\r\n0123456789\r\n", b"0123456789"),
        (b"0\r\n\r\n", b""),
        (b"01\r\na\r\n", b""),
        (b"0x1\r\na\r\n", b""),
        (b" 1\r\na\r\n", b""),
        (b"1;x\r\na\r\n", b""),
        (b"1\r\na\r\n1\r\nb\r\n", b""),
        (b"1\r\na\n\n", b""),
        (b"2\r\na\r\n", b""),
        (b"\r\n\r\n", b""),
        (b"a", b""),
        (b"", b""),
    ],
)
def test_a_chunk_is_a_size_and_that_many_bytes(read: bytes, data: bytes) -> None:
    assert whole_chunk(read) == data


# --- between two answers --------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"0\n\n\r\n"])
@pytest.mark.parametrize("is_let_go", [False, True])
async def test_what_is_known_of_an_answer_is_not_held_of_the_next(
    end: bytes, is_let_go: bool
) -> None:
    protocol = StreamingProtocol(asyncio.get_running_loop())
    protocol.connection_made(_Transport())
    bodies = []
    for head, reads in (
        (_HEAD, [_framed(_EVENT), _framed(_EVENT), end]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", [b"5\r\nhello\r\n"]),
    ):
        protocol.set_response_params(auto_decompress=False)
        protocol.data_received(head)
        _, reader = await protocol.read()
        body = _Body(protocol, reader)
        protocol.subscribe(body.arrived, body.passing)
        for read in reads:
            if read == end and is_let_go:
                protocol.unsubscribe()
            protocol.data_received(read)
        protocol.unsubscribe()
        bodies.append(body)
    assert bodies[1].data == b"5\r\nhello\r\n"


@pytest.mark.parametrize(
    "more",
    [
        b"HTTP/1.1 103 Early Hints\r\nA: b\n\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nWRONG",
    ],
)
async def test_an_answer_that_nobody_asked_for_ends_the_connection(more: bytes) -> None:
    for glued in (False, True):
        last = b"0\r\n\r\n"
        reads = [_framed(_EVENT), *([last + more] if glued else [last, more])]
        body, (data, whole, closed, failure) = await _read(StreamingProtocol, reads)
        assert (data, whole, closed, failure) == (_EVENT, True, True, None)
        assert len(body.protocol) == 0
