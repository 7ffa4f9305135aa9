"""Faults: what they do to a body, however it comes; which exchange they hit; how they are set."""

import tomllib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifecycle_proxy.faults.plan import KINDS, Fault, FaultPlan, FaultPolicy, FaultSettings
from lifecycle_proxy.faults.transform import Action, Delay, Disconnect, Forward
from lifecycle_proxy.replay.faults import apply
from lifecycle_proxy.replay.schedule import Schedule

from tests.fakes import DONE, text

A, B, C = text("a"), text("bé"), text("c")
COMMENT = b": keep-alive\n\n"
STREAM = A + COMMENT + B.replace(rb"\u00e9", "é".encode()) + C + DONE
GARBAGE = b"<<< this line is no event >>>\n"


def plan(kind: str, **parameters: Any) -> FaultPlan:
    return FaultPlan((Fault(kind, **parameters),))


def fed(one: FaultPlan, *chunks: bytes) -> list[Action]:
    live = one.live()
    actions = [action for chunk in chunks for action in live.feed(chunk, 0.0)]
    return actions + live.eof(0.0)


def sent(actions: list[Action]) -> bytes:
    return b"".join(action.data for action in actions if isinstance(action, Forward))


def scheduled(*pieces: tuple[float, bytes], length: int | None = None) -> Schedule:
    headers = [("Content-Type", "text/event-stream")]
    if length is not None:
        headers.append(("content-length", str(length)))
    end_ms = pieces[-1][0] if pieces else 5.0
    return Schedule("x", 200, "OK", tuple(headers), 5.0, pieces, "eof", end_ms)


def with_end(end: str) -> list[Action]:
    return [Disconnect(end)]  # type: ignore[arg-type]


# --- bodies -------------------------------------------------------------------------------------

SPLIT = STREAM.index("é".encode()) + 1
BODIES: list[tuple[FaultPlan, bytes, list[Action]]] = [
    (plan("cut_at_byte", byte=7), STREAM[:7], with_end("cut")),
    (plan("cut_at_byte", byte=0), b"", with_end("cut")),
    (plan("cut_at_byte", byte=len(STREAM)), STREAM, with_end("cut")),
    (plan("cut_at_byte", byte=len(STREAM) + 1), STREAM, []),
    (plan("reset", byte=9), STREAM[:9], with_end("reset")),
    (plan("cut_inside_character"), STREAM[:SPLIT], with_end("cut")),
    (plan("drop_done"), STREAM.removesuffix(DONE), []),
    (plan("duplicate_chunk"), A + STREAM, []),
    (plan("duplicate_chunk", frame=4), STREAM + DONE, []),
    (plan("duplicate_chunk", frame=5), STREAM, []),
    (plan("garbage_line"), GARBAGE + STREAM, []),
    (plan("garbage_line", frame=2, text="?"), STREAM.replace(COMMENT, COMMENT + b"?\n"), []),
    (plan("stall", frame=2), A + COMMENT, with_end("stall")),
    (plan("stall", frame=2, ms=50), STREAM, [Delay(50)]),
    (plan("stall", frame=9), STREAM, []),
    (plan("latency", ms=50), STREAM, []),
]


@pytest.mark.parametrize("case", BODIES, ids=lambda case: "-".join(map(str, case[0].kinds)))
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_fault_hits_the_same_place_however_the_bytes_come(
    case: tuple[FaultPlan, bytes, list[Action]], data: st.DataObject
) -> None:
    one, body, others = case
    cuts = sorted(data.draw(st.sets(st.integers(1, len(STREAM) - 1), max_size=8)))
    chunks = [STREAM[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    actions = fed(one, *chunks)
    assert sent(actions) == body
    assert [action for action in actions if not isinstance(action, Forward)] == others


def test_without_a_fault_of_the_frames_bytes_leave_as_they_came() -> None:
    chunk = STREAM[:11]
    (action,) = plan("cut_at_byte", byte=99).live().feed(chunk, 0.0)
    assert isinstance(action, Forward)
    assert action.data is chunk


def test_behind_a_break_nothing_comes() -> None:
    live = plan("reset", byte=1).live()
    assert live.feed(b"ab", 0.0) == [Forward(b"a"), Disconnect("reset")]
    assert live.is_broken
    assert live.feed(b"c", 0.0) == []
    assert live.eof(0.0) == []


def test_the_first_of_several_breaks_counts() -> None:
    both = FaultPlan((Fault("cut_at_byte", byte=5), Fault("reset", byte=2), Fault("reset", byte=9)))
    assert fed(both, b"abcdef") == [Forward(b"ab"), Disconnect("reset")]


def test_bytes_are_counted_as_the_client_gets_them() -> None:
    both = FaultPlan((Fault("garbage_line", text="???"), Fault("cut_at_byte", byte=6)))
    assert fed(both, STREAM) == [Forward(b"???\nda"), Disconnect("cut")]


def test_a_body_without_large_characters_is_not_cut_inside_one() -> None:
    assert fed(plan("cut_inside_character"), b"plain") == [Forward(b"plain")]


def test_a_body_that_is_no_stream_is_one_frame() -> None:
    assert fed(plan("stall", ms=3), b'{"a":', b"1}") == [Delay(3), Forward(b'{"a":1}')]
    assert fed(plan("duplicate_chunk"), b'{"a":1}') == [Forward(b'{"a":1}')]


def test_an_event_without_its_blank_line_comes_twice_as_two() -> None:
    assert sent(fed(plan("duplicate_chunk"), b"data: 1")) == b"data: 1\n\ndata: 1"


def test_a_frame_above_the_limit_is_one_frame() -> None:
    large = b"data: " + b"x" * (9 << 20) + b"\n\n"
    actions = fed(plan("garbage_line", frame=2), large[: 5 << 20], large[5 << 20 :], b"data: 2\n\n")
    assert sent(actions) == large + GARBAGE + b"data: 2\n\n"


def test_a_slow_drip_keeps_its_pace_over_reads() -> None:
    live = plan("slow_drip", size_bytes=2, ms=125).live()
    assert live.feed(b"abc", 1.0) == [Forward(b"ab"), Delay(125), Forward(b"c")]
    # That went out at 1.125; the next may at 1.25, and one that comes much later at once.
    assert live.feed(b"d", 1.1875) == [Delay(62.5), Forward(b"d")]
    assert live.feed(b"e", 9.0) == [Forward(b"e")]


# --- schedules ----------------------------------------------------------------------------------


def test_a_plan_without_faults_changes_nothing() -> None:
    before = scheduled((10.0, A), (20.0, B))
    assert apply(FaultPlan(), before) == before
    assert not FaultPlan()


def test_latency_moves_everything() -> None:
    after = apply(plan("latency", ms=100), scheduled((10.0, A), (20.0, B)))
    assert (after.head_ms, after.end_ms) == (105.0, 120.0)
    assert after.pieces == ((110.0, A), (120.0, B))


def test_a_stall_delays_what_would_have_come_meanwhile() -> None:
    before = scheduled((10.0, A), (20.0, B), (30.0, C), (500.0, DONE))
    after = apply(plan("stall", frame=2, ms=100), before)
    assert after.pieces == ((10.0, A), (120.0, B), (120.0, C), (500.0, DONE))
    assert after.end == "eof"


def test_a_stall_for_ever_is_silence() -> None:
    after = apply(plan("stall", frame=2), scheduled((10.0, A), (20.0, B)))
    assert (after.pieces, after.end, after.end_ms) == (((10.0, A),), "timeout", 20.0)


def test_a_cut_schedule_keeps_its_length() -> None:
    before = scheduled((10.0, b"abc"), (20.0, b"def"), length=6)
    after = apply(plan("cut_at_byte", byte=4), before)
    assert (after.pieces, after.end) == (((10.0, b"abc"), (20.0, b"d")), "cut")
    assert after.header("Content-Length") == "6"


def test_a_cut_before_the_body_comes_with_the_head() -> None:
    after = apply(plan("cut_at_byte", byte=0), scheduled((90.0, A)))
    assert (after.pieces, after.end, after.end_ms) == ((), "cut", 5.0)


@pytest.mark.parametrize("kind", ["drop_done", "duplicate_chunk", "garbage_line"])
def test_a_length_that_would_be_wrong_is_left_out(kind: str) -> None:
    after = apply(plan(kind), scheduled((10.0, STREAM), length=len(STREAM)))
    assert not after.header("Content-Length")
    assert b"".join(data for _, data in after.pieces) != STREAM


def test_a_recorded_reset_stays_one() -> None:
    before = scheduled((10.0, A[:5]))
    broken = Schedule("x", 200, "OK", (), 5.0, before.pieces, "reset", 40.0)
    after = apply(plan("garbage_line", frame=9), broken)
    assert (after.pieces, after.end, after.end_ms) == (((10.0, A[:5]),), "reset", 40.0)


@pytest.mark.parametrize(
    ("one", "status", "reason"),
    [
        (plan("status_429", retry_after_s=7), 429, "Too Many Requests"),
        (plan("status_500"), 500, "Internal Server Error"),
        (plan("error_200"), 200, "OK"),
    ],
)
def test_an_error_answers_instead(one: FaultPlan, status: int, reason: str) -> None:
    after = apply(one, scheduled((10.0, A), (900.0, B)))
    ((ms, body),) = after.pieces
    assert (after.status, after.reason, after.end) == (status, reason, "eof")
    assert (ms, after.end_ms) == (5.0, 5.0)
    assert set(msgspec.json.decode(body)["error"]) == {"message", "type", "param", "code"}
    assert after.header("content-length") == str(len(body))
    assert after.header("content-type") == "application/json"
    assert after.header("retry-after") == ("7" if status == 429 else "")


def test_an_error_can_drip_too() -> None:
    both = FaultPlan((Fault("status_500"), Fault("slow_drip", size_bytes=1000, ms=1)))
    assert apply(both, scheduled()).status == 500
    assert both.kinds == ("status_500", "slow_drip")


def test_the_upstream_is_not_asked_for_what_is_answered_instead() -> None:
    assert plan("stall").answer is None
    answer = plan("status_429").answer
    assert answer is not None
    assert ("Retry-After", "1") in answer.headers


# --- chance -------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_faults() -> None:
    rules = [Fault("status_500", 0.5), Fault("drop_done", 0.5)]
    numbers = range(50)
    forth = [FaultPolicy(rules, 7).sample(n) for n in numbers]
    back = [FaultPolicy(rules, 7).sample(n) for n in reversed(numbers)]
    assert forth == back[::-1]
    assert forth != [FaultPolicy(rules, 8).sample(n) for n in numbers]
    assert {one.kinds for one in forth} == {
        (),
        ("status_500",),
        ("drop_done",),
        ("status_500", "drop_done"),
    }


def test_the_faults_of_a_seed_are_these_for_ever() -> None:
    picked = FaultPolicy([Fault("status_500", 0.3)], 1)
    assert [n for n in range(1, 13) if picked.sample(n)] == [3, 4, 5, 7, 8, 9, 11, 12]


def test_probability() -> None:
    always, never = FaultPolicy([Fault("drop_done")]), FaultPolicy([Fault("drop_done", 0.0)])
    assert all(always.sample(f"key {n}") for n in range(100))
    assert not any(never.sample(n) for n in range(100))
    hits = sum(bool(FaultPolicy([Fault("drop_done", 0.2)]).sample(n)) for n in range(2000))
    assert 300 < hits < 500


# --- settings -----------------------------------------------------------------------------------


def load(toml: str) -> FaultSettings:
    return msgspec.convert(tomllib.loads(toml), FaultSettings)


def test_settings() -> None:
    toml = """
        seed = 4
        [[rules]]
        kind = "stall"
        frame = 3
        [[rules]]
        kind = "status_429"
        probability = 0.1
        retry_after_s = 0
    """
    loaded = load(toml)
    assert loaded.seed == 4
    assert loaded.rules == [Fault("stall", frame=3), Fault("status_429", 0.1, retry_after_s=0)]
    assert load("") == FaultSettings(seed=1, rules=[])


REFUSED = [
    ('kind = "stal"', "unknown fault 'stal' (did you mean stall? known are latency, stall, "),
    ('kind = "nonsense"', f"(known are {', '.join(KINDS)})"),
    ('kind = "stall"\nbyte = 1', "stall has no byte (it takes frame, ms)"),
    ('kind = "drop_done"\nms = 1', "drop_done has no ms (it takes no parameters)"),
    ('kind = "latency"', "latency needs ms"),
    ('kind = "garbage_line"\ntext = "a\\nb"', "text is not one printable line"),
    ('kind = "stall"\nframe = 0', ">= 1"),
    ('kind = "stall"\nms = -1', ">= 0"),
    ('kind = "stall"\nms = nan', ">= 0"),
    ('kind = "stall"\nms = inf', "<= 86400000"),
    ('kind = "stall"\nprobability = 1.5', "<= 1"),
    ('kind = "stall"\nfame = 2', "unknown field `fame`"),
    ("frame = 1", "missing required field `kind`"),
]


@pytest.mark.parametrize(("rule", "problem"), REFUSED)
def test_refused_with_the_place(rule: str, problem: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        load(f"[[rules]]\n{rule}")
    assert problem in str(refused.value)
    assert "$.rules[0]" in str(refused.value)
