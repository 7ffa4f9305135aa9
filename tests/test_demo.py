"""The demo as people run it: a process of its own, its output read from a pipe."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy import demo

_COMMAND: Final = (sys.executable, "-m", "proxy", "demo")
# Cards as they are printed: emoji, tool, maybe a label, status.
_CARD: Final = re.compile(r"^ {2}\S+ (\w+) .*?(running|completed)( in \d+\.\d s)?$", re.MULTILINE)
_BASE_URL: Final = re.compile(r"base URL +(http://\S+)")


def _environment() -> dict[str, str]:
    """This process's, without what would make the demo's output another."""
    return {k: v for k, v in os.environ.items() if not k.startswith("LIFECYCLE_PROXY_")}


def test_once_shows_two_pairs_and_the_text() -> None:
    done = subprocess.run(
        [*_COMMAND, "--once", "--listen", "127.0.0.1:0"],
        capture_output=True,
        encoding="utf-8",
        env={**_environment(), "PYTHONIOENCODING": "utf-8"},
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    cards = [(tool, status) for tool, status, _ in _CARD.findall(done.stdout)]
    assert cards == [
        ("web_search", "running"),
        ("terminal", "running"),
        ("terminal", "completed"),
        ("web_search", "completed"),
    ]
    assert "The disk is 61 % full." in done.stdout
    assert "\x1b" not in done.stdout  # no terminal, no colour
    assert "base URL" not in done.stdout  # nothing is up any more


def test_an_address_that_is_none_is_wrong_usage() -> None:
    done = subprocess.run(
        [*_COMMAND, "--listen", "nonsense"],
        capture_output=True,
        encoding="utf-8",
        env=_environment(),
        timeout=30,
        check=False,
    )

    assert done.returncode == 2
    assert "nonsense" in done.stderr


def test_a_chosen_port_that_is_taken_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [*_COMMAND, "--once", "--listen", f"127.0.0.1:{taken.getsockname()[1]}"],
            capture_output=True,
            encoding="utf-8",
            env=_environment(),
            timeout=30,
            check=False,
        )

    assert done.returncode == 1
    assert "in use" in done.stderr


@contextmanager
def _default_port_taken() -> Iterator[None]:
    try:
        taken = socket.create_server(("127.0.0.1", 8787))
    except OSError:  # by somebody else, which serves as well
        yield
        return
    with taken:
        yield


def test_another_port_where_the_default_one_is_taken() -> None:
    with _default_port_taken():
        done = subprocess.run(
            [*_COMMAND, "--once"],
            capture_output=True,
            encoding="ascii",
            env={**_environment(), "PYTHONIOENCODING": "ascii"},  # an emoji is no reason to fail
            timeout=30,
            check=False,
        )

    assert (done.returncode, done.stderr) == (0, "")
    assert "port 8787 is taken" in done.stdout


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (500, b"", "500"),
        (200, b"", "without [DONE]"),
        (200, b"data: [DONE]\n\n", "the text '' and the events {}"),
    ],
)
async def test_a_conversation_that_is_not_as_it_should_be(
    status: int, body: bytes, fault: str
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    async with TestServer(app) as server:
        assert fault in await demo._converse(str(server.make_url("/v1")))


@contextmanager
def _staying() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A demo after its own conversation, and its base URL."""
    with subprocess.Popen(
        [*_COMMAND, "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env={**_environment(), "PYTHONIOENCODING": "utf-8"},
    ) as process:
        try:
            assert process.stdout is not None
            printed = ""
            for line in process.stdout:
                printed += line
                if found := _BASE_URL.search(line):
                    yield process, found[1]
                    return
            pytest.fail(f"no base URL in: {printed}")
        finally:
            process.kill()


def _chat(base: str, **asked: object) -> tuple[str, str]:
    """One request as a plain client sends it: content type and body of the answer."""
    url = urlsplit(base)
    connection = http.client.HTTPConnection(url.netloc, timeout=15)
    try:
        body = json.dumps({"model": "demo", **asked})
        connection.request("POST", f"{url.path}/chat/completions", body)
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.getheader("Content-Type", ""), answer.read().decode()
    finally:
        connection.close()


def test_it_stays_up_for_other_clients_until_it_is_asked_to_stop() -> None:
    user = {"role": "user", "content": "Oslo?"}
    with _staying() as (process, base):
        kind, body = _chat(base, stream=True, messages=[user])
        assert kind == "text/event-stream"
        assert body.count("event: hermes.tool.progress\n") == 4
        assert body.endswith("data: [DONE]\n\n")

        # Clients that run the calls themselves come back with results, and must find an end.
        _, body = _chat(base, stream=True, messages=[user, {"role": "tool", "content": "rain"}])
        assert "tool_calls" not in body

        _, body = _chat(base, messages=[user])
        assert json.loads(body)["choices"][0]["message"]["content"].startswith("It will rain")

        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_stop_in_mid_conversation_is_quick_and_clean() -> None:
    with subprocess.Popen(
        [*_COMMAND, "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**_environment(), "PYTHONIOENCODING": "utf-8"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(10) == 0
        finally:
            process.kill()
        assert "Traceback" not in process.stderr.read()
