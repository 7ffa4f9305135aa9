"""``quote`` and ``reasoning``: what a page puts together, wherever a stream goes on or breaks."""

import json
from typing import Any

import pytest
from lifecycle_proxy.core.apis import APIS
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.events import Envelope, Outcome, ToolCompleted, ToolRunning
from lifecycle_proxy.core.lines import END, START

from tests.core import (
    BYTEWISE,
    DONE,
    WHOLE,
    Json,
    call,
    calls,
    chunk,
    finish,
    make,
    native,
    play,
    segments,
    sse,
    text,
    whatwg,
)

segmented = pytest.mark.parametrize("sizes", [WHOLE, BYTEWISE, (7,)], ids=["whole", "1", "7"])
RUN = native("running", "a", label="df", emoji="💻")
OVER = native("completed", "a")
RUN_B = native("running", "b", tool="ls", emoji="📖")
OVER_B = native("completed", "b", tool="ls")
A, B = f"\n\n> {START}💻 terminal: `df` …", f"\n\n> {START}📖 ls …"
A2, B2 = f"\n\n> {START}💻 terminal: `df`", f"\n\n> {START}📖 ls"
OK, SHUT = f" ✓ 0.0 s{END}\n\n", f"{END}\n\n"
BAD = f" ✗ 0.0 s{END}\n\n"


def deltas(data: bytes) -> list[Json]:
    """The deltas of a stream that say something, with ``choice`` where that is not 0."""
    found = []
    for _, one in whatwg(data):
        for entry in json.loads(one).get("choices", ()) if one.startswith(b"{") else ():
            more = {"choice": entry["index"]} if entry["index"] else {}
            more |= {"finish": entry["finish_reason"]} if entry["finish_reason"] else {}
            found.append({**entry["delta"], **more})
    return [delta for delta in found if delta and "tool_calls" not in delta]


def shown(
    body: bytes, name: str, sizes: tuple[int, ...] = WHOLE, abort: str | None = None, **more: Any
) -> list[Json]:
    """The deltas of the answer, on a clock that stands still."""
    pipeline = make(DIALECTS[name], **more)
    data = [pipeline.feed(piece, 0.0).data for piece in segments(body, sizes)]
    last = pipeline.eof(0.0) if abort is None else pipeline.abort(abort, 0.0, error=b"data: {}\n\n")
    return deltas(b"".join((*data, last.data)))


def said(*contents: str) -> list[Json]:
    return [{"content": content} for content in contents]


def thought(*contents: str) -> list[Json]:
    return [{"reasoning_content": content} for content in contents]


STOP = [{"finish": "stop"}]

# --- quote ---------------------------------------------------------------------------------------


@segmented
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            text("a") + RUN + OVER + text("b") + finish("stop") + DONE,
            [*said("a", A, OK, "b"), *STOP],
            id="one tool",
        ),
        pytest.param(
            text("a") + RUN + OVER + text("b") + RUN_B + OVER_B + text("c") + DONE,
            said("a", A, OK, "b", B, OK, "c"),
            id="another one behind text",
        ),
        pytest.param(
            RUN + RUN_B + OVER + OVER_B + text("b") + DONE,
            said(A, SHUT + B, SHUT + A2 + OK, B2 + OK, "b"),
            id="in parallel",
        ),
        pytest.param(
            RUN + RUN_B + OVER_B + OVER + text("b") + DONE,
            said(A, SHUT + B, OK, A2 + OK, "b"),
            id="in parallel, the last one first",
        ),
        pytest.param(
            RUN + text("b") + text("c") + OVER + text("d") + DONE,
            said(A, SHUT, "b", "c", A2 + OK, "d"),
            id="text while it runs",
        ),
        pytest.param(
            RUN + chunk({"reasoning_content": "hm"}) + OVER + DONE,
            [*said(A, SHUT), *thought("hm"), *said(A2 + OK)],
            id="thoughts while it runs",
        ),
        pytest.param(
            RUN + text("b", choice=1) + OVER + DONE,
            [*said(A), {"content": "b", "choice": 1}, *said(OK)],
            id="text of another choice",
        ),
        pytest.param(RUN + sse({"error": "x"}), said(A, BAD), id="an error"),
        pytest.param(RUN, said(A, BAD), id="no end"),
        pytest.param(RUN + OVER + finish("stop") + DONE, [*said(A, OK), *STOP], id="no text"),
    ],
)
def test_each_tool_has_a_line_at_its_place(
    body: bytes, expected: list[Json], sizes: tuple[int, ...]
) -> None:
    assert shown(body, "quote", sizes) == expected


@segmented
def test_a_line_waits_for_its_label(sizes: tuple[int, ...]) -> None:
    pieces = [calls(call(arguments='"x":')), calls(call(arguments="{}}")), text("b") + DONE]
    body = calls(call(0, "a", "f")) + calls(call(arguments="{")) + b"".join(pieces)
    line = f"\n\n> {START}⚡ f: `{{″x″:{{}}}}`"
    pipeline = make(DIALECTS["quote"])
    steps = [pipeline.feed(piece, 0.0) for piece in segments(body, sizes)]
    assert deltas(b"".join(s.data for s in steps)) == said(f"{line} …", SHUT, "b", f"{line}{OK}")
    first = next(step for step in steps if step.events)
    assert b"}}" in first.data
    assert sizes == WHOLE or b'"b"' not in first.data


def two_choices() -> bytes:
    one, two = (calls(call(0, i, f, "{}"), choice=c) for i, f, c in (("a", "f", 0), ("b", "g", 2)))
    ends = finish(choice=0) + finish(choice=2)
    return one + two + ends + text("x", choice=2) + text("y") + DONE


@pytest.mark.parametrize("name", ["quote", "reasoning"])
def test_a_line_stands_in_its_choice(name: str) -> None:
    found = shown(two_choices(), name)
    key = "content" if name == "quote" else "reasoning_content"
    lines = [d for d in found if key in d and d[key] not in ("x", "y")]
    assert [d.get("choice", 0) for d in lines] == [0, 2, 0, 2]
    assert [" f" in d[key] or " g" in d[key] for d in lines] == [True, True, False, False]


def test_a_call_that_the_client_runs_is_closed_with_its_stream() -> None:
    """Span ``execution``: its end stands at the head of the next stream, on a line of its own."""
    body = calls(call(0, "a", "f", "{}")) + finish() + DONE
    line = f"\n\n> {START}⚡ f: `{{}}`"
    expected = [*said(f"{line} …"), {"finish": "tool_calls"}, *said(SHUT)]
    assert shown(body, "quote", span="execution") == expected
    ended = ToolCompleted("a", 0, "f", "{}", "*", Outcome.FAILED, 1200)
    found = shown(text("x") + DONE, "quote", span="execution", carried_over=[ended])
    assert found == said(f"{line} ✗ 1.2 s{END}\n\n", "x")


@pytest.mark.parametrize(
    ("tool", "label", "emoji", "line"),
    [
        ("terminal", "terminal", "💻", "💻 terminal"),
        ("web_search", "a b", "🔍", "🔍 web_search: `a b`"),
        ("srv.mcp-x", "", "✍️", "✍️ srv.mcp-x: `?`"),
        ("*x*", "x\ny", "", "⚡ `*x*`: `x y`"),
        ("a__b", "> # `x`", "[a](b)", "⚡ `a__b`: `> # ˋxˋ`"),
        ("x_", 'a"b\\c\u2063\u2028d', "\n> 👩\u200d💻", "👩\u200d💻 `x_`: `a″b∖c d`"),
        ("", "\x00\u202e", "\u2063", "⚡ `?`: `?`"),
        ("f" * 2000, "x" * 2000, "💻" * 99, f"{'💻' * 16} `{'f' * 1000}`: `{'x' * 1000}`"),
        ("<b>", "**", "\ud800", "⚡ `<b>`: `**`"),
    ],
)
def test_nothing_breaks_out_of_a_line(tool: str, label: str, emoji: str, line: str) -> None:
    writer = DIALECTS["quote"].chat()
    frame = writer.write(ToolRunning("a", 0, tool, label, emoji), Envelope("c", 1, "m"))
    assert deltas(frame) == said(f"\n\n> {START}{line} …")


# --- reasoning -----------------------------------------------------------------------------------

LINE, LINE_B = "💻 terminal: df", "📖 ls"
TOOK = " ✓ 0.0 s\n"
LATE = chunk({"reasoning_content": "hm"})


@segmented
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            RUN + OVER + text("b") + finish("stop") + DONE,
            [*thought(LINE, TOOK), *said("b"), *STOP],
            id="nothing before",
        ),
        pytest.param(
            LATE + RUN + OVER + RUN_B + OVER_B + LATE + text("b") + DONE,
            [*thought("hm", f"\n{LINE}", TOOK, LINE_B, TOOK, "hm"), *said("b")],
            id="behind thoughts, and in front of some",
        ),
        pytest.param(
            RUN + RUN_B + OVER + OVER_B + text("b") + DONE,
            [*thought(LINE, f"\n{LINE_B}", f"\n{LINE}{TOOK}", f"{LINE_B}{TOOK}"), *said("b")],
            id="in parallel",
        ),
        pytest.param(
            RUN + LATE + OVER + text("b") + DONE,
            [*thought(LINE, "\n", "hm", f"\n{LINE}{TOOK}"), *said("b")],
            id="thoughts while it runs",
        ),
        pytest.param(
            text("a") + RUN + OVER + text("b") + RUN_B + OVER_B + text("c") + DONE,
            [
                *(*said("a"), *thought(f"\n{LINE}", TOOK)),
                *(*said("b"), *thought(f"\n{LINE_B}", TOOK), *said("c")),
            ],
            id="between texts",
        ),
        pytest.param(
            RUN + OVER + finish("stop") + DONE,
            [*thought(LINE, TOOK), *said("\n"), *STOP],
            id="a finish with nothing in front of it",
        ),
        pytest.param(
            RUN + OVER + finish("stop", choice=1) + DONE,
            [*thought(LINE, TOOK), {"finish": "stop", "choice": 1}, *said("\n")],
            id="the finish of another choice",
        ),
        pytest.param(RUN + OVER + DONE, [*thought(LINE, TOOK), *said("\n")], id="just an end"),
        pytest.param(
            RUN + sse({"error": "x"}), [*thought(LINE, " ✗ 0.0 s\n"), *said("\n")], id="an error"
        ),
        pytest.param(RUN, [*thought(LINE, " ✗ 0.0 s\n"), *said("\n")], id="no end"),
        pytest.param(
            text("a") + finish("stop") + DONE, [*said("a"), *STOP], id="no tool, nothing to close"
        ),
        pytest.param(
            calls(call(0, "a", "f", "{}")) + finish() + DONE,
            [*thought("* f: {}"), {"finish": "tool_calls"}, *thought(TOOK), *said("\n")],
            id="a call that is left to the client",
        ),
    ],
)
def test_lines_of_the_thinking_block(
    body: bytes, expected: list[Json], sizes: tuple[int, ...]
) -> None:
    assert shown(body, "reasoning", sizes) == expected


@pytest.mark.parametrize(("name", "last"), [("quote", said(BAD)), ("reasoning", said("\n"))])
@pytest.mark.parametrize("before", [b"", LATE, text("a")])
@pytest.mark.parametrize("cut", [b"", text("half")[:20]])
def test_what_is_open_is_closed_in_front_of_an_error_of_ours(
    name: str, last: list[Json], before: bytes, cut: bytes
) -> None:
    assert shown(before + RUN + cut, name, abort="upstream_error")[-1:] == last
    pipeline = make(DIALECTS[name])
    pipeline.feed(before + RUN + cut, 0.0)
    assert pipeline.abort("x", 0.0, error=b"data: {}\n\n").data.endswith(b"data: {}\n\n" + cut)


def test_behind_a_failure_of_ours_nothing_is_left_open() -> None:
    pipeline = make(DIALECTS["quote"], presenter=None)
    data = pipeline.feed(text("a") + calls(call(0, "a", "f", "{}")) + text("b"), 0.0).data
    assert pipeline.counts.failure is not None
    assert deltas(data) == said("a", "b")


# --- both ----------------------------------------------------------------------------------------

RESULT = chunk({"role": "tool", "tool_call_id": "a", "content": "/dev/sda1 42%"})


@segmented
@pytest.mark.parametrize("name", ["quote", "reasoning"])
def test_results_are_not_shown(name: str, sizes: tuple[int, ...]) -> None:
    body = calls(call(0, "a", "f", "{}")) + RESULT + text("b") + finish("stop") + DONE
    found = shown(body, name, sizes)
    assert "42%" not in json.dumps(found)
    assert [d for d in found if d.get("content") == "b" or "finish" in d] == [*said("b"), *STOP]
    assert b"42%" in play(body, sizes, dialect=DIALECTS["chunk"]).data


def test_what_else_is_in_such_a_chunk_stays() -> None:
    usage = chunk({"role": "tool", "content": "r"}, usage={"total_tokens": 1})
    ended = chunk({"role": "tool", "content": "r"}, finish="stop")
    entries = [{"index": i, "delta": {"role": r, "content": r}} for i, r in ((0, "tool"), (1, "x"))]
    two = sse({"choices": [*entries, "odd"]})
    data = play(usage + ended + two + DONE, dialect=DIALECTS["quote"]).data
    assert b'"total_tokens":1' in data
    assert b'"finish_reason":"stop"' in data
    assert b'"content":"x"' in data
    assert b'"r"' not in data
    assert b'"content":"tool"' not in data


@pytest.mark.parametrize(
    "odd",
    [
        sse('{"role":"tool"'),
        sse(["tool"]),
        sse({"choices": "tool"}),
        sse({"choices": [{"delta": "tool"}, "tool"]}),
        sse({"choices": [{"delta": {"role": ["tool"]}}]}),
        b": tool\n\n",
        b"event: tool\n\n",
    ],
)
def test_what_is_no_result_passes_to_the_byte(odd: bytes) -> None:
    assert play(text() + odd + DONE, dialect=DIALECTS["quote"]).data == text() + odd + DONE


@pytest.mark.parametrize("api", ["responses", "messages"])
@pytest.mark.parametrize("name", ["quote", "reasoning"])
def test_streams_of_typed_events_have_the_frames_of_all_others(name: str, api: str) -> None:
    event, envelope = ToolRunning("a", 0, "f", "l", "x"), Envelope("c", 1, "m")
    writer, other = (APIS[api].writer(DIALECTS[one]) for one in (name, "chunk"))
    assert writer.write(event, envelope) == other.write(event, envelope)
    assert not writer.whole_arguments
    assert not writer.hides_results
    assert writer.before((), envelope) == b""


@pytest.mark.parametrize("name", ["quote", "reasoning"])
def test_text_passes_as_the_same_object_behind_a_line_that_has_ended(name: str) -> None:
    pipeline = make(DIALECTS[name])
    pieces = [text("a"), RUN, OVER, text("b"), text("c"), text("d")]
    steps = [pipeline.feed(piece, 0.0) for piece in pieces]
    assert [step.data is piece for step, piece in zip(steps, pieces, strict=True)][3:] == 3 * [True]
    assert pipeline.skim(text("e"))


@pytest.mark.usefixtures("usual_recursion_limit")
@pytest.mark.parametrize("depth", [2, 300, 1010])
def test_a_result_beside_something_deep_passes_whole_or_is_taken_out(depth: int) -> None:
    """How deep the encoder goes depends on the version of Python."""
    deep = "[" * depth + "]" * depth
    event = sse('{"choices":[{"delta":{"role":"tool","content":"r"}}],"usage":' + deep + "}")
    data = play(text() + event + DONE, dialect=DIALECTS["quote"]).data
    assert data.endswith(DONE)
    assert event in data or (b'"r"' not in data and deep.encode() in data)
