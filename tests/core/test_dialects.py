"""Each dialect's bytes."""

import pytest

from proxy.core.dialects import DIALECTS
from proxy.core.events import Envelope, LifecycleEvent, Outcome, ToolCompleted, ToolRunning

RUNNING = ToolRunning("call_1", 0, "terminal", "ls ü", "💻")
COMPLETED = ToolCompleted("call_1", 0, "terminal", "ls ü", "💻", Outcome.OK, 1234)
FAILED = ToolCompleted(
    "call_1", 2, "terminal", "ls", "💻", Outcome.CUT, 5, reason="length", output="o"
)
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
        ("off", RUNNING, ""),
        ("off", COMPLETED, ""),
    ],
)
def test_the_exact_bytes(name: str, event: LifecycleEvent, frame: str) -> None:
    assert DIALECTS[name](event, Envelope("chatcmpl-1", 7, "m")).decode() == frame


@pytest.mark.parametrize("name", DIALECTS)
def test_no_text_breaks_a_frame(name: str) -> None:
    nasty = 'a\nb\r\u2028\x00\ud800"\\'
    event = ToolRunning(nasty, 0, nasty, nasty, nasty)
    frame = DIALECTS[name](event, Envelope(nasty, 1, nasty))
    lines = frame.splitlines()
    assert b"\r" not in frame
    assert frame.count(b"\n\n") == bool(frame)
    assert all(line.startswith((b"event: ", b"data: {", b": hermes")) for line in lines[:-1])


def test_the_fingerprint_of_the_upstream_is_kept() -> None:
    running = ToolRunning("a", 0, "f", "f", "x")
    frame = DIALECTS["plain"](running, Envelope("c", 1, "m", "fp_1"))
    assert b'"system_fingerprint":"fp_1"' in frame
    assert b"fingerprint" not in DIALECTS["plain"](running, Envelope("c", 1, "m"))
