"""HAR 1.2: the fields that the specification says there must be, and what is in them."""

import base64
import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.exchange.model import SideName
from lifecycle_proxy.inspect import export, har_writer
from lifecycle_proxy.recording import cassette
from lifecycle_proxy.recording.cassette_file import CassetteError

from tests.recording.build import Tape, agent, chunk, write

TEXT, NUMBER, LIST, OBJECT = str, (int, float), list, dict
ENTRY = {
    "startedDateTime": TEXT,
    "time": NUMBER,
    "request": {
        "method": TEXT,
        "url": TEXT,
        "httpVersion": TEXT,
        "cookies": LIST,
        "headers": LIST,
        "queryString": LIST,
        "headersSize": int,
        "bodySize": int,
    },
    "response": {
        "status": int,
        "statusText": TEXT,
        "httpVersion": TEXT,
        "cookies": LIST,
        "headers": LIST,
        "content": {"size": int, "mimeType": TEXT},
        "redirectURL": TEXT,
        "headersSize": int,
        "bodySize": int,
    },
    "cache": OBJECT,
    "timings": {"send": NUMBER, "wait": NUMBER, "receive": NUMBER},
}
OPTIONAL = {"comment", "postData", "text", "encoding", "compression"}


def check(value: Any, shape: Any, place: str = "entry") -> None:
    if not isinstance(shape, dict):
        assert isinstance(value, shape), place
        return
    assert shape.keys() <= value.keys(), place
    more = {key for key in value.keys() - shape.keys() if not key.startswith("_")}
    assert more <= OPTIONAL, place
    for key, inner in shape.items():
        check(value[key], inner, f"{place}.{key}")


def entries(tmp_path: Path, *tapes: Tape, side: SideName = "client") -> list[Any]:
    path = write(tmp_path / "one.jsonl", *tapes)
    log = json.loads(har_writer.dumps(cassette.load(path), side=side))["log"]
    assert log["version"] == "1.2"
    assert log["creator"].keys() == {"name", "version"}
    for entry in log["entries"]:
        check(entry, ENTRY)
        assert datetime.fromisoformat(entry["startedDateTime"]).tzinfo
        assert entry["time"] == sum(entry["timings"].values())
        assert min(entry["timings"].values()) >= 0
        request, response = entry["request"], entry["response"]
        named = [*request["headers"], *request["cookies"], *request["queryString"]]
        for pair in [*named, *response["headers"], *response["cookies"]]:
            assert isinstance(pair["name"], str)
            assert isinstance(pair["value"], str)
    return list(log["entries"])


def test_a_stream(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path, agent())
    assert entry["timings"] == {"send": 0, "wait": 82.5, "receive": 2774.5}
    request, response = entry["request"], entry["response"]
    assert request["url"] == "http://127.0.0.1:8787/v1/chat/completions"
    assert request["postData"] == {
        "mimeType": "application/json",
        "text": '{"model": "m", "stream": true}',
    }
    body = response["content"]["text"].encode()
    assert (response["content"]["size"], response["bodySize"]) == (len(body), len(body))
    assert response["content"]["mimeType"] == "text/event-stream"
    frames = entry["_frames"]
    assert [f["stop"] for f in frames[:-1]] == [f["start"] for f in frames[1:]]
    ours = [body[f["start"] : f["stop"]] for f in frames if f.get("_ours")]
    assert [text.startswith((b"event: hermes", b": keep-alive")) for text in ours] == [True] * 5
    assert frames[-1] == {"ms": 2857, "start": len(body) - 14, "stop": len(body)}
    assert (entry["_id"], entry["_side"], entry["_ended"], entry["_end"]) == (
        "agent-0001",
        "client",
        "done",
        "eof",
    )


def test_the_upstream_side(tmp_path: Path) -> None:
    never_asked = Tape("early").request().head(1, [], 401).end("refused")
    (entry,) = entries(tmp_path, agent(), never_asked, side="upstream")
    assert entry["request"]["url"] == "http://backend:11434/v1/chat/completions"
    assert entry["request"]["postData"]["text"] == '{"model": "m", "stream": true}'
    assert not any(f.get("_ours") for f in entry["_frames"])
    assert len(entry["_frames"]) == 65


def test_no_answer(tmp_path: Path) -> None:
    tape = Tape().request(None, omitted="too large").forwarded()
    (entry,) = entries(tmp_path, tape)
    assert entry["response"]["status"] == 0
    assert entry["request"]["bodySize"] == -1
    assert "postData" not in entry["request"]
    assert entry["comment"] == "too large; incomplete"


def test_a_stream_that_broke_off(tmp_path: Path) -> None:
    tape = Tape().request().head(5).read(25, chunk({"content": "a"}))
    (entry,) = entries(tmp_path, tape)
    assert entry["timings"] == {"send": 0, "wait": 5, "receive": 20}
    (entry,) = entries(tmp_path, tape.end("upstream_error", error="upstream_eof"))
    assert entry["_error"] == "upstream_eof"


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    tape = Tape().request(b"\xff").head(5, [["Content-Type", "audio/mpeg"]]).read(6, b"\xfe\x00")
    (entry,) = entries(tmp_path, tape.end())
    content = entry["response"]["content"]
    assert base64.b64decode(content["text"]) == b"\xfe\x00"
    assert content["encoding"] == "base64"
    assert entry["request"]["postData"]["_encoding"] == "base64"


def test_compressed(tmp_path: Path) -> None:
    clear = chunk({"content": "a" * 500})
    headers = [["Content-Type", "text/event-stream"], ["Content-Encoding", "gzip"]]
    packed = gzip.compress(clear)
    (entry,) = entries(tmp_path, Tape().request().head(5, headers).read(6, packed).end())
    response = entry["response"]
    assert response["content"]["text"] == clear.decode()
    assert response["content"]["compression"] == len(clear) - len(packed)
    assert response["bodySize"] == len(packed)
    assert entry["_frames"] == [{"ms": 6, "start": 0, "stop": len(clear)}]


@pytest.mark.parametrize(
    ("target", "headers", "url"),
    [
        ("/v1/x?a=1&b=&a=%20", [["HOST", "h:1"]], "http://h:1/v1/x?a=1&b=&a=%20"),
        ("/v1/x", [["host", "h"], ["x-forwarded-proto", "https, http"]], "https://h/v1/x"),
        ("/v1/x", [], "http://localhost/v1/x"),
        ("http://other/v1/x", [["Host", "h"]], "http://other/v1/x"),
        ("http://[/?a=1", [], "http://[/?a=1"),
    ],
)
def test_urls(tmp_path: Path, target: str, headers: list[list[str]], url: str) -> None:
    (entry,) = entries(tmp_path, Tape().request(target=target, headers=headers).head().end())
    assert entry["request"]["url"] == url
    pairs = [(pair["name"], pair["value"]) for pair in entry["request"]["queryString"]]
    assert pairs == ([("a", "1"), ("b", ""), ("a", " ")] if "&" in target else [])


def test_cookies(tmp_path: Path) -> None:
    asked = [["Cookie", "a=1; b=2"], ["cookie", "[redacted:0123456789ab]"]]
    answered = [["Set-Cookie", "c=3; Path=/; HttpOnly"], ["Location", "/else"], ["Set-Cookie", "="]]
    (entry,) = entries(tmp_path, Tape().request(headers=asked).head(1, answered, 302).end())
    assert [c["name"] for c in entry["request"]["cookies"]] == ["a", "b"]
    assert entry["response"]["cookies"] == [{"name": "c", "value": "3"}]
    assert entry["response"]["redirectURL"] == "/else"
    assert entry["response"]["headers"][0]["name"] == "Set-Cookie"


def test_lone_surrogates(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path, Tape("\ud800").request(headers=[["X", "\udcff"]]).head().end())
    assert entry["request"]["headers"] == [{"name": "X", "value": "\udcff"}]


def test_to_a_file(tmp_path: Path) -> None:
    path, out = write(tmp_path / "one.jsonl", agent()), tmp_path / "one.har"
    export.export(path, "har", out, side="upstream")
    assert json.loads(out.read_bytes())["log"]["entries"][0]["_side"] == "upstream"
    assert out.stat().st_mode & 0o777 == 0o600
    with pytest.raises(CassetteError):
        export.export(tmp_path / "none", "har", out)


def test_to_standard_output(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    export.export(write(tmp_path / "one.jsonl", agent()), "har")
    assert json.loads(capfdbinary.readouterr().out)["log"]["entries"][0]["_side"] == "client"
