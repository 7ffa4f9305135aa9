"""The short way for reads that are whole chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_proxy.upstream.http1.chunks import ChunkedBody, whole_chunks


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (b"1\r\na\r\n", b"a"),
        (b"a\r\n0123456789\r\n", b"0123456789"),
        (b"10\r\n0123456789abcdef\r\n", b"0123456789abcdef"),
        (b"0\r\n\r\n", b""),
        (b"01\r\na\r\n", b""),
        (b"0x1\r\na\r\n", b""),
        (b" 1\r\na\r\n", b""),
        (b"1;x\r\na\r\n", b""),
        (b"1\r\na\r\n1\r\nb\r\n", b"ab"),
        (b"1\r\na\r\n01\r\nb\r\n", b""),
        (b"1\r\na\r\n1\r\nb\r", b""),
        (b"1\r\na\r\n0\r\n\r\n", b""),
        (b"1\r\na\n\n", b""),
        (b"2\r\na\r\n", b""),
        (b"\r\n\r\n", b""),
        (b"a", b""),
        (b"", b""),
    ],
)
def test_a_chunk_is_a_size_and_that_many_bytes(read: bytes, data: bytes) -> None:
    assert whole_chunks(read) == data


@pytest.mark.parametrize("size", [*range(1, 40), 254, 255, 256, 257, 4087, 4088, 4089, 70_000])
def test_every_size_is_a_whole_chunk_or_read_the_other_way(size: int) -> None:
    data = bytes(size)
    read = b"%x\r\n%b\r\n" % (size, data)
    assert whole_chunks(read) in (data, b"")
    assert (whole_chunks(read) == data) == (len(read) < 4096)
    assert ChunkedBody().feed(read) == (data, read)


_CHUNK = st.builds(lambda data: b"%x\r\n%b\r\n" % (len(data), data), st.binary())


@given(st.binary(max_size=40) | _CHUNK | st.lists(_CHUNK, max_size=4).map(b"".join))
def test_the_short_way_reads_what_the_other_one_does(read: bytes) -> None:
    if data := whole_chunks(read):
        body = ChunkedBody()
        assert body.feed(read) == (data, read)
        assert body.is_between
