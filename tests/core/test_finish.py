"""What a word for an end says of the calls that it ends."""

import pytest
from lifecycle_proxy.core.arguments import Arguments
from lifecycle_proxy.core.events import Outcome
from lifecycle_proxy.core.finish import judge_finish, maybe_failure

from tests.core import DONE, call, calls, finish, play, sse, text


def judged(word: str, arguments: str) -> str:
    made = Arguments()
    made.append(arguments)
    outcome, reason = judge_finish(word, made)
    return outcome.value + (f":{reason}" if reason else "")


@pytest.mark.parametrize("word", ["stop", "tool_calls", "function_call", "TOOL_USE", "end_turn"])
def test_ordinary_words_leave_it_to_the_arguments(word: str) -> None:
    assert judged(word, '{"a":1}') == judged(word, "") == judged(word, "ls") == "ok"
    assert judged(word, '{"a') == "cut:incomplete_arguments"


@pytest.mark.parametrize("word", ["length", "max_tokens", "model_length"])
def test_at_a_limit_a_call_may_have_been_whole(word: str) -> None:
    assert judged(word, '{"a":1}') == f"ok:{word}"
    assert judged(word, '{"a') == judged(word, "") == f"cut:{word}"


@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        ("insufficient_system_resource", "failed"),  # DeepSeek
        ("network_error", "failed"),  # Zhipu
        ("sensitive", "cancelled"),  # Zhipu
        ("abort", "failed"),  # SGLang, vLLM
        ("repetition", "failed"),  # vLLM
        ("terminated", "failed"),
        ("MALFORMED_FUNCTION_CALL", "failed"),  # Gemini
        ("error_finish", "failed"),
        *((word, "cancelled") for word in ("content_filter", "refusal", "cancelled", "canceled")),
        *((word, "cancelled") for word in ("user_cancel", "safety", "recitation", "blocklist")),
        *((word, "cancelled") for word in ("prohibited_content", "spii")),  # Gemini
    ],
)
def test_words_for_failure_beat_whole_arguments(word: str, outcome: str) -> None:
    assert judged(word, '{"a":1}') == judged(word, '{"a') == f"{outcome}:{word}"
    assert maybe_failure(word) == (Outcome(outcome), word)


def test_an_unknown_word_is_the_reason_of_what_it_cut() -> None:
    assert judged("new_word", '{"a') == "cut:new_word"
    assert judged("new_word", '{"a":1}') == "ok"
    assert judged("x" * 100_000, "{") == "cut:" + "x" * 100
    assert maybe_failure("new_word") is maybe_failure("stop") is None


@pytest.mark.parametrize("span", ["call", "execution"])
@pytest.mark.parametrize(
    ("word", "how"),
    [("network_error", "failed:network_error"), ("tool_calls", "cut:incomplete_arguments")],
)
def test_in_a_stream(word: str, how: str, span: str) -> None:
    body = calls(call(0, "a", "f", '{"x')) + finish(word) + DONE
    assert play(body, span=span).told == ["running a f", f"completed a f {how}"]


def test_custom_tools_take_any_text() -> None:
    entry = {"index": 0, "id": "a", "custom": {"name": "f", "input": '{"x'}}
    assert play(calls(entry) + finish() + DONE).told[1] == "completed a f ok"
    assert play(calls(entry) + DONE).told[1] == "completed a f unknown"


@pytest.mark.parametrize(
    "error",
    [
        sse({"object": "error", "message": "died", "code": 500}),
        sse({"choices": [], "x_groq": {"id": "r", "error": "died"}}),
        sse({"choices": [{"index": 0, "delta": {}, "error": {"code": 502}}]}),
        sse({"choices": [{"index": 0, "delta": {"content": ""}, "error": {"code": 502}}]}),
        sse({"success": False, "error": "died"}),
    ],
)
def test_errors_in_other_places(error: bytes) -> None:
    played = play(calls(call(0, "a", "f", "{}")) + error + DONE)
    assert played.told == ["running a f", "completed a f failed:upstream_error"]


@pytest.mark.parametrize(
    "other",
    [
        sse({"choices": [{"index": 0, "delta": {"content": "x"}, "error": None}]}),
        sse({"choices": [{"index": 0, "delta": {"content": "x"}}], "x_groq": {"id": "r"}}),
        sse({"choices": [], "x_groq": "error", "error": None}),
    ],
)
def test_empty_errors_are_none(other: bytes) -> None:
    played = play(calls(call(0, "a", "f", "{}")) + other + text() + finish() + DONE)
    assert played.told[1] == "completed a f ok"
