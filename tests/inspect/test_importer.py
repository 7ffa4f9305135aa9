"""Recordings of other tools: HAR 1.2 and vcrpy become cassettes, or an error that says why not."""

import base64
import gzip
import importlib.util
import json
import os
import sys
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.exchange.model import SideName
from lifecycle_proxy.inspect import har_writer
from lifecycle_proxy.inspect.importer import convert
from lifecycle_proxy.recording.cassette import RecordedExchange, Side, load
from lifecycle_proxy.recording.cassette_file import CassetteError
from lifecycle_proxy.replay.schedule import schedule

from tests.fakes import DONE, text
from tests.recording.build import Tape, agent, write

needs_yaml = pytest.mark.skipif(not importlib.util.find_spec("yaml"), reason="needs PyYAML")

BODY = '{"model": "m"}'
SECRET = "sk-0123456789abcdef0123"
URL = "https://api.openai.com/v1/chat/completions?a=1"
STREAM = text("Hé") + DONE


def packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


def entry(**response: Any) -> dict[str, Any]:
    return {
        "startedDateTime": "2026-01-02T03:04:05.678+01:00",
        "time": 250,
        "request": {
            "method": "POST",
            "url": URL,
            "httpVersion": "HTTP/2.0",
            "headers": [
                {"name": ":authority", "value": "api.openai.com"},
                {"name": "Authorization", "value": f"Bearer {SECRET}"},
                {"name": "X-Twice", "value": "1"},
                {"name": "X-Twice", "value": "2"},
            ],
            "postData": {"mimeType": "application/json", "text": BODY},
        },
        "response": {
            "status": 200,
            "statusText": "OK",
            "headers": [
                {"name": "content-type", "value": "text/event-stream"},
                {"name": "content-encoding", "value": "gzip"},
                {"name": "content-length", "value": "7"},
            ],
            "content": {"size": len(STREAM), "text": STREAM.decode()},
            **response,
        },
        "timings": {"blocked": 1, "dns": -1, "connect": 9, "ssl": 5, "send": 0, "wait": 90.5}
        | {"receive": 150},
    }


def har_of(*entries: Any) -> bytes:
    return json.dumps({"log": {"version": "1.2", "entries": entries}}).encode()


def vcr_of(*interactions: Any) -> bytes:
    """As vcrpy's JSON serializer writes it; JSON is YAML, too."""
    return json.dumps({"version": 1, "interactions": interactions}).encode()


def interaction(body: Any = "{}", headers: Any = None, **more: Any) -> dict[str, Any]:
    request = {"method": "POST", "uri": URL, "body": BODY, "headers": {"Accept": ["*/*"]}}
    response = {"status": {"code": 200, "message": "OK"}, "headers": headers or {}, "body": body}
    return {"request": request, "response": {**response, **more}}


def imported(tmp_path: Path, content: bytes, suffix: str = ".jsonl") -> list[RecordedExchange]:
    source, target = tmp_path / "source", tmp_path / f"target{suffix}"
    source.write_bytes(content)
    count = convert(source, target)
    found = load(target)
    assert count == len(found)
    return found


def refused(tmp_path: Path, content: bytes) -> str:
    source, target = tmp_path / "source.x", tmp_path / "target.jsonl"
    source.write_bytes(content)
    with pytest.raises(CassetteError) as error:
        convert(source, target)
    assert os.listdir(tmp_path) == ["source.x"]  # noqa: PTH208  hidden ones, too
    assert str(error.value).startswith(f"{source}: ")
    return str(error.value).removeprefix(f"{source}: ")


# --- HAR ----------------------------------------------------------------------------------------


def test_har(tmp_path: Path) -> None:
    (one,) = imported(tmp_path, har_of(entry()))
    assert (one.ts, one.route, one.ended) == ("2026-01-02T02:04:05.678Z", "chat", "done")
    assert (one.request.method, one.request.target) == ("POST", "/v1/chat/completions?a=1")
    assert one.request.body == BODY.encode()
    names = [name for name, _ in one.request.headers]
    assert names == ["Host", "Authorization", "X-Twice", "X-Twice"]
    assert one.request.header("host") == "api.openai.com"
    assert one.forwarded == one.request
    assert one.upstream == one.client
    assert (one.client.status, one.client.reason, one.client.ms) == (200, "OK", 100.5)
    assert [(piece.ms, piece.data) for piece in one.client.pieces] == [(250.5, STREAM)]
    assert (one.client.end, one.client.end_ms, one.client.is_whole) == ("eof", 250.5, True)
    size = str(len(STREAM))
    assert one.client.headers == (("content-type", "text/event-stream"), ("content-length", size))


def test_secrets_are_replaced(tmp_path: Path) -> None:
    leaking = entry(content={"text": f"Your key is {SECRET}"})
    (one,) = imported(tmp_path, har_of(leaking))
    assert SECRET not in (tmp_path / "target.jsonl").read_text()
    assert one.request.header("Authorization").startswith("[redacted:")
    assert one.client.body.startswith(b"Your key is [redacted:")
    assert one.client.header("content-length") == str(len(one.client.body))


def test_what_is_imported_can_be_played(tmp_path: Path) -> None:
    (one,) = imported(tmp_path, har_of(entry()))
    assert schedule(one, "upstream").pieces == ((250.5, STREAM),)


def test_har_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert len(imported(tmp_path, b"\xef\xbb\xbf" + har_of(entry(), entry()))) == 2


def test_har_bodies(tmp_path: Path) -> None:
    found = imported(
        tmp_path,
        har_of(
            entry(content={"text": packed(b"\xff\x00"), "encoding": "base64"}),
            entry(content={"size": 5}),
            entry(content={"size": 0}),
            entry(content={"text": "\ud800"}),
        ),
    )
    assert [one.client.body for one in found] == [b"\xff\x00", b"", b"", b"\xed\xa0\x80"]
    missing = "the HAR does not hold the body of the event stream"
    assert [one.omitted for one in found] == ["", missing, missing, ""]


def of_type(kind: str, *more: tuple[str, str], **content: Any) -> dict[str, Any]:
    pairs = [("Content-Type", kind), *more]
    return entry(headers=[{"name": k, "value": v} for k, v in pairs], content=content)


GZIPPED = gzip.compress(b'{"a": 1}')


@pytest.mark.parametrize(
    ("content", "body"),
    [
        ({"encoding": "hex", "text": b"abc".hex()}, b"abc"),
        ({"encoding": "hex", "text": json.dumps([GZIPPED[:9].hex(), GZIPPED[9:].hex()])}, None),
        ({"_isBinary": True, "text": json.dumps([GZIPPED.hex()])}, None),
        ({"_isBinary": True, "encoding": "base64", "text": json.dumps([packed(GZIPPED)])}, None),
        ({"encoding": "utf-8", "text": "[1]"}, b"[1]"),
    ],
)
def test_encodings_of_polly(tmp_path: Path, content: dict[str, Any], body: bytes | None) -> None:
    one = of_type("application/json", ("Content-Encoding", "gzip"), **content)
    (found,) = imported(tmp_path, har_of(one))
    assert found.client.body == (body or b'{"a": 1}')
    assert found.client.header("content-encoding") == ""


def test_what_cannot_be_taken_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"found")
    outside, unknown = {"_file": "../a.bin"}, {"encoding": "rot13", "text": "x"}
    entries = [
        of_type("text/plain", _file="a.bin"),
        of_type("text/plain", _file="none.bin"),
        of_type("text/plain", **outside),
        of_type("text/plain", **unknown),
        of_type("text/plain", size=-1),
        of_type("text/plain", ("Content-Length", "5"), size=0),
        of_type("text/plain", size=0),
    ]
    for post in ({"_file": "a.bin"}, {"_file": "x"}, {"mimeType": "multipart/x", "params": [1]}):
        entries.append(entry())
        entries[-1]["request"]["postData"] = post
    source, target, told = tmp_path / "source", tmp_path / "target.jsonl", list[str]()
    source.write_bytes(har_of(*entries))
    assert convert(source, target, tell=told.append) == len(entries)
    found = load(target)
    assert [bool(one.omitted) for one in found] == [0, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert found[0].client.body == found[7].request.body == b"found"
    assert [one.request.body for one in found[8:]] == [None, None]
    assert len(told) == 7
    assert "exchange 2, POST https://api.openai.com/" in told[0]
    assert "'none.bin', which cannot be read" in told[0]
    assert "'rot13', which is not known here" in told[2]


def test_events_that_a_browser_saw(tmp_path: Path) -> None:
    told = [
        {"time": 1, "eventName": "message", "eventId": "", "data": "a\nb"},
        {"time": 2, "eventName": "x", "eventId": "7", "data": "[DONE]"},
    ]
    one = {**of_type("text/event-stream", size=0), "_eventSourceMessages": told}
    (found,) = imported(tmp_path, har_of(one))
    assert found.client.body == b"data: a\ndata: b\n\nevent: x\nid: 7\ndata: [DONE]\n\n"


@pytest.mark.parametrize("names", [("Content-Length", "Transfer-Encoding"), ("Content-Length",)])
def test_one_header_says_where_a_body_ends(tmp_path: Path, names: tuple[str, ...]) -> None:
    values = {"Content-Length": "99", "Transfer-Encoding": "chunked"}
    one = of_type("text/plain", *((name, values[name]) for name in names), text="abc")
    (found,) = imported(tmp_path, har_of(one))
    framing = [(k, v) for k, v in found.client.headers if k in values]
    assert framing == [(names[-1], "chunked" if len(names) > 1 else "3")]
    assert schedule(found, "client").pieces == ((250.5, b"abc"),)


@pytest.mark.parametrize(
    ("body", "target"),
    [
        (STREAM, "/v1/chat/completions"),
        (b'event: message_start\ndata: {"type": "message_start"}\n\n', "/v1/messages"),
        (b'data: {"type": "response.created"}\n\n', "/v1/responses"),
    ],
)
def test_an_event_stream_by_itself(tmp_path: Path, body: bytes, target: str) -> None:
    source, file = tmp_path / "a.sse", tmp_path / "a.jsonl"
    source.write_bytes(body)
    assert convert(source, file) == 1
    (one,) = load(file)
    assert (one.request.method, one.request.target, one.client.body) == ("POST", target, body)
    source.write_bytes(b"<html>")
    with pytest.raises(CassetteError, match="not an event stream"):
        convert(source, tmp_path / "b.jsonl")


def test_fixtures_of_aimock_are_named(tmp_path: Path) -> None:
    assert "fixtures of aimock" in refused(tmp_path, b'{"fixtures": [{"match": {}}]}')


def test_har_posted_forms(tmp_path: Path) -> None:
    form = entry()
    form["request"]["postData"] = {"params": [{"name": "a", "value": "b c"}, {"name": "d"}]}
    binary = entry()
    binary["request"]["postData"] = {"text": packed(b"\xfe"), "_encoding": "base64"}
    found = imported(tmp_path, har_of(form, binary))
    assert [one.request.body for one in found] == [b"a=b+c&d=", b"\xfe"]


def test_a_request_without_an_answer(tmp_path: Path) -> None:
    (one,) = imported(tmp_path, har_of(entry(status=0, content={})))
    assert (one.client.status, one.client.end, one.ended) == (0, "", "upstream_error")
    assert one.is_complete


def test_the_length_of_an_answer_to_head_stays(tmp_path: Path) -> None:
    head = entry(content={})
    head["request"]["method"] = "HEAD"
    (one,) = imported(tmp_path, har_of(head))
    assert one.client.header("Content-Length") == "7"
    assert one.route == "other"


def test_our_own_har_comes_back(tmp_path: Path) -> None:
    before = imported(tmp_path, har_of(entry()))
    (tmp_path / "target.jsonl").unlink()
    (after,) = imported(tmp_path, har_writer.dumps(before))
    assert after.client.body == before[0].client.body
    assert (after.request.target, after.ts) == (before[0].request.target, before[0].ts)
    assert after.request.body == before[0].request.body
    assert (after.client.ms, after.client.end_ms) == (100.5, 250.5)


@pytest.mark.parametrize("side", ["client", "upstream"])
def test_our_own_har_keeps_pieces_and_times(tmp_path: Path, side: SideName) -> None:
    (before,) = load(write(tmp_path / "before.jsonl", agent()))
    (tmp_path / "before.jsonl").unlink()
    (after,) = imported(tmp_path, har_writer.dumps([before], side=side))
    assert told(after.side(side)) == told(before.side(side))
    assert told(after.upstream) == told(before.upstream)  # without the frames of ours
    assert (after.client.is_whole, after.upstream.is_whole) == (True, True)
    assert schedule(after, side).pieces == schedule(before, side).pieces


def again(
    tmp_path: Path, tape: Tape, side: SideName = "client"
) -> tuple[RecordedExchange, RecordedExchange]:
    """An exchange, and what becomes of it through a HAR."""
    (before,) = load(write(tmp_path / "before.jsonl", tape))
    (after,) = imported(tmp_path, har_writer.dumps([before], side=side))
    return before, after


def ends(one: RecordedExchange) -> tuple[Any, ...]:
    sides = ((side.status, side.end, side.body) for side in (one.upstream, one.client))
    return one.ended, one.error, one.is_complete, one.omitted, *sides


LENGTH = [["Content-Type", "text/event-stream"], ["Content-Length", "9999"]]


@pytest.mark.parametrize("side", ["client", "upstream"])
@pytest.mark.parametrize("end", ["reset", "timeout", "gone"])
def test_what_broke_off_is_no_success_in_our_own_har(
    tmp_path: Path, side: SideName, end: str
) -> None:
    tape = Tape().request().forwarded().head(headers=LENGTH).read(90, b"data: {}\n\n")
    tape.end("upstream_error", error="upstream_eof", tools=[{"toolCallId": SECRET}])
    tape.lines[-1]["upstream"]["end"] = end
    tape.lines[-1]["client"]["end"] = "reset"
    before, after = again(tmp_path, tape, side)
    assert ends(after) == ends(before)
    assert after.side(side).header("Content-Length") == "9999"
    assert after.tools[0]["toolCallId"].startswith("[redacted:")
    plan = schedule(after, side)
    assert (plan.end, plan.header("Content-Length")) == (before.side(side).end, "9999")


def test_an_answer_of_our_own_comes_back(tmp_path: Path) -> None:
    tape = Tape().request().forwarded()
    tape.line("head", side="client", ms=9, status=502, reason="", headers=[]).sent(9, b"{}", (0, 2))
    tape.end("upstream_error", error="upstream_unreachable")
    tape.lines[-1]["upstream"]["end"] = "reset"
    before, after = again(tmp_path, tape)
    assert ends(after) == ends(before)
    assert (after.forwarded is not None, after.upstream.status) == (True, 0)
    assert schedule(after, "upstream").end == "reset"


def test_what_was_never_forwarded_was_not(tmp_path: Path) -> None:
    tape = Tape().request()
    tape.line("head", side="client", ms=1, status=401, reason="", headers=[]).sent(1, b"{}")
    tape.end("refused", error="invalid_api_key")
    tape.lines[-1]["upstream"]["end"] = ""
    before, after = again(tmp_path, tape)
    assert ends(after) == ends(before)
    assert after.forwarded is None


def test_what_has_no_end_or_no_answer_stays_so(tmp_path: Path) -> None:
    tape = Tape().request().forwarded().head().read(90, b"data: {}\n\n")
    before, after = again(tmp_path, tape)
    assert ends(after) == ends(before)
    (tmp_path / "target.jsonl").unlink()
    before, after = again(tmp_path, tape.end("eof", omitted="too large"))
    assert ends(after) == ends(before)


def test_a_length_of_a_coding_says_nothing_of_what_broke_off(tmp_path: Path) -> None:
    cut = {**entry(), "_end": "reset", "_ended": "upstream_error"}
    (one,) = imported(tmp_path, har_of(cut))
    assert (one.client.end, one.upstream.end, one.ended) == ("reset", "reset", "upstream_error")
    assert one.client.headers == (("content-type", "text/event-stream"),)


@pytest.mark.parametrize("wrong", [7, "gone fishing", [], {}, {"client": 1}, {"upstream": {}}])
def test_ends_that_no_cassette_has_are_nothing(tmp_path: Path, wrong: Any) -> None:
    names = ("_end", "_ended", "_error", "_tools", "_sides")
    (one,) = imported(tmp_path, har_of({**entry(), **dict.fromkeys(names, wrong)}))
    assert (one.ended, one.client.end, one.upstream.end) == ("done", "eof", "eof")


def told(side: Side) -> list[Any]:
    return [(piece.ms, piece.data, piece.added) for piece in side.pieces]


def test_a_secret_in_two_frames_of_ours(tmp_path: Path) -> None:
    leaking = entry(content={"text": f"x {SECRET} y"})
    cut = 2 + len(SECRET) // 2
    frames = [(0, cut, 120), (cut, len(SECRET) + 4, 130)]
    leaking["_frames"] = [{"start": a, "stop": b, "ms": ms} for a, b, ms in frames]
    (one,) = imported(tmp_path, har_of(leaking))
    assert SECRET[:9] not in (tmp_path / "target.jsonl").read_text()
    assert [piece.ms for piece in one.client.pieces] == [120, 130]
    assert one.client.body.startswith(b"x [redacted:")
    assert one.client.is_whole


def frame(start: Any, stop: Any, ms: Any = 120) -> dict[str, Any]:
    return {"start": start, "stop": stop, "ms": ms}


@pytest.mark.parametrize(
    "frames",
    [
        [frame(0, 9)],
        [frame(0, len(STREAM) + 1)],
        [frame(0, 9), frame(8, len(STREAM))],
        [frame(0, 9), frame(9, 9), frame(9, len(STREAM))],
        [frame(0, 9, 130), frame(9, len(STREAM), 129)],
        [frame(0, len(STREAM), None)],
        [frame(0, len(STREAM), -1)],
        [frame(0, str(len(STREAM)))],
        [],
        {"0": 9},
    ],
)
def test_frames_of_another_body_are_nothing(tmp_path: Path, frames: Any) -> None:
    (one,) = imported(tmp_path, har_of({**entry(), "_frames": frames}))
    assert told(one.client) == [(250.5, STREAM, ())]


# --- vcrpy --------------------------------------------------------------------------------------

CASSETTE = f"""
interactions:
- request:
    body: '{BODY}'
    headers:
      Authorization:
      - Bearer {SECRET}
      X-Twice: ['1', '2']
    method: POST
    uri: {URL}
  response:
    body:
      string: !!binary |
        {packed(gzip.compress(STREAM))}
    headers:
      Content-Encoding: [gzip]
      Content-Type: [text/event-stream]
      Content-Length: ['3']
    status: {{code: 201, message: Created}}
version: 1
"""


@needs_yaml
def test_vcrpy(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text(CASSETTE)
    os.utime(source, (1_700_000_000, 1_700_000_000))
    assert convert(source, tmp_path / "new" / "target.jsonl") == 1
    (one,) = load(tmp_path / "new")
    assert one.ts == datetime.fromtimestamp(1_700_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    assert (one.route, one.request.body) == ("chat", BODY.encode())
    assert one.request.headers[2:] == (("X-Twice", "1"), ("X-Twice", "2"))
    assert (one.client.status, one.client.reason) == (201, "Created")
    assert [(piece.ms, piece.data) for piece in one.client.pieces] == [(0, STREAM)]
    assert one.client.headers == (
        ("Content-Type", "text/event-stream"),
        ("Content-Length", str(len(STREAM))),
    )
    assert SECRET not in (tmp_path / "new" / "target.jsonl").read_text()


def test_vcrpy_in_json_needs_no_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    (one,) = imported(tmp_path, vcr_of(interaction({"string": "hi"})))
    assert one.client.body == b"hi"


def test_without_pyyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert "pip install PyYAML" in refused(tmp_path, CASSETTE.encode())


@pytest.mark.parametrize(
    ("body", "clear"),
    [
        (None, b""),
        ("é", "é".encode()),
        ({"string": "x"}, b"x"),
        ({"string": {"string": "x"}}, b"x"),
        ({"base64_string": packed(b"\xff")}, b"\xff"),
    ],
)
def test_vcrpy_bodies(tmp_path: Path, body: Any, clear: bytes) -> None:
    (one,) = imported(tmp_path, vcr_of(interaction(body)))
    assert one.client.body == clear


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "br", "identity"])
@pytest.mark.parametrize("data", [b"in clear already", b""])
def test_a_body_that_is_in_clear_whatever_its_header_says(
    tmp_path: Path, coding: str, data: bytes
) -> None:
    headers = {"content-encoding": coding, "x": ["y"]}
    (one,) = imported(tmp_path, vcr_of(interaction(data.decode(), headers)))
    assert one.client.body == data
    assert one.client.headers == (("x", "y"),)


def test_a_deflated_body(tmp_path: Path) -> None:
    data = {"base64_string": packed(zlib.compress(b"clear"))}
    (one,) = imported(tmp_path, vcr_of(interaction(data, {"Content-Encoding": ["deflate"]})))
    assert one.client.body == b"clear"


def test_the_older_form_for_httpx(tmp_path: Path) -> None:
    old = interaction()
    old["response"] = {"content": "hi", "status_code": 200, "headers": {"A": "b"}}
    old["recorded_at"] = "2026-01-02T03:04:05Z"
    (one,) = imported(tmp_path, vcr_of(old))
    assert (one.client.status, one.client.body, one.client.headers) == (200, b"hi", (("A", "b"),))
    assert one.ts == "2026-01-02T03:04:05.000Z"


@needs_yaml
def test_ruby_s_vcr(tmp_path: Path) -> None:
    """The same, but for some names; header values that are no UTF-8 are bytes."""
    ruby = CASSETTE.replace("interactions:", "http_interactions:").replace("POST", "post")
    ruby = ruby.replace("version: 1", "  recorded_at: Tue, 01 Nov 2011 04:58:44 GMT")
    ruby = ruby.replace("Created", f"!!binary {packed(bytes([0xE9]))}")
    (one,) = imported(tmp_path, ruby.encode())
    assert (one.request.method, one.client.reason, one.client.body) == ("POST", "é", STREAM)


# --- what is refused ----------------------------------------------------------------------------


def with_tag(tag: str) -> bytes:
    return CASSETTE.replace(f"body: '{BODY}'", f"body: {tag}").encode()


@needs_yaml
@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch pwned']",
        "!!python/object/new:_io.BytesIO {state: ['x']}",
        "!!python/object:lifecycle_proxy.cli.main.main {}",
        "!!python/name:os.system ''",
        "!!python/tuple [1, 2]",
        "!!python/unicode 'x'",
    ],
)
def test_objects_in_yaml_are_refused(
    tmp_path: Path, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    problem = refused(tmp_path, with_tag(tag))
    assert problem.startswith("line 4: a Python object (" + tag.partition(" ")[0])
    assert "could run code" in problem
    assert not (tmp_path / "pwned").exists()


@needs_yaml
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (with_tag("!custom x"), "line 4: could not determine a constructor for the tag '!custom'"),
        (with_tag("[1"), "no YAML: while parsing a flow sequence"),
        (with_tag("2026-99-99"), "no YAML: month must be in 1..12"),
        (with_tag("&a {string: *a}"), "interaction 1 is not valid: "),
        (with_tag("[1]"), "interaction 1: a body of a form that vcrpy does not write: list"),
        (b"interactions: []", "there are no exchanges in it"),
        (b"interactions:", "neither HAR 1.2 nor vcrpy"),
        (b"interactions:\n" + b"[" * 5000, "no YAML: "),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    assert refused(tmp_path, content).startswith(problem)


@needs_yaml
def test_a_document_that_grows_without_end(tmp_path: Path) -> None:
    doubled = "".join(f"b{n}: &b{n} [*b{n - 1}, *b{n - 1}]\n" for n in range(1, 60))
    bomb = f"b0: &b0 [x]\n{doubled}" + CASSETTE.replace("- Bearer", "- *b59 #")
    assert refused(tmp_path, bomb.encode()) == "interaction 1: a list where a word should stand"


REFUSED = [
    (b"", "neither HAR 1.2 nor vcrpy"),
    (b"[1]", "neither HAR 1.2 nor vcrpy"),
    (b"\x1f\x8b\x08", "neither HAR 1.2 nor vcrpy: not UTF-8 (unpack it first?)"),
    (b'{"log": 3}', "neither HAR 1.2 nor vcrpy"),
    (b'{"kind":"cassette","version":1}\n{}', "neither HAR 1.2 nor vcrpy: this is a cassette"),
    (b'{"log": {"entries": [], "x": NaN}}', "neither HAR 1.2 nor vcrpy"),
    (b"[" * 100_000, "neither HAR 1.2 nor vcrpy"),
    (har_of(), "there are no exchanges in it"),
    (b'{"log": {"entries": 3}}', "not as it should be: 'int' object is not iterable"),
    (har_of(entry(), {}), "entry 2 is not valid HAR 1.2: request is missing"),
    (har_of(3), "entry 1 is not valid HAR 1.2: "),
    (har_of(entry(status="new")), "entry 1 is not valid HAR 1.2: invalid literal for int"),
    (har_of(entry(content={"text": "%", "encoding": "base64"})), "entry 1: a body that should be"),
    (vcr_of(interaction(), {"request": {}}), "interaction 2 is not valid: response"),
    (vcr_of(interaction(status=None)), "interaction 1: its answer has no status"),
    (
        vcr_of(interaction({"base64_string": packed(b"\xff")}, {"content-encoding": ["br"]})),
        "interaction 1: a body is compressed with br; record it again with decode_compressed_",
    ),
    (
        vcr_of(interaction({"base64_string": packed(b"\x1f\x8bx")}, {"content-encoding": "gzip"})),
        "interaction 1: a body that should be compressed with gzip is not",
    ),
]


@pytest.mark.parametrize(("content", "problem"), REFUSED)
def test_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    assert refused(tmp_path, content).startswith(problem)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CassetteError, match="none: No such file"):
        convert(tmp_path / "none", tmp_path / "target.jsonl")


def test_a_target_that_is_there_stays(tmp_path: Path) -> None:
    target = tmp_path / "target.jsonl"
    target.write_text("mine")
    with pytest.raises(CassetteError, match="remove it, or choose another name"):
        imported(tmp_path, har_of(entry()))
    assert target.read_text() == "mine"


def test_a_target_is_named_as_a_cassette(tmp_path: Path) -> None:
    with pytest.raises(CassetteError, match=r"ends in \.jsonl or \.jsonl\.gz"):
        imported(tmp_path, har_of(entry()), ".json")


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(har_of(entry()))
    with pytest.raises(CassetteError, match=r"a\.jsonl: .*(exists|directory)"):
        convert(tmp_path / "source", tmp_path / "source" / "a.jsonl")


def test_the_target_is_for_its_owner_only(tmp_path: Path) -> None:
    imported(tmp_path, har_of(entry()), ".jsonl.gz")
    target = tmp_path / "target.jsonl.gz"
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.read_bytes().startswith(b"\x1f\x8b")
    assert sorted(os.listdir(tmp_path)) == ["source", "target.jsonl.gz"]  # noqa: PTH208


def test_ids_of_several_imports_differ(tmp_path: Path) -> None:
    imported(tmp_path, har_of(entry(), entry()))
    imported(tmp_path, vcr_of(interaction()), ".jsonl.gz")
    assert len(load(tmp_path)) == 3
