"""Each dialect's bytes."""

import json
from typing import Any

import pytest
from lifecycle_proxy.core.apis import MESSAGES, RESPONSES, Api
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.events import (
    Envelope,
    LifecycleEvent,
    Outcome,
    ToolCompleted,
    ToolRunning,
)
from msgspec.structs import replace

RUNNING = ToolRunning("call_1", 0, "terminal", "ls ü", "💻")
COMPLETED = ToolCompleted("call_1", 0, "terminal", "ls ü", "💻", Outcome.OK, 1234)
FAILED = ToolCompleted(
    "call_1", 2, "terminal", "ls", "💻", Outcome.CUT, 5, reason="length", output="o"
)
HOSTED = replace(RUNNING, hosted=True)
ITEM = '"type":"response.output_item.added","output_index":1000000,'
HEAD = (
    '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"m",'
    '"choices":[{"index":0,"delta":{},"finish_reason":null}],'
)
EVENT = "event: hermes.tool.progress\n"
FIELDS = '"tool":"terminal","emoji":"💻","label":"ls ü","toolCallId":"call_1",'
RUNNING_FIELDS = FIELDS + '"status":"running"}'
COMPLETED_FIELDS = FIELDS + '"status":"completed","durationMs":1234}'
FAILED_FIELDS = (
    '"tool":"terminal","emoji":"💻","label":"ls","toolCallId":"call_1",'
    '"status":"completed","durationMs":5,"isError":true,"reason":"length",'
    '"result":"o","choice":2}'
)


def written(name: str, event: LifecycleEvent, envelope: Envelope) -> bytes:
    """The first frame of a stream."""
    return DIALECTS[name].chat().write(event, envelope)


@pytest.mark.parametrize(
    ("name", "event", "frame"),
    [
        ("chunk", RUNNING, f"{EVENT}data: {HEAD}{RUNNING_FIELDS}\n\n"),
        ("chunk", COMPLETED, f"{EVENT}data: {HEAD}{COMPLETED_FIELDS}\n\n"),
        ("chunk", FAILED, f"{EVENT}data: {HEAD}{FAILED_FIELDS}\n\n"),
        ("plain", RUNNING, f"data: {HEAD}{RUNNING_FIELDS}\n\n"),
        ("plain", FAILED, f"data: {HEAD}{FAILED_FIELDS}\n\n"),
        ("comment", RUNNING, f": hermes.tool.progress {{{RUNNING_FIELDS}\n\n"),
        ("comment", FAILED, f": hermes.tool.progress {{{FAILED_FIELDS}\n\n"),
        (
            "bare",
            RUNNING,
            EVENT + 'data: {"tool": "terminal", "emoji": "\\ud83d\\udcbb", "label": "ls \\u00fc", '
            '"toolCallId": "call_1", "status": "running"}\n\n',
        ),
        (
            "bare",
            FAILED,
            EVENT + 'data: {"tool": "terminal", "toolCallId": "call_1", "status": "completed"}\n\n',
        ),
        ("openwebui", RUNNING, f"{EVENT}data: {HEAD}{RUNNING_FIELDS}\n\n"),
        ("openwebui", FAILED, f"{EVENT}data: {HEAD}{FAILED_FIELDS}\n\n"),
        (
            "openwebui",
            HOSTED,
            (
                f"{EVENT}data: {HEAD}{RUNNING_FIELDS[:-1]},{ITEM}"
                '"item":{"type":"function_call","id":"htp_call_1","call_id":"htp_call_1",'
                '"name":"terminal","arguments":"{\\"label\\":\\"ls ü\\"}",'
                '"status":"completed"}}\n\n'
            ),
        ),
        (
            "openwebui",
            replace(COMPLETED, hosted=True),
            (
                f"{EVENT}data: {HEAD}{COMPLETED_FIELDS[:-1]},{ITEM}"
                '"item":{"type":"function_call_output","id":"htp_call_1_out","call_id":"htp_call_1",'
                '"output":[{"type":"input_text","text":"done in 1.2 s"}],"status":"completed"}}\n\n'
            ),
        ),
        (
            "openwebui-status",
            RUNNING,
            (
                f"{EVENT}data: {HEAD}{RUNNING_FIELDS[:-1]},"
                '"event":{"type":"status","data":{"description":"💻 terminal: ls ü",'
                '"done":false}}}\n\n'
            ),
        ),
        (
            "openwebui-status",
            FAILED,
            (
                f"{EVENT}data: {HEAD}{FAILED_FIELDS[:-1]},"
                '"event":{"type":"status","data":{"description":"💻 terminal: ls (cut off)",'
                '"done":true}}}\n\n'
            ),
        ),
        (
            "reasoning",
            replace(RUNNING, choice=1),
            (
                f"data: {HEAD.partition('[')[0]}"
                '[{"index":1,"delta":{"reasoning_content":"💻 terminal: ls ü"},'
                '"finish_reason":null}]}\n\n'
            ),
        ),
        ("strip", RUNNING, ""),
        ("strip", COMPLETED, ""),
        ("off", RUNNING, ""),
        ("off", COMPLETED, ""),
    ],
)
def test_the_exact_bytes(name: str, event: LifecycleEvent, frame: str) -> None:
    assert written(name, event, Envelope("chatcmpl-1", 7, "m")).decode() == frame


@pytest.mark.parametrize("name", DIALECTS)
def test_no_text_breaks_a_frame(name: str) -> None:
    nasty = 'a\nb\r\u2028\x00\ud800"\\'
    event = ToolRunning(nasty, 0, nasty, nasty, nasty)
    frame = written(name, event, Envelope(nasty, 1, nasty))
    lines = frame.splitlines()
    assert b"\r" not in frame
    assert frame.count(b"\n\n") == bool(frame)
    assert all(line.startswith((b"event: ", b"data: {", b": hermes")) for line in lines[:-1])


@pytest.mark.parametrize("name", ["plain", "openwebui", "openwebui-status", "reasoning"])
def test_the_fingerprint_of_the_upstream_is_kept(name: str) -> None:
    running = ToolRunning("a", 0, "f", "f", "x")
    frame = written(name, running, Envelope("c", 1, "m", "fp_1"))
    assert b'"system_fingerprint":"fp_1"' in frame
    assert b"fingerprint" not in written(name, running, Envelope("c", 1, "m"))


# --- Open WebUI's cards -----------------------------------------------------------------------


def item(event: LifecycleEvent) -> dict[str, Any]:
    frame = written("openwebui", event, Envelope("c", 1, "m"))
    found: dict[str, Any] = json.loads(frame.partition(b"data: ")[2])["item"]
    return found


@pytest.mark.parametrize(
    ("event", "arguments"),
    [
        (replace(HOSTED, arguments='{"command":"ls"}'), '{"command":"ls"}'),
        (HOSTED, '{"label":"ls ü"}'),
        (replace(HOSTED, label="terminal"), "{}"),
        (replace(HOSTED, label="terminal", arguments='{"a":1}'), '{"a":1}'),
    ],
)
def test_a_card_shows_the_arguments_or_else_the_label(event: ToolRunning, arguments: str) -> None:
    assert item(event)["arguments"] == arguments


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"outcome": Outcome.UNKNOWN, "duration_ms": 50}, "done in 0.1 s"),
        # At that word Open WebUI draws a cross. What broke off is no failure of the tool.
        ({"outcome": Outcome.FAILED}, "Error: failed after 1.2 s"),
        ({"outcome": Outcome.FAILED, "output": "no file"}, "Error: no file"),
        ({"outcome": Outcome.FAILED, "output": "Error: no file"}, "Error: no file"),
        (
            {"outcome": Outcome.FAILED, "reason": "upstream_error"},
            "failed after 1.2 s (upstream_error)",
        ),
        ({"outcome": Outcome.CANCELLED}, "cancelled after 1.2 s"),
        ({"outcome": Outcome.CUT, "reason": "length"}, "cut off after 1.2 s (length)"),
        ({"output": "42 files"}, "42 files"),
        ({"output": "", "reason": "length"}, ""),
    ],
)
def test_a_card_tells_how_the_tool_ended(changes: dict[str, Any], text: str) -> None:
    event = replace(COMPLETED, hosted=True, **changes)
    assert item(event)["output"] == [{"type": "input_text", "text": text}]


def test_every_card_has_an_id_of_its_own_and_its_output_finds_it() -> None:
    ids = set()
    for choice in (0, 1, 2):
        for repeat in (0, 1, 2):
            card = item(replace(HOSTED, choice=choice, repeat=repeat))
            output = item(replace(COMPLETED, hosted=True, choice=choice, repeat=repeat))
            assert card["id"] == card["call_id"] == output["call_id"]
            assert card["id"].startswith("htp_call_1")
            ids |= {card["id"], output["id"]}
    assert len(ids) == 18


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (Outcome.OK, "💻 terminal"),
        (Outcome.UNKNOWN, "💻 terminal"),
        (Outcome.FAILED, "💻 terminal (failed)"),
        (Outcome.CANCELLED, "💻 terminal (cancelled)"),
    ],
)
def test_a_status_line_tells_what_is_known(outcome: Outcome, line: str) -> None:
    event = replace(COMPLETED, label="terminal", outcome=outcome)
    frame = written("openwebui-status", event, Envelope("c", 1, "m"))
    assert json.loads(frame.partition(b"data: ")[2])["event"]["data"]["description"] == line


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("event", [HOSTED, replace(COMPLETED, hosted=True)])
def test_only_open_webui_is_told_more_of_what_runs_behind_the_upstream(
    name: str, event: LifecycleEvent
) -> None:
    envelope = Envelope("c", 1, "m")
    other = written(name, replace(event, hosted=False), envelope)
    same = written(name, event, envelope) == other
    assert same is (name != "openwebui")


# --- streams of typed events ----------------------------------------------------------------------

TYPED = '"event":"hermes.tool.progress",'


@pytest.mark.parametrize(
    ("api", "head", "named"),
    [
        (RESPONSES, '{"type":"keepalive","sequence_number":5,', {"plain": False}),
        (MESSAGES, '{"type":"ping",', {}),
    ],
)
@pytest.mark.parametrize(
    ("event", "fields"),
    [(RUNNING, RUNNING_FIELDS), (FAILED, FAILED_FIELDS), (HOSTED, RUNNING_FIELDS)],
)
def test_the_exact_bytes_where_every_event_has_a_type(
    api: Api, head: str, named: dict[str, bool], event: LifecycleEvent, fields: str
) -> None:
    envelope = Envelope("resp_1", 7, "m", sequence_number=5)
    forms = {name: api.writer(dialect).write for name, dialect in DIALECTS.items()}
    alike = {"bare", "comment", "strip", "off"}
    for name in set(forms) - alike:
        line = EVENT if named.get(name, True) else ""
        assert forms[name](event, envelope).decode() == f"{line}data: {head}{TYPED}{fields}\n\n"
    for name in alike:
        assert forms[name](event, envelope) == written(name, event, envelope)
