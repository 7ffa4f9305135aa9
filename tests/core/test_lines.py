"""Lines of `quote` leave a request without a trace, and nothing else does."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.events import Envelope, Outcome, Text, ToolCompleted, ToolRunning
from lifecycle_proxy.core.history import may_hold_own_output, without_own_output
from lifecycle_proxy.core.lines import END, START, without_lines

from tests.core import Json

MARK = "\u2063"
CRLF = "\r\n"
TELLING = re.compile("[\u2063💻✓✗]|terminal|df -h|5.0 s")


def line(label: str = "df -h /", tool: str = "terminal", *, ended: bool = True) -> str:
    """What the dialect writes of one call, in a stream of its own."""
    writer, envelope = DIALECTS["quote"].chat(), Envelope("c", 1, "m")
    frames = writer.write(ToolRunning("a", 0, tool, label, "💻"), envelope)
    if ended:
        frames += writer.write(ToolCompleted("a", 0, tool, label, "💻", Outcome.OK, 5000), envelope)
    else:
        frames += writer.before((Text(0),), envelope)
    data = (frame.partition(b"data: ")[2] for frame in frames.split(b"\n\n")[:-1])
    return "".join(json.loads(one)["choices"][0]["delta"]["content"] for one in data)


WHOLE = line()
OPEN = line(ended=False)
TALK = f"Let me check.{WHOLE}{OPEN}Done: 42 files."
SAID = "Let me check.Done: 42 files."


def test_the_lines_that_this_is_about() -> None:
    assert f"\n\n> {START}💻 terminal: `df -h /` … ✓ 5.0 s{END}\n\n" == WHOLE
    assert f"\n\n> {START}💻 terminal: `df -h /` …{END}\n\n" == OPEN


def chat(text: str) -> Json:
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": "u"}}]
    return {
        "messages": [
            {"role": "user", "content": "How full is it?"},
            {"role": "assistant", "content": text},
            {"role": "user", "content": parts},
        ]
    }


def responses(text: str) -> Json:
    parts = [{"type": "output_text", "text": text}]
    return {"input": [{"role": "assistant", "content": parts}, {"role": "user", "content": text}]}


def messages(text: str) -> Json:
    blocks = [{"type": "text", "text": text}, {"type": "text", "text": "b"}]
    return {"system": text, "messages": [{"role": "assistant", "content": blocks}]}


def title(text: str) -> Json:
    """As pages ask for a title: the conversation in one text, as text or as JSON."""
    talk = f"user: How full is it?\nassistant: {text}\nuser: Thanks!"
    inner = json.dumps([{"role": "assistant", "content": text}], ensure_ascii=False)
    return {"messages": [{"role": "user", "content": talk}, {"role": "user", "content": inner}]}


def quoting(text: str) -> Json:
    return {"input": f'You wrote "{text}". Why?', "instructions": f"Sum up:\n\n{text}"}


FORMS = [chat, responses, messages, title, quoting]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_ascii", [True, False])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_a_request_is_what_it_would_be_without_them(
    form: Callable[[str], Json], is_ascii: bool, separators: tuple[str, str]
) -> None:
    def written(text: str) -> bytes:
        asked = {"model": "m", "stream": True, **form(text)}
        return json.dumps(asked, ensure_ascii=is_ascii, separators=separators).encode()

    assert may_hold_own_output(written(TALK))
    assert without_own_output(written(TALK)) == written(SAID)


def nested(text: str, depth: int, *, is_ascii: bool) -> bytes:
    for _ in range(depth):
        text = json.dumps({"t": text}, ensure_ascii=is_ascii)
    return text.encode()


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("is_ascii", [True, False])
@pytest.mark.parametrize("before", ["Look in C:\\", "a\n", "\\\\", ""])
def test_json_inside_of_json(depth: int, is_ascii: bool, before: str) -> None:
    body = nested(before + WHOLE + "\\d\n", depth, is_ascii=is_ascii)
    assert without_lines(body) == nested(before + "\\d\n", depth, is_ascii=is_ascii)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("is_ascii", [True, False])
@pytest.mark.parametrize("at", range(1, len(WHOLE)))
def test_wherever_it_is_cut_nothing_is_left_that_tells_of_it(
    at: int, is_ascii: bool, depth: int
) -> None:
    def left(text: str) -> str:
        found = without_lines(nested(text, depth, is_ascii=is_ascii)).decode()
        for _ in range(depth):
            found = json.loads(found)["t"]
        return found

    head, tail = left("Words. " + WHOLE[:at]), left(WHOLE[at:] + " Words")
    assert head.rstrip(" \n>") == "Words."
    assert tail.lstrip(" \n>") == "Words"


@pytest.mark.parametrize("at", range(1, len(OPEN)))
def test_the_same_for_a_line_that_was_never_ended(at: int) -> None:
    for text in ("Words." + OPEN[:at], OPEN[at:] + "Words."):
        left = json.loads(without_lines(json.dumps(text).encode()))
        assert left.strip(" \n>") == "Words."


@pytest.mark.parametrize(
    ("text", "left"),
    [
        pytest.param(TALK.replace("\n\n", "\n"), "Let me check.\n\nDone: 42 files.", id="close"),
        pytest.param(TALK.replace("\n\n", " "), "Let me check.    Done: 42 files.", id="one line"),
        pytest.param(re.sub("> |`", "", TALK), "Let me check.\n\n\n\nDone: 42 files.", id="plain"),
        pytest.param(TALK.replace("> ", ">"), SAID, id="no space"),
        pytest.param(TALK.replace("-h /", "-h\n> /"), SAID, id="wrapped in a quote"),
        pytest.param(TALK.replace("5.0 s", "5.0\ns"), SAID, id="wrapped"),
        pytest.param(TALK.replace("\n", CRLF), SAID.replace("D", 8 * CRLF + "D"), id="CRLF"),
        pytest.param(re.sub(r"\s+", "", TALK), "Letmecheck.Done:42files.", id="no white space"),
        pytest.param(WHOLE.strip(), "", id="nothing else"),
        pytest.param(f"a{WHOLE.rstrip()}", "a", id="trimmed"),
        pytest.param(f"a{WHOLE}".rstrip(f"\n{MARK}") + "...", "a...", id="shortened"),
        pytest.param(f"...{WHOLE[12:]}b", "b", id="shortened in front"),
        pytest.param(f"a{WHOLE[:-9]} and more", "a and more", id="cut and joined"),
        pytest.param(f"> a\n>\n> {WHOLE.strip()}\n>\n> b", "> a\n>\n> \n>\n> b", id="quoted"),
        pytest.param(f"a{OPEN[:-3]}{WHOLE}b", "ab", id="two, and the first never closed"),
    ],
)  # fmt: skip
def test_what_a_page_made_of_it(text: str, left: str) -> None:
    for is_ascii in (True, False):
        body = json.dumps(text, ensure_ascii=is_ascii).encode()
        found = json.loads(without_lines(body))
        assert found == left


def test_escapes_of_other_writers() -> None:
    body = json.dumps({"t": TALK}).replace(">", "\\u003E").replace("/", "\\/").encode()
    assert without_lines(body) == json.dumps({"t": SAID}).encode()


@pytest.mark.parametrize(
    "text",
    [
        "a\u2063b",
        "\u2063\u2063",
        "f\u2063\u2063(x)",
        "x\u2063y is 5 s\u2063 long",
        "\u2063",
        "print('\\u2063')",
        "u2063",
        "\\u2063",
        "> quoted\n\n> text ✓ 5.0 s\n\n… and so on",
        "💻 terminal: `df -h /` … ✓ 5.0 s",
        "\u2063\u2063\n\n\u2063",
        "w \u2063\u2063 two\n\nparagraphs\u2063",
    ],
)
def test_what_is_not_ours_stays_to_the_byte(text: str) -> None:
    for depth in (1, 2):
        for is_ascii in (True, False):
            body = nested(f"a {text} b", depth, is_ascii=is_ascii)
            assert without_lines(body) is body


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "label",
    [
        *(
            'say "hi"',
            "C:\\new\\table",
            "`date`",
            "a > b",
            "…",
            "✓ 1.0 s",
            "x" * 5000,
            "",
            " ",
            "}]",
        ),
        *("é\u2063\u2063b", "tab\tand\nline", "\\u2063", "💻" * 400, "$x$ <b> **b** [l](u)"),
    ],
)
@pytest.mark.parametrize(
    "tool", ["terminal", "mcp: odd `name`", "a" * 3000, "*x*", "`", "\u2063", "工具"]
)
@pytest.mark.parametrize("ended", [True, False])
def test_no_label_and_no_name_hides_a_line(label: str, tool: str, ended: bool) -> None:
    for depth in (1, 3):
        for is_ascii in (True, False):
            body = nested("a" + line(label, tool, ended=ended) + "b", depth, is_ascii=is_ascii)
            assert without_lines(body) == nested("ab", depth, is_ascii=is_ascii)


_words = st.text('ab \n\\"`>.\u2063é…✓💻', max_size=12)
_texts = st.lists(st.one_of(_words, st.just(WHOLE), st.just(OPEN)), max_size=6)


def _without_mark(pieces: list[str]) -> list[str]:
    return [p if p in (WHOLE, OPEN) else p.replace(MARK, "") for p in pieces]


@given(_texts.map(_without_mark), st.integers(1, 3), st.booleans())
@example(["a", WHOLE, OPEN, "\n\n", WHOLE], 2, True)
def test_the_text_is_again_what_the_model_wrote(
    pieces: list[str], depth: int, is_ascii: bool
) -> None:
    said = "".join(p for p in pieces if p not in (WHOLE, OPEN))
    body = nested("".join(pieces), depth, is_ascii=is_ascii)
    assert without_lines(body) == nested(said, depth, is_ascii=is_ascii)


def _left(value: Any) -> Any:
    """The same, string by string."""
    match value:
        case dict():
            return {key: _left(one) for key, one in value.items()}
        case list():
            return [_left(one) for one in value]
        case str():
            return json.loads(without_lines(json.dumps(value, ensure_ascii=False).encode()))
        case _:
            return value


_json = st.recursive(
    st.one_of(st.none(), st.integers(), _texts.map("".join)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("k"), inner),
    max_leaves=6,
)


@given(_json, st.booleans())
def test_whatever_it_is_it_stays_json_and_each_text_is_for_itself(
    value: Any, is_ascii: bool
) -> None:
    body = json.dumps(value, ensure_ascii=is_ascii).encode()
    assume(b"\\\\u" not in body)  # a backslash of the text would belong to the escape
    assert json.loads(without_lines(body)) == _left(value)


@given(st.lists(st.sampled_from([MARK.encode(), b"\\u2063", b"\\", b'"', b"\\n", b"> ", b"n"])
                | st.sampled_from(["💻", "…", "✓ 5.0 s", "\\u2713"]).map(str.encode)
                | st.binary(max_size=3), max_size=30).map(b"".join))  # fmt: skip
def test_no_bytes_make_it_fail(body: bytes) -> None:
    left = without_lines(body)
    assert len(left) <= len(body)
    assert (left is body) or left != body


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "unit",
    [
        TALK.encode(),
        (START + "💻 ").encode(),
        MARK.encode(),
        b"\\u2063",
        b"\\",
        b"\\u2063\\",
        (START + "x" * 50).encode(),
        f"… ✓ 5.0 s{MARK}".encode(),
        f"\\n\\n> {START}".encode(),
        b"u2063",
        (START + "\\n " * 20).encode(),
    ],
)
def test_the_time_grows_with_the_size_and_no_faster(unit: bytes) -> None:
    def took(size: int) -> float:
        body = b'{"t":"' + unit * (size // len(unit)) + b'"}'
        best = 9.0
        for _ in range(3):
            start = time.process_time()
            without_lines(body)
            best = min(best, time.process_time() - start)
        return best

    took(1 << 12)
    small, large = took(1 << 13), took(1 << 17)
    assert large < 16 * 4 * small + 0.05, (small, large)
