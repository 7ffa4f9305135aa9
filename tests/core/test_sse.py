"""The parser: where events end, what is in them, and that no byte is lost."""

import pytest
from lifecycle_proxy.core.sse import Event, Parser, begins_stream

from tests.core import BYTEWISE, WHOLE, segments, whatwg

_BIG = 1 << 20
_SIZES = [WHOLE, (7,), BYTEWISE]
_CHUNK = b'data: {"a":1}'


def parse(body: bytes, sizes: tuple[int, ...] = WHOLE, limit: int = _BIG) -> list[Event]:
    """All events; fails unless their raw slices are the bytes fed."""
    parser = Parser(limit)
    events = [event for piece in segments(body, sizes) for event in parser.feed(piece)]
    assert b"".join(e.raw for e in events) + parser.tail == body
    events += parser.eof()
    assert b"".join(e.raw for e in events) == body
    assert not parser.tail
    return events


def data_of(events: list[Event]) -> list[bytes]:
    return [event.data for event in events if event.data is not None]


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_blank_line_ends_an_event_in_every_form(end: bytes, sizes: tuple[int, ...]) -> None:
    body = (b"data: a" + end * 2) + (b"event: n" + end + b"data: b" + end * 2)
    assert [(e.name, e.data, e.closed) for e in parse(body, sizes)] == [
        (b"", b"a", True),
        (b"n", b"b", True),
    ]


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    "blank", [b"\n\r", b"\n\r\n", b"\r\n\n", b"\r\n\r", b"\r\r\n", b"\n\n", b"\r\r", b"\r\n\r\n"]
)
def test_line_ends_may_be_mixed(blank: bytes, sizes: tuple[int, ...]) -> None:
    assert data_of(parse(b"data: a" + blank + b"data: b" + blank, sizes)) == [b"a", b"b"]


def test_a_cr_is_no_line_end_before_the_next_byte_is_known() -> None:
    parser = Parser(_BIG)
    assert parser.feed(b"data: a\r\n\r") == []
    assert [event.raw for event in parser.feed(b"\ndata")] == [b"data: a\r\n\r\n"]
    assert parser.tail == b"data"


@pytest.mark.parametrize(
    ("block", "name", "data"),
    [
        (b"data: a", b"", b"a"),
        (b"data:a", b"", b"a"),
        (b"data:  a", b"", b" a"),
        (b"data: a ", b"", b"a "),
        (b"data", b"", b""),
        (b"data:", b"", b""),
        (b"data: ", b"", b""),
        (b"data: a\ndata: b", b"", b"a\nb"),
        (b"data: a\ndata", b"", b"a\n"),
        (b"data:\ndata:", b"", b"\n"),
        (b"event: x\ndata: a", b"x", b"a"),
        (b"data: a\nevent: x", b"x", b"a"),
        (b"event: x\nevent: y\ndata: a", b"y", b"a"),
        (b"event: x\nevent\ndata: a", b"", b"a"),
        (b"event: x", b"x", None),
        (b": comment", b"", None),
        (b"id: 1\nretry: 5\nfield: x\n:c\ndata: a:b", b"", b"a:b"),
        (b" data: a", b"", None),
        (b"\ndata: a", b"", b"a"),
        (b"data: \xe2\x80\xa8 \xc2\x85 \x0b \x0c", b"", b"\xe2\x80\xa8 \xc2\x85 \x0b \x0c"),
        (b"data: \xff\x00", b"", b"\xff\x00"),
    ],
)
def test_the_fields_are_read_as_the_standard_says(
    block: bytes, name: bytes, data: bytes | None
) -> None:
    body = block + b"\n\n"
    assert parse(body) == [Event(body, name, data, has_id=b"id:" in block)]
    assert whatwg(body) == ([] if data is None else [(name, data)])


@pytest.mark.parametrize("sizes", _SIZES)
def test_a_byte_order_mark_counts_only_at_the_start(sizes: tuple[int, ...]) -> None:
    body = b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n"
    assert data_of(parse(body, sizes)) == [b"a"]


@pytest.mark.parametrize("sizes", _SIZES)
def test_more_blank_lines_are_nothing(sizes: tuple[int, ...]) -> None:
    assert data_of(parse(b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n\n", sizes)) == [b"a", b"b"]


@pytest.mark.parametrize(
    ("rest", "closed"),
    [
        (b"data: a", False),
        (b"data: a\n", False),
        (b"data: a\r\n", False),
        (b"data: a\r", False),
        (b"data: a\r\r", True),
        (b"data: a\n\r", True),
        (b"data: a\r\n\r", True),
    ],
)
def test_the_last_event_is_handed_out_at_the_end(rest: bytes, closed: bool) -> None:
    assert parse(rest) == [Event(rest, b"", b"a", closed)]


@pytest.mark.parametrize("rest", [b"\n", b"\r\n", b"\r"])
def test_line_ends_behind_the_last_event_are_blank_lines(rest: bytes) -> None:
    assert parse(b"data: a\n\n" + rest)[-1] == Event(rest, b"", None, closed=True)


def test_nothing_is_left_at_the_end_of_whole_events() -> None:
    parser = Parser(_BIG)
    assert len(parser.feed(b"data: a\n\n")) == 1
    assert parser.feed(b"") == []
    assert parser.eof() == []


# --- servers that forget the blank lines ----------------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_of_whole_json_are_events_without_blank_lines(
    end: bytes, sizes: tuple[int, ...]
) -> None:
    body = end.join([_CHUNK, b'data:{"b":2}', b"data: [DONE]", b""])
    events = parse(body, sizes)
    assert data_of(events) == [b'{"a":1}', b'{"b":2}', b"[DONE]"]
    assert not any(event.closed for event in events)


@pytest.mark.parametrize("sizes", _SIZES)
def test_a_line_event_and_its_late_blank_line(sizes: tuple[int, ...]) -> None:
    events = parse(_CHUNK + b"\n" + _CHUNK + b"\n\n" + _CHUNK + b"\n\n", sizes)
    assert data_of(events) == [b'{"a":1}'] * 3


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    "block",
    [
        b'data: {"a":\ndata: 1}',
        b"data: {\ndata: {}}",
        b"data: [1]\ndata: {}",
        b'data: "a"\ndata: [DONE]',
        b"data: " + b'{"a":' * 3000 + b"\ndata: {}",
        b"data: {}\ndata: b",
        b"event: x\ndata: {}\ndata: {}",
        b"data: {\rdata: {}}",
        b"data: \xff\ndata: {}",
    ],
)
def test_data_of_several_lines_stays_one_event(block: bytes, sizes: tuple[int, ...]) -> None:
    assert len(parse(block + b"\n\n", sizes)) == 1


# --- events above the limit ----------------------------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_an_event_above_the_limit_passes_unparsed(end: bytes, sizes: tuple[int, ...]) -> None:
    body = b"data: a" + end + b"data: " + b"x" * 60 + end + b"data: b" + end
    events = parse(body, sizes, limit=30)
    assert data_of(events) == [b"a", b"b"]
    assert b"".join(e.raw for e in events if not e.parsed) == b"data: " + b"x" * 60 + end


@pytest.mark.parametrize("sizes", [(40,), (7,), BYTEWISE])
def test_an_event_above_the_limit_may_be_the_last(sizes: tuple[int, ...]) -> None:
    assert data_of(parse(b"data: " + b"x" * 60 + b"\n", sizes, limit=30)) == []


def test_an_oversized_event_is_counted_once() -> None:
    parser = Parser(30)
    for piece in segments(2 * (b"data: " + b"x" * 60 + b"\n\n"), (5,)):
        parser.feed(piece)
    parser.feed(b"data: " + b"x" * 60 + b"\n\n")
    assert parser.oversized == 3
    assert not parser.skipping


def test_an_oversized_event_is_not_kept() -> None:
    parser = Parser(30)
    for piece in segments(b"data: " + b"x" * 1000, (9,)):
        parser.feed(piece)
        assert len(parser.tail) <= 30
    assert parser.skipping


@pytest.mark.parametrize("sizes", _SIZES)
def test_an_event_of_the_very_limit_is_parsed(sizes: tuple[int, ...]) -> None:
    body = b"data: " + b"x" * 22 + b"\n\n"
    assert len(data_of(parse(body, sizes, limit=30))) == 1
    assert len(data_of(parse(body, sizes, limit=29))) == 0


@pytest.mark.parametrize("sizes", [WHOLE, BYTEWISE, (7,)])
def test_a_line_above_the_limit_ends_with_its_line(sizes: tuple[int, ...]) -> None:
    small, large = b'data: {"a":1}\n', b'data: {"a":"' + b"x" * 60 + b'"}\n'
    body = small * 2 + large + small * 2
    events = parse(body, sizes, limit=30)
    assert b"".join(event.raw for event in events) == body
    assert data_of(events) == [b'{"a":1}'] * 4


@pytest.mark.parametrize(
    ("start", "begins"),
    [
        *((start, True) for start in (b"data:{}", b"event: x", b"id: 1", b"retry: 5", b": hi")),
        *((start, True) for start in (b"\xef\xbb\xbfdata: x", b"\xef\xbb\xbf\r\n\ndata: x")),
        *((start, None) for start in (b"", b"da", b"retr", b"\xef", b"\xef\xbb\xbf\n")),
        *((start, False) for start in (b"{", b"\ndata: x", b"dada", b" data: x", b"\xef\xbb{")),
    ],
)
def test_how_a_stream_begins(start: bytes, begins: bool | None) -> None:
    assert begins_stream(start) is begins
