"""``infer``: what follows a call in its choice ends it, where the backend says no more of it."""

from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.core.events import ToolCompleted

from tests.core import (
    BYTEWISE,
    DONE,
    WHOLE,
    call,
    calls,
    chunk,
    finish,
    native,
    places,
    play,
    text,
)

HEAD = calls(call(0, "a", "f"))
REST = calls(call(0, None, None, '{"q":1}'))
CALL = calls(call(0, "a", "f", "{}"))
INFERRED = ["running a f", "completed a f unknown:inferred"]
_CORPUS = Path(__file__).parents[1] / "corpus"
_SIZES = [WHOLE, (7,), BYTEWISE]


@pytest.mark.parametrize("span", ["call", "execution"])
@pytest.mark.parametrize("sizes", _SIZES)
def test_the_steps_of_an_agent_end_where_the_next_begins(sizes: tuple[int, ...], span: str) -> None:
    body = (_CORPUS / "librechat-agent-steps.sse").read_bytes()
    played = play(body, sizes, infer=True, span=span)
    assert played.told == [
        f"{status} toolu_{number} web_search{reason}"
        for number in (1, 2)
        for status, reason in (("running", ""), ("completed", " unknown:inferred"))
    ]
    events = body.split(b"\n\n")
    behind = [played_at.count(b"\n\n") for played_at in (body[:at] for at in places(played, body))]
    found = [
        number for number, event in enumerate(events) if b'"Found' in event or b'"All' in event
    ]
    heads = [number + 1 for number, event in enumerate(events) if b'"id":"toolu_' in event]
    # span execution waits for the arguments, which the same text ends
    assert behind[1::2] == found
    assert behind[0::2] == (heads if span == "call" else found)


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    "follows",
    [
        text(),
        chunk({"reasoning": "hm"}),
        chunk({"reasoning_content": "hm"}),
        calls(call(0, "b", "_g", "{}")),
    ],
)
def test_what_goes_on_behind_a_call_ends_it(follows: bytes, sizes: tuple[int, ...]) -> None:
    for body in (CALL, HEAD + REST, HEAD):
        assert play(body + follows + DONE, sizes, infer=True).told[:2] == INFERRED


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(
    "follows",
    [
        pytest.param(REST, id="its arguments"),
        pytest.param(text(choice=1), id="another choice"),
        pytest.param(calls(call(0, "b", "_g"), choice=1), id="a call of another choice"),
        pytest.param(calls(call(1, "b", "_g", "{}")), id="a call beside it"),
        pytest.param(chunk({"content": ""}), id="empty text"),
        pytest.param(chunk({"role": "assistant"}), id="a role"),
        pytest.param(chunk({"content": None, "reasoning": ""}), id="no text"),
        pytest.param(b": ping\n\n", id="a comment"),
    ],
)
def test_what_is_no_sign_of_its_end_leaves_it_open(follows: bytes, sizes: tuple[int, ...]) -> None:
    played = play(HEAD + follows + DONE, sizes, infer=True)
    assert "completed a f unknown" in played.told
    assert places(played, HEAD + follows + DONE)[1] == len(HEAD + follows)


def test_parallel_calls_in_one_delta_stay_open() -> None:
    both = calls(call(0, "a", "f", "{}"), call(1, "b", "g", "{}"))
    assert play(both + finish() + DONE, infer=True).told == [
        "running a f",
        "running b g",
        "completed a f ok",
        "completed b g ok",
    ]
    ends = [e for e in play(both + text(), infer=True).events if isinstance(e, ToolCompleted)]
    assert [(e.id, e.reason) for e in ends] == [("a", "inferred"), ("b", "inferred")]


@pytest.mark.parametrize("sizes", _SIZES)
def test_the_upstreams_own_calls_are_ended_by_the_upstream(sizes: tuple[int, ...]) -> None:
    body = native() + text() + CALL + text() + native("completed") + DONE
    assert play(body, sizes, infer=True).told == [
        "running call_n terminal",
        *INFERRED,
        "completed call_n terminal unknown",
    ]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (CALL + finish() + text() + DONE, "ok"),
        (CALL + finish("length") + text() + DONE, "ok:length"),
        (CALL + chunk({"role": "tool", "tool_call_id": "a"}) + text() + DONE, "ok"),
        (CALL + text() + chunk({"role": "tool", "tool_call_id": "a"}) + DONE, "unknown:inferred"),
    ],
)
def test_whatever_is_said_of_a_call_first_counts(body: bytes, told: str) -> None:
    assert play(body, infer=True).told == ["running a f", f"completed a f {told}"]


def test_a_call_without_a_name_is_never_told() -> None:
    assert play(calls(call(0, "a", None, "{}")) + text() + DONE, infer=True).events == []


@pytest.mark.parametrize("options", [{}, {"infer": False}])
def test_without_it_a_call_ends_at_its_finish(options: dict[str, Any]) -> None:
    body = CALL + text() + finish() + DONE
    assert places(play(body, **options), body) == [len(CALL), len(body) - len(DONE)]
