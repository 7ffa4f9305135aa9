"""The upstream's own lifecycle events: answered in their place, or passed; one pair in all."""

import pytest
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.dialects.chunk import plain
from lifecycle_proxy.core.events import NativeProgress, Outcome
from lifecycle_proxy.core.observers.hermes import maybe_progress

from tests.core import BYTEWISE, DONE, WHOLE, call, calls, finish, native, play, text

RUN = native(label="ls -la", emoji="💻")
END = native("completed")
STREAM = text() + RUN + END + text() + DONE
PAIR = ["running call_n terminal", "completed call_n terminal unknown"]
_SIZES = [WHOLE, (7,), BYTEWISE]


@pytest.mark.parametrize("sizes", _SIZES)
def test_native_events_are_answered_in_their_place(sizes: tuple[int, ...]) -> None:
    played = play(STREAM, sizes)
    assert played.told == PAIR
    first, second = played.frames
    assert played.data == text() + first + second + text() + DONE
    assert (played.events[0].label, played.events[0].emoji) == ("ls -la", "💻")


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize("name", ["bare", "off"])
def test_native_events_pass_to_those_who_want_them(name: str, sizes: tuple[int, ...]) -> None:
    played = play(STREAM, sizes, dialect=DIALECTS[name])
    assert played.data == STREAM
    assert played.told == PAIR


@pytest.mark.parametrize("sizes", _SIZES)
def test_native_events_pass_where_they_are_not_to_be_translated(sizes: tuple[int, ...]) -> None:
    played = play(STREAM, sizes, dialect=plain, translate=False)
    assert played.data == STREAM
    assert played.told == PAIR


def test_a_passed_native_call_that_never_ends_is_ended() -> None:
    played = play(RUN, dialect=DIALECTS["bare"])
    assert played.told[1] == "completed call_n terminal cut:upstream_eof"
    end = b'{"tool": "terminal", "toolCallId": "call_n", "status": "completed"}'
    assert played.data == RUN + b"event: hermes.tool.progress\ndata: " + end + b"\n\n"


@pytest.mark.parametrize("sizes", _SIZES)
def test_native_events_and_deltas_of_one_id_are_one_pair(sizes: tuple[int, ...]) -> None:
    head = calls(call(0, "call_n", "terminal", "{}"))
    for body in (
        head + RUN + END + finish(),
        head + finish() + RUN + END,
        RUN + head + END + finish(),
        RUN + END + head + finish(),
    ):
        played = play(body + text() + DONE, sizes)
        assert [line.split()[0] for line in played.told] == ["running", "completed"]
        assert len(played.frames) == 2
        assert b"hermes.tool.progress" not in played.data


def test_a_tool_that_runs_after_the_finish_ends_at_its_native_completed() -> None:
    head = calls(call(0, "call_n", "terminal", "{}"))
    played = play([head + finish(), RUN, text(), END, text()])
    second = played.frames[1]
    assert played.data == head + played.frames[0] + finish() + text() + second + text()


@pytest.mark.parametrize(
    "orphan", [END, native("failed", "other"), native(tool="_secret"), native("done")]
)
@pytest.mark.parametrize(("name", "kept"), [("chunk", False), ("bare", True)])
def test_native_events_of_nobody_are_not_translated(orphan: bytes, name: str, kept: bool) -> None:
    played = play(text() + orphan + text(), dialect=DIALECTS[name])
    assert played.events == []
    assert played.data == text() + (orphan if kept else b"") + text()


@pytest.mark.parametrize(
    "unreadable",
    [
        native(call_id=None),
        native(call_id=""),
        native(call_id=7),
        native(status="queued"),
        native(tool=""),
        native(tool=None),
        b"event: hermes.tool.progress\ndata: [1]\n\n",
        b"event: hermes.tool.progress\ndata: ls -la\n\n",
        b"event: hermes.tool.progress\n\n",
    ],
)
def test_native_events_that_cannot_be_paired_pass(unreadable: bytes) -> None:
    played = play(text() + unreadable + text())
    assert played.events == []
    assert played.data == text() + unreadable + text()


@pytest.mark.parametrize(
    ("status", "fields", "outcome"),
    [
        ("completed", {}, Outcome.UNKNOWN),
        ("completed", {"isError": True}, Outcome.FAILED),
        ("completed", {"isError": "yes"}, Outcome.UNKNOWN),
        ("done", {}, Outcome.UNKNOWN),
        ("success", {}, Outcome.OK),
        ("failed", {}, Outcome.FAILED),
        ("error", {}, Outcome.FAILED),
        ("cancelled", {}, Outcome.CANCELLED),
    ],
)
def test_a_status_tells_the_outcome(
    status: str, fields: dict[str, object], outcome: Outcome
) -> None:
    payload = {"toolCallId": "a", "tool": "f", "status": status, **fields}
    assert maybe_progress(payload) == NativeProgress("a", "f", None, None, outcome)


@pytest.mark.parametrize("status", ["running", "started"])
@pytest.mark.parametrize(("shown", "read"), [("x", "x"), ("", None), (7, None)])
def test_a_running_event_tells_label_and_emoji(
    status: str, shown: object, read: str | None
) -> None:
    payload = {"toolCallId": "a", "tool": "f", "status": status, "label": shown, "emoji": shown}
    assert maybe_progress(payload) == NativeProgress("a", "f", read, read, None)


def test_a_completed_event_needs_no_tool() -> None:
    assert play(RUN + native("completed", tool=None)).told == PAIR


def test_an_unfinished_native_event_is_held_back() -> None:
    played = play([RUN[:20], RUN[20:], END])
    assert b"hermes" not in played.data


def test_a_native_event_that_is_partly_out_passes_and_is_told() -> None:
    late = (
        b'data: {"toolCallId":"a","tool":"f","status":"running"}\nevent: hermes.tool.progress\n\n'
    )
    played = play([late[:30], late[30:]])
    assert played.data.startswith(late)
    assert played.told == ["running a f", "completed a f cut:upstream_eof"]
