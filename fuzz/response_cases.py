"""Responses for ``fuzz_responses.py``: a number becomes a response, correct or with oddities."""

import random
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

_EVENT: Final = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
_OTHER: Final = b"HTTP/1.1 200 OK\r\nX-Other: 1\r\nContent-Length: 5\r\n\r\nOTHER"
_BODIES: Final = (
    *(b"", b"hello", b"x" * 300, _EVENT * 3, _EVENT * 2 + b"data: [DONE]\n\n", b'{"a":1}'),
    *(_OTHER, b"0\r\n\r\n", b"5\r\nhello\r\n", b"\r\n\r\n", b"x" * 200_000),
)
_TYPES: Final = (b"application/json", b"text/event-stream", b"text/event-stream", b"text/plain")
_STATUSES: Final = (b"200 OK", b"200 OK", b"200 OK", b"200", b"200 ", b"206 X", b"404 No", b"503 X")
_ODD_STATUSES: Final = (
    *(
        b"204 No Content",
        b"304 Not Modified",
        b"999 X",
        b"101 Switching",
        b"100 Continue",
        b"099 X",
    ),
    *(b"103 Early Hints", b"20 OK", b"2000 OK", b"+20 OK", b"200  O\tK", b"200 O\x01K", b"600 X"),
    *(b"200 \xff", b"200 O\rK"),
)
_ODD_VERSIONS: Final = (b"HTTP/1.0", b"http/1.1", b"HTTP/1.2", b"HTTP/2", b"HTTP/2.0", b"HTTP/0.9")
_ODD_LENGTHS: Final = (
    *(b"Content-Length: +%d", b"Content-Length: -%d", b"Content-Length: 0x%x", b"Content-Length:"),
    *(
        b"Content-Length: %d, %d",
        b"Content-Length : %d",
        b"content-length:%d",
        b"Content_Length: %d",
    ),
    *(b"Content-Length: 0%d", b"Content-Length: %d\r\nContent-Length: %d", b"Content-Length: %d;"),
    *(b"Content-Length: %d\r\nContent-Length: 0", b"Content-Length: 18446744073709551617"),
    *(b"Content-Length:\r\n %d", b"Content-Length: %d0", b"Content-Length: 1%d"),
    *(
        b"Content-Length: 1",
        b"Content-Length: 0",
        b"Content-Length: \x0b%d",
        b"Content-Length: %d ",
    ),
)
_ODD_CODINGS: Final = (
    *(b"Transfer-Encoding: Chunked", b"Transfer-Encoding:chunked", b"Transfer-Encoding: chunked "),
    *(b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, identity"),
    *(b"Transfer-Encoding: xchunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding:"),
    *(b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding: chunked, chunked"),
    *(b"Transfer-Encoding: identity", b"Transfer-Encoding: , chunked", b"Transfer_Encoding: x"),
    *(b"Transfer-Encoding: chunked;a=b", b"Transfer-Encoding: \x0bchunked"),
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip",
)
_HEADERS: Final = (
    *(b"X-A: b", b"Connection: keep-alive", b"Connection: close", b"Set-Cookie: a=b", b"X-A: b\tc"),
    *(b"Keep-Alive: timeout=0", b"Trailer: X-T", b"X-A: \xc3\xa9", b"X-A:", b"X-A: b \t"),
)
_ODD_HEADERS: Final = (
    *(b"Connection: upgrade", b"Upgrade: websocket", b"X-A: b\rc", b"X-A: b\r\n fold"),
    *(b"X-A: \x01\x7f", b"X A: b", b"X-A : b", b": x", b"nocolon", b"X-A: b\nX-B: 1", b"X-A: \xff"),
    *(b"Content-Encoding: gzip", b"Content-Encoding: br", b"Connection: content-length"),
    *(b"Connection: transfer-encoding", b"X-\xe9: 1", b"Date: \r", b"X-A: \r", b"X-A: b\r\n\tfold"),
    *(b"X-A: b\r\n \r\n c", b" X-A: b", b"X-A: \xa0b\x85", b"X-A: " + b"b" * 70_000),
    *(b"X-A: \x00", b"X-A: b\x0bc"),
)
_ODD_SIZES: Final = (
    *(b"%X", b"0%x", b"%x ", b"%x;a=b", b'%x;a="\r"', b" %x", b"0x%x", b"+%x", b"%x\t", b"%x;\n"),
    *(b"-%x", b"%x;", b"%x ;a", b"%x\x00", b"%xg", b"1%x", b"", b"%x,", b"00000000000000000000%x"),
)
_ODD_LASTS: Final = (
    *(b"0\r\nX-T: 1\r\n\r\n", b"0\n\n", b"00\r\n\r\n", b"0;x\r\n\r\n", b"0\r\n", b""),
    *(b"0\r\nContent-Length: 4\r\n\r\n", b"0\r\n\n", b"0\r\r\n\r\n", b"0\r\nX\r\n\r\n"),
    *(b"0\r\n X: y\r\n\r\n", b"0\r\nX-T : 1\r\n\r\n", b"0\r\nX-T: \x01\r\n\r\n", b"0\r\nX: y\n\n"),
    *(b"-0\r\n\r\n", b"0 \r\n\r\n"),
)
_ODD_LINE_ENDS: Final = (b"\n", b"\r", b"\r\r\n", b"", b"\n\r", b"\r\n\r\n", b" \r\n")
_BEFORE: Final = (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 X\r\nLink: x\r\n\r\n" * 3)
_ODD_BEFORE: Final = (
    *(b"\r\n", b"\n\n", b"junk", b"HTTP/1.1 102 P\r\nContent-Length: 5\r\n\r\n", b"\r"),
    *(b"HTTP/1.1 103 X\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 103 X\r\nA : b\r\n\r\n"),
    b"HTTP/1.1 101 X\r\nUpgrade: y\r\n\r\n",
)
_BEHIND: Final = (_OTHER, b"\r\n", b"X", b"H", b"HTTP/1.1 20", b"\r\nHT", b"0\r\n\r\n", b"\x00")


class Case(NamedTuple):
    """One response.

    Attributes:
        method, target: of the request.
        reads: the response, as it is written.
        late: written a moment later.
        end: what becomes of the connection then.
        is_plain: nothing in it is unusual, so it must arrive.
    """

    seed: int
    method: str
    target: str
    reads: list[bytes]
    late: bytes
    end: Literal["keep", "close", "reset"]
    is_plain: bool


class _Maker:
    """Chooses what a case consists of, and notes whether anything of it is odd."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311  not for secrets
        self.is_plain = True

    def pick(self, plain: Sequence[bytes], odd: Sequence[bytes], chance: float) -> bytes:
        if self.rng.random() >= chance:
            return self.rng.choice(plain)
        self.is_plain = False
        return self.rng.choice(odd)

    def chunks(self, body: bytes) -> list[bytes]:
        """A chunked body, one string a chunk."""
        out, at, odd = [], 0, self.rng.choice((0, 0, 0.1))
        step = self.rng.choice((1, 5, 17, 100, len(_EVENT), 1 << 20))
        step = max(step, len(body) // 1000)
        while at < len(body):
            data = body[at : at + step]
            at += step
            size = self.pick((b"%x",), _ODD_SIZES, odd)
            size = size % ((len(data),) * size.count(b"%"))
            size += self.pick((b"\r\n",), _ODD_LINE_ENDS, odd / 2)
            out.append(size + data + self.pick((b"\r\n",), _ODD_LINE_ENDS, odd / 2))
        return [*out, self.pick((b"0\r\n\r\n",), _ODD_LASTS, 0.1)]

    def framed(self, body: bytes) -> tuple[list[bytes], list[bytes]]:
        """Header lines that say where the body ends, and the body in pieces."""
        framing = self.rng.choice((*["length"] * 4, *["chunks"] * 5, *["close"] * 2, "both"))
        length = self.pick((b"Content-Length: %d",), _ODD_LENGTHS, 0.15)
        length = length % ((len(body),) * length.count(b"%"))
        coding = self.pick((b"Transfer-Encoding: chunked",), _ODD_CODINGS, 0.15)
        self.is_plain &= framing != "both"
        match framing:
            case "length":
                return [length], [body]
            case "chunks":
                return [coding], self.chunks(body)
            case "close":
                return [], [body]
        return [length, coding], self.chunks(body)

    def cut(self, pieces: list[bytes]) -> list[bytes]:
        """The same bytes in other pieces."""
        data = b"".join(pieces)
        match self.rng.choice(("pieces", "pieces", "whole", "some", "bytes")):
            case "pieces":
                return [piece for piece in pieces if piece]
            case "bytes" if len(data) < 400:
                return [data[at : at + 1] for at in range(len(data))]
            case "some":
                marks = sorted(self.rng.randint(0, len(data)) for _ in range(4))
                places = zip([0, *marks], [*marks, len(data)], strict=True)
                return [data[start:stop] for start, stop in places if start < stop]
        return [data] if data else []

    def damaged(self, pieces: list[bytes]) -> list[bytes]:
        """One byte more, one less, another one, or nothing from there."""
        self.is_plain = False
        data = b"".join(pieces)
        at = self.rng.randrange(len(data))
        byte = self.rng.choice((b"\r", b"\n", b"\x00", b" ", b":", b"0", b"\r\n", b"\xff"))
        return [data[:at], *self.rng.choice(([], [byte, data[at:]], [data[at + 1 :]]))]


def make(seed: int) -> Case:
    """The case of this number."""
    maker = _Maker(seed)
    rng = maker.rng
    method = rng.choice(("GET", "POST", "POST", "POST", "HEAD"))
    target = "/v1/chat/completions" if method == "POST" else "/v1/models"
    body = rng.choice(_BODIES)
    status = maker.pick(_STATUSES, _ODD_STATUSES, 0.1)
    framing, pieces = maker.framed(body)
    lines = [b"Content-Type: " + rng.choice(_TYPES), *framing]
    lines += [maker.pick(_HEADERS, _ODD_HEADERS, 0.15) for _ in range(rng.choice((0, 0, 1, 2)))]
    rng.shuffle(lines)
    line_end = maker.pick((b"\r\n",), _ODD_LINE_ENDS, 0.04)
    version = maker.pick((b"HTTP/1.1",), _ODD_VERSIONS, 0.06)
    head = line_end.join((version + b" " + status, *lines, b"", b""))
    before = maker.pick((b"", b"", b"", *_BEFORE), _ODD_BEFORE, 0.06)
    end: Any = rng.choice(("keep", "keep", "close", "reset"))
    if method == "HEAD":
        pieces = [] if rng.random() < 0.7 else pieces
        maker.is_plain &= not pieces
    behind = maker.pick((b"",), _BEHIND, 0.1)
    late = maker.pick((b"",), _BEHIND, 0.1)
    pieces = [before + head, *pieces, *([behind] if rng.random() < 0.5 else [])]
    if late == b"" and rng.random() < 0.1:
        pieces = maker.damaged(pieces)
    reads = maker.cut(pieces)
    return Case(seed, method, target, reads, late, end, maker.is_plain)
