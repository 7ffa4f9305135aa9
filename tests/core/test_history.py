"""Our cards leave the history without a trace, and a client's own calls are found in it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_proxy.core.followup import last_calls
from lifecycle_proxy.core.history import PREFIX, without_own_output

from tests.core import Json

USER: Json = {"role": "user", "content": "How many files?"}
NEXT: Json = {"role": "user", "content": "And now?"}


def one(call_id: str) -> Json:
    return {"id": call_id, "type": "function", "function": {"name": "ls", "arguments": "{}"}}


def said(content: Any, *ids: str, **more: Any) -> Json:
    calls = {"tool_calls": [one(call_id) for call_id in ids]} if ids else {}
    return {"role": "assistant", "content": content, **calls, **more}


def result(call_id: Any, **more: Any) -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": "done in 1.2 s", **more}


def written(*messages: Any) -> bytes:
    return json.dumps({"stream": True, "model": "m", "messages": messages}).encode()


def left(*messages: Any) -> list[Any]:
    found: list[Any] = json.loads(without_own_output(written(*messages)))["messages"]
    return found


def test_the_history_of_open_webui_becomes_what_the_backend_said() -> None:
    body = written(
        USER, said("Let me check. ", "htp_call_1"), result("htp_call_1"), said("Done: 42."), NEXT
    )
    assert without_own_output(body) == written(USER, said("Let me check. Done: 42."), NEXT)


CARD = (said("", "htp_1"), result("htp_1"))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param(
            [said("a ", "htp_1"), result("htp_1"), said("b ", "htp_2"), result("htp_2"), said("c")],
            [said("a b c")],
            id="several cards in one answer",
        ),
        pytest.param(
            [said("a", "htp_1"), result("htp_1"), *CARD, *CARD, said("b")],
            [said("ab")],
            id="cards without text between",
        ),
        pytest.param(
            [said("a", "htp_1", "htp_2"), result("htp_1"), result("htp_2"), said("b")],
            [said("ab")],
            id="parallel cards",
        ),
        pytest.param([*CARD, said("b")], [said("b")], id="a card first"),
        pytest.param([said("a", "htp_1"), result("htp_1")], [said("a")], id="a card last"),
        pytest.param([*CARD], [], id="nothing but a card"),
        pytest.param([said(None, "htp_1"), said("b")], [said("b")], id="a card without a result"),
        pytest.param([result("htp_1"), said("b")], [said("b")], id="a result without a card"),
        pytest.param(
            [said("a"), result("htp_1"), said("b")],
            [said("a"), said("b")],
            id="what no card has parted stays parted",
        ),
        pytest.param(
            [said("a"), *CARD, said("b")],
            [said("a"), said("b")],
            id="an answer before that is another",
        ),
        pytest.param(
            [said("a", "htp_1"), result("htp_1"), said("b"), said("c")],
            [said("ab"), said("c")],
            id="an answer behind that is another",
        ),
        pytest.param(
            [said("a", "htp_1", "call_1"), result("htp_1"), result("call_1"), said("b")],
            [said("a", "call_1"), result("call_1"), said("b")],
            id="own and foreign calls",
        ),
        pytest.param(
            [said("a", "call_1", "htp_1"), result("htp_1"), said("b")],
            [said("a", "call_1"), said("b")],
            id="a call that is left keeps its place before the text",
        ),
        pytest.param(
            [said("", "htp_1", "call_1"), result("htp_1"), result("call_1")],
            [said("", "call_1"), result("call_1")],
            id="a call that is left is enough",
        ),
        pytest.param(
            [said("a", "htp_1", function_call={"name": "f"}), said("b")],
            [said("a", function_call={"name": "f"}), said("b")],
            id="a legacy call keeps its place before the text",
        ),
        pytest.param(
            [said("a ", "htp_1"), result("htp_1"), said("b", "call_1"), result("call_1")],
            [said("a b", "call_1"), result("call_1")],
            id="a foreign call behind a card",
        ),
        pytest.param(
            [said("a ", "htp_1"), result("htp_1"), said(None, "htp_2", "call_1"), said("c")],
            [said("a ", "call_1"), said("c")],
            id="a foreign call beside the second card",
        ),
        pytest.param(
            [
                {"role": "assistant", "tool_calls": [one("htp_1")], "reasoning_content": "r"},
                said("b"),
            ],
            [{"role": "assistant", "reasoning_content": "r", "content": "b"}],
            id="thoughts without text",
        ),
        pytest.param(
            [said(None, "htp_1", reasoning_content="r"), said(None, "call_1")],
            [said(None, reasoning_content="r", tool_calls=[one("call_1")])],
            id="thoughts, and no text at all",
        ),
        pytest.param(
            [said("a", "htp_1"), result("htp_1"), said("b", reasoning_content="r")],
            [said("a"), said("b", reasoning_content="r")],
            id="two messages where one would lose thoughts",
        ),
        pytest.param(
            [said("a", "htp_1"), result("htp_1"), said("b", refusal=None, tool_calls=None)],
            [said("ab")],
            id="keys that say nothing",
        ),
        pytest.param(
            [said("", "htp_1", name="bot", refusal=None), result("htp_1"), NEXT],
            [NEXT],
            id="a name is no message",
        ),
        pytest.param(
            [said(["a"], "htp_1"), result("htp_1"), said(["b", "c"])],
            [said(["a", "b", "c"])],
            id="lists of parts",
        ),
        pytest.param(
            [said(["a"], "htp_1"), result("htp_1"), said([], "htp_2"), said("")],
            [said(["a"])],
            id="a list of parts and nothing",
        ),
        pytest.param(
            [said(["a"], "htp_1"), result("htp_1"), said("b")],
            [said(["a"]), said("b")],
            id="a list of parts and a text",
        ),
        pytest.param(
            [said({"a": 1}, "htp_1"), said("b")], [said({"a": 1}), said("b")], id="odd contents"
        ),
        pytest.param(
            [said("a", "htp_1"), result("htp_1"), "odd", said("b"), None],
            [said("a"), "odd", said("b"), None],
            id="odd messages",
        ),
        pytest.param(
            [said("a", tool_calls=[1, None, {}, {"id": 2}, one("htp_1")])],
            [said("a", tool_calls=[1, None, {}, {"id": 2}])],
            id="odd calls",
        ),
    ],
)
def test_what_is_left_of_an_answer(messages: list[Any], expected: list[Any]) -> None:
    assert left(USER, *messages, NEXT) == [USER, *expected, NEXT]
    assert left(*messages) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"htp_",
        b'"htp_1"',
        b'["htp_1"]',
        b'{"messages": "htp_1"}',
        b'{"messages": ["htp_1", null]}',
        b'{"prompt": "htp_1"}',
        b'{"messages": [{"role": "tool", "tool_call_id": "htp_1"}]',
        b'{"messages": [{"role": "tool", "tool_call_id": "htp_1"}]} {}',
        b'{"messages": [{"role": "tool", "tool_call_id": "htp_1"}, "\xff"]}',
        b'\xef\xbb\xbf{"messages": [{"role": "tool", "tool_call_id": "htp_1"}]}',
        b'{"messages": [{"role": "tool", "tool_call_id": "htp_1"}], "messages": []}',
        b'{"messages": [{"role": "tool", "tool_call_id": "htp_1"}], "x": ' + b"[" * 200_000,
        written(USER, said('{"tool_calls": [{"id": "htp_1"}]} htp_1', "call_htp_1")),
        written(USER, {**CARD[0], "role": "user"}, {**CARD[1], "role": "user"}),
        written(USER, said("a", tool_calls="htp_1"), result(["htp_1"]), result("call_htp_1")),
    ],
)
def test_what_holds_no_card_or_is_not_understood_is_the_same_object(body: bytes) -> None:
    assert without_own_output(body) is body


def test_every_other_byte_stays() -> None:
    body = r"""
 { "a":1.0, "a" :1e400,"b": 1180591620717411303424, "z": BIG
 ,"messages" :[
    {"role":"user" , "content":"\u00e9 é \ud800 htp_1", "x":[ 1.50,-0 ,{}]} ,

    { "role":"assistant","content" : "a\u0020" , "x": 1E5, "tool_calls": [
       {"id":"htp_1"} , {"id" : "htp_2"}] } ,
    {"role":"tool","tool_call_id":"htp_1","content":""},
    {"role":"tool","tool_call_id":"\u0068tp_2","content":""} ,
    {"content" :"\/\n", "role":"assistant"}
,
    { "role":"assistant","content" :null, "tool_calls":[ {"id":"htp_3"} ,
       {"id":"c", "n": 1.0} ,{"id":"htp_4"}, { "id":"d"}  ],
      "y":2e2} ] , "c":NaN }
  """
    expected = r"""
 { "a":1.0, "a" :1e400,"b": 1180591620717411303424, "z": BIG
 ,"messages" :[
    {"role":"user" , "content":"\u00e9 é \ud800 htp_1", "x":[ 1.50,-0 ,{}]} ,

    { "role":"assistant","content" : "a\u0020\/\n" , "x": 1E5 }
,
    { "role":"assistant","content" :null, "tool_calls":[ {"id":"c", "n": 1.0}, { "id":"d"}  ],
      "y":2e2} ] , "c":NaN }
  """
    big = "9" * 5000  # more digits than Python cares to read
    assert without_own_output(body.replace("BIG", big).encode()).decode() == expected.replace(
        "BIG", big
    )


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ("[ R ]", "[  ]"),
        ("[ R , U ]", "[ U ]"),
        ("[ U , R ]", "[ U ]"),
        ("[U ,R, U , R]", "[U, U]"),
        ("[R,R ,U,R,R]", "[U]"),
        ("[\n\tR\r\n]", "[\n\t\r\n]"),
    ],
)
def test_commas_come_out_right(messages: str, expected: str) -> None:
    def body(text: str) -> bytes:
        text = text.replace("R", json.dumps(CARD[1])).replace("U", json.dumps(USER))
        return f'{{"messages":{text}}}'.encode()

    assert without_own_output(body(messages)) == body(expected)


def test_of_repeated_keys_the_last_counts() -> None:
    card = b'{"role":"tool","tool_call_id":"x","tool_call_id":"htp_1"}'
    body = b'{"messages":[%b],"messages":[%b,1]}'
    assert without_own_output(body % (card, card)) == b'{"messages":[%b],"messages":[1]}' % card
    body = b'{"messages":[{"role":"assistant","tool_calls":[1],"content":"a","tool_calls":[%b]}]}'
    assert without_own_output(body % b'{"id":"htp_1"}') == (
        b'{"messages":[{"role":"assistant","content":"a"}]}'
    ), "the calls that did not count do not count now"


JUNK = st.recursive(
    st.none() | st.booleans() | st.floats() | st.sampled_from(["", "assistant", "tool", "htp_1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "tool_calls", "tool_call_id", "id", "status"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(JUNK, st.lists(JUNK))
def test_no_shape_is_too_odd(junk: Any, messages: list[Any]) -> None:
    assert isinstance(last_calls(junk), list)
    assert isinstance(last_calls(messages), list)
    json.loads(without_own_output(json.dumps({"messages": junk, "mark": PREFIX}).encode()))
    json.loads(without_own_output(written(*messages)))


FOREIGN = st.sampled_from(["call_1", "call_2", "xhtp_1", "HTP_1"])
IDS = FOREIGN | st.sampled_from(["htp_1", "htp_2", "htp_"])
TEXTS = st.sampled_from(["", "htp_1", 'say "htp_1", \\', "é\ud800", "[{,}]"])
CONTENTS = TEXTS | st.none() | st.lists(st.builds(lambda text: {"text": text}, TEXTS), max_size=2)
EXTRAS = st.sampled_from(
    [{}, {}, {}, {"reasoning_content": "r"}, {"refusal": None}, {"n": 1.0}, {"name": "b"}]
)


def histories(ids: st.SearchStrategy[str]) -> st.SearchStrategy[list[Json]]:
    message = st.one_of(
        st.builds(lambda text: {"role": "user", "content": text}, TEXTS),
        st.builds(result, ids),
        st.builds(
            lambda content, calls, more: said(content, *calls, **more),
            *(CONTENTS, st.lists(ids, max_size=3), EXTRAS),
        ),
    )
    return st.lists(message, max_size=10)


@st.composite
def laid_out(draw: st.DrawFn, messages: list[Json]) -> tuple[bytes, list[bytes]]:
    """A body in which each message is written in its own way, and the messages as written."""
    styles = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")])
    indents = st.sampled_from([None, 0, "\t"])
    raws = [
        json.dumps(message, indent=draw(indents), separators=draw(styles)) for message in messages
    ]
    comma = draw(st.sampled_from([",", ", ", "\n ,\t"]))
    body = f'{{"n": 1.0, "messages" :[ {comma.join(raws)} ] ,"messages_": "htp_", "n":1e400}}\n'
    return body.encode(), [raw.encode() for raw in raws]


def calls_of(messages: list[Json]) -> list[str]:
    return [call["id"] for message in messages for call in message.get("tool_calls", ())]


def text_of(messages: list[Json]) -> str:
    """All that the assistant said, whatever messages it stands in."""
    contents = [m["content"] or "" for m in messages if m["role"] == "assistant"]
    return "".join(c if isinstance(c, str) else "".join(p["text"] for p in c) for c in contents)


def is_card(call_id: str) -> bool:
    return call_id.startswith(PREFIX)


@given(st.data(), histories(IDS))
def test_cards_leave_without_a_trace(data: st.DataObject, messages: list[Json]) -> None:
    body, raws = data.draw(laid_out(messages))
    after = without_own_output(body)
    found = json.loads(after)["messages"]
    assert calls_of(found) == [i for i in calls_of(messages) if not is_card(i)]
    assert text_of(found) == text_of(messages)
    for key in ("reasoning_content", "n"):
        assert [m[key] for m in found if key in m] == [m[key] for m in messages if key in m]
    others = [m["role"] != "assistant" and not is_card(m.get("tool_call_id", "")) for m in messages]
    assert [m for m in found if m["role"] != "assistant"] == [
        m for m, is_other in zip(messages, others, strict=True) if is_other
    ]
    at = 0
    for raw in (raw for raw, is_other in zip(raws, others, strict=True) if is_other):
        at = after.index(raw, at) + len(raw)
    start, end = body.index(b"[") + 1, body.rindex(b" ]")
    assert (after[:start], after[after.rindex(b" ]") :]) == (body[:start], body[end:])
    assert without_own_output(after) is after, "what is clean stays so"


@given(st.data(), histories(FOREIGN))
def test_a_history_without_cards_is_the_same_object(
    data: st.DataObject, messages: list[Json]
) -> None:
    body, _ = data.draw(laid_out(messages))
    assert without_own_output(body) is body


@given(st.lists(st.tuples(TEXTS, st.integers(1, 3))), st.sampled_from(["", "Done."]))
def test_what_was_one_answer_is_one_message(rounds: list[tuple[str, int]], end: str) -> None:
    messages: list[Json] = []
    for number, (text, cards) in enumerate(rounds):
        ids = [f"htp_{number}_{card}" for card in range(cards)]
        messages += [said(text, *ids), *map(result, ids)]
    whole = "".join(text for text, _ in rounds) + end
    tail = [said(end)] if end else []
    assert left(USER, *messages, *tail, NEXT) == [USER, *([said(whole)] if whole else []), NEXT]
