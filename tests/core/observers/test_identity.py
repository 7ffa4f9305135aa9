"""Which call does a delta belong to: a case for each backend of the field, and each rule."""

import pytest

from tests.core import BYTEWISE, DONE, WHOLE, call, calls, finish, pairs, play, sse, text

_SIZES = [WHOLE, BYTEWISE]

# Who, its chunks, and of each call the id, the name and the arguments that it ends up with.
CASES: list[tuple[str, list[bytes], list[str]]] = [
    (
        "openai",
        [calls(call(0, "a", "f")), calls(call(0, arguments="{")), calls(call(0, arguments="}"))],
        ["a f {}"],
    ),
    (
        "openai, interleaved",
        [
            calls(call(0, "a", "f"), call(1, "b", "g")),
            calls(call(0, arguments="[")),
            calls(call(1, arguments="{")),
            calls(call(1, arguments="}"), call(0, arguments="]")),
        ],
        ["a f []", "b g {}"],
    ),
    (
        "ollama: index 0 for all",
        [calls(call(0, i, "f", f"[{i}]")) for i in "123"],
        ["1 f [1]", "2 f [2]", "3 f [3]"],
    ),
    (
        "gemini converters: index 0 for all, another name, unfinished arguments",
        [calls(call(0, "a", "f", "{")), calls(call(0, "b", "g", "{}"))],
        ["a f {", "b g {}"],
    ),
    (
        "lm studio: a fresh id on every delta",
        [
            calls(call(0, "a", "f")),
            calls(call(0, "b", "", "{")),
            calls(call(0, "c", None, "}")),
        ],
        ["a f {}"],
    ),
    (
        "mlx-openai-server: a fresh id and the name on every delta",
        [calls(call(0, i, "f", piece)) for i, piece in zip("abc", '{"}', strict=True)],
        ['a f {"}'],
    ),
    (
        "dashscope: id and name empty later",
        [calls(call(0, "a", "f")), calls(call(0, "", "", "{}"))],
        ["a f {}"],
    ),
    (
        "mistral: the string null as id later",
        [calls(call(0, "a", "f")), calls(call(0, "null", "", "{}"))],
        ["a f {}"],
    ),
    (
        "mistral: no index, whole calls",
        [calls(call(None, "a", "f", "{}"), call(None, "b", "g", "{}"), finish="tool_calls")],
        ["a f {}", "b g {}"],
    ),
    (
        "gemini: no index, fragments",
        [calls(call(None, "a", "f")), calls(call(None, None, None, "{")), calls(call(None, None))],
        ["a f {"],
    ),
    (
        "gemini: no index, one call a chunk",
        [calls(call(None, "a", "f", "{}")), calls(call(None, "b", "f", "{}"))],
        ["a f {}", "b f {}"],
    ),
    (
        "early ollama: neither index nor id",
        [calls(call(None, None, "f", "{}")), calls(call(None, None, "f", "{}"))],
        ["made_1 f {}", "made_2 f {}"],
    ),
    (
        "sglang: neither index nor id, no arguments yet",
        [calls(call(None, None, "f")), calls(call(None, None, "f", "{}"))],
        ["made_2 f f", "made_1 f {}"],
    ),
    (
        "neither index nor id, the name in every delta",
        [calls(call(None, None, "f", "{")), calls(call(None, None, "f", "}"))],
        ["made_1 f {}"],
    ),
    (
        "vllm with a named tool_choice: no id, the name in every delta",
        [calls(call(0, None, "f", p)) for p in ("", "{", "}", "")],
        ["made_1 f {}"],
    ),
    (
        "no id, a name with complete arguments before it",
        [calls(call(0, None, "f", "{}")), calls(call(0, None, "f", "[]"))],
        ["made_1 f {}", "made_2 f []"],
    ),
    (
        "gemini via gateways: the name in pieces",
        [calls(call(0, "a", "edit_ex")), calls(call(0, None, "isting", "{}"))],
        ["a edit_ex {}"],
    ),
    (
        "no id and index, another name",
        [calls(call(0, None, "f", "{}")), calls(call(0, None, "g", "[]"))],
        ["made_1 f {}", "made_2 g []"],
    ),
    (
        "vmlx: the name later",
        [calls(call(0, "a", "")), calls(call(0, "a", "f")), calls(call(0, None, None, "{}"))],
        ["a f {}"],
    ),
    (
        "gateways: the name first, the id later",
        [calls(call(0, None, "f")), calls(call(0, "a")), calls(call(0, None, None, "{}"))],
        ["a f {}"],
    ),
    (
        "gateways: an index first, then the rest in pieces",
        [calls(call(0)), calls(call(0, None, "f")), calls(call(0, "a", None, "{}"))],
        ["a f {}"],
    ),
    (
        "gateways: an index only, then id and name",
        [calls(call(0)), calls(call(0, "a", "f", "{}"))],
        ["a f {}"],
    ),
    (
        "gateways: the id after the arguments",
        [calls(call(0, None, "f", "{")), calls(call(0, "a", None, "}"))],
        ["made_1 f {}"],
    ),
    (
        "the waiting call is another one than the one whose id comes",
        [calls(call(0, None, "f", "{")), calls(call(0, "a", "g", "}"))],
        ["made_1 f {", "a g }"],
    ),
    (
        "no index: a named id after a whole call without id",
        [calls(call(None, None, "f", "{}")), calls(call(None, "a", "f", "{}"))],
        ["made_1 f {}", "a f {}"],
    ),
    (
        "tgi: id 0 in every delta",
        [calls(call(0, "0", "f")), calls(call(0, "0", None, "{")), calls(call(0, "0", None, "}"))],
        ["0 f {}"],
    ),
    (
        "kimi: two entries of one call in one delta",
        [calls(call(0, "functions.f:0", "f"), call(0, None, None, "{}"))],
        ["functions.f:0 f {}"],
    ),
    (
        "librechat with bedrock: arguments at another index",
        [calls(call(0, "a", "f")), calls(call(1, None, None, "{}"))],
        ["a f {}"],
    ),
    (
        "sglang with minimax: arguments at an index that nobody has",
        [calls(call(0, "a", "f", "{}")), calls(call(3, None, None, ""))],
        ["a f {}"],
    ),
    (
        "bedrock gateways: indexes from -1, with a jump",
        [calls(call(-1, "a", "f")), calls(call(3, "b", "g")), calls(call(-1, arguments="{}"))],
        ["a f {}", "b g g"],
    ),
    (
        "omniroute: index in the head, then only the id",
        [
            calls(call(0, "a", "f"), call(1, "b", "g")),
            calls(call(None, "a", None, "{}")),
            calls(call(None, "b", None, "[]")),
        ],
        ["a f {}", "b g []"],
    ),
    (
        "an index that is text",
        [
            calls(call("x", "a", "f")),
            calls(call("y", "b", "g")),
            calls(call("x", None, None, "{}")),
        ],
        ["a f {}", "b g g"],
    ),
    (
        "an index of no use",
        [calls(call(True, "a", "f")), calls(call(1.5, None, None, "{}"))],
        ["a f {}"],
    ),
    (
        "chatgpt.com: the call repeated",
        [calls(call(0, "a", "f", "{}")), calls(call(0, "a", "f", ""))],
        ["a f {}"],
    ),
    (
        "a late id of a call that is finished belongs to a new call",
        [calls(call(0, None, "f", "{}"), finish="stop"), calls(call(0, "a", "f", "[]"))],
        ["made_1 f {}", "a f []"],
    ),
    (
        "a late delta of a call that is finished",
        [calls(call(0, "a", "f", "{}"), finish="stop"), calls(call(0, None, None, "x"))],
        ["a f {}"],
    ),
    (
        "no id: a name after the finish",
        [calls(call(0, None, "f", "{"), finish="stop"), calls(call(0, None, "f", "{}"))],
        ["made_1 f {", "made_2 f {}"],
    ),
    (
        "librechat agents: the next step at the same index",
        [calls(call(0, "a", "f", "{}")), text(), calls(call(0, "b", "f", "{}"))],
        ["a f {}", "b f {}"],
    ),
]


@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(("body", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_every_delta_finds_its_call(
    body: list[bytes], expected: list[str], sizes: tuple[int, ...]
) -> None:
    played = play(b"".join(body) + finish() + DONE, sizes)
    assert pairs(played) == expected
    assert len(played.events) == 2 * len(expected)


def _chunk(chunk_id: str, *entries: object, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"tool_calls": entries}, "finish_reason": finish}
    return sse({"id": chunk_id, "choices": [choice]})


def test_an_id_that_returns_under_another_chunk_id_is_a_new_call() -> None:
    rounds = [_chunk(c, call(0, "f:0", "f", "{}"), finish="tool_calls") for c in ("c1", "c2")]
    assert pairs(play(b"".join(rounds) + DONE)) == ["f:0 f {}", "f:0 f {}"]


def test_an_id_that_returns_under_the_same_chunk_id_is_a_repetition() -> None:
    twice = 2 * _chunk("c1", call(0, "f:0", "f"), finish="tool_calls")
    assert pairs(play(twice + DONE)) == ["f:0 f f"]


@pytest.mark.parametrize("reason", [None, "tool_calls"])
def test_a_repetition_adds_nothing_to_the_arguments(reason: str | None) -> None:
    twice = 2 * _chunk("c1", call(0, "a", "f", "{}"), finish=reason)
    assert pairs(play(twice + finish() + DONE)) == ["a f {}"]


def test_an_id_that_returns_after_its_result_is_a_new_call() -> None:
    head = calls(call(0, "a", "f", "{}"))
    result = sse({"choices": [{"delta": {"role": "tool", "tool_call_id": "a", "content": "x"}}]})
    assert pairs(play(head + result + head + DONE)) == ["a f {}", "a f {}"]


def test_two_calls_of_one_id_without_an_index() -> None:
    two = calls(call(None, "a", "f", "{}")) + calls(call(None, "a", "g", "[]"))
    assert pairs(play(two + finish() + DONE)) == ["a f {}", "made_1 g []"]


def test_an_id_that_returns_without_a_name_is_no_new_call() -> None:
    body = _chunk("c1", call(0, "a", "f"), finish="stop") + _chunk("c2", call(0, "a"))
    assert pairs(play(body + DONE)) == ["a f f"]


def test_a_new_call_never_ends_the_one_before() -> None:
    body = calls(call(0, "a", "f", "{}")) + calls(call(0, "b", "g", "{}"))
    assert play(body).told[:2] == ["running a f", "running b g"]


def test_choices_are_independent() -> None:
    body = calls(call(0, "a", "f")) + calls(call(0, "a", "g"), choice=1) + finish(choice=1) + text()
    assert play(body).told == [
        "running a f",
        "running a/1 g",
        "completed a/1 g ok",
        "completed a f cut:upstream_eof",
    ]


def test_two_calls_of_one_id_need_no_index() -> None:
    first, second = call(None, "a", "f", '{"x":1}'), call(None, "a", "g", '{"x":2}')
    played = play([calls(first), calls(second), finish(), DONE])
    assert [pair.split()[1:] for pair in pairs(played)] == [["f", '{"x":1}'], ["g", '{"x":2}']]
