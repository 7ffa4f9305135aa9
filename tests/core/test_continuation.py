"""One answer of several upstreams: what is passed on of each, and what the next one is asked."""

import json
from typing import Any

import pytest
from lifecycle_proxy.core.continuation import Continuation, continued


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: %b\n\n" % json.dumps({"choices": [choice]}).encode()


def call(index: int, call_id: str = "", arguments: str = "") -> dict[str, Any]:
    one: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    return one | ({"id": call_id} if call_id else {})


def deltas(data: bytes) -> list[dict[str, Any]]:
    lines = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: {")]
    found: list[dict[str, Any]] = [json.loads(line)["choices"][0]["delta"] for line in lines]
    return found


def begun(*chunks: bytes) -> Continuation:
    answer = Continuation()
    for one in chunks:
        assert answer.feed(one) is one  # nothing changes, and it is the same object
    return answer


def further(answer: Continuation, *chunks: bytes) -> list[dict[str, Any]]:
    return deltas(b"".join(map(answer.feed, chunks)))


def test_only_whole_events_are_passed_on() -> None:
    data = chunk(content="a") + chunk(content="b")
    for at in range(len(data)):
        answer = Continuation()
        out = answer.feed(data[:at])
        assert out in (b"", chunk(content="a"))
        assert out + answer.feed(data[at:]) == data
        assert answer.text == "ab"
    answer = Continuation()
    answer.feed(data[:-1])
    assert answer.rest() == chunk(content="b")[:-1]
    assert answer.is_lost


@pytest.mark.parametrize(
    ("texts", "passed"),
    [
        ([" there"], [" there"]),
        (["Hello there"], [" there"]),
        (["Hel", "lo", " there"], [" there"]),
        (["Hel", "lo there"], [" there"]),
        (["Hel", "p"], ["Help"]),
        (["H", "e", "y", "!"], ["Hey", "!"]),
        (["Hello", "Hello"], ["Hello"]),
        (["Hel"], []),
    ],
)
def test_a_repeated_beginning_is_left_out(texts: list[str], passed: list[str]) -> None:
    answer = begun(chunk(role="assistant", content=""), chunk(content="Hello"))
    answer.restart(may_repeat=True)
    first = chunk(role="assistant", content="")
    seen = further(answer, first, *(chunk(content=one) for one in texts))
    assert seen == [{"content": one} for one in passed]
    assert answer.text == "Hello" + "".join(passed)


def test_what_cannot_be_a_repetition_is_not_left_out() -> None:
    answer = begun(chunk(content="ha"))
    answer.restart(may_repeat=False)
    assert further(answer, chunk(content="ha!")) == [{"content": "ha!"}]


def test_a_call_ends_the_search_for_a_repetition() -> None:
    answer = begun(chunk(content="ha"))
    answer.restart(may_repeat=True)
    seen = further(answer, chunk(content="h"), chunk(tool_calls=[call(0, "x")]), chunk(content="a"))
    assert seen == [{"tool_calls": [call(0, "x")]}, {"content": "a"}]


def test_calls_get_numbers_and_ids_of_their_own() -> None:
    answer = begun(
        chunk(tool_calls=[call(0, "x"), call(1, "y")]),
        chunk(tool_calls=[{"function": {"arguments": "{}"}}, "odd"]),
    )
    answer.restart(may_repeat=True)
    first = chunk(tool_calls=[call(0, "x"), call(1, "z")])
    rest = chunk(tool_calls=[call(0, arguments="{}"), call(0, "x")])
    result = chunk(role="tool", tool_call_id="x", content="r")
    other = chunk(role="tool", tool_call_id="z", content="r")
    assert further(answer, first, rest, result, other) == [
        {"tool_calls": [call(2, "x-2"), call(3, "z")]},
        {"tool_calls": [call(2, arguments="{}"), call(2, "x-2")]},
        {"role": "tool", "tool_call_id": "x-2", "content": "r"},
        {"role": "tool", "tool_call_id": "z", "content": "r"},
    ]
    assert answer.text == ""
    answer.restart(may_repeat=True)
    assert further(answer, chunk(tool_calls=[call(0, "x")])) == [{"tool_calls": [call(4, "x-4")]}]


def test_results_without_an_id_pass() -> None:
    begun(chunk(role="tool", content="r"), chunk(role="tool", tool_call_id=5, content="r"))


@pytest.mark.parametrize(
    "end",
    [
        chunk("stop"),
        b"data: [DONE]\n\n",
        b'data: {"error":{"message":"no"}}\n\n',
        b'event: error\ndata: {"message":"no"}\n\n',
    ],
)
def test_what_ends_an_answer(end: bytes) -> None:
    answer = begun(chunk(content="a"))
    assert not answer.is_over
    assert answer.feed(end) == end
    assert answer.is_over


@pytest.mark.parametrize(
    "event",
    [
        b": comment\n\n",
        b"data: {\n\n",
        b"data: []\n\n",
        b'data: {"choices":[],"usage":{}}\n\n',
        b'data: {"choices":5}\n\n',
        b'data: {"choices":[{"index":0}]}\n\n',
        chunk(content=None),
        chunk(content=5, tool_calls=None),
        chunk(reasoning_content="a"),
    ],
)
def test_what_says_nothing_passes(event: bytes) -> None:
    answer = begun(event)
    answer.restart(may_repeat=True)
    assert answer.feed(event) == event
    assert (answer.is_over, answer.is_lost, answer.text) == (False, False, "")


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[{"index":1,"delta":{}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{}},{"index":1,"delta":{}}]}\n\n',
        b'data: {"choices":[5]}\n\n',
        chunk(tool_calls=[{"index": "a"}]),
        chunk(tool_calls=[{"index": 5000}]),
        chunk(content="x" * ((1 << 20) - 100)) + chunk(content="x" * 200),
    ],
    ids=range(6),
)
def test_what_cannot_be_followed_passes_as_it_is(event: bytes) -> None:
    answer = Continuation()
    tail = b"data: {"
    assert answer.feed(event + tail) == event + tail
    assert answer.is_lost
    assert answer.feed(b"x") == b"x"


def test_an_event_that_is_too_large_passes_as_it_is() -> None:
    answer, data = Continuation(), b'data: {"x":"%b' % (b"x" * (1 << 20))
    assert answer.feed(data) == data
    assert answer.is_lost
    assert answer.feed(b'"}\n\n') == b'"}\n\n'


def test_usage_stays_where_a_role_is_left_out() -> None:
    answer = begun(chunk(content="a"))
    answer.restart(may_repeat=True)
    choice = {"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}
    data = b"data: %b\n\n" % json.dumps({"choices": [choice], "usage": {"n": 1}}).encode()
    assert further(answer, data) == [{}]
    assert further(answer, chunk("stop", role="assistant")) == [{}]


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b'{"messages":[]}', b'{"messages":[{"role":"assistant","content":"a\\"b"}]}'),
        (
            b'{"messages" : [ {"role":"user"} ] ,"x":1}',
            b'{"messages" : [ {"role":"user"} ,{"role":"assistant","content":"a\\"b"}] ,"x":1}',
        ),
        (b'{"messages":"x"}', None),
        (b'{"x":1}', None),
        (b"nonsense", None),
    ],
)
def test_the_next_request(body: bytes, wanted: bytes | None) -> None:
    assert continued(body, 'a"b', knows=False) == wanted
    assert continued(body, "", knows=True) == body


def test_vllm_is_asked_to_go_on() -> None:
    new = continued(b' {"messages":[]}', "a", knows=True)
    assert new is not None
    assert json.loads(new) == {
        "continue_final_message": True,
        "add_generation_prompt": False,
        "messages": [{"role": "assistant", "content": "a"}],
    }
