"""What the end of a conversation tells of the calls that clients ran."""

import time
from typing import Any

import pytest
from lifecycle_proxy.core.followup import (
    NO_CALLS,
    EarlierCalls,
    TrailingCall,
    fingerprint,
    last_calls,
)

USER = {"role": "user", "content": "hi"}
TEXT = {"role": "assistant", "content": "done"}


def said(*call_ids: object, arguments: object = "{}") -> dict[str, Any]:
    calls = [{"id": i, "function": {"name": "f", "arguments": arguments}} for i in call_ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(call_id: object, content: object = "r", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content, **more}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], []),
        ([USER, said("a")], ["a -"]),
        ([said("a"), result("a")], ["a ok"]),
        ([said("a", "b"), result("b")], ["a -", "b ok"]),
        ([said("a"), result("a"), said("a")], ["a ok", "a -"]),
        ([said("a"), said("a"), result("a")], ["a -", "a ok"]),
        ([said("a", "a"), result("a")], ["a -", "a ok"]),
        ([said("a"), result("a", is_error=True)], ["a failed"]),
        ([said("a"), result("a", isError=True)], ["a failed"]),
        ([said("a"), result("a", status="error")], ["a failed"]),
        ([said("a"), result("a", status="ok", is_error=False)], ["a ok"]),
        ([said("a"), result("a"), result("a", is_error=True)], ["a ok"]),
        ([said("a"), {"role": "function", "name": "ls", "content": ""}], ["a -"]),
        ([said("a"), {**result("a"), "role": "user"}], ["a -"]),
        ([said("", 7), result(""), result(7)], []),
        # results alone, and before their calls
        ([USER, result("a")], ["a ok"]),
        ([result("a"), said("b"), result("b")], ["a ok", "b ok"]),
        # only the last turn
        ([said("a"), result("a"), TEXT, USER], []),
        ([said("a"), result("a"), USER, said("b"), result("b")], ["b ok"]),
        ([said("a"), result("a"), TEXT, said("b"), result("b"), USER, USER], ["b ok"]),
        ([said("a"), result("a"), {"role": "assistant", "tool_calls": []}], []),
    ],
)
def test_the_calls_behind_which_nothing_was_said(messages: list[Any], expected: list[str]) -> None:
    def short(call: TrailingCall) -> str:
        return f"{call.id} " + ("failed" if call.failed else "ok" if call.result else "-")

    assert [short(call) for call in last_calls(messages)] == expected


def test_a_fingerprint_is_of_name_and_arguments() -> None:
    assert fingerprint("f", '{"b":1,"a":[1,2]}') == fingerprint("f", ' {"a": [1, 2], "b": 1}')
    assert fingerprint("f", "{}") != fingerprint("g", "{}")
    assert fingerprint("f", '{"a":1}') != fingerprint("f", '{"a":2}')
    assert last_calls([said("a", arguments='{ "x": 1 }')])[0].content == fingerprint("f", '{"x":1}')
    assert last_calls([result("a")])[0].content == ""
    assert fingerprint("f", "\ud800")


@pytest.mark.parametrize("content", ["\ud800", None, [{"type": "text"}], {"a": [1.5, None]}])
def test_any_content_is_a_result(content: object) -> None:
    (call,) = last_calls([said("a"), result("a", content)])
    assert call.result
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    (call,) = last_calls([said("a"), result("a", deep)])
    assert call.result


def test_news_is_one_more_or_another() -> None:
    one, two = TrailingCall("a", "c", "r"), TrailingCall("a", "c", "other")
    assert NO_CALLS.is_news([one])
    earlier = EarlierCalls.of([one])
    assert not earlier.is_news([one])
    assert earlier.is_news([one, one])
    assert earlier.is_news([two])
    assert not EarlierCalls.of([one, two]).is_news([one])


@pytest.mark.unmeasured
def test_the_cost_grows_with_the_size() -> None:
    def seconds(count: int) -> float:
        messages = [m for n in range(count) for m in (said(f"a{n}"), result(f"a{n}"))]
        start = time.process_time()
        assert len(last_calls(messages)) == count
        return time.process_time() - start

    assert min(seconds(8_000) for _ in range(3)) < 40 * min(seconds(1_000) for _ in range(3)) + 0.05
