"""The recorder beside the traffic: disks that are full, slow or gone; what requests say of it."""

import asyncio
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.app import serve
from lifecycle_proxy.app.recording_mode import RecordingMode
from lifecycle_proxy.config import model as config
from lifecycle_proxy.config.model import ConfigError
from lifecycle_proxy.core.events import Outcome, ToolCompleted
from lifecycle_proxy.exchange.ends import Ended
from lifecycle_proxy.exchange.model import Exchange, Headers
from lifecycle_proxy.recording.cassette import RecordedExchange, load
from lifecycle_proxy.recording.recorder import ExchangeRecorder, Recorder
from lifecycle_proxy.recording.redactor import ExchangeRedaction, Redaction

from tests.conftest import StartProxy
from tests.fakes import DONE, Request, Upstream, Wire, ask, chat, text, without_frames
from tests.recording.test_writer import limit

pytestmark = pytest.mark.usefixtures("quiet")

RECORD = "X-Lifecycle-Record"
ASKED = ("chat", "POST", "/v1/chat/completions")
HEADERS: Headers = (("Content-Type", "application/json"),)


class Stage:
    """Proxies that record, and what they left."""

    def __init__(self, start: StartProxy, runners: list[serve.Runner], folder: Path) -> None:
        self.place = folder / "kept"
        self._start = start
        self._runners = runners

    async def proxy(self, **more: Any) -> str:
        own = {"recording.mode": "record", "recording.path": str(self.place)}
        return await self._start({**own, **{k.replace("__", "."): v for k, v in more.items()}})

    async def stop(self) -> None:
        while self._runners:
            await serve.stop(self._runners.pop(), 0)

    async def recorded(self) -> list[RecordedExchange]:
        await self.stop()
        return load(self.place)


@pytest.fixture
def stage(start_proxy: StartProxy, runners: list[serve.Runner], tmp_path: Path) -> Stage:
    return Stage(start_proxy, runners, tmp_path)


@pytest.fixture
def events(upstream: Upstream) -> list[bytes]:
    """What the upstream answers to everything."""
    sent = [text(f"piece {number} ") for number in range(50)] + [DONE]

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*sent, b"")

    upstream.script = script
    return sent


async def lost(url: str) -> int:
    told = (await ask(url, "GET", "/-/metrics")).body.decode().splitlines()
    (line,) = (one for one in told if one.startswith("lifecycle_proxy_recording_lost_total "))
    return int(float(line.split()[1]))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  a thread sets no event
            await asyncio.sleep(0.01)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == "proxy.recording"]


# --- in the proxy ---------------------------------------------------------------------------------


async def test_files_are_their_owners_only(stage: Stage, events: list[bytes]) -> None:
    before = os.umask(0)
    try:
        await chat(await stage.proxy(recording__compress=True))
        await stage.stop()
    finally:
        os.umask(before)
    (file,) = stage.place.iterdir()
    assert file.name.endswith(".jsonl.gz")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(stage.place.stat().st_mode) == 0o700
    assert [one.ended for one in load(file)] == ["done"]


async def test_above_a_size_another_file_is_begun(stage: Stage, events: list[bytes]) -> None:
    url = await stage.proxy(recording__max_file_bytes=15_000)
    for _ in range(6):
        await asyncio.gather(chat(url), chat(url))
    await stage.stop()
    found = {file: load(file) for file in stage.place.iterdir()}
    assert len(found) > 2
    exchanges = [one for inside in found.values() for one in inside]
    assert len(exchanges) == 12
    assert all(one.is_complete and one.client.is_whole for one in exchanges)
    assert all(one.client.body == b"".join(events) for one in exchanges)


async def test_one_cassette_is_appended_to(stage: Stage, events: list[bytes]) -> None:
    stage.place = stage.place / "one.jsonl"
    for number in range(3):
        await chat(await stage.proxy(), number=number)
        await stage.stop()
    found = load(stage.place)
    assert [json.loads(one.request.body or b"")["number"] for one in found] == [0, 1, 2]
    assert all(one.is_complete for one in found)


async def test_several_workers_need_a_folder(tmp_path: Path) -> None:
    flags = {"recording.mode": "record", "server.workers": 2}
    for name in ("a.jsonl", "a.jsonl.gz"):
        with pytest.raises(ConfigError, match=r"recording\.path: .* is one file, for 2 workers"):
            config.load(environ={}, flags={**flags, "recording.path": str(tmp_path / name)})
    config.load(environ={}, flags={**flags, "recording.path": str(tmp_path)})


def test_a_folder_that_cannot_be_made(tmp_path: Path, loss: "Loss") -> None:
    (tmp_path / "file").write_bytes(b"")
    flags = {"recording.mode": "record", "recording.path": str(tmp_path / "file" / "inner")}
    with pytest.raises(OSError, match=r"recording\.path: .*inner: "):
        RecordingMode(config.load(environ={}, flags=flags), loss).start()


@pytest.mark.parametrize("value", ["off", " OFF "])
async def test_a_request_need_not_be_recorded(
    stage: Stage, events: list[bytes], value: str
) -> None:
    url = await stage.proxy()
    assert (await chat(url, f"{RECORD}: {value}")).status == 200
    await chat(url, f"{RECORD}: Record", wanted=True)
    await chat(url, wanted=True)
    found = await stage.recorded()
    assert [json.loads(one.request.body or b"").get("wanted") for one in found] == [True, True]


async def test_modes_that_there_are_not(stage: Stage, events: list[bytes]) -> None:
    url = await stage.proxy()
    answer = await chat(url, f"{RECORD}: on")
    assert (answer.status, answer.json()["error"]["code"]) == (400, "bad_request")
    assert "'on'" in answer.json()["error"]["message"]
    assert "new_episodes" in answer.json()["error"]["message"]
    url = await stage.proxy(recording__mode="off")
    for value in ("record", "once", "new_episodes", "replay", "on"):
        answer = await chat(url, f"{RECORD}: {value}")
        assert (answer.status, answer.json()["error"]["param"]) == (400, RECORD)
    assert (await chat(url, f"{RECORD}: off")).status == 200


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
async def test_a_full_disk_is_nothing_to_the_chat(
    stage: Stage, events: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    stage.place.mkdir()
    stage.place = stage.place / "a.jsonl"
    stage.place.symlink_to("/dev/full")
    url = await stage.proxy()
    for number in range(1, 4):
        answer = await chat(url)
        assert (answer.body, answer.end) == (b"".join(events), "clean")
        for _ in range(100):
            if await lost(url) == number:
                break
            await asyncio.sleep(0.02)
        assert await lost(url) == number
    await stage.stop()
    assert said(caplog) == [
        "recording fails: No space left on device; the traffic goes on (logged once)"
    ]


async def test_where_there_is_room_again_recording_goes_on(
    stage: Stage, events: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    url = await stage.proxy()
    await chat(url)
    await until(lambda: any(file.stat().st_size > 5000 for file in stage.place.iterdir()))
    with limit(1000):
        assert (await chat(url)).body == b"".join(events)
        for _ in range(100):
            if await lost(url):
                break
            await asyncio.sleep(0.02)
    assert (await chat(url)).body == b"".join(events)
    assert await lost(url) == 1
    found = await stage.recorded()
    whole = [one for one in found if one.is_complete and not one.omitted]
    assert len(whole) == 2
    assert all(one.client.body == b"".join(events) for one in whole)
    for half in (one for one in found if one not in whole):
        assert half.omitted or not half.is_complete
    assert len(said(caplog)) == 1


async def test_a_folder_that_is_gone(
    stage: Stage, events: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    url = await stage.proxy()
    stage.place.rmdir()
    assert without_frames((await chat(url)).body) == b"".join(events)
    await until(lambda: bool(said(caplog)))
    assert await lost(url) == 1
    stage.place.mkdir()
    await chat(url)
    found = await stage.recorded()
    assert [one.ended for one in found] == ["done"]


# --- alone ----------------------------------------------------------------------------------------


class Loss:
    """Counts what was lost."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def loss() -> Loss:
    return Loss()


LIVE = Exchange("req_1", "POST", "/v1/chat/completions", "127.0.0.1")


def over(
    tape: ExchangeRecorder, ended: Ended = "done", events: Sequence[ToolCompleted] = ()
) -> None:
    tape.on_lifecycle(LIVE, events)
    LIVE.ended = ended
    tape.on_end(LIVE)


def taped(tape: ExchangeRecorder, *pieces: bytes) -> None:
    """A whole exchange."""
    tape.request(ASKED, HEADERS, b"{}")
    tape.on_forwarded(LIVE, "/v1/chat/completions", HEADERS, None)
    tape.on_head(LIVE, "upstream", 200, "OK", HEADERS)
    tape.on_head(LIVE, "client", 200, "OK", HEADERS)
    for piece in pieces:
        tape.on_chunk(LIVE, piece, piece, (), time.monotonic())
    tape.on_write(LIVE, b"", ((0, len(b"")),))
    tape.on_write(LIVE, b": ours\n\n", ((0, len(b": ours\n\n")),))
    over(tape, "done", [ToolCompleted("call_1", 0, "x", "", "l", Outcome.OK, 3)])


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], list[dict[str, Any]]]]]:
    """A cassette that takes nothing before somebody reads, and what is read then."""
    place = tmp_path / "slow.jsonl"
    os.mkfifo(place)
    lines: list[bytes] = []

    def read() -> None:
        with place.open("rb") as stream:
            lines.extend(stream)

    reader = threading.Thread(target=read)

    def result() -> list[dict[str, Any]]:
        reader.join(5)
        return [json.loads(line) for line in lines if line.strip()]

    result.start = reader.start  # type: ignore[attr-defined]
    yield place, result
    reader.join(5)


def test_a_disk_that_is_slower_than_the_traffic(
    slow: tuple[Path, Any], loss: Loss, caplog: pytest.LogCaptureFixture
) -> None:
    place, result = slow
    recorder = Recorder(place, Redaction(), loss, waiting_bytes=100_000)
    began = time.monotonic()
    for number in range(200):
        taped(recorder.tape(f"ex_{number}", began), *[b"x" * 500 + b"\n"] * 20)
    # Nobody has waited: nothing has been read yet.
    assert recorder._put_bytes - recorder._taken_bytes <= 100_000
    assert 150 < loss.count < 200
    assert sum(map(len, said(caplog))) < 200
    result.start()
    recorder.close()
    ends = [one for one in result() if one["kind"] == "end"]
    place.unlink()
    place.write_text("\n".join(json.dumps(one) for one in result()))
    found = load(place)
    kept = [one for one in found if not one.omitted]
    assert len(kept) == 200 - loss.count
    assert all(one.is_complete and one.client.is_whole for one in kept)
    assert all(one.upstream.body == (b"x" * 500 + b"\n") * 20 for one in kept)
    marked = [one for one in found if one.omitted]
    assert all(one.is_complete and not one.client.pieces for one in marked)
    assert {one.omitted for one in marked} <= {"the disk was slower than the traffic"}
    assert len(ends) == len(found)
    assert said(caplog)[0].startswith("recording fails: the disk was slower")


def test_what_is_told_of_a_lost_exchange_is_what_was_written(tmp_path: Path, loss: Loss) -> None:
    place = tmp_path / "kept.jsonl"
    recorder = Recorder(place, Redaction(), loss)
    tape = recorder.tape("one", 0.0)
    tape.request(ASKED, HEADERS, b"{}")
    tape.on_head(LIVE, "upstream", 200, "OK", HEADERS)
    tape.on_chunk(LIVE, b"may yet become a secret", b"", (), 0.0)
    while recorder._taken_bytes < recorder._put_bytes:
        time.sleep(0.01)
    recorder._lose(tape._writing, "the disk was slower than the traffic")
    over(tape, "done", [])
    recorder.close()
    lines = [json.loads(text) for text in place.read_text().splitlines()]
    assert [one["kind"] for one in lines] == ["cassette", "request", "head", "end"]
    assert lines[-1]["omitted"] == "the disk was slower than the traffic"
    assert lines[-1]["upstream"]["size"] == 0


def test_an_exchange_that_is_lost_is_lost_once(tmp_path: Path, loss: Loss) -> None:
    place = tmp_path / "kept"
    recorder = Recorder(place, Redaction(), loss)
    with limit(10):
        taped(recorder.tape("one", 0.0), *[b"a" * 1_500_000] * 3)
        recorder.close()
    assert loss.count == 1
    assert [one for one in load(place) if one.is_complete and not one.omitted] == []


class Broken(Redaction):
    """Fails for one exchange."""

    def exchange(self, headers: Headers) -> ExchangeRedaction:
        if ("X-Bad", "1") in headers:
            raise RuntimeError("sk-0123456789abcdef")
        return super().exchange(headers)


def test_a_bug_costs_one_exchange(tmp_path: Path, loss: Loss) -> None:
    logging.getLogger("proxy.recording").disabled = True  # a traceback is due here
    try:
        recorder = Recorder(tmp_path, Broken(), loss)
        bad = recorder.tape("bad", 0.0)
        bad.request(ASKED, (("X-Bad", "1"),), b"{}")
        bad.on_forwarded(LIVE, "/", HEADERS, b"")
        bad.on_head(LIVE, "upstream", 200, "OK", HEADERS)
        bad.on_chunk(LIVE, b"x", b"x", (), 0.0)
        over(bad, "done", [])
        taped(recorder.tape("good", 0.0), b"a")
        recorder.close()
    finally:
        logging.getLogger("proxy.recording").disabled = False
    (good,) = load(tmp_path)
    assert (good.id, good.client.is_whole, loss.count) == ("good", True, 1)
    assert b"sk-01234" not in next(tmp_path.iterdir()).read_bytes()


def test_what_is_held_back_and_what_is_added_stand_in_their_order(
    tmp_path: Path, loss: Loss
) -> None:
    recorder = Recorder(tmp_path, Redaction(), loss)
    tape = recorder.tape("one", time.monotonic())
    tape.request(ASKED, HEADERS, b"{}")
    tape.on_head(LIVE, "upstream", 200, "OK", HEADERS)
    tape.on_head(LIVE, "client", 200, "OK", HEADERS)
    now = time.monotonic
    tape.on_chunk(LIVE, b"a sk-0123", b"a sk-0123", (), now())
    tape.on_chunk(LIVE, b"456789abcdef and ", b"", (), now())  # held back
    tape.on_chunk(LIVE, b"so on", b"456789abcdef OURS and so on", ((13, 17),), now())
    tape.on_write(LIVE, b"OURS", ((0, len(b"OURS")),))
    tape.on_chunk(LIVE, b" to the end", b" to the end", (), now())
    over(tape, "eof", [])
    recorder.close()
    (one,) = load(tmp_path)
    stands = "[redacted:"
    assert [piece.data[:12] for piece in one.upstream.pieces] == [
        f"a {stands}".encode(),
        b" and ",
        b"so on",
        b" to the end",
    ]
    assert one.client.body.count(stands.encode()) == one.upstream.body.count(stands.encode()) == 1
    ours = [p.data[start:stop] for p in one.client.pieces for start, stop in p.added]
    assert ours == [b"OURS", b"OURS"]
    assert one.client.is_whole
    assert one.upstream.is_whole
    times = [piece.ms for piece in one.client.pieces]
    assert times == sorted(times)


def test_a_tape_without_a_request_leaves_nothing(tmp_path: Path, loss: Loss) -> None:
    recorder = Recorder(tmp_path, Redaction(), loss)
    recorder.tape("one", 0.0).on_write(LIVE, b"x", ((0, len(b"x")),))
    over(recorder.tape("two", 0.0), "done", [])
    recorder.close()
    assert list(tmp_path.iterdir()) == []
    assert loss.count == 0
