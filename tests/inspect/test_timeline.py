"""Frames, with their times and whose they are, and tools from running to completed."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.core import sse
from lifecycle_proxy.inspect import summary, timeline, tool_bars
from lifecycle_proxy.recording import cassette, json_lines
from lifecycle_proxy.recording.cassette import Piece, RecordedExchange, Side

from tests.recording.build import Tape, agent, call, chunk, frame, write


def load(tmp_path: Path, tape: Tape) -> RecordedExchange:
    return cassette.load(write(tmp_path / "one.jsonl", tape))[0]


def test_frames_of_an_agent(tmp_path: Path) -> None:
    exchange = load(tmp_path, agent())
    assert (exchange.upstream.is_whole, exchange.client.is_whole) == (True, True)
    for side in (exchange.upstream, exchange.client):
        frames = timeline.frames(side)
        assert b"".join(f.raw for f in frames) == side.body
        assert [f.start for f in frames[1:]] == [f.start + len(f.raw) for f in frames[:-1]]
    assert len(timeline.frames(exchange.upstream)) == 65
    ours = [
        f.summary.words.partition(":")[0] for f in timeline.frames(exchange.client) if f.is_added
    ]
    assert ours == [
        'hermes.tool.progress running web_search "Oslo weather"',
        'hermes.tool.progress running terminal "df -h"',
        'comment "keep-alive"',
        'hermes.tool.progress completed terminal "df -h" in 918 ms',
        'hermes.tool.progress completed web_search "Oslo weather" in 1706 ms',
    ]


def test_a_frame_in_two_reads_has_the_time_of_the_second(tmp_path: Path) -> None:
    data = chunk({"content": "é"})
    cut = data.index(b"\\u00e9")
    tape = Tape().request().head(5).read(10, data[:cut]).read(20, data[cut:]).read(30, b"data: x")
    frames = timeline.frames(load(tmp_path, tape.end()).client)
    assert [(f.ms, f.summary.words) for f in frames] == [(20, 'text "é"'), (30, '"x"')]


def test_bars(tmp_path: Path) -> None:
    bars = tool_bars.of(load(tmp_path, agent()))
    assert [(b.tool, b.start, b.stop, b.duration_ms) for b in bars] == [
        ("web_search", 422, 2128, 1706),
        ("terminal", 570, 1488, 918),
    ]


def test_bars_of_odd_tools(tmp_path: Path) -> None:
    tape = Tape().request().head(5)
    tape.read(10, frame("a", "running")).read(20, frame("a", "completed", isError=True))
    tape.read(30, frame("a", "running"))  # again, and never completed
    tape.read(900, frame("b", "completed", durationMs=5000, reason="superseded"))
    told = {"tool": "t", "label": "t", "toolCallId": "c"}
    tools = [{**told, "status": "running"}, {**told, "status": "completed", "durationMs": 7}]
    bars = tool_bars.of(load(tmp_path, tape.end(tools=tools)))
    assert [(b.id, b.start, b.stop, b.is_error) for b in bars] == [
        ("a", 10, 20, True),
        ("a", 30, None, False),
        ("b", 0, 900, False),  # it began in an earlier exchange
        ("c", None, None, False),
    ]
    assert (bars[2].reason, bars[3].duration_ms, bars[3].label) == ("superseded", 7, "")


@pytest.mark.parametrize("took", ["NaN", "Infinity", "-1", "true", "1e999", "9" * 4000, '"1"'])
def test_a_duration_that_is_none(tmp_path: Path, took: str) -> None:
    data = frame("a", "completed", durationMs=5).replace(b": 5", f": {took}".encode())
    (bar,) = tool_bars.of(load(tmp_path, Tape().request().head(5).read(10, data).end()))
    assert (bar.stop, bar.duration_ms) == (10, None)


def test_a_skim_has_the_first_frames_and_all_tools(tmp_path: Path) -> None:
    side = load(tmp_path, agent()).client
    whole = timeline.frames(side)
    found = timeline.skim(side, 10, 1000, {})
    assert (found.frames, found.more, found.unread) == (whole[:10], 60, 0)
    assert found.tools == [one for one in whole if one.summary.tool]
    found = timeline.skim(side, 10, 20, {})
    assert (found.parsed, found.more) == (20, 10)
    assert found.unread == len(side.body) - whole[20].start


def test_a_body_that_unpacks_to_too_much_stays_as_it_is() -> None:
    bomb = gzip.compress(b"\0" * (25 << 20))
    pieces = [Piece(1, bomb) for _ in range(6)]
    side = Side(200, "OK", (("Content-Encoding", "gzip"),), pieces=pieces)
    assert timeline.clear(side) is pieces


def test_tools_that_only_the_upstream_told(tmp_path: Path) -> None:
    tape = Tape().request().head(5).read(10, frame("a", "running"), sent=False).end()
    assert [b.id for b in tool_bars.of(load(tmp_path, tape))] == ["a"]


@pytest.mark.parametrize("broken", [False, True])
def test_compressed(broken: bool) -> None:
    data = gzip.compress(chunk({"content": "a"}) + chunk({"content": "b"}))
    pieces = [Piece(1, data[:20]), Piece(2, data[20:])]
    if broken:
        pieces = [Piece(1, b"no gzip at all")]
    kind = ("Content-Type", "text/event-stream")
    side = Side(200, "OK", (kind, ("content-encoding", "GZIP")), pieces=pieces)
    words = ['"no gzip at all"'] if broken else ['text "a"', 'text "b"']
    found = [f.summary.words for f in timeline.frames(side)]
    assert found == (["no data: " + words[0]] if broken else words)


def test_bodies_that_are_no_event_stream() -> None:
    pieces = [Piece(1, b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}')]
    side = Side(200, "OK", (("Content-Type", "application/json; charset=utf-8"),), pieces=pieces)
    assert [f.summary.words for f in timeline.frames(side)] == ['text "hi", finish stop']
    side.pieces = [Piece(1, b'{"a'), Piece(2, b'":1}')]
    assert [(f.ms, f.start, f.summary.kind) for f in timeline.frames(side)] == [
        (1, 0, "bytes"),
        (2, 3, "bytes"),
    ]
    side.headers = ()
    assert [f.summary.kind for f in timeline.frames(side)] == ["bytes", "bytes"]
    side.pieces = [Piece(1, b"data: [DONE]\n\n")]  # no type, but the looks of it
    assert [f.summary.kind for f in timeline.frames(side)] == ["done"]
    assert timeline.frames(Side()) == []


def test_ours_behind_an_unterminated_frame() -> None:
    told = b"\n" + frame("a", "running")
    data = b"data: {}\n" + told + b"data: [DONE]\n\n"
    piece = Piece(1, data, ((9, 9 + len(told)),))
    side = Side(200, "OK", (("Content-Type", "text/event-stream"),), pieces=[piece])
    assert [f.is_added for f in timeline.frames(side)] == [False, True, False]


def item(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.output_item.{kind}", "item": fields}


LIFECYCLE = '{"toolCallId":"a","status":"running","tool":"t","label":"t"}'


@pytest.mark.parametrize(
    ("payload", "kind", "words"),
    [
        ({"choices": [{"delta": {"role": "assistant"}}]}, "role", "role assistant"),
        ({"choices": [{"delta": {}}]}, "other", "an empty delta"),
        ({"choices": [{"index": 1, "delta": {"content": "x"}}]}, "text", 'choice 1 text "x"'),
        ({"choices": [{"delta": {"reasoning": "x"}}]}, "thought", 'thought "x"'),
        ({"choices": [{"delta": {"audio": {}}}]}, "other", "keys audio"),
        ({"choices": [{"delta": call(0, id="i", name="f")}]}, "call", "call 0 f (i)"),
        ({"choices": [{"delta": {"tool_calls": [{}, 1]}}]}, "call", "call"),
        ({"choices": [{"delta": {"tool_calls": {}}}]}, "other", "an empty delta"),
        ({"choices": [{"delta": {"executed_tools": []}}]}, "result", "result of a tool"),
        ({"choices": [1, {"delta": 1, "finish_reason": "stop"}]}, "finish", "finish stop"),
        ({"choices": [], "usage": {"total_tokens": 3}}, "usage", "usage total_tokens 3"),
        ({"choices": []}, "other", "no choices"),
        ({"error": {"message": "boom"}}, "error", 'error "boom"'),
        ({"error": "boom"}, "error", 'error "boom"'),
        ({"type": "error", "message": "boom"}, "error", 'error "boom"'),
        ({"type": "response.failed"}, "error", 'error "response.failed"'),
        (
            {"type": "response.failed", "response": {"error": {"message": "boom"}}},
            "error",
            'error "boom"',
        ),
        ({"object": "list"}, "other", "keys object"),
        (
            {"type": "response.output_text.delta", "delta": "x"},
            "text",
            'response.output_text.delta "x"',
        ),
        (
            {"type": "response.reasoning_text.delta", "delta": "x"},
            "thought",
            'response.reasoning_text.delta "x"',
        ),
        (
            {"type": "response.mcp_call_arguments.delta", "delta": "x"},
            "call",
            'response.mcp_call_arguments.delta "x"',
        ),
        (
            item("added", type="function_call", name="f", call_id="c"),
            "call",
            "response.output_item.added function_call f c",
        ),
        (item("done", type="message"), "other", "response.output_item.done message"),
        (item("done"), "other", "response.output_item.done"),
        ({"type": "response.completed"}, "done", "response.completed"),
        (
            {"type": "content_block_delta", "delta": {"partial_json": "{"}},
            "call",
            'content_block_delta "{"',
        ),
        (
            {"type": "content_block_delta", "delta": {"signature": "s"}},
            "other",
            "content_block_delta",
        ),
        (
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"n": 1}},
            "finish",
            "message_delta end_turn, usage n 1",
        ),
    ],
)
def test_words(payload: dict[str, Any], kind: str, words: str) -> None:
    said = summary.summarize(sse.Event(b"", b"", json_lines.line(payload)))
    assert (said.kind, said.words) == (kind, words)


@pytest.mark.parametrize(
    ("raw", "kind", "words"),
    [
        (b": hi\n\n", "comment", 'comment "hi"'),
        (b": hermes.tool.progress {}\n\n", "comment", 'comment "hermes.tool.progress {}"'),
        (
            f": hermes.tool.progress {LIFECYCLE}\n\n".encode(),
            "tool",
            "comment hermes.tool.progress running t",
        ),
        (b"event: ping\nid: 1\n\n", "other", 'ping: no data: "event: ping\nid: 1"'),
        (b"\n\n", "other", "blank lines"),
        (b"event: x\ndata: {}\n\n", "other", "x: keys "),
        (b"data: garbage\n\n", "bytes", '"garbage"'),
        (b"data: [1]\n\n", "bytes", '"[1]"'),
        (b'data: {"error":"\xff"}\n\n', "error", 'error "\ufffd"'),
        (b"data: " + b"y" * 99 + b"\n\n", "bytes", '"' + "y" * 59 + '…"'),
    ],
)
def test_words_of_other_frames(raw: bytes, kind: str, words: str) -> None:
    (event,) = sse.Parser(1 << 20).feed(raw)
    said = summary.summarize(event)
    assert (said.kind, said.words) == (kind, words)


def test_a_piece_of_a_huge_event() -> None:
    assert summary.summarize(sse.Event(b"x", b"", None, parsed=False)).kind == "bytes"


def test_what_is_written_piece_by_piece() -> None:
    one = {"index": 1, "delta": {"content": "b", **call(2, "{")}}
    zero = {"index": 0, "delta": {"content": "a", "reasoning_content": "r"}}
    data = json_lines.line({"choices": [zero, one, {"delta": {"tool_calls": [{}]}}]})
    said = summary.summarize(sse.Event(b"", b"", data))
    assert said.written == (
        ("thought", "r"),
        ("text", "a"),
        ("text of choice 1", "b"),
        ("call 2 of choice 1", "{"),
    )
    assert (said.delta("text"), said.delta("thought")) == ("a", "r")


def test_a_comment_with_one_line_end_is_a_frame_of_its_own(tmp_path: Path) -> None:
    """As they are in a stream with ids. To a parser they belong to the event that follows."""
    beat = b": keep-alive\n"
    told = b': hermes.tool.progress {"tool": "t", "toolCallId": "c", "status": "running"}\n'
    events = [b"id: %d\n%b" % (n, chunk({"content": text})) for n, text in enumerate("abc")]
    tape = Tape().request().head(5).read(10, events[0])
    for ms, ours in ((20, beat), (30, beat), (35, told)):
        tape.sent(ms, ours, (0, len(ours)))
    tape.read(40, events[1]).sent(50, beat, (0, len(beat)))
    frames = timeline.frames(load(tmp_path, tape.read(60, events[2]).end()).client)
    assert [frame.raw for frame in frames] == [
        events[0],
        beat,
        beat,
        told,
        events[1],
        beat,
        events[2],
    ]
    assert [frame.is_added for frame in frames] == [False, True, True, True, False, True, False]
    assert frames[3].summary.kind == "tool"
    assert [f.start for f in frames[1:]] == [f.start + len(f.raw) for f in frames[:-1]]
