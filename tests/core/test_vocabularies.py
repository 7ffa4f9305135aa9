"""What readers beside a stream get, to the byte: a row for each vocabulary."""

from collections.abc import Iterator

import pytest
from lifecycle_proxy.core.stream_events import EventType, StreamEvent
from lifecycle_proxy.core.vocabularies import DEFAULT, VOCABULARIES, Vocabulary

_AT = 1700000000.1234


def events() -> Iterator[StreamEvent]:
    """A stream with all there is."""
    call = {"tool": "terminal", "emoji": "💻", "label": "ls", "toolCallId": "call_1"}
    rows: tuple[tuple[EventType, dict[str, object]], ...] = (
        ("stream.started", {"model": "m", "api": "chat", "requestId": "req_1"}),
        ("text", {"text": "Hé", "kind": "text", "choice": 0}),
        ("tool.running", {**call, "status": "running"}),
        ("stream.done", {"status": "completed", "durationMs": 5, "calls": 1}),
    )
    for seq, (type_, data) in enumerate(rows, 1):
        yield StreamEvent(seq, _AT, type_, data)


def vocabulary(name: str) -> Vocabulary:
    return VOCABULARIES[name]("st_1")


def test_the_proxy_s_own_form() -> None:
    own = vocabulary(DEFAULT)
    assert own.begin() == b"retry: 2000\n: connected\n\n"
    assert own.keep_alive(_AT) == b": keep-alive\n\n"
    tail = b'"ts":1700000000.123,"streamId":"st_1"}\n\n'
    assert [own.render(event) for event in events()] == [
        b'id: 1\nevent: stream.started\ndata: {"model":"m","api":"chat",'
        b'"requestId":"req_1","seq":1,' + tail,
        'id: 2\nevent: text\ndata: {"text":"Hé","kind":"text","choice":0,"seq":2,'.encode() + tail,
        'id: 3\nevent: tool.running\ndata: {"tool":"terminal","emoji":"💻","label":"ls",'
        '"toolCallId":"call_1","status":"running","seq":3,'.encode()
        + tail,
        b'id: 4\nevent: stream.done\ndata: {"status":"completed","durationMs":5,"calls":1,"seq":4,'
        + tail,
    ]
    assert own.done() == b""
    assert own.gap(3, 7, [{"toolCallId": "call_1"}]) == (
        b'event: gap\ndata: {"requested":3,"firstAvailable":7,'
        b'"openCalls":[{"toolCallId":"call_1"}],"streamId":"st_1"}\n\n'
    )
    assert own.reset(9) == b'event: reset\ndata: {"requested":9,"streamId":"st_1"}\n\n'


@pytest.mark.parametrize("name", VOCABULARIES)
def test_each_says_what_kind_of_response_it_is(name: str) -> None:
    assert VOCABULARIES[name]("st_1").headers["Content-Type"]
