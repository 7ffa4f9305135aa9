"""Reading by shape: only what cannot differ is skipped, and nothing is learned in vain."""

from typing import Any

import pytest
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.dialects.chunk import plain
from lifecycle_proxy.core.observers.chat import ChatObserver
from lifecycle_proxy.core.sse import Parser

from tests.core import (
    BYTEWISE,
    DONE,
    WHOLE,
    call,
    calls,
    chunk,
    finish,
    native,
    pairs,
    play,
    sse,
    text,
)

HEAD = calls(call(0, "a", "f"))


def piece(arguments: Any, index: object = 0) -> bytes:
    return calls(call(index, None, None, arguments))


def observer_of(body: bytes) -> ChatObserver:
    observer = ChatObserver(Counts())
    for event in Parser(1 << 20).feed(body):
        observer.observe(event)
    return observer


@pytest.mark.parametrize("value", ["x", "", 'a"b\\c\n\u2028é\x7f', "\x7fprobe", "}}]}"])
@pytest.mark.parametrize("first", ["hello", "a", "stop", '"'])
def test_text_like_the_last_one_needs_no_decoding(first: str, value: str) -> None:
    assert observer_of(text(first)).skim(text(value))


@pytest.mark.parametrize(
    "other",
    [
        text("x", finish="stop"),
        chunk({"reasoning_content": "x"}),
        chunk({"content": None}),
        text("x", choice=1),
        text("x")[:-1],
        text("x") + text("y"),
        text("x").replace(b'"x"', b'"x","tool_calls":[]'),
        text("x").replace(b'"x"', b'"\xff"'),
        text("x").replace(b'"x"', b'"\n\ndata: "'),
        HEAD,
        DONE,
        b"",
    ],
)
def test_what_differs_in_more_than_the_text_is_decoded(other: bytes) -> None:
    assert not observer_of(text("hello")).skim(other)


@pytest.mark.parametrize(
    "body",
    [
        chunk({}),
        chunk({"role": "assistant"}),
        chunk({"content": None}),
        chunk({"content": ""}),
        chunk({"content": "\ud800"}),
        text("x", note="y" * 5000),
        text("x").replace(b"\n\n", b"\r\n\r\n"),
        text("x").replace(b"data: ", b"data:"),
        text("x").replace(b'"x"', b'"\\u0078"'),
        sse({"choices": [{"delta": {"content": "x"}}], "z": 1}, "name"),
        sse("not json"),
    ],
)
def test_what_cannot_be_a_shape_is_not_learned(body: bytes) -> None:
    assert not observer_of(body).skim(body)


def test_a_text_that_stands_twice_in_its_chunk_is_no_shape() -> None:
    body = chunk({"content": "same"}, note="same")
    assert observer_of(body).skim(body.replace(b'"content":"same"', b'"content":"x"'))
    body = body.replace(b'{"id"', b'{"note":"same","id"').replace(b',"note":"same"}', b"}")
    assert not observer_of(body).skim(body.replace(b'"content":"same"', b'"content":"x"'))
    assert not observer_of(body).skim(body.replace(b'"note":"same"', b'"note":"x"'))


@pytest.mark.parametrize("name", ["id", "content", "choices"])
def test_a_text_that_is_also_the_name_of_a_key_is_no_shape(name: str) -> None:
    body = text(name)
    assert not observer_of(body).skim(body.replace(f'"{name}":'.encode(), b'"x":', 1))


@pytest.mark.parametrize("sizes", [WHOLE, (7,), BYTEWISE])
def test_arguments_of_a_known_call_arrive_without_decoding(sizes: tuple[int, ...]) -> None:
    body = HEAD + b"".join(piece(p) for p in ('{"', "a", '":', '"\\', 'n"', "}")) + finish() + DONE
    assert pairs(play(body, sizes)) == ['a f {"a":"\\n"}']


def test_arguments_go_to_the_call_that_has_the_slot_now() -> None:
    pieces = [HEAD, piece("["), piece("1"), calls(call(0, "b", "g")), piece("{"), piece("}")]
    assert pairs(play(pieces)) == ["a f [1", "b g {}"]


def test_arguments_without_decoding_make_their_call_the_one_touched_last() -> None:
    pieces = [HEAD, calls(call(1, "b", "g")), piece("1"), piece("2"), piece("3", 7), piece("4", 1)]
    assert pairs(play([*pieces, piece("5"), piece("6", None)])) == ["a f 12356", "b g 4"]


@pytest.mark.parametrize(
    "later",
    [
        calls(call(None, None, None, "1")),
        calls(call(5, None, None, "1")),
        chunk({"tool_calls": {"index": 0, "function": {"arguments": "1"}}}),
        chunk({"tool_calls": [{"index": 0, "custom": {"input": "1"}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": {"a": 1}}}]}),
        calls(call(0, "a", None, "1")),
        calls(call(0, None, "f", "1")),
    ],
)
def test_arguments_in_other_clothes_are_decoded(later: bytes) -> None:
    assert not observer_of(HEAD + later).skim(later)


def test_arguments_of_a_call_without_a_name_are_decoded() -> None:
    assert not observer_of(calls(call(0)) + piece("1")).skim(piece("2"))


def test_a_stream_that_is_never_alike_is_not_learned_for_ever() -> None:
    bodies = [text("x", system_fingerprint=f"fp_{n}") for n in range(40)]
    observer = observer_of(b"".join(bodies))
    assert not observer.skim(bodies[-1])
    assert any(observer.skim(body) for body in bodies)


@pytest.mark.parametrize("sizes", [WHOLE, BYTEWISE])
def test_frames_copy_from_what_was_read_by_its_shape(sizes: tuple[int, ...]) -> None:
    one, other = text("x"), text("x").replace(b"chatcmpl-1", b"chatcmpl-2")
    played = play(one + other + one + native(), sizes, dialect=plain)
    assert b'{"id":"chatcmpl-1","object":' in played.data


def test_a_large_event_is_oversized_whatever_its_shape() -> None:
    body = [HEAD, piece("["), piece("1" * 500)]
    whole, bytewise = (
        play(fed, sizes, max_event_bytes=250)
        for fed, sizes in ((body, WHOLE), (b"".join(body), BYTEWISE))
    )
    assert pairs(whole) == pairs(bytewise)
