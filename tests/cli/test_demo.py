"""The demo: as people run it, in a process of its own, and its parts in this one."""

import contextlib
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import openai
import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer
from lifecycle_proxy.app import serve
from lifecycle_proxy.cli import demo
from lifecycle_proxy.cli.demo_upstream import ANSWER, QUESTION, upstream
from lifecycle_proxy.config import model as config

from tests.commands import environment, run, run_here

pytestmark = pytest.mark.usefixtures("quiet")

_COMMAND: Final = (sys.executable, "-m", "lifecycle_proxy", "demo")
_PACE: Final = 0.02
# Cards as they are printed: emoji, tool, maybe a label, status.
_CARD: Final = re.compile(r"^  \S* +(\w+) .*? (?:\S (running|completed|failed)).*$", re.MULTILINE)
_CARDS: Final = [
    ("web_search", "running"),
    ("read_file", "running"),
    ("read_file", "failed"),
    ("web_search", "completed"),
    ("search_files", "running"),
    ("search_files", "completed"),
]
_USER: Final = {"role": "user", "content": "Hi"}
_JSON = dict[str, Any]


def _loaded(**settings: object) -> config.Loaded:
    flags = {"server.listen": "127.0.0.1:0"}
    flags |= {key.replace("__", "."): value for key, value in settings.items()}  # type: ignore[misc]
    return config.read(environ={}, flags=flags)


async def _played(capsys: pytest.CaptureFixture[str], **settings: object) -> str:
    """What a demo with these settings prints that ends after its conversation."""
    code = await demo.run(_loaded(**settings), once=True, any_port=False, pace=_PACE)
    out, err = capsys.readouterr()
    assert (code, err) == (0, ""), out
    return out


async def test_the_agent_asks_and_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    code = await demo.run(_loaded(), once=True, any_port=False, agent=True, pace=_PACE)
    out, err = capsys.readouterr()
    assert (code, err) == (0, ""), out
    mail = [("send_mail", "running"), ("send_mail", "completed")]
    assert _CARD.findall(out) == [*_CARDS, *mail]
    assert "needs your permission" in out
    assert out.rstrip().endswith("They know.")


# --- in a process of its own --------------------------------------------------------------------


def test_once_shows_each_tool_and_the_answer() -> None:
    done = subprocess.run(
        [*_COMMAND, "--once", "--listen", "127.0.0.1:0"],
        capture_output=True,
        encoding="utf-8",
        env=environment(PYTHONIOENCODING="utf-8"),
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert _CARD.findall(done.stdout) == _CARDS
    assert QUESTION in done.stdout
    assert ANSWER in done.stdout
    assert "\x1b" not in done.stdout  # no terminal, no colour
    assert "Ctrl-C" not in done.stdout  # nothing is up any more


@pytest.mark.parametrize(
    ("arguments", "environ", "named"),
    [
        (("--listen", "nonsense"), {}, "nonsense"),
        ((), {"LIFECYCLE_PROXY_LIFECYCLE__DIALECT": "chnk"}, "did you mean chunk?"),
        ((), {"LIFECYCLE_PROXY_UPSTREAM__RETRIES": "11"}, "upstream.retries"),
        (("--config", "no-such.toml"), {}, "no-such.toml"),
        ((), {"LIFECYCLE_PROXY_CONFIG": "no-such.toml"}, "no-such.toml"),
    ],
)
def test_wrong_settings_are_wrong_usage(
    arguments: tuple[str, ...], environ: dict[str, str], named: str
) -> None:
    done = run_here("demo", "--once", *arguments, **environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr


def test_faults_are_refused_as_serve_does(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[[faults.rules]]\nkind = "reset"\nbyte = 1\n')
    done = run("demo", "--once", "--config", str(file))
    assert done.returncode == 2
    assert "--allow-faults" in done.stderr


def test_a_chosen_port_that_is_taken_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("demo", "--once", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "in use" in done.stderr
    assert "choose another address" in done.stderr


@contextmanager
def _running(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [*_COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment(PYTHONIOENCODING="utf-8"),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_another_port_where_the_default_one_is_taken() -> None:
    try:
        taken = socket.create_server(("127.0.0.1", 8787))
    except OSError:
        pytest.skip("another program has port 8787, and may end at any time")
    with taken, _running("--once") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Port 8787 is taken")
        assert "proxy      http://127.0.0.1:" in "".join(process.stdout.readline() for _ in "12345")


def test_a_stop_in_mid_conversation_is_quick_and_clean() -> None:
    with _running("--listen", "127.0.0.1:0") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_it_stays_up_and_the_printed_curl_command_works() -> None:
    with _running("--listen", "127.0.0.1:0") as process:
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if line.startswith("  lifecycle-proxy serve"):
                break
        assert all(len(line) < 80 for line in printed.splitlines()), printed
        command = re.search(r"curl -N .*\\\n.*", printed)
        assert command is not None, printed
        answer = subprocess.run(
            ["sh", "-c", command[0]], capture_output=True, encoding="utf-8", timeout=60, check=True
        )
        assert answer.stdout.count("event: hermes.tool.progress\n") == len(_CARDS)
        assert answer.stdout.endswith("data: [DONE]\n\n")

        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


# --- with settings ------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["chunk", "plain", "bare", "comment", "openwebui"])
async def test_cards_in_each_dialect_that_has_them(
    capsys: pytest.CaptureFixture[str], dialect: str
) -> None:
    out = await _played(capsys, lifecycle__dialect=dialect)
    if dialect == "bare":  # it does not say that a tool has failed
        out = out.replace("✓ completed", "✗ failed", 1)
    assert _CARD.findall(out) == _CARDS


@pytest.mark.parametrize(
    ("dialect", "shown"),
    [
        ("quote", "> \u2063\u2063🔍 web_search: `weather in Oslo on Saturday`"),
        ("reasoning", "🔍 web_search: weather in Oslo on Saturday"),
    ],
)
async def test_lines_in_the_dialects_that_have_those(
    capsys: pytest.CaptureFixture[str], dialect: str, shown: str
) -> None:
    assert shown in await _played(capsys, lifecycle__dialect=dialect)


async def test_nothing_but_text_where_events_are_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert _CARD.findall(await _played(capsys, lifecycle__dialect="off")) == []


async def test_the_upstreams_of_the_settings_are_not_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    elsewhere = {"name": "a", "url": "http://127.0.0.1:9/v1", "models": ["*"]}
    assert _CARD.findall(await _played(capsys, upstreams=[elsewhere], models={"demo": "a/x"}))


async def test_settings_and_recording_are_named_and_obeyed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    environ = {
        "LIFECYCLE_PROXY_LISTEN": "127.0.0.1:0",
        "LIFECYCLE_PROXY_UPSTREAM__USE_PROXY_ENV": "true",
        "LIFECYCLE_PROXY_LIFECYCLE__DIALECT": "plain",
        "LIFECYCLE_PROXY_RECORDING__MODE": "record",
        "LIFECYCLE_PROXY_RECORDING__PATH": str(tmp_path / "one.jsonl"),
    }
    loaded = config.read(environ=environ)
    assert await demo.run(loaded, once=True, any_port=False, pace=_PACE) == 0
    out = capsys.readouterr().out
    assert "LIFECYCLE_PROXY_LIFECYCLE__DIALECT" in out
    assert f"written to {tmp_path}" in out
    recorded = (tmp_path / "one.jsonl").read_text("utf-8")
    assert "Saturday" in recorded
    assert "hermes.tool.progress" not in recorded.partition('"client"')[0]


async def test_with_keys_tls_and_an_open_address(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    certificate = trustme.CA().issue_cert("proxy.example")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    settings: _JSON = {"server__api_keys": ["sk-demo"], "server__tls_cert": f"{tmp_path}/both.pem"}
    out = await _played(capsys, server__listen="0.0.0.0:0", **settings)
    assert "proxy      https://127.0.0.1:" in out
    assert _CARD.findall(out) == _CARDS

    said = demo._invitation("https://0.0.0.0:1", _loaded(**settings).settings)
    assert "curl -N -k -H 'Authorization: Bearer KEY' https://127.0.0.1:1/v1/chat/" in said
    assert "one of server.api_keys" in said


@pytest.mark.parametrize(
    ("listen", "named"), [("127.0.0.1:1", True), ("0.0.0.0:1", False)], ids=["own", "open"]
)
def test_the_live_page_is_named_where_there_is_one(listen: str, *, named: bool) -> None:
    said = demo._invitation(f"http://{listen}", _loaded(server__listen=listen).settings)
    assert ("live page    http://127.0.0.1:1/-/" in said) == named


async def test_an_open_address_without_keys_is_warned_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "warning" in await _played(capsys, server__listen="0.0.0.0:0")


async def test_on_a_unix_socket(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "s"
    out = await _played(capsys, server__listen=f"unix:{path}")
    assert f"proxy      unix:{path}\n" in out
    assert _CARD.findall(out) == _CARDS
    said = demo._invitation(f"unix:{path}", _loaded().settings)
    assert f"curl -N --unix-socket {path} http://demo/v1/chat/completions" in said


async def test_a_port_that_is_taken_where_any_other_will_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        loaded = _loaded(server__listen=f"127.0.0.1:{port}")
        assert await demo.run(loaded, once=True, any_port=True, pace=_PACE) == 0
        assert f"Port {port} is taken" in capsys.readouterr().out
        with pytest.raises(OSError, match="in use"):
            await demo.run(loaded, once=True, any_port=False, pace=_PACE)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_colour_on_a_terminal_unless_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for wanted in (True, False):
        with contextlib.redirect_stdout(_Terminal()) as terminal:
            await demo.run(_loaded(), once=True, any_port=False, pace=_PACE)
        assert ("\x1b[31m✗ failed" in terminal.getvalue()) is wanted
        assert ("\x1b" in terminal.getvalue()) is wanted
        monkeypatch.setenv("NO_COLOR", "1")


async def test_an_output_that_cannot_have_emojis() -> None:
    raw = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(raw, encoding="ascii")) as output:
        assert await demo.run(_loaded(), once=True, any_port=False, pace=_PACE) == 0
    output.flush()
    assert b"? web_search" in raw.getvalue()


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (500, b"", "500"),
        (200, b"", "without [DONE]"),
        (200, b"data: {\n\ndata: [DONE]\n\n", "the stream broke"),
        (200, b'data: {"choices": []}\n\ndata: [DONE]\n\n', "the text '' and the events {}"),
    ],
)
async def test_a_conversation_that_is_not_as_it_should_be(
    status: int, body: bytes, fault: str
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    async with TestServer(app) as fake:
        url = str(fake.make_url("")).rstrip("/")
        assert fault in await demo._converse(url, _loaded().settings)


async def test_faults_are_seen_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    loaded = _loaded(faults__rules=[{"kind": "cut_at_byte", "byte": 500}])
    assert await demo.run(loaded, once=False, any_port=False, pace=_PACE) == 1
    out, err = capsys.readouterr()
    assert "answers are broken on purpose" in out
    assert "lifecycle-proxy: demo: the stream broke" in err


# --- its upstream, and other clients ------------------------------------------------------------


@pytest.fixture
async def backend() -> AsyncIterator[str]:
    async with upstream(_PACE) as base:
        yield base


@pytest.fixture
async def proxied(backend: str) -> AsyncIterator[str]:
    """The base URL of a proxy with default settings in front of it."""
    flags = {"server.listen": "127.0.0.1:0", "upstream.url": backend}
    runner, url = await serve.start(config.load(environ={}, flags=flags))
    yield f"{url}/v1"
    await serve.stop(runner, 0)


@pytest.fixture
async def sdk(proxied: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=proxied, api_key="any", max_retries=0) as client:
        yield client


async def _asked(base: str, **body: object) -> _JSON:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{base}/chat/completions", json={"model": "demo", **body}) as response,
    ):
        answer: _JSON = await response.json()
        return {"status": response.status, **answer}


async def _content(base: str, *messages: _JSON) -> str:
    answer = await _asked(base, messages=messages)
    content: str = answer["choices"][0]["message"]["content"]
    return content


TOOLS: Final[Any] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("web_search", "get_weather")
]


@pytest.mark.parametrize("more", [{}, {"tools": TOOLS}, {"tools": TOOLS, "tool_choice": "auto"}])
async def test_an_sdk_gets_the_text_and_the_fields(
    sdk: openai.AsyncOpenAI, more: dict[str, Any]
) -> None:
    text, seen, finishes = "", [], []
    stream = await sdk.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        stream_options={"include_usage": True},
        **more,
    )
    async for chunk in stream:
        if status := getattr(chunk, "status", None):
            seen.append((chunk.tool, status, getattr(chunk, "isError", False)))
        for choice in chunk.choices:
            assert not choice.delta.tool_calls  # none that the client has to run
            text += choice.delta.content or ""
            finishes += [choice.finish_reason] if choice.finish_reason else []
    assert [(tool, "failed" if failed else status) for tool, status, failed in seen] == _CARDS
    assert text.endswith(ANSWER)
    assert finishes == ["stop"]
    assert chunk.usage is not None


async def test_an_sdk_that_does_not_stream(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": QUESTION}], tools=TOOLS
    )
    assert (whole.choices[0].message.content or "").endswith(ANSWER)
    assert whole.usage is not None
    assert [model.id async for model in sdk.models.list()] == ["demo"]
    assert (await sdk.models.retrieve("demo")).id == "demo"


async def test_the_sdk_helper_that_accumulates(sdk: openai.AsyncOpenAI) -> None:
    async with sdk.chat.completions.stream(
        model="demo", messages=[{"role": "user", "content": QUESTION}]
    ) as stream:
        final = await stream.get_final_completion()
    assert (final.choices[0].message.content or "").endswith(ANSWER)


async def test_another_question_and_a_second_turn_get_a_word_why_the_answer_is_the_same(
    backend: str,
) -> None:
    first = {"role": "user", "content": QUESTION}
    assert (await _content(backend, first)).endswith(ANSWER)
    parts = {"role": "user", "content": [{"type": "text", "text": QUESTION}, "?"]}
    assert (await _content(backend, parts)).endswith(ANSWER)
    answered = [first, {"role": "assistant", "content": ANSWER}, _USER]
    tool = {"role": "tool", "tool_call_id": "call_1", "content": "12 °C"}
    for messages in ([_USER], answered, [_USER, tool]):
        assert (await _content(backend, *messages)).endswith("this answer to every question.)")


async def test_open_webui_gets_cards_and_each_ends(proxied: str) -> None:
    body = {"model": "demo", "stream": True, "messages": [_USER], "tools": TOOLS}
    headers = {"X-OpenWebUI-User-Name": "A"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{proxied}/chat/completions", json=body) as response,
    ):
        events = [line[6:] for line in (await response.text()).splitlines() if "htp_" in line]
    items = [json.loads(event)["item"] for event in events]
    called = [item["call_id"] for item in items if item["type"] == "function_call"]
    ended = [item["call_id"] for item in items if item["type"] == "function_call_output"]
    assert len(set(called)) == 3
    assert sorted(called) == sorted(ended)


_TITLE: Final = "Garden party on Saturday"
_TASK: Final = "### Task:\nDo it.\n### Output:\nJSON format: "


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("role", "prompt", "answer"),
    [
        ("user", f'{_TASK}{{ "title": "x" }}', {"title": _TITLE}),
        ("user", f'{_TASK}{{ "tags": ["x"] }}', {"tags": ["Party", "Weather"]}),
        (
            "user",
            f'{_TASK}{{ "follow_ups": ["x"] }}',
            {"follow_ups": ["Who is coming?", "What if it rains?"]},
        ),
        ("user", f'{_TASK}{{ "queries": [] }}', {"queries": []}),
        ("user", f'{_TASK}`{{ "text": "" }}`', {"text": ""}),
        ("system", 'Available Tools: []\n{"tool_calls": []}', {"tool_calls": []}),
        ("user", "Your task is to … facial expression through a fitting emoji.", "🎉"),
        ("system", "You are a professional conversation summarizer. Generate a title.", _TITLE),
        (
            "system",
            'You are a professional conversation summarizer. A single "title" string.',
            {"title": _TITLE},
        ),
    ],
)
async def test_what_pages_ask_for_on_their_own_gets_a_short_answer(
    sdk: openai.AsyncOpenAI, *, role: str, prompt: str, answer: object, stream: bool
) -> None:
    messages: Any = [{"role": role, "content": prompt}]
    if role == "system":
        messages.append({"role": "user", "content": f"user: {QUESTION}\nassistant: {ANSWER}"})
    if stream:
        chunks = await sdk.chat.completions.create(model="demo", messages=messages, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
    else:
        whole = await sdk.chat.completions.create(model="demo", messages=messages)
        text = whole.choices[0].message.content or ""
    assert text == answer or json.loads(text) == answer


async def test_a_question_about_a_file_is_not_taken_for_such_a_request(backend: str) -> None:
    prompt = "### Task:\nRespond to the user query using the context. <source>titles</source>"
    assert ANSWER in await _content(backend, {"role": "system", "content": prompt}, _USER)


@pytest.mark.parametrize(
    "body", [{}, {"messages": 1}, {"messages": ["x"]}, {"messages": [{"content": "x"}]}]
)
async def test_a_request_that_is_not_one_gets_an_error_as_openai_has_it(
    backend: str, body: dict[str, object]
) -> None:
    answer = await _asked(backend, **body)
    assert answer["status"] == 400
    assert answer["error"]["type"] == "invalid_request_error"


async def test_other_paths_name_those_that_there_are(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="POST /v1/chat/completions"):
        await sdk.responses.create(model="demo", input="Hi")
