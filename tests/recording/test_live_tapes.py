"""Tapes: an exchange as it would be recorded, made when somebody looks."""

import gc
import tracemalloc
import weakref

from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.recording import cassette
from lifecycle_proxy.recording.live_tapes import LiveTape, LiveTapes
from lifecycle_proxy.recording.recorder import ExchangeRecorder
from lifecycle_proxy.recording.redactor import Redaction

SECRET = "sk-abcdefghijklmnopqrstuvwxyz0123456789"
WHAT = ("chat", "POST", "/v1/chat/completions")
HEADERS = (("Authorization", f"Bearer {SECRET}"), ("Content-Type", "application/json"))
STREAM = (("Content-Type", "text/event-stream"),)


def an_exchange() -> Exchange:
    return Exchange("req_1", "POST", WHAT[2], "127.0.0.1")


def fill(tape: ExchangeRecorder, pieces: list[bytes], *, is_over: bool = True) -> None:
    """A chat whose answer comes in these pieces."""
    exchange = an_exchange()
    tape.request(WHAT, HEADERS, b'{"model": "m", "key": "%b"}' % SECRET.encode())
    tape.on_head(exchange, "upstream", 200, "OK", STREAM)
    tape.on_head(exchange, "client", 200, "OK", STREAM)
    for piece in pieces:
        tape.on_chunk(exchange, piece, piece, (), exchange.started)
    if is_over:
        exchange.ended = "done"
        tape.on_end(exchange)


def found(tapes: LiveTapes, name: str = "ex_a") -> LiveTape:
    tape = tapes.find(name)
    assert tape is not None
    return tape


def test_it_is_what_a_recording_would_be() -> None:
    tapes = LiveTapes(Redaction(), 5)
    fill(tapes.tape("ex_a", 0.0), [b"data: 1\n\n", b"data: " + SECRET.encode() + b"\n\n"])
    for _ in range(2):  # looking changes nothing
        [exchange] = cassette.parse(found(tapes).lines())
        assert SECRET.encode() not in found(tapes).lines()
        assert exchange.client.body.startswith(b"data: 1\n\ndata: ")
        assert exchange.is_complete
        assert exchange.client.is_whole


def test_what_has_come_is_shown_while_it_goes_on_but_no_part_of_a_secret() -> None:
    tapes = LiveTapes(Redaction(), 5)
    tape, exchange = tapes.tape("ex_a", 0.0), an_exchange()
    pieces = [b'data: {"n": %d}\n\n' % number for number in range(100)]
    fill(tape, pieces, is_over=False)
    [half] = cassette.parse(found(tapes).lines())
    shown = half.client.body
    assert b"".join(pieces).startswith(shown)
    assert shown.count(b"\n\n") > 50
    for piece in (SECRET[:9], SECRET[9:20], SECRET[20:], "\n\n"):
        tape.on_chunk(exchange, piece.encode(), piece.encode(), (), 1.0)
        [half] = cassette.parse(found(tapes).lines())
        assert SECRET[:6].encode() not in half.client.body
    tape.on_end(exchange)
    [whole] = cassette.parse(found(tapes).lines())
    assert whole.client.is_whole
    assert whole.client.body.startswith(b"".join(pieces) + b"[redacted:")


def test_it_can_be_looked_at_while_it_goes_on() -> None:
    tapes = LiveTapes(Redaction(), 5)
    tape, exchange = tapes.tape("ex_a", 0.0), an_exchange()
    fill(tape, [b"data: 1\n\n"], is_over=False)
    [half] = cassette.parse(found(tapes).lines())
    assert (half.request.method, half.is_complete) == ("POST", False)
    tape.on_chunk(exchange, b"data: 2\n\n", b"data: 2\n\n", (), 1.0)
    tape.on_end(exchange)
    [whole] = cassette.parse(found(tapes).lines())
    assert whole.client.body == b"data: 1\n\ndata: 2\n\n"


def test_of_a_large_one_the_beginning_and_the_end_are_kept() -> None:
    tapes = LiveTapes(Redaction(), 5)
    pieces = [b"data: " + b"x" * 100_000 + b"\n\n"] * 100
    fill(tapes.tape("ex_a", 0.0), pieces)
    assert found(tapes).size <= 4 << 20
    [exchange] = cassette.parse(found(tapes).lines())
    assert exchange.is_complete
    assert 1 << 20 < len(exchange.client.body) <= 4 << 20
    assert b"".join(pieces).startswith(exchange.client.body)


def test_what_is_kept_of_all_is_bounded() -> None:
    tapes = LiveTapes(Redaction(), 5, max_bytes=1 << 20)
    for number in range(10_000):
        fill(tapes.tape(f"ex_{number}", 0.0), [b"data: 1\n\n"])
    kept = [number for number in range(10_000) if tapes.find(f"ex_{number}") is not None]
    assert 100 < len(kept) <= 1005
    assert kept[-1] == 9999
    assert sum(found(tapes, f"ex_{number}").size for number in kept) <= 1.1 * (1 << 20)


def test_one_that_is_dropped_goes_at_once_even_while_its_exchange_goes_on() -> None:
    tapes = LiveTapes(Redaction(), 5, max_bytes=1)
    gc.disable()  # it need not be searched for
    try:
        for is_over in (True, False):
            recorder = tapes.tape("ex_a", 0.0)
            fill(recorder, [b"data: 1\n\n"], is_over=is_over)
            found(tapes).lines()
            tape = weakref.ref(found(tapes))
            tapes.tape(f"ex_{is_over}", 0.0)
            assert tape() is None
            fill(recorder, [b"data: 2\n\n"])
    finally:
        gc.enable()


def test_what_is_counted_is_what_it_takes() -> None:
    tapes, exchange = LiveTapes(Redaction(), 5), an_exchange()
    tape = tapes.tape("ex_a", 0.0)
    tracemalloc.start()
    try:
        for number in range(5000):
            read = b"data: %d\n\n" % number
            tape.on_chunk(exchange, read, read[:-1] + b"\n", (), number / 7)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.7 * taken < found(tapes).size < 1.3 * taken
