"""Decompression: every form that servers send, however it is cut; in linear time."""

import gzip
import random
import zlib

import pytest
from lifecycle_proxy.exchange.content_coding import Decompressor
from lifecycle_proxy.exchange.errors import ProxyError

from tests.curve import assert_linear

TEXT = b"".join(b'data: {"n": %d}\n\n' % number for number in range(2_000))


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


FORMS = {
    "gzip": gzip.compress(TEXT),
    "zlib": zlib.compress(TEXT),
    "raw deflate": raw_deflate(TEXT),
    "members": b"".join(gzip.compress(TEXT[at : at + 999]) for at in range(0, len(TEXT), 999)),
    "empty members": gzip.compress(b"") * 50 + gzip.compress(TEXT) + gzip.compress(b"") * 50,
    "incompressible": gzip.compress(random.Random(1).randbytes(100_000) + TEXT),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("size", [1, 7, 256, 4096, 1 << 20])
def test_every_form_is_decompressed_however_it_is_cut(name: str, size: int) -> None:
    packed, own = FORMS[name], Decompressor()
    got = b"".join(own.feed(packed[at : at + size]) for at in range(0, len(packed), size))
    own.check_end()
    assert got.endswith(TEXT)


@pytest.mark.parametrize("name", FORMS)
def test_a_truncated_body_is_noticed(name: str) -> None:
    own = Decompressor()
    own.feed(FORMS[name][: len(FORMS[name]) // 2])
    with pytest.raises(ProxyError, match="cut short"):
        own.check_end()


# Packed where they are needed: all processes that share the tests import this file.
BOMBS = {
    "gzip": lambda: gzip.compress(bytes(36 << 20), 1),
    "zlib": lambda: zlib.compress(bytes(36 << 20), 1),
    "two members": lambda: 2 * gzip.compress(bytes(18 << 20), 1),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused(name: str) -> None:
    bomb = BOMBS[name]()
    with pytest.raises(ProxyError, match="one read is too large") as caught:
        Decompressor().feed(bomb)
    assert caught.value.code == "upstream_protocol"


def test_one_read_may_become_32_mb() -> None:
    assert len(Decompressor().feed(gzip.compress(bytes(32 << 20), 1))) == 32 << 20


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "member",
    [zlib.compress(b""), gzip.compress(b""), gzip.compress(b"x" * 100)],
    ids=["zlib", "gzip", "gzip of text"],  # the bytes hold the time: no two processes agree
)
def test_the_time_grows_with_the_bytes(member: bytes) -> None:
    def make(size: int) -> bytes:
        return member * (size // len(member))

    assert_linear(make, lambda data: Decompressor().feed(data), 1 << 16)
