"""Processes: workers, signals, drain, sockets, and the word to systemd, as an operator has them."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.commands import COMMAND, LISTEN, ended, environment, run, serving, workers
from tests.fakes import (
    DONE,
    Client,
    Request,
    Upstream,
    Wire,
    ask,
    chat,
    lifecycle,
    payloads,
    text,
    tool_call,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

WORKERS: Final = ("--workers", "2")
Process = subprocess.Popen[str]


@pytest.fixture(autouse=True)
def _own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed supervisor leaves its directory of metrics; it shall be one of this test's."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)


def drain(seconds: float) -> dict[str, str]:
    return {"LIFECYCLE_PROXY_SERVER__DRAIN_TIMEOUT_S": str(seconds)}


def lives(pid: int) -> bool:
    """Whether the process runs. (A zombie waits for its parent only.)"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: Callable[[], bool], within_s: float = 4) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  what other processes do sets no event
            await asyncio.sleep(0.02)


def all_take_connections(process: Process, url: str) -> bool:
    """Whether each worker listens at the port of the URL, on a socket of its own."""
    port = f":{int(url.rpartition(':')[2]):04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()]
    inodes = {row[9] for row in rows if row[1].endswith(port) and row[3] == "0A"}
    return all(inodes & sockets_of(pid) for pid in workers(process))


def sockets_of(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    found = set()
    with contextlib.suppress(OSError):
        for one in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(one.readlink()).removeprefix("socket:[").rstrip("]"))
    return found


async def stuck_tool(request: Request, wire: Wire) -> None:
    await wire.stream(tool_call())
    await wire.gone.wait()


# --- workers --------------------------------------------------------------------------------------


async def requests_total(url: str) -> float:
    numbers = (await ask(url, "GET", "/-/metrics")).body.decode()
    (found,) = re.findall(r'requests_total\{[^}]*route="other"[^}]*\} (\S+)', numbers)
    return float(found)


@pytest.mark.unmeasured
async def test_workers_share_the_port_and_their_numbers_are_summed(upstream: Upstream) -> None:
    with serving(*LISTEN, *WORKERS, "--upstream", upstream.origin) as (process, url, _):
        assert len(workers(process)) == 2
        for _ in range(20):  # each on a connection of its own: the kernel spreads them
            assert (await ask(url, "GET", "/v1/models")).json() == {"ok": True}
        assert len(upstream.wires) == 2  # each worker has a pool
        async with asyncio.timeout(10):  # a request is counted behind its response
            while await requests_total(url) < 20:  # noqa: ASYNC110  in another process
                await asyncio.sleep(0.02)
        for _ in range(6):  # whoever answers
            assert await requests_total(url) == 20
        process.terminate()
        code, out, err = ended(process)
    assert (code, out) == (0, "")  # one line, and no second one
    assert "Traceback" not in err


async def test_a_killed_worker_is_replaced(upstream: Upstream) -> None:
    with serving(*LISTEN, *WORKERS, "--upstream", upstream.origin) as (process, url, _):
        before = workers(process)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: killed not in workers(process) and len(workers(process)) == 2)
        assert workers(process) & before == before - {killed}
        await until(lambda: all_take_connections(process, url), within_s=15)
        for _ in range(8):
            assert (await ask(url, "GET", "/v1/models")).status == 200
        process.terminate()
        code, out, err = ended(process)
    assert (code, out) == (0, "")
    assert f"worker {killed} ended" in err
    assert "Traceback" not in err


@pytest.mark.unmeasured
async def test_a_killed_workers_open_exchanges_are_forgotten(upstream: Upstream) -> None:
    upstream.script = stuck_tool
    with serving(*LISTEN, *WORKERS, "--upstream", upstream.origin) as (process, url, _):
        async with Client(url) as client:
            await (await client.chat()).until(b"running")
            before = workers(process)
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            await client.wire.left()
        await until(lambda: len(workers(process) - before) == 2)
        await until(lambda: all_take_connections(process, url), within_s=15)
        told = (await ask(url, "GET", "/-/metrics")).body.decode()
        assert re.findall(r'exchanges_open\{route="chat"\} (\S+)', told) in ([], ["0.0"])


@pytest.mark.unmeasured
async def test_workers_end_with_their_supervisor(upstream: Upstream) -> None:
    with serving(*LISTEN, *WORKERS, "--upstream", upstream.origin) as (process, url, _):
        left = workers(process)
        assert (await ask(url, "GET", "/v1/models")).status == 200
        process.kill()
        process.wait(5)
        await until(lambda: not any(map(lives, left)))


async def test_workers_drain_and_the_exit_code_is_0(upstream: Upstream) -> None:
    stopping = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("one"))
        await stopping.wait()
        await wire.chunk(text("two") + DONE)
        await wire.chunk()

    upstream.script = script
    with serving(*LISTEN, *WORKERS, "--upstream", upstream.origin) as (process, url, _):
        async with Client(url) as one, Client(url) as two, Client(url) as three:
            answers = [await (await c.chat()).until(b"one") for c in (one, two, three)]
            process.terminate()
            await asyncio.sleep(0.2)
            assert process.poll() is None
            stopping.set()
            for answer in answers:
                await answer.read()
                assert answer.body == text("one") + text("two") + DONE
                assert answer.end == "clean"
        code, out, err = await asyncio.to_thread(ended, process)
    assert (code, out) == (0, "")
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [(), WORKERS])
async def test_a_second_signal_is_immediate(upstream: Upstream, arguments: tuple[str, ...]) -> None:
    upstream.script = stuck_tool
    with serving(*LISTEN, *arguments, "--upstream", upstream.origin) as (process, url, _):
        left = workers(process)
        async with Client(url) as client:
            await (await client.chat()).until(b"running")
            process.send_signal(signal.SIGINT)
            await asyncio.sleep(0.3)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            code, _, err = await asyncio.to_thread(ended, process)
    assert code == 0
    assert not any(map(lives, left))
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [(), WORKERS])
def test_a_port_that_is_taken_is_a_failure(arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("serve", "--listen", address, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot listen on {address}: address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.unmeasured
@pytest.mark.parametrize("arguments", [(), WORKERS])
def test_a_port_that_another_proxy_with_workers_has_is_taken(arguments: tuple[str, ...]) -> None:
    with serving(*LISTEN, *WORKERS) as (_, url, _base), sharing(url, *arguments) as second:
        out, err = second.communicate(timeout=30)
    assert (second.returncode, out) == (1, "")
    assert "address already in use" in err


@contextlib.contextmanager
def sharing(url: str, *arguments: str) -> Iterator[Process]:
    """A proxy that is asked to listen where another one does."""
    with subprocess.Popen(
        (*COMMAND, "serve", "--listen", url.removeprefix("http://"), *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_settings_that_no_worker_can_start_with_are_refused_with_a_reason(tmp_path: Path) -> None:
    environ = {"LIFECYCLE_PROXY_SERVER__TLS_CERT": str(tmp_path / "none.pem")}
    done = run("serve", *LISTEN, *WORKERS, **environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert "server.tls_cert" in done.stderr
    assert "Traceback" not in done.stderr


# --- drain ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), WORKERS])
async def test_a_drain_from_its_signal_to_its_exit(
    upstream: Upstream, arguments: tuple[str, ...]
) -> None:
    stopping = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call(f"call_{len(upstream.requests)}"))
        if len(upstream.requests) == 1:
            await stopping.wait()
            await wire.chunk(text("in time") + DONE)
            await wire.chunk()
        await wire.gone.wait()

    upstream.script = script
    flags = (*LISTEN, *arguments, "--upstream", upstream.origin)
    with serving(*flags, **drain(0.8)) as (process, url, _):
        async with Client(url) as quick, Client(url) as slow:
            in_time = await (await quick.chat()).until(b"running")
            too_late = await (await slow.chat()).until(b"running")
            began = time.monotonic()
            process.terminate()
            await asyncio.sleep(0.2)
            refused = await chat(url)
            ready = await ask(url, "GET", "/-/ready")
            stopping.set()
            await in_time.read()
            await too_late.read()
        code, _, err = await asyncio.to_thread(ended, process)
        took_s = time.monotonic() - began
    assert (refused.status, refused.json()["error"]["code"]) == (503, "draining")
    assert int(refused.headers["Retry-After"]) > 0
    assert ready.status == 503
    assert text("in time") in in_time.body
    assert in_time.body.endswith(DONE)
    assert in_time.end == "clean"
    assert lifecycle(too_late.body)[1] == ("call_2", "completed", "drained")
    assert payloads(too_late.body)[-1]["error"]["code"] == "draining"
    assert b"[DONE]" not in too_late.body
    assert too_late.end == "cut"
    assert code == 0
    assert took_s > 0.7
    assert "Traceback" not in err


async def test_a_drain_with_nothing_open_is_over_at_once(upstream: Upstream) -> None:
    with serving(*LISTEN, "--upstream", upstream.origin, **drain(30)) as (process, url, _):
        async with Client(url) as idle:
            await idle.send("GET", "/v1/models")
            await (await idle.head()).read()
            process.terminate()
            code, _, _ = await asyncio.to_thread(ended, process)
    assert code == 0


# --- systemd --------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
@pytest.mark.parametrize("arguments", [(), WORKERS])
def test_systemd_is_told_of_the_start_and_of_the_stop(
    tmp_path: Path, arguments: tuple[str, ...], abstract: bool
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        name = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
        notified.bind("\0" + name[1:] if abstract else name)
        notified.settimeout(5)
        with serving(*LISTEN, *arguments, NOTIFY_SOCKET=name) as (process, _, _base):
            assert notified.recv(99) == b"READY=1"
            process.terminate()
            assert notified.recv(99) == b"STOPPING=1"
            assert ended(process)[0] == 0
        notified.settimeout(0.05)
        with pytest.raises(TimeoutError):
            notified.recv(99)  # each was said once


def test_a_notify_socket_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    with serving(*LISTEN, NOTIFY_SOCKET=str(tmp_path / "none")) as (process, _, _base):
        process.terminate()
        code, _, err = ended(process)
    assert code == 0
    assert "Traceback" not in err


# --- unix sockets ---------------------------------------------------------------------------------


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A path for a socket: they may have 107 bytes only."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory) / "proxy.sock"


def left(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


@pytest.mark.parametrize("arguments", [(), WORKERS])
async def test_it_listens_on_a_unix_socket(
    upstream: Upstream, short_path: Path, arguments: tuple[str, ...]
) -> None:
    flags = ("--listen", f"unix:{short_path}", *arguments, "--upstream", upstream.origin)
    with serving(*flags) as (process, url, _):
        assert url == f"unix:{short_path}"
        for _ in range(4):
            assert (await ask(url, "GET", "/v1/models")).json() == {"ok": True}
        process.terminate()
        code, _, err = ended(process)
    assert code == 0
    assert "Traceback" not in err
    assert left(short_path.parent) == []


@pytest.mark.unmeasured
async def test_a_dead_socket_file_is_replaced(upstream: Upstream, short_path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(short_path))
    flags = ("--listen", f"unix:{short_path}", "--upstream", upstream.origin)
    with serving(*flags) as (process, url, _):
        assert (await ask(url, "GET", "/v1/models")).status == 200
        process.kill()
    with serving(*flags) as (_, url, _base):  # and one of our own
        assert (await ask(url, "GET", "/v1/models")).status == 200


@pytest.mark.unmeasured
@pytest.mark.parametrize("arguments", [(), WORKERS])
async def test_a_socket_that_somebody_listens_on_is_left_alone(
    upstream: Upstream, short_path: Path, arguments: tuple[str, ...]
) -> None:
    flags = ("--listen", f"unix:{short_path}", "--upstream", upstream.origin)
    with serving(*flags, *arguments) as (_, url, _base):
        done = run("serve", *flags, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert "address already in use" in done.stderr
        assert (await ask(url, "GET", "/v1/models")).status == 200


def test_a_file_that_is_no_socket_is_left_alone(short_path: Path) -> None:
    short_path.write_text("precious")
    done = run("serve", "--listen", f"unix:{short_path}")
    assert (done.returncode, done.stdout) == (1, "")
    assert short_path.read_text() == "precious"
