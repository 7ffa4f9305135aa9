"""Responses from bytes to events: whole, byte by byte, cut anywhere, and with bytes behind them."""

import itertools
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_proxy.upstream.http1.head import MAX_BYTES, ResponseHead
from lifecycle_proxy.upstream.http1.parser import (
    BodyEnd,
    BodyPart,
    Event,
    Invalid,
    ResponseParser,
    Truncated,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = OK + b"Content-Length: 5\r\n\r\n"
NONE: tuple[tuple[int, bytes], ...] = ()


class Seen:
    """What a parser made of some reads, without how the body was cut."""

    def __init__(self) -> None:
        self.heads: list[ResponseHead] = []
        self.body = b""
        self.framed = b""
        self.end: BodyEnd | Invalid | Truncated | None = None

    def add(self, event: Event) -> None:
        assert self.end is None, "nothing follows an end"
        match event:
            case ResponseHead():
                self.heads.append(event)
            case BodyPart(data, framed):
                assert data
                assert not framed or unframed(framed) == data
                self.body += data
                self.framed += framed
            case _:
                self.end = event

    @property
    def plain(self) -> Any:
        return self.heads, self.body, self.end


def unframed(framed: bytes) -> bytes:
    data = b""
    while framed:
        size, _, rest = framed.partition(b"\r\n")
        stop = int(size, 16)
        assert rest[stop : stop + 2] == b"\r\n"
        data, framed = data + rest[:stop], rest[stop + 2 :]
    return data


def fed(reads: list[bytes], method: str = "GET", *, ends: bool = False, **more: Any) -> Seen:
    parser, seen = ResponseParser(method, **more), Seen()
    for read in reads:
        if seen.end is None:
            for event in parser.receive_data(read):
                seen.add(event)
    if ends and seen.end is None and (last := parser.receive_eof()):
        seen.add(last)
    return seen


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


# Status, body and end of samples that are valid.
VALID: dict[bytes, tuple[int, bytes, BodyEnd]] = {
    LENGTH + b"hello": (200, b"hello", BodyEnd(keeps=True)),
    OK + b"Content-Length: 0\r\n\r\n": (200, b"", BodyEnd(keeps=True)),
    OK + b"Content-Length: 05 \r\n\r\nhello": (200, b"hello", BodyEnd(keeps=True)),
    OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi": (200, b"hi", BodyEnd(keeps=False)),
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi": (200, b"hi", BodyEnd(keeps=False)),
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi": (
        *(200, b"hi"),
        BodyEnd(keeps=True),
    ),
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": (
        *(200, b""),
        BodyEnd(keeps=False),
    ),
    CHUNKED + b"5\r\nhello\r\n0\r\n\r\n": (200, b"hello", BodyEnd(keeps=True)),
    CHUNKED + b"2\r\nhe\r\n0003\r\nllo\r\n0\r\n\r\n": (200, b"hello", BodyEnd(keeps=True)),
    CHUNKED + b"A\r\n0123456789\r\na ;x=y\r\n0123456789\r\n00\r\nX-T: 1\r\n\r\n": (
        *(200, b"0123456789" * 2),
        BodyEnd(keeps=True),
    ),
    OK + b"transfer-encoding:Chunked \r\n\r\n0\r\n\r\n": (200, b"", BodyEnd(keeps=True)),
    OK + b"\r\n": (200, b"", BodyEnd(keeps=False)),
    OK + b"\r\nto the end": (200, b"to the end", BodyEnd(keeps=False)),
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi": (200, b"hi", BodyEnd(keeps=True)),
    b"HTTP/1.1 200 OK\nX: y\n\n\r\n\r\n": (200, b"\r\n\r\n", BodyEnd(keeps=False)),
    b"\r\n\n" + LENGTH + b"hello": (200, b"hello", BodyEnd(keeps=True)),
    b"HTTP/1.1 204 No\r\n\r\n": (204, b"", BodyEnd(keeps=True)),
    b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n": (204, b"", BodyEnd(keeps=False)),
    b"HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\n": (304, b"", BodyEnd(keeps=False)),
    b"HTTP/1.1 100 Go on\r\n\r\n" + LENGTH + b"hello": (200, b"hello", BodyEnd(keeps=True)),
    b"HTTP/1.1 103 X\r\nContent-Length: 5\r\n\r\n" + LENGTH + b"hello": (
        *(200, b"hello"),
        BodyEnd(keeps=False),
    ),
}


@pytest.mark.parametrize("data", VALID)
def test_a_response_is_read_however_it_is_cut(data: bytes) -> None:
    status, body, end = VALID[data]
    for reads in ([data], byte_by_byte(data), [data[:-1], data[-1:]]):
        seen = fed(reads, ends=True)
        assert (seen.heads[-1].status, seen.body, seen.end) == (status, body, end)


@pytest.mark.parametrize("data", VALID)
def test_bytes_behind_a_response_are_not_part_of_it(data: bytes) -> None:
    status, body, _ = VALID[data]
    seen = fed([data + b"HTTP/1.1 200 OK\r\n\r\n"], ends=True)
    if seen.heads[-1].length is None and not seen.heads[-1].is_chunked and status == 200:
        return  # to the end of the connection
    assert (seen.body, seen.end) == (body, BodyEnd(keeps=False))
    assert len(seen.heads) == len(fed([data]).heads)


@given(data=st.sampled_from(list(VALID)), cuts=st.sets(st.integers(0, 120), max_size=6))
def test_any_cuts_are_as_good_as_none(data: bytes, cuts: set[int]) -> None:
    marks = [0, *sorted(at for at in cuts if 0 < at < len(data)), len(data)]
    reads = [data[start:stop] for start, stop in itertools.pairwise(marks)]
    assert fed(reads, ends=True).plain == fed([data], ends=True).plain


INVALID = [
    *(b"220 mail ESMTP\r\n\r\n", b"HTTP/2.0 200 OK\r\n\r\n", b"HTTP/0.9 200 OK\r\n\r\n"),
    *(b"HTTP/1.1 099 X\r\n\r\n", b"HTTP/1.1 20 X\r\n\r\n", b"HTTP/1.1 200 O\x01K\r\n\r\n"),
    *(OK + b"X A: b\r\n\r\n", OK + b"X-A : b\r\n\r\n", OK + b": b\r\n\r\n", OK + b"no\r\n\r\n"),
    *(OK + b"X: \x00\r\n\r\n", OK + b"X: a\x7f\r\n\r\n", OK + b"X: a\rb\r\n\r\n"),
    *(OK + b" X: a\r\n\r\n", OK + b"X: a\r\n b\r\n\r\n", OK + b"X: \r\r\n\r\n"),
    *(OK + b"Content-Length: +5\r\n\r\n", OK + b"Content-Length:\r\n\r\n"),
    *(OK + b"Content-Length: 5, 5\r\n\r\n", OK + b"Content-Length: 99999999999999999999\r\n\r\n"),
    OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
    OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    *(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", OK + b"Transfer-Encoding: x\r\n\r\n"),
    *(OK + b"Transfer-Encoding:\r\n\r\n", OK + b"Transfer-Encoding: identity\r\n\r\n"),
    b"HTTP/1.1 101 X\r\nUpgrade: y\r\n\r\n",
    b"HTTP/1.1 102 X\r\n\r\n" * 65,
    b"HTTP/1.1 103 X\r\nX-A : b\r\n\r\n",
    OK + b"X: " + b"x" * MAX_BYTES + b"\r\n\r\n",
    OK + b"X:\r\n" * 1025 + b"\r\n",
    OK + b"X: " + b"x" * MAX_BYTES,
    (b"HTTP/1.1 103 X\r\nX: " + b"x" * 60_000 + b"\r\n\r\n") * 5,
]


@pytest.mark.parametrize("data", INVALID, ids=lambda data: repr(data[:60]))
def test_what_must_not_be_sent_on_is_one_event(data: bytes) -> None:
    seen = fed([data + b"more"])
    assert isinstance(seen.end, Invalid)
    assert seen.body == b""
    if len(data) < 5000:
        assert fed(byte_by_byte(data)).plain == seen.plain


BAD_CHUNKS = [
    *(b"zz\r\n", b"-1\r\n", b"+1\r\na\r\n", b"0x1\r\na\r\n", b" 1\r\na\r\n", b"1_0\r\n", b"\r\n"),
    *(b"1\na\r\n", b"1\r\nab\r\n", b"1\r\na\n\n", b"1;\x00\r\na\r\n", b"1;\ra\r\na\r\n"),
    *(b"1\x00\r\na\r\n", b"1" * 17 + b"\r\n", b"1;" + b"x" * 5000, b"0" * 5000),
    *(b"0\r\nX\r\n\r\n", b"0\r\n X: y\r\n\r\n", b"0\r\nX : y\r\n\r\n", b"0\r\nX: \x01\r\n\r\n"),
    b"0\r\n" + b"X: yyyyyyyyyyyyy\r\n" * 5000 + b"\r\n",
]


@pytest.mark.parametrize("chunks", BAD_CHUNKS, ids=lambda chunks: repr(chunks[:30]))
def test_what_came_before_a_bad_chunk_is_handed_on(chunks: bytes) -> None:
    good = b"5\r\nhello\r\n"
    for reads in ([CHUNKED + good + chunks], [CHUNKED, good, *byte_by_byte(chunks[:9000])]):
        seen = fed(reads)
        assert seen.body.startswith(b"hello")
        assert isinstance(seen.end, Invalid) or len(chunks) > 9000


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", ""),
        (b"HTTP/1.1 100 X\r\n\r\n", ""),
        (b"HTTP/1.1 200", "inside its headers"),
        (LENGTH + b"hell", "the body is shorter than its content length"),
        (CHUNKED + b"5\r\nhello\r\n", "the last chunk of the transfer did not come"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", "the last chunk of the transfer did not come"),
    ],
)
def test_an_end_that_comes_too_early_is_known(data: bytes, why: str) -> None:
    assert fed([data] if data else [], ends=True).end == Truncated(why)


def test_bytes_of_headers_are_kept() -> None:
    seen = fed(
        [OK + b"X-a:\xa0v\x85 \t\r\nX-A: \xc3\xa9\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\n"]
    )
    headers = seen.heads[0].headers
    sent = [(name, value.encode("utf-8", "surrogateescape")) for name, value in headers]
    assert sent == [
        *(("X-a", b"\xa0v\x85"), ("X-A", b"\xc3\xa9")),
        *(("Set-Cookie", b"a"), ("set-cookie", b"b")),
    ]


def test_a_head_has_no_body() -> None:
    seen = fed([LENGTH], "HEAD")
    assert (seen.body, seen.end) == (b"", BodyEnd(keeps=False))
    assert fed([OK + b"\r\n"], "HEAD").end is not None


@pytest.mark.parametrize(
    ("method", "head"),
    [("GET", b"HTTP/1.1 101 X\r\nUpgrade: y\r\n\r\n"), ("CONNECT", b"HTTP/1.1 200 X\r\n\r\n")],
)
def test_another_protocol_follows_if_it_was_asked_for(method: str, head: bytes) -> None:
    seen = fed([head + b"any", b"thing\r\n"], method, may_switch=True, ends=True)
    assert (seen.body, seen.end) == (b"anything\r\n", BodyEnd(keeps=False))


def test_a_read_of_whole_chunks_is_handed_on_as_it_came() -> None:
    chunks = b"5\r\nhello\r\n1\r\n,\r\n"
    assert fed([CHUNKED + chunks]).framed == chunks
    assert fed([CHUNKED, chunks, chunks]).framed == chunks * 2
    assert fed([CHUNKED + chunks[:3], chunks[3:]]).framed == b""
    assert fed([CHUNKED, chunks + b"0\r\n\r\n"]).framed == b""
    assert fed([CHUNKED, chunks[:1], chunks[1:]]).framed == chunks, "nothing was handed on before"


def test_whole_chunks_may_pass_the_parser_only_between_two() -> None:
    parser = ResponseParser("GET")
    parser.receive_data(CHUNKED)
    assert parser.is_between_chunks
    for read, is_between in ((b"5\r\nhel", False), (b"lo", False), (b"\r", False), (b"\n", True)):
        parser.receive_data(read)
        assert parser.is_between_chunks == is_between
    for read in (b"5", b"\r\nhello\r\n", b"0\r\n", b"\r\n"):
        parser.receive_data(read)
        assert parser.is_between_chunks == (read == b"\r\nhello\r\n")


def test_a_large_body_is_not_kept() -> None:
    parser = ResponseParser("GET")
    parser.receive_data(CHUNKED + b"40000000\r\n")
    data = bytes(1 << 16)
    tracemalloc.start()
    try:
        for _ in range(200):
            parser.receive_data(data)
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()
