"""The joint: where frames stand, what is held back, and what happens when something breaks."""

import re
import sys
from collections.abc import Iterator, Sequence

import pytest
from lifecycle_proxy.core import sse
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.dialects.fields import embed_chunk
from lifecycle_proxy.core.events import (
    Envelope,
    LifecycleEvent,
    Observation,
    Outcome,
    ToolCompleted,
)
from lifecycle_proxy.core.labels import Labels
from lifecycle_proxy.core.observers.chat import ChatObserver
from lifecycle_proxy.core.output import Step
from lifecycle_proxy.core.pipeline import Pipeline
from msgspec.structs import replace

from tests.core import (
    BYTEWISE,
    DONE,
    WHOLE,
    Frames,
    Presenter,
    assert_paired,
    call,
    calls,
    finish,
    make,
    native,
    places,
    play,
    text,
    told,
    whatwg,
)
from tests.core import sse as event_of

HEAD = calls(call(0, "a", "f"))
CALL = calls(call(0, "a", "f", "{}"))
_SIZES = [WHOLE, (7,), BYTEWISE]


def one_by_one(pipeline: Pipeline, *pieces: bytes) -> list[bytes]:
    return [pipeline.feed(piece, 0.0).data for piece in pieces]


# --- where frames stand --------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
def test_running_stands_behind_its_chunk_and_completed_before_what_follows(
    sizes: tuple[int, ...],
) -> None:
    body = text() + CALL + finish() + text() + DONE
    played = play(body, sizes)
    running, completed = played.frames
    assert played.data == text() + CALL + running + finish() + completed + text() + DONE


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("last", [DONE, DONE[:-1], DONE[:-2], b'data: {"error":1}\n\n'])
def test_completed_stands_before_the_end_of_reading(last: bytes, sizes: tuple[int, ...]) -> None:
    played = play(CALL + last, sizes)
    assert played.data == CALL + played.frames[0] + played.frames[1] + last


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    ("rest", "gap"),
    [
        (b"", b"\n\n"),
        (b"\n", b"\n"),
        (b"\r", b"\r"),
        (b"\r\n", b"\n"),
        (b"\n\n", b""),
        (b"\r\r", b""),
        (b"\n\r", b""),
    ],
)
def test_an_unclosed_event_is_closed_before_a_frame(
    rest: bytes, gap: bytes, sizes: tuple[int, ...]
) -> None:
    body = CALL[:-2] + rest
    played = play(body, sizes)
    assert played.data == body + gap + b"".join(played.frames)
    assert len(played.frames) == 2


@pytest.mark.parametrize("sizes", _SIZES)
def test_frames_stand_between_lines_where_no_blank_lines_are(sizes: tuple[int, ...]) -> None:
    pieces = [text("a"), text("b"), CALL, text("c"), DONE]
    body = b"".join(piece[:-1] for piece in pieces)
    played = play(body, sizes)
    a, b, head, c, done = (piece[:-1] for piece in pieces)
    running, completed = played.frames
    assert played.data == a + b + head + b"\n" + running + c + b"\n" + completed + done


def test_a_call_in_the_first_line_of_a_stream_without_blank_lines() -> None:
    body = b"".join(piece[:-1] for piece in (CALL, text(), DONE))
    assert len(places(play(body, BYTEWISE), body)) == 2


@pytest.mark.parametrize("sizes", _SIZES)
def test_nothing_stands_before_a_byte_order_mark(sizes: tuple[int, ...]) -> None:
    body = b"\xef\xbb\xbf" + CALL + DONE
    assert play(body, sizes).data.startswith(b"\xef\xbb\xbf" + CALL)


def test_nothing_of_ours_stands_behind_done() -> None:
    assert play(DONE + CALL + finish() + DONE).data.endswith(DONE + CALL + finish() + DONE)


# --- what is held back ---------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [text(), 3 * text(), text()[:9], b": ping\n\n", b"\xff", b"data"])
def test_what_needs_no_frame_comes_back_as_it_is(piece: bytes) -> None:
    pipeline = make(Frames())
    assert pipeline.feed(text(), 0.0).events == ()
    assert pipeline.feed(piece, 0.0).data is piece


def test_a_piece_of_an_event_is_not_held_while_no_call_is_open() -> None:
    pieces = [text()[:9], text()[9:20], text()[20:] + text()[:5]]
    pipeline = make(Frames())
    for piece in pieces:
        assert pipeline.feed(piece, 0.0).data is piece


def test_a_piece_of_an_event_is_held_while_a_call_is_open() -> None:
    frames = Frames()
    pieces = one_by_one(make(frames), CALL, DONE[:6], DONE[6:])
    assert pieces == [CALL + frames.written[0], b"", frames.written[1] + DONE]


def test_text_is_not_held_while_a_call_is_open() -> None:
    pipeline = make(Frames())
    pipeline.feed(CALL, 0.0)
    piece = text()
    assert pipeline.feed(piece, 0.0).data is piece


def test_what_may_be_a_native_event_is_held() -> None:
    assert one_by_one(make(Frames()), b"ev", b"ent: x", b"\ndata: 1\n\n") == [
        b"",
        b"",
        b"event: x\ndata: 1\n\n",
    ]


def test_nothing_is_held_for_a_client_that_gets_nothing() -> None:
    pieces = [HEAD, b"event: her", b"mes\n", b"\n", DONE[:4], DONE[4:]]
    assert one_by_one(make(DIALECTS["off"]), *pieces) == pieces


def test_the_client_that_gets_nothing_does_not_hinder_the_others() -> None:
    played = play(CALL + finish() + DONE, BYTEWISE, dialect=DIALECTS["off"])
    assert played.told == ["running a f", "completed a f ok"]
    assert played.data == CALL + finish() + DONE


@pytest.mark.parametrize(
    ("pieces", "between"),
    [
        ([], True),
        ([text()], True),
        ([text()[:9]], False),
        ([text()[:-1]], False),
        ([text()[:9], text()[9:]], True),
        ([CALL, text()[:9]], True),  # held
        ([text()[:9], text()[9:] + b"event: "], True),  # held
        ([b"\n"], True),
        ([text()[:-1] + text()[:-1]], False),
    ],
)
@pytest.mark.parametrize("name", ["chunk", "off"])
def test_it_is_known_whether_a_comment_can_be_written(
    pieces: list[bytes], between: bool, name: str
) -> None:
    pipeline = make(DIALECTS[name])
    one_by_one(pipeline, *pieces)
    held = name == "chunk" or not pieces or pieces[-1].endswith(b"\n")
    assert pipeline.between_events is (between and held)


# --- events above the limit ----------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [WHOLE, (50,), (7,), BYTEWISE])
def test_an_oversized_event_passes_while_a_call_is_open(sizes: tuple[int, ...]) -> None:
    body = CALL + text("x" * 500) + finish() + DONE
    played = play(body, sizes, max_event_bytes=250)
    assert len(places(played, body)) == 2
    assert played.told == ["running a f", "completed a f ok"]


def test_an_oversized_event_is_not_waited_for() -> None:
    pipeline = make(Frames(), max_event_bytes=100)
    pipeline.feed(CALL[:-2] + b"x" * 200, 0.0)
    assert pipeline.feed(b"x" * 200, 0.0).data == b"x" * 200


def test_an_oversized_call_is_not_told() -> None:
    assert play(calls(call(0, "a", "f", "x" * 500)) + DONE, max_event_bytes=250).events == []


def test_a_line_above_the_limit_is_an_oversized_event_whatever_the_segmentation() -> None:
    body = calls(call(0, "a", "f", "x" * 500))[:-1] + text()[:-1]
    whole, bytewise = (play(body, sizes, max_event_bytes=250) for sizes in (WHOLE, BYTEWISE))
    assert whole.told == bytewise.told


# --- how it ends ---------------------------------------------------------------------------------


def test_an_end_without_finish_is_a_cut() -> None:
    assert play(CALL).told[1] == "completed a f cut:upstream_eof"


def test_an_abort_completes_what_is_open_then_tells_the_error() -> None:
    frames = Frames()
    pipeline = make(frames)
    pipeline.feed(CALL + finish() + DONE[:8], 0.0)
    step = pipeline.abort("timeout", 2.5, error=b"data: {}\n\n")
    assert step.data == frames.written[1] + b"data: {}\n\n" + DONE[:8]
    assert [told(event) for event in step.events] == ["completed a f failed:timeout"]
    assert [e.duration_ms for e in step.events if isinstance(e, ToolCompleted)] == [2500]


def test_an_abort_has_the_outcome_it_is_given() -> None:
    pipeline = make(Frames())
    pipeline.feed(CALL, 0.0)
    step = pipeline.abort("client_disconnected", 0.0, outcome=Outcome.CANCELLED)
    assert [told(e) for e in step.events] == ["completed a f cancelled:client_disconnected"]


def test_an_abort_inside_an_event_closes_it_first() -> None:
    pipeline = make(Frames())
    pipeline.feed(text()[:9], 0.0)
    assert pipeline.abort("timeout", 0.0, error=b"data: {}\n\n").data == b"\n\ndata: {}\n\n"


def test_an_abort_of_nothing_is_nothing() -> None:
    assert make(Frames()).abort("timeout", 0.0) == Step(b"")


# --- nesting

_DEEP = "[" * 990 + "]" * 990


@pytest.fixture
def usual_stack() -> Iterator[None]:
    """As deep as it is everywhere but in property tests."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("usual_stack")
@pytest.mark.parametrize(
    "body",
    [
        calls(call(0, "a", "f", f'{{"query":{_DEEP}}}')),
        event_of(
            f'{{"toolCallId":"a","status":"completed","tool":{_DEEP}}}', "hermes.tool.progress"
        ),
        event_of(
            f'{{"choices":[{{"delta":{{"executed_tools":[{{"type":"s","index":{_DEEP}}}]}}}}]}}'
        ),
        2 * calls(call(0, "a", "f"), finish="stop").replace(b'"chatcmpl-1"', _DEEP.encode()),
        text().replace(b'"chatcmpl-1"', _DEEP.encode()),
    ],
    ids=["arguments", "tool", "index", "chunk id", "text"],
)
def test_no_nesting_makes_it_fail(body: bytes) -> None:
    assert play(body, presenter=Labels()).counts.failure is None


# --- observations are known by their type ---------------------------------------------------------


class Copies(ChatObserver):
    """Says the same in objects of its own, none of them a constant of ``events``."""

    def observe(self, event: sse.Event) -> Sequence[Observation]:
        return [replace(seen) for seen in super().observe(event)]


@pytest.mark.parametrize("dialect", ["chunk", "quote", "reasoning", "openwebui", "off"])
@pytest.mark.parametrize("sizes", _SIZES)
def test_an_observation_that_is_equal_does_the_same(sizes: tuple[int, ...], dialect: str) -> None:
    body = text() + CALL + text() + calls(call(1, "b", "g")) + text() + finish() + text() + DONE
    ours, theirs = (
        play(body, sizes, dialect=DIALECTS[dialect], observer=observer)
        for observer in (ChatObserver, Copies)
    )
    assert ours == theirs


@pytest.mark.parametrize("observer", [ChatObserver, Copies])
def test_the_end_is_known_from_its_type(observer: type[ChatObserver]) -> None:
    pipeline = make(Frames(), observer)
    assert not pipeline.is_done
    pipeline.feed(DONE, 0.0)
    assert pipeline.is_done
    assert not pipeline.between_events


def test_the_envelope_is_that_of_the_latest_chunk() -> None:
    pipeline = make(Frames())
    assert pipeline.envelope.id == "id"
    pipeline.feed(text(), 0.0)
    assert (pipeline.envelope.id, pipeline.envelope.created) == ("chatcmpl-1", 7)


def test_a_page_stands_in_front_of_the_first_tool_only() -> None:
    envelope = Envelope("chatcmpl-1", 7, "m")
    url = "https://proxy.example/-/embed/st_1"
    played = play(CALL + HEAD + calls(call(1, "b", "g")), embed=url)
    first, second, *_ = played.frames
    assert played.data.startswith(CALL + embed_chunk(url, envelope) + first)
    assert played.data.count(url.encode()) == 1
    assert second in played.data
    choice = {"index": 0, "delta": {}, "finish_reason": None}
    event = {"type": "embeds", "data": {"embeds": [url]}}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    assert embed_chunk(url, envelope) == event_of({**chunk, "choices": [choice], "event": event})


def test_events_above_the_limit_are_counted() -> None:
    pipeline = make(Frames(), max_event_bytes=30)
    pipeline.feed(text() + text(), 0.0)
    assert pipeline.oversized == 2


def test_a_comment_has_no_blank_line_in_a_stream_with_ids() -> None:
    pipeline = make(Frames())
    assert pipeline.comment(b": x\n\n") == b": x\n\n"
    pipeline.feed(b"id: 1\n" + text(), 0.0)
    assert pipeline.comment(b": x\n\n") == b": x\n"


# --- when something of ours breaks ----------------------------------------------------------------


class Broken(ChatObserver):
    """Fails at the third event."""

    def __init__(self, counts: Counts) -> None:
        super().__init__(counts)
        self._left = 2

    def skim(self, raw: bytes) -> bool:
        return False

    def observe(self, event: sse.Event) -> Sequence[Observation]:
        self._left -= 1
        if self._left < 0:
            raise ZeroDivisionError
        return super().observe(event)


@pytest.mark.parametrize("sizes", _SIZES)
def test_an_observer_that_fails_is_switched_off_and_the_stream_goes_on(
    sizes: tuple[int, ...],
) -> None:
    body = text() + CALL + text() + calls(call(1, "b", "g")) + DONE
    played = play(body, sizes, observer=Broken)
    assert played.told == ["running a f", "completed a f unknown:proxy_error"]
    assert len(places(played, body)) == 2
    assert played.counts.observer_failures == 1
    assert isinstance(played.counts.failure, ZeroDivisionError)


def test_without_its_observer_a_stream_is_not_held_back() -> None:
    pipeline = make(Frames(), Broken)
    one_by_one(pipeline, CALL, text(), text())
    piece = DONE[:5]
    assert pipeline.feed(piece, 0.0).data is piece


class SkimFails(ChatObserver):
    def skim(self, raw: bytes) -> bool:
        raise ZeroDivisionError


def test_a_quick_look_that_fails_does_not_end_the_stream() -> None:
    assert play(text() + DONE, observer=SkimFails).data == text() + DONE


class BrokenPresenter(Presenter):
    """Cannot show one tool."""

    def label(self, tool: str, arguments: str) -> str:
        if tool == "g":
            raise ZeroDivisionError
        return super().label(tool, arguments)


@pytest.mark.parametrize("sizes", _SIZES)
def test_a_failure_in_telling_does_not_touch_the_stream(sizes: tuple[int, ...]) -> None:
    body = text() + calls(call(0, "b", "g")) + text() + DONE
    played = play(body, sizes, presenter=BrokenPresenter())
    assert played.data == body
    assert played.counts.observer_failures >= 1


def _broken_dialect(event: LifecycleEvent, envelope: Envelope) -> bytes:
    raise ZeroDivisionError


def test_a_failure_in_answering_a_native_event_does_not_end_the_stream() -> None:
    assert DONE in play(text() + native() + DONE, dialect=_broken_dialect).data


def test_after_a_failure_in_telling_nothing_stays_running() -> None:
    body = CALL + calls(call(1, "b", "g")) + text() + DONE
    assert_paired(play(body, presenter=BrokenPresenter()).events)


def test_a_failure_in_telling_at_the_end_does_not_touch_the_stream() -> None:
    body = text() + calls(call(0, None, "g"))
    played = play(body, presenter=BrokenPresenter())
    assert (played.data, played.counts.observer_failures) == (body, 1)


class FailsOnce(Frames):
    """Cannot write the second frame."""

    failed = False

    def __call__(self, event: LifecycleEvent, envelope: Envelope) -> bytes:
        if self.written and not self.failed:
            self.failed = True
            raise ZeroDivisionError
        return super().__call__(event, envelope)


def test_after_a_failure_in_telling_nothing_stands_behind_done() -> None:
    body = CALL + calls(call(1, "b", "g")) + text() + DONE
    assert play(body, dialect=FailsOnce()).data.endswith(DONE)


# --- comments in streams with ids -----------------------------------------------------------------

WITH_IDS = tuple(b"id: %d\n%b" % (n, one) for n, one in enumerate((calls(call(0, "a", "f")), DONE)))


def comments(data: bytes) -> list[bytes]:
    """Our comments, each with the line ends behind it."""
    return re.findall(rb"^: hermes[^\n]*\n+", data, re.MULTILINE)


@pytest.mark.parametrize("sizes", [WHOLE, BYTEWISE, (7,)])
def test_behind_an_id_a_comment_has_no_blank_line(sizes: tuple[int, ...]) -> None:
    body = b"".join(WITH_IDS)
    played = play(body, sizes, dialect=DIALECTS["comment"])
    assert whatwg(played.data) == whatwg(body)
    found = comments(played.data)
    assert [one.endswith(b"\n\n") for one in found] == [False, False]
    without = played.data
    for one in found:
        without = without.replace(one, b"")
    assert without == body


@pytest.mark.parametrize(
    "first", [b"id\n", b"data: x\nid:\n\n", b"\xef\xbb\xbfid: 1\n\n", b"id: 1\r\n\r\n"]
)
def test_any_id_counts(first: bytes) -> None:
    played = play(first + calls(call(0, "a", "f")) + DONE, dialect=DIALECTS["comment"])
    assert [one.endswith(b"\n\n") for one in comments(played.data)] == [False, False]


@pytest.mark.parametrize(
    "first", [b"", b"data: id: 1\n\n", b"ids: 1\n\n", b": id\n\n", b"Id: 1\n\n"]
)
def test_without_an_id_a_comment_has_a_blank_line(first: bytes) -> None:
    played = play(first + calls(call(0, "a", "f")) + DONE, dialect=DIALECTS["comment"])
    assert [one.endswith(b"\n\n") for one in comments(played.data)] == [True, True]


@pytest.mark.parametrize("sizes", [WHOLE, (100,)])
def test_the_id_of_an_event_that_is_too_large_counts(sizes: tuple[int, ...]) -> None:
    large = b"id: 1\ndata: " + b"x" * 1000 + b"\n\n"
    body = large + calls(call(0, "a", "f")) + DONE
    played = play(body, sizes, dialect=DIALECTS["comment"], max_event_bytes=500)
    assert [one.endswith(b"\n\n") for one in comments(played.data)] == [False, False]


@pytest.mark.parametrize("ids", [True, False])
def test_other_frames_are_the_same_with_ids(ids: bool) -> None:
    body = b"".join(WITH_IDS if ids else (one.partition(b"\n")[2] for one in WITH_IDS))
    played = play(body)
    assert all(frame in played.data for frame in played.frames)
    assert places(played, body)
