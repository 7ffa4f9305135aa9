"""A request finds its recording, however it was written, and a miss says what differs."""

import base64
import json
import os
import random
import re
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_proxy.recording.cassette import RecordedExchange, Request
from lifecycle_proxy.recording.redactor import Redaction
from lifecycle_proxy.replay.matching import STAGES, Found, RecordingIndex, Rules, Stage, cleaned_by
from lifecycle_proxy.replay.near_miss import Miss

from tests.recording import CHAT, asked, exchange

Json = dict[str, Any]
STRICT = Rules(strict=True)
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"


def said(text: str = "hi", **fields: Any) -> Json:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **fields}


def found(library: RecordingIndex, request: Request, session: str = "") -> tuple[str, str]:
    """The id of the recording and the stage that found it."""
    one = library.find(request, session)
    assert isinstance(one, Found), one
    return one.exchange.id, one.stage


def missed(library: RecordingIndex, request: Request) -> Miss:
    one = library.find(request)
    assert isinstance(one, Miss), one
    return one


def stage(recorded: Request, request: Request, rules: Rules | None = None) -> str:
    """The stage in which one request finds the other; "" for none."""
    one = RecordingIndex([exchange(recorded)], rules).find(request)
    return one.stage if isinstance(one, Found) else ""


# --- the stages -----------------------------------------------------------------------------------


def test_the_same_bytes() -> None:
    assert stage(asked(said()), asked(said())) == "exact"
    assert stage(asked(b"\x00\xff"), asked(b"\x00\xff")) == "exact"


@pytest.mark.parametrize(
    "body",
    [
        {"messages": said()["messages"], "model": "m"},
        said(user="u-1"),
        said(metadata={"user_id": "x"}, seed=7, stream_options={"include_usage": True}),
        said(prompt_cache_key="k", safety_identifier="s"),
        {"model": "m", "messages": [{**said()["messages"][0], "cache_control": {"type": "x"}}]},
    ],
)
def test_the_same_json_without_what_is_volatile(body: Json) -> None:
    assert stage(asked(said()), asked(body), STRICT) == "json"


def test_what_counts_counts() -> None:
    for body in (said("bye"), said(stream=True), {**said(), "model": "n"}):
        assert stage(asked(said()), asked(body), STRICT) == ""


def test_what_is_volatile_can_be_chosen() -> None:
    rules = Rules(strict=True, volatile=("*.x", "messages.*.name"))
    recorded = said(options={"x": 1, "y": 1})
    assert stage(asked(recorded), asked(said(options={"x": 2, "y": 1})), rules) == "json"
    assert stage(asked(said()), asked(said(user="u")), replace(rules, stages=("json",))) == ""


def test_a_whole_number_is_the_same_as_a_float() -> None:
    assert stage(asked(said(temperature=1)), asked(said(temperature=1.0))) == "json"


def chat_round(first: str, second: str, *, swapped: bool = False) -> Json:
    calls = [
        {"id": i, "type": "function", "function": {"name": "f", "arguments": '{"a": 1, "b": 2}'}}
        for i in (first, second)
    ]
    results = [{"role": "tool", "tool_call_id": i, "content": "r"} for i in (first, second)]
    said = {"role": "assistant", "tool_calls": calls}
    return {"messages": [said, *(reversed(results) if swapped else results)]}


def responses_round(first: str, second: str, *, swapped: bool = False) -> Json:
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    ids = (second, first) if swapped else (first, second)
    calls = [{**call, "id": f"fc_{i}", "call_id": i} for i in (first, second)]
    return {"input": [*calls, *({"type": "function_call_output", "call_id": i} for i in ids)]}


def messages_round(first: str, second: str, *, swapped: bool = False) -> Json:
    ids = (second, first) if swapped else (first, second)
    uses = [{"type": "tool_use", "id": i, "name": "f", "input": {}} for i in (first, second)]
    results = [{"type": "tool_result", "tool_use_id": i, "content": "r"} for i in ids]
    told = [{"role": "assistant", "content": uses}, {"role": "user", "content": results}]
    return {"messages": told}


@pytest.mark.parametrize("make", [chat_round, responses_round, messages_round])
def test_ids_of_calls_are_renamed_and_stay_apart(make: Any) -> None:
    recorded = asked(make("call_1", "call_2"))
    assert stage(recorded, asked(make("toolu_9", "x")), STRICT) == "json"
    assert stage(recorded, asked(make("toolu_9", "x", swapped=True)), STRICT) == ""
    assert stage(recorded, asked(make("same", "same")), STRICT) == ""


def test_arguments_are_compared_as_json() -> None:
    body = json.dumps(chat_round("a", "b")).replace(r"{\"a\": 1, \"b\": 2}", r"{\"b\":2,\"a\":1}")
    assert stage(asked(chat_round("a", "b")), asked(body.encode())) == "json"
    half = json.dumps(chat_round("a", "b")).replace(r"2}", "")  # as a stream that was cut left it
    assert stage(asked(half.encode()), asked(half.replace("a", "c").encode()), STRICT) == ""
    assert stage(asked(half.encode()), asked(half.replace('"a"', '"c"').encode())) == "json"


@pytest.mark.parametrize(
    ("target", "one", "other"),
    [
        (CHAT, said(), said(temperature=0.5, tools=[])),
        (
            CHAT,
            {"messages": [{"role": "system", "content": "It is 9."}, *said()["messages"]]},
            {"messages": [{"role": "system", "content": "It is 10."}, *said()["messages"]]},
        ),
        (
            CHAT,
            said("hi"),
            {"model": "m", "messages": [{"role": "user", "content": [{"text": " hi "}]}]},
        ),
        (RESPONSES, {"input": "hi"}, {"input": " hi ", "instructions": "x"}),
        (RESPONSES, {"input": "hi"}, {"input": [{"role": "user", "content": "hi"}], "top_p": 1}),
        (
            MESSAGES,
            {**messages_round("a", "b"), "max_tokens": 1, "top_k": 1},
            {**messages_round("a", "b"), "max_tokens": 1, "top_k": 2},
        ),
    ],
)
def test_the_same_conversation(target: str, one: Json, other: Json) -> None:
    if target == MESSAGES:
        for body in (one, other):
            body["messages"].insert(0, {"role": "user", "content": "hi"})
    assert stage(asked(one, target=target), asked(other, target=target), STRICT) == "conversation"


def with_part(kind: str, **inner: Any) -> Json:
    words = {"type": "text", "text": "what is it?"}
    return said([words, {"type": kind, **inner}], temperature=0)  # type: ignore[arg-type]


PARTS: list[tuple[str, Json]] = [
    (CHAT, {"image_url": {"url": "data:image/png;base64,AAAA"}}),
    (CHAT, {"image_url": {"url": "https://pics.example/1.png"}}),
    (CHAT, {"input_audio": {"data": "AAAA", "format": "wav"}}),
    (CHAT, {"file": {"filename": "a.pdf", "file_data": "AAAA"}}),
    (RESPONSES, {"image_url": "data:image/png;base64,AAAA"}),
    (MESSAGES, {"source": {"type": "base64", "data": "AAAA"}}),
]


@pytest.mark.parametrize(("target", "part"), PARTS)
def test_what_is_shown_and_heard_is_part_of_the_conversation(target: str, part: Json) -> None:
    """The words alone are not: another picture is another question."""
    key = "input" if target == RESPONSES else "messages"

    def body(inner: Json, temperature: int) -> Request:
        told = with_part(next(iter(inner)), **inner)
        own = {"model": "m", key: told["messages"], "temperature": temperature}
        return asked(own, target=target)

    other = json.loads(json.dumps(part).replace("AAAA", "BBBB").replace("1.png", "2.png"))
    assert stage(body(part, 0), body(part, 1), STRICT) == "conversation"
    assert stage(body(part, 0), body(other, 1), STRICT) == ""
    assert stage(body(part, 0), asked(said("what is it?"), target=target), STRICT) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (said(response_format={"type": "text"}), said(response_format={"type": "json_object"})),
        (said(audio={"voice": "alloy"}), said(audio={"voice": "coral"})),
        (said(tools=[{"function": {"name": "f"}}]), said(tools=[{"function": {"name": "g"}}])),
        (said(tools=[{"type": "web_search"}]), said()),
        (said(max_tokens=1), said(max_tokens=2)),
        (said(reasoning_effort="low"), said(reasoning_effort="high")),
        (said(stream=True), said()),
        (said(n=2), said()),
    ],
)
def test_what_else_decides_the_answer_is_part_of_the_conversation(one: Json, other: Json) -> None:
    assert stage(asked(one), asked({**one, "temperature": 1}), STRICT) == "conversation"
    assert stage(asked(one), asked(other), STRICT) == ""


def test_how_tools_are_described_is_not() -> None:
    tools = [{"type": "function", "function": {"name": n, "description": "x"}} for n in "ab"]
    changed = [{"type": "function", "function": {"name": n, "parameters": {}}} for n in "ba"]
    assert stage(asked(said(tools=tools)), asked(said(tools=changed)), STRICT) == "conversation"


@pytest.mark.parametrize("target", ["/v1/embeddings", "/v1/audio/speech", "/v1/moderations"])
def test_what_is_no_conversation_differs_by_all_it_says(target: str) -> None:
    one = {"model": "m", "input": "hi", "voice": "alloy", "dimensions": 8, "temperature": 0}
    recorded = asked(one, target=target)
    assert stage(recorded, asked(one, target=target), STRICT) == "exact"
    for key, value in (("voice", "coral"), ("dimensions", 9), ("temperature", 1)):
        assert stage(recorded, asked({**one, key: value}, target=target), STRICT) == ""


@pytest.mark.parametrize(
    ("one", "other", "by"),
    [
        ("?key=abc", "?key=def", "exact"),
        ("?a=1&api_key=abc", "?api-key=def&a=1", "exact"),
        ("?a=1&key=abc&b=2", "?b=2&a=1", "json"),
        ("?sv=1&se=2026&sp=r&sig=abc", "?sv=2&se=2027&sp=r&sig=def", "exact"),
        ("?X-Amz-Date=1&X-Amz-Signature=abc&p=1", "?X-Amz-Date=2&X-Amz-Signature=d&p=1", "exact"),
        ("?code=abc&auth=x&p=1", "?code=def&auth=y&p=2", ""),
        ("?page_token=abc", "?page_token=def", ""),
        ("?sp=1", "?sp=2", ""),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_credentials_in_a_query_do_not_count(one: str, other: str, by: str, method: str) -> None:
    recorded, wanted = (asked({"a": 1}, method=method, target=f"/x{q}") for q in (one, other))
    cleaned = cleaned_by(Redaction())(recorded)
    assert stage(cleaned, wanted, STRICT) == by
    assert stage(recorded, wanted, STRICT) == by


MISSED = [
    *("A" * 80_000, "key " * 20_000, "ACGT" * 20_000, "a_" * 40_000, "\n" * 80_000),
    base64.b64encode(random.Random(1).randbytes(60_000)).decode(),
]


@pytest.mark.unmeasured
@pytest.mark.parametrize("text", MISSED)
def test_a_miss_takes_milliseconds_whatever_the_body_holds(text: str) -> None:
    recorded = [exchange(asked(said(f"{number}{text}")), name=str(number)) for number in range(20)]
    library = RecordingIndex(recorded, STRICT)
    start = time.thread_time()
    miss = missed(library, asked(said(f"x{text[:-1]}y")))
    assert time.thread_time() - start < 0.5
    assert len(miss.diff[0].path) > 0
    assert len(miss.body()) < 10_000


def test_the_middle_of_a_secret_is_not_shown() -> None:
    """Where the difference is behind its beginning."""
    key = "sk-" + "a1b2c3d4" * 200
    one = asked(said(f"use {key}x please {'and ' * 3000}"))
    other = asked(said(f"use {key}y please {'and ' * 3000}"))
    rules = Rules(strict=True, clean=lambda request: request)
    told = missed(RecordingIndex([exchange(one)], rules), other)
    assert "a1b2c3d4" not in told.text() + told.body().decode()


def test_results_and_tools_are_part_of_the_conversation() -> None:
    rules = Rules(stages=("conversation",))

    def body(result: str, name: str = "f") -> Request:
        call = {"id": "a", "type": "function", "function": {"name": name, "arguments": "{}"}}
        told = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": result}]
        return asked({"messages": [*said()["messages"], *told]})

    assert stage(body("1"), body("1"), rules) == "conversation"
    assert stage(body("1"), body("2"), rules) == ""
    assert stage(body("1"), body("1", "g"), rules) == ""


@pytest.mark.parametrize(
    "body",
    [[], 1, {"messages": 1}, {"messages": [1, {"role": "user", "content": None}]}, {"input": [{}]}],
)
def test_what_is_no_conversation_goes_by_order(body: Any) -> None:
    assert stage(asked(said()), asked(body)) == "order"
    assert stage(asked(body), asked(said())) == "order"


def test_the_order_of_the_same_method_and_path() -> None:
    library = RecordingIndex(
        [exchange(asked(said(text), target=target), name=text) for text, target in
         (("a", CHAT), ("b", MESSAGES), ("c", CHAT))]
    )  # fmt: skip
    assert found(library, asked({})) == ("a", "order")
    assert found(library, asked({})) == ("c", "order")
    assert missed(library, asked({})).nearest in ("a", "c")
    assert found(library, asked({}, target=MESSAGES)) == ("b", "order")


def test_only_the_order() -> None:
    rules = Rules(stages=("order",), strict=True)
    library = RecordingIndex([exchange(asked(said(t)), name=t) for t in "ab"], rules)
    assert [found(library, asked(said("b")))[0] for _ in "ab"] == ["a", "b"]
    missed(library, asked(said("b")))


def test_the_last_resort_is_of_the_same_kind_of_answer() -> None:
    streamed, whole = asked({"stream": True, "input": []}), asked({"input": []})
    recorded = [exchange(streamed, name="streamed"), exchange(whole, name="whole")]
    assert found(RecordingIndex(recorded), asked({"x": 1})) == ("whole", "order")
    assert found(RecordingIndex(recorded), asked({"stream": True})) == ("streamed", "order")
    assert found(RecordingIndex(recorded), asked({"stream": False})) == ("whole", "order")
    missed(RecordingIndex(recorded[:1]), asked({"x": 1}))
    missed(RecordingIndex(recorded[1:]), asked({"stream": True}))
    assert stage(streamed, asked({}), Rules(stages=("order",))) == "order"


@pytest.mark.parametrize(("loop", "expected"), [(False, "abbb"), (True, "abab")])
def test_only_the_order_repeats_the_last(loop: bool, expected: str) -> None:
    recorded = [exchange(asked(said(name)), name=name) for name in "ab"]
    library = RecordingIndex(recorded, Rules(stages=("order",), loop=loop))
    assert "".join(found(library, asked({}))[0] for _ in range(4)) == expected
    assert missed(library, asked({}, target=MESSAGES)).nearest
    assert missed(library, asked({}, method="PUT")).nearest


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_requests_without_a_body_go_by_their_target(method: str) -> None:
    recorded = asked(b"", method=method, target="/v1/models?a=1&b=2")
    assert stage(recorded, replace(recorded, body=b"x"), STRICT) == "exact"
    assert stage(recorded, replace(recorded, target="/v1/models?b=2&a=1"), STRICT) == "json"
    assert stage(recorded, replace(recorded, target="/v1/models?b=2"), STRICT) == ""
    assert stage(recorded, replace(recorded, method="POST"), STRICT) == ""


@pytest.mark.parametrize(
    "header",
    [("content-encoding", "gzip"), ("Content-Type", 'multipart/form-data; boundary="x"')],
)
def test_opaque_bodies_are_not_looked_into(header: tuple[str, str]) -> None:
    one, other = asked(said(), header), asked(said(user="x"), header)
    assert stage(one, one) == "exact"
    assert stage(one, other, STRICT) == ""
    assert stage(one, other) == "order"


def uploaded(sound: bytes = b"\xffRIFF", *headers: tuple[str, str], **fields: str) -> Request:
    """As httpx sends a file: every time with another boundary."""
    boundary, form = os.urandom(16).hex(), "Content-Disposition: form-data; name="
    parts = [f'{form}"{k}"\r\n\r\n{v}' for k, v in {"model": "whisper-1", **fields}.items()]
    parts.append(f'{form}"file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n')
    body = "".join(f"\r\n--{boundary}\r\n{part}" for part in parts).encode() + sound
    kind = ("Content-Type", f"multipart/form-data; boundary={boundary}")
    body = body.removeprefix(b"\r\n") + f"\r\n--{boundary}--\r\n".encode()
    return asked(body, kind, *headers, target="/v1/audio/transcriptions")


def test_uploads_are_the_same_whatever_the_boundary() -> None:
    one = uploaded()
    assert one.body != uploaded().body
    assert stage(one, uploaded(), STRICT) == "json"
    for other in (uploaded(b"\xfeRIFF"), uploaded(prompt="x"), uploaded(model="whisper-2")):
        assert stage(one, other, STRICT) == ""
    packed = ("Content-Encoding", "gzip")
    assert stage(uploaded(b"", packed), uploaded(b"", packed), STRICT) == ""
    assert stage(replace(one, headers=()), replace(uploaded(), headers=()), STRICT) == ""


def test_uploads_with_secrets_are_the_same_as_recorded() -> None:
    recorded = cleaned_by(Redaction())(uploaded(prompt=f"my key: {SECRET}"))
    assert SECRET.encode() not in (recorded.body or b"")
    assert stage(recorded, uploaded(prompt=f"my key: {SECRET}"), STRICT) == "json"


@pytest.mark.parametrize("boundary", ['"a b:c"', "x.+", '"x"; charset=utf-8', "----WebKitX", ""])
def test_boundaries_in_any_form(boundary: str) -> None:
    name = boundary.partition(";")[0].strip('"')

    def body(text: str, mark: str) -> bytes:
        return f"--{mark}\r\n\r\n{text}\r\n--{mark}--\r\n".encode()

    one = asked(body("a--x", name), ("content-type", f"multipart/mixed; boundary={boundary}"))
    other = asked(body("a--x", "x-y"), ("Content-Type", "Multipart/mixed;boundary=x-y"))
    assert stage(one, other, STRICT) == ("json" if name else "")
    assert stage(one, replace(other, body=body("a--y", "x-y")), STRICT) == ""


def test_a_miss_of_an_upload_names_the_part() -> None:
    library = RecordingIndex([exchange(uploaded(prompt="one"))], STRICT)
    miss = missed(library, uploaded(prompt="two"))
    assert [difference.path for difference in miss.diff] == [":part.2"]
    assert "one" in str(miss.diff[0].recorded)


def test_a_body_that_was_not_recorded_is_found_by_order() -> None:
    assert stage(asked(None), asked(said())) == "order"
    miss = missed(RecordingIndex([exchange(asked(None))], STRICT), asked(said()))
    assert miss.diff[0].path == ":body"


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[" * 400 + b"]" * 400, b'{"a": "\xff"}', b"{"])
def test_bodies_beyond_reason(body: bytes) -> None:
    request = asked(body)
    assert stage(request, request) == "exact"
    assert missed(RecordingIndex([exchange(asked(said()))], STRICT), request).body()


def test_what_was_forwarded_finds_it_too() -> None:
    forwarded = asked(said(), target="/api/paas/v4/chat/completions")
    library = RecordingIndex([exchange(asked(said()), forwarded=forwarded, name="one")], STRICT)
    assert found(library, forwarded) == ("one", "exact")
    missed(library, asked(said()))  # it has been given out


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_any_json_finds_itself_whatever_its_form(value: Any) -> None:
    one, other = asked({"x": value}), json.dumps({"x": value}, indent=1, ensure_ascii=False)
    assert stage(one, asked(other.encode("utf-8", "surrogatepass")), STRICT) in ("exact", "json")
    assert missed(RecordingIndex([exchange(asked({"y": value}))], STRICT), one).text()


# --- several of the same --------------------------------------------------------------------------


def same(count: int = 3) -> list[RecordedExchange]:
    return [exchange(asked(said()), name=f"{n}") for n in range(count)]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [(Rules(), "01222"), (Rules(loop=True), "01201"), (Rules(loop=True, strict=True), "01201")],
)
def test_they_are_given_out_in_the_order_they_were_recorded(rules: Rules, expected: str) -> None:
    library = RecordingIndex(same(), rules)
    assert "".join(found(library, asked(said()))[0] for _ in range(5)) == expected


def test_strict_gives_nothing_out_twice() -> None:
    library = RecordingIndex(same(), STRICT)
    assert [found(library, asked(said()))[0] for _ in range(3)] == ["0", "1", "2"]
    miss = missed(library, asked(said()))
    assert "given out" in miss.message
    assert (miss.diff, miss.differences) == ((), 0)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_strict_repeats_the_last_of_what_is_polled(method: str) -> None:
    one, other = (asked(method=method, target=f"/v1/models?{query}") for query in ("a&b", "b&a"))
    recorded = [exchange(one, name="0"), exchange(one, name="1"), exchange(other, name="2")]
    library = RecordingIndex(recorded, STRICT)
    told = [found(library, one) for _ in range(5)]
    assert [name for name, _ in told] == ["0", "1", "2", "1", "1"]
    assert found(library, other) == ("2", "exact")
    assert found(library, one, "another") == ("0", "exact")
    assert "given out" not in missed(library, replace(one, target="/v1/other")).text()
    looped = RecordingIndex(recorded[:2], Rules(strict=True, loop=True))
    assert [found(looped, one)[0] for _ in range(4)] == ["0", "1", "0", "1"]
    ordered = RecordingIndex(recorded[:1], Rules(strict=True, stages=("order",)))
    assert found(ordered, one) == ("0", "order")
    missed(ordered, one)


def test_strict_goes_on_to_what_is_nearly_the_same() -> None:
    recorded = [exchange(asked(said(user=u)), name=u) for u in "ab"]
    library = RecordingIndex(recorded, STRICT)
    assert found(library, asked(said(user="b"))) == ("b", "exact")
    assert found(library, asked(said(user="b"))) == ("a", "json")


def test_sessions_count_on_their_own() -> None:
    library = RecordingIndex(same(), STRICT)
    assert [found(library, asked(said()), s)[0] for s in ("x", "y", "x", "y")] == [*"0011"]


def test_the_counters_of_a_session_unused_for_long_are_dropped() -> None:
    library = RecordingIndex(same(), max_sessions=2)
    given = [found(library, asked(said()), session)[0] for session in "abacab"]
    assert given == [*"001020"]


@pytest.mark.parametrize("name", STAGES)
def test_one_stage_alone(name: Stage) -> None:
    assert stage(asked(said()), asked(said()), Rules(stages=(name,))) == name


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        (("exact", "fuzzy"), "stages: unknown stage 'fuzzy' (known are exact, json, conversation,"),
        ("exact", "stages must be a tuple of some of exact, json, conversation, order, not 'exact"),
        ((), "stages must be a tuple of some of exact"),
        (([],), "stages: unknown stage []"),
    ],
)
def test_stages_that_there_are_not(stages: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        Rules(stages=stages)


def test_stages_may_be_a_list() -> None:
    listed: Any = ["order"]
    assert stage(asked(said()), asked({}), Rules(stages=listed, strict=True)) == "order"


# --- misses ---------------------------------------------------------------------------------------


def test_the_nearest_is_what_was_asked_before_it_had_tools() -> None:
    tools = [{"type": "function", "function": {"name": f"f{n}"}} for n in range(200)]
    chat, title = asked(said("Where are my files?", tools=tools)), asked(said("Make a title."))
    library = RecordingIndex([exchange(chat, name="chat"), exchange(title, name="title")], STRICT)
    assert missed(library, asked(said("Where are my photos?"))).nearest == "chat"


def test_a_miss_tells_what_differs_from_the_nearest() -> None:
    far = exchange(asked({"other": 1}), name="far")
    near = exchange(asked(said("What is it?", temperature=0.5, old=None)), name="near")
    library = RecordingIndex([far, near], STRICT)
    miss = missed(library, asked(said("What is that?", temperature=0.7, new=[], user="u")))
    assert miss.nearest == "near"
    assert [tuple(d) for d in miss.diff] == [
        ("messages.0.content", "What is it?", "What is that?"),
        ("old", "null", None),
        ("temperature", 0.5, 0.7),
        ("new", None, "[]"),
    ]
    error = json.loads(miss.body())["error"]
    assert {k: error[k] for k in ("type", "param", "code", "nearest", "differences")} == {
        "type": "proxy_error",
        "param": None,
        "code": "no_recording",
        "nearest": "near",
        "differences": 4,
    }
    assert error["diff"][2] == {"path": "temperature", "recorded": 0.5, "asked": 0.7}
    assert "messages.0.content" in error["message"]
    assert "    recorded: What is it?\n    asked:    What is that?\n" in miss.text()


def test_a_miss_of_another_path_or_of_everything() -> None:
    miss = missed(RecordingIndex([exchange(asked(said()))]), asked(said(), target="/v1/nothing"))
    assert [d.path for d in miss.diff] == [":target"]
    miss = missed(RecordingIndex([]), asked(said()))
    assert (miss.nearest, miss.diff) == ("", ())
    assert json.loads(miss.body())["error"]["nearest"] is None


def test_no_secret_is_shown() -> None:
    secrets = ("sk-live-0123456789abcdef", "hunter2hunter2")
    recorded = said(f"my key is {secrets[0]}", password="x")
    request = said(f"{'x' * 300} Bearer {secrets[0]}", password=secrets[1])
    library = RecordingIndex([exchange(asked(recorded))], STRICT)
    miss = missed(library, asked(request, target=f"{CHAT}?api_key={secrets[1]}"))
    for text in (miss.body().decode(), miss.text()):
        assert not any(secret in text for secret in secrets), text
        assert "***" in text or "[redacted:" in text


def test_long_values_are_shown_around_the_difference() -> None:
    one, other = "x" * 500 + "one" + "y" * 500, "x" * 500 + "other" + "y" * 500
    miss = missed(RecordingIndex([exchange(asked(said(one)))], STRICT), asked(said(other)))
    (difference,) = miss.diff
    assert "xone" in str(difference.recorded)
    assert "xother" in str(difference.asked)
    assert len(str(difference.asked)) < 120


def test_many_differences_are_counted() -> None:
    body = {f"k{n}": n for n in range(50)}
    miss = missed(RecordingIndex([exchange(asked({}))], STRICT), asked(body))
    assert (len(miss.diff), miss.differences) == (20, 50)
    assert miss.text().endswith("… and 30 more")


def test_bytes_and_terminal_codes_are_not_shown() -> None:
    miss = missed(RecordingIndex([exchange(asked(b"\xff\xfe"))], STRICT), asked(b"\x1b[31mred"))
    assert "(2 bytes)" in miss.text()
    assert "\x1b" not in miss.text()


def test_very_large_requests_are_compared_in_part() -> None:
    body = {"x": list(range(20_000))}
    miss = missed(RecordingIndex([exchange(asked({"x": [*range(4), 7]}))], STRICT), asked(body))
    assert miss.differences < 6_000


SECRET = "sk-live-0123456789abcdef"


@pytest.mark.parametrize("redaction", [Redaction(), Redaction(paths=["name", "messages.*.name"])])
def test_secrets_are_placeholders_in_a_recording(redaction: Redaction) -> None:
    request = asked(said(f"my key: {SECRET}", name="Ann"), target=f"{CHAT}?api_key={SECRET}")
    recorded = cleaned_by(redaction)(request)
    assert SECRET.encode() not in (recorded.body or b"")
    rules = Rules(strict=True, clean=cleaned_by(redaction))
    assert stage(recorded, request, rules) == "exact"
    assert stage(request, request, rules) == "exact"  # recorded without redaction


def test_the_usual_secrets_are_known_without_being_told() -> None:
    request = asked(said(f"my key: {SECRET}"), ("Authorization", "Bearer of-another-kind"))
    recorded = cleaned_by(Redaction())(request)
    assert stage(recorded, request, STRICT) == "exact"
    assert stage(recorded, asked(said(f"my key: {SECRET}", user="u")), STRICT) == "json"


def test_nothing_is_cleaned_that_is_found_as_it_is() -> None:
    cleaned: list[Request] = []

    def clean(request: Request) -> Request:
        cleaned.append(request)
        return request

    library = RecordingIndex([exchange(asked(said()), name="0")], Rules(clean=clean))
    assert found(library, asked(said())) == ("0", "exact")
    assert found(library, asked(said(user="u"))) == ("0", "json")
    assert cleaned == []
    assert found(library, asked(said(temperature=1)))[1] == "conversation"
    missed(library, asked(said(), target="/v1/other"))
    assert len(cleaned) == 2


def test_what_is_clean_goes_before_what_is_alike() -> None:
    turns = [{"role": "user", "content": f"my key: {SECRET}"}, *said()["messages"]]
    request = asked({"model": "m", "messages": turns})
    alike, same = exchange(asked(said()), name="0"), exchange(cleaned_by(Redaction())(request))
    assert found(RecordingIndex([alike, same], STRICT), request) == (same.id, "exact")
