"""The chunks of a chat stream, put together: equal to what a plain request gets."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_proxy.core import sse
from lifecycle_proxy.core.assembly import Assembler
from lifecycle_proxy.core.merged import Budget, Merged, TooMuchError

from tests.curve import assert_linear
from tests.fakes import DONE, delta, event

HEAD: dict[str, Any] = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "up"}


def assembled(*events: bytes, max_bytes: int = 1 << 20) -> Assembler:
    assembler, parser = Assembler(max_bytes), sse.Parser(max_bytes)
    for one in (*parser.feed(b"".join(events)), *parser.eof()):
        assembler.feed(one)
    return assembler


def result(*events: bytes) -> Any:
    assembler = assembled(*events)
    assert (assembler.problem, assembler.error) == ("", None)
    return json.loads(assembler.result())


def message(*events: bytes) -> Any:
    (choice,) = result(*events)["choices"]
    return choice["message"]


def choices(*entries: Any, **fields: Any) -> bytes:
    return event({**HEAD, "choices": list(entries), **fields})


def part(index: int = 0, finish: Any = None, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": fields, "finish_reason": finish}


def call(index: int | None, call_id: str | None, name: str | None, arguments: str) -> Any:
    own: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    if index is not None:
        own["index"] = index
    if call_id is not None:
        own |= {"id": call_id, "type": "function"}
    return own


def test_text_usage_and_the_fields_beside_the_choices() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    answer = result(
        choices(part(role="assistant", content=""), system_fingerprint="fp", obfuscation="aX"),
        choices(part(content="Hé"), usage=None, obfuscation="b"),
        choices(part(content="llo 💻"), service_tier="default"),
        choices(part(finish="stop")),
        choices(usage=usage),
        DONE,
    )
    assert answer == {
        "id": "c1",
        "object": "chat.completion",
        "created": 7,
        "model": "up",
        "system_fingerprint": "fp",
        "service_tier": "default",
        "usage": usage,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hé" + "llo 💻"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
    }


def test_what_is_said_of_the_stream() -> None:
    usage = {"total_tokens": 1}
    assembler = assembled(choices(part(content="a"), part(1, content="b")), choices(usage=usage))
    assert (assembler.content, assembler.usage) == ("a", usage)
    assert not assembler.is_whole
    assert Assembler().content == ""


@pytest.mark.parametrize(
    ("events", "is_whole"),
    [
        ([], False),
        ([DONE], False),
        ([delta(content="a")], False),
        ([delta(content="a"), DONE], True),
        ([delta(tool_calls=[call(0, "a", "f", "{}")]), DONE], True),
        ([delta(tool_calls=[call(0, "a", "f", '{"x')]), DONE], False),
        ([delta(tool_calls=[call(0, "a", "f", '{"x')]), delta("length")], True),
        ([delta(content="a"), delta("stop")], True),
        ([choices(part(content="a"), part(1, content="b")), delta("stop")], False),
        ([choices(part(content="a"), part(1)), choices(part(0, "stop"), part(1, "stop"))], True),
    ],
)
def test_when_an_answer_is_whole(events: list[bytes], is_whole: bool) -> None:
    assert assembled(*events).is_whole is is_whole


def test_calls_are_told_apart_as_in_the_lifecycle() -> None:
    """Ollama gives each of them the index 0; vLLM no id behind the first piece."""
    own = message(
        choices(part(role="assistant", content="")),
        choices(part(tool_calls=[call(0, "a", "ls", '{"x":'), call(1, "b", "cat", "")])),
        choices(part(tool_calls=[call(0, None, None, "1}")])),
        choices(part(tool_calls=[call(1, None, None, "{}")])),
        choices(part(tool_calls=[call(0, "c", "rm", "{}")])),
        choices(part(finish="tool_calls")),
    )
    assert own == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "ls", "arguments": '{"x":1}'}},
            {"id": "b", "type": "function", "function": {"name": "cat", "arguments": "{}"}},
            {"id": "c", "type": "function", "function": {"name": "rm", "arguments": "{}"}},
        ],
    }


def test_a_custom_call_an_older_call_and_what_else_is_in_a_call() -> None:
    custom = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "sql", "input": "SEL"}}
    more = {"index": 0, "custom": {"input": "ECT"}, "extra": {"google": {"signature": "s"}}}
    assert message(choices(part(tool_calls=[custom])), choices(part(tool_calls=[more])))[
        "tool_calls"
    ] == [
        {
            "id": "a",
            "type": "custom",
            "custom": {"name": "sql", "input": "SELECT"},
            "extra": {"google": {"signature": "s"}},
        }
    ]
    older = message(
        choices(part(role="assistant", content="", function_call={"name": "f", "arguments": ""})),
        choices(part(function_call={"arguments": "{}"})),
        choices(part(finish="function_call")),
    )
    assert older == {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "f", "arguments": "{}"},
    }


def test_a_name_in_pieces() -> None:
    pieces = [call(0, "a", "edit_ex", ""), call(0, None, "isting", ""), call(0, None, "_file", "")]
    last = [call(0, None, "_file", "{}"), call(0, None, "edit_ex", "")]
    events = [choices(part(tool_calls=[piece])) for piece in (*pieces, *last[:1])]
    (own,) = message(*events)["tool_calls"]
    assert own["function"] == {"name": "edit_existing_file", "arguments": "{}"}


def test_a_call_that_broke_off_and_was_tried_again() -> None:
    """Behind the upstream; the second try has another chunk id."""
    again = {"id": "c2", "choices": [part(role="assistant", content="")]}
    own = message(
        choices(part(role="assistant", content="")),
        choices(part(tool_calls=[call(0, "a", "ls", '{"x": "')])),
        event({**HEAD, **again}),
        event({**HEAD, "id": "c2", "choices": [part(tool_calls=[call(0, "b", "cat", "{}")])]}),
        event({**HEAD, "id": "c2", "choices": [part(finish="tool_calls")]}),
    )
    assert [one["id"] for one in own["tool_calls"]] == ["b"]


def test_another_upstream_makes_open_calls_anew() -> None:
    assembler, parser = Assembler(), sse.Parser(1 << 20)
    first = choices(part(content="a", tool_calls=[call(0, "a", "ls", "{}")]))
    second = choices(part(content="b", tool_calls=[call(1, "b", "ls", "{}")]))
    for one in parser.feed(first):
        assembler.feed(one)
    assembler.continues()
    for one in parser.feed(second + choices(part(finish="tool_calls"))):
        assembler.feed(one)
    (choice,) = json.loads(assembler.result())["choices"]
    assert choice["message"]["content"] == "ab"
    assert [one["id"] for one in choice["message"]["tool_calls"]] == ["b"]


def test_a_call_without_an_id_gets_one() -> None:
    (own,) = message(choices(part(tool_calls=[call(None, None, "f", "{}")])))["tool_calls"]
    assert own["id"] == "call_1"


def test_arguments_above_the_limit_are_whole() -> None:
    long = json.dumps({"x": "y" * (1 << 20)})
    events = [
        choices(part(tool_calls=[call(0, "a", "f", piece)])) for piece in (long[:9], long[9:])
    ]
    assembler = assembled(*events, max_bytes=1 << 22)
    (choice,) = json.loads(assembler.result())["choices"]
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == long


def test_pieces_that_belong_to_no_call_are_left_out() -> None:
    assert "tool_calls" not in message(
        choices(part(content="a", tool_calls=[call(None, None, None, "{}")]))
    )


def test_calls_that_ran_behind_the_upstream_are_left_out() -> None:
    own = message(
        choices(part(role="assistant", tool_calls=[call(0, "a", "ls", "{}")])),
        choices(part(role="tool", tool_call_id="a", content="bin\n")),
        choices(
            part(
                content="ok",
                provider_specific_fields={"mcp_tool_calls": [{"id": "b"}], "citation": None},
            )
        ),
        choices(part(provider_specific_fields={"thinking": "hm"})),
        choices(part(tool_calls=[call(1, "c", "cat", "{}")])),
        event({"type": "outputs", "tool_outputs": [{"tool_call_id": "c", "output": "x"}]}),
    )
    assert own == {
        "role": "assistant",
        "content": "ok",
        "provider_specific_fields": {"citation": None, "thinking": "hm"},
    }


def test_several_choices_refusal_reasoning_and_log_probabilities() -> None:
    def probability(token: str) -> dict[str, Any]:
        top = [{"token": token, "logprob": -0.5, "bytes": [104]}]
        return {"token": token, "logprob": -0.5, "bytes": [104], "top_logprobs": top}

    def logged(*tokens: str) -> dict[str, Any]:
        return {"content": [probability(token) for token in tokens], "refusal": None}

    first = part(0, role="assistant", content="", reasoning_content="think")
    answer = result(
        choices(part(1, role="assistant", content="", refusal=None)),
        choices({**first, "logprobs": None}),
        choices({**part(0, content="a"), "logprobs": logged("a")}),
        choices({**part(0, content="b", reasoning_content="ing"), "logprobs": logged("b", "c")}),
        choices(part(1, refusal="I can")),
        choices(part(1, refusal="not")),
        choices(part(1, "stop"), part(0, "length")),
    )
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "ab", "reasoning_content": "thinking"},
            "logprobs": logged("a", "b", "c"),
            "finish_reason": "length",
        },
        {
            "index": 1,
            "message": {"role": "assistant", "content": None, "refusal": "I cannot"},
            "logprobs": None,
            "finish_reason": "stop",
        },
    ]


def test_details_with_an_index_are_merged_and_others_added() -> None:
    details = [{"index": 0, "type": "reasoning.text", "text": "a", "format": "f"}]
    more = [{"index": 0, "text": "b"}, {"index": 1, "type": "reasoning.encrypted", "data": "x"}]
    ran = {"index": 0, "type": "search", "arguments": "{}"}
    own = message(
        choices(part(role="assistant", reasoning_details=details, annotations=[{"url": "u"}])),
        choices(part(reasoning_details=more, annotations=[{"url": "v"}], images=[])),
        choices(part(executed_tools=[ran], reasoning_details=None, images=[])),
        choices(part(executed_tools=[{**ran, "output": "3"}], role="assistant", seed=1)),
        choices(part(audio={"id": "a", "data": "QU"}, role="assistant", seed=2)),
        choices(part(audio={"data": "JD", "expires_at": 9})),
    )
    assert own == {
        "role": "assistant",
        "content": None,
        "reasoning_details": [
            {"index": 0, "type": "reasoning.text", "text": "ab", "format": "f"},
            {"index": 1, "type": "reasoning.encrypted", "data": "x"},
        ],
        "annotations": [{"url": "u"}, {"url": "v"}],
        "images": [],
        "executed_tools": [{**ran, "output": "3"}],
        "seed": 2,
        "audio": {"id": "a", "data": "QUJD", "expires_at": 9},
    }


def test_a_field_may_change_its_type() -> None:
    own = message(
        choices(part(a="x", b={"c": 1}, d=["e"], f=[{"index": 0}])),
        choices(part(a={"y": 1}, b=["z"], d="w", f={"g": 1})),
        choices(part(a=[{"index": 1}], b={"c": 2}, d={}, f=3)),
    )
    assert own == {
        "role": "assistant",
        "content": None,
        "a": [{"index": 1}],
        "b": {"c": 2},
        "d": {},
        "f": 3,
    }


def test_a_message_counts_where_nothing_was_streamed() -> None:
    whole: dict[str, Any] = {"role": "assistant", "content": "hi"}
    entry = {"index": 0, "message": whole, "finish_reason": "stop"}
    assert message(event({**HEAD, "choices": [entry]})) == whole
    assert message(choices(part(**whole)), event({**HEAD, "choices": [entry]})) == whole


def test_events_of_another_kind_change_nothing() -> None:
    own = result(
        b": a comment\n\n",
        event({"tool": "t", "toolCallId": "c", "status": "running"}, "hermes.tool.progress"),
        event({"type": "status", "x": 1}),
        event({"usage": {}, "y": 1}, "status"),
        b"data: \n\n",
        b"data: 7\n\n",
        choices("none", {"delta": None}, {"index": "x", "delta": {"content": "hi"}}),
        event({"choices": [], "created": 0, "id": "", "prompt_filter_results": [1]}),
        event({"choices": {}, "created": 7}),
        DONE,
        choices(part(content="behind")),
    )
    assert own.keys() == {*HEAD, "choices", "prompt_filter_results"}
    assert own["id"] == "c1"
    (choice,) = own["choices"]
    assert choice["message"]["content"] == "hi"


@pytest.mark.parametrize(
    ("events", "error"),
    [
        (event({"error": {"message": "no", "code": 429}}), {"message": "no", "code": 429}),
        (event({"error": "no"}), "no"),
        (b'error: {"code": 500}\n\n', {"code": 500}),
        (b"error: no \n\n", "no"),
        (event({"message": "no"}, "error"), {"message": "no"}),
        (event({**HEAD, "choices": [{"index": 0, "error": {"code": 1}}]}), {"code": 1}),
    ],
)
def test_an_error_ends_it(events: bytes, error: Any) -> None:
    assert assembled(delta(content="a"), events, delta(content="b")).error == error


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        (b"data: {\n\n", "not valid JSON"),
        (b'data: {"choices":[{"delta":{"content":NaN}}]}\n\n', "not valid JSON"),
        (b"data: " + b"[" * 5000 + b"\n\n", "not valid JSON"),
        (choices(*(part(index) for index in range(129))), "too large"),
        (choices({"index": 0, "delta": {f"f{n}": n for n in range(60_000)}}), "too large"),
        (
            choices(part(tool_calls=[call(n, f"c{n}", "f", "{}") for n in range(4097)])),
            "too large",
        ),
        (delta(content="x" * 600_000) * 2, "too large"),
        (delta(content="x" * (1 << 21)), "too large"),
        (delta(content="x" * 900_000) + choices(part(n=list(range(100_000)))), "too large"),
        (delta(content="x" * 900_000) + choices(part(n={"x": [list(range(99_999))]})), "too large"),
        (choices(part(tool_calls=[call(0, "a", "f", "x" * 600_000)])) * 2, "too large"),
    ],
)
def test_what_cannot_be_put_together_is_said(events: bytes, problem: str) -> None:
    assembler = assembled(events, delta(content="behind"))
    assert problem in assembler.problem
    assert "behind" not in assembler.content


def test_a_lone_surrogate_is_replaced() -> None:
    events = b'data: {"choices":[{"index":0,"delta":{"content":"a\\ud800b"}}]}\n\n'
    assert message(events)["content"] == "a?b"


def test_objects_below_a_depth_are_not_merged() -> None:
    merged = Merged(Budget(100, 1 << 20))
    value: Any = {"x": "a"}
    for _ in range(12):
        value = {"n": value}
    merged.take(value)
    merged.take(value)
    assert merged.value().keys() == {"n"}


def test_elements_are_limited() -> None:
    merged = Merged(Budget(20, 1 << 20))
    with pytest.raises(TooMuchError):
        merged.take({"a": [{"index": n} for n in range(20)]})


def test_a_value_that_is_replaced_costs_nothing() -> None:
    merged = Merged(Budget(20, 1000))
    for _ in range(100):
        merged.keep("a", "x" * 500)
    with pytest.raises(TooMuchError):
        merged.keep("b", "x" * 500)


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=9),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=9),
)
def test_no_character_is_lost(contents: list[str], thoughts: list[str]) -> None:
    events = [choices(part(role="assistant"))]
    events += [choices(part(content=piece)) for piece in contents]
    events += [choices(part(reasoning=piece)) for piece in thoughts]
    own = message(*events)
    assert own["content"] or "".join(contents) == ""
    assert own.get("reasoning", "") == "".join(thoughts)


CORPUS = sorted((Path(__file__).parents[1] / "corpus").glob("*.sse"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_streams_of_real_backends(path: Path) -> None:
    """However they are cut; and no call is in the answer that nobody was told of."""
    body, parser, other = path.read_bytes(), sse.Parser(1 << 20), Assembler()
    whole = assembled(body)
    for at in range(len(body)):
        for one in parser.feed(body[at : at + 1]):
            other.feed(one)
    for one in parser.eof():
        other.feed(one)
    assert (other.error, other.problem) == (whole.error, whole.problem)
    assert other.result() == whole.result()
    expected = json.loads((path.parent / "expected.json").read_text("utf-8"))["files"][path.stem]
    announced = {event["tool"] for event in expected["events"]}
    choices = json.loads(whole.result())["choices"]
    calls = [call for one in choices for call in one["message"].get("tool_calls", ())]
    assert {call["function"]["name"] for call in calls} <= announced


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "piece",
    [
        delta(content="a"),
        choices(part(tool_calls=[call(0, "a", "f", "a")])),
        choices({**part(content="a"), "logprobs": {"content": [{"token": "a"}]}}),
        choices(part(reasoning_details=[{"index": 0, "text": "a"}])),
    ],
)
def test_the_work_is_linear(piece: bytes) -> None:
    def work(events: list[sse.Event]) -> None:
        assembler = Assembler()
        for one in events:
            assembler.feed(one)
        assert assembler.result()

    assert_linear(lambda count: sse.Parser(1 << 20).feed(piece * min(count, 9_000)), work, 1_100)
