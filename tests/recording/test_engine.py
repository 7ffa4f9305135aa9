"""The lifecycle engine, by recordings: what an upstream sent is told to clients as it was then.

``python -m tests.recording.rerecord`` records them anew; see there.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.recording.cassette import RecordedExchange, load

from tests.fakes import Answer, payloads
from tests.recording import rerecord
from tests.recording.rerecord import CASSETTES, through_the_proxy
from tests.recording.sessions import SESSIONS

pytestmark = pytest.mark.usefixtures("quiet")

FILES = sorted(CASSETTES.glob("*.jsonl"))
_OURS_ALONE = ("date", "x-stream-id", "x-stream-url", "x-request-id")
# What is another each time: ids that the proxy makes, the time of its envelope, durations.
_MADE = re.compile(rb"\b(chatcmpl-st|st|call|msg|fc)_[0-9a-f]{24}\b")
_ENVELOPE = re.compile(rb'("id":"chatcmpl-st_[^"]*".*?"created":)\d+')
_DURATION = re.compile(rb'(durationMs\\?":|duration=\\?"|\b(?:done in|after) )\s*\d+(?:\.\d s)?')


def frames(body: bytes, upstream: bytes) -> list[bytes]:
    """The frames of a stream, less what is another each time."""
    names: dict[bytes, bytes] = {}

    def named(found: re.Match[bytes]) -> bytes:
        if found[0] in upstream:
            return found[0]  # the upstream's own: always the same
        return names.setdefault(found[0], b"%b_%d" % (found[1], len(names) + 1))

    body = _DURATION.sub(rb"\g<1>0", _ENVELOPE.sub(rb"\g<1>0", body))
    return _MADE.sub(named, body).replace(b"\r\n", b"\n").split(b"\n\n")


def head(status: int, headers: Headers) -> tuple[int, list[tuple[str, str]]]:
    """Names in small letters: what is recorded has those of the client that the proxy had then."""
    named = ((name.lower(), value) for name, value in headers)
    return status, [pair for pair in named if pair[0] not in _OURS_ALONE]


async def played(file: Path) -> Iterator[tuple[RecordedExchange, Answer]]:
    exchanges = load(file)
    answers = await through_the_proxy(exchanges)
    return zip(exchanges, answers, strict=True)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
async def test_clients_are_told_what_they_were_told(file: Path) -> None:
    for one, answer in await played(file):
        assert one.is_complete
        assert one.upstream.is_whole
        assert one.client.is_whole
        told = head(answer.status, tuple(answer.headers.items()))
        assert told == head(one.client.status, one.client.headers)
        sent = one.upstream.body
        assert frames(answer.body, sent) == frames(one.client.body, sent)
        assert answer.end == "clean"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_was_recorded_holds(file: Path) -> None:
    """A cassette must not make wrong right: each call once running, and then once completed."""
    for one in load(file):
        assert one.ended == "done" or one.request.target == rerecord.RESPONSES
        assert one.client.body
        last: dict[str, str] = {}
        for told in one.tools:
            before = last.get(told["toolCallId"], "completed")
            assert (before, told["status"]) in {("completed", "running"), ("running", "completed")}
            last[told["toolCallId"]] = told["status"]
        is_handed = ("X-Lifecycle-Span", "execution") in one.request.headers
        assert is_handed or set(last.values()) <= {"completed"}


def test_there_is_something_to_test() -> None:
    names = {file.stem for file in FILES}
    assert {"hermes-parallel", "hermes-mixed", "litellm-mcp-auto-execution"} <= names
    assert set(SESSIONS) <= names
    assert sum(file.stat().st_size for file in FILES) < 400_000


def tools(one: RecordedExchange) -> list[str]:
    return [f"{told['status']} {told['toolCallId']}" for told in one.tools]


def test_parallel_calls_of_hermes() -> None:
    one, *_ = load(CASSETTES / "hermes-parallel.jsonl")
    told = tools(one)
    assert sorted(told) == sorted(
        f"{status} call_par_{name}"
        for status in ("running", "completed")
        for name in ("slow", "2", "3")
    )
    assert told[0].startswith("running")


def test_what_was_recorded_is_what_was_sent() -> None:
    corpus = Path(__file__).parents[1] / "corpus" / "litellm-mcp-auto-execution.sse"
    for one in load(CASSETTES / "litellm-mcp-auto-execution.jsonl"):
        assert one.upstream.body == corpus.read_bytes()


def test_recording_again_changes_nothing(tmp_path: Path) -> None:
    file = CASSETTES / "hermes-one-tool.jsonl"
    target = tmp_path / file.name
    before = load(file)
    rerecord.record(before, target)
    after = load(target)
    assert [one.name for one in tmp_path.iterdir()] == [file.name]
    for old, new in zip(before, after, strict=True):
        assert new.upstream.body == old.upstream.body
        assert new.request.body == old.request.body
        sent = old.upstream.body
        assert frames(new.client.body, sent) == frames(old.client.body, sent)


def test_a_new_one_from_a_stream(tmp_path: Path) -> None:
    source = tmp_path / "stream.sse"
    source.write_bytes(b'data: {"choices": []}\r\n\r\ndata: [DONE]\n\n: tail')
    exchanges = rerecord.streamed(source)
    assert [piece.data for piece in exchanges[0].upstream.pieces] == [
        b'data: {"choices": []}\r\n\r\n',
        b"data: [DONE]\n\n",
        b": tail",
    ]
    rerecord.record(exchanges, tmp_path / "new.jsonl")
    recorded = load(tmp_path / "new.jsonl")
    assert [one.upstream.body for one in recorded] == [source.read_bytes()] * 3
    told: list[dict[str, Any]] = payloads(recorded[0].client.body)
    assert told == [{"choices": []}]
