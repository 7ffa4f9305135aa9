"""What is said at the start, on a terminal, and what is not said elsewhere."""

import asyncio
import io
import os
import pty
import select
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from lifecycle_proxy import __version__
from lifecycle_proxy.app import serve as server
from lifecycle_proxy.app.banner import Banner, probe, report
from lifecycle_proxy.config import model as config

from tests.commands import COMMAND, LISTEN, ended, environment
from tests.fakes import ask

DEAD = "http://127.0.0.1:9/v1"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def loaded(file: Path | None = None, environ: dict[str, str] | None = None, **flags: Any) -> Any:
    given = {"upstream.url": DEAD, **{key.replace("__", "."): v for key, v in flags.items()}}
    return config.read(file, environ=environ or {}, flags=given)


def shown(source: Any, stream: io.StringIO | None = None) -> list[str]:
    stream = stream or Terminal()
    Banner(source, stream)("http://127.0.0.1:1")
    return stream.getvalue().splitlines()


@pytest.fixture(autouse=True)
def _no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


def test_elsewhere_than_on_a_terminal_there_is_one_line() -> None:
    assert shown(loaded(), io.StringIO()) == [f"listening on http://127.0.0.1:1 -> {DEAD}"]


def test_on_a_terminal_what_is_in_force_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"[recording]\nmode = 'record'\npath = '{tmp_path}/rec'\n")
    source = loaded(file, {"LIFECYCLE_PROXY_SERVER__WORKERS": "2"}, server__listen="127.0.0.1:0")
    assert shown(source) == [
        f"lifecycle-proxy {__version__}",
        f"  settings   {file}, LIFECYCLE_PROXY_SERVER__WORKERS, --upstream, --listen",
        f"  upstream   {DEAD} (cannot connect: is it running?)",
        "  events     dialect chunk, Open WebUI, LobeChat and old OpenAI SDKs are recognised",
        f"  recording  prompts and answers are written to {tmp_path}/rec",
        f"listening on http://127.0.0.1:1 -> {DEAD}",
    ]


def test_what_else_it_says(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        "[lifecycle]\nbuiltin_clients = false\ndialect = 'off'\n"
        "[[lifecycle.clients]]\nheader = 'x'\ndialect = 'plain'\n"
        "[[faults.rules]]\nkind = 'status_500'\n"
        '[recording]\nmode = "replay"\npath = "/rec\\u001b[2J"\n'
    )
    lines = shown(loaded(file))
    assert lines[2:-1] == [
        f"  upstream   {DEAD}",
        "  events     dialect off, 1 client rule before it",
        "  recording  answers come from /rec\\x1b[2J, the upstream is not asked",
        "  faults     1 rule: answers are broken on purpose",
    ]
    assert shown(config.read(environ={}))[1] == "  settings   all at their defaults"


@pytest.mark.parametrize(("key", "colour"), [("", "\x1b[33m"), ("k", "\x1b[1;31m")])
def test_an_open_address_is_warned_of_in_colour(
    key: str, colour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = loaded(server__listen="0.0.0.0:0", upstream__api_key=key)
    plain = shown(source)
    assert "\x1b" not in "".join(plain)
    assert plain[5].startswith("  warning    server.listen: ")
    monkeypatch.delenv("NO_COLOR")
    painted = shown(source)
    assert painted[5] == f"{colour}{plain[5]}\x1b[0m"
    assert painted[-1] == plain[-1], "what scripts read has no colour"
    assert shown(source, io.StringIO()) == plain[-1:]


# --- the probe ----------------------------------------------------------------------------------


@contextmanager
def listening(tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that takes connections, and nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            while True:
                try:
                    taken, _ = server.accept()
                    with taken:
                        if tls is not None:
                            tls.wrap_socket(taken, server_side=True).close()
                except (OSError, ValueError) as error:
                    if server.fileno() < 0 or isinstance(error, ValueError):
                        return

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
            thread.join()


def test_an_upstream_that_takes_connections() -> None:
    with listening() as where:
        source = loaded(upstream__url=f"http://{where}/v1")
        assert f"  upstream   http://{where}/v1 (connected)" in shown(source)


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    said = "cannot connect: is it running?"
    assert probe(loaded(upstream__url=f"unix:{path}").settings) == said
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert probe(loaded(upstream__url=f"unix:{path}:/v1").settings) == ""


def test_tls(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(tls)
    with listening(tls) as where:
        url = f"https://{where.replace('127.0.0.1', 'localhost')}/v1"
        own: dict[str, Any] = {"upstream__url": url, "upstream__ca_file": str(tmp_path / "ca.pem")}
        assert probe(loaded(**own).settings, 5) == ""
        assert probe(loaded(upstream__url=url, upstream__verify_tls=False).settings, 5) == ""
        said = probe(loaded(upstream__url=url).settings, 5)
        assert said is not None
        assert said.startswith("its certificate is not accepted: ")
        said = probe(loaded(**own, upstream__server_name="other").settings, 5)
        assert said is not None
        assert "other" in said
    with listening() as where:
        said = probe(loaded(upstream__url=f"https://{where}/v1").settings, 5)
        assert said in (
            "cannot connect with TLS: is it http:// instead of https://?",
            "cannot connect: connection reset by peer",
        )


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (TimeoutError(), "no connection yet: is it reachable from here?"),
        (socket.gaierror(-2, "x"), "cannot connect: there is no such host; check the name"),
        (OSError(113, "No route to host"), "cannot connect: no route to host"),
        (OSError("odd"), "cannot connect: odd"),
        (UnicodeError("label too long"), "cannot connect: label too long"),
    ],
)
def test_other_failures(raised: Exception, said: str) -> None:
    def fail(*_: object) -> socket.socket:
        raise raised

    assert probe(loaded().settings, connect=fail) == said


def test_a_slow_name_server_is_not_waited_for() -> None:
    over = threading.Event()

    def wait(*_: object) -> socket.socket:
        over.wait(10)
        raise OSError

    said = probe(loaded().settings, 0.1, wait)
    assert said == "no connection yet: is it reachable from here?"
    over.set()


def test_where_nothing_is_asked() -> None:
    assert probe(loaded(recording__mode="replay").settings) is None
    assert probe(loaded(upstream__use_proxy_env=True).settings) is None


# --- the command --------------------------------------------------------------------------------


@contextmanager
def on_a_terminal(*arguments: str, **environ: str) -> Iterator[tuple[Any, list[str]]]:
    """``serve`` on a terminal: the process, and its lines up to ``listening on``."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        (*COMMAND, "serve", *arguments),
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**environ),
    ) as process:
        os.close(theirs)
        text, until = b"", time.monotonic() + 20
        try:
            while b"listening on" not in text or not text.endswith(b"\n"):
                assert select.select([ours], [], [], until - time.monotonic())[0], text
                text += os.read(ours, 4096)
            yield process, text.decode().splitlines()
        finally:
            process.kill()
            os.close(ours)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve_on_a_terminal(workers: str) -> None:
    arguments = (*LISTEN, "--upstream", DEAD, "--workers", workers)
    with on_a_terminal(*arguments, NO_COLOR="1") as (process, lines):
        assert lines[0] == f"lifecycle-proxy {__version__}"
        assert lines[2] == f"  upstream   {DEAD} (cannot connect: is it running?)"
        assert lines[-1].startswith("listening on http://127.0.0.1:")
        process.terminate()
        code, _, err = ended(process)
    assert code == 0
    assert "Traceback" not in err


@pytest.mark.parametrize("workers", ["1", "2"])
def test_elsewhere_warnings_are_logged_once(workers: str) -> None:
    with subprocess.Popen(
        (*COMMAND, "serve", "--listen", "0.0.0.0:0", "--workers", workers),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening on http://0.0.0.0:")
        process.terminate()
        code, out, err = ended(process)
    assert (code, out) == (0, "")
    assert err.count("other machines can reach 0.0.0.0:0 and use the upstream") == 1


async def test_connections_are_taken_before_anything_is_said() -> None:
    """The probe may take half a second: clients do not wait for it."""
    loop, over = asyncio.get_running_loop(), threading.Event()
    asked: asyncio.Future[str] = loop.create_future()

    def announce(where: str) -> None:
        loop.call_soon_threadsafe(asked.set_result, where)
        over.wait(10)

    settings = config.load(environ={}, flags={"server.listen": "127.0.0.1:0"})
    task = asyncio.create_task(server.serve(settings, announce=announce))
    url = await asyncio.wait_for(asked, 5)
    assert (await ask(url, "GET", "/-/healthy")).status == 200
    os.kill(os.getpid(), signal.SIGTERM)
    over.set()
    await asyncio.wait_for(task, 5)


def test_so_many_changes_are_named_and_no_more(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[server]\nheartbeat_s = 5\ndrain_timeout_s = 5\nworkers = 2\n")
    assert list(report(loaded(file), most=2))[-3:] == [
        "  changed    server.workers = 2",
        "             server.drain_timeout_s = 5",
        "             and 1 more",
    ]
