"""The value of the top-level ``model``: only its bytes are replaced, wherever it stands."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_proxy.core.model_field import _WINDOW, model_spans, replaced, spans

from tests.curve import assert_linear

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.just("model"), inner, max_size=4)
    ),
    max_leaves=12,
)
SPACES = st.sampled_from(["", " ", "\n", "\t \r\n"])


def values(data: bytes) -> list[bytes] | None:
    found = spans(data)
    return None if found is None else [data[start:stop] for start, stop in found]


@st.composite
def objects(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, Any]]]:
    """JSON objects in any layout, with keys that repeat, and their members in order."""
    keys = st.sampled_from(["model", "models", "mode", "Model", "messages", ""]) | TEXTS
    members = draw(st.lists(st.tuples(keys, VALUES), max_size=6))
    parts = []
    for key, value in members:
        escaped = draw(st.booleans())
        name = "".join(f"\\u{ord(c):04x}" if escaped and ord(c) < 1 << 16 else c for c in key)
        name = f'"{name}"' if escaped else json.dumps(key, ensure_ascii=False)
        if escaped and not _is_json(name):
            name = json.dumps(key)
        space = [draw(SPACES) for _ in range(4)]
        shown = json.dumps(value, ensure_ascii=draw(st.booleans()))
        parts.append(f"{space[0]}{name}{space[1]}:{space[2]}{shown}{space[3]}")
    text = f"{draw(SPACES)}{{{draw(SPACES) if not parts else ''}{','.join(parts)}}}{draw(SPACES)}"
    return text.encode(), members


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@given(objects(), TEXTS)
def test_only_the_values_of_model_change(
    given: tuple[bytes, list[tuple[str, Any]]], name: str
) -> None:
    data, members = given
    found = spans(data)
    assert found is not None
    assert model_spans(data) == found
    assert len(found) == sum(key == "model" for key, _ in members)
    new = replaced(data, found, name)
    wanted = [(key, name if key == "model" else value) for key, value in members]
    assert json.loads(new, object_pairs_hook=list) == _pairs(wanted)
    # All other bytes are the same.
    value, kept, at = json.dumps(name, ensure_ascii=False).encode(), [], 0
    for start, stop in found:
        kept.append(data[at:start])
        at = stop
    assert new == value.join((*kept, data[at:]))


def _pairs(members: list[tuple[str, Any]]) -> Any:
    pairs = [(json.dumps(key), json.dumps(value)) for key, value in members]
    text = "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"
    return json.loads(text, object_pairs_hook=list)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"model":"a"}', [b'"a"']),
        (b' { "x" : {"model": "inner"} , "model" : "a\\"}" , "y":[1,"]"] } \n', [b'"a\\"}"']),
        (b'{"model":"a","model":"b"}', [b'"a"', b'"b"']),
        (b'{"\\u006dodel":"a"}', [b'"a"']),
        (b'{"\\u006d\\u006f\\u0064\\u0065\\u006c":"a"}', [b'"a"']),
        (b'{"mode\\l":"a"}', []),
        (b'{"model":5}', [b"5"]),
        (b'{"model":null}', [b"null"]),
        (b'{"model":{"a":["b"]}}', [b'{"a":["b"]}']),
        (b"{}", []),
        (b" { } ", []),
        (b'{"a":-1.5e3}', []),
    ],
)
def test_where_the_values_are(data: bytes, found: list[bytes]) -> None:
    assert values(data) == found
    assert model_spans(data) == spans(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"model":"a","x":{"y":"b"}}',
        b' {\n"model" : "a" , "x":[{}]}',
        b'{"x":{"y":"b"},"model":"a"}\n',
        b'{"x":{"model":"b"}}',
        b'{"x":{"model":"b"},"y":1}',
        b'{"x":{"model":"b"},"model":"a"}',
        b'{"x":"model","model":"a"}',
        b'{"x":"\\"model\\":1}","model":"a","y":2}',
        b'{"model":"a","\\u006dodel":"b"}',
        b'{"x":"say \\"model\\"","y":["model"]}',
        b'{"model":"%b"}' % (b"a" * 600),
    ],
)
def test_the_short_way_finds_the_same(data: bytes) -> None:
    assert json.loads(data)
    assert model_spans(data) == spans(data)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b'"model"', b"5", b"{", b'{"model"', b'{"model":', b'{"model":"a', b'{"a'),
        *(b'{"model":"a"', b'{"model":"a",', b'{"model":"a",}', b'{"model":"a"}x', b"{model:1}"),
        *(b'{"model":}', b'{"model" "a"}', b'{"a":["}', b'{"a":[{]', b'{"a":"\\', b'{"a":["\\'),
        b"{%b}" % b",".join(b'"k%d":1' % number for number in range(10_001)),
        b'{"a":%b}' % (b"[" * 2_000_001),
        b'{"a":%b}' % (b"1" * _WINDOW),
    ],
    ids=lambda data: data[:16].decode(),
)
def test_what_cannot_be_followed(data: bytes) -> None:
    assert values(data) is None


@pytest.mark.parametrize("behind", range(-4, 5))
def test_nothing_depends_on_where_a_window_ends(behind: int) -> None:
    fill = b"x" * (_WINDOW - 12 + behind)
    for start in (
        b'{"a":"%b\\"\\\\","model":"m"}' % fill,
        b'{"a":["%b\\"\\\\",["]"]],"model":"m"}' % fill,
        b'{"a":[%b"\\"]"],"model":"m"}' % (b"1," * (len(fill) // 2)),
        b'{%b"model":"m"}' % (b" " * len(fill)),
        b'{%b"model":"m"}' % (b" " * (2 * _WINDOW + behind)),
        b'{"%b\\"":1,"model":"m"}' % fill,
    ):
        assert values(start) == [b'"m"']
        assert values(start[:-1]) is None


def test_a_name_that_is_no_utf8_is_still_text() -> None:
    assert replaced(b'{"model":"a"}', [(9, 12)], "\ud800") == b'{"model":"?"}'


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "part",
    [b"[[],[]],", b'"\\"\\"\\"",', b"1,", b'"a",', b'{"a":"b"},', b"      ", b"\\\\\\\\"],
    ids=str,
)
def test_the_time_grows_with_the_size_only(part: bytes) -> None:
    def make(size: int) -> bytes:
        body = part * (size // len(part))
        return (
            b'{"a":["%b"],"model":"m"}' if part[:1] == b"\\" else b'{"a":[%b1],"model":"m"}'
        ) % body

    def work(data: bytes) -> None:
        assert values(data) == [b'"m"']

    assert_linear(make, work, 1 << 18)
