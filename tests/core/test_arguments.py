"""Arguments: when they are whole, when they broke off, and pieces that tell all of them again."""

import itertools
import json
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from lifecycle_proxy.core.arguments import Arguments


def grown(*pieces: str, is_free_form: bool = False) -> Arguments:
    made = Arguments(is_free_form=is_free_form)
    for piece in pieces:
        made.take(piece)
    return made


@pytest.mark.parametrize(
    ("pieces", "complete"),
    [
        ([], False),
        (["{", "}"], True),
        (["[1", "]\n"], True),
        (['{"a":"}'], False),
        (["1"], False),
        (['"a"'], False),
        (["{}", "x"], False),
    ],
)
def test_arguments_are_complete_when_nothing_may_follow(pieces: list[str], complete: bool) -> None:
    made = Arguments()
    for piece in pieces:
        made.append(piece)
    assert made.complete is complete
    assert bool(made) is bool(pieces)
    assert str(made) == "".join(pieces)


@pytest.mark.parametrize(
    ("pieces", "complete"),
    [
        (['{"a":"\\', '"', '"}'], True),
        (['{"a":"\\', '\\"}'], True),
        (['{"a":"\\', '"}'], False),
        (['{"a":"\\\\', '"}'], True),
    ],
)
def test_what_a_backslash_escapes_may_come_in_the_next_piece(
    pieces: list[str], complete: bool
) -> None:
    made = Arguments()
    for piece in pieces:
        assert not made.complete
        made.append(piece)
    assert made.complete is complete


def test_of_huge_arguments_the_head_is_kept() -> None:
    made = grown("[" + "1" * (Arguments.LIMIT - 2))
    made.append("1]")
    made.append("]")
    assert len(str(made)) == Arguments.LIMIT
    assert not made.complete


_objects = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\{}[]: \n', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('a"\\{', max_size=3), inner)
    ),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict | list))


@given(_objects, st.data())
def test_any_proper_start_of_an_object_is_unfinished_and_the_whole_is_not(
    value: object, data: st.DataObject
) -> None:
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    made = Arguments()
    for character in text[:-1]:
        made.append(character)
        assert made.unfinished
        assert not made.complete
    made.append(text[-1])
    assert made.complete
    assert not made.unfinished


@pytest.mark.parametrize("text", ['{"a":"x\ny \\d"}', "{'a': 1}", '{"a":1}}', "[1,]"])
def test_whole_is_no_matter_of_strict_json(text: str) -> None:
    assert grown(text).complete
    assert not grown(text).unfinished


@pytest.mark.parametrize("text", ["", " ", "ls -la", '"a', "{} x", "12"])
def test_what_is_no_object_is_neither_whole_nor_unfinished(text: str) -> None:
    assert not grown(text).complete
    assert not grown(text).unfinished


def test_of_a_free_form_nothing_is_concluded() -> None:
    made = grown('{"a', '{"a', is_free_form=True)
    assert str(made) == '{"a{"a'
    assert not made.unfinished
    assert not grown("{}", is_free_form=True).complete


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        (['{"p', '{"path":"', '{"path":"a"}'], '{"path":"a"}'),
        (["{}", '{"a":', "1}"], '{"a":1}'),
        (["{ }", '{"a":1}'], '{"a":1}'),
        (['{"a":1}', '{"a":1,"b":2}'], '{"a":1,"b":2}'),
        (['{"a":1}', '{"a"', ":1}"], '{"a":1}'),
        (['{"a":1}', '{"a"', '{"a":2', '{"a":2}'], '{"a":2}'),
        (['{"a":1}', '{"b'], '{"a":1}'),
        (['{"a":', '{"b":1}', "}"], '{"a":{"b":1}}'),
        (['{"a":"', '{"', '}"}'], '{"a":"{"}"}'),
        (["[", "{}", ",", "{}", "]"], "[{},{}]"),
        (["{}", ""], "{}"),
    ],
)
def test_pieces_that_tell_all_of_them_again(pieces: list[str], whole: str) -> None:
    assert str(grown(*pieces)) == whole


@given(_objects.filter(lambda value: isinstance(value, dict)), st.data())
def test_pieces_of_one_object_are_put_together(value: object, data: st.DataObject) -> None:
    """However it is cut: nothing in the middle of an object looks like a repetition.

    But a piece with all that was there before: an object of the same first key, as the first value.
    """
    text = json.dumps(value)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=5)))
    assume(not any(text[cut:].startswith(text[:cut]) for cut in cuts))
    pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    assert str(grown(*pieces)) == text


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "piece", ["{", "}", "{}", '"', "\\", '{"', "[{},", '{"a":1}', " ", '\\"', "x"]
)
def test_the_cost_grows_with_the_size(piece: str) -> None:
    """Eight times as many pieces, each asked about, take about eight times as long."""

    def seconds(count: int) -> float:
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            made = Arguments()
            for _ in range(count):
                made.take(piece)
                _ = made.complete, made.unfinished
            best = min(best, time.process_time() - start)
        return best

    assert seconds(24_000) < 40 * seconds(3_000) + 0.05
