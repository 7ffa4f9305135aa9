"""A field of a form is found wherever it stands, and however the form comes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_proxy.core.form_field import FieldSearch

BOUNDARY = b"xYz-1"


def part(headers: str, content: bytes) -> bytes:
    return b"--%b\r\n%b\r\n\r\n%b\r\n" % (BOUNDARY, headers.encode(), content)


def field(name: str, content: bytes) -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"', content)


def file(content: bytes, name: str = "file", filename: str = "a.wav") -> bytes:
    headers = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"'
    return part(f"{headers}\r\nContent-Type: audio/wav", content)


END = b"--%b--\r\n" % BOUNDARY


def found(*pieces: bytes, boundary: bytes = BOUNDARY) -> bytes | None:
    search = FieldSearch(boundary, b"model")
    data = bytearray()
    for piece in pieces:
        data += piece
        search.look(data)
        if search.is_over:
            break
    return None if search.span is None else bytes(data[slice(*search.span)])


FORMS = {
    "first": (field("model", b"whisper-1") + file(b"RIFF") + END, b"whisper-1"),
    "behind a file": (file(b"RIFF\r\n--" + bytes(99)) + field("model", b"w") + END, b"w"),
    "a file like a form": (file(b"\r\n--xYz-12\r\n\r\n") + field("model", b"w") + END, b"w"),
    "a preamble": (b"see RFC 2046\r\n" + field("model", b"w") + END, b"w"),
    "empty": (field("model", b"") + END, b""),
    "twice": (field("model", b"a") + field("model", b"b") + END, b"a"),
    "no end": (field("model", b"a"), None),
    "with an end to come": (field("model", b"a") + b"--xYz-1\r", None),
    "not there": (file(b"RIFF") + field("models", b"x") + END, None),
    "behind the end": (field("x", b"") + END + field("model", b"x") + END, None),
    "a file of this name": (file(b"RIFF", "model") + END, None),
    "in the name of a file": (file(b"", "x", "; name=model") + field("model", b"w") + END, b"w"),
    "not a field": (part("Content-Type: text/plain; name=model", b"x") + END, None),
    "no headers": (b"--xYz-1\r\n\r\nx\r\n" + field("model", b"w") + END, b"w"),
    "no quotes": (part("content-disposition:form-data;name=model ;x=y", b"w") + END, b"w"),
    "padded": (field("model", b"w") + b"--xYz-1 \t\r\n\r\n", b"w"),
    "no form": (b"RIFF" * 99, None),
    "nothing": (b"", None),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_value_is_found_whole_byte_by_byte_and_with_a_tail(name: str) -> None:
    form, value = FORMS[name]
    assert found(form) == value
    assert found(*(form[at : at + 1] for at in range(len(form)))) == value
    if value is not None:
        assert found(form + bytes(99)) == value


@pytest.mark.parametrize(
    "form",
    [
        b"--xYz-1\r\n" + b"x" * (1 << 15) + field("model", b"w"),
        field("model", b"x" * 5_000) + END,
        field("x", b"") * 1_001 + field("model", b"w") + END,
    ],
    ids=["headers", "value", "parts"],
)
def test_what_is_too_much_is_not_followed(form: bytes) -> None:
    assert found(form) is None
    search = FieldSearch(BOUNDARY, b"model")
    search.look(form)
    assert search.is_over


def test_without_a_boundary_nothing_is_looked_for() -> None:
    assert FieldSearch(b"", b"model").is_over


@given(
    st.lists(st.binary(max_size=40), max_size=4),
    st.binary(max_size=20).filter(lambda value: b"\r\n--" not in value),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_it_does_not_matter_how_the_form_comes(
    files: list[bytes], value: bytes, cuts: list[int]
) -> None:
    form = b"".join(map(file, files)) + field("model", value) + END
    at = sorted({0, *(cut % (len(form) + 1) for cut in cuts), len(form)})
    pieces = [form[a:b] for a, b in pairwise(at)]
    assert found(*pieces) == value
