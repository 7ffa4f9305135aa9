"""``merge_rounds``: several answers in one stream look like one, and nothing else changes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_proxy.core import rounds
from lifecycle_proxy.core import sse as parsing
from lifecycle_proxy.core.dialects import DIALECTS

from tests.core import (
    BYTEWISE,
    DONE,
    WHOLE,
    Json,
    Played,
    call,
    calls,
    chunk,
    finish,
    make,
    native,
    play,
    sse,
    text,
    whatwg,
)

STOP = finish("stop")
USAGE = sse({"id": "chatcmpl-1", "choices": [], "usage": {"total_tokens": 3}})
PING = b": ping\n\n"
ERROR = sse({"error": {"message": "x"}})
ROLE = chunk({"role": "assistant", "content": ""})
IDLE = chunk({"role": "assistant", "content": ""}, choice=1)
CALL = calls(call(0, "a", "f", "{}"))
RESULT = chunk({"role": "tool", "tool_call_id": "a", "content": "r"})
ONE, TWO = text("one"), text("two")
_HERE = Path(__file__).parents[1] / "corpus"
_SHARED = Path(__file__).parents[3] / "shared"
_FOLDERS = [_HERE, _SHARED / "corpus", _SHARED / "recorded-streams"]
_CORPUS = sorted({path.stem: path for f in _FOLDERS for path in f.glob("*.sse")}.values())
_SEVERAL = (
    *("hf-tiny-agents-rounds", "litellm-mcp-auto-execution", "repeated-id-next-round"),
    *("pagespace-role-tool-after-step",),
)
# Here the only finish has something behind it, or the choices end one by one: it moves.
_MOVED = ("openai-n2", "summary-chunk-after-finish", "tools-after-finish")
_SIZES = [WHOLE, (7,), BYTEWISE]


def merged(body: bytes, sizes: Sequence[int] = WHOLE, **options: Any) -> Played:
    """The stream as somebody gets it who wants no frames."""
    played = play(body, sizes, dialect=DIALECTS["off"], merge_rounds=True, **options)
    assert played.counts.failure is None
    return played


def chunks(body: bytes) -> list[Json]:
    found = [json.loads(data) for _, data in whatwg(body) if data.startswith(b"{") and data[1:]]
    return [one for one in found if isinstance(one.get("choices"), list)]


def finishes(body: bytes) -> list[tuple[int, str]]:
    """Choice and reason of each."""
    every = [choice for one in chunks(body) for choice in one["choices"]]
    return [(c["index"], c["finish_reason"]) for c in every if c.get("finish_reason")]


def said(body: bytes) -> list[tuple[int, str, object]]:
    """All that the deltas say, in order."""
    every = [choice for one in chunks(body) for choice in one["choices"]]
    return [(c["index"], key, c["delta"][key]) for c in every for key in c["delta"]]


# --- the corpus -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("name", _SEVERAL)
def test_of_several_answers_one_finish_is_left_at_the_end(
    name: str, sizes: tuple[int, ...]
) -> None:
    body = (_HERE / f"{name}.sse").read_bytes()
    played = merged(body, sizes)
    assert len(finishes(body)) > 1
    assert finishes(played.data) == finishes(body)[-1:]
    assert said(played.data) == said(body)
    rest = played.data[played.data.index(b'"finish_reason":"stop"') :]
    assert body.endswith(rest)
    assert played.told == play(body, sizes).told


@pytest.mark.unmeasured
@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("path", _CORPUS, ids=lambda path: path.stem)
def test_a_stream_of_one_answer_is_the_same_to_the_byte(path: Path, sizes: tuple[int, ...]) -> None:
    if path.stem in _SEVERAL:
        return
    body = path.read_bytes()
    played = merged(body, sizes)
    assert played.told == play(body, sizes).told
    if path.stem in _MOVED:
        assert sorted(finishes(played.data)) == sorted(finishes(body))
        assert sorted(map(repr, said(played.data))) == sorted(map(repr, said(body)))
        assert played.data.endswith(DONE)
    else:
        assert played.data == body


# --- one finish -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    ("events", "left"),
    [
        pytest.param([ONE, STOP, TWO, STOP, DONE], [ONE, TWO, STOP, DONE], id="text"),
        pytest.param([ONE, STOP, TWO, STOP], [ONE, TWO, STOP], id="no end"),
        pytest.param(
            [CALL, finish(), RESULT, ONE, STOP, DONE], [CALL, RESULT, ONE, STOP, DONE], id="tools"
        ),
        pytest.param(3 * [ONE, STOP] + [DONE], [*3 * [ONE], STOP, DONE], id="three"),
        pytest.param([ONE, STOP, STOP, DONE], [ONE, STOP, STOP, DONE], id="nothing between"),
        pytest.param([ONE, STOP, ROLE, TWO, STOP], [ONE, ROLE, TWO, STOP], id="a role between"),
        pytest.param(
            [ONE, STOP, USAGE, TWO, STOP, USAGE, DONE],
            [ONE, USAGE, TWO, STOP, USAGE, DONE],
            id="usage",
        ),
        pytest.param([ONE, STOP, PING, TWO, STOP], [ONE, PING, TWO, STOP], id="a comment"),
        pytest.param([ONE, STOP, CALL, USAGE, DONE], [ONE, CALL, STOP, USAGE, DONE], id="no other"),
        pytest.param([ONE, STOP, CALL, USAGE], [ONE, CALL, STOP, USAGE], id="no other, no end"),
        pytest.param(
            [ONE, STOP, CALL, USAGE, TWO, DONE], [ONE, CALL, USAGE, TWO, STOP, DONE], id="no more"
        ),
        pytest.param([STOP, ERROR, TWO, DONE], [STOP, ERROR, TWO, DONE], id="an error"),
        pytest.param([STOP, ONE, ERROR, DONE], [ONE, ERROR, DONE], id="an error behind text"),
        pytest.param([ONE, STOP, b"data: 1\n\n", TWO], [ONE, b"data: 1\n\n", TWO, STOP], id="odd"),
        pytest.param([STOP, sse("{broken"), DONE], [STOP, sse("{broken"), DONE], id="no JSON"),
    ],
)
def test_a_finish_is_left_where_its_choice_ends(
    events: list[bytes], left: list[bytes], sizes: tuple[int, ...]
) -> None:
    body = b"".join(events)
    assert merged(body, sizes).data == b"".join(left)
    frames = play(body, sizes, merge_rounds=True)
    assert frames.told == play(body).told


def test_a_finish_that_says_something_keeps_that() -> None:
    head = {"id": "c", "created": 7, "usage": None}
    last = {"index": 0, "delta": {"content": "x"}, "finish_reason": "stop", "logprobs": None}
    body = b"event: chunk\n" + sse({**head, "choices": [last]})
    assert merged(body + TWO + STOP).data == (
        b"event: chunk\n" + sse({**head, "choices": [{**last, "finish_reason": None}]}) + TWO + STOP
    )


@pytest.mark.parametrize(
    ("delta", "more", "kept"),
    [
        ({"content": "x"}, {}, True),
        ({"provider_specific_fields": {"a": 1}}, {}, True),
        ({}, {"usage": {"total_tokens": 1}}, True),
        ({"role": "assistant", "content": ""}, {}, False),
        ({"role": "assistant"}, {"usage": None}, False),
        ({"content": None}, {}, False),
    ],
)
def test_a_finish_that_says_nothing_goes(delta: Json, more: Json, kept: bool) -> None:
    first = chunk(delta, finish="stop", **more)
    left = chunk(delta, **more) if kept else b""
    assert merged(first + TWO + STOP + DONE).data == left + TWO + STOP + DONE


@pytest.mark.parametrize("usage", [{}, {"usage": {"total_tokens": 1}}])
def test_a_finish_that_comes_back_says_nothing_twice(usage: Json) -> None:
    body = chunk({"content": "x"}, finish="length", **usage) + TWO + DONE
    left = chunk({"content": "x"}, **usage) + TWO + finish("length") + DONE
    assert merged(body).data == left


@pytest.mark.parametrize("sizes", _SIZES)
def test_a_choice_that_is_not_as_documented_changes_nothing(sizes: tuple[int, ...]) -> None:
    odd: Json = {"choices": [1, {"finish_reason": "stop"}, {"index": "0", "delta": 1}]}
    body = sse({"choices": 1}) + sse(odd) + sse({"choices": [{"delta": "x"}]}) + DONE
    assert merged(body, sizes).data == body
    deep = f'{{"choices":[{{"finish_reason":{"[" * 300}1{"]" * 300}}}]}}'
    body = sse(deep) + sse({"choices": [{"finish_reason": 1}]}) + TWO + DONE
    assert merged(body, sizes).data == body


def test_a_chunk_that_cannot_be_written_again_keeps_its_finish() -> None:
    deep = "[" * 400 + "]" * 400
    first = chunk({"content": "x"}, finish="stop")[:-3] + f',"deep":{deep}}}\n\n'.encode()
    assert merged(first + TWO + finish("length") + DONE).data == (
        first + TWO + finish("length") + DONE
    )


# --- several choices ------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    ("events", "left"),
    [
        pytest.param(
            [STOP, finish("stop", choice=1), ONE, text(choice=1), finish("length", choice=1), STOP],
            [ONE, text(choice=1), finish("length", choice=1), STOP],
            id="both go on",
        ),
        pytest.param(
            [STOP, USAGE, text(choice=1), finish("stop", choice=1), DONE],
            [text(choice=1), STOP, USAGE, finish("stop", choice=1), DONE],
            id="one goes on",
        ),
        pytest.param(
            [finish("stop", choice=1), STOP, USAGE, ONE, STOP, DONE],
            [ONE, finish("stop", choice=1), USAGE, STOP, DONE],
            id="one waits",
        ),
        pytest.param(
            [finish("stop", choice=1), ROLE, ONE, STOP, DONE],
            [ROLE, ONE, finish("stop", choice=1), STOP, DONE],
            id="one begins",
        ),
        pytest.param(
            [STOP, ONE, finish("stop", choice=1), ROLE, TWO, STOP, DONE],
            [ONE, ROLE, TWO, finish("stop", choice=1), STOP, DONE],
            id="one goes on behind the other",
        ),
    ],
)
def test_choices_end_each_by_itself(
    events: list[bytes], left: list[bytes], sizes: tuple[int, ...]
) -> None:
    assert merged(b"".join(events), sizes).data == b"".join(left)


def test_a_chunk_that_finishes_two_choices_keeps_the_finish_of_one() -> None:
    both: list[Json] = [{"index": i, "delta": {}, "finish_reason": "stop"} for i in (0, 1)]
    one = [{**both[0], "finish_reason": None}, both[1]]
    body = sse({"id": "c", "choices": both}) + TWO + STOP + DONE
    assert merged(body).data == TWO + sse({"id": "c", "choices": one}) + STOP + DONE


# --- what is kept back, and for how long ----------------------------------------------------------


@pytest.mark.parametrize(
    "piece",
    [
        PING,
        b"event: note\ndata: 1\n\n",
        b"event: note\ndata: {}\n\n",
        text(choice=1),
        native(tool="_silent"),
        b"id: 7\n\n",
        b"data: x" + 3000 * b"x" + b"\n\n",
    ],
)
def test_what_is_no_part_of_the_answer_passes_at_once(piece: bytes) -> None:
    pipeline = make(DIALECTS["off"], merge_rounds=True, max_event_bytes=2000)
    assert pipeline.feed(ONE + STOP, 0.0).data == ONE
    assert pipeline.feed(piece, 0.0).data.startswith(piece[:-3])


def test_our_frames_do_not_wait() -> None:
    pipeline = make(DIALECTS["comment"], merge_rounds=True)
    assert b'"running"' in pipeline.feed(CALL + finish(), 0.0).data
    assert b'"completed"' in pipeline.feed(RESULT, 0.0).data
    assert pipeline.feed(STOP, 0.0).data == b""
    running, rest = pipeline.feed(native(), 0.0).data, pipeline.feed(DONE, 0.0).data
    assert b'"running"' in running
    assert rest.index(b'"completed"') < rest.index(STOP + DONE)


@pytest.mark.parametrize(
    "error", [ERROR, sse("oops", "error"), sse({"message": "x"}, "error"), chunk(error={"code": 1})]
)
@pytest.mark.parametrize("sizes", _SIZES)
def test_an_error_stands_behind_what_was_kept_back(error: bytes, sizes: tuple[int, ...]) -> None:
    assert (
        merged(ONE + STOP + USAGE + error + PING, sizes).data == ONE + STOP + USAGE + error + PING
    )


@pytest.mark.parametrize("tail", [b"", TWO[:20]])
def test_an_abort_releases_what_was_kept_back(tail: bytes) -> None:
    pipeline = make(DIALECTS["off"], merge_rounds=True)
    assert pipeline.feed(ONE + STOP + USAGE + tail, 0.0).data == ONE
    assert pipeline.abort("timeout", 0.0, error=ERROR).data == STOP + USAGE + ERROR + tail


@pytest.mark.parametrize("sizes", _SIZES)
def test_the_end_releases_what_was_kept_back(sizes: tuple[int, ...]) -> None:
    for last in (STOP, STOP[:-1], STOP[:-2]):
        assert merged(ONE + last, sizes).data == ONE + last


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("end", [TWO[:-1], TWO[:-2]])
def test_a_finish_that_comes_back_closes_what_is_unclosed(
    end: bytes, sizes: tuple[int, ...]
) -> None:
    assert merged(ONE + STOP + end, sizes).data == ONE + TWO + STOP


@pytest.mark.parametrize("sizes", _SIZES)
def test_events_on_a_line_each(sizes: tuple[int, ...]) -> None:
    body = b"".join(piece[:-1] for piece in (ONE, ONE, STOP, TWO, STOP, DONE))
    assert merged(body, sizes).data == b"".join(p[:-1] for p in (ONE, ONE, TWO, STOP, DONE))
    framed = play(body[: -len(STOP + DONE) + 2] + CALL[:-1] + body[-len(STOP + DONE) + 2 :], sizes)
    assert framed.counts.failure is None


def test_a_frame_behind_a_finish_that_is_kept_back_closes_the_event_before_it() -> None:
    line = [piece[:-1] for piece in (ONE, CALL, STOP, DONE)]
    played = play(b"".join(line), merge_rounds=True)
    one, head, stop, done = line
    running, completed = played.frames
    assert played.data == one + head + b"\n" + running + completed + stop + done


def test_only_so_much_is_kept_back() -> None:
    bare = sse({"choices": [], "usage": {}, "pad": ""})
    padding = "x" * ((1 << 20) - len(STOP + bare))
    usage = sse({"choices": [], "usage": {}, "pad": padding})
    assert len(STOP + usage) == 1 << 20
    pipeline = make(DIALECTS["off"], merge_rounds=True)
    assert pipeline.feed(STOP + usage, 0.0).data == b""
    assert pipeline.feed(ROLE, 0.0).data == STOP + usage + ROLE
    assert pipeline.feed(TWO, 0.0).data == TWO


def test_only_so_many_finishes_are_kept_back() -> None:
    stops = [finish("stop", choice=number) for number in range(65)]
    pipeline = make(DIALECTS["off"], merge_rounds=True)
    assert pipeline.feed(b"".join(stops[:-1]), 0.0).data == b""
    assert pipeline.feed(stops[-1], 0.0).data == b"".join(stops)


def test_what_is_kept_back_is_counted_anew_when_it_is_written() -> None:
    stop = finish("stop", pad="x" * (3 << 18))
    body = 5 * (ONE + stop) + DONE
    assert merged(body).data == 5 * ONE + stop + DONE


def test_holding_is_told() -> None:
    kept = rounds.FinishMerger()
    assert kept.pass_on(parsing.Event(STOP, b"", STOP[6:-2])) == b""
    assert kept.holds
    assert kept.release() == STOP
    assert not kept.holds


# --- the laws -------------------------------------------------------------------------------------

_choices = st.sampled_from([0, 0, 1])
_parts = st.one_of(
    st.builds(lambda c: text("t", choice=c), _choices),
    st.builds(lambda c: calls(call(0, "a", "f", "{}"), choice=c), _choices),
    st.sampled_from([PING, ROLE, RESULT, native(), native("completed"), sse("{broken"), USAGE]),
)
_inner = st.builds(
    lambda c, reason, delta: chunk(delta, finish=reason, choice=c),
    _choices,
    st.sampled_from(["stop", "tool_calls"]),
    st.sampled_from([{}, {}, {"content": "x"}]),
)
_lasts = st.sampled_from(
    [b"", STOP, STOP + finish("stop", choice=1), finish("length", choice=1) + IDLE, STOP + USAGE]
)
_ends = st.sampled_from([DONE, DONE, b"", DONE[:-2], b"data: {", ERROR])
_sizes = st.sampled_from([WHOLE, BYTEWISE, (7,), (100, 3)])


@given(st.lists(_parts, max_size=8), _lasts, _ends, _sizes)
def test_without_an_inner_finish_no_byte_changes(
    parts: list[bytes], lasts: bytes, end: bytes, sizes: tuple[int, ...]
) -> None:
    body = b"".join(parts) + lasts + end
    assert merged(body, sizes).data == body


@given(st.lists(st.one_of(_parts, _inner), max_size=10), _ends, _sizes)
def test_one_finish_for_each_choice_behind_all_it_says(
    parts: list[bytes], end: bytes, sizes: tuple[int, ...]
) -> None:
    parts = [part for part in parts if b"{broken" not in part]
    body = b"".join(parts) + end
    played = merged(body, sizes)
    assert played.told == play(body, sizes).told
    for choice in (0, 1):
        before = [reason for index, reason in finishes(body) if index == choice]
        after = [reason for index, reason in finishes(played.data) if index == choice]
        if end != ERROR:
            assert after[-1:] == before[-1:]
        seen = [(k, v) for i, k, v in said(body) if i == choice]
        assert [(k, v) for i, k, v in said(played.data) if i == choice] == seen
        over = False
        for one in chunks(played.data):
            for entry in one["choices"]:
                if entry["index"] == choice:
                    assert not (
                        over and any(entry["delta"].get(k) for k in ("content", "tool_calls"))
                    )
                    over = over or bool(entry["finish_reason"])


@given(st.lists(st.one_of(_parts, _inner), max_size=10), _ends, _sizes)
def test_the_output_does_not_depend_on_the_segmentation(
    parts: list[bytes], end: bytes, sizes: tuple[int, ...]
) -> None:
    body = b"".join(parts) + end
    assert merged(body, sizes).data == merged(body).data
