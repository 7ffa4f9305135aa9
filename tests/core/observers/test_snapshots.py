"""Which call of a stream an item of a snapshot tells again."""

import time

import pytest
from lifecycle_proxy.core.arguments import canonical
from lifecycle_proxy.core.observers.snapshots import EARLIER, SnapshotItem, match


def item(
    name: str | None = "f",
    place: int | None = 0,
    ids: tuple[str, ...] = ("a",),
    arguments: str = "{}",
    kind: str = "k",
) -> SnapshotItem:
    return SnapshotItem(kind, name, place, ids, arguments)


CALL = item()


@pytest.mark.parametrize(
    ("again", "is_known"),
    [
        (item(name="g", place=3, arguments="1"), True),  # an id
        (item(ids=("z", "a"), place=3, arguments="1"), True),
        (item(ids=(), arguments='{"x":1}'), True),  # the place, with the name
        (item(ids=("z",), arguments='{"x":1}'), True),
        (item(ids=(), place=3), True),  # the arguments, with the name
        (item(ids=(), place=3, arguments=" { } "), True),
        (item(ids=(), place=3, arguments='{"x":1}'), False),
        (item(ids=(), name="g"), False),
        (item(ids=(), kind="l"), False),
    ],
)
def test_by_id_else_by_place_else_by_content(again: SnapshotItem, is_known: bool) -> None:
    assert match([CALL], [again]) == [CALL if is_known else None]


def test_each_call_is_found_once_and_ids_come_first() -> None:
    other = item(place=1, ids=("b",))
    assert match([CALL, other], [item(ids=("b",), place=0), item(ids=(), place=0)]) == [other, CALL]
    assert match([CALL], [item(ids=()), item(ids=())]) == [CALL, None]
    assert match([CALL, other], [item(ids=()), CALL]) == [other, CALL]


def test_of_an_earlier_answer_only_ids_count() -> None:
    earlier = item(place=EARLIER)
    assert match([earlier], [item(ids=())]) == [None]
    assert match([earlier], [item(ids=(), place=None)]) == [None]
    assert match([earlier], [CALL]) == [earlier]


def test_arguments_are_compared_as_json() -> None:
    assert canonical('{"b": 1, "a": [2 ,3]}') == canonical('{"a":[2,3],"b":1}')
    assert canonical(" x ") == "x"
    deep = "[" * 500 + "]" * 500
    assert canonical(deep) == deep


@pytest.mark.unmeasured
def test_the_cost_grows_with_the_size() -> None:
    def seconds(count: int) -> float:
        calls = [item(place=n, ids=(f"a{n}",), arguments=f"[{n}]") for n in range(count)]
        items = [item(place=-2 - n, ids=(), arguments=f"[{n},0]") for n in range(count)]
        start = time.process_time()
        assert match(calls, items) == [None] * count
        return time.process_time() - start

    assert min(seconds(8_000) for _ in range(3)) < 40 * min(seconds(1_000) for _ in range(3)) + 0.05
