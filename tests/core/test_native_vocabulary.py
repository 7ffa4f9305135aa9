"""The upstream's other events: whatever they say, they reach the client byte for byte.

Hermes Agent alone has, besides ``hermes.tool.progress``: ``hermes.status`` and ``approval.request``
in chat completions; ``assistant.*``, ``tool.*`` and ``run.*`` in its session streams.
"""

import re

import pytest
from lifecycle_proxy.core.dialects import DIALECTS, Dialect, Encoder
from lifecycle_proxy.core.events import Envelope, LifecycleEvent

from tests.core import (
    BYTEWISE,
    DONE,
    WHOLE,
    assert_paired,
    call,
    calls,
    finish,
    make,
    native,
    places,
    play,
    segments,
    sse,
    text,
)

SEGMENTATIONS = [WHOLE, (7,), (64, 1), BYTEWISE]
HEAD = calls(call(0, "a", "f", "{"))
RUN = native(label="ls -la", emoji="💻")
END = native("completed")
# Those of whom the upstream's own lifecycle events are not kept.
TRANSLATING = sorted(name for name, dialect in DIALECTS.items() if not dialect.keeps_native)
PASSING = sorted(name for name, dialect in DIALECTS.items() if not dialect.drops_native)

CONTEXTS = {
    "nothing open": (text(), text() + DONE),
    "a call open": (HEAD, calls(call(arguments="}")) + finish() + text() + DONE),
    "a call held": (HEAD + finish(), text() + DONE),
    "a native call open": (text() + RUN, END + text() + DONE),
    "before the first call": (text(), RUN + END + HEAD + finish() + DONE),
    "behind the end": (text() + DONE, text()),
}
_CHUNKLIKE = {"id": "m_1", "object": "assistant.delta", "created": 1, "model": "other"}
_CALLS = [call(0, "z", "g", "{}")]
EVENTS = {
    "status": sse({"kind": "lifecycle", "text": "Retrying (2/3)"}, "hermes.status"),
    "approval.responded": sse({"run_id": "r", "choice": "once"}, "approval.responded"),
    "assistant.delta": sse({"message_id": "m", "delta": "hi", "seq": 4}, "assistant.delta"),
    "assistant.completed": sse({"content": "hi", "completed": True}, "assistant.completed"),
    "tool.started": sse(
        {"tool_name": "f", "tool_call_id": "a", "preview": "ls", "args": {}}, "tool.started"
    ),
    "tool.completed": sse(
        {"tool": "f", "toolCallId": "a", "status": "completed", "error": False}, "tool.completed"
    ),
    "tool.progress": sse(
        {"tool": "f", "toolCallId": "z", "status": "running"}, "hermes.tool.progress.v2"
    ),
    "another case": sse(
        {"tool": "f", "toolCallId": "z", "status": "running"}, "Hermes.Tool.Progress"
    ),
    "a space behind": sse(
        {"tool": "f", "toolCallId": "z", "status": "running"}, "hermes.tool.progress "
    ),
    "chunk fields": sse(
        {**_CHUNKLIKE, "delta": {"tool_calls": _CALLS}, "tool_calls": _CALLS}
        | {"finish_reason": "stop", "usage": {"total_tokens": 1}, "status": "completed"},
        "assistant.snapshot",
    ),
    "no choices": sse({**_CHUNKLIKE, "choices": [], "delta": {"content": "x"}}, "assistant.delta"),
    "spaces": b'event:approval.request\ndata:  {"command" : "rm" }  \n\n',
    "data first": b'data: {"text":"x"}\nid: 7\nevent: hermes.status\nretry: 9\n\n',
    "lines": b": why\nevent: hermes.status\ndata: {\ndata: }\n: not\n\n",
    "no JSON": sse("Retrying", "hermes.status"),
    "nothing": b"event: hermes.status\n\n",
    "a mere line": b"event\n\n",
}
APPROVAL = {
    "run_id": "chatcmpl-1",
    "request_id": "q",
    "command": "rm -r",
    "description": "deletes",
    "choices": ["once", "session", "deny"],
}
APPROVALS = {
    "as Hermes": sse(APPROVAL, "approval.request"),
    "objects": sse({**APPROVAL, "choices": [{"id": "once"}]}, "approval.request"),
    "id and model": sse({**APPROVAL, **_CHUNKLIKE}, "approval.request"),
}


def sent(
    body: bytes, sizes: tuple[int, ...], dialect: Dialect | Encoder, *, translate: bool = True
) -> bytes:
    """What the client gets, on a clock that stands still."""
    pipeline = make(dialect, translate=translate)
    data = [pipeline.feed(piece, 0.0).data for piece in segments(body, sizes)]
    return b"".join(data) + pipeline.eof(0.0).data


def assert_untouched(event: bytes, context: str, name: str) -> None:
    """The output is what it would be without the event, and the event."""
    before, after = CONTEXTS[context]
    without = sent(before + after, WHOLE, DIALECTS[name])
    for sizes in SEGMENTATIONS:
        data = sent(before + event + after, sizes, DIALECTS[name])
        assert data.count(event) == 1
        assert _unspaced(data.replace(event, b"")) == _unspaced(without)


def _unspaced(data: bytes) -> bytes:
    """Without the blank lines behind comments of ours: behind an id there are none."""
    return re.sub(rb"^(: hermes[^\n]*\n)\n", rb"\1", data, flags=re.MULTILINE)


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", sorted(DIALECTS))
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_other_events_pass_and_change_nothing(event: bytes, context: str, name: str) -> None:
    assert_untouched(event, context, name)


@pytest.mark.unmeasured
@pytest.mark.parametrize("sizes", SEGMENTATIONS)
@pytest.mark.parametrize("context", ["nothing open", "a call open", "a call held"])
@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_other_events_pass_in_their_place(
    event: bytes, context: str, sizes: tuple[int, ...]
) -> None:
    before, after = CONTEXTS[context]
    played = play(before + event + after, sizes)
    places(played, before + event + after)
    assert played.told == play(before + after).told


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", sorted(DIALECTS))
@pytest.mark.parametrize("context", [c for c in CONTEXTS if c != "before the first call"])
def test_a_request_for_approval_passes_and_changes_nothing(context: str, name: str) -> None:
    assert_untouched(APPROVALS["as Hermes"], context, name)


@pytest.mark.parametrize(
    ("context", "event"),
    [
        pytest.param("before the first call", event, id=f"{kind}, first")
        for kind, event in APPROVALS.items()
    ]
    + [pytest.param("a call held", APPROVALS["id and model"], id="id and model, later")],
)
def test_frames_copy_nothing_from_a_request_for_approval(context: str, event: bytes) -> None:
    before, after = CONTEXTS[context]
    seen: list[Envelope] = []

    def dialect(_: LifecycleEvent, envelope: Envelope) -> bytes:
        seen.append(Envelope(envelope.id, envelope.created, envelope.model))
        return b""

    sent(before + event + after, WHOLE, dialect)
    assert seen
    assert set(map(str, seen)) == {str(Envelope("chatcmpl-1", 7, "m"))}


@pytest.mark.parametrize("name", sorted(DIALECTS))
@pytest.mark.parametrize("line_end", ["\r\n\r\n", "\r\r"], ids=["CRLF", "CR"])
def test_other_events_pass_with_any_line_end(line_end: str, name: str) -> None:
    event = sse(APPROVAL, "approval.request", line_end)
    for sizes in SEGMENTATIONS:
        data = sent(HEAD + event + finish() + text() + DONE, sizes, DIALECTS[name])
        assert data.count(event) == 1
        assert data.replace(event, b"") == sent(
            HEAD + finish() + text() + DONE, WHOLE, DIALECTS[name]
        )


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", sorted(DIALECTS))
@pytest.mark.parametrize("before", [text(), HEAD], ids=["nothing open", "a call open"])
@pytest.mark.parametrize("missing", [1, 2, 5, 40])
def test_an_unfinished_last_event_passes(missing: int, before: bytes, name: str) -> None:
    event = sse(APPROVAL, "approval.request")[:-missing]
    for sizes in SEGMENTATIONS:
        assert event in sent(before + event, sizes, DIALECTS[name])


@pytest.mark.unmeasured
@pytest.mark.parametrize("sizes", SEGMENTATIONS)
@pytest.mark.parametrize("name", sorted(DIALECTS))
@pytest.mark.parametrize(
    "event",
    [
        pytest.param(sse({"tool": "f", "error": True}, "tool.completed"), id="error"),
        pytest.param(sse({"kind": "x", "error": {"message": "y"}}, "hermes.status"), id="object"),
        pytest.param(sse("[DONE]", "run.completed"), id="done"),
        pytest.param(b"event: chunk\n" + calls(*_CALLS, finish="stop"), id="a chunk with a name"),
    ],
)
def test_events_that_end_or_begin_a_call_pass_too(
    event: bytes, name: str, sizes: tuple[int, ...]
) -> None:
    """SDKs read the data whatever the name: they raise on ``error``, stop at ``[DONE]``."""
    body = HEAD + event + finish() + text() + DONE
    data = sent(body, sizes, DIALECTS[name])
    assert data.count(event) == 1
    assert data == sent(body, WHOLE, DIALECTS[name])
    assert_paired(play(body, sizes).events)


# --- Hermes' own lifecycle events ----------------------------------------------------------------

NATIVE = text() + RUN + END + text() + DONE


@pytest.mark.unmeasured
@pytest.mark.parametrize("sizes", SEGMENTATIONS)
@pytest.mark.parametrize("name", PASSING)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(NATIVE, id="alone"),
        pytest.param(text() + RUN + RUN + END + END + DONE, id="twice"),
        pytest.param(text() + END + text() + DONE, id="orphan"),
        pytest.param(text() + native(tool="_thinking") + DONE, id="internal"),
        pytest.param(text() + RUN + END + RUN + END + DONE, id="again"),
        pytest.param(
            RUN + calls(call(0, "call_n", "terminal", "{}")) + END + finish() + text() + DONE,
            id="deltas behind",
        ),
        pytest.param(RUN.replace(b"\n", b"\r\n") + END + text() + DONE, id="CRLF"),
    ],
)
def test_native_pass_leaves_the_bytes_and_adds_nothing(
    body: bytes, name: str, sizes: tuple[int, ...]
) -> None:
    assert sent(body, sizes, DIALECTS[name], translate=False) == body


@pytest.mark.parametrize("name", PASSING)
def test_native_pass_adds_frames_for_other_calls_only(name: str) -> None:
    before, after = calls(call(0, "a", "f", "{}")) + finish(), text() + DONE
    without = sent(before + text() + after, WHOLE, DIALECTS[name], translate=False)
    for sizes in SEGMENTATIONS:
        body = before + text() + RUN + END + after
        data = sent(body, sizes, DIALECTS[name], translate=False)
        assert data.count(RUN + END) == 1
        assert data.replace(RUN + END, b"") == without


@pytest.mark.parametrize("sizes", SEGMENTATIONS)
@pytest.mark.parametrize("translate", [True, False])
def test_a_call_told_from_its_deltas_is_not_told_again_natively(
    translate: bool, sizes: tuple[int, ...]
) -> None:
    """One pair in all: the first who told a call tells its end."""
    head = calls(call(0, "call_n", "terminal", "{}")) + finish()
    played = play(head + RUN + END + text() + DONE, sizes, translate=translate)
    assert played.told == ["running call_n terminal", "completed call_n terminal unknown"]
    assert len(places(played, head + text() + DONE)) == 2


@pytest.mark.parametrize("sizes", SEGMENTATIONS)
@pytest.mark.parametrize("name", TRANSLATING)
def test_translate_replaces_native_events_in_their_place(name: str, sizes: tuple[int, ...]) -> None:
    status = EVENTS["status"]
    body = text() + RUN + status + END + text() + DONE
    pipeline = make(DIALECTS[name])
    steps = [pipeline.feed(piece, 0.0) for piece in segments(body, sizes)]
    frames = [step.data[start:stop] for step in steps for start, stop in step.added]
    running, completed, *_ = *frames, b"", b""  # `strip` has none
    assert [event.tool for step in steps for event in step.events] == ["terminal"] * 2
    data = b"".join(step.data for step in steps)
    assert data == text() + running + status + completed + text() + DONE
    assert sent(NATIVE, sizes, DIALECTS[name]) == text() + running + completed + text() + DONE


@pytest.mark.parametrize("sizes", SEGMENTATIONS)
@pytest.mark.parametrize("name", sorted(DIALECTS.keys() - TRANSLATING))
def test_who_wants_native_events_gets_them_as_they_are(name: str, sizes: tuple[int, ...]) -> None:
    assert sent(NATIVE, sizes, DIALECTS[name]) == NATIVE


ODD = {
    "no id": sse({"tool": "f", "status": "running"}, "hermes.tool.progress"),
    "an unknown status": native("odd"),
    "no JSON": sse("soon", "hermes.tool.progress"),
    "no data": b"event: hermes.tool.progress\n\n",
    "an orphan": END,
}


@pytest.mark.parametrize("sizes", SEGMENTATIONS)
@pytest.mark.parametrize("translate", [True, False])
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_strip_takes_out_all_of_them_and_adds_nothing(
    odd: bytes, translate: bool, sizes: tuple[int, ...]
) -> None:
    around = text() + HEAD, EVENTS["status"] + finish() + text() + DONE
    body = around[0] + RUN + odd + END + around[1]
    assert sent(body, sizes, DIALECTS["strip"], translate=translate) == b"".join(around)


def test_strip_takes_nothing_from_an_event_that_has_begun_to_pass() -> None:
    """An event that is too large to be looked at is on its way before its end is known."""
    large = sse({"tool": "x" * 500, "toolCallId": "a", "status": "running"}, "hermes.tool.progress")
    pipeline = make(DIALECTS["strip"], max_event_bytes=100)
    data = [pipeline.feed(piece, 0.0).data for piece in segments(text() + large + DONE, (50,))]
    assert b"".join(data) == text() + large + DONE


@pytest.mark.unmeasured
@pytest.mark.parametrize("translate", [True, False])
@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_the_output_does_not_depend_on_the_segmentation(name: str, translate: bool) -> None:
    pieces = [text(), *EVENTS.values(), RUN, HEAD, *EVENTS.values(), END, finish()]
    body = b"".join([*pieces, *APPROVALS.values(), native("running", "b"), text(), DONE])
    whole = sent(body, WHOLE, DIALECTS[name], translate=translate)
    for sizes in SEGMENTATIONS[1:]:
        assert sent(body, sizes, DIALECTS[name], translate=translate) == whole
