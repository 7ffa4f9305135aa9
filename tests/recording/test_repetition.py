"""What is left of an event stream has the same words."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_proxy.recording.repetition import without_repetition

LONGEST = 4
WORDS = (b"abab", b"ab", b"bb", b"a\xff", b"zz")
# Few letters: so that words stand across all borders.
EVENTS = st.lists(st.text("ab\n", max_size=12).map(str.encode), max_size=12)
ALIKE = st.builds(
    lambda head, tail, bodies: [head + body + tail for body in bodies],
    st.text("abz", max_size=20).map(str.encode),
    st.text("abz", max_size=20).map(str.encode),
    st.lists(st.text("abz", max_size=6).map(str.encode), max_size=10),
)


@given(st.one_of(EVENTS, ALIKE, st.builds(lambda a, b, c: a + b + c, ALIKE, EVENTS, ALIKE)))
def test_a_word_occurs_in_both_or_in_none(events: list[bytes]) -> None:
    data = b"\n\n".join(events)
    left = without_repetition(data, LONGEST)
    assert [word in left for word in WORDS] == [word in data for word in WORDS]


@pytest.mark.parametrize("word", ["token", "sk-", "q"])
@pytest.mark.parametrize("number", [0, 1, 20, 39])
def test_one_word_among_many_chunks(word: str, number: int) -> None:
    def chunk(text: str) -> bytes:
        delta = {"choices": [{"index": 0, "delta": {"content": text}, "finish": None}]}
        return b"data: " + json.dumps({"id": "c", "object": "chunk", **delta}).encode() + b"\n\n"

    usual = [chunk(f"{number} ") for number in range(40)]
    clear = without_repetition(b"".join(usual), 15)
    assert word.encode() not in clear
    usual[number] = chunk(f"a{word}b")
    assert word.encode() in without_repetition(b"".join(usual), 15)


def test_most_of_a_stream_is_repetition() -> None:
    chunks = [b"data: {%b}%b\n\n" % (b"x" * 200, b"%d" % number) for number in range(100)]
    assert len(without_repetition(b"".join(chunks), 15)) < 0.2 * len(b"".join(chunks))


def test_what_is_no_stream_stays() -> None:
    data = b"x" * 10_000
    assert without_repetition(data, 15) is data
