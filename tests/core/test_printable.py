import pytest
from lifecycle_proxy.core.printable import printable, wants_colour


def test_what_prints_stays_as_it_is() -> None:
    assert printable("grün ✓ 🔍") == "grün ✓ 🔍"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\nb", r"a\nb"), ("\x1b[31m", r"\x1b[31m"), ("\x9b", r"\x9b"), ("\u202e", r"\u202e")],
)
def test_what_does_not_print_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected


@pytest.mark.parametrize(
    ("is_terminal", "environ", "expected"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "0"}, False),
        (False, {}, False),
    ],
)
def test_colour(is_terminal: bool, environ: dict[str, str], expected: bool) -> None:
    """By https://no-color.org only a value that is not empty counts, and any such value does."""
    assert wants_colour(is_terminal, environ) is expected
