"""Secrets that are found, and what only looks like one."""

import gzip
import io
import json
import time
from pathlib import Path

import pytest
from lifecycle_proxy.core import redact
from lifecycle_proxy.inspect import scan
from lifecycle_proxy.recording import secret_detection
from lifecycle_proxy.recording.cassette_file import CassetteError

from tests.recording.build import Tape, agent, call, chunk, frame, write

KEY = "sk-proj-Zx81mQp0LkJ2vN7tRw5Y"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N"
PLACEHOLDER = "[redacted:9f86d081884c]"
PEM = "-----BEGIN OPENSSH PRIVATE KEY-----"


def found(path: Path) -> list[tuple[int, str, str, str]]:
    findings = list(scan.scan(path))
    for finding in findings:
        for secret in (KEY, JWT, "hunter2x", "s3cr3t"):
            assert secret not in str(finding), "never the secret itself"
    return [(f.line, f.exchange, f.where, f.kind) for f in findings]


SECRETS = [
    (KEY, "API key", "sk-proj-****** (28 characters)"),
    ("ghp_0123456789abcdefghijKLMN", "API key", "ghp_****** (28 characters)"),
    ("AIzaSyA0123456789abcdefghij", "API key", "AIza****** (27 characters)"),
    ("xoxb-123456789012-abcdef", "API key", "xoxb-****** (24 characters)"),
    ("AKIAIOSFODNN7EXAMPLE", "AWS key", "AKIA****** (20 characters)"),
    (f"token {JWT}!", "JWT", "eyJ****** (63 characters)"),
    (PEM, "private key", "****** (35 characters)"),
    ("Authorization: Bearer abc123def456", "bearer token", "****** (12 characters)"),
    ("curl -u x -H 'basic dXNlcjpwYXNz'", "basic credentials", "****** (12 characters)"),
    ("postgres://joe:s3cr3t@db/x", "password in a URL", "****** (6 characters)"),
    ("Set-Cookie: session=0123abcd; Path=/", "cookie", "****** (8 characters)"),
    ("password=hunter2x", "password", "password ****** (8 characters)"),
    ('{"db_password": "hunter2x"}', "password", "db_password ****** (8 characters)"),
    (r'"{\"clientSecret\": \"hunter2x\"}"', "password", "clientsecret ****** (8 characters)"),
    ("apiKey=0123456789abcdef", "key or token", "apikey ****** (16 characters)"),
    ("deploy --token s3cr3t --force", "option", "token ****** (6 characters)"),
    ("realtime, openai-insecure-api-key.abc", "WebSocket key", "****** (3 characters)"),
]


@pytest.mark.parametrize(("text", "kind", "excerpt"), SECRETS)
def test_forms(text: str, kind: str, excerpt: str) -> None:
    told = [(secret.kind, secret.excerpt) for secret in secret_detection.find_secrets(text)]
    assert told == [(kind, excerpt)]


# What labels do not know: they have no headers and no nested JSON.
_ALONE = ("private key", "cookie", "WebSocket key")
_ALSO_ALONE = ("clientSecret", "apiKey")


@pytest.mark.parametrize("text", [text for text, kind, _ in SECRETS if kind not in _ALONE])
def test_labels_blot_out_the_same(text: str) -> None:
    assert (redact.redact(text) != text) != any(word in text for word in _ALSO_ALONE)


@pytest.mark.parametrize(
    "text",
    [
        "a basic understanding, bearer authentication, Basic dXNlcg==",
        '{"token": "Hello", "logprob": -0.1, "max_tokens": 4096}',
        '{"password": {"type": "string"}, "secret": null, "api_key": ""}',
        '"prompt_cache_key": "conversation-0123456789", "next_page_token": "abcdef0123456789"',
        "sk-learn-tutorials and hf-internal-testing",
        "https://localhost:8787/v1 and http://h:1/a@b",
        f"Bearer {PLACEHOLDER} api_key={PLACEHOLDER} ://joe:{PLACEHOLDER}@db",
        "password=****** ://joe:***@db api_key=xxxxxxxxxxxxxxxxxxxx",
        "call_0123456789abcdefghij chatcmpl-0123456789abcdefghijk",
        '"tool_call_id": "toolu_0123456789abcdef", "key": "f47ac10b"',
    ],
)
def test_what_is_none(text: str) -> None:
    assert list(secret_detection.find_secrets(text)) == []


@pytest.mark.parametrize(
    ("name", "value", "count"),
    [
        ("Authorization", "Bearer x", 1),
        ("AUTHORIZATION", f"Bearer {PLACEHOLDER}", 0),
        ("authorization", PLACEHOLDER, 0),
        ("authorization", "Bearer ***", 0),
        ("authorization", "", 0),
        ("x-api-key", "local", 1),
        ("X-Custom-Auth-Token", "abc", 1),
        ("X-Goog-Api-Key", f"{PLACEHOLDER} {KEY}", 1),
        ("Cookie", f"a=1; b={PLACEHOLDER}; c=2", 2),
        ("Set-Cookie", "a=1; Path=/; Domain=b", 1),
        ("Cookie", PLACEHOLDER, 0),
        ("Cookie", "odd", 1),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZQ==", 0),
        ("Idempotency-Key", "0123456789abcdef", 0),
        ("x-ratelimit-remaining-tokens", "149984", 0),
        ("Referer", "https://h/?api_key=0123456789abcdef", 1),
        ("Content-Type", "application/json", 0),
    ],
)
def test_headers(name: str, value: str, count: int) -> None:
    assert len(list(secret_detection.find_in_header(name, value))) == count


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "text", ["eyJabcdefgh-", "cookie: a", "://a:", "key" + " " * 99, "sk-", "-token", "-----BEGIN "]
)
def test_any_text_in_linear_time(text: str) -> None:
    started = time.process_time()
    assert list(secret_detection.find_secrets(text * (1_000_000 // len(text)))) == []
    assert time.process_time() - started < 5, "minutes, if it is not"


def test_a_clean_cassette(tmp_path: Path) -> None:
    assert found(write(tmp_path / "one.jsonl", agent())) == []


def test_all_places_of_a_cassette(tmp_path: Path) -> None:
    headers = [["Host", "h"], ["Authorization", f"Bearer {KEY}"], ["X-Api-Key", PLACEHOLDER]]
    tape = Tape("e1").request(f'{{"key": "{KEY}"}}'.encode(), target=f"/v1/x?key={KEY}")
    tape.lines[0]["headers"] = headers
    tape.forwarded(headers=headers).head(5, [["Set-Cookie", "sid=0123"]])
    tape.read(6, f"data: {KEY}\n\n".encode()).sent(7, b": hi\n\n").end(error=KEY)
    assert found(write(tmp_path / "one.jsonl", tape)) == [
        (2, "e1", "url", "API key"),
        (2, "e1", "header Authorization", "credential header"),
        (2, "e1", "body", "API key"),
        (4, "e1", "header Set-Cookie", "cookie"),
        (8, "e1", "end", "API key"),
        (6, "e1", "stream", "API key"),
    ]


def test_a_secret_in_two_reads(tmp_path: Path) -> None:
    event = f'data: {{"content": "é {KEY}"}}\n\n'.encode()
    tape = Tape("a").request().head().read(1, b": hi\n\n")
    other = Tape("b").request().head().read(1, event[:30])
    tape.read(2, event[:40]).read(3, event[40:])
    path = write(tmp_path / "one.jsonl", tape, other)
    assert found(path) == [(6, "a", "stream", "API key")]


def test_a_secret_in_the_deltas_of_many_frames(tmp_path: Path) -> None:
    tape = Tape("a").request().head().read(1, chunk(call(0, id="c", name="f")))
    for piece in ('{"x":', f'"{KEY[:9]}', KEY[9:14], f'{KEY[14:]}"}}'):
        tape.read(2, chunk(call(0, piece)))
    tape.read(3, frame("c", "running")).read(4, chunk({"content": "Bearer abc1"}))
    tape.read(5, chunk({"content": "23def456"})).end()
    assert found(write(tmp_path / "one.jsonl", tape)) == [
        (7, "a", "stream", "API key"),
        (11, "a", "stream", "bearer token"),
    ]


def test_a_secret_in_what_only_the_client_got_and_in_compressed_bytes(tmp_path: Path) -> None:
    tape = Tape("a").request().head().sent(1, f"data: {KEY}\n\n".encode()).end()
    assert found(write(tmp_path / "one.jsonl", tape)) == [(5, "a", "stream", "API key")]
    packed = gzip.compress(f"data: {JWT}\n\n".encode())
    head = [["Content-Type", "text/event-stream"], ["Content-Encoding", "gzip"]]
    tape = Tape("a").request().head(1, head).read(2, packed[:20]).read(3, packed[20:]).end()
    assert found(write(tmp_path / "two.jsonl", tape)) == [(5, "a", "stream", "JWT")]


def test_torn_and_odd_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "one.jsonl", Tape("a").request().end())
    with path.open("ab") as file:
        file.write(b'{"kind":"request","id":"b","headers":[["Authorization","Bearer abc123def')
        file.write(b'456"]\n{"kind":"later"}\n{"kind":"read","id":"c","data":{"base64":"?"}}\n')
        file.write(b'{"kind":"request","headers":[1],"body":{"password":"hunter2x"}}\n[]\n')
        file.write(b'{"kind":"head","id":[],"side":[],"headers":7}\n' + b"{" * 9999 + b"\n")
    assert found(path) == [(4, "", "text", "bearer token"), (7, "", "body", "password")]


def test_other_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"one\n{PEM}\nkey {KEY} and {JWT}\n")
    (tmp_path / "b.har").write_text(json.dumps({"text": f"Bearer {KEY}"}))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(KEY.encode()))
    (tmp_path / "d.bin").write_bytes(b"\x89PNG\r\n\0" + KEY.encode())
    (tmp_path / "e.gz").write_bytes(b"\x1f\x8b no gzip")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x").write_text(KEY)
    told = [(f.file.name, f.line, f.where, f.kind) for f in scan.scan(tmp_path)]
    assert told == [
        ("a.txt", 2, "text", "private key"),
        ("a.txt", 3, "text", "JWT"),
        ("a.txt", 3, "text", "API key"),
        ("b.har", 1, "text", "API key"),
        ("c.jsonl.gz", 1, "text", "API key"),
    ]


def test_a_torn_compressed_file(tmp_path: Path) -> None:
    lines = f"{KEY}\n".encode() + b"".join(b"%d\n" % number for number in range(9999))
    path = tmp_path / "one.jsonl.gz"
    path.write_bytes(gzip.compress(lines)[:-2000])
    assert found(path) == [(1, "", "text", "API key")]


def test_report(tmp_path: Path) -> None:
    clean, dirty = tmp_path / "clean.txt", tmp_path / "dirty.jsonl"
    clean.write_text("nothing\n")
    write(dirty, Tape("a\x1b[2J").request(headers=[["Api-Key\n", "s3cr3t"]]).end())
    stream = io.StringIO()
    assert scan.report([clean], stream) == 0
    assert stream.getvalue() == ""
    assert scan.report([dirty, clean], stream) == 1
    line = rf"{dirty}:2: exchange a\x1b[2J, header Api-Key\n: credential header: "
    assert stream.getvalue() == f"{line}****** (6 characters)\n"
    with pytest.raises(CassetteError, match=r"none: No such file"):
        scan.report([tmp_path / "none"], stream)
