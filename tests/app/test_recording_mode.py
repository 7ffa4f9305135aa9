"""The modes of recording, in front of an upstream that counts who comes."""

import json
import re
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from lifecycle_proxy.app import serve
from lifecycle_proxy.app.recording_mode import RecordingMode
from lifecycle_proxy.config import model as config
from lifecycle_proxy.config.model import ConfigError
from lifecycle_proxy.recording.cassette import RecordedExchange, load
from lifecycle_proxy.server.listener import bind

from tests.commands import LISTEN, run_here
from tests.conftest import StartProxy
from tests.fakes import (
    DONE,
    JSON,
    Answer,
    Client,
    Request,
    Upstream,
    Wire,
    ask,
    chat,
    event,
    lifecycle,
    text,
    tool_call,
)
from tests.recording.build import Tape, write

pytestmark = pytest.mark.usefixtures("quiet")

RECORD = "X-Lifecycle-Record"
Run = Callable[..., Awaitable[str]]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files: one of this test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "kept.jsonl"


@pytest.fixture
async def begin(
    start_proxy: StartProxy, runners: list[serve.Runner], upstream: Upstream, place: Path
) -> Run:
    """Ends the proxy that runs, and starts one in another mode."""

    async def counting(request: Request, wire: Wire) -> None:
        """A tool call, and the number of the request."""
        number = len(upstream.requests)
        if request.target.endswith("/chat/completions"):
            await wire.stream(tool_call(), text(f"answer {number}"), DONE)
            await wire.chunk()
        else:
            await wire.answer(json.dumps({"answer": number}).encode(), "200 OK", JSON)

    upstream.script = counting

    async def start(mode: str, **more: Any) -> str:
        while runners:
            await serve.stop(runners.pop(), 0)
        own = {"recording.mode": mode, "recording.path": str(place), "recording.speed": 0}
        return await start_proxy({**own, **{k.replace("__", "."): v for k, v in more.items()}})

    return start


def said(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}]}


def number_of(answer: Answer) -> int:
    """Which request of the upstream's the answer was for."""
    found = re.search(rb"answer\"?:? (\d+)", answer.body)
    assert found, answer.body
    return int(found[1])


def bodies(exchanges: list[RecordedExchange]) -> list[str]:
    """What was asked, by the last message."""
    return [json.loads(e.request.body or b"{}")["messages"][-1]["content"] for e in exchanges]


def mode(name: str, place: Path) -> config.Settings:
    flags = {"recording.mode": name, "recording.path": str(place)}
    return config.load(environ={}, flags=flags)


def listed(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def content(file: Path) -> str:
    return file.read_text("utf-8")


async def finished(begin: Run, place: Path) -> list[RecordedExchange]:
    """What has been recorded, once everything is written."""
    await begin("off")
    return load(place)


# --- record ---------------------------------------------------------------------------------------


async def test_record(begin: Run, upstream: Upstream, place: Path) -> None:
    url = await begin("record")
    first = await chat(url, **said("a"))
    again = await chat(url, **said("a"))
    assert (number_of(first), number_of(again)) == (1, 2)
    await chat(url, f"{RECORD}: off", **said("b"))
    await chat(url, f"{RECORD}: New_Episodes", **said("c"))
    await chat(url, f"{RECORD}: once", **said("d"))
    refused = await chat(url, f"{RECORD}: replay", **said("e"))
    assert (refused.status, refused.json()["error"]["code"]) == (400, "bad_request")
    assert refused.json()["error"]["param"] == RECORD
    assert "nothing to play" in refused.json()["error"]["message"]
    recorded = await finished(begin, place)
    assert bodies(recorded) == ["a", "a", "c", "d"]
    assert recorded[0].client.body == first.body
    assert all(not r.headers.get(RECORD) for r in upstream.requests)
    assert len(upstream.requests) == 5


async def test_an_unknown_mode_of_a_request(begin: Run, upstream: Upstream) -> None:
    url = await begin("record")
    refused = await chat(url, f"{RECORD}: always")
    assert refused.status == 400
    told = refused.json()["error"]["message"]
    assert told == (
        "unknown recording mode 'always'; known are off, record, once, new_episodes, replay"
    )
    assert upstream.requests == []


@pytest.mark.parametrize("mode", ["record", "once", "new_episodes", "replay"])
async def test_a_request_turns_no_recording_on(mode: str, begin: Run, place: Path) -> None:
    url = await begin("off")
    refused = await chat(url, f"{RECORD}: {mode}")
    assert refused.status == 400
    assert "recording is off (recording.mode)" in refused.json()["error"]["message"]
    assert (await chat(url, f"{RECORD}: off")).status == 200
    assert listed(place.parent) == ["temporary"]


# --- once -----------------------------------------------------------------------------------------


async def test_once_records_and_then_plays(begin: Run, upstream: Upstream, place: Path) -> None:
    url = await begin("once")
    first = await chat(url, **said("a"))
    models = await ask(url, "GET", "/v1/models")
    assert len(upstream.wires) > 0
    url = await begin("once")
    before = len(upstream.wires)
    played = await chat(url, **said("a"))
    assert number_of(played) == number_of(first) == 1
    assert (await ask(url, "GET", "/v1/models")).body == models.body
    missed = await chat(url, **said("b"))
    assert missed.status == 404
    assert len(upstream.wires) == before
    assert len(await finished(begin, place)) == 2


async def test_once_begins_with_what_cannot_be_played(
    begin: Run, upstream: Upstream, place: Path
) -> None:
    for nothing in ((), (Tape("torn").request(),)):
        write(place, *nothing)
        url = await begin("once")
        assert (await chat(url, **said("a"))).status == 200
        assert bodies((await finished(begin, place))[-1:]) == ["a"]
        url = await begin("once")
        assert (await chat(url, **said("a"))).status == 200
    assert len(upstream.requests) == 2


# --- new_episodes ---------------------------------------------------------------------------------


async def test_new_episodes(
    begin: Run, upstream: Upstream, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = await begin("new_episodes")
    known = await chat(url, **said("known"))
    url = await begin("new_episodes")
    played = await chat(url, **said("known"))
    assert number_of(played) == number_of(known) == 1
    new = await chat(url, **said("new"))
    assert number_of(new) == 2
    assert len(upstream.requests) == 2
    assert "no recording" not in caplog.text  # that is what the mode is for
    assert bodies(load(place)) in (["known"], ["known", "new"])
    url = await begin("new_episodes")
    assert [number_of(await chat(url, **said(q))) for q in ("new", "known")] == [2, 1]
    assert bodies(await finished(begin, place)) == ["known", "new"]
    assert len(upstream.requests) == 2


async def test_new_episodes_by_request(begin: Run, upstream: Upstream, place: Path) -> None:
    url = await begin("record")
    for question in ("a", "b"):
        await chat(url, **said(question))
    url = await begin("new_episodes")
    assert number_of(await chat(url, f"{RECORD}: record", **said("a"))) == 3
    assert number_of(await chat(url, f"{RECORD}: off", **said("a"))) == 4
    assert number_of(await chat(url, f"{RECORD}: replay", **said("a"))) == 1
    assert number_of(await chat(url, f"{RECORD}: once", **said("b"))) == 2
    missed = await chat(url, f"{RECORD}: replay", **said("new"))
    assert (missed.status, missed.json()["error"]["code"]) == (404, "no_recording")
    assert number_of(await chat(url, f"{RECORD}: once", **said("new"))) == 5
    assert bodies(await finished(begin, place)) == ["a", "b", "a", "new"]
    assert len(upstream.requests) == 5


async def test_an_upload_is_played_again_in_new_episodes(
    begin: Run, upstream: Upstream, place: Path
) -> None:
    url = await begin("record")
    await ask(url, "GET", "/v1/models")
    upload = ("POST", "/v1/files", "Content-Type: application/octet-stream")
    for _ in range(2):
        url = await begin("new_episodes")
        assert (await ask(url, *upload, body=b"raw" * 1000)).status == 200
    assert [r.body for r in upstream.requests[1:]] == [b"raw" * 1000]
    large = b"raw" * (3 << 20)  # too much to be kept until it is known whether it is recorded
    assert (await ask(url, *upload, body=large)).status == 200
    assert upstream.requests[-1].body == large
    count = len(upstream.wires)
    refused = await ask(url, *upload, f"{RECORD}: replay", body=b"raw")
    assert (refused.status, len(upstream.wires)) == (404, count)  # asked for no connection
    _, one, two = await finished(begin, place)
    assert (one.request.body, two.request.body) == (b"raw" * 1000, large)


async def test_a_recorded_end_is_played_too(begin: Run, upstream: Upstream) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call())
        wire.reset()

    url = await begin("record")
    upstream.script = script
    first = await chat(url, **said("a"))
    url = await begin("new_episodes")
    played = await chat(url, **said("a"))
    assert len(upstream.requests) == 1
    for answer in (first, played):
        assert lifecycle(answer.body)[-1][1:] == ("completed", "upstream_error")
        assert answer.end == "cut"


# --- replay ---------------------------------------------------------------------------------------


async def test_replay_opens_no_connection(
    begin: Run, upstream: Upstream, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = await begin("record")
    recorded = await chat(url, **said("a"))
    url = await begin("replay")
    before = len(upstream.wires)
    played = await chat(url, **said("a"))
    assert (played.status, number_of(played), played.end) == (200, 1, "clean")
    assert lifecycle(played.body) == lifecycle(recorded.body)
    missed = await chat(url, **said("b"))
    error = missed.json()["error"]
    assert (missed.status, error["code"], error["type"]) == (404, "no_recording", "proxy_error")
    # What others asked is for the log only.
    assert error.keys() == {"message", "type", "param", "code"}
    assert "    recorded: a" in caplog.text
    for mode in ("off", "new_episodes", "once"):
        assert (await chat(url, f"{RECORD}: {mode}", **said("c"))).status == 404
    for question in ("a", "c"):
        refused = await chat(url, f"{RECORD}: record", **said(question))
        error = refused.json()["error"]
        assert (refused.status, error["code"], error["param"]) == (400, "bad_request", RECORD)
        assert "nothing is recorded here" in error["message"]
    assert (await ask(url, "POST", "/v1/files", body=b"raw")).status == 404
    assert (await chat(url, f"{RECORD}: nonsense")).status == 400
    assert (await ask(url, "GET", "/-/ready")).json() == {"status": "ok"}
    assert len(upstream.wires) == before
    assert len(await finished(begin, place)) == 1


async def test_a_question_that_is_asked_again_gets_its_last_recording_again(begin: Run) -> None:
    url = await begin("record")
    for _ in range(2):
        await chat(url, **said("a"))
    url = await begin("replay")
    assert [number_of(await chat(url, **said("a"))) for _ in range(4)] == [1, 2, 2, 2]


async def test_readiness_uses_no_recording_up(begin: Run, caplog: pytest.LogCaptureFixture) -> None:
    url = await begin("record")
    await ask(url, "GET", "/v1/models")
    url = await begin("replay")
    assert (await ask(url, "GET", "/-/ready")).status == 200
    assert (await ask(url, "GET", "/v1/models")).status == 200
    assert "no recording" not in caplog.text


async def test_frames_of_ours_are_made_anew(begin: Run, place: Path) -> None:
    url = await begin("record")
    first = await chat(url, **said("a"))
    assert b"hermes.tool.progress" in first.body
    (one,) = await finished(begin, place)
    for dialect, mark in (("reasoning", b"reasoning_content"), ("comment", b": hermes.")):
        url = await begin("replay")
        played = await chat(url, f"X-Lifecycle-Events: {dialect}", **said("a"))
        assert mark in played.body
        assert played.body != first.body
    url = await begin("replay")
    assert (await chat(url, "X-Lifecycle-Events: off", **said("a"))).body == one.upstream.body


async def test_replay_with_another_key_and_base(
    begin: Run, upstream: Upstream, place: Path
) -> None:
    key = "the-upstreams-own-key"
    base = {"upstream__url": f"{upstream.origin}/api/v9", "upstream__api_key": key}
    url = await begin("record", **base)
    await chat(url, **said("a"))
    assert upstream.request.target == "/api/v9/chat/completions"
    assert upstream.request.headers["Authorization"] == f"Bearer {key}"
    url = await begin("replay", **{**base, "upstream__api_key": "another-one"})
    assert number_of(await chat(url, "Authorization: Bearer me", **said("a"))) == 1
    assert key not in content(place)


@pytest.mark.parametrize("name", ["replay", "once", "new_episodes"])
async def test_what_was_left_out_of_the_recording_is_found_all_the_same(
    name: str, begin: Run, upstream: Upstream, place: Path
) -> None:
    own = {
        "recording__redact_patterns": ["cust-[0-9]{6}"],
        "recording__redact_paths": ["user"],
        "upstream__api_key": "the-upstreams-own-key",
    }
    asked = [
        said("for cust-123456"),
        {**said("hi"), "user": "ann"},
        said("my key is the-upstreams-own-key"),
    ]
    url = await begin("record", **own)
    first = [number_of(await chat(url, **one)) for one in asked]
    url = await begin(name, **own)
    assert "cust-1" not in content(place)
    assert [number_of(await chat(url, **one)) for one in asked] == first
    assert (await chat(url, **said("for cust-654321"))).status == (
        200 if name == "new_episodes" else 404
    )
    assert len(upstream.requests) == (4 if name == "new_episodes" else 3)


async def test_a_client_that_leaves_ends_the_playing(begin: Run, upstream: Upstream) -> None:
    url = await begin("record")
    await chat(url, **said("a"))
    await chat(url, **said("b"))
    url = await begin("replay")
    async with Client(url) as client:
        await client.chat(**said("a"))
    assert (await chat(url, **said("b"))).status == 200
    assert len(upstream.requests) == 2


# --- the folder of the socket, and what is refused ------------------------------------------------


@pytest.mark.parametrize("name", ["replay", "once", "new_episodes"])
async def test_recordings_are_played_without_a_socket_file(
    name: str, begin: Run, temporary: Path, place: Path
) -> None:
    url = await begin("record")
    await chat(url, **said("a"))
    url = await begin(name)
    assert (await chat(url, **said("a"))).status == 200
    assert listed(temporary) == []


async def test_a_start_that_fails_closes_its_socket(
    begin: Run, temporary: Path, place: Path, tmp_path: Path
) -> None:
    url = await begin("record")
    await chat(url, **said("a"))
    await begin("off")
    listen = {"server.listen": "127.0.0.1:0"}
    (place.parent / "file").write_bytes(b"")
    inner = place.parent / "file" / "inner"
    own = config.load(
        environ={},
        flags={**listen, "recording.mode": "record", "recording.path": str(inner)},
    )
    sock = bind(own)
    with pytest.raises(OSError, match=r"recording\.path: .*inner: "):
        await serve.start(own, sock)
    assert sock.fileno() == -1

    # What had started before the part that failed is ended, too: the upstream's file is gone.
    ca_file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    flags = {"upstream.url": "https://localhost:9", "upstream.ca_file": str(ca_file)}
    own = config.load(environ={}, flags={**listen, **flags})
    ca_file.unlink()
    sock = bind(own)
    with pytest.raises(FileNotFoundError):
        await serve.start(own, sock)
    assert sock.fileno() == -1
    assert listed(temporary) == []


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "no cassettes in this folder (.jsonl or .jsonl.gz)"),
        (lambda path: path.write_text("x"), "line 1: not a cassette"),
        (write, "nothing that can be played"),
        (lambda path: write(path, Tape("torn").request()), "nothing that can be played"),
    ],
    ids=["none", "empty folder", "no cassette", "empty", "torn"],
)
def test_nothing_to_play_is_a_2(
    make: Callable[[Path], object], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "what"
    make(path)
    environ = {"LIFECYCLE_PROXY_RECORDING__MODE": "replay"}
    done = run_here("serve", *LISTEN, LIFECYCLE_PROXY_RECORDING__PATH=str(path), **environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"lifecycle-proxy: recording.path: {path}: {problem}")


@pytest.mark.parametrize("name", ["once", "new_episodes"])
def test_a_file_that_is_no_cassette_is_not_written_to(name: str, place: Path) -> None:
    place.write_text("my notes\n")
    with pytest.raises(ConfigError, match=r"recording\.path: .*: line 1: not a cassette"):
        RecordingMode(mode(name, place), lambda: None)
    assert place.read_text() == "my notes\n"


def test_a_mode_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match=r"recording\.mode"):
        config.load(environ={}, flags={"recording.mode": "always"})


async def test_other_vocabularies_are_played_too(begin: Run, upstream: Upstream) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(event({"type": "response.created"}, "response.created"))
        await wire.chunk()

    upstream_asked = json.dumps({"model": "m", "input": "hi", "stream": True}).encode()
    url = await begin("record")
    upstream.script = script
    first = await ask(url, "POST", "/v1/responses", JSON, body=upstream_asked)
    url = await begin("replay")
    assert (await ask(url, "POST", "/v1/responses", JSON, body=upstream_asked)).body == first.body
