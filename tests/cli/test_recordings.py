"""The commands for recordings: exit codes, and errors that name the file and the cure."""

import asyncio
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lifecycle_proxy.cli import main as cli
from lifecycle_proxy.recording.cassette import load

from tests import commands
from tests.commands import LISTEN, ended, run, run_here, serving
from tests.fakes import CHAT, DONE, Request, Upstream, Wire, ask, chat, text
from tests.recording.build import Tape, agent, write

LINE = re.compile(r"replaying (\d+) exchanges? on (http://127\.0\.0\.1:\d+)\n")
ASKED = b'{"model":"m","stream":true}'
STREAM = text("hello") + DONE
GONE = {"end": "gone", "ms": 1, "sha256": hashlib.sha256(STREAM).hexdigest()}
CHUNKED = [["Content-Type", "text/event-stream"], ["Transfer-Encoding", "chunked"]]
PARSERS = ("replay", "show", "export", "scan", "drift", "rerun", "import")


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    for name in list(os.environ):
        if name.startswith("LIFECYCLE_PROXY_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A cassette with one chat stream."""
    tape = Tape("one").request(ASKED).forwarded().head(1).read(2, STREAM).end()
    return write(tmp_path / "one.jsonl", tape)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """What a command says on standard error that fails."""
    assert cli.main(arguments) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("lifecycle-proxy: ")
    assert "Traceback" not in told.err
    return told.err.removeprefix("lifecycle-proxy: ")


def misused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the parser says of a wrong command line."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


@contextmanager
def replaying(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str, int]]:
    """A running ``replay``: the process, its URL and the number of exchanges it names."""
    with subprocess.Popen(
        (*commands.COMMAND, "replay", *LISTEN, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=commands.environment(),
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = LINE.fullmatch(line)
            assert found, (line, process.stderr and process.stderr.read())
            yield process, found[2], int(found[1])
        finally:
            process.kill()


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", PARSERS)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], [command, "--help"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 0
        assert command in capsys.readouterr().out


def test_help_names_defaults_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    told = {}
    for command in (*PARSERS, "serve"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        told[command] = " ".join(capsys.readouterr().out.split())
    for part in ("127.0.0.1:8788", "(default: upstream)", "200ms, 1.5s", "[faults]", "404"):
        assert part in told["replay"]
    assert "Exit code 0 if nothing looks like a secret, 1" in told["scan"]
    assert "0: identical; 3: harmless differences; 1: differences" in told["drift"]
    assert "NAME.jsonl.gz" in told["import"]
    assert "--record DIR" in told["serve"]
    assert "refused" in told["serve"].partition("--allow-faults")[2]


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["replay"], "PATH"),
        (["show"], "PATH"),
        (["scan"], "PATH"),
        (["export", "--har"], "PATH"),
        (["export", "x"], "--html --har"),
        (["drift", "x"], "--upstream"),
        (["drift", "--upstream", "http://x"], "PATH"),
        (["import"], "SOURCE, TARGET"),
        (["import", "x"], "TARGET"),
    ],
    ids=" ".join,
)
def test_what_is_missing_is_named(
    arguments: list[str], missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = misused(capsys, *arguments)
    assert told.startswith(f"usage: lifecycle-proxy {arguments[0]}")
    assert missing in told.splitlines()[-1]


READERS = (
    ["replay", "{}"],
    ["show", "{}"],
    ["export", "--html", "{}"],
    ["export", "--har", "{}"],
    ["drift", "{}", "--upstream", "http://127.0.0.1:9"],
)


@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
def test_what_is_no_cassette_is_a_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, other, later = tmp_path / "folder", tmp_path / "x.txt", tmp_path / "later.jsonl"
    empty.mkdir()
    other.write_text("no cassette\n")
    later.write_text('{"kind": "cassette", "version": 99}\n')
    for path, problem in (
        (tmp_path / "none.jsonl", "no such file"),
        (empty, "no cassettes in this folder (.jsonl or .jsonl.gz)"),
        (other, "line 1: not a cassette"),
        (later, "line 1: version 99; this program reads 1 to 1"),
    ):
        told = fails(capsys, *(part.format(path) for part in arguments))
        assert told.startswith(f"{path}: {problem}")


# --- replay ---------------------------------------------------------------------------------------


async def test_replay_plays_until_a_signal(file: Path) -> None:
    with replaying(str(file), "--speed", "0", "--side", "client") as (process, url, number):
        assert number == 1
        answer = await ask(url, "POST", CHAT, body=ASKED)
        assert (answer.status, answer.body, answer.end) == (200, STREAM, "clean")
        assert (await ask(url, "POST", CHAT, body=ASKED)).body == STREAM  # the last is repeated
        missed = await ask(url, "GET", "/v1/models")
        process.send_signal(signal.SIGINT)
        code, out, errors = ended(process)
    assert (code, out) == (0, "")
    assert (missed.status, missed.json()["error"]["code"]) == (404, "no_recording")
    assert "no recording for GET /v1/models; nearest: one" in errors
    matched = f"lifecycle-proxy: POST {CHAT}: matched one by exact"
    assert errors.splitlines()[:2] == [matched, matched]
    assert "Traceback" not in errors


async def test_replay_of_several_paths_strictly_and_with_faults(tmp_path: Path, file: Path) -> None:
    other = write(
        tmp_path / "b.jsonl",
        Tape("two").request(b'{"b":2}').head(1, CHUNKED).read(2, STREAM).end(),
    )
    faults = tmp_path / "faults.toml"
    faults.write_text('[faults]\n[[faults.rules]]\nkind = "cut_at_byte"\nbyte = 7\n')
    arguments = (str(file), str(other), "--strict", "--faults", str(faults), "--max-gap", "1ms")
    with replaying(*arguments) as (_, url, number):
        assert number == 2
        answer = await ask(url, "POST", CHAT, body=b'{"b":2}')
        assert (answer.body, answer.end) == (STREAM[:7], "cut")
        assert (await ask(url, "POST", CHAT, body=b'{"b":2}')).status == 404


async def test_replay_by_order_in_a_loop(tmp_path: Path) -> None:
    tapes = [
        Tape(name).request(b"{}").head(1).read(2, name.encode()).end() for name in ("one", "two")
    ]
    file = write(tmp_path / "a.jsonl", *tapes)
    with replaying(str(file), "--order", "--loop", "--speed", "0") as (_, url, _):
        bodies = [(await ask(url, "POST", CHAT, body=b"whatever")).body for _ in range(3)]
    assert bodies == [b"one", b"two", b"one"]


async def test_replay_says_when_it_answers_another_question(file: Path) -> None:
    body = b'{"model":"other","stream":true,"messages":[{"role":"user","content":"Who?"}]}'
    with replaying(str(file), "--speed", "0") as (process, url, _):
        assert (await ask(url, "POST", CHAT, body=body)).body == STREAM
        process.terminate()
        _, _, errors = ended(process)
    assert errors == (
        f"lifecycle-proxy: POST {CHAT}: matched one by order; asked: other: Who?; recorded: m\n"
    )


def test_replay_takes_strict_or_loop(capsys: pytest.CaptureFixture[str]) -> None:
    told = misused(capsys, "replay", "x", "--strict", "--loop")
    assert "argument --loop: not allowed with argument --strict" in told


@pytest.mark.parametrize(("given", "ms"), [("200", 200), ("200ms", 200), ("1.5s", 1500), ("0", 0)])
def test_forms_of_max_gap(given: str, ms: float) -> None:
    parsed = cli._parser().parse_args(["replay", "x", "--max-gap", given])
    assert parsed.max_gap == ms


@pytest.mark.parametrize("given", ["", "ms", "-1", "1m", "1.s", "1e3", "nan", "1 s"])
def test_what_is_no_gap(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = misused(capsys, "replay", "x", f"--max-gap={given}")
    assert f"{given!r} is not a duration, such as 200, 200ms or 1.5s" in told


@pytest.mark.parametrize("speed", ["-1", "nan"])
def test_what_is_no_speed(speed: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = fails(capsys, "replay", str(file), f"--speed={speed}")
    assert told == f"--speed: {speed} is not a speed, such as 10, or 0 for at once\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory"),
        ("[faults", "not valid TOML: expected ']'"),
        ("", "faults: there is no table [faults] in this file"),
        ("[[rules]]\nkind = 'reset'", "faults: there is no table [faults] in this file"),
        ("[[faults.rules]]\nkind = 'rest'", "did you mean reset?"),
        ("[[faults.rules]]\nkind = 'reset'", "reset needs byte"),
        ("[faults]\nsede = 1", "sede"),
    ],
)
def test_faults_that_are_none(
    content: str | None,
    problem: str,
    tmp_path: Path,
    file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faults = tmp_path / "faults.toml"
    if content is not None:
        faults.write_text(content)
    told = fails(capsys, "replay", str(file), "--faults", str(faults))
    assert told.startswith(f"{faults}: ")
    assert problem in told


def test_an_address_that_is_none(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fails(capsys, "replay", str(file), "--listen", "x").startswith("--listen: server.listen")


def test_a_taken_port_is_a_failure_at_run_time(file: Path) -> None:
    with listener() as port:
        done = run("replay", str(file), "--listen", f"127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "address already in use" in done.stderr.lower()


@contextmanager
def listener() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def test_nothing_that_can_be_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.jsonl", Tape("torn").request())
    assert cli.main(["replay", str(file)]) == 2
    told = capsys.readouterr()
    assert "torn is left out: its end was not recorded" in told.err
    assert f"{file}: nothing that can be played" in told.err


# --- show, export, scan ---------------------------------------------------------------------------


def test_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.jsonl", agent("agent-0001"))
    assert cli.main(["show", str(file)]) == 0
    told = capsys.readouterr().out
    assert "agent-0001"[:8] in told
    assert "web_search" in told
    assert cli.main(["show", str(file), "--exchange", "agent-0001", "--side", "upstream"]) == 0
    assert "/v1/chat/completions" in capsys.readouterr().out


def test_show_of_an_exchange_that_is_not_there(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = fails(capsys, "show", str(file), "--exchange", "two")
    assert "two" in told


def test_export_to_files_and_to_standard_output(
    file: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    page, har = tmp_path / "page.html", tmp_path / "a.har"
    assert cli.main(["export", str(file), "--html", "-o", str(page)]) == 0
    assert page.read_bytes().lower().startswith(b"<!doctype html>")
    assert cli.main(["export", str(file), "--har", "--output", str(har)]) == 0
    assert json.loads(har.read_bytes())["log"]["version"] == "1.2"
    assert har.stat().st_mode & 0o777 == 0o600
    assert capfdbinary.readouterr().out == b""
    assert cli.main(["export", str(file), "--har", "--side", "upstream"]) == 0
    assert len(json.loads(capfdbinary.readouterr().out)["log"]["entries"]) == 1


def test_export_has_one_form(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not allowed with" in misused(capsys, "export", str(file), "--har", "--html")


def test_export_where_nothing_can_be_written(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "none" / "page.html"
    told = fails(capsys, "export", str(file), "--html", "-o", str(out))
    assert told == f"{out}: No such file or directory\n"


def test_scan(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["scan", str(file)]) == 0
    assert capsys.readouterr().out == ""
    leaky = tmp_path / "old.jsonl"
    write(leaky, Tape("bad").request(b'{"key": "sk-proj-0123456789abcdef0123"}'))
    assert cli.main(["scan", str(file), str(leaky)]) == 1
    told = capsys.readouterr().out
    assert told.startswith(f"{leaky}:2: exchange bad, body: ")
    assert "0123456789abcdef" not in told
    assert cli.main(["scan", str(tmp_path)]) == 1


def test_scan_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none"
    assert fails(capsys, "scan", str(path)).startswith(f"{path}: ")


# --- drift ----------------------------------------------------------------------------------------


def drift(file: Path, upstream: Upstream, *more: str) -> "subprocess.CompletedProcess[str]":
    return run("drift", str(file), "--upstream", f"{upstream.origin}/v1", *more, NO_COLOR="1")


@pytest.mark.parametrize(
    ("events", "code", "verdict"),
    [
        ((text("hello"), DONE), 0, "identical"),
        ((text("other words"), DONE), 3, "benign"),
        ((text("hello").replace(b'"created"', b'"new": 1, "created"'), DONE), 3, "benign"),
        ((DONE,), 1, "breaking"),
    ],
    ids=["identical", "other words", "a new field", "breaking"],
)
async def test_drift(
    events: tuple[bytes, ...], code: int, verdict: str, file: Path, upstream: Upstream
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*events)
        await wire.chunk()

    upstream.script = script
    done = await asyncio.to_thread(drift, file, upstream, "--api-key", "abc-key")
    assert (done.returncode, done.stderr) == (code, ""), done.stdout
    assert done.stdout.startswith(verdict)
    assert done.stdout.splitlines()[-1] == f"{verdict} (1 {verdict})"
    assert upstream.request.headers["Authorization"] == "Bearer abc-key"
    assert "abc-key" not in done.stdout


def test_drift_where_nobody_answers(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listener() as port:
        pass
    assert cli.main(["drift", str(file), "--upstream", f"http://127.0.0.1:{port}/v1"]) == 4
    assert capsys.readouterr().out.startswith("unreachable: cannot reach the upstream")


def test_drift_of_whom(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = fails(capsys, "drift", str(file), "--upstream", "nonsense")
    assert told.startswith('--upstream: upstream.url: "nonsense" is not a base URL')
    told = fails(capsys, "drift", str(file), "--upstream", "http://x", "--api-key", "env:NO_SUCH")
    assert "NO_SUCH is not set" in told


# --- rerun ----------------------------------------------------------------------------------------

CASSETTES = Path(__file__).parents[1] / "recording" / "cassettes"


def test_rerun_of_what_is_the_same() -> None:
    done = run("rerun", str(CASSETTES / "litellm-mcp-auto-execution.jsonl"), str(CASSETTES))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"\d\d the same, 0 different\n", done.stdout)


def test_rerun_of_what_is_told_otherwise(tmp_path: Path) -> None:
    text = (CASSETTES / "hermes-one-tool.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    end = next(line for line in lines if line["kind"] == "end")
    end["tools"][0]["label"] = "another one"
    end["tools"].pop()
    cassette = tmp_path / "a.jsonl"
    cassette.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run("rerun", str(cassette))
    assert done.returncode == 1
    first, last = done.stdout.splitlines()
    assert first.startswith(f"differs  {end['id']}  POST {CHAT}: event 1 (")
    assert "label 'another one' is now '" in first
    assert last == "2 the same, 1 different"


def test_rerun_of_what_cannot_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tapes = [
        Tape("gone").request().head().read(1, STREAM).end(upstream=GONE),
        Tape("nobody").request(None, omitted="large").head().read(1, STREAM).end(),
    ]
    file = write(tmp_path / "a.jsonl", *tapes)
    assert "nothing that can be run again" in fails(capsys, "rerun", str(file))
    shutil.copy(CASSETTES / "hermes-one-tool.jsonl", tmp_path / "b.jsonl")
    done = run("rerun", str(tmp_path))
    assert done.returncode == 0
    assert "not run  nobody  its request was not recorded: large" in done.stdout
    assert "not run  gone  it did not end by its upstream (gone)" in done.stdout


# --- import ---------------------------------------------------------------------------------------


def test_import(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    har, target = tmp_path / "a.har", tmp_path / "new.jsonl.gz"
    assert cli.main(["export", str(file), "--har", "-o", str(har)]) == 0
    assert cli.main(["import", str(har), str(target)]) == 0
    assert capsys.readouterr().out == f"{target}: 1 exchanges\n"
    (one,) = load(target)
    assert (one.request.body, one.client.body) == (ASKED, STREAM)
    told = fails(capsys, "import", str(har), str(target))
    assert told.startswith(f"{target}: there is such a file; remove it")


def test_import_of_something_else(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = fails(capsys, "import", str(file), str(tmp_path / "new.jsonl"))
    assert told.startswith(f"{file}: neither HAR 1.2 nor vcrpy: this is a cassette already")
    none = tmp_path / "none.har"
    told = fails(capsys, "import", str(none), str(tmp_path / "new.jsonl"))
    assert told == f"{none}: No such file or directory\n"
    told = fails(capsys, "import", str(file), str(tmp_path / "new.txt"))
    assert ".jsonl or .jsonl.gz" in told


# --- serve ----------------------------------------------------------------------------------------


async def test_serve_records(upstream: Upstream, tmp_path: Path) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("hello"), DONE)
        await wire.chunk()

    upstream.script = script
    folder = tmp_path / "kept"
    arguments = (*LISTEN, "--upstream", f"{upstream.origin}/v1", "--record", str(folder))
    with serving(*arguments) as (process, url, _):
        answer = await chat(url)
        process.terminate()
        code, _, _ = ended(process)
    assert code == 0
    (one,) = load(folder)
    assert one.client.body == answer.body == STREAM
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [f.stat().st_mode & 0o777 for f in folder.iterdir()] == [0o600]


def test_serve_records_nowhere(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    done = run("serve", *LISTEN, "--record", str(place / "below"))
    assert done.returncode == 1
    assert "recording.path" in done.stderr
    assert f"{place}/below: " in done.stderr
    assert "Traceback" not in done.stderr


def test_one_cassette_and_several_workers(tmp_path: Path) -> None:
    done = run("serve", *LISTEN, "--workers", "2", "--record", str(tmp_path / "a.jsonl"))
    assert done.returncode == 2
    assert "is one file, for 2 workers; name a folder, or set workers to 1" in done.stderr


@pytest.mark.unmeasured
async def test_faults_are_refused_unless_they_are_allowed(
    upstream: Upstream, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[[faults.rules]]\nkind = "status_500"\n')
    to = ("--upstream", f"{upstream.origin}/v1")
    done = run_here("serve", *LISTEN, *to, "--config", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    why = "faults: refused without --allow-faults, since they break answers on purpose\n"
    assert done.stderr == f"lifecycle-proxy: {file}: {why}"
    rules = '[{kind = "status_500"}]'
    done = run_here("serve", *LISTEN, LIFECYCLE_PROXY_FAULTS__RULES=rules)
    assert (done.returncode, done.stderr) == (2, f"lifecycle-proxy: {why}")
    with serving(*LISTEN, *to, "--allow-faults", "--config", str(file)) as (_, url, _):
        answer = await chat(url)
    assert (answer.status, answer.json()["error"]["type"]) == (500, "server_error")
    assert upstream.requests == []
    file.write_text("[faults]\nseed = 7\n")  # nothing happens without a rule
    with serving(*LISTEN, *to, "--config", str(file)) as (_, url, _):
        assert (await ask(url, "GET", "/v1/models")).status == 200


def test_a_fault_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[[faults.rules]]\nkind = "stal"\n')
    told = fails(capsys, "check-config", str(file))
    assert told.startswith(f"{file}: faults.rules[0]")
    assert "did you mean stall?" in told
