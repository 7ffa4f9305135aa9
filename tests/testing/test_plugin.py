"""The pytest plugin, run by pytest on tests of its own; and what it helps to assert."""

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import lifecycle_proxy
import openai
import pytest
import uvloop
from lifecycle_proxy.recording.cassette import Piece, RecordedExchange, Request, load
from lifecycle_proxy.testing import assert_paired, fixtures, lifecycle_events, network_block

from tests.fakes import DONE, delta, text, tool_call
from tests.recording.build import agent, frame, write

# Imported here, once: the runs below forget what they import.
assert all((fixtures, aiohttp, openai, uvloop))
# Its transport is imported with its first client, whose errors would be another import's later on.
openai.AsyncOpenAI(base_url="http://127.0.0.1:1/v1", api_key="none")

pytest_plugins = ["pytester"]

ROOT = str(Path(lifecycle_proxy.__file__).parent.parent)
PLUGIN = ("-p", "lifecycle_proxy.testing.plugin")
# Plugins of pytest itself that no run here needs: to register all takes a third of a run's time.
UNNEEDED = "doctest faulthandler junitxml pastebin setuponly setupplan stepwise"
WITHOUT = tuple(word for name in UNNEEDED.split() for word in ("-p", f"no:{name}"))
ANSWER = (
    delta(role="assistant"),
    text("Let me look. "),
    tool_call("call_1", "terminal", '{"command": "ls"}'),
    delta("tool_calls"),
    DONE,
)


@dataclass
class Backend:
    """A scripted upstream in a thread: the runs below have event loops of their own."""

    url: str = ""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def backend() -> Iterator[Backend]:
    told = Backend()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            told.asked.append(self.path)
            self._answer("text/event-stream", b"".join(ANSWER))

        def do_GET(self) -> None:
            told.asked.append(self.path)
            self._answer("application/json", b'{"data": []}')

        def _answer(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield told
        server.shutdown()
        thread.join()


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Only the plugins that a run names, and no CI."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.delenv("PYTEST_PLUGINS", raising=False)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PYTHONPATH", ROOT)
    return pytester


ASK = """
import json, urllib.request
import pytest

class Refused(Exception):
    pass

def ask(url, content="hi"):
    messages = [{"role": "user", "content": content}]
    body = json.dumps({"model": "m", "stream": True, "messages": messages}).encode()
    request = urllib.request.Request(url + "/chat/completions", body)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read()
    except urllib.request.HTTPError as error:
        with error:
            told = (error.code, error.read())
    raise Refused(*told)
"""
ONE = f"""{ASK}
from lifecycle_proxy.testing import assert_paired

def test_one(lifecycle_proxy):
    body = ask(lifecycle_proxy.base_url)
    (pair,) = assert_paired(body)
    assert pair.completed["label"] == "ls"
    (exchange,) = lifecycle_proxy.exchanges()
    assert exchange.is_complete and exchange.client.body == body
"""


def run(pytester: pytest.Pytester, *args: str, upstream: str = "") -> pytest.RunResult:
    """The tests of the folder, in this process."""
    given = ("-o", f"lifecycle_proxy_upstream={upstream}") if upstream else ()
    return pytester.runpytest_inprocess(*PLUGIN, *WITHOUT, *given, *args)


def cassettes(pytester: pytest.Pytester) -> list[str]:
    found = pytester.path.rglob("*.jsonl")
    return sorted(str(file.relative_to(pytester.path)) for file in found)


# --- record and replay --------------------------------------------------------------------------


def test_what_is_recorded_once_is_played_without_the_upstream(
    pytester: pytest.Pytester, backend: Backend
) -> None:
    pytester.makepyfile(test_it=ONE)
    run(pytester, upstream=backend.url).assert_outcomes(passed=1)
    assert cassettes(pytester) == ["cassettes/test_it/test_one.jsonl"]
    assert len(backend.asked) == 1
    run(pytester, upstream=backend.url).assert_outcomes(passed=1)
    run(pytester, "--record-mode=none").assert_outcomes(passed=1)
    assert len(backend.asked) == 1


def test_ci_records_nothing(
    pytester: pytest.Pytester, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    pytester.makepyfile(test_it=ONE)
    result = run(pytester, upstream=backend.url)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*no recording for POST /v1/chat/completions: there are no recordings*",
            "*there is no *cassettes/test_it/test_one.jsonl",
            "to record it again: pytest --lifecycle-record-mode=record 'test_it.py::test_one'",
        ]
    )
    assert (backend.asked, cassettes(pytester)) == ([], [])


def test_recording_anew_replaces_and_new_episodes_add(
    pytester: pytest.Pytester, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        test_it=f"""{ASK}
import os

def test_one(lifecycle_proxy):
    for content in os.environ["ASKED"].split():
        ask(lifecycle_proxy.base_url, content)
"""
    )
    file = pytester.path / "cassettes/test_it/test_one.jsonl"

    def recorded(asked: str, mode: str) -> tuple[int, int]:
        before = len(backend.asked)
        monkeypatch.setenv("ASKED", asked)
        run(pytester, f"--record-mode={mode}", upstream=backend.url).assert_outcomes(passed=1)
        return len(backend.asked) - before, len(load(file))

    assert recorded("a b", "once") == (2, 2)
    assert recorded("a b", "record") == (2, 2)
    assert recorded("b a", "new_episodes") == (0, 2)
    assert recorded("b c a", "new_episodes") == (1, 3)
    assert recorded("c a b", "none") == (0, 3)


def test_a_run_that_broke_off_leaves_the_cassette_as_it_was(
    pytester: pytest.Pytester, backend: Backend
) -> None:
    pytester.makepyfile(test_it=ONE)
    run(pytester, upstream=backend.url).assert_outcomes(passed=1)
    (file,) = pytester.path.rglob("*.jsonl")
    before = file.read_bytes()
    nobody = "http://127.0.0.1:9/v1"
    run(pytester, "--record-mode=record", upstream=nobody).assert_outcomes(failed=1)
    assert file.read_bytes() == before
    assert cassettes(pytester) == ["cassettes/test_it/test_one.jsonl"]
    assert list(file.parent.iterdir()) == [file]


def test_a_failing_test_keeps_a_recording_that_is_whole(
    pytester: pytest.Pytester, backend: Backend
) -> None:
    failing = f"{ASK}\ndef test_one(lifecycle_proxy):\n    assert not ask(lifecycle_proxy.base_url)"
    pytester.makepyfile(test_it=failing)
    run(pytester, upstream=backend.url).assert_outcomes(failed=1)
    pytester.makepyfile(test_it=ONE)
    run(pytester, "--record-mode=none").assert_outcomes(passed=1)
    assert len(backend.asked) == 1


def test_each_test_and_each_of_its_cases_has_a_cassette(
    pytester: pytest.Pytester, backend: Backend
) -> None:
    pytester.makepyfile(
        test_it=f"""{ASK}
class TestAll:
    @pytest.mark.parametrize("what", ["a/b", "a-b", "..", "x" * 300])
    def test_case(self, lifecycle_proxy, what):
        ask(lifecycle_proxy.base_url, what)

@pytest.mark.lifecycle_proxy(cassette="shared.jsonl.gz")
@pytest.mark.parametrize("what", "pq")
def test_shared(lifecycle_proxy, what):
    ask(lifecycle_proxy.base_url, what)
"""
    )
    run(pytester, upstream=backend.url).assert_outcomes(passed=6)
    names = {Path(file).name for file in cassettes(pytester)}
    assert "TestAll.test_case[a-b].jsonl" in names
    assert len(names) == 4
    assert max(map(len, names)) < 150
    assert len(load(pytester.path / "cassettes/test_it/shared.jsonl.gz")) == 2
    run(pytester, "--record-mode=none").assert_outcomes(passed=6)
    assert len(backend.asked) == 6


def test_cassettes_of_all_folders_can_be_in_one(
    pytester: pytest.Pytester, backend: Backend
) -> None:
    pytester.makepyfile(**{"tests/api/test_it": ONE})
    own = ("-o", "lifecycle_proxy_cassette_dir=tapes", "--rootdir", str(pytester.path))
    run(pytester, *own, upstream=backend.url).assert_outcomes(passed=1)
    assert cassettes(pytester) == ["tapes/tests/api/test_it/test_one.jsonl"]


def test_what_the_client_got_is_played_as_it_was(
    pytester: pytest.Pytester, backend: Backend
) -> None:
    marked = (
        '@pytest.mark.lifecycle_proxy(side="{}", speed=0, **{{"lifecycle.dialect": "{}"}})\ndef'
    )

    def source(side: str, dialect: str) -> str:
        return ONE.replace("def test_one", f"{marked.format(side, dialect)} test_one")

    pytester.makepyfile(test_it=source("upstream", "comment"))
    run(pytester, upstream=backend.url).assert_outcomes(passed=1)
    pytester.makepyfile(test_it=source("client", "off"))
    run(pytester, "--record-mode=none").assert_outcomes(passed=1)
    pytester.makepyfile(test_it=source("upstream", "off"))
    run(pytester, "--record-mode=none").assert_outcomes(failed=1)


# --- clients ------------------------------------------------------------------------------------

CLIENTS = """
import aiohttp, asyncio, openai, pytest
from lifecycle_proxy.testing import assert_paired, lifecycle_events
httpx = pytest.importorskip("httpx2")

ASKED = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
KEY = {"api_key": "sk-of-a-test-0123456789", "max_retries": 0}

def test_openai(lifecycle_proxy):
    with openai.OpenAI(base_url=lifecycle_proxy.base_url, **KEY) as client:
        assert_paired(client.chat.completions.create(**ASKED))

async def test_openai_async(lifecycle_proxy):
    async with openai.AsyncOpenAI(base_url=lifecycle_proxy.base_url, **KEY) as client:
        stream = await client.chat.completions.create(**ASKED)
        with pytest.raises(TypeError, match="async for"):
            lifecycle_events(stream)
        assert_paired([chunk async for chunk in stream])

def test_httpx(lifecycle_proxy):
    with httpx.Client() as client:
        assert_paired(client.post(lifecycle_proxy.base_url + "/chat/completions", json=ASKED))
        with client.stream("POST", lifecycle_proxy.base_url + "/chat/completions", json=ASKED) as r:
            assert_paired(r)

async def test_aiohttp(lifecycle_proxy):
    async with aiohttp.ClientSession(lifecycle_proxy.url) as session:
        async with session.post("/v1/chat/completions", json=ASKED) as answer:
            with pytest.raises(TypeError, match="await response.read"):
                lifecycle_events(answer)
            assert_paired(await answer.read())
"""


def test_the_usual_clients_are_recorded_and_played(
    pytester: pytest.Pytester, backend: Backend
) -> None:
    pytester.makepyfile(test_it=CLIENTS)
    scope = "asyncio_default_fixture_loop_scope=function"
    own = ("-p", "pytest_asyncio.plugin", "-W", "error", "-o", "asyncio_mode=auto", "-o", scope)
    run(pytester, *own, upstream=backend.url).assert_outcomes(passed=4)
    assert len(backend.asked) == 5
    run(pytester, *own, "--record-mode=none").assert_outcomes(passed=4)
    assert len(backend.asked) == 5
    assert not any("sk-of-a-test" in f.read_text() for f in pytester.path.rglob("*.jsonl"))


# --- strict -------------------------------------------------------------------------------------


def test_a_request_that_is_not_recorded_fails_the_test_with_the_difference(
    pytester: pytest.Pytester, backend: Backend
) -> None:
    pytester.makepyfile(test_it=ONE)
    run(pytester, upstream=backend.url).assert_outcomes(passed=1)
    swallowed = f"""{ASK}
def test_one(lifecycle_proxy):
    with pytest.raises(Refused) as caught:
        ask(lifecycle_proxy.base_url, "ho")
    status, body = caught.value.args
    assert status == 404
    assert json.loads(body)["error"]["code"] == "no_recording"
    (miss,) = lifecycle_proxy.misses
    assert miss.diff[0].path == "messages.0.content"
"""
    told = ["*messages.0.content", "*recorded: hi", "*asked:    ho", "to record it again: *"]
    pytester.makepyfile(test_it=swallowed)
    result = run(pytester, "--record-mode=none")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(told)
    pytester.makepyfile(test_it=ONE.replace("base_url)", "base_url, 'ho')"))
    result = run(pytester, "--record-mode=none")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Captured lifecycle-proxy call*", *told])
    allowed = "@pytest.mark.lifecycle_proxy(allow_misses=True)\ndef test_one"
    pytester.makepyfile(test_it=swallowed.replace("def test_one", allowed))
    run(pytester, "--record-mode=none").assert_outcomes(passed=1)


def test_a_mark_says_how_alike_requests_must_be(
    pytester: pytest.Pytester, backend: Backend
) -> None:
    warmer = ASK.replace('"stream": True', '"stream": True, "temperature": 1')
    marked = "@pytest.mark.lifecycle_proxy(stages=('exact', 'json'))\ndef test_one"
    pytester.makepyfile(test_it=ONE)
    run(pytester, upstream=backend.url).assert_outcomes(passed=1)
    pytester.makepyfile(test_it=ONE.replace(ASK, warmer))
    run(pytester, "--record-mode=none").assert_outcomes(passed=1)
    pytester.makepyfile(test_it=ONE.replace(ASK, warmer).replace("def test_one", marked))
    result = run(pytester, "--record-mode=none")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*temperature*"])


def test_what_is_asked_after_the_test_fails_it_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=f"""{ASK}
@pytest.fixture
def late(lifecycle_proxy):
    yield
    with pytest.raises(Refused):
        ask(lifecycle_proxy.base_url)

def test_one(late):
    pass
"""
    )
    run(pytester, "--record-mode=none").assert_outcomes(passed=1, errors=1)


def test_what_cannot_be_played_is_said(pytester: pytest.Pytester) -> None:
    tape = agent()
    tape.lines.pop()
    place = pytester.path / "cassettes/test_it/test_one.jsonl"
    place.parent.mkdir(parents=True)
    write(place, tape)
    pytester.makepyfile(test_it=ONE)
    result = run(pytester, "--record-mode=none")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["agent-0001 cannot be played: its end was not recorded"])
    place.write_text("no cassette")
    result = run(pytester, "--record-mode=none")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*line 1: not a cassette (JSON lines)"])


BLOCKED = """
import asyncio, socket, sys, urllib.request
import aiohttp, openai, pytest, uvloop
httpx = pytest.importorskip("httpx2")

def is_ours(error):
    while error is not None:
        if "is blocked in this test: lifecycle_proxy, record mode none" in str(error):
            return True
        groups = getattr(error, "exceptions", ())  # anyio's, for addresses that need no resolver
        error = error.__cause__ or error.__context__ or (groups[0] if groups else None)
    return False

FAR = ["http://example.com/", "http://192.0.2.1:81/", "https://[2001:db8::1]/"]
pytestmark = pytest.mark.parametrize("url", FAR)

def no_way(call):
    with pytest.raises(Exception) as caught:
        call()
    assert is_ours(caught.value), caught.value

def test_urllib(lifecycle_proxy, url):
    no_way(lambda: urllib.request.urlopen(url, timeout=1))

def test_httpx(lifecycle_proxy, url):
    no_way(lambda: httpx.get(url, timeout=1))

async def with_httpx(url):
    async with httpx.AsyncClient() as client:
        await client.get(url, timeout=1)

async def with_aiohttp(url):
    async with aiohttp.ClientSession() as session:
        await session.get(url, timeout=aiohttp.ClientTimeout(1))

async def with_openai(url):
    async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
        await client.models.list()

@pytest.mark.parametrize("new_loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
@pytest.mark.parametrize("work", [with_httpx, with_aiohttp, with_openai])
def test_async(lifecycle_proxy, url, work, new_loop):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        no_way(lambda: runner.run(work(url)))

def test_socket(lifecycle_proxy, url):
    with socket.socket() as sock:
        no_way(lambda: sock.connect_ex(("192.0.2.1", 1)))
    one, other = socket.socketpair()
    one.close(), other.close()
    assert socket.getaddrinfo(None, 80) and socket.getaddrinfo("localhost", 80)
"""


def test_nothing_leaves_this_machine_in_strict_mode(pytester: pytest.Pytester) -> None:
    before = (socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo)
    pytester.makepyfile(test_it=BLOCKED)
    run(pytester, "--record-mode=none").assert_outcomes(passed=27)
    assert before == (socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo)
    assert "connect" not in vars(socket.socket)


def test_a_mark_blocks_the_network_or_lets_it_be(
    pytester: pytest.Pytester, backend: Backend
) -> None:
    # This machine by a name that does not say so stands for what is far away: the recording proxy
    # may go there, the test may not.
    away = backend.url.replace("127.0.0.1", "0.0.0.0")
    pytester.makepyfile(
        test_it=f"""{ASK}
import socket

def blocked():
    try:
        socket.create_connection(("0.0.0.0", {backend.url.split(":")[2][:-3]})).close()
    except RuntimeError as error:
        return "is blocked" in str(error)
    return False

@pytest.mark.lifecycle_proxy(block_network=True)
def test_blocked(lifecycle_proxy):
    assert blocked()

@pytest.mark.lifecycle_proxy(block_network=False)
def test_free(lifecycle_proxy):
    assert not blocked()

def test_default(lifecycle_proxy):
    assert blocked() == (lifecycle_proxy.mode == "none")

@pytest.mark.lifecycle_proxy(block_network=True)
def test_recording(lifecycle_proxy):
    import http.client, threading
    def get():
        connection = http.client.HTTPConnection(lifecycle_proxy.url[7:])
        connection.request("GET", "/v1/models")
        connection.getresponse().read()
        connection.close()
    if lifecycle_proxy.mode == "record":
        thread = threading.Thread(target=get, name="lifecycle-proxy-client")
        thread.start()
        thread.join()
        assert lifecycle_proxy.exchanges()[0].upstream.status == 200
"""
    )
    run(pytester, upstream=away).assert_outcomes(passed=4)
    assert backend.asked == ["/v1/models"]
    file = pytester.path / "cassettes/test_it/test_recording.jsonl"
    assert file.exists()
    assert "connect" not in vars(socket.socket)


# --- replayed -----------------------------------------------------------------------------------


def test_cassettes_are_served_to_whatever_has_a_url(pytester: pytest.Pytester) -> None:
    write(pytester.path / "agent.jsonl", agent())
    pytester.makepyfile(
        test_it="""
import json, urllib.request
import pytest
from lifecycle_proxy.testing import lifecycle_events

def ask(url, body=b'{"model": "m", "stream": true}'):
    with urllib.request.urlopen(url + "/chat/completions", body) as answer:
        return answer.read()

def test_both_sides(replayed):
    got = ask(replayed("agent.jsonl").base_url)
    sent = ask(replayed("agent.jsonl", side="upstream", speed=0, max_gap_ms=1).base_url)
    assert len(lifecycle_events(got)) == 4
    assert len(lifecycle_events(sent)) == 0

def test_repeated(replayed):
    served = replayed("agent.jsonl", loop=True)
    assert ask(served.base_url) == ask(served.base_url)

def test_miss(replayed):
    served = replayed("agent.jsonl", stages=("exact",))
    with pytest.raises(urllib.request.HTTPError) as caught:
        ask(served.base_url, b'{"model": "other"}')
    caught.value.close()
    assert len(served.misses) == 1

def test_another_question(replayed):
    served = replayed("agent.jsonl", allow_misses=True)
    with pytest.raises(urllib.request.HTTPError) as caught:
        ask(served.base_url, b'{"model": "other"}')
    caught.value.close()

def test_by_order(replayed):
    assert ask(replayed("agent.jsonl", stages=("order",)).base_url, b'{"model": "other"}')

def test_allowed(replayed):
    served = replayed("agent.jsonl", stages=("exact",), allow_misses=True)
    with pytest.raises(urllib.request.HTTPError) as caught:
        ask(served.base_url, b'{"model": "other"}')
    caught.value.close()

def test_nothing_there(replayed):
    replayed("missing.jsonl")
"""
    )
    result = run(pytester, "-W", "error")
    result.assert_outcomes(passed=5, failed=2)
    result.stdout.fnmatch_lines(["*nearest: agent-0001*", "*missing.jsonl: no such file"])


# --- a guest in other people's suites -------------------------------------------------------------


def test_it_costs_nothing_until_a_fixture_is_used(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaded by its entry point, with no option, mark or fixture of it in sight."""
    info = pytester.mkdir("installed_plugin-1.dist-info")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: installed_plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[pytest11]\nlifecycle_proxy = lifecycle_proxy.testing.plugin\n"
    )
    pytester.makepyfile(
        test_it="""
import sys
def test_plain(request):
    assert request.config.pluginmanager.has_plugin("lifecycle_proxy")
    heavy = ["aiohttp", "asyncio", "orjson", "msgspec", "lifecycle_proxy.testing.fixtures", "ssl"]
    assert [name for name in heavy if name in sys.modules] == []
"""
    )
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{pytester.path}")
    result = pytester.runpytest_subprocess("-p", "lifecycle_proxy", "--strict-markers")
    result.assert_outcomes(passed=1)


def test_somebody_elses_option_of_that_name_stays_theirs(
    pytester: pytest.Pytester, backend: Backend
) -> None:
    pytester.makeconftest(
        """
def pytest_addoption(parser):
    parser.addoption("--record-mode", default=None, choices=["all", "none", "rewrite", "full"])
"""
    )
    pytester.makepyfile(test_it=ONE)
    run(pytester, "--record-mode=all", upstream=backend.url).assert_outcomes(passed=1)
    run(pytester, "--record-mode=rewrite", upstream=backend.url).assert_outcomes(passed=1)
    assert len(backend.asked) == 2
    run(pytester, "--record-mode=none").assert_outcomes(passed=1)
    run(pytester, "--record-mode=full").assert_outcomes(passed=1)
    own = ("--record-mode=all", "--lifecycle-record-mode=none")
    run(pytester, *own).assert_outcomes(passed=1)
    assert len(backend.asked) == 2


def test_an_option_of_that_name_that_takes_no_mode_is_left_alone(
    pytester: pytest.Pytester, backend: Backend
) -> None:
    pytester.makeconftest(
        "def pytest_addoption(parser): parser.addoption('--record-mode', action='store_true')"
    )
    pytester.makepyfile(test_it=ONE)
    run(pytester, "--record-mode", upstream=backend.url).assert_outcomes(passed=1)
    run(pytester, "--lifecycle-record-mode=none").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("mark", "problem"),
    [
        ("'http://127.0.0.1:9'", "*the mark takes names only*"),
        ("casette='x.jsonl'", "*the mark has no 'casette' (did you mean cassette?)*"),
        ("cassette='x.yaml'", "*cassette 'x.yaml' must be NAME.jsonl*"),
        (
            "**{'lifecycle.spam': 'call'}",
            "lifecycle_proxy: lifecycle.spam: unknown key (did you mean span?)",
        ),
        ("**{'recording.mode': 'off'}", "*recording.mode is the fixture's to set*"),
        ("side='server'", "lifecycle_proxy: side: unknown side 'server' (known are upstream, *"),
        ("stages=('exact', 'fuzzy')", "lifecycle_proxy: stages: unknown stage 'fuzzy' (known *"),
        ("stages=7", "lifecycle_proxy: stages must be a tuple *, not 7"),
        ("speed='fast'", "lifecycle_proxy: speed must be a number *, not 'fast'"),
        ("speed=-1", "lifecycle_proxy: speed must be a number *, not -1"),
        ("upstream='ftp://x'", 'lifecycle_proxy: upstream: "ftp://x" is not a base URL, *'),
        (
            "**{'lifecycle.span': 'x'}",
            'lifecycle_proxy: lifecycle.span: unknown value "x" (known are call, e*',
        ),
    ],
)
@pytest.mark.parametrize("mode", ["none", "record"])
def test_a_mark_that_makes_no_sense_is_refused(
    pytester: pytest.Pytester, mark: str, problem: str, mode: str
) -> None:
    pytester.makepyfile(
        test_it=f"""
import pytest
@pytest.mark.lifecycle_proxy({mark})
def test_one(lifecycle_proxy):
    pass
"""
    )
    result = run(pytester, f"--record-mode={mode}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([problem])


def test_an_upstream_of_the_ini_file_is_named_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=ONE)
    result = run(pytester, "-o", "lifecycle_proxy_upstream=ftp://x")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(['lifecycle_proxy: lifecycle_proxy_upstream: "ftp://x" is *'])


def test_an_unknown_mode_in_the_ini_file_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=ONE)
    result = run(pytester, "-o", "lifecycle_proxy_record_mode=some")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*unknown record mode 'some'; known are none, once, *"])


def test_a_key_for_the_upstream_is_not_needed_to_play(
    pytester: pytest.Pytester, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = "@pytest.mark.lifecycle_proxy(**{'upstream.api_key': 'env:SOME_KEY'})\ndef test_one"
    pytester.makepyfile(test_it=ONE.replace("def test_one", marked))
    monkeypatch.setenv("SOME_KEY", "a-key-of-the-upstream")
    run(pytester, upstream=backend.url).assert_outcomes(passed=1)
    monkeypatch.delenv("SOME_KEY")
    run(pytester, "--record-mode=none").assert_outcomes(passed=1)
    run(pytester, "--record-mode=record").assert_outcomes(errors=1)


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "::1%lo", "localhost")),
        *((host, True) for host in (None, "", b"localhost", "a.localhost", "::ffff:127.0.0.1")),
        *((host, False) for host in ("10.0.0.1", "::2", "localhost.example", b"example.com")),
    ],
)
def test_what_this_machine_is(host: Any, is_here: bool) -> None:
    assert network_block.is_local(host) is is_here


# --- events and pairs ---------------------------------------------------------------------------


def told(*statuses: str, call: str = "call_1", **more: Any) -> list[dict[str, Any]]:
    return [{"toolCallId": call, "tool": "t", "status": one, **more} for one in statuses]


BODY = text("x") + frame("call_1", "running") + frame("call_1", "completed", durationMs=2, choice=1)
EVENTS = [
    {"tool": "terminal", "emoji": "💻", "label": "df -h", "toolCallId": "call_1", **more}
    for more in ({"status": "running"}, {"status": "completed", "durationMs": 2, "choice": 1})
]


def test_events_are_found_in_whatever_form_an_answer_has() -> None:
    exchange = RecordedExchange("ex", "", "chat", Request("POST", "/", ()))
    exchange.client.pieces = [Piece(0, BODY[:50]), Piece(1, BODY[50:])]
    fields = [{"id": "c", "choices": [], **event} for event in EVENTS]
    forms: list[Any] = [
        BODY,
        BODY.decode(),
        bytearray(BODY),
        BODY.replace(b"\n", b"\r\n"),
        [BODY[:77], BODY[77:]],
        iter((BODY[:77], BODY[77:])),
        exchange,
        exchange.client,
        fields,
        EVENTS,
        [SimpleNamespace(model_extra=one, choices=[]) for one in fields],
        [SimpleNamespace(**one) for one in fields],
        SimpleNamespace(status_code=200, content=BODY),
        b"".join(b": hermes.tool.progress %b\n\n" % json.dumps(e).encode() for e in EVENTS),
    ]
    for form in forms:
        assert lifecycle_events(form) == EVENTS
    assert lifecycle_events(EVENTS[0]) == EVENTS[:1]
    assert lifecycle_events(b"data: [DONE]\n\ndata: 7\n\ndata: {\n\n") == []
    assert lifecycle_events([]) == []


def test_what_holds_no_events_is_refused() -> None:
    with pytest.raises(TypeError, match="the whole body"):
        lifecycle_events(["data: {}", ""])
    with pytest.raises(TypeError, match="int holds no events"):
        lifecycle_events(7)


def test_pairs_come_back_in_the_order_in_which_calls_began() -> None:
    a, b = told("running", "completed"), told("running", "completed", call="b", choice=2)
    again = told("running", "completed")
    pairs = assert_paired([a[0], b[0], b[1], a[1], *again])
    assert pairs == [(a[0], a[1]), (b[0], b[1]), (again[0], again[1])]
    assert pairs[0].running["status"] == "running"
    assert assert_paired([], at_least=0) == []


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        (told("running"), "#1 call_1 (t): never completed"),
        (told("completed"), "#1 call_1 (t): completed, but not running"),
        (told("running", "running", "completed"), "#2 call_1 (t): running again before"),
        (told("running", "completed", "completed"), "#3 call_1 (t): completed, but not running"),
        (told("running", "failed", "completed"), "#2 call_1 (t): unknown status"),
        ([*told("running"), *told("completed", choice=1)], "#2 call_1 (t) of choice 1: completed"),
        ([], "0 calls, where at least 1 should be"),
    ],
)
def test_what_is_not_paired_is_told(events: list[dict[str, Any]], fault: str) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_paired(events)
    assert fault in str(caught.value)
    assert "events:\n  " in str(caught.value)


def test_the_page_shows_a_test_that_runs(pytester: pytest.Pytester, backend: Backend) -> None:
    page = Path(__file__).parents[2].joinpath("docs/testing.md").read_text(encoding="utf-8")
    source = page.split("```python\n")[1].split("```")[0]
    pytester.makepyfile(test_disk=source.replace("http://127.0.0.1:11434/v1", backend.url))
    run(pytester).assert_outcomes(passed=1)
    run(pytester, "--record-mode=none").assert_outcomes(passed=1)
    assert len(backend.asked) == 1
    assert "openai" in sys.modules


# --- a first run without an upstream --------------------------------------------------------------

SWALLOWED = """
import urllib.error
import urllib.request
import pytest

def ask(lifecycle_proxy):
    url = f"{lifecycle_proxy.base_url}/chat/completions"
    urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=5)

def test_swallows(lifecycle_proxy):
    with pytest.raises(urllib.error.HTTPError):
        ask(lifecycle_proxy)

def test_fails(lifecycle_proxy):
    ask(lifecycle_proxy)

@pytest.mark.lifecycle_proxy(side="client")
def test_of_the_client(lifecycle_proxy):
    with pytest.raises(urllib.error.HTTPError):
        ask(lifecycle_proxy)
"""


def test_a_run_that_finds_no_upstream_fails_and_says_what_to_do(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=SWALLOWED)
    result = run(pytester, upstream="http://127.0.0.1:9/v1")
    result.assert_outcomes(passed=1, failed=2)
    said = [
        "nothing was recorded: the upstream http://127.0.0.1:9/v1 could not be reached",
        "this run records, so it asks the upstream: start it, or name another by @pytest.mark.*",
        "or by lifecycle_proxy_upstream = http://... in the ini file",
    ]
    result.stdout.fnmatch_lines(["*_ test_swallows _*", *said])
    result.stdout.fnmatch_lines(["*_ test_fails _*", "*- Captured lifecycle-proxy call -*", *said])
    # What the client got, a 502, is what that cassette is for.
    assert cassettes(pytester) == ["cassettes/test_it/test_of_the_client.jsonl"]
