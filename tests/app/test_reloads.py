"""SIGHUP: new requests get the new settings, open streams go on, and a bad file changes nothing."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.app import serve
from lifecycle_proxy.app.reloads import Reloads
from lifecycle_proxy.config import model as config
from lifecycle_proxy.config.reloading import reloaded

from tests.backends import Backend, backends, complete, several
from tests.commands import serving, workers
from tests.fakes import DONE, Client, Request, Wire, ask, text

pytestmark = pytest.mark.usefixtures("quiet")
PROCESSES = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def settings(*upstreams: Backend, **more: Any) -> config.Settings:
    flags = several(*(one.table() for one in upstreams), server__listen="127.0.0.1:0", **more)
    return config.load(environ={}, flags=flags)


class Running:
    """A proxy in this process, whose settings are what the test says."""

    def __init__(self, runner: serve.Runner, url: str, first: config.Settings) -> None:
        self.url = url
        self.app = serve._app(runner)
        self.next: config.Settings | config.ConfigError | OSError = first
        self.reloads = Reloads(self.app, self._read)

    def _read(self) -> config.Settings:
        if isinstance(self.next, Exception):
            raise self.next
        return self.next

    async def reload(self, new: config.Settings | config.ConfigError | OSError) -> None:
        self.next = new
        self.reloads.ask()
        task = self.reloads._task
        assert task is not None
        await task


async def started(runners: list[serve.Runner], first: config.Settings) -> Running:
    runner, url = await serve.start(first)
    runners.append(runner)
    return Running(runner, url, first)


def slow(go_on: asyncio.Event) -> Any:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("one"))
        await go_on.wait()
        await wire.chunk(text("two") + DONE)
        await wire.chunk()

    return script


async def test_new_requests_get_the_new_settings_and_open_streams_go_on(
    runners: list[serve.Runner],
) -> None:
    go_on = asyncio.Event()
    async with backends(a=["x"], b=["y"]) as (one, two):
        running = await started(runners, settings(one))
        one.answer = slow(go_on)
        async with Client(running.url) as client:
            answer = await (await client.chat(model="x")).until(b"one")
            await running.reload(settings(two, models={"new": "b/y"}))
            assert (await complete(running.url, "new")).json()["by"] == "b"
            assert (await complete(running.url, "x")).status == 404
            assert len(running.app._fronts) == 2
            go_on.set()
            await answer.read()
            assert (answer.end, answer.body.endswith(DONE)) == ("clean", True)
        while running.app._retiring:
            await asyncio.wait(running.app._retiring)
        assert len(running.app._fronts) == 1


async def test_upstreams_that_stay_the_same_keep_what_is_known_of_them(
    runners: list[serve.Runner],
) -> None:
    async with backends(a=["x"]) as (one,):
        running = await started(runners, settings(one))
        before = running.app._front.upstream
        assert (await complete(running.url, "x")).status == 200
        await running.reload(settings(one, server__api_keys=["k"]))
        assert running.app._front.upstream is before
        while running.app._retiring:
            await asyncio.wait(running.app._retiring)
        assert (await complete(running.url, "x", "x-api-key: k")).status == 200
        assert len(one.wires) == 1
        await running.reload(settings(one, models={"m": "a/x"}))
        assert running.app._front.upstream is not before


async def test_an_id_of_an_upstream_that_is_gone_decides_nothing(
    runners: list[serve.Runner],
) -> None:
    async with backends(a=["x"], b=["y"]) as (one, two):
        running = await started(runners, settings(one, two))
        answer = await complete(running.url, "y", target="/v1/responses")
        made = answer.json()["id"]
        got = await ask(running.url, "GET", f"/v1/responses/{made}")
        assert got.json()["by"] == "b"
        await running.reload(settings(one))
        got = await ask(running.url, "GET", f"/v1/responses/{made}")
        assert (got.status, got.json()["by"]) == (200, "a")


async def test_keys_are_changed_too(runners: list[serve.Runner]) -> None:
    async with backends(a=["x"]) as (one,):
        running = await started(runners, settings(one))
        await running.reload(settings(one, server__api_keys=["sk-new"]))
        assert (await complete(running.url, "x")).status == 401
        assert (await complete(running.url, "x", "Authorization: Bearer sk-new")).status == 200


@pytest.mark.parametrize(
    "problem", [config.ConfigError("f", "k", "wrong", 3), OSError("no such file")], ids=str
)
async def test_bad_settings_change_nothing(
    runners: list[serve.Runner], caplog: pytest.LogCaptureFixture, problem: Any
) -> None:
    async with backends(a=["x"]) as (one,):
        running = await started(runners, settings(one))
        await running.reload(problem)
        assert f"SIGHUP: the settings stay as they are: {problem}" in caplog.text
        assert (await complete(running.url, "x")).status == 200
        assert len(running.app._fronts) == 1
        await running.reload(settings(one, models={"new": "a/x"}))
        assert (await complete(running.url, "new")).status == 200


async def test_many_signals_are_as_one(runners: list[serve.Runner]) -> None:
    async with backends(a=["x"]) as (one,):
        running = await started(runners, settings(one))
        for _ in range(50):
            running.reloads.ask()
        await running.reload(settings(one, models={"new": "a/x"}))
        assert (await complete(running.url, "new")).status == 200
        await running.reloads.close()
        running.reloads.ask()
        task = running.reloads._task
        assert task is not None
        await task


async def test_a_reload_while_it_drains_ends_in_time(runners: list[serve.Runner]) -> None:
    go_on = asyncio.Event()
    async with backends(a=["x"], b=["y"]) as (one, two):
        running = await started(runners, settings(one))
        one.answer = slow(go_on)
        async with Client(running.url) as client:
            answer = await (await client.chat(model="x")).until(b"one")
            await running.reload(settings(two))
            await serve.stop(runners.pop(), 0)
            assert b"draining" in (await answer.read()).body


def test_what_needs_a_restart_stays() -> None:
    old = config.load(environ={}, flags={"server.listen": "127.0.0.1:1"})
    flags = {
        "server.listen": "127.0.0.1:2",
        "server.heartbeat_s": 3,
        "recording.mode": "record",
        "streams.keep_s": 5,
    }
    new, fixed = reloaded(old, config.load(environ={}, flags=flags))
    assert fixed == ["server.listen", "recording.mode", "streams.keep_s"]
    assert (new.server.listen, new.server.heartbeat_s) == ("127.0.0.1:1", 3)
    assert (new.recording, new.streams) == (old.recording, old.streams)


def test_a_key_that_recordings_do_not_know_needs_a_restart() -> None:
    flags: dict[str, Any] = {"recording.mode": "record"}
    old = config.load(environ={}, flags=flags)
    new = config.load(environ={}, flags={**flags, "upstream.api_key": "k"})
    with pytest.raises(config.ConfigError) as caught:
        reloaded(old, new)
    assert "restart" in str(caught.value)


# --- processes ------------------------------------------------------------------------------------


def written(file: Path, upstream: Backend, name: str) -> None:
    file.write_text(
        f"[[upstreams]]\nname = 'a'\nurl = '{upstream.origin}/v1'\n[models]\n'{name}' = 'a/x'\n"
    )


async def said(process: "subprocess.Popen[str]", text: str, times: int = 1) -> None:
    """Wait until the log has said something."""
    assert process.stderr is not None
    for _ in range(times):
        line = ""
        while text not in line:
            async with asyncio.timeout(30):
                line = await asyncio.to_thread(process.stderr.readline)
            assert line, "the log has ended"


@pytest.mark.unmeasured
@PROCESSES
@pytest.mark.parametrize("count", [1, 2])
async def test_the_signal_reaches_all_workers(tmp_path: Path, count: int) -> None:
    file = tmp_path / "config.toml"
    async with backends(a=[]) as (one,):
        written(file, one, "old")
        options = ("--config", str(file), "--listen", "127.0.0.1:0", "--workers", str(count))
        with serving(*options, TMPDIR=str(tmp_path)) as (process, url, _):
            assert (await complete(url, "old")).status == 200
            file.write_text("[[upstreams]]\nname = 'a'\nurl = 'nonsense'\n")
            process.send_signal(signal.SIGHUP)
            await said(process, "the settings stay as they are")
            assert (await complete(url, "old")).status == 200
            written(file, one, "new")
            process.send_signal(signal.SIGHUP)
            await said(process, "new requests get the new settings", count)
            for _ in range(8):  # connections are spread over the workers
                assert (await complete(url, "new")).status == 200
                assert (await complete(url, "old")).status in (502, 404)
            if count == 2:
                before = workers(process)
                os.kill(max(before), signal.SIGKILL)  # the first is the store of all workers
                await said(process, "starting another")
                after = before
                while not after - before:
                    await asyncio.sleep(0.05)
                    after = workers(process)
                for _ in range(8):
                    assert (await complete(url, "new")).status == 200
            process.terminate()
            assert process.wait(30) == 0


def test_the_signals_are_documented() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "operating.md").read_text("utf-8")
    assert re.search(r"\| SIGHUP \|", page)
