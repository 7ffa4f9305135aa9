"""The events of Hermes' runs as pieces."""

from typing import Any

import pytest
from lifecycle_proxy.core.agents.hermes import HermesReader
from lifecycle_proxy.core.agents.pieces import CallBegun, CallEnded, Piece, Said, Thought
from lifecycle_proxy.core.events import Outcome


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"event": kind, "run_id": "run_1", **fields}


def started(tool: str, **more: Any) -> dict[str, Any]:
    return event("tool.started", tool=tool, **more)


def completed(tool: str, **more: Any) -> dict[str, Any]:
    return event("tool.completed", tool=tool, **more)


def read(*events: Any) -> list[Piece]:
    reader = HermesReader("r")
    return [piece for one in events for piece in reader.read(one)]


def ids(pieces: list[Piece]) -> list[str]:
    return [one.id for one in pieces if isinstance(one, CallBegun | CallEnded)]


def test_calls_of_one_tool_end_in_the_order_of_their_beginnings() -> None:
    pieces = read(
        started("read_file", preview="a.txt"),
        started("read_file", preview="b.txt"),
        started("terminal"),
        completed("read_file", error=True),
        completed("terminal", error=False),
        completed("read_file"),
    )
    assert pieces == [
        CallBegun("r-1", "read_file", '{"preview": "a.txt"}'),
        CallBegun("r-2", "read_file", '{"preview": "b.txt"}'),
        CallBegun("r-3", "terminal", "{}"),
        CallEnded("r-1", Outcome.FAILED),
        CallEnded("r-3", Outcome.OK),
        CallEnded("r-2", Outcome.OK),
    ]


@pytest.mark.parametrize("key", ["tool_call_id", "toolCallId"])
def test_ids_of_a_newer_version(key: str) -> None:
    first, second = {key: "call_1"}, {key: "call_2"}
    pieces = read(
        started("terminal", **first),
        started("terminal", **first),
        started("terminal", **second),
        completed("terminal", **second),
        completed("terminal", **first),
        completed("terminal", **first),
    )
    assert ids(pieces) == ["call_1", "call_2", "call_2", "call_1"]


def test_reasoning_that_repeats_the_text_is_left_out() -> None:
    delta, known = event("message.delta", delta="\n\nSo "), "reasoning.available"
    pieces = read(delta, event(known, text="So"), event(known, text="Because"), event(known))
    assert pieces == [Said("\n\nSo "), Thought("Because")]


def test_the_text_of_a_round_before_a_call_is_another_ones() -> None:
    said, call = event("message.delta", delta="So"), started("terminal")
    thought = event("reasoning.available", text="So")
    assert read(said, call, thought)[-1] == Thought("So")


def test_an_answer_that_was_not_streamed() -> None:
    assert read(event("run.completed", output="All.")) == [Said("All.")]
    streamed = event("message.delta", delta="All.")
    assert read(streamed, event("run.completed", output="All.")) == [Said("All.")]
    rounds = read(streamed, started("t"), completed("t"), event("run.completed", output="Then."))
    assert rounds[-1] == Said("Then.")


def test_a_long_round_is_not_kept() -> None:
    piece = event("message.delta", delta="x" * (1 << 20))
    thought = event("reasoning.available", text="x" * (1 << 20) + "y")
    pieces = read(piece, event("message.delta", delta="y"), thought)
    assert [type(one) for one in pieces] == [Said, Said, Thought]


@pytest.mark.parametrize("kind", ["run.completed", "run.failed", "run.cancelled"])
def test_the_end_of_a_run(kind: str) -> None:
    reader = HermesReader("r")
    assert reader.ended is None
    assert list(reader.read(event(kind, error="x"))) == []
    assert reader.ended == event(kind, error="x")


def test_what_is_open_is_ended() -> None:
    reader = HermesReader("r")
    list(reader.read(started("terminal")))
    assert list(reader.finish(Outcome.CANCELLED)) == [CallEnded("r-1", Outcome.CANCELLED)]
    assert list(reader.finish(Outcome.CANCELLED)) == []


def test_an_approval_is_for_the_latest_open_call() -> None:
    reader = HermesReader("r")
    request = event("approval.request", command="rm -rf x", description="deletes", choices=["once"])
    assert reader.asked(request) == (
        "terminal",
        {"command": "rm -rf x", "description": "deletes"},
    )
    reader.denied()
    assert reader.is_asking
    for one in (started("read_file"), started("execute_code")):
        list(reader.read(one))
    assert reader.asked(event("approval.request"))[0] == "execute_code"
    reader.denied()
    assert reader.is_asking
    ended = list(reader.read(completed("execute_code", error=False)))
    assert ended == [CallEnded("r-2", Outcome.FAILED)]
    assert not reader.is_asking


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        [],
        "x",
        {},
        {"event": 3},
        {"event": "of.a.later.version", "tool": "x"},
        started(""),
        started(3),  # type: ignore[arg-type]
        completed("never_begun"),
        event("tool.completed"),
        event("message.delta", delta=None),
        event("message.delta", delta=""),
        event("reasoning.available", text=" "),
    ],
)
def test_nonsense_says_nothing(nonsense: Any) -> None:
    assert read(nonsense) == []
